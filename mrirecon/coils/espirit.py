"""Estimate ESPIRiT coil sensitivity maps from the autocalibration region of k-space.

Uecker et al., MRM 71:990, 2014. Every patch of k-space of the size of a small kernel is in a subspace spanned by the
calibration matrix. In image space, the projection onto this subspace is a small matrix H(r) for the coil vector of each
voxel, with eigenvalues in [0, 1]; the sensitivities are its eigenvectors of eigenvalue one.

The file has three parts: the maps (`espirit`), the test whether a second set of maps is needed (`second_set_share`),
and the eigenvectors of H at every voxel, interpolated from a coarse grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.coils.registry import register_calibration
from mrirecon.errors import CalibrationError, SignalError, UsageError
from mrirecon.physics.operators import Fourier, root_sum_of_squares

PRIOR_POWER = (
    8.0  # exponent of the eigenvalue in the weight of a voxel; see `mrirecon.reconstruction.calibrate.ItemMaps`
)
# Share of the energy above which a second set is needed. Measured scans with a sufficient field of view have up to
# 0.00005 (calibration regions of 12 to 24 samples, with and without added noise, down to SNR 5). A simulated head as
# wide as the field of view has 0.0003, and a second set does not harm it; with every second line left out, it has
# 0.0006 to 0.02 (SNR of at least 15, regions of at least 24 × 12 samples). 12 × 12 samples are too few for a kernel
# of 6.
SECOND_SET_SHARE = 0.0001
_NOISE_MARGIN = 1.5  # factor on the largest power of white noise, because the noise of neighbouring coils is correlated
_POINTS = 7  # points of the coarse grid along an axis, per sample of the kernel
_SLAB = (
    2**19
)  # complex numbers of H to process at a time: 4 MiB, so that half of it fits into the cache of each of two threads
_SINE = 0.02  # largest sine of the angle between an eigenvector and its approximation
_COSINE = 0.5  # smallest cosine of the angle between neighbours on the coarse grid for interpolation
_OBJECT = 0.6  # eigenvalue below which there is no object, so that the vector does not matter
_GAP = 1e-3  # smallest difference of eigenvalues that float32 can resolve


def require_region(box: tuple[int, ...], kernel: int) -> None:
    """Refuse a calibration region that is too small for a kernel; the message lists other sources of maps.

    Raises:
        CalibrationError: the region is too small; the message has both sizes.

    """
    if min(box) < kernel:
        raise CalibrationError(
            "the calibration region is too small for ESPIRiT" if min(box) else "there is no calibration region",
            why=f"its size is {'×'.join(map(str, box))}, the kernel needs {kernel} samples along each axis",
            fix="give maps with --maps FILE: of the vendor, or of a scan with the same coils by `mrirecon calibrate "
            "PRESCAN -o maps.h5`; or take a smaller kernel there; or combine the coils with --method rss, aliased",
        )


def normalized(calibration: Tensor) -> Tensor:
    """Return calibration regions (B, C, *box) divided by their largest magnitudes.

    Raises:
        SignalError: a region holds only zeros, or NaN or infinite values.

    """
    if not bool(torch.isfinite(torch.view_as_real(calibration)).all()):
        raise SignalError(
            "the calibration region holds NaN or infinite values", fix="check the data with `mrirecon info FILE`"
        )
    scale = calibration.abs().flatten(1).amax(1)
    if bool((scale == 0).any()):
        raise SignalError("the calibration region holds only zeros", fix="check the data with `mrirecon info FILE`")
    return calibration / scale.reshape(-1, *[1] * (calibration.ndim - 1))


@dataclass(frozen=True)
class CoilMaps:
    """Hold coil sensitivities, and eigenvalues as a measure of their reliability.

    Attributes:
        maps: (B, M, C, *space) complex; unit length over the coils inside the object, weighted to zero outside.
        values: (B, M, *space) eigenvalues in [0, 1], largest set first: near one for a true sensitivity.
        spectrum: (B, C, *coarse) all eigenvalues, largest first, on the coarse grid.

    """

    maps: Tensor
    values: Tensor
    spectrum: Tensor


@register_calibration("espirit", rank=1, label="ESPIRiT")
def uncropped_espirit(
    calibration: Tensor, space: tuple[int, ...], *, sets: int = 1, kernel: int = 6, threshold: float = 0.02
) -> CoilMaps:
    """Estimate ESPIRiT maps without a crop, because each use of the maps crops them in a different way."""
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
        sets: 1, or 2 if the object exceeds the field of view.
        kernel: side of the k-space kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.
        crop: eigenvalue below which a voxel counts as empty; 0 keeps all voxels.
        soft: let the weight rise smoothly around ``crop`` instead of a hard crop.
        coarse: factor of the coarse grid on which the eigenvalue problem is solved before refinement at full
            resolution; the grid is still coarser if the Fourier series of the kernel allows it. 1 solves every voxel.
        power_steps: power iterations at full resolution, from the interpolated solution.

    Returns:
        Maps with the phase of the first principal coil, so that the phase is smooth and reproducible.

    Raises:
        CalibrationError: the region is smaller than the kernel along an axis, or empty.
        SignalError: the region holds only zeros, or NaN or infinite values.
        UsageError: more sets than coils, or a number of sets other than 1 or 2.

    """
    coils, box = calibration.shape[1], tuple(calibration.shape[2:])
    if sets not in (1, 2) or sets > coils:
        raise UsageError(
            f"cannot estimate {sets} sets of maps from {coils} coils", fix="use 1 set, or 2 sets for 2 coils or more"
        )
    require_region(box, kernel)
    calibration = normalized(calibration)
    items = [
        _one(item, space, sets, min(kernel, *box), threshold, coarse, power_steps) for item in calibration.unbind(0)
    ]
    # A batch of one, the usual case, is not copied.
    maps = torch.stack([m for m, _, _ in items]) if len(items) > 1 else items[0][0].unsqueeze(0)
    values, spectrum = (torch.stack(part) for part in list(zip(*items, strict=True))[1:])
    return CoilMaps(maps.mul_(crop_weights(values, crop, soft).unsqueeze(2)) if crop > 0 else maps, values, spectrum)


