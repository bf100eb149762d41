"""Compress the images of a case slice by slice, with rounding errors below the noise.

Values are rounded to integer multiples of a step, predicted, and deflated. All images of a case have the same step, so
that their differences are exact multiples of it. The step is a quarter of the noise's standard deviation σ of the
reference, and at least 256 steps to white; or, if the page would be too large, half of σ and at least 64 steps to
white, whose rounding adds 2 % to the noise variance. From each value a prediction is subtracted, either

- MED: that of LOCO-I (Weinberger et al., IEEE TIP 9:1309, 2000, eq. 1) from the pixels to the left, above and above
  left, zero outside; or
- the same pixel of an earlier image, ideally of a method with a similar result;

whichever compresses best. The differences are mapped to nonnegative numbers (0, −1, 1, −2, ...: 0, 1, 2, 3, ...), all
low bytes are stored before all high bytes (which are omitted if they are all zero), and deflate compresses the result
with run-length matches only (noise has no other repetitions, and the search costs time and space). `page/pixels.js`
decodes it.

To limit the size of a page, `choose_slices` takes coarser steps, then omits slices.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mrirecon.errors import InputError
from mrirecon.evaluation import Options
from mrirecon.evaluation.report.cases import Case
from mrirecon.evaluation.report.tables import worst_slice
from mrirecon.io.safe.text import utf8
from mrirecon.masks import achieved_acceleration, point_spread
from mrirecon.metrics import METRICS, least_squares_scale, magnitude, object_mask
from mrirecon.metrics.lesions import separate

MED = 0
WHITE = 99.8  # percentile of the reference that is displayed as white
FINEST = 4096  # steps to white
DEPTHS = ((4.0, 256), (2.0, 64))  # steps per noise standard deviation, and fewest steps from black to white
LARGEST = 2**15 - 1  # so that a mapped difference fits into two bytes
MARGIN = 0.06  # margin around the object, relative to the field of view
FLOOR = -60  # dB: black in the picture of a point spread function
OVERHEAD = 100  # bytes of a slice in the page besides pictures and texts


class Plane(NamedTuple):
    """Hold one compressed image of one slice.

    Attributes:
        predictor: `MED`, or k to predict from the k-th image of the slice, counted from 1.
        data: deflated values in base64.

    """

    predictor: int
    data: str


@dataclass(frozen=True)
class Depth:
    """Hold the quantization step of a case.

    Attributes:
        step: step in the reference's unit.
        noise: standard deviation of the noise, in the same unit; 0 if none was measured.
        white: value displayed as white, in steps.

    """

    step: float
    noise: float
    white: float


@dataclass
class SliceImages:
    """Hold the compressed slices of one case.

    Attributes:
        case: case without its arrays.
        shape: (y, x) size of the stored region.
        field: (y, x) size of the images.
        truth: whether the first image is a reference.
        columns: names of the images; all images are scaled to the first.
        depths: quantization steps, finest first; empty without images.
        drawn: slices at each depth, in the format of `page/viewer.js`.
        sampling: mask and point spread function; may be empty.
        lesions: keys: item and label; values: the slice that shows most of the lesion.
        start: slice that is shown first.
        important: slices that are omitted last.
        fineness: index of the depth in the page.
        shown_slices: indices of the slices in the page.

    """

    case: Case
    shape: tuple[int, int] = (0, 0)
    field: tuple[int, int] = (0, 0)
    truth: bool = False
    columns: list[str] = dataclasses.field(default_factory=list)
    depths: list[Depth] = dataclasses.field(default_factory=list)
    drawn: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    lesions: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    start: int = 0
    important: list[int] = dataclasses.field(default_factory=list)
    fineness: int = 0
    shown_slices: list[int] = dataclasses.field(default_factory=list)

    @property
    def slices(self) -> list[dict[str, Any]]:
        """Return all slices at the depth of the page."""
        return self.drawn[self.fineness] if self.drawn else []

    @property
    def depth(self) -> Depth | None:
        """Return the quantization step of the page."""
        return self.depths[self.fineness] if self.depths else None

    @property
    def size(self) -> int:
        """Return the approximate size of the slices in the page in bytes."""
        return sum(map(self.slice_size, self.shown_slices))

    def slice_size(self, number: int) -> int:
        """Return the approximate size of one slice in the page in bytes."""
        one = self.slices[number]
        texts = sum(len(utf8(t)) + 3 for t in (one["name"], *one["scores"]))
        return OVERHEAD + texts + sum(len(p.data) + 8 for p in (*one["planes"], one["region"]) if p)


def pack_slices(case: Case, options: Options, *, full_images: bool = False) -> SliceImages:
    """Compress the images of a case.

    Args:
        case: case with its arrays.
        options: settings of the metrics.
        full_images: store the whole field of view instead of the object with a margin.

    Raises:
        InputError: two results have the same name.

    """
    names = [r.method for r in case.results]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        fix = "give each method a unique name"
        raise InputError(f"two results have the name {twice[0]!r}", where=case.name, fix=fix)
    named = [] if case.reference is None else [("reference", case.reference)]
    results = []
    for r in case.results:
        finite = r.images is None or bool(np.isfinite(r.images).all())
        failure = r.failure or (None if finite else "the images contain NaN or infinite values")
        results.append(replace(r, images=None, failure=failure))
        if r.images is not None and finite:
            named.append((r.method, r.images))
    kind = "" if case.reference is None else case.kind or "its reference"
    album = SliceImages(replace(case, reference=None, region=None, masks=None, results=results, kind=kind))
    # Images of another size count as failed; they are listed, but not shown.
    named = [(name, v) for name, v in named if v.shape == named[0][1].shape]
    if not named:
        return album
    base = _slices(named[0][1])
    depth = named[0][1].shape[1] if named[0][1].ndim == 4 else 1
    box = (slice(None), slice(None)) if full_images else crop_box(base)
    # one at a time, because float64 volumes are large
    images = [base[:, *box], *(scaled_to(_slices(v), base)[:, *box] for _, v in named[1:])]
    labels = None if case.region is None else case.region.reshape(base.shape)[:, *box]
    album.field, album.shape = (base.shape[1], base.shape[2]), (images[0].shape[1], images[0].shape[2])
    album.truth, album.columns = case.reference is not None, [name for name, _ in named]
    album.depths = choose_depths(images[0], images[1:])
    for one in album.depths:
        numbers = [np.rint(v / one.step).astype(np.int32) for v in images]
        album.drawn.append(
            [
                {
                    "name": f"slice {i + 1}" if depth == 1 else f"volume {i // depth + 1}, slice {i % depth + 1}",
                    "planes": [pack(v[i], [earlier[i] for earlier in numbers[:k]]) for k, v in enumerate(numbers)],
                    "region": None if labels is None or not labels[i].any() else pack(labels[i]),
                    "scores": [_scores_of(album.case, name, i, options) for name in album.columns],
                }
                for i in range(len(base))
            ]
        )
    album.shown_slices = list(range(len(base)))
    album.start = worst_slice(album.case, options.metrics[0], len(base))
    if case.region is not None:
        album.lesions = _lesion_slices(case.region.reshape(-1, depth, *base.shape[1:]))
    album.important = list(dict.fromkeys([album.start, *album.lesions.values()]))
    album.sampling = _sampling(case, album.start // depth)
    return album


def _slices(images: np.ndarray) -> np.ndarray:
    return np.asarray(magnitude(images).numpy().reshape(-1, *images.shape[-2:]))


def crop_box(slices: np.ndarray) -> tuple[slice, slice]:
    """Return the bounding box (y, x) of the object in all slices (z, y, x), with a margin."""
    inside = np.any(object_mask(slices).numpy(), axis=0)
    box = []
    for axis, n in enumerate(inside.shape):
        rows = np.flatnonzero(np.any(inside, axis=1 - axis))
        margin = max(4, math.ceil(MARGIN * n))
        box.append(slice(max(0, rows[0] - margin), min(n, rows[-1] + 1 + margin)) if rows.size else slice(0, n))
    return box[0], box[1]


def scaled_to(images: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Scale each slice (z, y, x) by its least-squares factor inside the object of ``first`` (z, y, x).

    A slice without a defined factor gets the median of the others.
    """
    factors = least_squares_scale(images, first, object_mask(first)).numpy()
    usable = np.isfinite(factors) & (factors > 0)
    factors[~usable] = float(np.median(factors[usable])) if usable.any() else 1.0
    return np.asarray(np.abs(images) * factors[:, None, None])


