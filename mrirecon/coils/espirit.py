"""ESPIRiT: coil sensitivity maps from the autocalibration region of k-space, by eigenvalues.

Uecker et al., MRM 71:990, 2014. Every patch of k-space of the size of a small kernel lies in a subspace that the
calibration matrix spans. Seen from image space, projecting onto that subspace acts on the coil vector of each voxel as
a small matrix H(r) with eigenvalues in [0, 1]; the sensitivities are its eigenvectors of eigenvalue one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.errors import CalibrationError, SignalError, UsageError
from mrirecon.operators import root_sum_of_squares


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

    def folded(self) -> Tensor:
        """Return of what share of the object (B,) a second set of maps would be true: the object exceeds the field.

        There the second eigenvalue is near one, and the third is not. Where noise was taken for signal all of them are
        high, and the first is near one even where no object is: then, and with fewer than three coils, it is 0.
        """
        first = (self.spectrum[:, 0] > _TRUE).flatten(1)
        if self.spectrum.shape[1] < 3:
            return torch.zeros(len(first))
        twice = first & ((self.spectrum[:, 1] > _TRUE) & (self.spectrum[:, 2] < _FALSE)).flatten(1)
        share = twice.sum(1) / first.sum(1).clamp_min(1)
        return torch.where(first.float().mean(1) < _EVERYWHERE, share, 0)


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
        coarse: the eigenvalue problem is solved on a grid coarser by this factor and refined at full resolution.
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
    if min(box) < kernel:
        raise CalibrationError(
            "the calibration region is too small for ESPIRiT" if min(box) else "there is no calibration region",
            why=f"its size is {'×'.join(map(str, box))}, the kernel needs {kernel} samples along each axis",
            fix="give maps from a file (--maps FILE), reconstruct with --method rss, or use a smaller kernel",
        )
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
    taps = _taps(calibration, kernel, threshold)
    small = tuple(-(-n // coarse) for n in space)
    h = _evaluate(taps, small)
    all_values, all_vectors = torch.linalg.eigh(h.flatten(2).permute(2, 0, 1))
    spectrum = all_values.flip(-1).T.unflatten(-1, small)
    vectors = all_vectors[..., -sets:].flip(-1).permute(2, 1, 0).unflatten(-1, small)  # (M, C, *small)
    principal = principal_coil(calibration)
    return *_refine(taps, reference_phase(vectors, principal), space, principal, steps), spectrum


def _taps(calibration: Tensor, kernel: int, threshold: float) -> Tensor:
    """Return the k-space taps (C, C, 2k−1, …) whose Fourier series is H(r)."""
    coils, ndim = calibration.shape[0], calibration.ndim - 1
    patches = calibration
    for axis in range(ndim):
        patches = patches.unfold(1 + axis, kernel, 1)
    # (C, positions…, k…) → (positions, C·k…)
    matrix = patches.movedim(0, ndim).reshape(-1, coils * kernel**ndim)
    power, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    # Rows of the matrix are patches, so patches as columns lie in the span of the conjugate right singular vectors.
    kept = vectors[:, power > threshold**2 * power[-1]].conj()
    projector = (kept @ kept.mH).reshape(coils, *[kernel] * ndim, coils, *[kernel] * ndim)
    projector = projector.movedim(ndim + 1, 1).flip(tuple(range(-ndim, 0)))  # (C, C, a…, −b…)
    taps = projector.new_zeros(coils, coils, *[2 * kernel - 1] * ndim)
    for a in torch.cartesian_prod(*[torch.arange(kernel)] * ndim).reshape(-1, ndim).tolist():
        taps[(..., *(slice(i, i + kernel) for i in a))] += projector[(slice(None), slice(None), *a)]
    scaled: Tensor = taps / kernel**ndim
    return scaled


def _evaluate(taps: Tensor, space: tuple[int, ...]) -> Tensor:
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


def interpolate(vectors: Tensor, space: tuple[int, ...], rows: slice) -> Tensor:
    """Interpolate (M, C, *coarse) linearly onto some rows of the full grid *space; both are centred on n // 2."""
    for axis, n in enumerate(space, start=2):
        small = vectors.shape[axis]
        wanted = torch.arange(n, device=vectors.device)[rows if axis == 2 else slice(None)]
        place = (wanted - n // 2) * (small / n) + small // 2
        low = place.floor().clamp(0, small - 1).long()
        high = (low + 1).clamp(max=small - 1)
        part = (place - low).clamp(0, 1).to(vectors.real.dtype).reshape(-1, *[1] * (vectors.ndim - 1 - axis))
        a, b = vectors.index_select(axis, low), vectors.index_select(axis, high)
        vectors = a + part * (b - a)
    return vectors


def _refine(
    taps: Tensor, coarse: Tensor, space: tuple[int, ...], principal: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Return maps (M, C, *space) and eigenvalues (M, *space) by power iterations from the coarse solution.

    Slab by slab along the first axis, so that H stays in the cache and nothing but the result is held whole.
    """
    sets, coils = coarse.shape[:2]
    first = _waves(taps, axis=2, size=space[0])
    for n in space[1:]:  # each product moves its axis last, and the next tap axis to place 3
        taps = torch.tensordot(taps, _waves(taps, axis=3, size=n), dims=([3], [0]))
    slab = max(1, _SLAB // (coils**2 * max(1, taps[0, 0, 0].numel())))
    maps = coarse.new_empty(sets, coils, *space)
    values = maps.real.new_empty(sets, *space)
    for start in range(0, space[0], slab):
        rows = slice(start, min(start + slab, space[0]))
        h = torch.tensordot(first[:, rows].T.contiguous(), taps, dims=([1], [2])).movedim(0, 2)
        v = interpolate(coarse, space, rows)
        for _ in range(steps):
            v = _orthonormal(_multiply(h, v))
        v, value = _ritz(v, _multiply(h, v))
        maps[:, :, rows] = reference_phase(v, principal)
        values[:, rows] = value.clamp(0, 1)
    return maps, values


_SLAB = 2**18  # complex numbers of H at a time: 2 MiB


def _multiply(h: Tensor, v: Tensor) -> Tensor:
    """Return H v at every voxel: (C, C, …), (M, C, …) ↦ (M, C, …)."""
    out = []
    for one in v:
        total = h[:, 0] * one[0]
        for c in range(1, h.shape[1]):
            total.addcmul_(h[:, c], one[c])
        out.append(total)
    return torch.stack(out)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ over the coils (axis 0) at every voxel."""
    return (a.conj() * b).sum(0)


def _unit(v: Tensor) -> Tensor:
    unit: Tensor = v / root_sum_of_squares(v, 0).clamp_min(torch.finfo(v.real.dtype).tiny)
    return unit


def _orthonormal(v: Tensor) -> Tensor:
    """Return one or two orthonormal coil vectors at every voxel (Gram–Schmidt)."""
    first = _unit(v[0])
    if v.shape[0] == 1:
        return first.unsqueeze(0)
    return torch.stack([first, _unit(v[1] - first * _dot(first, v[1]))])


def _ritz(v: Tensor, hv: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best eigenpairs within the span of orthonormal v, largest eigenvalue first (Rayleigh–Ritz)."""
    if v.shape[0] == 1:
        return v, _dot(v[0], hv[0]).real.unsqueeze(0)
    a, d, b = _dot(v[0], hv[0]).real, _dot(v[1], hv[1]).real, _dot(v[0], hv[1])
    # Eigenpairs of the Hermitian [[a, b], [b*, d]] in closed form.
    gap = torch.sqrt(((a - d) / 2).square() + b.abs().square())
    angle = 0.5 * torch.atan2(b.abs(), (a - d) / 2)
    phase = torch.where(b.abs() > 0, b / b.abs().clamp_min(torch.finfo(a.dtype).tiny), torch.ones_like(b))
    cos, sin = angle.cos(), angle.sin()
    top = cos * v[0] + sin * phase.conj() * v[1]
    low = -sin * phase * v[0] + cos * v[1]
    return torch.stack([top, low]), torch.stack([(a + d) / 2 + gap, (a + d) / 2 - gap])


def principal_coil(calibration: Tensor) -> Tensor:
    """Return the unit coil combination (C,) that holds most of the calibration signal."""
    flat = calibration.flatten(1)
    principal: Tensor = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]
    # An eigenvector's own phase is arbitrary: fix it, so that the same data gives the same maps everywhere.
    largest = principal[principal.abs().argmax()]
    return principal * (largest.conj() / largest.abs())


def reference_phase(vectors: Tensor, principal: Tensor) -> Tensor:
    """Turn the phase of every set (M, C, …) to that of the first principal coil; leave it where that coil is blind."""
    seen = torch.tensordot(principal.conj(), vectors, dims=([0], [1]))  # (M, …)
    size = seen.abs()
    turn = torch.where(size > 1e-6, seen.conj() / size.clamp_min(1e-6), torch.ones_like(seen))
    return vectors * turn.unsqueeze(1)


_TRUE, _FALSE = 0.9, 0.8  # an eigenvalue of a true sensitivity, at least, and of none, at most
_EVERYWHERE = 0.98  # share of the field of view
PRIOR_POWER = 8.0  # of the eigenvalue: how likely there is signal; see `mrirecon.calibrate.ItemMaps.prior`


def crop_weights(values: Tensor, crop: float, soft: bool = True) -> Tensor:
    """Return the weight of each voxel by its eigenvalue: a cut at ``crop``, or a smooth rise around it."""
    if crop <= 0:
        return torch.ones_like(values)
    if not soft:
        return (values >= crop).to(values.dtype)
    width = min(0.1, 1 - crop) if crop < 1 else 1e-3
    t = ((values - (crop - width)) / (2 * width)).clamp(0, 1)
    return t * t * (3 - 2 * t)
