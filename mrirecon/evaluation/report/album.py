"""The pictures of a report: every case's slices, packed; and which of them are kept where a file may not be large."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrirecon.errors import InputError
from mrirecon.evaluation import Options
from mrirecon.evaluation.report.cases import Case
from mrirecon.evaluation.report.pack import Depth, Plane, choose_depths, crop_box, pack, scaled_to
from mrirecon.evaluation.report.tables import worst_slice
from mrirecon.io.safe.text import utf8
from mrirecon.masks import achieved_acceleration, point_spread
from mrirecon.metrics import METRICS, magnitude
from mrirecon.metrics.lesions import separate

FLOOR = -60  # dB: black in the picture of a point spread function
FRAME = 100  # bytes of a slice in the page beside its pictures and texts


@dataclass
class Album:
    """The pictures of one case, and how they came about.

    Attributes:
        light: the case without its arrays.
        shape: (y, x) of what is stored.
        field: (y, x) of the images.
        first: what all others are scaled to, in words.
        truth: whether that is a reference.
        columns: names of the images.
        depths: in what steps they are stored, finest first; empty without images.
        drawn: the slices at each depth, as the page needs them; see `page/viewer.js`.
        sampling: mask and point spread function, or empty.
        lesions: by item and label, the slice that shows most of it.
        start: the slice that is shown first.
        important: the slices that are left out last.
        fineness: which of the depths the page gets.
        kept: which slices the page gets.

    """

    light: Case
    shape: tuple[int, int] = (0, 0)
    field: tuple[int, int] = (0, 0)
    first: str = ""
    truth: bool = False
    columns: list[str] = dataclasses.field(default_factory=list)
    depths: list[Depth] = dataclasses.field(default_factory=list)
    drawn: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    lesions: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    start: int = 0
    important: list[int] = dataclasses.field(default_factory=list)
    fineness: int = 0
    kept: list[int] = dataclasses.field(default_factory=list)

    @property
    def slices(self) -> list[dict[str, Any]]:
        """All slices at the depth that the page gets."""
        return self.drawn[self.fineness] if self.drawn else []

    @property
    def depth(self) -> Depth | None:
        """In what steps the page has them."""
        return self.depths[self.fineness] if self.depths else None

    def size(self, which: int) -> int:
        """Return about how many bytes a slice takes in the page."""
        one = self.slices[which]
        texts = sum(len(utf8(t)) + 3 for t in (one["name"], *one["scores"]))
        return FRAME + texts + sum(len(p[1]) + 8 for p in (*one["planes"], one["region"]) if p)


def make_album(case: Case, options: Options, *, whole: bool = False) -> Album:
    """Pack the pictures of a case.

    Args:
        case: with its arrays.
        options: of its scores.
        whole: keep the whole field of view, and not the object with a margin.

    Raises:
        InputError: two results go by one name.

    """
    names = [r.method for r in case.results]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"two results are called {twice!r}", where=case.name, fix="give each method a name of its own")
    faulty = [r.method for r in case.results if r.images is not None and not np.isfinite(r.images).all()]
    results = [replace(r, images=None) for r in case.results]
    for i, r in enumerate(results):
        if r.method in faulty:
            results[i] = replace(r, failure=r.failure or "its images hold values that are not numbers")
    kind = "" if case.reference is None else case.kind or "its reference"
    album = Album(replace(case, reference=None, region=None, masks=None, results=results, kind=kind))
    named = [] if case.reference is None else [("reference", case.reference)]
    named += [(r.method, r.images) for r in case.results if r.images is not None and r.method not in faulty]
    # Images of another size have failed; they are named, and cannot be shown beside the others.
    named = [(name, v) for name, v in named if v.shape == named[0][1].shape]
    if not named:
        return album
    depth = named[0][1].shape[1] if named[0][1].ndim == 4 else 1
    base = _slices(named[0][1])
    album.field = (base.shape[1], base.shape[2])
    box = (slice(None), slice(None)) if whole else crop_box(base)
    # one after the other: float64 volumes are large
    images = [base[:, *box], *(scaled_to(_slices(v), base)[:, *box] for _, v in named[1:])]
    labels = None if case.region is None else case.region.reshape(base.shape)[:, *box]
    album.shape = (images[0].shape[1], images[0].shape[2])
    album.truth = case.reference is not None
    album.first, album.columns = named[0][0], [name for name, _ in named]
    album.depths = choose_depths(images[0], images[1:])
    for one in album.depths:
        numbered = [np.rint(v / one.step).astype(np.int32) for v in images]
        album.drawn.append([])
        for i in range(len(base)):
            packed = [pack(v[i], [w[i] for w in numbered[:k]]) for k, v in enumerate(numbered)]
            album.drawn[-1].append(
                {
                    "name": _slice_name(i, depth),
                    "planes": [_plain(p) for p in packed],
                    "region": None if labels is None or not labels[i].any() else _plain(pack(labels[i])),
                    "scores": [_scores_of(album.light, name, i, options) for name in album.columns],
                }
            )
    album.kept = list(range(len(base)))
    album.start = worst_slice(album.light, options.metrics[0], len(base))
    if case.region is not None:
        album.lesions = _lesion_slices(case.region.reshape(-1, depth, *base.shape[1:]))
    album.important = list(dict.fromkeys([album.start, *album.lesions.values()]))
    album.sampling = _sampling(case, album.start, depth)
    return album


def _lesion_slices(region: np.ndarray) -> dict[tuple[int, int], int]:
    """Return, by item and label of (item, z, y, x), the slice in which most of a lesion lies."""
    found = {}
    for item, labels in enumerate(region):
        numbered = separate(labels)
        for label in np.unique(numbered[numbered > 0]).tolist():
            areas = (numbered == label).sum((1, 2))
            found[item, label] = item * len(labels) + int(areas.argmax())
    return found


def _slices(images: np.ndarray) -> np.ndarray:
    return np.asarray(magnitude(images).numpy().reshape(-1, *images.shape[-2:]))


def choose_kept(albums: list[Album], limit: float) -> None:
    """Take coarser steps, then leave out slices, until all together take at most ``limit`` bytes.

    Every case loses the same share, evenly; the slice shown first and those with lesions go last. Where even one slice
    a case is too much, the last cases lose all of theirs: so give the worst first.
    """
    total = _total(albums)
    if total > limit:
        for album in albums:
            album.fineness = max(0, len(album.depths) - 1)
        total = _total(albums)
    share = 1.0
    while total > limit and share > 0.001:
        share *= min(0.97, limit / total)
        for album in albums:
            album.kept = _evenly(album, max(1, int(share * len(album.slices)))) if album.slices else []
        reduced = _total(albums)
        if reduced == total and share * max((len(a.slices) for a in albums), default=0) < 1:
            break
        total = reduced
    spent = 0
    for album in albums:
        spent += sum(album.size(i) for i in album.kept)
        if spent > limit:
            album.kept = []


def _total(albums: list[Album]) -> int:
    return sum(album.size(i) for album in albums for i in album.kept)


def _evenly(album: Album, count: int) -> list[int]:
    kept = album.important[:count]
    for i in np.linspace(0, len(album.slices) - 1, max(0, count)).round().astype(int).tolist():
        if len(kept) < count and i not in kept:
            kept.append(i)
    return sorted(kept)


def _slice_name(i: int, deep: int) -> str:
    return f"slice {i + 1}" if deep == 1 else f"volume {i // deep + 1}, slice {i % deep + 1}"


def _scores_of(case: Case, method: str, i: int, options: Options) -> str:
    """Return the scores of one slice in words; why one is undefined, if it is."""
    found = next((r.evaluation for r in case.results if r.method == method), None)
    if found is None:
        return ""
    row = found.slices[i]
    told = [
        f"{metric.title.split()[0]} {row[metric.name]:#.{metric.digits}g}{' dB' if '(dB)' in metric.title else ''}"
        for metric in map(METRICS.find, options.metrics)
        if row.get(metric.name) is not None
    ]
    if len(told) < len(options.metrics) and found.why[i]:
        told.append(found.why[i])
    return " · ".join(told)


def _sampling(case: Case, start: int, deep: int) -> dict[str, Any]:
    """Return the mask of the slice shown first, with its point spread function."""
    if case.masks is None:
        return {}
    masks = np.asarray(case.masks) > 0
    item = min(start // deep, len(masks) - 1)
    mask = masks[item]
    kinds = len({m.tobytes() for m in masks})
    axes = [a for a in range(mask.ndim) if bool((mask != mask.take([0], a)).any())]
    spread, highest = point_spread(mask)
    decibels = 20 * np.log10(np.maximum(spread, 10 ** (FLOOR / 20)))
    # of three axes the plane through the centre that holds the undersampled ones
    keep = sorted([*axes, *(a for a in reversed(range(mask.ndim)) if a not in axes)][:2])
    plane = tuple(slice(None) if a in keep else n // 2 for a, n in enumerate(mask.shape))
    mask, decibels = mask[plane], decibels[plane]
    found: dict[str, Any] = {
        "acceleration": achieved_acceleration(masks),
        "kinds": kinds,
        "item": item,
        "highest": highest,
        "mask": {"shape": list(mask.shape), "plane": _plain(pack(mask.astype(np.int32)))},
    }
    if len(axes) == 1:
        return found | {"line": decibels.max(1 - keep.index(axes[0]))}
    levels = np.rint(decibels - FLOOR).astype(np.int32)
    return found | {"spread": {"shape": list(levels.shape), "plane": _plain(pack(levels))}}


def _plain(plane: Plane) -> list[Any]:
    return [plane.predictor, plane.data]