def noise_level(image: np.ndarray, inside: np.ndarray) -> float:
    """Return the standard deviation of a magnitude image's noise inside the object.

    Computed from the median of |diagonal differences of 2×2 pixels|, as by Donoho and Johnstone from the finest wavelet
    coefficients (Biometrika 81:425, 1994). Fine structure increases it slightly.

    Args:
        image: (y, x).
        inside: (y, x) booleans.

    """
    v = np.asarray(image, np.float64)
    details = (v[:-1, :-1] - v[1:, :-1] - v[:-1, 1:] + v[1:, 1:]) / 2
    sizes = np.abs(details[inside[:-1, :-1]])
    return float(np.median(sizes)) / 0.6745 if sizes.size else 0.0


def choose_depths(slices: np.ndarray, others: Sequence[np.ndarray]) -> list[Depth]:
    """Return the steps for a case, finest first; see `DEPTHS`.

    Args:
        slices: (z, y, x) magnitudes of the first image, in which the noise is measured.
        others: the other images, scaled to the first.

    """
    inside = object_mask(slices).numpy()
    white = float(np.percentile(slices[inside], WHITE)) if inside.any() else float(slices.max())
    top = max(float(np.max(v)) for v in (slices, *others))
    if not white > 0:
        white = top if top > 0 else 1.0
    levels = [noise_level(v, m) for v, m in zip(slices, inside, strict=True) if m.any()]
    noise = float(np.median(levels)) if levels else 0.0
    steps = [max(min(max(noise / n, white / FINEST), white / least), top / LARGEST) for n, least in DEPTHS]
    return [Depth(step, noise, white / step) for step in steps]


