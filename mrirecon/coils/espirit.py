"""ESPIRiT: coil sensitivity maps from the autocalibration region of k-space, by eigenvalues.

Uecker et al., MRM 71:990, 2014. Every patch of k-space of the size of a small kernel lies in a subspace that the
calibration matrix spans. Seen from image space, projecting onto that subspace acts on the coil vector of each voxel as
a small matrix H(r) with eigenvalues in [0, 1]; the sensitivities are its eigenvectors of eigenvalue one.

The file has three parts: the maps (`espirit`), the number of sets that the calibration data ask for
(`second_set_share`), and the eigenvectors of H at every voxel, interpolated from a coarse grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.coils.registry import register_calibration
from mrirecon.errors import CalibrationError, SignalError, UsageError
from mrirecon.physics.operators import Fourier, root_sum_of_squares

PRIOR_POWER = 8.0  # of the eigenvalue, for the weight of signal; see `mrirecon.reconstruction.calibrate.ItemMaps`
# Share of the energy above which a second set is needed. Measured scans whose field of view is large enough reach
# 0.00005 (calibration regions of 12 to 24 samples, as measured and with noise added down to SNR 5); a simulated head as
# wide as its field of view reaches 0.0003, where a second set does no harm; with every second line left out it reaches
# 0.0006 to 0.02 (SNR 15 or more, regions of 24 × 12 samples or more). 12 × 12 samples are too few for a kernel of 6.
SECOND_SET_SHARE = 0.0001
_NOISE_MARGIN = 1.5  # on the largest power of white noise, because the noise of neighbouring coils is correlated
_POINTS = 7  # of the coarse grid along an axis, for every sample of the kernel
_SLAB = 2**19  # complex numbers of H at a time: 4 MiB, of which each of two threads has half in its cache
_SINE = 0.02  # largest sine of the angle between an eigenvector and what is returned for it
_COSINE = 0.5  # least cosine of the angle between neighbours on the coarse grid, for a vector between them to be used
_OBJECT = 0.6  # eigenvalue below which there is no object, and any vector will do
_GAP = 1e-3  # between eigenvalues: what separates them better than float32 can tell


def require_region(box: tuple[int, ...], kernel: int) -> None:
    """Refuse a calibration region that is too small for a kernel, and say where maps can come from instead.

    Raises:
        CalibrationError: the region is too small; the error gives both sizes.

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
        SignalError: a region holds only zeros, or values that are not finite.

    """
    if not bool(torch.isfinite(torch.view_as_real(calibration)).all()):
        raise SignalError("the calibration region holds NaN or infinite values", fix="look with `mrirecon info FILE`")
    scale = calibration.abs().flatten(1).amax(1)
    if bool((scale == 0).any()):
        raise SignalError("the calibration region holds only zeros", fix="look with `mrirecon info FILE`")
    return calibration / scale.reshape(-1, *[1] * (calibration.ndim - 1))


@dataclass(frozen=True)
class CoilMaps:
    """Coil sensitivities with the eigenvalues that say how reliable they are.

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
    """Estimate maps as `espirit` does, without a crop: each use of the maps crops them in its own way."""
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
    calibration = normalized(calibration)
    items = [
        _one(item, space, sets, min(kernel, *box), threshold, coarse, power_steps) for item in calibration.unbind(0)
    ]
    # A batch of one, the common case, is not copied.
    maps = torch.stack([m for m, _, _ in items]) if len(items) > 1 else items[0][0].unsqueeze(0)
    values, spectrum = (torch.stack(part) for part in list(zip(*items, strict=True))[1:])
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
        noise: singular values whose square is below this are noise, too.

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
    # No threshold keeps vectors of rounding errors; they only must not be divided by zero.
    size = power.clamp_min(torch.finfo(power.dtype).eps * power[-1]).sqrt()
    return power, matrix.mH @ left / size


