"""What a mask is, what acceleration it reaches, and the seed that it is drawn from."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrirecon.errors import InputError, UsageError

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MaskResult:
    """A sampling mask, and what can be said of it.

    Args:
        mask: (*space), true where k-space is sampled; the k-space centre is at index n // 2.
        acceleration: the acceleration achieved, calibration region included: size / number of samples.
        calibration: (*space), size of the fully sampled box around the centre, 0 where there is none. For masks from
            a file and in the manner of mridc it is measured, for the others it is the box that was laid down.
        family: name of a registered family, see `mrirecon.masks.FAMILIES`.
        asked: the acceleration asked for; None for a file.
        seed: what the generator was started with: the number given, or fastMRI's tuple of character codes.
        name: the file name that the mask was drawn for; empty when for none in particular.
        slice: the slice that the mask was drawn for.
        compat: ``none``, ``fastmri`` or ``mridc``.
        axes: the undersampled axes, in ascending order; all others are fully sampled.
        notes: what a user should know of this mask.

    """

    mask: Bools
    acceleration: float
    calibration: tuple[int, ...]
    family: str
    asked: float | None = None
    seed: int | tuple[int, ...] = 0
    name: str = ""
    slice: int = 0
    compat: str = "none"
    axes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for people: family, acceleration achieved, calibration region."""
        size = "×".join(str(n) for n in self.mask.shape)
        box = "×".join(str(n) for n in self.calibration) if all(self.calibration) else "none"
        asked = "" if self.asked is None else f" (asked {self.asked:g})"
        style = "" if self.compat == "none" else f", as {self.compat}"
        return (
            f"{self.family}{style}, {size}: acceleration {self.acceleration:.4g}{asked}, "
            f"{int(self.mask.sum())} of {self.mask.size} samples, calibration region {box}"
        )

    def as_dict(self) -> dict[str, object]:
        """Return everything but the mask itself, as plain data for JSON."""
        return {
            "family": self.family,
            "shape": list(self.mask.shape),
            "acceleration": self.acceleration,
            "asked": self.asked,
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
    """Return size / number of samples of a mask of any shape.

    Raises:
        InputError: nothing is sampled.

    """
    sampled = np.asarray(mask, dtype=bool)
    count = int(sampled.sum())
    if count == 0:
        raise InputError("The mask samples nothing.", why=f"all {sampled.size} values are 0", fix="use another mask")
    return float(sampled.size / count)


def seed_from(seed: int, name: str = "", slice: int = 0) -> int:
    """Return a 32-bit seed that depends on (seed, file name, slice) alone: the same on every machine and day.

    The generators started with it are ``numpy.random.RandomState``, whose streams numpy has frozen (NEP 19), so that a
    mask drawn today can be drawn again in ten years; ``numpy.random.Generator`` gives no such promise.

    Args:
        seed: any integer.
        name: name of the file, without folders; composed and decomposed accents count as the same.
        slice: index of the slice.

    """
    key = json.dumps([int(seed), unicodedata.normalize("NFC", name), int(slice)])
    return int.from_bytes(hashlib.sha256(key.encode("ascii")).digest()[:4], "little")


def legacy_generator(seed: int | Sequence[int]) -> np.random.RandomState:
    """Return the generator that ``numpy.random.seed(seed)`` starts, of our own.

    Raises:
        UsageError: a seed that numpy's legacy generator does not take.

    """
    numbers = tuple(int(s) for s in seed) if isinstance(seed, Sequence) else (int(seed),)
    if not numbers or not all(0 <= s < 2**32 for s in numbers):
        raise UsageError(
            "This seed cannot start the generator that the compatible masks are drawn with.",
            why=f"seed is {seed}; numpy's RandomState takes 0 to 2**32 - 1",
            fix="choose a seed in that range",
        )
    return np.random.RandomState(numbers if isinstance(seed, Sequence) else numbers[0])


def spread_over(drawn: Bools, shape: tuple[int, ...], axes: tuple[int, ...]) -> Bools:
    """Return (*shape) a mask that was drawn over some axes and is the same along all others."""
    return np.ascontiguousarray(
        np.broadcast_to(drawn.reshape([n if a in axes else 1 for a, n in enumerate(shape)]), shape)
    )


def readout_note(shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """Return what to say where a plane was drawn for three axes: which one was taken as the readout."""
    whole = [a for a in range(len(shape)) if a not in axes]
    if len(shape) != 3 or len(axes) != 2:
        return ""
    return f"axis {whole[0]} ({shape[whole[0]]} samples) is taken as the readout, fully sampled"


def heaviest(rng: np.random.RandomState, log_weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Draw ``count`` indices without replacement, each next one with probability proportional to its weight.

    The exponential race of Efraimidis and Spirakis (Inf. Process. Lett. 97:181, 2006), in logarithms, so that weights
    of any smallness stay distinct: the index with the smallest E / w, E exponential, comes first.
    """
    race = np.log(-np.log1p(-rng.random_sample(log_weights.size))) - log_weights
    return np.argsort(race, kind="stable")[:count]
