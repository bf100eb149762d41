"""Noise of the coils from the null space of the calibration matrix, which signal does not reach.

Every patch of k-space of the size of a small kernel is a column of the calibration matrix. Signal of an object of
finite size, seen by coils of smooth sensitivity, fills few dimensions of it (Uecker et al., MRM 71:990, 2014); noise
fills all. The largest singular value of noise alone is the edge of its spectrum (Marchenko and Pastur, Math. USSR Sb.
1:457, 1967): what lies above it is signal, the rest is noise.

Patches overlap, and the subspace of the signal has fitted a part of the noise. How much of the noise is left, and where
its edge is, is therefore not taken from a formula for independent entries: simulated white noise is put through the
same projections. The covariance of the coils is then the most likely one of what the projection leaves, by expectation
maximization (Dempster et al., J. R. Stat. Soc. B 39:1, 1977).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_ROWS = 130  # of the calibration matrix: kernel and cost follow; 4 coils have a kernel of 5×5, 8 of 4×4, 14 of 3×3
_LARGEST_KERNEL = 6
# Share of a direction of coils that has to be seen: for the first guess to be believed where it proves right, and for a
# solution to be taken without a look for others.
_SEEN, _WELL_SEEN = 0.05, 0.25
_FEWEST = 6  # dimensions that have to be left to the noise
_RANKS, _STEPS = 8, 12  # to find the rank, and the covariance
_AGAIN = 8  # looks with coils whitened by what was found, at most
_SHARES, _LOOKS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 6  # null spaces that are supposed, and how often to look again
_QUIETEST = 1e-3  # of the mean variance: directions of coils that are supposed quieter are not
_ALIKE_SHARE = 0.9  # null spaces that are as large as each other
_NEARLY = 0.85  # solutions whose null space is as large as this, relative to the largest, may be right as well
_ALIKE = 1.3  # deviations along all directions that differ by less after whitening: then that was enough


Products = tuple[np.ndarray, np.ndarray, np.ndarray]  # of data and data, data and noise, noise and noise (P, P)


@dataclass(frozen=True)
class NullSpace:
    """Noise, as the null space shows it.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ] of a sample.
        error: standard error of the noise level, relative, by the number of samples.
        reliable: whether the null space shows the noise of all combinations of coils well.
        low: level of the lowest solution whose null space is about as large, relative to this one; at most 1.
        high: that of the highest one; at least 1.

    """

    covariance: np.ndarray
    error: float
    reliable: bool
    low: float = 1.0
    high: float = 1.0


def null_space_noise(region: np.ndarray, guesses: Sequence[np.ndarray]) -> NullSpace | None:
    """Estimate the noise covariance from a fully sampled box of k-space.

    Coils are whitened by a rough covariance first, because what is loud would pass for signal. Where the first guess
    proves wrong, or shows too little, others and ever larger null spaces are tried. The right covariance leaves the
    largest one; solutions whose null spaces are almost as large bound the level from both sides.

    Args:
        region: (C, *box) complex.
        guesses: rough covariances (C, C), positive definite, the likeliest first.

    Returns:
        None for a box that is too small. Where signal leaves no null space, as in data without noise or of one coil
        whose object fills the field, an upper bound of infinite error.

    """
    kernel = _kernel(len(region), region.shape[1:])
    if kernel < 1:
        return None
    try:
        return _estimate(region, kernel, guesses)
    except np.linalg.LinAlgError:  # data without noise, whose matrices are singular
        return None


def _estimate(region: np.ndarray, kernel: int, guesses: Sequence[np.ndarray]) -> NullSpace:
    """Return what `null_space_noise` does, of patches of a kernel."""
    data, probe = _patches(region.astype(np.complex128), kernel), _patches(_unit_noise(region.shape), kernel)
    products = data @ data.conj().T, data @ probe.conj().T, probe @ probe.conj().T
    found = _solve_whitened(products, guesses[0])
    sure = found.share > 0 and found.spread < _ALIKE**2 and found.weakest_coverage > _SEEN
    candidates = [found]
    if sure and found.weakest_coverage <= _WELL_SEEN:
        candidates = [_iterate(products, found)]
    if not sure:
        for guess in guesses[1:]:
            candidates.append(_solve_whitened(products, guess))
            if candidates[-1].weakest_coverage > _WELL_SEEN:
                break
        candidates = [_iterate(products, max(candidates, key=lambda f: f.share))]
        if candidates[0].weakest_coverage <= _WELL_SEEN:
            candidates += _grow_null_space(products, guesses[0])
    # Of solutions whose null spaces are all but alike the lowest: what makes one louder may be signal.
    largest = max(f.share for f in candidates)
    found = min((f for f in candidates if f.share >= _ALIKE_SHARE * largest), key=lambda f: np.trace(f.covariance).real)
    if found.share == 0:
        return NullSpace(min((_bound(products, guess) for guess in guesses), key=np.trace), np.inf, reliable=False)
    level = np.trace(found.covariance).real
    others = [np.trace(f.covariance).real / level for f in candidates if f.share > _NEARLY * found.share]
    error = float(0.5 / np.sqrt(region.size * found.share))
    low, high = float(min(others)) ** 0.5, float(max(others)) ** 0.5
    return NullSpace(found.covariance, error, found.weakest_coverage > _WELL_SEEN, low, high)


def _bound(products: Products, guess: np.ndarray) -> np.ndarray:
    """Return a guess at the level of the dimensions that hold least: if not noise alone, they hold more than that."""
    inverse = np.linalg.inv(np.linalg.cholesky(guess.astype(np.complex128)))
    power = np.linalg.eigvalsh(_mix(inverse, _mix(inverse, products[0]).conj().T))
    least = slice(0, max(2, len(power) // 12))
    bound: np.ndarray = guess * max(0.0, power[least].sum() / np.linalg.eigvalsh(products[2])[least].sum())
    return bound


class _Solution(NamedTuple):
    covariance: np.ndarray  # (C, C)
    share: float  # of the dimensions that are noise alone; 0 where it was not found
    spread: float  # largest over smallest variance that was found in whitened coils
    weakest_coverage: float  # how much of the direction of coils that the null space sees least of


def _iterate(products: Products, found: _Solution) -> _Solution:
    """Look again with coils whitened by what was found, until that changes little."""
    for _ in range(_AGAIN):
        if found.share == 0:
            break
        before = found
        found = _solve_whitened(products, before.covariance)
        # Where a second look leaves less to the noise, the first was better.
        if found.share < 0.9 * before.share:
            return before
        if found.spread < _ALIKE**2 and found.share < 1.03 * before.share:
            break
    return found


def _solve_whitened(products: Products, guess: np.ndarray) -> _Solution:
    """Return the covariance that is found with coils whitened by a guess."""
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
    seen = np.linalg.eigvalsh(basis @ basis.conj().T / (len(parts[0]) / coils))
    covariance = factor @ white @ factor.conj().T
    share, spread = parts[0].shape[1] / len(parts[0]), float(values[-1] / values[0])
    return _Solution(covariance, share, spread, float(seen[0]))


def _grow_null_space(products: Products, guess: np.ndarray) -> list[_Solution]:
    """Return what is found where ever larger null spaces are supposed, as long as they prove themselves.

    Noise along a direction of coils that is far louder than the guess passes for signal. Where its share of the
    dimensions is set in place of its edge, quieter directions are whitened first, and louder ones come down to them.
    """
    solutions: list[_Solution] = []
    largest = 0.0
    for share in _SHARES:
        if share <= largest or round(len(products[0]) * share) < _FEWEST:
            continue
        supposed = guess
        for _ in range(_LOOKS):
            supposed = _assume_share(products, supposed, share)
        found = _iterate(products, _solve_whitened(products, supposed))
        if found.share > 0:
            solutions.append(found)
        if found.share > largest:
            largest, guess = found.share, found.covariance
        elif largest > 0:
            break
    return solutions


def _assume_share(products: Products, guess: np.ndarray, share: float) -> np.ndarray:
    """Return the covariance (C, C) where a share of the dimensions, those that hold least, is supposed to be noise."""
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
    covariance: np.ndarray = factor @ white @ factor.conj().T
    return covariance


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
    count = spectrum.sum() / len(spectrum)  # of independent patches, as it were
    return vectors[:, rank : rank + len(spectrum)], power[rank : rank + len(spectrum)] / count


def _axes(data: np.ndarray, mixed: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return power (P,) and principal axes (P, P) of the data, the largest first, and unit noise along them.

    That is its covariance (P, P), and how much of it lies in the row space of the data (P, P); see `_residual_noise`.
    """
    power, vectors = np.linalg.eigh((data + data.conj().T) / 2)
    power, vectors = power[::-1].clip(min=0), vectors[:, ::-1]
    noise = vectors.conj().T @ probe @ vectors
    rows = (vectors.conj().T @ mixed @ vectors) / np.sqrt(power.clip(min=1e-24 * power[0]))[:, None]
    return power, vectors, noise, rows


