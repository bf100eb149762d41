"""fastMRI's line masks, bit for bit for a seed: written from what its code does, not from its text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.masks.box import CALIBRATION_SHARE, calibration_sides
from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools, legacy_generator


@register_mask(rank=3, over="lines", own=False, compat=("fastmri",))
def equispaced_fraction(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Refuse: fastMRI's way to reach the acceleration asked with equispaced lines is drawn by `fastmri_lines` alone."""
    raise UsageError(
        "equispaced_fraction is fastMRI's way to reach the acceleration asked with equispaced lines.",
        fix="add compat='fastmri', or choose equispaced: our own always reaches it",
    )


def fastmri(
    family: str,
    n: int,
    rate: float,
    calibration: int | tuple[int, ...] | None,
    center_fraction: float | None,
    seed: int | tuple[int, ...],
) -> tuple[Bools, tuple[int, ...], str]:
    """Return fastMRI's lines, the number in the centre, and a note; see ``make_mask`` for the arguments."""
    if calibration is not None and center_fraction is not None:
        raise UsageError(
            "calibration and center_fraction say the same thing twice.",
            why=f"{calibration} lines and a share of {center_fraction:g}",
            fix="leave one away",
        )
    if calibration is not None:
        center_fraction = calibration_sides((n,), n, calibration)[0] / n
    elif center_fraction is None:
        center_fraction = CALIBRATION_SHARE / rate
    if not 0 <= center_fraction <= 1:
        raise UsageError(
            "center_fraction must lie between 0 and 1.",
            why=f"it is {center_fraction:g}",
            fix="fastMRI's are 0.08, 0.04",
        )
    lines, low, _ = fastmri_lines(family, n, [rate], [center_fraction], seed)
    return lines, (low,), "fastMRI's rule: the acceleration asked is met on average, or before the centre is added"


def fastmri_seed(seed: int | tuple[int, ...], name: str, slice: int) -> int | tuple[int, ...]:
    """Return what fastMRI seeds with: the character codes of the file's name, or the seed given."""
    if name and (seed != 0 or slice != 0):
        raise UsageError(
            "fastMRI seeds by the name of the file alone, the same for every slice.",
            why=f"name is {name!r}, and seed is {seed}, slice is {slice}",
            fix="leave seed and slice at 0, or leave name away (seed_from makes one seed of the three)",
        )
    return tuple(map(ord, name)) if name else seed


def fastmri_lines(
    kind: str,
    n: int,
    accelerations: Sequence[float],
    center_fractions: Sequence[float],
    seed: int | Sequence[int],
) -> tuple[Bools, int, float]:
    """Return the lines that fastMRI's mask functions choose for a seed, bit for bit (fastMRI 0.3.0, data/subsample.py).

    Args:
        kind: ``random`` (RandomMaskFunc: each line with one probability, so that the acceleration holds on average
            only), ``equispaced`` (EquiSpacedMaskFunc: every R-th line, the centre comes on top) or
            ``equispaced_fraction`` (EquispacedMaskFractionFunc: the fractional spacing that would give R with the
            centre; its lines lie at rounded positions, hence not quite equispaced, and the last line never is one).
        n: number of lines.
        accelerations: one is chosen at random, as in training; pass one for that one.
        center_fractions: share of the lines that is the fully sampled centre, one for each acceleration.
        seed: 0 to 2**32 - 1, or several such numbers: fastMRI seeds with the character codes of the file name.

    Returns:
        (n,) the lines, the number of lines in the fully sampled centre, and the acceleration chosen.

    Raises:
        UsageError: numbers for which fastMRI has no mask, or stops with an error.

    """
    rng = legacy_generator(seed)
    choice = rng.randint(len(center_fractions))
    acceleration, low = accelerations[choice], round(n * center_fractions[choice])
    start = (n - low + 1) // 2
    lines = np.zeros(n, dtype=bool)
    if kind == "random":
        _refuse(low >= n, "all lines are in the fully sampled centre", n, acceleration, low)
        lines |= rng.uniform(size=n) < (n / acceleration - low) / (n - low)
    elif kind == "equispaced":
        _refuse(acceleration != int(acceleration), "the acceleration is not a whole number", n, acceleration, low)
        lines[rng.randint(0, high=round(acceleration)) :: int(acceleration)] = True
    else:
        spare = n - low * acceleration
        _refuse(spare <= 0, "the fully sampled centre alone uses up the lines", n, acceleration, low)
        spacing = acceleration * (low - n) / (low * acceleration - n)
        first = rng.randint(0, high=round(spacing))
        lines[np.around(np.arange(first, n - 1, spacing)).astype(int)] = True
    lines[start : start + low] = True
    return lines, low, acceleration


def _refuse(wrong: bool, what: str, n: int, acceleration: float, low: int) -> None:
    if wrong:
        raise UsageError(
            f"fastMRI has no such mask: {what}.",
            why=f"{n} lines, acceleration {acceleration:g}, {low} lines in the centre",
            fix="choose a smaller centre or another acceleration, or leave compat away: our own masks are exact",
        )
