"""The calibration region of a mask that is to be drawn: how large, and where."""

from __future__ import annotations

import math

from mrirecon.errors import UsageError

# Of the samples that the acceleration leaves, the share that the calibration region takes where none is asked: that of
# fastMRI's pairs, 4x with 8 % and 8x with 4 %. In a plane the box has at most 24 samples a side.
CALIBRATION_SHARE, CALIBRATION_SIDE = 0.32, 24


def calibration_sides(space: tuple[int, ...], count: int, asked: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the sides of the calibration box along the undersampled axes, of which ``count`` samples are taken."""
    if asked is None:
        if len(space) == 1:
            return (round(CALIBRATION_SHARE * count),)
        side = min(CALIBRATION_SIDE, math.isqrt(int(CALIBRATION_SHARE * count)))
        return tuple(min(side, n) for n in space)
    sides = tuple(int(c) for c in asked) if isinstance(asked, tuple) else (int(asked),) * len(space)
    if len(sides) != len(space) or not all(0 <= c <= n for c, n in zip(sides, space, strict=True)):
        raise UsageError(
            "The calibration region does not fit.",
            why=f"it is {'×'.join(str(c) for c in sides)}, and the undersampled axes have the lengths {space}",
            fix="give one number, or one for each undersampled axis, none longer than its axis",
        )
    return tuple(0 for _ in sides) if 0 in sides else sides


def centred(n: int, size: int) -> slice:
    """Return the ``size`` samples around the centre of n, as scanners and ``find_calibration`` centre them."""
    start = n // 2 - size // 2
    return slice(start, start + size)
