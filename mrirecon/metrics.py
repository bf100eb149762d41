"""SSIM, PSNR and NMSE, and the one score that everything here is compared by.

The score of a slice, for a reference r and an image x, both as magnitudes in float64:

1. object: r > 5 % of its 99.8th percentile, closed by 2 pixels, holes filled (`object_mask`);
2. scale: one factor s = ⟨x, r⟩ / ⟨x, x⟩ over the object, then x ← s·x (`least_squares_scale`);
3. SSIM: the map as scikit-image computes it (7×7 uniform window, K₁ = 0.01, K₂ = 0.03, sample covariance, data range
   the maximum of r) of the whole images, nothing zeroed, averaged over the object without the 3 pixels at the border;
4. PSNR (dB, the same range) and NMSE = ‖x − r‖² / ‖r‖² over the object.

A volume (z, y, x) is scored slice by slice along z. What is undefined is None, with the reason; never NaN or infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from mrirecon.errors import InputError

Array = Tensor | np.ndarray
WINDOW = 7
METRICS = ("ssim", "psnr", "nmse")


def ssim_map(
    image: Tensor,
    reference: Tensor,
    data_range: float | Tensor,
    *,
    window: int = WINDOW,
    k1: float = 0.01,
    k2: float = 0.03,
) -> Tensor:
    """Return the structural similarity at every pixel whose window lies inside the image.

    Wang et al., IEEE TIP 13:600, 2004, as `skimage.metrics.structural_similarity` computes it by default. It has a
    finite gradient everywhere, at equal and at constant images too.

    Args:
        image: (..., y, x) real.
        reference: (..., y, x) real, the same shape.
        data_range: the span of values, one number or one an image (...).
        window: side of the uniform window, odd.
        k1: weight of the data range in the comparison of means.
        k2: weight of the data range in the comparison of variances.

    Returns:
        (..., y − window + 1, x − window + 1), in the precision of the input.

    Raises:
        InputError: shapes that differ, complex values, images smaller than the window, a range that is not positive.

    """
    _same(image, reference)
    if image.is_complex() or reference.is_complex():
        raise InputError("SSIM compares real images", why=f"{image.dtype} and {reference.dtype}", fix="take magnitudes")
    if window % 2 == 0 or window < 3 or min(image.shape[-2:]) < window:
        raise InputError(
            f"images of {tuple(image.shape[-2:])} are too small for SSIM",
            why=f"its window is {window}×{window}",
            fix="it takes an odd window of 3 or more, and at least as many pixels along each axis",
        )
    span = torch.as_tensor(data_range, dtype=image.dtype, device=image.device)
    if not bool((torch.isfinite(span) & (span > 0)).all()):
        raise InputError(
            "the data range of SSIM must be positive", why=f"it is {data_range}", fix="take the reference's maximum"
        )
    span = span[..., None, None] if span.ndim else span
    # Variances do not change when both images move by one number, and rounding errors shrink.
    anchor = reference.detach().mean((-2, -1), keepdim=True)
    x, y = image - anchor, reference - anchor
    mx, my, xx, yy, xy = _local_means(torch.stack([x, y, x * x, y * y, x * y]), window)
    unbiased = window**2 / (window**2 - 1)
    vx, vy, vxy = unbiased * (xx - mx * mx), unbiased * (yy - my * my), unbiased * (xy - mx * my)
    ux, uy = mx + anchor, my + anchor
    c1, c2 = (k1 * span) ** 2, (k2 * span) ** 2
    local: Tensor = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2))
    return local


def _local_means(x: Tensor, window: int) -> Tensor:
    """Return means over the windows that lie inside (..., y, x), axis by axis; no running sums, which lose digits."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = functional.avg_pool2d(functional.avg_pool2d(flat, (window, 1), stride=1), (1, window), stride=1)
    means: Tensor = flat.reshape(*x.shape[:-2], *flat.shape[-2:])
    return means


def ssim(image: Tensor, reference: Tensor, data_range: float | Tensor, *, region: Tensor | None = None) -> Tensor:
    """Return the mean structural similarity of each image (...): 1 for equal images.

    Args:
        image: (..., y, x) real.
        reference: (..., y, x) real.
        data_range: see `ssim_map`.
        region: (..., y, x) booleans; the map is averaged over it, except for the 3 pixels at the border, where
            windows would reach outside. All of the image by default.

    Raises:
        InputError: see `ssim_map`; a region without pixels inside the border.

    """
    values, edge = ssim_map(image, reference, data_range), WINDOW // 2
    return _average(values, None if region is None else region[..., edge:-edge, edge:-edge])