def _residual_noise(noise: np.ndarray, rows: np.ndarray, rank: int) -> np.ndarray:
    """Return the covariance of what unit noise leaves beyond a signal of some rank, whose row space has fitted some."""
    left: np.ndarray = noise[rank:, rank:] - rows[:rank, rank:].conj().T @ rows[:rank, rank:]
    return left


def _most_likely(vectors: np.ndarray, values: np.ndarray, coils: int) -> np.ndarray:
    """Return Σ (C, C) such that noise of covariance Σ ⊗ I has the variances ``values`` along ``vectors``.

    Directions that the null space hardly sees stay at the mean level.
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
    """Return the side of the kernel: as large as the cost allows, with more patches than samples in them; 0 if none."""
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
    matrix: np.ndarray = windows.transpose(order).reshape(len(region) * kernel**ndim, -1)
    return matrix


def _mix(matrix: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return (matrix ⊗ I) patches: the coils of patches mixed, (C, C), (C · kernel…, N)."""
    mixed: np.ndarray = (matrix @ patches.reshape(len(matrix), -1)).reshape(patches.shape)
    return mixed


def _unit_noise(shape: tuple[int, ...]) -> np.ndarray:
    real, imaginary = np.random.default_rng(0).standard_normal((2, *shape))
    unit: np.ndarray = (real + 1j * imaginary) / np.sqrt(2)
    return unit
