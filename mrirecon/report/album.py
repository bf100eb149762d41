"""The pictures of a report: every case's slices, packed; and which of them are kept where a file may not be large."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrirecon.evaluate import Options
from mrirecon.masks import achieved_acceleration, point_spread
from mrirecon.metrics import magnitude
from mrirecon.report.cases import Case
from mrirecon.report.pack import Depth, Plane, choose_depth, crop_box, pack, scaled_to
from mrirecon.report.tables import NAMES, SIGNIFICANT, worst_slice

FLOOR = -60  # dB: black in the picture of a point spread function
LEAST_LENGTH = 2000  # characters for a slice's numbers and names, beside its pictures


@dataclass
class Album:
    """The pictures of one case, and how they came about.

    Attributes:
        light: the case without its arrays.
        shape: (y, x) of what is stored.
        field: (y, x) of the images.
        depth: in what steps.
        first: what all others are scaled to, in words.
        slices: what the page needs of each; see `page/viewer.js`.
        kept: which of them the page gets.
        sampling: mask and point spread function, or empty.
        start: the slice that is shown first.
        important: the slices that are left out last.

    """

    light: Case
    shape: tuple[int, int]
    field: tuple[int, int]
    depth: Depth | None
    first: str
    columns: list[str]
    slices: list[dict[str, Any]]
    kept: list[int]
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: int = 0
    important: list[int] = dataclasses.field(default_factory=list)

    def size(self, which: int) -> int:
        """Return about how many characters a slice takes in the page."""
        one = self.slices[which]
        return LEAST_LENGTH + sum(len(p[1]) for p in (*one["planes"], one["region"]) if p)


def make_album(case: Case, options: Options, *, whole: bool = False) -> Album:
    """Pack the pictures of a case.

    Args:
        case: with its arrays.
        options: of its scores.
        whole: keep the whole field of view, and not the object with a margin.

    """
    light = replace(
        case, reference=None, region=None, masks=None, results=[replace(r, images=None) for r in case.results]
    )
    named = [] if case.reference is None else [("reference", case.reference)]
    named += [(r.method, r.images) for r in case.results if r.images is not None]
    if not named:
        return Album(light, (0, 0), (0, 0), None, "", [], [], [])
    arrays = [magnitude(v).numpy().reshape(-1, *v.shape[-2:]) for _, v in named]
    like = [v.shape == arrays[0].shape for v in arrays]
    named = [one for one, fits in zip(named, like, strict=True) if fits]
    base = arrays[0]
    field_of_view = (base.shape[1], base.shape[2])
    # one after the other: float64 volumes are large
    others = [scaled_to(v, base) for v, fits in list(zip(arrays, like, strict=True))[1:] if fits]
    box = (slice(None), slice(None)) if whole else crop_box(base)
    base, others = base[:, *box], [v[:, *box] for v in others]
    depth = choose_depth(base, others)
    labels = None if case.region is None else case.region.reshape(-1, *case.region.shape[-2:])[:, *box]
    numbered = [np.rint(v / depth.step).astype(np.int32) for v in (base, *others)]
    planes_deep = case.results and _depth_of(case)
    slices = []
    for i in range(len(base)):
        packed = [pack(v[i], [w[i] for w in numbered[:k]]) for k, v in enumerate(numbered)]
        region = None if labels is None or not labels[i].any() else pack(labels[i])
        slices.append(
            {
                "name": _slice_name(i, planes_deep or 1),
                "planes": [_plain(p) for p in packed],
                "region": None if region is None else _plain(region),
                "scores": [_scores_of(light, name, i, options) for name, _ in named],
            }
        )
    start = worst_slice(light, options.metrics[0], len(slices))
    important = [start, *(i for i, one in enumerate(slices) if one["region"])]
    return Album(
        light, (base.shape[1], base.shape[2]), field_of_view, depth, named[0][0], [name for name, _ in named], slices,
        list(range(len(slices))), _sampling(case, start, planes_deep or 1), start, list(dict.fromkeys(important)),
    )  # fmt: skip


def choose_kept(albums: list[Album], limit: float) -> None:
    """Leave out slices until all together take at most ``limit`` characters.

    Every case loses the same share, evenly; the slice shown first and those with lesions go last. Where even one slice
    a case is too much, the last cases lose all of theirs: so give the worst first.
    """
    total = sum(album.size(i) for album in albums for i in album.kept)
    share = 1.0
    while total > limit and share > 0.001:
        share *= min(0.97, limit / total)
        for album in albums:
            album.kept = _evenly(album, max(1, int(share * len(album.slices)))) if album.slices else []
        reduced = sum(album.size(i) for album in albums for i in album.kept)
        if reduced == total and share * max((len(a.slices) for a in albums), default=0) < 1:
            break
        total = reduced
    spent = 0
    for album in albums:
        spent += sum(album.size(i) for i in album.kept)
        if spent > limit:
            album.kept = []


def _evenly(album: Album, count: int) -> list[int]:
    kept = album.important[:count]
    for i in np.linspace(0, len(album.slices) - 1, max(0, count)).round().astype(int).tolist():
        if len(kept) < count and i not in kept:
            kept.append(i)
    return sorted(kept)


def _depth_of(case: Case) -> int:
    arrays = [v for v in (case.reference, *(r.images for r in case.results)) if v is not None]
    return int(arrays[0].shape[1]) if arrays[0].ndim == 4 else 1


def _slice_name(i: int, deep: int) -> str:
    return f"slice {i + 1}" if deep == 1 else f"volume {i // deep + 1}, slice {i % deep + 1}"


def _scores_of(case: Case, method: str, i: int, options: Options) -> str:
    """Return the scores of one slice in words; why one is undefined, if it is."""
    found = next((r.evaluation for r in case.results if r.method == method), None)
    if found is None:
        return ""
    row = found.slices[i]
    told = [
        f"{NAMES[m].split()[0]} {row[m]:.{SIGNIFICANT[m]}g}{' dB' if m == 'psnr' else ''}"
        for m in options.metrics
        if row.get(m) is not None
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
    keep = sorted([*axes, *(a for a in range(mask.ndim) if a not in axes)][:2])
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
