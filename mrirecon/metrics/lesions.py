"""Measure the contrast, sharpness, recovery and detectability of lesions.

Lesions are given as labels. Each lesion is compared, slice by slice, with a shell of surrounding tissue: at a distance
of 2 to 5 pixels, inside the object, outside all lesions. With means m and the shell's standard deviation s:

- contrast (m_lesion − m_shell) / m_shell, Weber's (Peli, J. Opt. Soc. Am. A 7:2032, 1990); negative for dark lesions;
- contrast-to-noise ratio (m_lesion − m_shell) / s (Welvaert and Rosseel, PLoS ONE 8:e77089, 2013, list it and others),
  where s includes the structure of the tissue;
- sharpness: the mean slope across the border over the lesion's height, in 1/mm, which is the reciprocal of the edge
  width. The slope is that of a line fitted to all pixels within 2 pixels of the border (our own definition);
- recovery: contrast in the image over contrast in the reference (the recovery coefficient of emission tomography); the
  ideal value is 1.

For pairs of images with and without a lesion, `detectability` measures how well an observer who knows the signal
distinguishes them (the signal-known-exactly matched filter: Barrett and Myers, Foundations of Image Science, 2004, ch.
13), and how often a reconstruction shows a false lesion or misses a true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from mrirecon.errors import InputError
from mrirecon.metrics import Array, magnitude, object_mask

NEAR, FAR = 2.0, 5.0  # limits of the shell, in pixels from the lesion
REACH = 2.0  # width of the border's profile, in pixels to both sides
LEAST = 4  # minimum number of pixels of a lesion and of its shell
SIZES = (0.0, 4.0, 8.0, math.inf)  # bounds of the groups by diameter, in mm


@dataclass(frozen=True)
class LesionScore:
    """Hold the measures of one lesion; None if it is too small or has no tissue around it.

    Attributes:
        label: value in the mask.
        slices: number of slices that contain the lesion.
        pixels: total number of pixels.
        diameter: diameter in mm of a circle with the area of the largest section.
        contrast: contrast in the image.
        contrast_reference: contrast in the reference.
        recovery: contrast in the image over contrast in the reference.
        cnr: contrast-to-noise ratio in the image.
        cnr_reference: contrast-to-noise ratio in the reference.
        sharpness: sharpness in the image, 1/mm.
        sharpness_reference: sharpness in the reference, 1/mm.
        reason: reason for values that are None.

    """

    label: int
    slices: int
    pixels: int
    diameter: float
    contrast: float | None = None
    contrast_reference: float | None = None
    recovery: float | None = None
    cnr: float | None = None
    cnr_reference: float | None = None
    sharpness: float | None = None
    sharpness_reference: float | None = None
    reason: str | None = None


def measure_lesions(
    image: Array, reference: Array, labels: np.ndarray, *, spacing: tuple[float, float] = (1.0, 1.0)
) -> list[LesionScore]:
    """Measure every lesion of a volume in an image and in its reference.

    Args:
        image: (z, y, x) or (y, x); the contrast does not depend on its scale.
        reference: same shape.
        labels: same shape, integers: 0 outside, and one value per lesion. A mask of zeros and ones is split into
            connected lesions (including connections at edges and corners).
        spacing: (y, x) pixel spacing in mm.

    Raises:
        InputError: shapes that differ.

    """
    x, r = magnitude(image).numpy(), magnitude(reference).numpy()
    labels = np.asarray(labels)
    if not x.shape == r.shape == labels.shape or x.ndim not in (2, 3):
        raise InputError(
            "the image, its reference and the lesions differ in shape", why=f"{x.shape}, {r.shape}, {labels.shape}"
        )
    if x.ndim == 2:
        x, r, labels = x[None], r[None], labels[None]
    numbered = separate(labels)
    tissue = object_mask(r).numpy() & (numbered == 0)
    measures = []
    for label, place in enumerate(ndimage.find_objects(numbered), start=1):
        if place is None:
            continue
        margin = math.ceil(FAR) + 1
        box = (
            place[0],
            *(
                slice(max(0, p.start - margin), min(n, p.stop + margin))
                for p, n in zip(place[1:], x.shape[1:], strict=True)
            ),
        )
        measures.append(_measure(label, x[box], r[box], numbered[box] == label, tissue[box], spacing))
    return measures


def separate(labels: np.ndarray) -> np.ndarray:
    """Return labels (z, y, x) with one number per lesion; split zeros and ones into connected components."""
    values = np.unique(labels)
    if set(values.tolist()) <= {0, 1}:
        parts, _ = ndimage.label(labels > 0, np.ones((3, 3, 3)))
        return np.asarray(parts, dtype=np.int32)
    return np.asarray(labels, dtype=np.int32)


def _measure(
    label: int, x: np.ndarray, r: np.ndarray, inside: np.ndarray, tissue: np.ndarray, spacing: tuple[float, float]
) -> LesionScore:
    areas = inside.sum((1, 2))
    diameter = 2 * math.sqrt(float(areas.max()) * spacing[0] * spacing[1] / math.pi)
    slices, pixels = int((areas > 0).sum()), int(areas.sum())
    shell = np.zeros_like(inside)
    signed = np.zeros(inside.shape)
    for z in range(len(inside)):
        if not areas[z]:
            signed[z] = np.inf
            continue
        outer, inner = ndimage.distance_transform_edt(~inside[z]), ndimage.distance_transform_edt(inside[z])
        shell[z] = tissue[z] & (outer >= NEAR) & (outer <= FAR)
        # distance from the border, which is half a pixel outside the last pixel
        signed[z] = np.where(inside[z], 0.5 - inner, outer - 0.5)
    if pixels < LEAST or shell.sum() < LEAST:
        why = f"{pixels} pixels, {int(shell.sum())} in the surrounding tissue; at least {LEAST} are needed"
        return LesionScore(label, slices, pixels, diameter, reason=why)
    border = (np.abs(signed) <= REACH) & (inside | tissue)
    step = math.sqrt(spacing[0] * spacing[1])
    values = [_contrast(v, inside, shell) for v in (x, r)]
    edges = [_sharpness(v, signed * step, border, c[2]) for v, c in zip((x, r), values, strict=True)]
    (contrast, cnr, _), (true_contrast, true_cnr, _) = values
    recovery = None if contrast is None or not true_contrast else contrast / true_contrast
    reason = None if recovery is not None else "the tissue around it is zero, or the lesion has no contrast"
    return LesionScore(
        label, slices, pixels, diameter, contrast, true_contrast, recovery, cnr, true_cnr, edges[0], edges[1], reason
    )


def _contrast(v: np.ndarray, inside: np.ndarray, shell: np.ndarray) -> tuple[float | None, float | None, float]:
    """Return contrast, contrast-to-noise ratio and height of a lesion."""
    around, spread = float(v[shell].mean()), float(v[shell].std(ddof=1))
    height = float(v[inside].mean()) - around
    return height / around if around > 0 else None, height / spread if spread > 0 else None, height


def _sharpness(v: np.ndarray, distance: np.ndarray, border: np.ndarray, height: float) -> float | None:
    """Return the negative slope of a line fitted to the border's pixels, over the lesion's height."""
    position, values = distance[border], v[border]
    position = position - position.mean()
    spread = float((position**2).sum())
    if not height or not spread:
        return None
    return -float((position * (values - values.mean())).sum()) / spread / height


def by_size(lesions: Sequence[LesionScore]) -> list[dict[str, object]]:
    """Return the number of lesions and the median of defined values for each group of diameters."""
    rows: list[dict[str, object]] = []
    for low, high in pairwise(SIZES):
        group = [s for s in lesions if low <= s.diameter < high]
        row: dict[str, object] = {"from mm": low, "to mm": None if math.isinf(high) else high, "lesions": len(group)}
        for name in ("recovery", "contrast", "contrast_reference", "cnr", "cnr_reference", "sharpness"):
            values = [v for s in group if (v := getattr(s, name)) is not None]
            row[name] = float(np.median(values)) if values else None
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Detectability:
    """Hold the results of a matched filter on pairs of images with and without lesions.

    Attributes:
        pairs: number of pairs.
        d_prime: (mean response with − without) / root mean of both variances.
        recovered: mean response with a lesion; 1 if the matched filter finds all of its contrast.
        missed: fraction of lesions with a response below one half.
        hallucinated: fraction of absent lesions with a response above one half.

    """

    pairs: int
    d_prime: float | None
    recovered: float
    missed: float
    hallucinated: float


def detectability(
    present: Sequence[np.ndarray],
    absent: Sequence[np.ndarray],
    true_present: Sequence[np.ndarray],
    true_absent: Sequence[np.ndarray],
) -> Detectability:
    """Measure how well a matched filter distinguishes images with and without a lesion.

    The response of image x of pair i is ⟨s, x − b⟩ / ⟨s, s⟩, with the lesion's true signal s = r₁ − r₀ and the true
    background b = r₀: 1 for the whole lesion, 0 for none.

    Args:
        present: reconstructions (y, x) with the lesion, one per pair, in the scale of the truth.
        absent: reconstructions without the lesion.
        true_present: references with the lesion.
        true_absent: references without the lesion.

    Raises:
        InputError: there are fewer than two pairs, the numbers differ, or a pair has no lesion.

    """
    counts = {len(present), len(absent), len(true_present), len(true_absent)}
    if len(counts) > 1 or min(counts) < 2:
        raise InputError("detectability needs at least two complete pairs", why=f"numbers of images: {sorted(counts)}")
    responses = np.empty((2, len(present)))
    pairs = zip(present, absent, true_present, true_absent, strict=True)
    for i, (with_it, without, truth, background) in enumerate(pairs):
        signal = np.asarray(truth, np.float64) - background
        power = float((signal**2).sum())
        if power == 0:
            raise InputError("a pair has no lesion", where=f"pair {i}", why="both references are equal")
        responses[:, i] = [float((signal * (v - background)).sum()) / power for v in (with_it, without)]
    spread = math.sqrt(float(responses.var(axis=1, ddof=1).mean()))
    gap = float(responses[0].mean() - responses[1].mean())
    return Detectability(
        responses.shape[1],
        gap / spread if spread > 0 else None,
        float(responses[0].mean()),
        float((responses[0] < 0.5).mean()),
        float((responses[1] > 0.5).mean()),
    )
