"""Our own masks, exact: how many samples the acceleration leaves, the calibration box among them, and the drawing."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.masks.box import calibration_sides, centred
from mrirecon.masks.lines import FWHM, equispaced_lines, gaussian_lines, random_lines
from mrirecon.masks.planes import gaussian_plane, poisson_plane
from mrirecon.masks.result import Bools


def draw(
    rng: np.random.RandomState,
    family: str,
    space: tuple[int, ...],
    rate: float,
    calibration: int | tuple[int, ...] | None,
    fwhm: float | None,
) -> tuple[Bools, tuple[int, ...], str]:
    """Return a mask over the undersampled axes, the sides of its calibration box, and a note.

    See ``make_mask`` for the arguments.
    """
    total = math.prod(space)
    count = round(total / rate)
    unit = "lines" if len(space) == 1 else "samples"
    if count < 1:
        raise UsageError(
            f"An acceleration of {rate:g} leaves nothing to sample.",
            why=f"there are {total} {unit}",
            fix=f"ask for at most {total}",
        )
    sides = calibration_sides(space, count, calibration)
    if count == total:
        return np.ones(space, dtype=bool), space, "nothing is left out"
    if math.prod(sides) > count:
        most = math.floor(100 * total / math.prod(sides)) / 100
        raise UsageError(
            "The calibration region alone has more samples than the acceleration leaves.",
            why=f"{total} {unit} at acceleration {rate:g} leave {count}, and the region "
            f"{'×'.join(str(c) for c in sides)} takes {math.prod(sides)}",
            fix=f"ask for an acceleration of at most {most:g}, or for a smaller region",
        )
    boxes = tuple(centred(n, c) for n, c in zip(space, sides, strict=True))
    if family == "random":
        drawn, note = random_lines(rng, space[0], count, boxes[0])
    elif family == "equispaced":
        drawn, note = equispaced_lines(rng, space[0], count, boxes[0])
    elif family == "gaussian1d":
        drawn, note = gaussian_lines(rng, space[0], count, boxes[0], fwhm or FWHM)
    elif family == "gaussian2d":
        drawn, note = gaussian_plane(rng, (space[0], space[1]), count, (boxes[0], boxes[1]), fwhm or FWHM)
    else:
        drawn, note = poisson_plane(rng, (space[0], space[1]), count, (boxes[0], boxes[1]))
    return drawn, sides, note
