"""Insert lesions, similar to white-matter lesions, into images and return their mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Real = npt.NDArray[np.floating[Any]]

SMOOTH = 0.12  # maximum relative standard deviation in 5×5 pixels of homogeneous tissue
TISSUE = 0.3  # minimum value of tissue, relative to the image's 95th percentile
MARGIN = 0.06  # minimum depth of a lesion's centre below the object's surface, relative to the shorter side


@dataclass(frozen=True)
class Lesion:
    """Describe an inserted lesion.

    Attributes:
        label: value in the mask.
        centre: (y, x) in pixels.
        diameter: mean of both axes, in the unit of the spacing.
        contrast: (lesion − tissue) / tissue at the centre; negative for dark lesions.

    """

    label: int
    centre: tuple[float, float]
    diameter: float
    contrast: float


def insert_lesions(
    image: Real,
    rng: np.random.Generator,
    count: int,
    *,
    size: tuple[float, float] = (3.0, 10.0),
    contrast: tuple[float, float] = (0.15, 0.6),
    sign: float | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    region: npt.NDArray[np.bool_] | None = None,
) -> tuple[Real, npt.NDArray[np.uint8], list[Lesion]]:
    """Insert lesions into homogeneous tissue: deformed ellipses with an edge one pixel wide (partial volume).

    Args:
        image: (y, x), real, nonnegative.
        rng: random generator of position, size, shape and contrast.
        count: number of lesions; fewer are inserted if they would overlap.
        size: smallest and largest mean diameter, in the unit of ``spacing``.
        contrast: lowest and highest |lesion − tissue| / tissue.
        sign: +1 for brighter, −1 for darker lesions; None draws one sign for the image.
        spacing: (y, x) pixel spacing.
        region: (y, x), mask of allowed centres; by default, homogeneous tissue below the object's surface.

    Returns:
        The image with lesions; their mask (y, x), 0 outside and 1, 2, … inside; and their descriptions.

    """
    out, labels = np.array(image, dtype=np.float32), np.zeros(image.shape, np.uint8)
    sign = sign if sign is not None else (1.0 if rng.random() < 0.5 else -1.0)
    mean = ndimage.uniform_filter(out, 5)
    places = lesion_places(out) if region is None else region
    lesions: list[Lesion] = []
    for _ in range(count):
        # The shape is drawn before the position, so that it does not depend on the positions of other lesions.
        diameter, strength = math.exp(rng.uniform(*np.log(size))), rng.uniform(*contrast)
        stretch, angle, pick = rng.uniform(0.7, 1.4), rng.uniform(0, math.pi), rng.random()
        bend = rng.normal(0, 0.12, 3), rng.uniform(0, 2 * math.pi, 3)
        radius = diameter / 2
        free = np.flatnonzero(places & (labels == 0))
        if len(free) == 0:
            break
        cy, cx = (int(i) for i in np.unravel_index(free[int(pick * len(free))], image.shape))
        reach = [math.ceil(1.6 * diameter / s) + 2 for s in spacing]
        box = tuple(slice(max(0, c - r), c + r + 1) for c, r in zip((cy, cx), reach, strict=True))
        y, x = (np.arange(n)[b] for n, b in zip(image.shape, box, strict=True))
        dy, dx = (y[:, None] - cy) * spacing[0], (x[None, :] - cx) * spacing[1]
        along, across = dy * math.cos(angle) + dx * math.sin(angle), dx * math.cos(angle) - dy * math.sin(angle)
        polar = np.arctan2(across, along)
        edge = 1 + sum(a * np.cos((k + 2) * polar + p) for k, (a, p) in enumerate(zip(*bend, strict=True)))
        distance = np.hypot(along / stretch, across * stretch) - radius * edge  # negative inside
        weight = np.clip(0.5 - distance / max(spacing), 0, 1)
        if not (weight > 0.5).any() or (labels[box][weight > 0] > 0).any():
            continue
        out[box] += (sign * strength * float(mean[cy, cx])) * weight.astype(np.float32)
        labels[box][weight > 0.5] = len(lesions) + 1
        lesions.append(Lesion(len(lesions) + 1, (float(cy), float(cx)), diameter, sign * strength))
    return np.maximum(out, 0), labels, lesions


def lesion_places(image: Real) -> npt.NDArray[np.bool_]:
    """Return the mask (y, x) of allowed lesion centres: homogeneous tissue below the object's surface."""
    mean = ndimage.uniform_filter(image, 5)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(image**2, 5) - mean**2, 0))
    level = float(np.percentile(image, 95))
    depth = max(2, round(MARGIN * min(image.shape)))
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(image > 0.15 * level, iterations=2))
    inside = ndimage.binary_erosion(inside, iterations=depth)
    return np.asarray(inside & (mean > TISSUE * level) & (deviation < SMOOTH * mean))