def fourier_series(taps: Tensor, space: tuple[int, ...]) -> Tensor:
    """Return H (C, C, *space): the Fourier series of the taps on a centred grid, one matrix product an axis."""
    for axis in range(len(space)):
        taps = torch.tensordot(taps, _waves(taps, axis=2, size=space[axis]), dims=([2], [0]))
    evaluated: Tensor = taps
    return evaluated  # each product removes the leading tap axis and appends its grid axis, so they end in order


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
    known = CoarseEigenvectors(coarse, spectrum, space)
    for start in range(0, space[0], slab):
        rows = slice(start, min(start + slab, space[0]))
        h = (first[rows] @ taps.flatten(1)).reshape(-1, *taps.shape[1:]).movedim(0, 2)
        v, value = known.refined(h, rows, steps)
        maps[:, :, rows] = reference_phase(v, principal)
        values[:, rows] = value.clamp(0, 1)
    return maps, values


def principal_coil(calibration: Tensor) -> Tensor:
    """Return the unit coil combination (C,) that holds most of the calibration signal."""
    flat = calibration.flatten(1)
    principal: Tensor = torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]
    # An eigenvector's own phase is arbitrary: fix it, so that the same data gives the same maps everywhere.
    largest = principal[principal.abs().argmax()]
    return principal * (largest.conj() / largest.abs())


