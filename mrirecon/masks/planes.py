"""Draw masks over two phase-encoding axes with an exact number of samples: Gaussian and Poisson disc."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.masks.lines import FWHM, draw_weighted, log_gaussian
from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools

DITHER = 0.5  # in samples
_TOLERANCE = 0.005
_RUNS = 24


@register_mask(rank=5, over="plane", compat=("mridc",))
def gaussian2d(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...], *, fwhm: float = FWHM
) -> tuple[Bools, str]:
    """Draw the calibration box, and other samples with a Gaussian density around the centre.

    Args:
        rng: random generator.
        space: lengths of the two phase-encoding axes.
        count: number of samples, including the box.
        box: calibration box.
        fwhm: full width at half maximum of the density; k-space extends from -1 to 1 along each axis.

    """
    log_density = np.add.outer(log_gaussian(space[0], fwhm), log_gaussian(space[1], fwhm))
    return draw_weighted(rng, log_density, count, box), ""


@register_mask(rank=6, over="plane", slow=True)
def poisson(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Draw the calibration box, and other samples as a variable-density Poisson disc.

    Samples are tried in random order and accepted unless an earlier sample excludes them (dart throwing on the k-space
    grid: Cook, ACM Trans. Graph. 5:51, 1986; for MRI: Vasanawala et al., Proc. ISBI 2011, 1039). A sample excludes
    others closer than r = 1 + slope * rho, in samples, where rho is its distance from the box, normalized to 1 at the
    edge of k-space along each axis, so that k-space is full next to the box. Bisection of the slope gives a few samples
    too many, of which the last ones are removed; none is added, so that the distance holds.

    Distances on a grid have few values (1, 1.41, 2, ...), which would cause rings of constant density. Therefore, a
    random number of up to ``DITHER`` is subtracted from each r. Any two samples outside the box have a distance >=
    min(r) - ``DITHER``.
    """
    shape, box = (space[0], space[1]), (box[0], box[1])
    blocked = np.zeros(shape, dtype=bool)
    blocked[box] = True
    wanted = count - int(blocked.sum())
    mask = blocked.copy()
    if wanted == 0:
        return mask, ""
    rho = distance_from_box(shape, box)
    order = rng.permutation(np.flatnonzero(~blocked))
    dither = DITHER * rng.random_sample(order.size)
    low, high, runs = 0.0, 1.0, 0
    best, slope = order, 0.0  # slope 0 excludes nothing
    bracketed = False
    while best.size - wanted > _TOLERANCE * wanted and runs < _RUNS:
        runs += 1
        middle = (low + high) / 2 if bracketed else high
        taken = _throw(shape, blocked, order, 1 + middle * rho.flat[order] - dither)
        if taken.size < wanted:
            high, bracketed = middle, True
        else:
            low = middle
            best, slope = taken, middle
            high = high if bracketed else 2 * high
    mask.flat[best[:wanted]] = True
    return mask, f"Poisson disc: spacing {1 + slope:.3g} samples at the edge of k-space"


def distance_from_box(shape: tuple[int, int], box: tuple[slice, slice]) -> np.ndarray:
    """Return the distance (*shape) from the box (or from the centre if it is empty), 1 at the end of each axis."""
    parts = []
    for n, side in zip(shape, box, strict=True):
        start, stop = side.start, max(side.stop, side.start + 1)
        k = np.arange(n)
        distance = np.maximum(0, np.maximum(start - k, k - (stop - 1)))
        parts.append(distance / max(1, int(distance.max())))
    return np.asarray(np.hypot.outer(parts[0], parts[1]))


def _throw(shape: tuple[int, int], blocked: np.ndarray, order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Try the samples in the given order, and return the flat indices of accepted samples.

    An accepted sample excludes all others closer than its radius. On a padded row-major grid of bytes, a disc takes a
    few slice assignments of about 1 µs in total; with boolean arrays, it takes 100 µs.
    """
    # The largest squared integer distance d² with d < r. A disc as wide as the grid already excludes all samples; a
    # larger disc would only need more memory.
    reach = np.clip(np.ceil(radius**2) - 1, 0, shape[0] ** 2 + shape[1] ** 2).astype(int)
    margin = math.isqrt(int(reach.max()))
    width = shape[1] + 2 * margin
    grid = bytearray(np.pad(blocked, margin).astype(np.uint8).tobytes())
    position = (order // shape[1] + margin) * width + order % shape[1] + margin
    discs: dict[int, list[tuple[int, int, bytes]]] = {}
    taken = []
    for index, (place, squared) in enumerate(zip(position.tolist(), reach.tolist(), strict=True)):
        if grid[place]:
            continue
        taken.append(index)
        if squared:
            if squared not in discs:
                discs[squared] = _disc(squared, width)
            for start, stop, run in discs[squared]:
                grid[place + start : place + stop] = run
    return order[taken]


def _disc(squared: int, width: int) -> list[tuple[int, int, bytes]]:
    """Return the rows of a disc on a grid of the given width: first and last offset from the centre, and bytes."""
    rows = []
    for down in range(-math.isqrt(squared), math.isqrt(squared) + 1):
        half = math.isqrt(squared - down * down)
        rows.append((down * width - half, down * width + half + 1, b"\1" * (2 * half + 1)))
    return rows
