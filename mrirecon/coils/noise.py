"""Noise covariance of the coils, measured from the k-space itself.

Two sources show the noise. Samples far from the k-space centre and the background of the images hold little signal, and
give upper bounds. The null space of the calibration matrix holds no signal, and gives the level itself.

Every patch of k-space of the size of a small kernel is a column of the calibration matrix. Signal of an object of
finite size, seen by coils of smooth sensitivity, fills few dimensions of it (Uecker et al., MRM 71:990, 2014); noise
fills all. The largest singular value of noise alone is the edge of its spectrum (Marchenko and Pastur, Math. USSR Sb.
1:457, 1967): what lies above it is signal, the rest is noise.

Patches overlap, and the subspace of the signal has fitted a part of the noise. So the share of the noise that is left,
and the edge of its spectrum, come from simulated white noise that undergoes the same projections, not from a formula
for independent entries. The covariance of the coils is then the most likely one of what the projection leaves, by
expectation maximization (Dempster et al., J. R. Stat. Soc. B 39:1, 1977).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mrirecon.coils.calibration import find_calibration

LOUD_COIL = 5.0  # a coil is loud whose noise exceeds that of the others by this factor

_SMALLEST = 12  # a calibration region narrower than this along every axis shows no background
_NARROWEST = 6  # along each axis that is undersampled: fewer lines are all signal, and show no null space
_LONGEST = (64, 24, 16)  # samples of the calibration region along its axes, the longest first: more cost more
_ROUNDING = 5e-7  # of the largest sample: noise below it is that of single precision
_MARGIN = 2.0  # on the bound by the dimensions of least energy, because the coils' noise may not be white
_DARKEST = 100.0  # largest ratio of the deviation far out to that of the background; a larger one is not noise
_TINY = 1e-30
_NO_SIGNAL = 1.3  # largest ratio of all samples to those far out, in a coil that receives nothing
_TWICE = 2.0  # standard errors to each side of the interval, for 95 %
_SIGNAL = 0.05  # share of the deviation that weak signal in the null space may add

_ROWS = 130  # of the calibration matrix: kernel and cost follow; 4 coils have a kernel of 5×5, 8 of 4×4, 14 of 3×3
_LARGEST_KERNEL = 6
# Least share of a direction of coils that the null space has to cover: for the first guess to stand where it proves
# right, and for a solution to be taken without trying others.
_SEEN, _WELL_SEEN = 0.05, 0.25
_FEWEST = 6  # dimensions that have to be left to the noise
_RANKS, _STEPS = 8, 12  # iterations for the rank, and for the covariance
_AGAIN = 8  # most solutions in turn, each with coils whitened by the one before
_SHARES, _LOOKS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 6  # supposed sizes of the null space, and iterations of each
_QUIETEST = 1e-3  # of the mean variance: the least that a direction of coils is supposed to have
_ALIKE_SHARE = 0.9  # null spaces count as equally large from this ratio on
_NEARLY = 0.85  # a solution may be right, too, whose null space has this size relative to the largest
_ALIKE = 1.3  # ratio of deviations after whitening, over all directions, below which whitening was good enough


@dataclass(frozen=True)
class NoiseLevel:
    """The noise of the samples of k-space.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ].
        low: least factor from these deviations to the true ones.
        high: largest factor from these deviations to the true ones.
        source: how it was measured, in words.

    """

    covariance: np.ndarray
    low: float
    high: float
    source: str

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviations σ (C,) with E|n|² = σ²; zero where the data are free of noise."""
        return np.asarray(np.sqrt(np.real(np.diagonal(self.covariance)).clip(min=0)))


def measure_noise(kspace: np.ndarray, mask: np.ndarray) -> NoiseLevel:
    """Measure the noise covariance of the coils.

    The null space of the calibration matrix shows it without signal. Without a null space, the result is the smaller
    of two upper bounds, by the samples far from the k-space centre and by the background of the images, and the
    interval reaches down to zero.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    """
    mask = np.asarray(mask, dtype=bool)
    coils, box = len(kspace), find_calibration(mask)
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
    source = "samples far out and the background: signal there adds to it"
    return NoiseLevel(np.diag(deviation**2).astype(np.complex128), 0.0, 1.1, source)


