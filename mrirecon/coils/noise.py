"""Measure the noise covariance of the coils from k-space.

There are two sources of noise samples. Samples far from the centre of k-space and the background of the images hold
little signal, and give upper bounds. The null space of the calibration matrix holds no signal, and gives the level.

Every patch of k-space of the size of a small kernel is a column of the calibration matrix. The signal of an object of
finite size, measured by coils with smooth sensitivities, spans few dimensions (Uecker et al., MRM 71:990, 2014); noise
spans all. The largest singular value of pure noise is the edge of its spectrum (Marchenko and Pastur, Math. USSR Sb.
1:457, 1967): larger singular values are signal, all others noise.

Patches overlap, and the subspace of the signal also contains a part of the noise. Therefore the remaining share of the
noise and the edge of its spectrum are computed from simulated white noise with the same projections, not from a formula
for independent entries. The covariance of the coils is the maximum-likelihood estimate for the projected data, by
expectation maximization (Dempster et al., J. R. Stat. Soc. B 39:1, 1977).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mrirecon.coils.calibration import find_calibration

LOUD_COIL = 5.0  # ratio to the noise of the other coils from which a coil counts as loud

_SMALLEST = 12  # smallest size of a calibration region, along at least one axis, for a background in its images
_NARROWEST = 6  # fewest lines along each undersampled axis: fewer lines have no null space
_LONGEST = (64, 24, 16)  # largest size of the calibration region along its axes, the longest first, to limit the time
_ROUNDING = 5e-7  # ratio to the largest sample, below which noise is the rounding of single precision
_MARGIN = (
    2.0  # factor on the bound from the dimensions of least energy, because the noise of the coils may not be white
)
_DARKEST = 100.0  # largest ratio of the deviation of outer samples to that of the background for pure noise
_TINY = 1e-30
_NO_SIGNAL = 1.3  # largest ratio of all samples to outer samples, in a coil without signal
_TWICE = 2.0  # half width of a 95 % interval in standard errors
_SIGNAL = 0.05  # share of the deviation that may be due to weak signal in the null space

_ROWS = 130  # size of the calibration matrix, which limits the kernel: 5×5 for 4 coils, 4×4 for 8, 3×3 for 14
_LARGEST_KERNEL = 6
# Smallest share of a direction of coils that the null space must cover: to keep the first guess if it is confirmed, and
# to take a solution without further trials.
_SEEN, _WELL_SEEN = 0.05, 0.25
_FEWEST = 6  # fewest dimensions of noise
_RANKS, _STEPS = 8, 12  # iterations for the rank, and for the covariance
_AGAIN = 8  # largest number of repeated solutions, each with coils whitened by the previous one
_SHARES, _LOOKS = (
    (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    6,
)  # assumed sizes of the null space, and number of iterations for each
_QUIETEST = 1e-3  # smallest assumed variance of a direction of coils, relative to the mean
_ALIKE_SHARE = 0.9  # smallest ratio of null spaces that count as equally large
_NEARLY = 0.85  # smallest null space, relative to the largest, of a solution that may also be right
_ALIKE = 1.3  # largest ratio of deviations over all directions after sufficient whitening


@dataclass(frozen=True)
class NoiseLevel:
    """Hold the noise of the samples of k-space.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ].
        low: smallest factor from these deviations to the true ones.
        high: largest factor from these deviations to the true ones.
        source: description of the measurement.

    """

    covariance: np.ndarray
    low: float
    high: float
    source: str

    @property
    def deviation(self) -> np.ndarray:
        """Return the standard deviations σ (C,) with E|n|² = σ²; zero for data without noise."""
        return np.asarray(np.sqrt(np.real(np.diagonal(self.covariance)).clip(min=0)))


def measure_noise(kspace: np.ndarray, mask: np.ndarray, box: tuple[slice, ...] | None = None) -> NoiseLevel:
    """Measure the noise covariance of the coils.

    The null space of the calibration matrix holds noise without signal. Without a null space, the result is the smaller
    of two upper bounds, from samples far from the centre of k-space and from the background of the images, and the
    interval starts at zero.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        box: the fully sampled box of the mask, if it is known; see `mrirecon.coils.calibration.find_calibration`.

    """
    mask = np.asarray(mask, dtype=bool)
    coils, box = len(kspace), box or find_calibration(mask)
    far = kspace[:, outer_samples(mask, 0.1)]
    outer = _median_deviation(far)
    region = kspace[(slice(None), *box)]
    null_space = None
    if region.size and all(s.stop - s.start >= min(n, _NARROWEST) for s, n in zip(box, mask.shape, strict=True)):
        largest = np.abs(region).reshape(coils, -1).max(1)
        floor = _ROUNDING * float(largest.max())
        heard = np.flatnonzero(largest > 0)
        rough = np.maximum(outer[heard], max(floor, _TINY))
        null_space = _by_null_space(region[heard], far[heard], rough)
        if null_space is not None and np.isfinite(null_space.error):
            covariance = np.zeros((coils, coils), dtype=np.complex128)
            covariance[np.ix_(heard, heard)] = null_space.covariance
            quiet = np.real(np.diagonal(covariance)) <= floor**2
            covariance[quiet], covariance[:, quiet] = 0, 0
            margin = _TWICE * null_space.error
            source = "the null space of the calibration matrix"
            low, high = max(0.0, 1 - margin - _SIGNAL), 1 + margin + (0 if null_space.reliable else _SIGNAL)
            return NoiseLevel(covariance, null_space.low * low, null_space.high * high, source)
    deviation = outer
    if null_space is not None:
        bound = np.sqrt(np.real(np.diagonal(null_space.covariance)))
        deviation[heard] = np.minimum(outer[heard], np.where(bound > floor, _MARGIN * bound, 0))
    if coils > 1 and max(s.stop - s.start for s in box) >= _SMALLEST:
        deviation = np.minimum(deviation, _background(region))
    source = "outer samples and the background, which may include signal"
    return NoiseLevel(np.diag(deviation**2).astype(np.complex128), 0.0, 1.1, source)


def noise_deviation(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the standard deviation (C,) of the complex noise of each coil; see `measure_noise`."""
    return measure_noise(kspace, mask).deviation