def crop_weights(values: Tensor, crop: float, soft: bool = True) -> Tensor:
    """Return the weight of each voxel by its eigenvalue: a cut at ``crop``, or a smooth rise around it."""
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
    """Return the share (B,) of the energy of the calibration images that only a second set of maps explains.

    Where an object exceeds the field of view and folds onto itself, two places share a voxel, and the coil images there
    span two directions: H has a second eigenvalue near one, and the images have energy along its eigenvector. The share
    asks for both. Noise and the edges of a small region put energy into the second direction, but give it no eigenvalue
    near one; noise that passes for signal raises all eigenvalues, but puts no more energy into the second direction
    than into the third. So it is Σ λ₂⁸ |⟨v₂, m⟩|² − λ₃⁸ |⟨v₃, m⟩|² over Σ |m|², with eigenpairs λ, v of H and
    low-resolution coil images m; the weights are those of the sets in a reconstruction. Two coils span no third
    direction to compare with: their share is 0.

    Args:
        calibration: (B, C, *box) complex, the fully sampled centre of k-space.
        noise: (B, C) standard deviation of the complex noise of each coil; None where it is not known.
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
    """Return the largest squared singular value of the calibration matrix of noise alone.

    That of a matrix of P rows and Q columns of independent noise is σ² (√P + √Q)² (Marčenko and Pastur, Math. USSR Sb.
    1:457, 1967). The rows here are patches that overlap; measured, the value is within 9 % of that (2 to 32 coils,
    regions of 8 to 32 samples). Where one coil is louder than the others, the matrix of that coil alone counts as well.

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
    """Return the images (C, *grid) of the calibration region behind a cosine window, which reduces their ringing.

    A narrower window blurs the maps; without one, edges ring into their neighbours.
    """
    axes = tuple(range(-len(grid), 0))
    padded = calibration.new_zeros(len(calibration), *grid)
    inside = []
    for axis, (n, size) in enumerate(zip(calibration.shape[1:], grid, strict=True), start=1):
        place = torch.arange(1, n + 1, dtype=calibration.real.dtype, device=calibration.device) / (n + 1)
        window = torch.sin(torch.pi * place)
        calibration = calibration * window.reshape([-1 if a == axis else 1 for a in range(calibration.ndim)])
        kept = min(n, size)
        calibration = calibration.narrow(axis, n // 2 - kept // 2, kept)
        inside.append(slice(size // 2 - kept // 2, size // 2 - kept // 2 + kept))
    padded[(slice(None), *inside)] = calibration
    return Fourier(axes).adjoint(padded)


# --- the eigenvectors of H ---
#
# Where H turns slowly, its eigenvectors are interpolated and improved by power iterations. That fails where the order
# of two eigenvalues changes between two points of the coarse grid, where a reference phase jumps, and where eigenvalues
# lie so close that power iterations do not separate them. The angle between neighbours on the coarse grid and the
# residual of the eigenvalue equation show such voxels; there the matrix is diagonalized.


def eigenvectors(h: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Diagonalize H at every voxel.

    Args:
        h: (C, C, *space) Hermitian.
        count: of eigenvectors to return.

    Returns:
        All eigenvalues (C, *space), largest first, and the first eigenvectors (count, C, *space).

    """
    values, vectors = torch.linalg.eigh(h.flatten(2).permute(2, 0, 1))
    chosen = vectors[..., -count:].flip(-1).permute(2, 1, 0)
    return values.flip(-1).T.unflatten(-1, h.shape[2:]), chosen.unflatten(-1, h.shape[2:])


class CoarseEigenvectors:
    """Interpolate eigenpairs from a coarse grid to the full one.

    Both grids are centred on n // 2, and periodic, as the Fourier series H(r) is.

    Args:
        vectors: (M, C, *coarse) eigenvectors of the largest eigenvalues, of a phase that is continuous where it can be.
        spectrum: (C, *coarse) all eigenvalues, largest first.
        space: the full grid.

    """

    def __init__(self, vectors: Tensor, spectrum: Tensor, space: tuple[int, ...]) -> None:
        # Along all axes but the first: `refined` interpolates rows of that.
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
        self.tracked = following  # (*space): the first eigenvalue of no set, the larger one of the points around

    def refined(self, h: Tensor, rows: slice, steps: int) -> tuple[Tensor, Tensor]:
        """Return eigenvectors (M, C, rows, …) and eigenvalues (M, rows, …) on some rows of the full grid.

        Args:
            h: (C, C, rows, …), H there.
            rows: which, along the first axis.
            steps: power iterations.

        """
        v = interpolate(self.vectors, self.space, rows)
        for _ in range(steps):
            v = _orthonormal(_multiply(h, v))
        v, value, hv = _ritz(v, _multiply(h, v))
        # ‖H v − λ v‖ over the distance to the other eigenvalues bounds the sine of the remaining angle. More power
        # iterations would not help: a component of a close eigenvalue, which has a small residual, decays slowly.
        wrong = root_sum_of_squares(hv - value.unsqueeze(1) * v, 1)
        allowed = _SINE * (value - self.tracked[rows]).clamp_min(_GAP)
        failed = self.unsafe[rows] | ((value > _OBJECT) & (wrong > allowed)).any(0)
        if bool(failed.any()):
            exact, vectors = eigenvectors(h[:, :, failed], len(v))
            v[:, :, failed], value[:, failed] = vectors, exact[: len(v)]
        return v, value


def _far_apart(vectors: Tensor, spectrum: Tensor) -> Tensor:
    """Return the cells (*coarse), each named by its lowest corner, in which vectors cannot be interpolated.

    A cell is unsafe if a vector of the object turns by more than 60° along one of its edges. Of two vectors, the plane
    that they span has to be kept: the frame at one end, projected onto that at the other, must not come near a
    reflection of itself.
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
    """Return, for each of n places, its two neighbours on a coarse grid of ``small``, and the distance to the first."""
    place = (torch.arange(n, device=device) - n // 2) * (small / n) + small // 2
    low = place.floor()
    return low.long() % small, (low.long() + 1) % small, place - low


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
    unit: Tensor = v * root_sum_of_squares(v, 0).clamp_min(torch.finfo(v.real.dtype).tiny).reciprocal()
    return unit


def _orthonormal(v: Tensor) -> Tensor:
    """Return one or two orthonormal coil vectors at every voxel (Gram–Schmidt)."""
    first = _unit(v[0])
    if v.shape[0] == 1:
        return first.unsqueeze(0)
    return torch.stack([first, _unit(v[1] - first * _dot(first, v[1]))])


def _ritz(v: Tensor, hv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best eigenpairs within the span of orthonormal v, largest first (Rayleigh–Ritz), and H times them."""
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
    """Turn the phase of every set (M, C, …) to that of the principal coil; keep it where that coil sees nothing."""
    seen = torch.tensordot(principal.conj(), vectors, dims=([0], [1]))  # (M, …)
    size = seen.abs()
    turn = torch.where(size > 1e-6, seen.conj() / size.clamp_min(1e-6), torch.ones_like(seen))
    return vectors * turn.unsqueeze(1)
