"""Insert lesions like those of white matter into images, and return a mask of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Real = npt.NDArray[np.floating[Any]]

SMOOTH = 0.12  # relative standard deviation in 5×5 pixels, below which tissue counts as homogeneous
TISSUE = 0.3  # of the image's 95th percentile, above which a pixel is tissue
MARGIN = 0.06  # of the shorter side: least depth of a lesion's centre below the surface of the object


@dataclass(frozen=True)
class Lesion:
    """Describe an inserted lesion.

    Attributes:
        label: its value in the mask.
        centre: (y, x) in pixels.
        diameter: mean of its axes, in the unit of the spacing.
        contrast: (lesion − tissue) / tissue at its centre; negative where darker.

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
    """Insert lesions into homogeneous tissue: bent ellipses, whose edge is one pixel wide, as partial volume makes it.

    Args:
        image: (y, x), real, not negative.
        rng: of place, size, form and contrast.
        count: how many; fewer where they would overlap.
        size: lowest and highest mean diameter, in the unit of ``spacing``.
        contrast: lowest and highest |lesion − tissue| / tissue.
        sign: +1 for brighter, −1 for darker lesions; None draws one sign for the image.
        spacing: (y, x) distances of pixels.
        region: (y, x), where centres may lie; by default homogeneous tissue below the surface of the object.

    Returns:
        The image with lesions; their mask (y, x), 0 outside and 1, 2, … inside; and their descriptions.

    """
    out, labels = np.array(image, dtype=np.float32), np.zeros(image.shape, np.uint8)
    sign = sign if sign is not None else (1.0 if rng.random() < 0.5 else -1.0)
    mean = ndimage.uniform_filter(out, 5)
    places = lesion_places(out) if region is None else region
    lesions: list[Lesion] = []
    for _ in range(count):
        # The form is drawn before the place, so that it does not depend on the places of other lesions.
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
        distance = np.hypot(along / stretch, across * stretch) - radius * edge  # below zero inside
        weight = np.clip(0.5 - distance / max(spacing), 0, 1)
        if not (weight > 0.5).any() or (labels[box][weight > 0] > 0).any():
            continue
        out[box] += (sign * strength * float(mean[cy, cx])) * weight.astype(np.float32)
        labels[box][weight > 0.5] = len(lesions) + 1
        lesions.append(Lesion(len(lesions) + 1, (float(cy), float(cx)), diameter, sign * strength))
    return np.maximum(out, 0), labels, lesions


def lesion_places(image: Real) -> npt.NDArray[np.bool_]:
    """Return (y, x) where the centre of a lesion may lie: in homogeneous tissue below the surface of the object."""
    mean = ndimage.uniform_filter(image, 5)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(image**2, 5) - mean**2, 0))
    level = float(np.percentile(image, 95))
    depth = max(2, round(MARGIN * min(image.shape)))
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(image > 0.15 * level, iterations=2))
    inside = ndimage.binary_erosion(inside, iterations=depth)
    return np.asarray(inside & (mean > TISSUE * level) & (deviation < SMOOTH * mean))