def relative_noise(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the ratio (C,) of the noise of each coil to that of the others; 1 if it is at most `LOUD_COIL`.

    Samples far from the centre give a first estimate. They may hold signal, so `measure_noise` must confirm it, unless
    the coil receives only noise.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    """
    far = _median_deviation(kspace[:, outer_samples(mask, 0.1)])
    factor = _ratio_to_other_coils(far)
    suspects = np.flatnonzero(factor > LOUD_COIL)
    if not suspects.size:
        return np.ones(len(kspace))
    whole = np.sqrt((np.abs(kspace[:, mask]) ** 2).mean(1))
    measured = measure_noise(kspace, mask).deviation
    loud = _ratio_to_other_coils(np.where((factor > LOUD_COIL) & (whole < _NO_SIGNAL * far), far, measured))
    return np.where((factor > LOUD_COIL) & (loud > LOUD_COIL), loud, 1.0)


def _ratio_to_other_coils(deviation: np.ndarray) -> np.ndarray:
    """Divide deviations (C,) by the median of those that are not zero."""
    positive = deviation[deviation > 0]
    return np.asarray(deviation / np.median(positive) if positive.size else np.zeros(len(deviation)))


def _by_null_space(region: np.ndarray, far: np.ndarray, rough: np.ndarray) -> NullSpace | None:
    """Estimate the noise from the null space of a fully sampled box (C, *box).

    Args:
        region: fully sampled box around the centre of k-space.
        far: (C, N) samples far from the centre, mostly noise.
        rough: (C,) deviations of these samples.

    """
    # Signal adds to the outer samples of all coils by different factors; the noise of a loud coil exceeds this.
    usual = float(np.median(rough))
    even = np.where(rough > LOUD_COIL * usual, rough, usual)
    guesses = [np.diag(even**2), _correlated(far, even), np.diag(rough**2), _correlated(far, rough)]
    if len(region) > 1 and max(region.shape[1:]) >= _SMALLEST:
        dark = np.clip(_background(region), rough / _DARKEST, rough)
        guesses += [np.diag(dark**2), _correlated(far, dark)]
    axis = int(np.argmax(region.shape[1:])) + 1
    result = null_space_noise(_middle(region), guesses)
    if region.shape[axis] >= 2 * _LONGEST[0] and (result is None or not result.reliable):
        # The ends of a long readout hold less signal, and give a better guess.
        end = region.take(np.arange(region.shape[axis] - _LONGEST[0], region.shape[axis]), axis)
        estimate = null_space_noise(_middle(end), guesses)
        if estimate is not None and np.isfinite(estimate.error):
            again = null_space_noise(_middle(region), [estimate.covariance, *guesses])
            result = result if again is None or (result is not None and result.error <= again.error) else again
    return result


def _middle(region: np.ndarray) -> np.ndarray:
    """Crop a calibration region to its middle, so that the analysis is fast."""
    order = np.argsort([-n for n in region.shape[1:]], kind="stable")
    most = _LONGEST[-1:] * 3 if region.ndim > 3 else _LONGEST
    cut: list[slice] = [slice(None)] * region.ndim
    for rank, axis in enumerate(order.tolist()):
        n = region.shape[axis + 1]
        size = min(n, most[rank])
        cut[axis + 1] = slice((n - size) // 2, (n - size) // 2 + size)
    return region[tuple(cut)]


def outer_samples(mask: np.ndarray, fraction: float) -> np.ndarray:
    """Return the ``fraction`` of the samples of a mask that is farthest from the centre, (*space) booleans."""
    axes = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in mask.shape]
    radius = sum(a.reshape([-1 if i == axis else 1 for i in range(mask.ndim)]) for axis, a in enumerate(axes))
    return np.asarray(mask & (radius >= np.quantile(np.broadcast_to(radius, mask.shape)[mask], 1 - fraction)))


def _median_deviation(samples: np.ndarray) -> np.ndarray:
    """Estimate σ (C,) of samples (C, N) from the median of |y|², σ² ln 2, which is robust to some signal."""
    return np.asarray(np.sqrt(np.median(np.abs(samples) ** 2, axis=1) / np.log(2)))


def _correlated(samples: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return a covariance (C, C) with given deviations and the correlations of samples (C, N) with some signal."""
    products = samples.astype(np.complex128) @ samples.conj().T
    power = np.sqrt(np.real(np.diagonal(products)).clip(min=_TINY))
    share = 0.9 if samples.shape[1] > 4 * len(samples) else 0.0
    correlation = share * products / np.outer(power, power) + (1 - share) * np.eye(len(samples))
    np.fill_diagonal(correlation, 1)
    return np.asarray(correlation * np.outer(deviation, deviation))


def _background(calibration: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Estimate σ (C,) from the darkest pixels of the calibration images, with a window of low side lobes.

    The pixels are selected by the other coils: the darkest pixels of the same coil would have little noise by chance.
    """
    image = calibration
    for axis, n in enumerate(calibration.shape[1:], start=1):
        phase = 2 * np.pi * (np.arange(n) + 0.5) / n
        # Blackman–Harris: side lobes at −92 dB, below the noise of any scan (Harris, Proc. IEEE 66:51, 1978).
        window = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
        window /= np.sqrt((window**2).sum())
        image = np.fft.fft(image * window.reshape([-1 if a == axis else 1 for a in range(image.ndim)]), axis=axis)
    # Leave out the outer tenth at each end, where the receiver filter attenuates noise.
    inner = [slice(0, n) if n < _SMALLEST else slice(n // 10, n - n // 10) for n in image.shape[1:]]
    image = np.fft.fftshift(image, axes=tuple(range(1, image.ndim)))[(slice(None), *inner)]
    power = (np.abs(image) ** 2).reshape(len(image), -1)
    # Divide by the median of each coil, so that all coils have equal weight.
    shares = power / np.maximum(np.median(power, axis=1, keepdims=True), np.finfo(power.dtype).tiny)
    others = shares.sum(0) - shares
    deviation = [np.sqrt(p[o <= np.quantile(o, fraction)].mean()) for p, o in zip(power, others, strict=True)]
    return np.asarray(deviation)


# --- the null space of the calibration matrix ---

Products = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # products of data and data, data and noise, noise and noise (P, P)


@dataclass(frozen=True)
class NullSpace:
    """Hold the noise in the null space of the calibration matrix.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ] of a sample.
        error: relative standard error of the noise level, from the number of samples.
        reliable: whether the null space covers all combinations of coils well.
        low: lowest level of solutions with a null space of similar size, relative to this one; at most 1.
        high: highest level of these solutions; at least 1.

    """

    covariance: np.ndarray
    error: float
    reliable: bool
    low: float = 1.0
    high: float = 1.0


def null_space_noise(region: np.ndarray, guesses: Sequence[np.ndarray]) -> NullSpace | None:
    """Estimate the noise covariance from a fully sampled box of k-space.

    A rough covariance first whitens the coils, because a loud coil would count as signal. If the first guess is wrong,
    or its null space covers too little, further guesses and larger null spaces are tried. The right covariance gives
    the largest null space; solutions with almost the same size bound the level on both sides.

    Args:
        region: (C, *box) complex.
        guesses: rough covariances (C, C), positive definite, the most likely first.

    Returns:
        The estimate, or None for a box that is too small. If there is no null space (data without noise, or one coil
        with an object that fills the field of view), it is an upper bound with infinite error.

    """
    kernel = _kernel(len(region), region.shape[1:])
    if kernel < 1:
        return None
    try:
        return _estimate(region, kernel, guesses)
    except np.linalg.LinAlgError:  # data without noise have singular matrices
        return None


def _estimate(region: np.ndarray, kernel: int, guesses: Sequence[np.ndarray]) -> NullSpace:
    """Estimate the noise as in `null_space_noise` for one size of the kernel."""
    data, probe = _patches(region.astype(np.complex128), kernel), _patches(_unit_noise(region.shape), kernel)
    products = data @ data.conj().T, data @ probe.conj().T, probe @ probe.conj().T
    solution = _solve_whitened(products, guesses[0])
    sure = solution.share > 0 and solution.spread < _ALIKE**2 and solution.weakest_coverage > _SEEN
    candidates = [solution]
    if sure and solution.weakest_coverage <= _WELL_SEEN:
        candidates = [_iterate(products, solution)]
    if not sure:
        for guess in guesses[1:]:
            candidates.append(_solve_whitened(products, guess))
            if candidates[-1].weakest_coverage > _WELL_SEEN:
                break
        candidates = [_iterate(products, max(candidates, key=lambda f: f.share))]
        if candidates[0].weakest_coverage <= _WELL_SEEN:
            candidates += _grow_null_space(products, guesses[0])
    # Take the lowest solution among equally large null spaces: signal may have raised the others.
    largest = max(f.share for f in candidates)
    alike = (f for f in candidates if f.share >= _ALIKE_SHARE * largest)
    solution = min(alike, key=lambda f: np.trace(f.covariance).real)
    if solution.share == 0:
        return NullSpace(min((_bound(products, guess) for guess in guesses), key=np.trace), np.inf, reliable=False)
    level = np.trace(solution.covariance).real
    others = [np.trace(f.covariance).real / level for f in candidates if f.share > _NEARLY * solution.share]
    error = float(0.5 / np.sqrt(region.size * solution.share))
    low, high = float(min(others)) ** 0.5, float(max(others)) ** 0.5
    return NullSpace(solution.covariance, error, solution.weakest_coverage > _WELL_SEEN, low, high)


def _bound(products: Products, guess: np.ndarray) -> np.ndarray:
    """Return an upper bound: a guess scaled to the energy of the dimensions of least energy, which may hold signal."""
    inverse = np.linalg.inv(np.linalg.cholesky(guess.astype(np.complex128)))
    power = np.linalg.eigvalsh(_mix(inverse, _mix(inverse, products[0]).conj().T))
    least = slice(0, max(2, len(power) // 12))
    return np.asarray(guess * max(0.0, power[least].sum() / np.linalg.eigvalsh(products[2])[least].sum()))


class _Solution(NamedTuple):
    covariance: np.ndarray  # (C, C)
    share: float  # share of the dimensions of pure noise; 0 if there is none
    spread: float  # largest over smallest variance of the whitened coils
    weakest_coverage: float  # coverage of the direction of coils that the null space covers least


def _iterate(products: Products, solution: _Solution) -> _Solution:
    """Repeat the solution with coils whitened by its covariance until it changes little."""
    for _ in range(_AGAIN):
        if solution.share == 0:
            break
        before = solution
        solution = _solve_whitened(products, before.covariance)
        # The null space is smaller, so the previous solution was better.
        if solution.share < 0.9 * before.share:
            return before
        if solution.spread < _ALIKE**2 and solution.share < 1.03 * before.share:
            break
    return solution


def _solve_whitened(products: Products, guess: np.ndarray) -> _Solution:
    """Solve for the covariance with coils whitened by a guess."""
    coils = len(guess)
    factor = np.linalg.cholesky(guess.astype(np.complex128))
    inverse = np.linalg.inv(factor)
    power = _mix(inverse, _mix(inverse, products[0]).conj().T).conj().T
    parts = _separate(power, _mix(inverse, products[1]), products[2])
    if parts is None:
        return _Solution(guess, 0.0, np.inf, 0.0)
    white = _most_likely(*parts, coils)
    values = np.linalg.eigvalsh(white)
    if values[0] <= 0:
        return _Solution(guess, 0.0, np.inf, 0.0)
    basis = parts[0].reshape(coils, -1)
    coverage = np.linalg.eigvalsh(basis @ basis.conj().T / (len(parts[0]) / coils))
    covariance = factor @ white @ factor.conj().T
    share, spread = parts[0].shape[1] / len(parts[0]), float(values[-1] / values[0])
    return _Solution(covariance, share, spread, float(coverage[0]))


def _grow_null_space(products: Products, guess: np.ndarray) -> list[_Solution]:
    """Return the solutions for increasing assumed sizes of the null space, as long as it grows.

    Noise along a direction of coils that is far louder than the guess counts as signal. With an assumed size of the
    null space, instead of the edge of its spectrum, quieter directions are whitened first, then louder ones.
    """
    solutions: list[_Solution] = []
    largest = 0.0
    for share in _SHARES:
        if share <= largest or round(len(products[0]) * share) < _FEWEST:
            continue
        supposed = guess
        for _ in range(_LOOKS):
            supposed = _assume_share(products, supposed, share)
        solution = _iterate(products, _solve_whitened(products, supposed))
        if solution.share > 0:
            solutions.append(solution)
        if solution.share > largest:
            largest, guess = solution.share, solution.covariance
        elif largest > 0:
            break
    return solutions


def _assume_share(products: Products, guess: np.ndarray, share: float) -> np.ndarray:
    """Return the covariance (C, C), assuming that the given share of the dimensions, of least energy, is noise."""
    coils = len(guess)
    factor = np.linalg.cholesky(guess.astype(np.complex128))
    inverse = np.linalg.inv(factor)
    power, vectors, noise, rows = _axes(
        _mix(inverse, _mix(inverse, products[0]).conj().T), _mix(inverse, products[1]), products[2]
    )
    rank = round(len(power) * (1 - share))
    count = np.trace(_residual_noise(noise, rows, rank)).real / (len(power) - rank)
    white = _most_likely(vectors[:, rank:], power[rank:] / count, coils)
    values, directions = np.linalg.eigh(white)
    white = (directions * values.clip(min=_QUIETEST * values.mean())) @ directions.conj().T
    return np.asarray(factor @ white @ factor.conj().T)


def _separate(data: np.ndarray, mixed: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a basis of the null space (P, q), and the noise variance along each of its vectors (q,).

    Args:
        data: (P, P) X Xᴴ of the patches, X (P, positions).
        mixed: (P, P) X Nᴴ, N the patches of unit noise.
        probe: (P, P) N Nᴴ.

    """
    power, vectors, noise, rows = _axes(data, mixed, probe)
    size = len(power)
    quarter = max(2, size // 4)
    spectrum = np.linalg.eigvalsh(noise)[::-1]
    level = power[-quarter:].sum() / spectrum[-quarter:].sum()
    rank, tried = int((power > level * spectrum[0]).sum()), set[int]()
    for _ in range(_RANKS):
        if size - rank < max(_FEWEST, size // 12):
            return None
        spectrum = np.linalg.eigvalsh(_residual_noise(noise, rows, rank))
        level = power[rank:].sum() / spectrum.sum()
        above = int((power > level * spectrum[-1]).sum())
        if above == rank or above in tried:
            break
        tried.add(rank)
        rank = above
    count = spectrum.sum() / len(spectrum)  # effective number of independent patches
    return vectors[:, rank : rank + len(spectrum)], power[rank : rank + len(spectrum)] / count


def _axes(data: np.ndarray, mixed: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return power (P,) and principal axes (P, P) of the data, the largest first, and unit noise along the axes.

    The noise is its covariance (P, P), and its part in the row space of the data (P, P); see `_residual_noise`.
    """
    power, vectors = np.linalg.eigh((data + data.conj().T) / 2)
    power, vectors = power[::-1].clip(min=0), vectors[:, ::-1]
    noise = vectors.conj().T @ probe @ vectors
    rows = (vectors.conj().T @ mixed @ vectors) / np.sqrt(power.clip(min=1e-24 * power[0]))[:, None]
    return power, vectors, noise, rows


def _residual_noise(noise: np.ndarray, rows: np.ndarray, rank: int) -> np.ndarray:
    """Return the covariance of unit noise outside a signal of some rank, without the part fitted by the signal."""
    return np.asarray(noise[rank:, rank:] - rows[:rank, rank:].conj().T @ rows[:rank, rank:])


def _most_likely(vectors: np.ndarray, values: np.ndarray, coils: int) -> np.ndarray:
    """Estimate Σ (C, C) so that noise of covariance Σ ⊗ I has the variances ``values`` along ``vectors``.

    Directions that the null space hardly covers get the mean level.
    """
    covariance: np.ndarray = np.eye(coils, dtype=np.complex128) * values.mean()
    measured = np.diag(values)
    kernel = len(vectors) // coils
    for _ in range(_STEPS):
        spread = _mix(covariance, vectors)
        expected = vectors.conj().T @ spread
        gain = np.linalg.solve(expected, spread.conj().T).conj().T  # (P, q)
        change = (gain @ (measured - expected)).reshape(coils, -1) @ gain.reshape(coils, -1).conj().T / kernel
        covariance += (change + change.conj().T) / 2
    return covariance


def _kernel(coils: int, box: tuple[int, ...]) -> int:
    """Return the largest affordable kernel side with more patches than samples per patch; 0 if there is none."""
    for side in range(min(_LARGEST_KERNEL, *box), 0, -1):
        size = coils * side ** len(box)
        positions = int(np.prod([n - side + 1 for n in box]))
        if positions > size and (size <= _ROWS or side <= 2):
            return side
    return 0


def _patches(region: np.ndarray, kernel: int) -> np.ndarray:
    """Return the calibration matrix (C · kernel…, positions)."""
    ndim = region.ndim - 1
    windows = np.lib.stride_tricks.sliding_window_view(region, (kernel,) * ndim, axis=tuple(range(1, ndim + 1)))
    order = (0, *range(ndim + 1, 2 * ndim + 1), *range(1, ndim + 1))
    return np.asarray(windows.transpose(order).reshape(len(region) * kernel**ndim, -1))


def _mix(matrix: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Apply (matrix ⊗ I), with matrix (C, C), to the coils of patches (C · kernel…, N)."""
    return np.asarray((matrix @ patches.reshape(len(matrix), -1)).reshape(patches.shape))


def _unit_noise(shape: tuple[int, ...]) -> np.ndarray:
    real, imaginary = np.random.default_rng(0).standard_normal((2, *shape))
    return np.asarray((real + 1j * imaginary) / np.sqrt(2))