def _one(
    calibration: Tensor, space: tuple[int, ...], sets: int, kernel: int, threshold: float, coarse: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate unit-length maps (M, C, *space), their eigenvalues, and all eigenvalues (C, *coarse) of one item."""
    taps = kernel_taps(calibration, kernel, threshold)
    # The bandwidth of H(r) is that of the kernel, independent of the image size.
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
        noise: singular values with a square below this value are also noise.

    """
    coils, ndim = calibration.shape[0], calibration.ndim - 1
    patches = calibration
    for axis in range(ndim):
        patches = patches.unfold(1 + axis, kernel, 1)
    # (C, positions…, k…) → (positions, C·k…)
    matrix = patches.movedim(0, ndim).reshape(-1, coils * kernel**ndim)
    power, vectors = _row_space(matrix)
    least = torch.clamp_min(threshold**2 * power[-1], noise)
    # Rows of the matrix are patches; as columns, they are in the span of the conjugate right singular vectors.
    signal_vectors = vectors[:, power > least].conj()
    projector = (signal_vectors @ signal_vectors.mH).reshape(coils, *[kernel] * ndim, coils, *[kernel] * ndim)
    projector = projector.movedim(ndim + 1, 1).flip(tuple(range(-ndim, 0)))  # (C, C, a…, −b…)
    taps = projector.new_zeros(coils, coils, *[2 * kernel - 1] * ndim)
    for a in torch.cartesian_prod(*[torch.arange(kernel)] * ndim).reshape(-1, ndim).tolist():
        window = [slice(None), slice(None), *(slice(i, i + kernel) for i in a)]
        taps[tuple(window)] += projector[:, :, *a]
    scaled: Tensor = taps / kernel**ndim
    return scaled


def _row_space(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared singular values, ascending, and the right singular vectors (columns) of a matrix.

    They are computed from the smaller Gram matrix: a small calibration region has fewer patches than samples per patch.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        power, vectors = torch.linalg.eigh(matrix.mH @ matrix)
        return power, vectors
    power, left = torch.linalg.eigh(matrix @ matrix.mH)
    # Vectors of rounding errors are below every threshold; this only avoids a division by zero.
    size = power.clamp_min(torch.finfo(power.dtype).eps * power[-1]).sqrt()
    return power, matrix.mH @ left / size


def fourier_series(taps: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return H (C, C, *space): the Fourier series of the taps on a centred grid, by a matrix product for each axis."""
    for axis in range(len(space)):
        taps = torch.tensordot(taps, _waves(taps, axis=2, size=space[axis]), dims=([2], [0]))
    evaluated: Tensor = taps
    return (
        evaluated  # each product removes the leading tap axis and appends its grid axis, so the final order is correct
    )


def _waves(taps: Tensor, axis: int, size: int) -> Tensor:
    """Return the matrix exp(2πi d r / n) of tap offsets d and centred positions r."""
    reach = taps.shape[axis] // 2
    order = torch.arange(-reach, reach + 1, device=taps.device, dtype=torch.float64)
    position = (torch.arange(size, device=taps.device, dtype=torch.float64) - size // 2) / size
    return torch.exp(2j * torch.pi * order[:, None] * position).to(taps.dtype)


def _refine(
    taps: Tensor, coarse: Tensor, spectrum: Tensor, space: tuple[int, ...], principal: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Compute maps (M, C, *space) and eigenvalues (M, *space) on the full grid from the solution on the coarse grid.

    It works in slabs along the first axis, so that H stays in the cache and only the result needs full memory.
    """
    sets, coils = coarse.shape[:2]
    first = _waves(taps, axis=2, size=space[0]).T.contiguous()
    for n in space[1:]:  # each product moves its axis to the end, and the next tap axis to position 3
        taps = torch.tensordot(taps, _waves(taps, axis=3, size=n), dims=([3], [0]))
    slab = max(1, _SLAB // (coils**2 * max(1, taps[0, 0, 0].numel())))
    taps = taps.movedim(2, 0).contiguous()  # (taps, C, C, …)
    maps = coarse.new_empty(sets, coils, *space)
    values = maps.real.new_empty(sets, *space)
    known = CoarseEigenvectors(coarse, spectrum, space)
    for start in range(0, space[0], slab):
        rows = slice(start, min(start + slab, space[0]))
        h = (first[rows] @ taps.flatten(1)).reshape(-1, *taps.shape[1:]).movedim(0, 2)
        v, value = known.refined(h, rows, steps)
        maps[:, :, rows] = reference_phase(v, principal)
        values[:, rows] = value.clamp(0, 1)
    return maps, values


def principal_coil(calibration: Tensor) -> Tensor:
    """Return the unit coil combination (C,) with most of the calibration signal."""
    flat = calibration.flatten(1)
    principal: Tensor = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]
    # The phase of an eigenvector is arbitrary: fix it, so that maps are reproducible.
    largest = principal[principal.abs().argmax()]
    return principal * (largest.conj() / largest.abs())


def crop_weights(values: Tensor, crop: float, soft: bool = True) -> Tensor:
    """Return the weight of each voxel by its eigenvalue: a step at ``crop``, or a smooth rise around it."""
    if crop <= 0:
        return torch.ones_like(values)
    if not soft:
        return (values >= crop).to(values.dtype)
    width = min(0.1, 1 - crop) if crop < 1 else 1e-3
    t = ((values - (crop - width)) / (2 * width)).clamp(0, 1)
    return t * t * (3 - 2 * t)


# --- the number of sets ---


def second_set_share(
    calibration: Tensor, *, noise: Tensor | None = None, kernel: int = 6, threshold: float = 0.02
) -> Tensor:
    """Compute the share (B,) of the energy of the calibration images that only a second set of maps explains.

    If an object exceeds the field of view, it aliases: two positions share a voxel, and their coil images span two
    directions. H then has a second eigenvalue near one, and the images have energy along its eigenvector. The share
    requires both. Noise and the edges of a small region add energy to the second direction, but without an eigenvalue
    near one. Noise above the threshold raises all eigenvalues, but adds the same energy to the second and the third
    direction. So the share is Σ λ₂⁸ |⟨v₂, m⟩|² − λ₃⁸ |⟨v₃, m⟩|² divided by Σ |m|², with eigenpairs λ, v of H and
    low-resolution coil images m; the weights are those of the sets in a reconstruction. For two coils there is no third
    direction, and the share is 0.

    Args:
        calibration: (B, C, *box) complex, the fully sampled centre of k-space.
        noise: (B, C) standard deviation of the complex noise of each coil; None if it is not known.
        kernel: side of the k-space kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.

    """
    shares = torch.zeros(len(calibration))
    if calibration.shape[1] < 3:
        return shares
    box = tuple(calibration.shape[2:])
    for number, item in enumerate(calibration.unbind(0)):
        scale = float(item.abs().max())
        floor = 0.0 if noise is None else _NOISE_MARGIN * noise_power(noise[number] / scale, box, kernel)
        h = fourier_series(kernel_taps(item / scale, kernel, threshold, floor), box)
        values, vectors = eigenvectors(h, 3)
        images = low_resolution(item / scale, box)
        along = (vectors.conj() * images).sum(1).abs().square() * values[:3].clamp(0, 1) ** PRIOR_POWER
        energy = along.flatten(1).sum(1) / images.abs().square().sum()
        shares[number] = energy[1] - energy[2]
    return shares


def noise_power(deviation: Tensor, box: tuple[int, ...], kernel: int) -> float:
    """Return the largest squared singular value of a calibration matrix that holds only noise.

    For P rows and Q columns of independent noise it is σ² (√P + √Q)² (Marčenko and Pastur, Math. USSR Sb. 1:457, 1967).
    Here the rows are overlapping patches; measured values are within 9 % of this formula (2 to 32 coils, regions of 8
    to 32 samples). If one coil is louder than the others, the value of its own matrix can be larger, and is used.

    Args:
        deviation: (C,) standard deviation of the complex noise of each coil.
        box: size of the calibration region.
        kernel: side of the kernel.

    """
    power = deviation.double().square()
    rows, columns = math.prod(n - kernel + 1 for n in box), kernel ** len(box)
    all_coils, one_coil = ((math.sqrt(rows) + math.sqrt(coils * columns)) ** 2 for coils in (len(power), 1))
    return max(all_coils * float(power.mean()), one_coil * float(power.max()))


def low_resolution(calibration: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return the images (C, *grid) of the calibration region with a cosine window, which reduces ringing.

    A narrower window would blur the maps.
    """
    axes = tuple(range(-len(grid), 0))
    padded = calibration.new_zeros(len(calibration), *grid)
    inside = []
    for axis, (n, size) in enumerate(zip(calibration.shape[1:], grid, strict=True), start=1):
        position = torch.arange(1, n + 1, dtype=calibration.real.dtype, device=calibration.device) / (n + 1)
        window = torch.sin(torch.pi * position)
        calibration = calibration * window.reshape([-1 if a == axis else 1 for a in range(calibration.ndim)])
        size_kept = min(n, size)
        calibration = calibration.narrow(axis, n // 2 - size_kept // 2, size_kept)
        inside.append(slice(size // 2 - size_kept // 2, size // 2 - size_kept // 2 + size_kept))
    padded[(slice(None), *inside)] = calibration
    return Fourier(axes).adjoint(padded)


# --- the eigenvectors of H ---
#
# Where H varies slowly, its eigenvectors are interpolated and improved by power iterations. This fails if the order of
# two eigenvalues changes between two points of the coarse grid, if the reference phase jumps, or if eigenvalues are so
# close that power iterations do not separate them. The angle between neighbours on the coarse grid and the residual of
# the eigenvalue equation detect such voxels, and H is diagonalized there.


def eigenvectors(h: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Diagonalize H at every voxel.

    Args:
        h: (C, C, *space) Hermitian.
        count: number of eigenvectors to return.

    Returns:
        All eigenvalues (C, *space), largest first, and the first eigenvectors (count, C, *space).

    """
    values, vectors = torch.linalg.eigh(h.flatten(2).permute(2, 0, 1))
    chosen = vectors[..., -count:].flip(-1).permute(2, 1, 0)
    return values.flip(-1).T.unflatten(-1, h.shape[2:]), chosen.unflatten(-1, h.shape[2:])


class CoarseEigenvectors:
    """Interpolate eigenpairs from a coarse grid to the full grid.

    Both grids are centred on n // 2 and periodic, like the Fourier series H(r).

    Args:
        vectors: (M, C, *coarse) eigenvectors of the largest eigenvalues, with a phase as continuous as possible.
        spectrum: (C, *coarse) all eigenvalues, largest first.
        space: the full grid.

    """

    def __init__(self, vectors: Tensor, spectrum: Tensor, space: tuple[int, ...]) -> None:
        # Interpolate along all axes except the first; `refined` interpolates along the first.
        self.vectors = interpolate(vectors, (vectors.shape[2], *space[1:]), slice(None))
        self.space = space
        sets = len(vectors)
        unsafe = _far_apart(vectors, spectrum)
        following = spectrum[sets] if sets < len(spectrum) else torch.zeros_like(spectrum[0])
        for axis, n in enumerate(space):
            low, high, _ = _between(n, unsafe.shape[axis], vectors.device)
            unsafe = unsafe.index_select(axis, low)
            following = torch.maximum(following.index_select(axis, low), following.index_select(axis, high))
        self.unsafe = unsafe  # (*space): voxels where interpolation fails
        self.tracked = (
            following  # (*space): the largest eigenvalue without a map set, the maximum over the neighbouring points
        )

    def refined(self, h: Tensor, rows: slice, steps: int) -> tuple[Tensor, Tensor]:
        """Compute eigenvectors (M, C, rows, …) and eigenvalues (M, rows, …) on some rows of the full grid.

        Args:
            h: (C, C, rows, …), H on these rows.
            rows: indices along the first axis.
            steps: number of power iterations.

        """
        v = interpolate(self.vectors, self.space, rows)
        for _ in range(steps):
            v = _orthonormal(_multiply(h, v))
        v, value, hv = _ritz(v, _multiply(h, v))
        # ‖H v − λ v‖ divided by the distance to the other eigenvalues bounds the sine of the angle error. More
        # power iterations would not help: a component of a close eigenvalue has a small residual and decays slowly.
        wrong = root_sum_of_squares(hv - value.unsqueeze(1) * v, 1)
        allowed = _SINE * (value - self.tracked[rows]).clamp_min(_GAP)
        failed = self.unsafe[rows] | ((value > _OBJECT) & (wrong > allowed)).any(0)
        if bool(failed.any()):
            exact, vectors = eigenvectors(h[:, :, failed], len(v))
            v[:, :, failed], value[:, failed] = vectors, exact[: len(v)]
        return v, value


def _far_apart(vectors: Tensor, spectrum: Tensor) -> Tensor:
    """Return the cells (*coarse), indexed by their lowest corner, in which vectors cannot be interpolated.

    A cell is unsafe if a vector inside the object rotates by more than 60° along one of its edges. For two vectors, the
    spanned plane must be preserved: the frame at one end, projected onto that at the other end, must not be close to a
    reflection.
    """
    unsafe = torch.zeros(spectrum.shape[1:], dtype=torch.bool, device=vectors.device)
    axes = range(unsafe.ndim)
    for axis in axes:
        following = vectors.roll(-1, 2 + axis)
        present = torch.maximum(spectrum, spectrum.roll(-1, 1 + axis)) > _OBJECT
        first = _dot(vectors[0], following[0]).real
        far = present[0] & (first < _COSINE)
        if len(vectors) == 2:
            second = _dot(vectors[1], following[1]).real
            across = (_dot(vectors[0], following[1]) + _dot(vectors[1], following[0]).conj()).abs() / 2
            smallest = (first + second) / 2 - torch.sqrt(((first - second) / 2).square() + across.square())
            far |= present[1] & (smallest < _COSINE)
        for other in axes:
            if other != axis:
                far = far | far.roll(-1, other)
        unsafe |= far
    return unsafe


def interpolate(vectors: Tensor, space: tuple[int, ...], rows: slice) -> Tensor:
    """Interpolate (M, C, *coarse) linearly onto some rows of the full grid; both are periodic, centred on n // 2."""
    for axis, n in enumerate(space, start=2):
        chosen = rows if axis == 2 else slice(None)
        if n == vectors.shape[axis]:  # the grids are the same
            vectors = vectors if chosen == slice(None) else vectors[:, :, chosen]
            continue
        low, high, part = (t[chosen] for t in _between(n, vectors.shape[axis], vectors.device))
        part = part.to(vectors.real.dtype).reshape(-1, *[1] * (vectors.ndim - 1 - axis))
        a, b = vectors.index_select(axis, low), vectors.index_select(axis, high)
        vectors = a + part * (b - a)
    return vectors


def _between(n: int, small: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for n points the two neighbours on a coarse grid of ``small`` points, and the distance to the first."""
    position = (torch.arange(n, device=device) - n // 2) * (small / n) + small // 2
    low = position.floor()
    return low.long() % small, (low.long() + 1) % small, position - low


def _multiply(h: Tensor, v: Tensor) -> Tensor:
    """Compute H v at every voxel: (C, C, …), (M, C, …) ↦ (M, C, …)."""
    out = []
    for vector in v:
        total = h[:, 0] * vector[0]
        for c in range(1, h.shape[1]):
            total.addcmul_(h[:, c], vector[c])
        out.append(total)
    return torch.stack(out)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute ⟨a, b⟩ over the coils (axis 0) at every voxel."""
    return (a.conj() * b).sum(0)


def _unit(v: Tensor) -> Tensor:
    unit: Tensor = v * root_sum_of_squares(v, 0).clamp_min(torch.finfo(v.real.dtype).tiny).reciprocal()
    return unit


def _orthonormal(v: Tensor) -> Tensor:
    """Orthonormalize one or two coil vectors at every voxel (Gram–Schmidt)."""
    first = _unit(v[0])
    if v.shape[0] == 1:
        return first.unsqueeze(0)
    return torch.stack([first, _unit(v[1] - first * _dot(first, v[1]))])


def _ritz(v: Tensor, hv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best eigenpairs in the span of orthonormal v (Rayleigh–Ritz), largest first, and H times them."""
    if v.shape[0] == 1:
        return v, _dot(v[0], hv[0]).real.unsqueeze(0), hv
    a, d, b = _dot(v[0], hv[0]).real, _dot(v[1], hv[1]).real, _dot(v[0], hv[1])
    # Eigenpairs of the Hermitian [[a, b], [b*, d]] in closed form.
    gap = torch.sqrt(((a - d) / 2).square() + b.abs().square())
    angle = 0.5 * torch.atan2(b.abs(), (a - d) / 2)
    phase = torch.where(b.abs() > 0, b / b.abs().clamp_min(torch.finfo(a.dtype).tiny), torch.ones_like(b))
    cos, sin = angle.cos(), angle.sin() * phase

    def turned(x: Tensor) -> Tensor:
        return torch.stack([cos * x[0] + sin.conj() * x[1], cos * x[1] - sin * x[0]])

    return turned(v), torch.stack([(a + d) / 2 + gap, (a + d) / 2 - gap]), turned(hv)


def reference_phase(vectors: Tensor, principal: Tensor) -> Tensor:
    """Set the phase of every set (M, C, …) to that of the principal coil, except where this coil has no signal."""
    projection = torch.tensordot(principal.conj(), vectors, dims=([0], [1]))  # (M, …)
    size = projection.abs()
    turn = torch.where(size > 1e-6, projection.conj() / size.clamp_min(1e-6), torch.ones_like(projection))
    return vectors * turn.unsqueeze(1)
