"""Compute the structural similarity (SSIM) as scikit-image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import average, require_same_shape
from mrirecon.metrics.registry import register_metric

WINDOW = 7  # pixels, side of the uniform window
K1, K2 = 0.01, 0.03  # weights of the data range in the comparison of means and of variances


def ssim_map(image: Tensor, reference: Tensor, data_range: float | Tensor) -> Tensor:
    """Return the structural similarity at every pixel whose window lies inside the image.

    Wang et al., IEEE TIP 13:600, 2004, as `skimage.metrics.structural_similarity` computes it by default. Its gradient
    is finite everywhere, also for equal and constant images.

    Args:
        image: (..., y, x) real.
        reference: (..., y, x) real, the same shape.
        data_range: range of values, one number or one per image (...).

    Returns:
        (..., y − 6, x − 6), in the precision of the input.

    Raises:
        InputError: the shapes differ, values are complex, images are smaller than the window, or the range is not
            positive.

    """
    require_same_shape(image, reference)
    if image.is_complex() or reference.is_complex():
        raise InputError("SSIM needs real images", why=f"{image.dtype} and {reference.dtype}", fix="take magnitudes")
    if min(image.shape[-2:]) < WINDOW:
        raise InputError(
            f"images of {tuple(image.shape[-2:])} are too small for SSIM",
            why=f"its window is {WINDOW}×{WINDOW}",
            fix="use images of at least this size",
        )
    span = torch.as_tensor(data_range, dtype=image.dtype, device=image.device)
    if not bool((torch.isfinite(span) & (span > 0)).all()):
        raise InputError(
            "the data range of SSIM must be positive", why=f"it is {data_range}", fix="take the reference's maximum"
        )
    span = span[..., None, None] if span.ndim else span
    # Subtracting the same number from both images does not change variances and reduces rounding errors.
    anchor = reference.detach().mean((-2, -1), keepdim=True)
    x, y = image - anchor, reference - anchor
    mx, my, xx, yy, xy = _local_means(torch.stack([x, y, x * x, y * y, x * y]))
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    vx, vy, vxy = unbiased * (xx - mx * mx), unbiased * (yy - my * my), unbiased * (xy - mx * my)
    ux, uy = mx + anchor, my + anchor
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    local: Tensor = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))
    return local


def _local_means(x: Tensor) -> Tensor:
    """Return means over all windows inside (..., y, x), axis by axis, without running sums, which lose precision."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = functional.avg_pool2d(functional.avg_pool2d(flat, (WINDOW, 1), stride=1), (1, WINDOW), stride=1)
    means: Tensor = flat.reshape(*x.shape[:-2], *flat.shape[-2:])
    return means


@register_metric(
    rank=1,
    label="SSIM",
    higher=True,
    digits=4,
    scope="score",
    about="structural similarity (Wang et al., 2004; 7×7 uniform window, K₁ = 0.01, K₂ = 0.03); 1 for equal images",
)
def ssim(
    image: Tensor, reference: Tensor, data_range: float | Tensor | None = None, *, region: Tensor | None = None
) -> Tensor:
    """Return the mean structural similarity of each image (...): 1 for equal images.

    Args:
        image: (..., y, x) real.
        reference: (..., y, x) real.
        data_range: see `ssim_map`; by default, the maximum of each reference.
        region: (..., y, x) booleans; the map is averaged over it, except for the 3 pixels at the border, whose windows
            extend outside. By default, the whole image.

    Raises:
        InputError: see `ssim_map`; or the region has no pixels inside the border.

    """
    if data_range is None:
        data_range = reference.amax((-2, -1))
    values, edge = ssim_map(image, reference, data_range), WINDOW // 2
    return average(values, None if region is None else region[..., edge:-edge, edge:-edge])