def noise_deviation(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the standard deviation (C,) of the complex noise of each coil; see `measure_noise`."""
    return measure_noise(kspace, mask).deviation


def relative_noise(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the factor (C,) by which the noise of each coil exceeds that of the others; up to `LOUD_COIL` it is 1.

    Samples far from the centre give a first answer. Signal there can look like noise, so `measure_noise` has to agree,
    unless the coil receives nothing but noise.

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
    """Return deviations (C,) over the median of those that are not zero."""
    positive = deviation[deviation > 0]
    return np.asarray(deviation / np.median(positive) if positive.size else np.zeros(len(deviation)))


def _by_null_space(region: np.ndarray, far: np.ndarray, rough: np.ndarray) -> NullSpace | None:
    """Return the noise in the null space of a fully sampled box (C, *box).

    Args:
        region: with the k-space centre in it.
        far: (C, N) samples far from the centre, where noise is most of what there is.
        rough: (C,) their deviations.

    """
    # Signal adds to all coils' samples far out, and not by the same factor; a loud coil is louder than that.
    usual = float(np.median(rough))
    even = np.where(rough > LOUD_COIL * usual, rough, usual)
    guesses = [np.diag(even**2), _correlated(far, even), np.diag(rough**2), _correlated(far, rough)]
    if len(region) > 1 and max(region.shape[1:]) >= _SMALLEST:
        dark = np.clip(_background(region), rough / _DARKEST, rough)
        guesses += [np.diag(dark**2), _correlated(far, dark)]
    axis = int(np.argmax(region.shape[1:])) + 1
    result = null_space_noise(_middle(region), guesses)
    if region.shape[axis] >= 2 * _LONGEST[0] and (result is None or not result.reliable):
        # The end of a long readout holds less signal, and so gives a better guess.
        end = region.take(np.arange(region.shape[axis] - _LONGEST[0], region.shape[axis]), axis)
        there = null_space_noise(_middle(end), guesses)
        if there is not None and np.isfinite(there.error):
            again = null_space_noise(_middle(region), [there.covariance, *guesses])
            result = result if again is None or (result is not None and result.error <= again.error) else again
    return result


def _middle(region: np.ndarray) -> np.ndarray:
    """Return the middle of a calibration region, small enough for the analysis to be fast."""
    order = np.argsort([-n for n in region.shape[1:]], kind="stable")
    most = _LONGEST[-1:] * 3 if region.ndim > 3 else _LONGEST
    cut: list[slice] = [slice(None)] * region.ndim
    for place, axis in enumerate(order.tolist()):
        n = region.shape[axis + 1]
        kept = min(n, most[place])
        cut[axis + 1] = slice((n - kept) // 2, (n - kept) // 2 + kept)
    return region[tuple(cut)]


def outer_samples(mask: np.ndarray, fraction: float) -> np.ndarray:
    """Return the ``fraction`` of the samples of a mask that lie farthest from the centre, (*space) booleans."""
    axes = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in mask.shape]
    radius = sum(a.reshape([-1 if i == axis else 1 for i in range(mask.ndim)]) for axis, a in enumerate(axes))
    return np.asarray(mask & (radius >= np.quantile(np.broadcast_to(radius, mask.shape)[mask], 1 - fraction)))


def _median_deviation(samples: np.ndarray) -> np.ndarray:
    """Return σ (C,) of samples (C, N) by the median of |y|², σ² ln 2, which stray signal hardly changes."""
    return np.asarray(np.sqrt(np.median(np.abs(samples) ** 2, axis=1) / np.log(2)))


def _correlated(samples: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return a covariance (C, C) of given deviations, with the correlations of samples (C, N), some signal included."""
    products = samples.astype(np.complex128) @ samples.conj().T
    power = np.sqrt(np.real(np.diagonal(products)).clip(min=_TINY))
    share = 0.9 if samples.shape[1] > 4 * len(samples) else 0.0
    correlation = share * products / np.outer(power, power) + (1 - share) * np.eye(len(samples))
    np.fill_diagonal(correlation, 1)
    return np.asarray(correlation * np.outer(deviation, deviation))


def _background(calibration: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Return σ (C,) of the darkest pixels of the calibration images, under a window with low side lobes.

    The other coils choose the pixels: a coil's own darkest pixels are those where its noise happens to be small.
    """
    image = calibration
    for axis, n in enumerate(calibration.shape[1:], start=1):
        phase = 2 * np.pi * (np.arange(n) + 0.5) / n
        # Blackman–Harris: side lobes at −92 dB, below the noise of any scan (Harris, Proc. IEEE 66:51, 1978).
        window = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
        window /= np.sqrt((window**2).sum())
        image = np.fft.fft(image * window.reshape([-1 if a == axis else 1 for a in range(image.ndim)]), axis=axis)
    # Without the outer tenth at each end: receivers filter along the readout, and attenuate noise there, too.
    inner = [slice(0, n) if n < _SMALLEST else slice(n // 10, n - n // 10) for n in image.shape[1:]]
    image = np.fft.fftshift(image, axes=tuple(range(1, image.ndim)))[(slice(None), *inner)]
    power = (np.abs(image) ** 2).reshape(len(image), -1)
    # Relative to each coil's own median, so that all coils count alike.
    shares = power / np.maximum(np.median(power, axis=1, keepdims=True), np.finfo(power.dtype).tiny)
    others = shares.sum(0) - shares
    deviation = [np.sqrt(p[o <= np.quantile(o, fraction)].mean()) for p, o in zip(power, others, strict=True)]
    return np.asarray(deviation)


# --- the null space of the calibration matrix ---

Products = tuple[np.ndarray, np.ndarray, np.ndarray]  # of data and data, data and noise, noise and noise (P, P)


@dataclass(frozen=True)
class NullSpace:
    """The noise in the null space of the calibration matrix.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ] of a sample.
        error: relative standard error of the noise level, which follows from the number of samples.
        reliable: whether the null space covers all combinations of coils well.
        low: lowest level among the solutions with about as large a null space, relative to this one; at most 1.
        high: highest level among them; at least 1.

    """

    covariance: np.ndarray
    error: float
    reliable: bool
    low: float = 1.0
    high: float = 1.0


def null_space_noise(region: np.ndarray, guesses: Sequence[np.ndarray]) -> NullSpace | None:
    """Estimate the noise covariance from a fully sampled box of k-space.

    A rough covariance whitens the coils first, because a loud coil would pass for signal. If the first guess proves
    wrong, or its null space covers too little, further guesses and larger null spaces are tried. The right covariance
    leaves the largest null space; solutions with almost as large a null space bound the level from both sides.

    Args:
        region: (C, *box) complex.
        guesses: rough covariances (C, C), positive definite, the likeliest first.

    Returns:
        None for a box that is too small. If signal leaves no null space, as in data without noise, or of one coil whose
        object fills the field of view: an upper bound with infinite error.

    """
    kernel = _kernel(len(region), region.shape[1:])
    if kernel < 1:
        return None
    try:
        return _estimate(region, kernel, guesses)
    except np.linalg.LinAlgError:  # data without noise, whose matrices are singular
        return None


def _estimate(region: np.ndarray, kernel: int, guesses: Sequence[np.ndarray]) -> NullSpace:
    """Return what `null_space_noise` does, for one size of the kernel."""
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
    # The lowest of the solutions with equally large null spaces: signal may have raised the others.
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
    """Return an upper bound: a guess scaled to the level of the dimensions of least energy, signal there included."""
    inverse = np.linalg.inv(np.linalg.cholesky(guess.astype(np.complex128)))
    power = np.linalg.eigvalsh(_mix(inverse, _mix(inverse, products[0]).conj().T))
    least = slice(0, max(2, len(power) // 12))
    return np.asarray(guess * max(0.0, power[least].sum() / np.linalg.eigvalsh(products[2])[least].sum()))


class _Solution(NamedTuple):
    covariance: np.ndarray  # (C, C)
    share: float  # of the dimensions that are noise alone; 0 where it was not found
    spread: float  # largest over smallest variance of the whitened coils
    weakest_coverage: float  # share of the direction of coils that the null space covers least


def _iterate(products: Products, found: _Solution) -> _Solution:
    """Repeat the solution with coils whitened by its covariance, until that changes little."""
    for _ in range(_AGAIN):
        if found.share == 0:
            break
        before = found
        found = _solve_whitened(products, before.covariance)
        # A smaller null space: the solution before was better.
        if found.share < 0.9 * before.share:
            return before
        if found.spread < _ALIKE**2 and found.share < 1.03 * before.share:
            break
    return found


def _solve_whitened(products: Products, guess: np.ndarray) -> _Solution:
    """Return the solution for coils whitened by a guess."""
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
    """Return the solutions for ever larger supposed null spaces, as long as they grow.

    Noise along a direction of coils that is far louder than the guess passes for signal. Supposing the size of the null
    space, not the edge of its spectrum, whitens quieter directions first, and brings louder ones down to them.
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
    """Return the covariance (C, C) if the given share of the dimensions, those of least energy, is noise."""
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
    count = spectrum.sum() / len(spectrum)  # the effective number of independent patches
    return vectors[:, rank : rank + len(spectrum)], power[rank : rank + len(spectrum)] / count


def _axes(data: np.ndarray, mixed: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return power (P,) and principal axes (P, P) of the data, the largest first, and unit noise along them.

    The latter is its covariance (P, P), and its part in the row space of the data (P, P); see `_residual_noise`.
    """
    power, vectors = np.linalg.eigh((data + data.conj().T) / 2)
    power, vectors = power[::-1].clip(min=0), vectors[:, ::-1]
    noise = vectors.conj().T @ probe @ vectors
    rows = (vectors.conj().T @ mixed @ vectors) / np.sqrt(power.clip(min=1e-24 * power[0]))[:, None]
    return power, vectors, noise, rows


def _residual_noise(noise: np.ndarray, rows: np.ndarray, rank: int) -> np.ndarray:
    """Return the covariance of unit noise beyond a signal of some rank, less the part that the signal has fitted."""
    return np.asarray(noise[rank:, rank:] - rows[:rank, rank:].conj().T @ rows[:rank, rank:])


def _most_likely(vectors: np.ndarray, values: np.ndarray, coils: int) -> np.ndarray:
    """Return Σ (C, C) such that noise of covariance Σ ⊗ I has the variances ``values`` along ``vectors``.

    Directions that the null space hardly covers stay at the mean level.
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
    """Return the largest affordable side of a kernel that has more patches than samples in a patch; 0 if none has."""
    for side in range(min(_LARGEST_KERNEL, *box), 0, -1):
        size = coils * side ** len(box)
        places = int(np.prod([n - side + 1 for n in box]))
        if places > size and (size <= _ROWS or side <= 2):
            return side
    return 0


def _patches(region: np.ndarray, kernel: int) -> np.ndarray:
    """Return the calibration matrix (C · kernel…, positions)."""
    ndim = region.ndim - 1
    windows = np.lib.stride_tricks.sliding_window_view(region, (kernel,) * ndim, axis=tuple(range(1, ndim + 1)))
    order = (0, *range(ndim + 1, 2 * ndim + 1), *range(1, ndim + 1))
    return np.asarray(windows.transpose(order).reshape(len(region) * kernel**ndim, -1))


def _mix(matrix: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return (matrix ⊗ I) patches: the coils of patches mixed, (C, C), (C · kernel…, N)."""
    return np.asarray((matrix @ patches.reshape(len(matrix), -1)).reshape(patches.shape))


def _unit_noise(shape: tuple[int, ...]) -> np.ndarray:
    real, imaginary = np.random.default_rng(0).standard_normal((2, *shape))
    return np.asarray((real + 1j * imaginary) / np.sqrt(2))