def psnr(image: Tensor, reference: Tensor, data_range: float | Tensor, *, region: Tensor | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (...) in dB: 10 log₁₀(range² / MSE), infinite for equal ones.

    Args:
        image: (..., y, x).
        reference: (..., y, x).
        data_range: the peak, one number or one an image (...).
        region: (..., y, x) booleans, the pixels that count.

    Raises:
        InputError: shapes that differ, an empty region.

    """
    _same(image, reference)
    error = _average((image - reference).abs().square(), region)
    return 10 * torch.log10(torch.as_tensor(data_range, dtype=error.dtype, device=error.device) ** 2 / error)


def nmse(image: Tensor, reference: Tensor, *, region: Tensor | None = None) -> Tensor:
    """Return ‖image − reference‖² / ‖reference‖² of each image (...).

    Args:
        image: (..., y, x).
        reference: (..., y, x).
        region: (..., y, x) booleans, the pixels that count.

    Raises:
        InputError: shapes that differ, an empty region, a reference that is zero in it.

    """
    _same(image, reference)
    power = _average(reference.abs().square(), region)
    if not bool((power > 0).all()):
        raise InputError("the NMSE against a zero reference is undefined", fix="leave out slices without signal")
    return _average((image - reference).abs().square(), region) / power


def object_mask(reference: Array) -> Tensor:
    """Return where the object is, (..., y, x) booleans: where the magnitude exceeds 5 % of its 99.8th percentile.

    Slice by slice; then closed by 2 pixels (a cross, twice) and holes filled. All false where the reference is zero.
    """
    values = magnitude(reference)
    slices = values.reshape(-1, *values.shape[-2:]).cpu().numpy()
    found = np.empty(slices.shape, dtype=bool)
    for i, r in enumerate(slices):
        inside = r > 0.05 * np.percentile(r, 99.8)
        # Closing reaches 2 pixels outside; without room for them it would erode an object that the image cuts off.
        closed = ndimage.binary_closing(np.pad(inside, 2), iterations=2)[2:-2, 2:-2]
        found[i] = ndimage.binary_fill_holes(inside | closed)
    return torch.from_numpy(found).reshape(values.shape).to(values.device)


def least_squares_scale(image: Array, reference: Array, region: Array) -> Tensor:
    """Return s that minimises ‖s·image − reference‖ over the region, for each image (...); 0 for an image that is 0.

    Args:
        image: (..., y, x); its magnitude counts.
        reference: (..., y, x); its magnitude counts.
        region: (..., y, x) booleans.

    """
    x, r = magnitude(image), magnitude(reference)
    _same(x, r)
    inside = (region if isinstance(region, Tensor) else torch.from_numpy(region.copy())).to(x.device)
    # By its maximum first: squares of tiny values would vanish.
    peak = (x * inside).amax((-2, -1))
    unit = x / torch.where(peak > 0, peak, 1.0)[..., None, None] * inside
    power = unit.square().sum((-2, -1))
    return torch.where(power > 0, (unit * r).sum((-2, -1)) / (power * peak), 0.0)


@dataclass(frozen=True)
class Score:
    """The one score; see the head of this file.

    Attributes:
        ssim: mean structural similarity inside the object.
        psnr: in dB.
        nmse: normalised squared error.
        scale: the factor that the image was multiplied with.
        reasons: by name, why something is None, or how many slices a mean leaves out.

    """

    ssim: float | None
    psnr: float | None
    nmse: float | None
    scale: float | None
    reasons: dict[str, str] = field(default_factory=dict)


def score(image: Array, reference: Array) -> Score:
    """Score one image; see the head of this file. A volume gets the mean over its slices.

    Args:
        image: (y, x) or (z, y, x), real or complex.
        reference: the same shape.

    Raises:
        InputError: shapes that differ; fewer than 7 pixels along an axis.

    """
    found = scores(image, reference)
    return found[0] if image.ndim == 2 else mean_score(found)


def scores(images: Array, reference: Array, *, region: Array | None = None) -> list[Score]:
    """Score every slice of (..., y, x), in the order of the leading axes.

    Args:
        images: (..., y, x), real or complex.
        reference: the same shape.
        region: the same shape, booleans: what counts in place of the object.

    Raises:
        InputError: see `score`.

    """
    _same(images, reference)
    if len(images.shape) < 2 or min(images.shape[-2:]) < WINDOW:
        raise InputError(
            f"images of shape {tuple(images.shape)} cannot be scored",
            why=f"SSIM looks at {WINDOW}×{WINDOW} pixels",
            fix=f"give (..., y, x) with at least {WINDOW} pixels along y and x",
        )
    if region is not None:
        _same(region, reference)
    found = []
    # Slice by slice, so that float64 takes no more memory however many there are.
    for at in np.ndindex(*images.shape[:-2]):
        # On the CPU: not every accelerator has float64.
        x, r = (magnitude(a[at].cpu() if isinstance(a, Tensor) else a[at]) for a in (images, reference))
        inside = None if region is None else magnitude(region[at]).cpu() > 0
        found.append(_score(x, r, inside))
    return found


def _score(x: Tensor, r: Tensor, region: Tensor | None = None) -> Score:
    for name, values in (("image", x), ("reference", r)):
        if not bool(torch.isfinite(values).all()):
            return _undefined(f"the {name} holds values that are not numbers")
    peak = float(r.amax())
    if peak == 0:
        return _undefined("the reference is zero")
    # At unit range, so that squares neither vanish nor overflow.
    r = r / peak
    region = object_mask(r) if region is None else region
    if not bool((region & (r > 0)).any()):
        return _undefined("the reference is zero where it counts")
    scale = float(least_squares_scale(x, r, region))
    if not math.isfinite(scale):
        return _undefined("the image is too faint to be scaled")
    x = x * scale
    reasons = {}
    similarity = noise = None
    edge = WINDOW // 2
    if bool(region[edge:-edge, edge:-edge].any()):
        similarity = float(ssim(x, r, 1.0, region=region))
    else:
        reasons["ssim"] = f"what counts lies within {edge} pixels of the border"
    error = float(_average((x - r).square(), region))
    if error > (4 * torch.finfo(torch.float64).eps) ** 2:
        noise = -10 * math.log10(error)
    else:
        reasons["psnr"] = "the images are equal: the PSNR is infinite"
    return Score(similarity, noise, float(nmse(x, r, region=region)), scale * peak, reasons)


def _undefined(reason: str) -> Score:
    return Score(None, None, None, None, dict.fromkeys((*METRICS, "scale"), reason))


def mean_score(found: Sequence[Score]) -> Score:
    """Return the mean of each metric over the slices where it is defined; `reasons` counts those where it is not."""
    means: dict[str, float | None] = {}
    reasons = {}
    for name in (*METRICS, "scale"):
        values = [getattr(s, name) for s in found]
        defined = [v for v in values if v is not None]
        means[name] = math.fsum(defined) / len(defined) if defined else None
        if len(defined) < len(values):
            first = next(s.reasons[name] for s in found if getattr(s, name) is None)
            reasons[name] = f"undefined in {len(values) - len(defined)} of {len(values)} slices: {first}"
    return Score(means["ssim"], means["psnr"], means["nmse"], means["scale"], reasons)


def _average(values: Tensor, region: Tensor | None) -> Tensor:
    """Return the mean over the last two axes, of the pixels in the region."""
    if region is None:
        return values.mean((-2, -1))
    count = region.expand(values.shape).sum((-2, -1))
    if not bool((count > 0).all()):
        raise InputError("the region to average over is empty", fix="leave out slices without an object")
    return torch.where(region, values, 0.0).sum((-2, -1)) / count


def magnitude(values: Array) -> Tensor:
    """Return the magnitude of (...), a real or complex array or tensor, as a float64 tensor."""
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.abs(values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)))
    return values.detach().to(torch.complex128 if values.is_complex() else torch.float64).abs()


def _same(image: Array, reference: Array) -> None:
    if image.shape != reference.shape:
        raise InputError(
            "the image and the reference differ in shape",
            why=f"{tuple(image.shape)} and {tuple(reference.shape)}",
            fix="compare images of the same scan, at the same size",
        )
