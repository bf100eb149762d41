"""ESPIRiT: coil sensitivity maps from the autocalibration region of k-space, by eigenvalues.

Uecker et al., MRM 71:990, 2014. Every patch of k-space of the size of a small kernel lies in a subspace that the
calibration matrix spans. Seen from image space, projecting onto that subspace acts on the coil vector of each voxel as
a small matrix H(r) with eigenvalues in [0, 1]; the sensitivities are its eigenvectors of eigenvalue one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.coils.eigen import Coarse, eigenvectors, reference_phase
from mrirecon.coils.registry import register_calibration
from mrirecon.errors import CalibrationError, SignalError, UsageError


def require_region(box: tuple[int, ...], kernel: int) -> None:
    """Refuse a calibration region that a kernel does not fit into, and say where maps can come from instead.

    Raises:
        CalibrationError: with both sizes.

    """
    if min(box) < kernel:
        raise CalibrationError(
            "the calibration region is too small for ESPIRiT" if min(box) else "there is no calibration region",
            why=f"its size is {'×'.join(map(str, box))}, the kernel needs {kernel} samples along each axis",
            fix="give maps with --maps FILE: of the vendor, or of a scan with the same coils by `mrirecon calibrate "
            "PRESCAN -o maps.h5`; or take a smaller kernel there; or combine the coils with --method rss, aliased",
        )


@dataclass(frozen=True)
class CoilMaps:
    """Sensitivities and how sure they are.

    Attributes:
        maps: (B, M, C, *space) complex; unit length over the coils where an object is, weighted to zero elsewhere.
        values: (B, M, *space) eigenvalues in [0, 1], largest set first: near one where the set is a true sensitivity.
        spectrum: (B, C, *coarse) all eigenvalues, largest first, on the coarse grid.

    """

    maps: Tensor
    values: Tensor
    spectrum: Tensor


@register_calibration("espirit", rank=1, label="ESPIRiT")
def uncropped_espirit(
    calibration: Tensor, space: tuple[int, ...], *, sets: int = 1, kernel: int = 6, threshold: float = 0.02
) -> CoilMaps:
    """Estimate maps as `espirit` does, of unit length everywhere: how they are cropped follows from their use."""
    return espirit(calibration, space, sets=sets, kernel=kernel, threshold=threshold, crop=0)


def espirit(
    calibration: Tensor,
    space: tuple[int, ...],
    *,
    sets: int = 1,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    soft: bool = True,
    coarse: int = 4,
    power_steps: int = 2,
) -> CoilMaps:
    """Estimate one or two sets of coil maps.

    Args:
        calibration: (B, C, *box) complex, the fully sampled centre of k-space.
        space: size of the maps along each spatial axis.
        sets: 1, or 2 where the object exceeds the field of view.
        kernel: side of the k-space kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.
        crop: eigenvalue below which a voxel is taken to be empty; 0 keeps all.
        soft: let the weight rise smoothly around ``crop`` instead of cutting there.
        coarse: the eigenvalue problem is solved on a grid coarser by this factor and refined at full resolution; on
            one coarser still where that has more points than the kernel's Fourier series needs. 1 solves every voxel.
        power_steps: power iterations at full resolution, from the interpolated solution.

    Returns:
        Maps whose phase is that of the first principal coil, so that it is smooth and the same for every caller.

    Raises:
        CalibrationError: the region is smaller than the kernel along an axis, or empty.
        SignalError: the region holds only zeros, or values that are not finite.
        UsageError: more sets than coils, or another number than one or two.

    """
    coils, box = calibration.shape[1], tuple(calibration.shape[2:])
    if sets not in (1, 2) or sets > coils:
        raise UsageError(
            f"cannot estimate {sets} sets of maps from {coils} coils", fix="ask for 1 set, or 2 of ≥ 2 coils"
        )
    require_region(box, kernel)
    if not bool(torch.isfinite(torch.view_as_real(calibration)).all()):
        raise SignalError("the calibration region holds NaN or infinite values", fix="look with `mrirecon info FILE`")
    scale = calibration.abs().flatten(1).amax(1)
    if bool((scale == 0).any()):
        raise SignalError("the calibration region holds only zeros", fix="look with `mrirecon info FILE`")
    calibration = calibration / scale.reshape(-1, *[1] * (calibration.ndim - 1))

    found = [
        _one(item, space, sets, min(kernel, *box), threshold, coarse, power_steps) for item in calibration.unbind(0)
    ]
    # A batch of one, the common case, is not copied.
    maps = torch.stack([m for m, _, _ in found]) if len(found) > 1 else found[0][0].unsqueeze(0)
    values, spectrum = (torch.stack(part) for part in list(zip(*found, strict=True))[1:])
    return CoilMaps(maps.mul_(crop_weights(values, crop, soft).unsqueeze(2)) if crop > 0 else maps, values, spectrum)


def _one(
    calibration: Tensor, space: tuple[int, ...], sets: int, kernel: int, threshold: float, coarse: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps (M, C, *space) of unit length, eigenvalues (M, *space) and all of them (C, *coarse) for one item."""
    taps = kernel_taps(calibration, kernel, threshold)
    # H(r) has the bandwidth of the kernel, whatever the size of the image.
    small = tuple(min(-(-n // coarse), _POINTS * kernel) for n in space) if coarse > 1 else space
    spectrum, vectors = eigenvectors(fourier_series(taps, small), sets)
    principal = principal_coil(calibration)
    vectors = reference_phase(vectors, principal)
    if small == space:
        return vectors, spectrum[:sets].clamp(0, 1), spectrum
    return *_refine(taps, vectors, spectrum, space, principal, steps), spectrum


def kernel_taps(calibration: Tensor, kernel: int, threshold: float, noise: float = 0.0) -> Tensor:
    """Return the k-space taps (C, C, 2k−1, …) whose Fourier series is H(r).

    Args:
        calibration: (C, *box) complex.
        kernel: side k of the kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.
        noise: so are those whose square is below this.

    """
    coils, ndim = calibration.shape[0], calibration.ndim - 1
    patches = calibration
    for axis in range(ndim):
        patches = patches.unfold(1 + axis, kernel, 1)
    # (C, positions…, k…) → (positions, C·k…)
    matrix = patches.movedim(0, ndim).reshape(-1, coils * kernel**ndim)
    power, vectors = _row_space(matrix)
    least = torch.clamp_min(threshold**2 * power[-1], noise)
    # Rows of the matrix are patches, so patches as columns lie in the span of the conjugate right singular vectors.
    kept = vectors[:, power > least].conj()
    projector = (kept @ kept.mH).reshape(coils, *[kernel] * ndim, coils, *[kernel] * ndim)
    projector = projector.movedim(ndim + 1, 1).flip(tuple(range(-ndim, 0)))  # (C, C, a…, −b…)
    taps = projector.new_zeros(coils, coils, *[2 * kernel - 1] * ndim)
    for a in torch.cartesian_prod(*[torch.arange(kernel)] * ndim).reshape(-1, ndim).tolist():
        place = [slice(None), slice(None), *(slice(i, i + kernel) for i in a)]
        taps[tuple(place)] += projector[:, :, *a]
    scaled: Tensor = taps / kernel**ndim
    return scaled


def _row_space(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared singular values, ascending, and the right singular vectors (columns) of a matrix.

    From the smaller of the two Gram matrices: a small calibration region has fewer patches than a patch has samples.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        power, vectors = torch.linalg.eigh(matrix.mH @ matrix)
        return power, vectors
    power, left = torch.linalg.eigh(matrix @ matrix.mH)
    # what is rounding alone is not kept by any threshold, and needs no more than not to be divided by zero
    size = power.clamp_min(torch.finfo(power.dtype).eps * power[-1]).sqrt()
    return power, matrix.mH @ left / size


def fourier_series(taps: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return H (C, C, *space): the Fourier series of the taps on a centred grid, one matrix product an axis."""
    for axis in range(len(space)):
        taps = torch.tensordot(taps, _waves(taps, axis=2, size=space[axis]), dims=([2], [0]))
    evaluated: Tensor = taps
    return evaluated  # each product takes the leading tap axis away and adds its grid axis last, so they end in order


def _waves(taps: Tensor, axis: int, size: int) -> Tensor:
    """Return exp(2πi d r / n), tap offset d × centred position r."""
    reach = taps.shape[axis] // 2
    order = torch.arange(-reach, reach + 1, device=taps.device, dtype=torch.float64)
    place = (torch.arange(size, device=taps.device, dtype=torch.float64) - size // 2) / size
    return torch.exp(2j * torch.pi * order[:, None] * place).to(taps.dtype)


def _refine(
    taps: Tensor, coarse: Tensor, spectrum: Tensor, space: tuple[int, ...], principal: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return maps (M, C, *space) and eigenvalues (M, *space) on the full grid from the solution on the coarse one.

    Slab by slab along the first axis, so that H stays in the cache and nothing but the result is held whole.
    """
    sets, coils = coarse.shape[:2]
    first = _waves(taps, axis=2, size=space[0]).T.contiguous()
    for n in space[1:]:  # each product moves its axis last, and the next tap axis to place 3
        taps = torch.tensordot(taps, _waves(taps, axis=3, size=n), dims=([3], [0]))
    slab = max(1, _SLAB // (coils**2 * max(1, taps[0, 0, 0].numel())))
    taps = taps.movedim(2, 0).contiguous()  # (taps, C, C, …)
    maps = coarse.new_empty(sets, coils, *space)
    values = maps.real.new_empty(sets, *space)
    known = Coarse(coarse, spectrum, space)
    for start in range(0, space[0], slab):
        rows = slice(start, min(start + slab, space[0]))
        h = (first[rows] @ taps.flatten(1)).reshape(-1, *taps.shape[1:]).movedim(0, 2)
        v, value = known.refined(h, rows, steps)
        maps[:, :, rows] = reference_phase(v, principal)
        values[:, rows] = value.clamp(0, 1)
    return maps, values


_POINTS = 7  # of the coarse grid along an axis, for every sample of the kernel
_SLAB = 2**19  # complex numbers of H at a time: 4 MiB, of which each of two threads has half in its cache


def principal_coil(calibration: Tensor) -> Tensor:
    """Return the unit coil combination (C,) that holds most of the calibration signal."""
    flat = calibration.flatten(1)
    principal: Tensor = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]
    # An eigenvector's own phase is arbitrary: fix it, so that the same data gives the same maps everywhere.
    largest = principal[principal.abs().argmax()]
    return principal * (largest.conj() / largest.abs())


PRIOR_POWER = (
    8.0  # of the eigenvalue: how likely there is signal; see `mrirecon.reconstruction.calibrate.ItemMaps.prior`
)


def crop_weights(values: Tensor, crop: float, soft: bool = True) -> Tensor:
    """Return the weight of each voxel by its eigenvalue: a cut at ``crop``, or a smooth rise around it."""
    if crop <= 0:
        return torch.ones_like(values)
    if not soft:
        return (values >= crop).to(values.dtype)
    width = min(0.1, 1 - crop) if crop < 1 else 1e-3
    t = ((values - (crop - width)) / (2 * width)).clamp(0, 1)
    return t * t * (3 - 2 * t)
