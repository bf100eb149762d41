"""Draw the same masks as fastMRI and mridc, in an independent implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import UsageError
from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import CALIBRATION_SHARE, Bools, calibration_sides, legacy_generator

Drawn = tuple[Bools, tuple[int, ...], str]  # mask over the undersampled axes, sides of the calibration region, note
MRIDC_FWHM, MRIDC_CENTRE = 0.7, 0.02


@register_mask(rank=3, over="lines", own=False, compat=("fastmri",))
def equispaced_fraction(
    rng: np.random.RandomState, space: tuple[int, ...], count: int, box: tuple[slice, ...]
) -> tuple[Bools, str]:
    """Draw equispaced lines with fastMRI's fractional spacing; only for ``compat="fastmri"``."""
    raise UsageError(
        "equispaced_fraction is a fastMRI family",
        fix="add compat='fastmri', or use equispaced, which always achieves the acceleration",
    )


def fastmri(
    family: str,
    n: int,
    acceleration: float,
    calibration: int | tuple[int, ...] | None,
    center_fraction: float | None,
    seed: int | tuple[int, ...],
) -> Drawn:
    """Draw fastMRI's lines with the arguments of ``make_mask`` and the seed of `fastmri_seed`."""
    if calibration is not None and center_fraction is not None:
        raise UsageError(
            "calibration and center_fraction are two settings of the same size",
            why=f"calibration is {calibration}, center_fraction is {center_fraction:g}",
            fix="omit one of them",
        )
    if calibration is not None:
        center_fraction = calibration_sides((n,), n, calibration)[0] / n
    elif center_fraction is None:
        center_fraction = CALIBRATION_SHARE / acceleration
    if not 0 <= center_fraction <= 1:
        raise UsageError(
            "center_fraction must lie between 0 and 1",
            why=f"it is {center_fraction:g}",
            fix="fastMRI uses 0.08 and 0.04",
        )
    lines, low, _ = fastmri_lines(family, n, [acceleration], [center_fraction], seed)
    return lines, (low,), "fastMRI's rule: the requested acceleration holds on average, or without the centre"


def fastmri_seed(seed: int | tuple[int, ...], name: str, slice: int) -> int | tuple[int, ...]:
    """Return fastMRI's seed: the character codes of the file name, or the given seed."""
    if name and (seed != 0 or slice != 0):
        raise UsageError(
            "fastMRI's seed depends on the file name only and is equal for all slices",
            why=f"name is {name!r}, seed is {seed}, slice is {slice}",
            fix="leave seed and slice at 0, or omit name (seed_from combines all three in one seed)",
        )
    return tuple(map(ord, name)) if name else seed


def fastmri_lines(
    kind: str,
    n: int,
    accelerations: Sequence[float],
    center_fractions: Sequence[float],
    seed: int | Sequence[int],
) -> tuple[Bools, int, float]:
    """Draw the lines that fastMRI's mask functions choose for a seed, bit for bit (fastMRI 0.3.0, data/subsample.py).

    Args:
        kind: ``random`` (RandomMaskFunc: each line with the same probability, so that the acceleration holds only on
            average), ``equispaced`` (EquiSpacedMaskFunc: every R-th line, plus the centre) or ``equispaced_fraction``
            (EquispacedMaskFractionFunc: the fractional spacing that would give R with the centre; its lines lie at
            rounded positions, hence not quite equispaced, and never include the last line).
        n: number of lines.
        accelerations: acceleration factors, of which one is drawn, as in training.
        center_fractions: fraction of the lines in the fully sampled centre, one per acceleration.
        seed: 0 to 2**32 - 1, or several such numbers: fastMRI seeds with the character codes of the file name.

    Returns:
        The lines (n,), the number of lines in the fully sampled centre, and the drawn acceleration.

    Raises:
        UsageError: fastMRI has no mask for these numbers, or fails with an error.

    """
    rng = legacy_generator(seed)
    choice = rng.randint(len(center_fractions))
    acceleration, low = accelerations[choice], round(n * center_fractions[choice])

    def refuse_if(wrong: bool, what: str) -> None:
        if wrong:
            raise UsageError(
                f"fastMRI has no such mask: {what}",
                why=f"{n} lines, acceleration {acceleration:g}, {low} lines in the centre",
                fix="use a smaller centre or another acceleration, or omit compat, whose default has exact masks",
            )

    lines = np.zeros(n, dtype=bool)
    if kind == "random":
        refuse_if(low >= n, "all lines are in the fully sampled centre")
        lines |= rng.uniform(size=n) < (n / acceleration - low) / (n - low)
    elif kind == "equispaced":
        refuse_if(acceleration != int(acceleration), "the acceleration is not an integer")
        lines[rng.randint(0, high=round(acceleration)) :: int(acceleration)] = True
    else:
        refuse_if(n <= low * acceleration, "the fully sampled centre has all the lines")
        spacing = acceleration * (low - n) / (low * acceleration - n)
        first = rng.randint(0, high=round(spacing))
        lines[np.around(np.arange(first, n - 1, spacing)).astype(int)] = True
    start = (n - low + 1) // 2
    lines[start : start + low] = True
    return lines, low, acceleration


def mridc(
    family: str,
    space: tuple[int, ...],
    acceleration: float,
    calibration: int | tuple[int, ...] | None,
    fwhm: float | None,
    seed: int,
) -> Drawn:
    """Draw Gaussian masks as in the RIM and CIRIM papers (mridc), with the arguments of ``make_mask``.

    int(N / R) samples are drawn without replacement. Along lines (Gaussian1DMaskFunc) the density is g(x) = exp(-x² /
    (2 s²)), s = fwhm / 2.3548, x from -1 to 1 inclusive. In a plane (Gaussian2DMaskFunc) it is √(g(y) g(x)): the root
    widens the Gaussian, to a full width at half maximum of 0.99. The centre is added to these samples, so that the
    achieved acceleration is at most about R: int(0.02 n) lines, or the filled ellipse with half axes of 2 % of each
    axis around n / 2. mridc's own line class then shifts the mask away from the centre and applies it along the wrong
    axis; this function does neither.
    """
    if calibration is not None:
        raise UsageError(
            "mridc's masks have a fixed centre of 2 % of each axis",
            why=f"calibration is {calibration}",
            fix="omit calibration or compat",
        )
    sigma = (fwhm or MRIDC_FWHM) / math.sqrt(8 * math.log(2))
    bells = [np.exp(-(np.linspace(-1, 1, n) ** 2 / (2 * sigma**2))) for n in space]
    centre = np.zeros(space, dtype=bool)
    if family == "gaussian1d":
        density, (n,) = bells[0], space
        band = int(n * MRIDC_CENTRE)
        centre[(n - band) // 2 : (n - band) // 2 + band] = True
    else:
        density = np.sqrt(np.outer(*bells))
        y, x = (np.power((np.arange(n) - n / 2) / (MRIDC_CENTRE * n), 2) for n in space)
        centre = np.add.outer(y, x) < 1
    size, possible = int(density.size / acceleration), int(np.count_nonzero(density))
    if possible < size:
        raise UsageError(
            "the Gaussian density is too narrow for the number of samples",
            why=f"{size} samples must be drawn, but the density is above 0 at {possible} only",
            fix="use a larger fwhm (0.7 in the papers) or a higher acceleration",
        )
    rng = legacy_generator(seed)
    chosen = rng.choice(density.size, size=size, replace=False, p=(density / density.sum()).ravel())
    centre.flat[chosen] = True
    box = tuple(side.stop - side.start for side in find_calibration(centre))
    return centre, box, "mridc's rule: the centre is added to the samples of the requested acceleration"
