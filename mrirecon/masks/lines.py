"""Draw masks of lines: exactly ``count`` of n phase-encoding lines."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools, weighted_sample

FWHM = 1.0


@register_mask(rank=1, over="lines", compat=("fastmri",))
def random(rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]) -> tuple[Bools, str]:
    """Draw the calibration lines and uniformly random lines, ``count`` in total."""
    return draw_weighted(rng, np.zeros(space), count, box), ""


@register_mask(rank=4, over="lines", compat=("mridc",))
def gaussian1d(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...], *, fwhm: float = FWHM
) -> tuple[Bools, str]:
    """Draw the calibration lines, and other lines with a Gaussian density around the centre.

    Args:
        rng: random generator.
        space: (n,), number of lines.
        count: number of sampled lines, including the calibration lines.
        box: calibration lines.
        fwhm: full width at half maximum of the density; k-space extends from -1 to 1.

    """
    return draw_weighted(rng, log_gaussian(space[0], fwhm), count, box), ""


@register_mask(rank=2, over="lines", compat=("fastmri",))
def equispaced(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Draw the calibration lines and an equispaced comb, ``count`` lines in total.

    A single comb floor((i + t) d), i = 0, 1, ..., covers the whole of k-space including the calibration region, so that
    both sides are in phase. If an integer spacing d gives the requested number of lines, one of the possible offsets is
    drawn. Otherwise, d is fractional: adjacent lines are floor(d) or ceil(d) apart, the phase t is drawn, and d is
    computed. (A solution exists: with increasing d, the number of lines outside the box changes by one at a time, from
    all to none.) The note states the spacing.
    """
    (n,), region = space, box[0]
    chosen = np.zeros(n, dtype=bool)
    chosen[region] = True
    free = n - int(chosen.sum())
    wanted = count - int(chosen.sum())
    if wanted in (0, free):
        return chosen if wanted == 0 else np.ones(n, dtype=bool), ""
    natural = (n - (region.stop - region.start)) / wanted
    steps = [
        step for step in range(2, n) if abs(wanted - wanted * natural / step) < 3
    ]  # other offsets are not possible
    exact = [(step, first) for step in steps for first in range(step) if _outside(n, region, step, first) == wanted]
    if exact:
        step, first = exact[rng.randint(len(exact))]
        chosen[first::step] = True
        return chosen, f"equispaced: every {step}th line"
    for t in rng.random_sample(64):  # the first is valid, unless two crossings coincide in floating point
        spacing = _fractional_spacing(n, region, float(t), wanted, natural)
        if spacing is not None:
            break
    else:
        raise AssertionError(f"no spacing leaves {wanted} lines outside {region} of {n}")
    chosen[_comb(n, spacing, float(t))] = True
    near, far = math.floor(spacing), math.ceil(spacing)
    return chosen, f"fractional spacing {spacing:.4g}: neighbouring lines are {near} or {far} apart"


def log_gaussian(n: int, fwhm: float) -> np.ndarray:
    """Return the logarithm (n,) of a Gaussian with maximum 1 at index n // 2; k-space extends from -1 to 1."""
    x = (np.arange(n) - n // 2) / (n / 2)
    return np.asarray(-4 * math.log(2) * (x / fwhm) ** 2)


def draw_weighted(rng: np.random.RandomState, log_weights: np.ndarray, count: int, box: tuple[slice, ...]) -> Bools:
    """Draw the box and other samples by their weights, ``count`` in total, in the shape of ``log_weights``."""
    chosen = np.zeros(log_weights.shape, dtype=bool)
    chosen[box] = True
    outside = np.flatnonzero(~chosen)
    chosen.flat[outside[weighted_sample(rng, log_weights.flat[outside], count - int(chosen.sum()))]] = True
    return chosen


def _outside(n: int, box: slice, step: int, first: int) -> int:
    """Return the number of lines first, first + step, ... below n that lie outside the box."""
    inside = len(range(first, box.stop, step)) - len(range(first, box.start, step))
    return len(range(first, n, step)) - inside


def _comb(n: int, spacing: float, t: float) -> np.ndarray:
    lines = np.floor((np.arange(math.ceil(n / spacing) + 1) + t) * spacing).astype(int)
    return np.asarray(lines[lines < n])


def _fractional_spacing(n: int, box: slice, t: float, wanted: int, natural: float) -> float | None:
    """Return the spacing closest to ``natural`` for which ``wanted`` lines of the comb lie outside the box.

    The number changes only if a line crosses an edge e of the box or the end of k-space: (i + t) d = e. Between two
    such spacings it is constant, so it is sufficient to test the middle of each interval.
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
