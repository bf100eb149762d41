"""Our own masks, exact: how many samples the acceleration leaves, the calibration box among them, and the drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.masks.box import calibration_sides, centred
from mrirecon.masks.registry import Family
from mrirecon.masks.result import Bools


def draw(
    rng: np.random.RandomState,
    family: Family,
    space: tuple[int, ...],
    rate: float,
    calibration: int | tuple[int, ...] | None,
    options: Mapping[str, object],
) -> tuple[Bools, tuple[int, ...], str]:
    """Return a mask over the undersampled axes, the sides of its calibration box, and a note.

    See ``make_mask`` for the arguments.

    Raises:
        UsageError: the numbers do not fit together, or the family did not draw what it was asked for.

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
    drawn, note = family.build(rng, space, count, boxes, **options)
    if drawn.shape != space or drawn.dtype != bool or int(drawn.sum()) != count or not drawn[boxes].all():
        raise UsageError(
            f"the mask family {family.name} did not draw what it was asked for",
            where=family.build.__module__,
            why=f"{count} of {space} with the region {boxes} were asked for, not {drawn.sum()} of {drawn.shape}",
            fix="mend the family: its mask has exactly as many samples, those of the region among them",
        )
    return drawn, sides, note
