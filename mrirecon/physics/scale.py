"""Estimate the scale and the smooth phase of an image, which are removed before the networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrirecon.errors import SignalError
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.precision import full_precision


@full_precision
def smooth_phase(image: Tensor, axes: tuple[int, ...], width: int = 64) -> Tensor:
    """Return exp(iφ), with φ the phase of the image low-passed by a Hann window.

    Args:
        image: (B, M, *space) complex.
        axes: spatial axes, counted from the end.
        width: width of the window in samples at the centre of k-space.

    Returns:
        (B, M, *space) complex of magnitude 1.

    """
    k = Fourier(axes)(image)
    for axis in axes:
        n = image.shape[axis]
        distance = (torch.arange(n, device=image.device) - n // 2).abs().to(image.real.dtype) / (width / 2)
        window = torch.where(distance < 1, (math.pi / 2 * distance).cos().square(), 0)
        k = k * window.reshape(-1, *[1] * (-axis - 1))
    return torch.sgn(Fourier(axes).adjoint(k))


@full_precision
def percentile_scale(image: Tensor, fraction: float = 0.99) -> Tensor:
    """Return the ``fraction`` quantile of the magnitude of each item (B,), with sets of maps combined.

    Args:
        image: (B, M, *space) complex.
        fraction: fraction of the voxels below the quantile.

    Raises:
        SignalError: the quantile of an item is zero or not a number.

    """
    magnitude = root_sum_of_squares(image.detach(), 1).flatten(1)
    count = magnitude.shape[1]
    scale = magnitude.kthvalue(max(1, min(count, round(fraction * count))), dim=1).values
    # The quantile is zero for an image that is mostly empty, such as a point source.
    scale = torch.where(scale > 0, scale, magnitude.amax(1))
    bad = ~(torch.isfinite(scale) & (scale > 0))
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise SignalError(
            "no signal to reconstruct" if bool(scale[index] == 0) else "the data contain NaN or infinity",
            where=f"item {index} of the batch",
            why=f"the 99th percentile of the zero-filled image is {scale[index].item()}",
            fix="check the k-space and the mask with `mrirecon info FILE`",
        )
    return scale
