"""Describe a mask (`MaskResult`), and provide seeds, calibration regions and draws for all families."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrirecon.errors import InputError, UsageError
from mrirecon.io.drawing import Panel, Shown

Bools = npt.NDArray[np.bool_]

# Default fraction of the samples in the calibration region, as in fastMRI: 8 % at 4x and 4 % at 8x. In a plane, the box
# has at most 24 samples per side.
CALIBRATION_SHARE, CALIBRATION_SIDE = 0.32, 24


@dataclass(frozen=True, eq=False)
class MaskResult(Shown):
    """Hold a sampling mask and its description; `numpy.asarray` returns the mask.

    Attributes:
        mask: (*space), True where k-space is sampled; the k-space centre is at index n // 2.
        acceleration: achieved acceleration, including the calibration region: size / number of samples.
        calibration: (*space), size of the fully sampled box around the centre, or 0; measured for masks from a file and
            of mridc, otherwise as requested.
        family: name of a registered family, see `mrirecon.masks.FAMILIES`.
        requested: requested acceleration; None for a file.
        seed: given seed, or fastMRI's tuple of character codes.
        name: file name for which the mask was drawn, or empty.
        slice: index of the slice for which the mask was drawn.
        compat: ``none``, ``fastmri`` or ``mridc``.
        axes: undersampled axes in ascending order; all others are fully sampled.
        notes: notes for the user.

    """

    mask: Bools
    acceleration: float
    calibration: tuple[int, ...]
    family: str
    requested: float | None = None
    seed: int | tuple[int, ...] = 0
    name: str = ""
    slice: int = 0
    compat: str = "none"
    axes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line of text: family, achieved acceleration, calibration region."""
        size = "×".join(str(n) for n in self.mask.shape)
        box = "×".join(str(n) for n in self.calibration) if all(self.calibration) else "none"
        requested = "" if self.requested is None else f" (requested {self.requested:g})"
        style = "" if self.compat == "none" else f", as {self.compat}"
        return (
            f"{self.family}{style}, {size}: acceleration {self.acceleration:.4g}{requested}, "
            f"{int(self.mask.sum())} of {self.mask.size} samples, calibration region {box}"
        )

    def panels(self) -> list[Panel]:
        """Return panels with the mask and its point spread function."""
        from mrirecon.masks.picture import mask_panels  # which imports this module

        return mask_panels(self)[0]

    def caption(self) -> list[str]:
        """Return the description and the notes."""
        return [self.describe(), *self.notes]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.mask, dtype) if copy else np.asarray(self.mask, dtype)

    def as_dict(self) -> dict[str, object]:
        """Return everything but the mask itself, as plain data for JSON."""
        return {
            "family": self.family,
            "shape": list(self.mask.shape),
            "acceleration": self.acceleration,
            "requested": self.requested,
            "samples": int(self.mask.sum()),
            "calibration": list(self.calibration),
            "axes": list(self.axes),
            "seed": list(self.seed) if isinstance(self.seed, tuple) else self.seed,
            "name": self.name,
            "slice": self.slice,
            "compat": self.compat,
            "notes": list(self.notes),
        }


def achieved_acceleration(mask: npt.ArrayLike) -> float:
    """Return the acceleration of a mask of any shape: size / number of samples.

    Raises:
        InputError: the mask has no samples.

    """
    sampled = np.asarray(mask, dtype=bool)
    count = int(sampled.sum())
    if count == 0:
        raise InputError("the mask has no samples", why=f"all {sampled.size} values are 0", fix="use another mask")
    return float(sampled.size / count)


def seed_from(seed: int, name: str = "", slice: int = 0) -> int:
    """Return a 32-bit seed that depends only on (seed, file name, slice): the same on every machine.

    The seed is for ``numpy.random.RandomState``, whose streams are frozen (NEP 19), so that later versions of numpy
    draw the same mask; ``numpy.random.Generator`` does not guarantee this.

    Args:
        seed: any integer.
        name: name of the file without folders; composed and decomposed accents are equivalent.
        slice: index of the slice.

    """
    key = json.dumps([int(seed), unicodedata.normalize("NFC", name), int(slice)])
    return int.from_bytes(hashlib.sha256(key.encode("ascii")).digest()[:4], "little")


def legacy_generator(seed: int | Sequence[int]) -> np.random.RandomState:
    """Return a random generator with the stream of ``numpy.random.seed(seed)``.

    Raises:
        UsageError: numpy's legacy generator does not accept the seed.

    """
    numbers = tuple(int(s) for s in seed) if isinstance(seed, Sequence) else (int(seed),)
    if not numbers or not all(0 <= s < 2**32 for s in numbers):
        raise UsageError(
            "invalid seed for compatible masks",
            why=f"seed is {seed}; numpy's RandomState takes 0 to 2**32 - 1",
            fix="choose a seed in that range",
        )
    return np.random.RandomState(numbers if isinstance(seed, Sequence) else numbers[0])


def calibration_sides(space: tuple[int, ...], count: int, requested: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the sides of the calibration box along the undersampled axes of a mask with ``count`` samples.

    Raises:
        UsageError: the box is larger than k-space.

    """
    if requested is None:
        if len(space) == 1:
            return (round(CALIBRATION_SHARE * count),)
        side = min(CALIBRATION_SIDE, math.isqrt(int(CALIBRATION_SHARE * count)))
        return tuple(min(side, n) for n in space)
    sides = tuple(int(c) for c in requested) if isinstance(requested, tuple) else (int(requested),) * len(space)
    if len(sides) != len(space) or not all(0 <= c <= n for c, n in zip(sides, space, strict=True)):
        raise UsageError(
            "the calibration region is larger than k-space",
            why=f"region {'×'.join(str(c) for c in sides)}, undersampled axes {space}",
            fix="give one number, or one per undersampled axis, at most the length of the axis",
        )
    return tuple(0 for _ in sides) if 0 in sides else sides


def centred(n: int, size: int) -> slice:
    """Return the ``size`` samples around the centre of n, centred as on scanners and in ``find_calibration``."""
    start = n // 2 - size // 2
    return slice(start, start + size)


def spread_over(drawn: Bools, shape: tuple[int, ...], axes: tuple[int, ...]) -> Bools:
    """Repeat a mask over some axes along all other axes, to the shape (*shape)."""
    return np.ascontiguousarray(
        np.broadcast_to(drawn.reshape([n if a in axes else 1 for a, n in enumerate(shape)]), shape)
    )


def readout_note(shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """Return a note on the assumed readout axis of a plane in three axes, or an empty text."""
    whole = [a for a in range(len(shape)) if a not in axes]
    if len(shape) != 3 or len(axes) != 2:
        return ""
    return f"axis {whole[0]} ({shape[whole[0]]} samples) is assumed to be the readout, fully sampled"


def weighted_sample(
    rng: np.random.RandomState, log_weights: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.intp]:
    """Draw ``count`` indices without replacement, each with probability proportional to its weight.

    Sorts by E / w, with E exponentially distributed (Efraimidis and Spirakis, Inf. Process. Lett. 97:181, 2006), in
    logarithms, so that tiny weights stay distinct.
    """
    race = np.log(-np.log1p(-rng.random_sample(log_weights.size))) - log_weights
    return np.argsort(race, kind="stable")[:count]
