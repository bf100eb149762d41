"""Our own line masks: which of n phase-encoding lines are acquired, to the exact number."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools, heaviest

FWHM = 1.0


@register_mask(rank=1, over="lines", compat=("fastmri",))
def random(rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]) -> tuple[Bools, str]:
    """Draw the calibration lines and, uniformly at random, others: ``count`` lines in all."""
    return _weighted(rng, np.zeros(space[0]), count, box[0]), ""


@register_mask(rank=4, over="lines", compat=("mridc",))
def gaussian1d(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...], *, fwhm: float = FWHM
) -> tuple[Bools, str]:
    """Draw the calibration lines, and the others by a Gaussian density around the centre.

    Args:
        rng: the generator to draw from.
        space: (n,), number of lines.
        count: number of lines to sample, those of the box included.
        box: the calibration lines.
        fwhm: full width at half maximum of the density, where k-space reaches from -1 to 1.

    """
    return _weighted(rng, log_gaussian(space[0], fwhm), count, box[0]), ""


@register_mask(rank=2, over="lines", compat=("fastmri",))
def equispaced(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Draw the calibration lines and an equispaced comb: ``count`` lines in all.

    One comb floor((i + t) d), i = 0, 1, ..., runs through the whole of k-space, calibration region included, so that
    its two sides are in phase. Where an integer spacing d meets the number of lines asked, that is taken, with one of
    the offsets that do, drawn from the seed. Elsewhere d is fractional: neighbouring lines are floor(d) or ceil(d)
    apart, the phase t is drawn from the seed, and d is solved for. (It can be: as d grows, the number of lines outside
    the box changes by one at a time, from all to none.) The note says which.
    """
    return _equispaced(rng, space[0], count, box[0])


def _equispaced(rng: np.random.RandomState, n: int, count: int, box: slice) -> tuple[Bools, str]:
    chosen = np.zeros(n, dtype=bool)
    chosen[box] = True
    wanted = count - int(chosen.sum())
    if wanted == 0:
        return chosen, ""
    if wanted == n - int(chosen.sum()):
        return np.ones(n, dtype=bool), ""
    natural = (n - (box.stop - box.start)) / wanted
    steps = [step for step in range(2, n) if abs(wanted - wanted * natural / step) < 3]  # others cannot fit
    exact = [(step, first) for step in steps for first in range(step) if _outside(n, box, step, first) == wanted]
    if exact:
        step, first = exact[rng.randint(len(exact))]
        chosen[first::step] = True
        return chosen, f"equispaced: every {step}th line"
    for t in rng.random_sample(64):  # the first does, but for a coincidence of two crossings in floating point
        spacing = _fractional_spacing(n, box, float(t), wanted, natural)
        if spacing is not None:
            break
    else:
        raise AssertionError(f"no spacing leaves {wanted} lines outside {box} of {n}")
    chosen[_comb(n, spacing, float(t))] = True
    near, far = math.floor(spacing), math.ceil(spacing)
    return chosen, f"fractional spacing {spacing:.4g}: neighbouring lines are {near} or {far} apart"


def log_gaussian(n: int, fwhm: float) -> np.ndarray:
    """Return (n,) the logarithm of a Gaussian with maximum 1 at index n // 2; k-space reaches from -1 to 1."""
    x = (np.arange(n) - n // 2) / (n / 2)
    return np.asarray(-4 * math.log(2) * (x / fwhm) ** 2)


def _weighted(rng: np.random.RandomState, log_weights: np.ndarray, count: int, box: slice) -> Bools:
    chosen = np.zeros(log_weights.size, dtype=bool)
    chosen[box] = True
    outside = np.flatnonzero(~chosen)
    chosen[outside[heaviest(rng, log_weights[outside], count - int(chosen.sum()))]] = True
    return chosen


def _outside(n: int, box: slice, step: int, first: int) -> int:
    """How many of first, first + step, ... below n lie outside the box."""
    inside = len(range(first, box.stop, step)) - len(range(first, box.start, step))
    return len(range(first, n, step)) - inside


def _comb(n: int, spacing: float, t: float) -> np.ndarray:
    lines = np.floor((np.arange(math.ceil(n / spacing) + 1) + t) * spacing).astype(int)
    return np.asarray(lines[lines < n])


def _fractional_spacing(n: int, box: slice, t: float, wanted: int, natural: float) -> float | None:
    """Return the spacing nearest to ``natural`` for which ``wanted`` lines of the comb lie outside the box.

    The number can change only where some line crosses an edge e of the box or the end of k-space: (i + t) d = e.
    Between two such spacings it is constant, so one look at the middle of each interval sees them all.
    """
    with np.errstate(divide="ignore"):
        crossings = np.concatenate([e / (np.arange(n) + t) for e in (box.start, box.stop, n)])
    bounds = np.unique(np.append(crossings[(crossings > 1) & np.isfinite(crossings)], 1.0))
    middles = (bounds[1:] + bounds[:-1]) / 2
    for middle in middles[np.argsort(np.abs(middles - natural), kind="stable")]:
        lines = _comb(n, float(middle), t)
        if int(((lines < box.start) | (lines >= box.stop)).sum()) == wanted:
            return float(middle)
    return None
