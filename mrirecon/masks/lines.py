"""Draw line masks by our own rule: exactly ``count`` of n phase-encoding lines."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools, weighted_sample

FWHM = 1.0


@register_mask(rank=1, over="lines", compat=("fastmri",))
def random(rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]) -> tuple[Bools, str]:
    """Draw the calibration lines and, uniformly at random, others: ``count`` lines in all."""
    return draw_weighted(rng, np.zeros(space), count, box), ""


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
    return draw_weighted(rng, log_gaussian(space[0], fwhm), count, box), ""


@register_mask(rank=2, over="lines", compat=("fastmri",))
def equispaced(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Draw the calibration lines and an equispaced comb: ``count`` lines in all.

    One comb floor((i + t) d), i = 0, 1, ..., runs through the whole of k-space, calibration region included, so that
    its two sides are in phase. Where an integer spacing d gives the number of lines asked, one of the offsets that fit
    is drawn. Elsewhere d is fractional: neighbouring lines are floor(d) or ceil(d) apart, the phase t is drawn, and d
    is solved for. (A solution exists: as d grows, the number of lines outside the box changes by one at a time, from
    all to none.) The note says which.
    """
    (n,), region = space, box[0]
    chosen = np.zeros(n, dtype=bool)
    chosen[region] = True
    free = n - int(chosen.sum())
    wanted = count - int(chosen.sum())
    if wanted in (0, free):
        return chosen if wanted == 0 else np.ones(n, dtype=bool), ""
    natural = (n - (region.stop - region.start)) / wanted
    steps = [step for step in range(2, n) if abs(wanted - wanted * natural / step) < 3]  # others cannot fit
    exact = [(step, first) for step in steps for first in range(step) if _outside(n, region, step, first) == wanted]
    if exact:
        step, first = exact[rng.randint(len(exact))]
        chosen[first::step] = True
        return chosen, f"equispaced: every {step}th line"
    for t in rng.random_sample(64):  # the first fits, unless two crossings coincide in floating point
        spacing = _fractional_spacing(n, region, float(t), wanted, natural)
        if spacing is not None:
            break
    else:
        raise AssertionError(f"no spacing leaves {wanted} lines outside {region} of {n}")
    chosen[_comb(n, spacing, float(t))] = True
    near, far = math.floor(spacing), math.ceil(spacing)
    return chosen, f"fractional spacing {spacing:.4g}: neighbouring lines are {near} or {far} apart"


def log_gaussian(n: int, fwhm: float) -> np.ndarray:
    """Return (n,) the logarithm of a Gaussian with maximum 1 at index n // 2; k-space reaches from -1 to 1."""
    x = (np.arange(n) - n // 2) / (n / 2)
    return np.asarray(-4 * math.log(2) * (x / fwhm) ** 2)


def draw_weighted(rng: np.random.RandomState, log_weights: np.ndarray, count: int, box: tuple[slice, ...]) -> Bools:
    """Draw the box and, by their weights, other samples: ``count`` in all, of the shape of ``log_weights``."""
    chosen = np.zeros(log_weights.shape, dtype=bool)
    chosen[box] = True
    outside = np.flatnonzero(~chosen)
    chosen.flat[outside[weighted_sample(rng, log_weights.flat[outside], count - int(chosen.sum()))]] = True
    return chosen


def _outside(n: int, box: slice, step: int, first: int) -> int:
    """Return how many of first, first + step, ... below n lie outside the box."""
    inside = len(range(first, box.stop, step)) - len(range(first, box.start, step))
    return len(range(first, n, step)) - inside


def _comb(n: int, spacing: float, t: float) -> np.ndarray:
    lines = np.floor((np.arange(math.ceil(n / spacing) + 1) + t) * spacing).astype(int)
    return np.asarray(lines[lines < n])


def _fractional_spacing(n: int, box: slice, t: float, wanted: int, natural: float) -> float | None:
    """Return the spacing nearest to ``natural`` for which ``wanted`` lines of the comb lie outside the box.

    The number changes only where some line crosses an edge e of the box or the end of k-space: (i + t) d = e.
    Between two such spacings it is constant, so the middle of each interval is enough.
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