def pack(values: np.ndarray, earlier: Sequence[np.ndarray] = ()) -> Plane:
    """Compress one image of one slice.

    Args:
        values: (y, x) integers from 0 to `LARGEST`.
        earlier: (y, x) images of the same slice that are decoded before this one.

    """
    v = np.asarray(values, np.int32)
    padded = np.pad(v, ((1, 0), (1, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    predicted = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    packed = [_deflate(v - prediction) for prediction in (predicted, *earlier)]
    best = min(range(len(packed)), key=lambda k: len(packed[k]))
    return Plane(best, base64.b64encode(packed[best]).decode("ascii"))


def _deflate(differences: np.ndarray) -> bytes:
    folded = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    low, high = (folded & 255).astype(np.uint8), (folded >> 8).astype(np.uint8)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(low.tobytes() + (high.tobytes() if high.any() else b"")) + packer.flush()


def _scores_of(case: Case, method: str, i: int, options: Options) -> str:
    """Return the scores of one slice as text, with the reason if one is undefined."""
    evaluation = next((r.evaluation for r in case.results if r.method == method), None)
    if evaluation is None:
        return ""
    row = evaluation.slices[i]
    texts = [
        f"{metric.title.split()[0]} {row[metric.name]:#.{metric.digits}g}{' dB' if '(dB)' in metric.title else ''}"
        for metric in map(METRICS.find, options.metrics)
        if row.get(metric.name) is not None
    ]
    reason = evaluation.reasons[i] if len(texts) < len(options.metrics) else ""
    return " · ".join([*texts, reason] if reason else texts)


def _lesion_slices(region: np.ndarray) -> dict[tuple[int, int], int]:
    """Return the slice with most pixels of each lesion, keyed by item and label, from labels (item, z, y, x)."""
    slices = {}
    for item, labels in enumerate(region):
        numbered = separate(labels)
        for label in np.unique(numbered[numbered > 0]).tolist():
            slices[item, label] = item * len(labels) + int((numbered == label).sum((1, 2)).argmax())
    return slices


def _sampling(case: Case, item: int) -> dict[str, Any]:
    """Return the mask of an item, with its point spread function."""
    if case.masks is None:
        return {}
    masks = np.asarray(case.masks) > 0
    item = min(item, len(masks) - 1)
    mask = masks[item]
    axes = [a for a in range(mask.ndim) if bool((mask != mask.take([0], a)).any())]
    spread, highest = point_spread(mask)
    decibels = 20 * np.log10(np.maximum(spread, 10 ** (FLOOR / 20)))
    # for three axes, the central plane that contains the undersampled axes
    keep = sorted([*axes, *(a for a in reversed(range(mask.ndim)) if a not in axes)][:2])
    plane = tuple(slice(None) if a in keep else n // 2 for a, n in enumerate(mask.shape))
    mask, decibels = mask[plane], decibels[plane]
    sampling: dict[str, Any] = {
        "acceleration": achieved_acceleration(masks),
        "kinds": len({m.tobytes() for m in masks}),
        "item": item,
        "highest": highest,
        "mask": {"shape": list(mask.shape), "plane": pack(mask.astype(np.int32))},
    }
    if len(axes) == 1:
        return sampling | {"line": decibels.max(1 - keep.index(axes[0]))}
    levels = np.rint(decibels - FLOOR).astype(np.int32)
    return sampling | {"spread": {"shape": list(levels.shape), "plane": pack(levels)}}


def choose_slices(albums: list[SliceImages], limit: float) -> None:
    """Take coarser steps, then omit slices, until the total size is at most ``limit`` bytes.

    Every case loses the same share, evenly; the slice shown first and those with lesions go last. If even one slice per
    case is too large, the last cases lose all slices; therefore pass the worst cases first.
    """
    total = sum(album.size for album in albums)
    if total > limit:
        for album in albums:
            album.fineness = max(0, len(album.depths) - 1)
        total = sum(album.size for album in albums)
    share = 1.0
    longest = max((len(a.slices) for a in albums), default=0)
    while total > limit and share * longest >= 1:
        share *= min(0.97, limit / total)
        for album in albums:
            album.shown_slices = _evenly(album, max(1, int(share * len(album.slices)))) if album.slices else []
        total = sum(album.size for album in albums)
    spent = 0
    for album in albums:
        spent += album.size
        if spent > limit:
            album.shown_slices = []


def _evenly(album: SliceImages, count: int) -> list[int]:
    """Return the given number of slices of a case: the important ones first, then evenly spaced ones."""
    even = np.linspace(0, len(album.slices) - 1, count).round().astype(int).tolist()
    return sorted(list(dict.fromkeys([*album.important, *even]))[:count])
