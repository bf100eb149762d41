"""Estimate adaptive coil maps: eigenvectors of the local covariance of low-resolution coil images.

Walsh, Gmitro and Marcellin, MRM 43:682, 2000. In a small block, the signal of the coil images m(r) = S(r) x(r) + n
spans one direction, that of the sensitivities, and noise spans all directions. The eigenvector of Σ m mᴴ with the
largest eigenvalue is the matched filter that combines the coils with the best SNR. The images are from the calibration
region, so a fully sampled centre is needed. Noise should be white (`mrirecon.coils.whitening`); otherwise the noise of
the loudest coil counts as signal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.coils.espirit import interpolate, low_resolution, normalized, principal_coil, reference_phase
from mrirecon.coils.registry import register_calibration
from mrirecon.errors import CalibrationError
from mrirecon.physics.operators import root_sum_of_squares

FEWEST = 4  # fewest samples along an axis that show a coil profile
_FINER = 2  # points of the coarse grid per sample of the calibration region, whose images do not vary faster
_AT_A_TIME = 4096  # number of eigenvalue problems at a time


@register_calibration(rank=2, label="adaptive (Walsh)")
def walsh(calibration: Tensor, space: tuple[int, ...], *, block: int = 3) -> Tensor:
    """Estimate adaptive coil maps.

    Args:
        calibration: (B, C, *box) complex, the fully sampled centre of k-space.
        space: size of the maps along each spatial axis.
        block: side of the block for the covariance, in points of the coarse grid (two per sample of the region).

    Returns:
        (B, 1, C, *space) complex, of unit length over the coils everywhere, like ESPIRiT maps before the crop; the
        phase is that of the first principal coil.

    Raises:
        CalibrationError: the region is empty, or narrower than four samples.
        SignalError: the region holds only zeros, or NaN or infinite values.

    """
    box = tuple(calibration.shape[2:])
    if min(box) < FEWEST:
        raise CalibrationError(
            "the calibration region is too small for adaptive maps" if min(box) else "there is no calibration region",
            why=f"its size is {'×'.join(map(str, box))}, {FEWEST} samples are needed along each axis",
            fix="give maps from a file (--maps FILE), or reconstruct with --method rss",
        )
    calibration = normalized(calibration)
    return torch.stack([_one(item, space, block) for item in calibration.unbind(0)])


def _one(calibration: Tensor, space: tuple[int, ...], block: int) -> Tensor:
    """Estimate maps (1, C, *space) of one item."""
    images = low_resolution(
        calibration, tuple(min(n, _FINER * b) for n, b in zip(space, calibration.shape[1:], strict=True))
    )
    coils, grid = len(images), images.shape[1:]
    summed = _block_sum((images.unsqueeze(1) * images.conj().unsqueeze(0)).flatten(0, 1), block)
    covariance = summed.reshape(coils, coils, -1).permute(2, 0, 1)
    vectors = torch.cat([torch.linalg.eigh(part).eigenvectors[..., -1] for part in torch.split(covariance, _AT_A_TIME)])
    principal = principal_coil(calibration)
    coarse = reference_phase(vectors.T.reshape(1, coils, *grid), principal)
    maps = interpolate(coarse, space, slice(None))
    # Interpolation shortens unit vectors.
    length = root_sum_of_squares(maps, 1, keepdim=True)
    return reference_phase(maps / length.clamp_min(torch.finfo(length.dtype).tiny), principal)


def _block_sum(values: Tensor, block: int) -> Tensor:
    """Sum (N, *grid) over a block around every point of a periodic field of view."""
    for axis in range(1, values.ndim):
        width = min(block, values.shape[axis])
        values = sum((values.roll(shift - width // 2, axis) for shift in range(width)), torch.zeros_like(values))
    return values
