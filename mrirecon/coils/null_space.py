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
_LOUDER, _BOOST = 6, 16.0  # guesses that one direction is louder than was thought, and by how much
_ALIKE = 1.3  # deviations along all directions that differ by less after whitening: then that was enough


Products = tuple[np.ndarray, np.ndarray, np.ndarray]  # of data and data, data and noise, noise and noise (P, P)


@dataclass(frozen=True)
class NullSpace:
    """Noise, as the null space shows it.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ] of a sample.
        error: standard error of the noise level, relative, by the number of samples.
        sure: whether the null space shows the noise of all combinations of coils well.

    """

    covariance: np.ndarray
    error: float
    sure: bool


def null_space_noise(region: np.ndarray, guesses: Sequence[np.ndarray]) -> NullSpace | None:
    """Estimate the noise covariance from a fully sampled box of k-space.

    Coils are whitened by a rough covariance first, because what is loud would pass for signal. Where the first guess
    proves wrong, the best of them is the one that leaves the largest null space.

    Args:
        region: (C, *box) complex.
        guesses: rough covariances (C, C), positive definite, the likeliest first.

    Returns:
        None for a box that is too small. Where signal leaves no null space, as in data without noise or of one coil
        whose object fills the field, an upper bound of infinite error.

    """
    coils, box = len(region), region.shape[1:]
    kernel = _kernel(coils, box)
    if kernel < 1:
        return None
    data, probe = _patches(region.astype(np.complex128), kernel), _patches(_white(region.shape), kernel)
    products = data @ data.conj().T, data @ probe.conj().T, probe @ probe.conj().T
    found = _whitened(products, guesses[0])
    sure = found.share > 0 and found.spread < _ALIKE**2 and found.seen > _SEEN
    if not sure:
        for guess in guesses[1:]:
            found = max(found, _whitened(products, guess), key=lambda f: f.share)
            if found.seen > _WELL_SEEN:
                break
        found = _settle(products, found)
        found = found if found.seen > _WELL_SEEN else _louder(products, found)
    if found.share == 0:
        return NullSpace(min((_bound(products, guess) for guess in guesses), key=np.trace), np.inf, sure=False)
    return NullSpace(found.covariance, float(0.5 / np.sqrt(region.size * found.share)), found.seen > _WELL_SEEN)


def _bound(products: Products, guess: np.ndarray) -> np.ndarray:
    """Return a guess at the level of the dimensions that hold least: if not noise alone, they hold more than that."""
    inverse = np.linalg.inv(np.linalg.cholesky(guess.astype(np.complex128)))
    power = np.linalg.eigvalsh(_mix(inverse, _mix(inverse, products[0]).conj().T))
    least = slice(0, max(2, len(power) // 12))
    bound: np.ndarray = guess * max(0.0, power[least].sum() / np.linalg.eigvalsh(products[2])[least].sum())
    return bound


class _Found(NamedTuple):
    covariance: np.ndarray  # (C, C)
    share: float  # of the dimensions that are noise alone; 0 where it was not found
    spread: float  # largest over smallest variance that was found in whitened coils
    seen: float  # how much of the direction of coils that the null space sees least of
    louder: np.ndarray  # (C, C) the covariance, louder along that direction


def _settle(products: Products, found: _Found) -> _Found:
    """Look again with coils whitened by what was found, until that changes little."""
    for _ in range(_AGAIN):
        if found.share == 0:
            break
        before = found
        found = _whitened(products, before.covariance)
        # Where a second look leaves less to the noise, the first was better.
        if found.share < 0.9 * before.share:
            return before
        if found.spread < _ALIKE**2 and found.share < 1.03 * before.share:
            break
    return found


def _whitened(products: Products, guess: np.ndarray) -> _Found:
    """Return the covariance that is found with coils whitened by a guess."""
    coils = len(guess)
    factor = np.linalg.cholesky(guess.astype(np.complex128))
    inverse = np.linalg.inv(factor)
    power = _mix(inverse, _mix(inverse, products[0]).conj().T).conj().T
    parts = _separate(power, _mix(inverse, products[1]), products[2])
    if parts is None:
        return _Found(guess, 0.0, np.inf, 0.0, guess)
    white = _most_likely(*parts, coils)
    values = np.linalg.eigvalsh(white)
    if values[0] <= 0:
        return _Found(guess, 0.0, np.inf, 0.0, guess)
    basis = parts[0].reshape(coils, -1)
    seen, directions = np.linalg.eigh(basis @ basis.conj().T / (len(parts[0]) / coils))
    unseen = factor @ directions[:, 0]
    covariance = factor @ white @ factor.conj().T
    louder = covariance + (_BOOST - 1) * parts[1].mean() * np.outer(unseen, unseen.conj())
    share, spread = parts[0].shape[1] / len(parts[0]), float(values[-1] / values[0])
    return _Found(covariance, share, spread, float(seen[0]), louder)


def _louder(products: Products, found: _Found) -> _Found:
    """Guess the noise louder along a direction of coils that the null space does not show.

    What is far louder than the guess passes for signal, and the null space loses all of that direction.
    """
    for _ in range(_LOUDER):
        louder = _settle(products, _whitened(products, found.louder))
        if louder.share < 1.05 * found.share:
            break
        found = louder
    return found


def _separate(data: np.ndarray, mixed: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a basis of the null space (P, q), and the noise variance along each of its vectors (q,).

    Args:
        data: (P, P) X Xᴴ of the patches, X (P, positions).
        mixed: (P, P) X Nᴴ, N the patches of unit noise.
        probe: (P, P) N Nᴴ.

    """
    power, vectors = np.linalg.eigh((data + data.conj().T) / 2)
    power, vectors = power[::-1].clip(min=0), vectors[:, ::-1]
    size = len(power)
    # Unit noise in the basis of the data, and how much of it lies in the row space of the signal.
    noise = vectors.conj().T @ probe @ vectors
    rows = (vectors.conj().T @ mixed @ vectors) / np.sqrt(power.clip(min=1e-24 * power[0]))[:, None]
    quarter = max(2, size // 4)
    spectrum = np.linalg.eigvalsh(noise)[::-1]
    level = power[-quarter:].sum() / spectrum[-quarter:].sum()
    rank, tried = int((power > level * spectrum[0]).sum()), set[int]()
    for _ in range(_RANKS):
        if size - rank < max(_FEWEST, size // 12):
            return None
        left = noise[rank:, rank:] - rows[:rank, rank:].conj().T @ rows[:rank, rank:]
        spectrum = np.linalg.eigvalsh(left)
        level = power[rank:].sum() / spectrum.sum()
        above = int((power > level * spectrum[-1]).sum())
        if above == rank or above in tried:
            break
        tried.add(rank)
        rank = above
    count = spectrum.sum() / len(spectrum)  # of independent patches, as it were
    return vectors[:, rank : rank + len(spectrum)], power[rank : rank + len(spectrum)] / count


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


def _white(shape: tuple[int, ...]) -> np.ndarray:
    real, imaginary = np.random.default_rng(0).standard_normal((2, *shape))
    unit: np.ndarray = (real + 1j * imaginary) / np.sqrt(2)
    return unit
