"""Images small enough to be mailed, and exact enough to be measured: whole numbers, predicted, deflated.

One step serves all images of a case, so that differences of images are exact multiples of it: a quarter of the noise's
standard deviation σ of the reference, and at least 256 steps to white; or, where the page would grow too large, half of
σ and at least 64 steps, whose rounding adds 2 % to the noise's variance. A picture element is then a whole number, from
which a prediction is subtracted, either

- MED: that of LOCO-I (Weinberger et al., IEEE TIP 9:1309, 2000, eq. 1) from the pixels to the left, above and above
  left, zero outside; or
- the same pixel of an image before it: that of a method whose result looks alike leaves least;

whichever packs best. What is left is folded to positive numbers (0, −1, 1, −2, ...: 0, 1, 2, 3, ...), all low bytes
are put before all high ones (which are left out where they are zero), and that is deflated, with runs of one value and
no other repetitions (noise has none; looking for them costs time and space). `page/pixels.js` undoes it.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrirecon.metrics import least_squares_scale, object_mask

MED = 0
WHITE = 99.8  # percentile of the reference that is shown white
FINEST = 4096  # steps to white
DEPTHS = ((4.0, 256), (2.0, 64))  # steps to the noise's standard deviation, and at least to white
LARGEST = 2**15 - 1  # so that a folded difference has two bytes
MARGIN = 0.06  # of the field of view, around the object


@dataclass(frozen=True)
class Plane:
    """One image of one slice.

    Attributes:
        predictor: `MED`, or k for the k-th image of the slice, counted from 1.
        data: deflated, in base64.

    """

    predictor: int
    data: str


@dataclass(frozen=True)
class Depth:
    """In what steps the values of a case are stored.

    Attributes:
        step: in the reference's unit.
        noise: standard deviation that it was chosen by, in the same unit; 0 where none was found.
        white: the value shown white, in steps.

    """

    step: float
    noise: float
    white: float


def noise_level(image: np.ndarray, inside: np.ndarray) -> float:
    """Return the standard deviation of a magnitude image's noise inside the object.

    From the median of |diagonal differences of 2×2 pixels|, as Donoho and Johnstone do from the finest wavelets
    (Biometrika 81:425, 1994). Fine structure raises it a little.

    Args:
        image: (y, x).
        inside: (y, x) booleans.

    """
    v = np.asarray(image, np.float64)
    details = (v[:-1, :-1] - v[1:, :-1] - v[:-1, 1:] + v[1:, 1:]) / 2
    there = np.abs(details[inside[:-1, :-1]])
    return float(np.median(there)) / 0.6745 if there.size else 0.0


def choose_depths(slices: np.ndarray, others: Sequence[np.ndarray]) -> list[Depth]:
    """Return the steps for a case, finest first; see `DEPTHS`.

    Args:
        slices: (z, y, x) magnitudes of the first image, by which the noise is measured.
        others: the further images, scaled to it.

    """
    inside = object_mask(slices).numpy()
    white = float(np.percentile(slices[inside], WHITE)) if inside.any() else float(slices.max())
    top = max(float(np.max(v)) for v in (slices, *others))
    if not white > 0:
        white = top if top > 0 else 1.0
    found = [noise_level(v, m) for v, m in zip(slices, inside, strict=True) if m.any()]
    noise = float(np.median(found)) if found else 0.0
    steps = [max(min(max(noise / n, white / FINEST), white / least), top / LARGEST) for n, least in DEPTHS]
    return [Depth(step, noise, white / step) for step in steps]


def pack(values: np.ndarray, earlier: Sequence[np.ndarray] = ()) -> Plane:
    """Pack one slice.

    Args:
        values: (y, x) whole numbers from 0 to `LARGEST`.
        earlier: (y, x) each, the images of the same slice that are unpacked before this one.

    """
    v = np.asarray(values, np.int32)
    padded = np.pad(v, ((1, 0), (1, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    guess = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    tried = [_deflate(v - one) for one in (guess, *earlier)]
    best = min(range(len(tried)), key=lambda k: len(tried[k]))
    return Plane(best, base64.b64encode(tried[best]).decode("ascii"))


def _deflate(rest: np.ndarray) -> bytes:
    folded = np.where(rest < 0, -2 * rest - 1, 2 * rest)
    low, high = (folded & 255).astype(np.uint8), (folded >> 8).astype(np.uint8)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(low.tobytes() + (high.tobytes() if high.any() else b"")) + packer.flush()


def crop_box(slices: np.ndarray) -> tuple[slice, slice]:
    """Return the part (y, x) of the plane that holds the object of all slices (z, y, x), with a margin around it."""
    inside = np.any(object_mask(slices).numpy(), axis=0)
    box = []
    for axis, n in enumerate(inside.shape):
        there = np.flatnonzero(np.any(inside, axis=1 - axis))
        margin = max(4, math.ceil(MARGIN * n))
        box.append(slice(max(0, there[0] - margin), min(n, there[-1] + 1 + margin)) if there.size else slice(0, n))
    return box[0], box[1]


def scaled_to(images: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return slices (z, y, x), each by its least-squares factor inside the object of ``first`` (z, y, x).

    A slice in which that is undefined takes the median of the others' factors.
    """
    factors = least_squares_scale(images, first, object_mask(first)).numpy()
    usable = np.isfinite(factors) & (factors > 0)
    factors[~usable] = float(np.median(factors[usable])) if usable.any() else 1.0
    return np.asarray(np.abs(images) * factors[:, None, None])
