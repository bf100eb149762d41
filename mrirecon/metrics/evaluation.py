"""Score images against reference images, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.metrics import METRICS, score_metrics, scores
from mrirecon.metrics.lesions import LesionScore, by_size, measure_lesions
from mrirecon.metrics.misfit import misfits
from mrirecon.metrics.presets import PRESETS, SIGNED, Preset, score_volume
from mrirecon.metrics.region import read_region
from mrirecon.metrics.shapes import CROPPED, centre_square, check_shapes, common_centre

Row = dict[str, object]


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        preset: whose definition; see `mrirecon.metrics.presets`. Our own is that of `mrirecon.metrics`.
        metrics: names of registered metrics, see `mrirecon.metrics.METRICS`.
        mask: file of the pixels that count.
        region: file of labelled lesions, which are measured each.
        spacing: (y, x) of pixels in mm; None takes the reference's, where its file tells, else pixels stand for mm.

    """

    preset: Preset = "mrirecon"
    metrics: tuple[str, ...] = field(default_factory=score_metrics)
    mask: Path | None = None
    region: Path | None = None
    spacing: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        unknown = [m for m in self.metrics if m not in METRICS]
        if unknown or not self.metrics:
            raise UsageError(f"there is no metric {', '.join(unknown) or ''}".rstrip(), fix=f"choose {_list(METRICS)}")
        if self.preset not in PRESETS:
            raise UsageError(f"there is no preset {self.preset!r}", fix=f"choose one of {_list(PRESETS)}")
        unscaled = [METRICS[m].title for m in self.metrics if METRICS[m].given == "preset"]
        if self.preset == "mrirecon" and unscaled:
            raise UsageError(
                f"our own score has no {unscaled[0]}: images are scaled first", fix="take nmse, or another preset"
            )
        if self.spacing is not None and not all(0 < side < math.inf for side in self.spacing):
            raise UsageError(f"pixels cannot lie {self.spacing} mm apart", fix="give --spacing two positive numbers")
        if self.mask is not None and self.preset not in ("mrirecon", "mridc"):
            raise UsageError(f"the preset {self.preset} has no mask", fix="leave --mask out, or --preset mrirecon")


@dataclass(frozen=True)
class Evaluation:
    """Scores of every slice, every item, and their mean.

    Attributes:
        prediction: the file scored.
        reference: the file compared with.
        kind: what the reference is, in words.
        shape: of the images, (item, *space).
        options: what was measured.
        slices: the metrics of each slice and ``scale``; None where undefined.
        why: of each slice, why something is undefined.
        items: the metrics of each item: of the volume as a whole where the preset says so, else the mean over slices.
        notes: what the user should know: an image that seems to be mirrored, and the like.
        lesions: by item.
        case: name of the scan, where files of folders were matched.

    """

    prediction: Path
    reference: Path
    kind: str
    shape: tuple[int, ...]
    options: Options
    slices: list[dict[str, float | None]]
    why: list[str]
    items: list[dict[str, float | None]]
    notes: list[str] = field(default_factory=list)
    lesions: list[list[LesionScore]] = field(default_factory=list)
    case: str | None = None

    @property
    def mean(self) -> dict[str, float | None]:
        """Of our own score over all slices where it is defined; of a preset over the items."""
        rows = self.slices if self.options.preset == "mrirecon" else self.items
        return {name: mean(row.get(name) for row in rows) for name in self.options.metrics}

    @property
    def undefined(self) -> dict[str, int]:
        """Of each metric that is given slice by slice, in how many slices it is undefined."""
        there = [m for m in self.options.metrics if any(m in row for row in self.slices)]
        return {name: sum(row.get(name) is None for row in self.slices) for name in there}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values of `rows`."""
        return ("item", "slice", *self.options.metrics, "scale", "reason")

    def rows(self) -> list[Row]:
        """Return one row a slice: item, slice (None where items are 2D), metrics, scale, and why one is undefined."""
        depth = self.shape[1] if len(self.shape) == 4 else None
        return [
            {
                "item": i if depth is None else i // depth,
                "slice": None if depth is None else i % depth,
                **{name: row.get(name) for name in (*self.options.metrics, "scale")},
                "reason": why or None,
            }
            for i, (row, why) in enumerate(zip(self.slices, self.why, strict=True))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold; what is undefined is null."""
        found: dict[str, Any] = {} if self.case is None else {"case": self.case}
        found |= {
            "prediction": str(self.prediction),
            "reference": {"file": str(self.reference), "kind": self.kind},
            "preset": self.options.preset,
            "shape": list(self.shape),
            "mean": self.mean,
            "undefined": self.undefined,
            "notes": self.notes,
            "items": self.items,
            "slices": self.rows(),
        }
        if self.options.region is not None:
            every = [s for one in self.lesions for s in one]
            found["lesions"] = {
                "by_size": by_size(every),
                "each": [{"item": i, **s.as_dict()} for i, one in enumerate(self.lesions) for s in one],
            }
        return found


def compare(
    images: np.ndarray,
    truth: np.ndarray,
    *,
    prediction: str | Path,
    reference: str | Path,
    kind: str,
    options: Options | None = None,
    placed: bool = False,
) -> Evaluation:
    """Score images (item, *space) against reference images of the same shape; the names are for errors and reports.

    `placed` tells that by their coordinates the two lie alike; then an image that seems mirrored is all the stranger.

    Raises:
        InputError: the images differ in number or size; a mask or region that does not fit.

    """
    options = options or Options()
    prediction, reference = Path(prediction), Path(reference)
    told = []
    if options.preset == "fastmri" and images.shape != truth.shape and images.ndim == truth.ndim:
        images, truth, how = centre_square(images, truth, prediction, reference)
        told.append(how)
    elif kind in CROPPED and images.shape != truth.shape and images.ndim == truth.ndim:
        images, truth, how = common_centre(images, truth)
        told.append(how)
    check_shapes(images, truth, prediction, reference)
    if options.preset not in SIGNED or np.iscomplexobj(images):
        images = np.abs(images)
    if options.preset not in SIGNED or np.iscomplexobj(truth):
        truth = np.abs(truth)
    told += [
        f"{np.count_nonzero(v < 0)} of {v.size} values of the {name} are negative, and taken as they are"
        for name, v in (("images", images), ("reference", truth))
        if (v < 0).any()
    ]
    mask = None if options.mask is None else read_region(options.mask, images.shape, reference) > 0
    labels = None if options.region is None else read_region(options.region, images.shape, reference)
    spacing = options.spacing or (1.0, 1.0)
    slices: list[dict[str, float | None]] = []
    why: list[str] = []
    items: list[dict[str, float | None]] = []
    notes: dict[str, list[str]] = {}
    lesions = []
    depth = images.shape[1] if images.ndim == 4 else 1
    # Of a preset, slices without a depth of their own are one volume: a file is what others call one.
    groups = (
        [slice(i, i + 1) for i in range(len(images))]
        if images.ndim == 4 or options.preset == "mrirecon"
        else [slice(0, len(images))]
    )
    for group in groups:
        x, r = (v[group].reshape(-1, *v.shape[-2:]) for v in (images, truth))
        inside = None if mask is None else mask[group].reshape(x.shape)
        rows, reasons, whole = _measured(x, r, inside, options)
        slices, why, items = slices + rows, why + reasons, [*items, whole]
        scaled = options.preset in ("mrirecon", "mridc")  # the latter divides each by its own maximum
        scale = mean(row.get("scale") for row in rows) if options.preset == "mrirecon" else _factor(x, r)
        x, r = np.abs(x), np.abs(r)
        for what, how in misfits(x, r, scale, placed=placed, scaled=scaled):
            notes.setdefault(what, []).append(how)
        if labels is not None:
            lesions.append(measure_lesions(x, r, labels[group].reshape(x.shape), spacing=spacing))
    told += [
        f"{what}{f' ({len(how)} of {len(groups)} items)' if len(groups) > 1 else ''}: {how[0]}"
        for what, how in notes.items()
    ]
    assert len(slices) == len(images) * depth, "every slice has a row"
    return Evaluation(prediction, reference, kind, images.shape, options, slices, why, items, told, lesions)


def _measured(
    x: np.ndarray, r: np.ndarray, inside: np.ndarray | None, options: Options
) -> tuple[list[dict[str, float | None]], list[str], dict[str, float | None]]:
    """Return the metrics of each slice, why some are undefined, and those of the whole."""
    rows: list[dict[str, float | None]] = []
    reasons: list[dict[str, str]] = []
    if options.preset == "mrirecon":
        for one in scores(x, r, region=inside):
            rows.append({name: getattr(one, name) for name in (*score_metrics(), "scale")})
            reasons.append(dict(one.reasons))
        whole = None
    else:
        found = score_volume(x, r, options.preset, mask=inside)
        rows, whole = [dict(v) for v in found.slices], found.volume
        reasons = [dict(found.reasons) for _ in rows]
    for name in options.metrics:
        metric = METRICS[name]
        if metric.given != "slice":
            continue
        for i, row in enumerate(rows):
            scale = row.get("scale", 1.0)
            row[name] = None
            where = {} if inside is None or "region" not in metric.options else {"region": inside[i]}
            try:
                if scale is not None:
                    row[name] = _defined(name, metric.build(np.abs(x[i]) * scale, np.abs(r[i]), **where))
            except InputError as error:
                reasons[i][name] = error.what
    names = [m for m in options.metrics if any(m in row for row in rows)]
    overall = {m: mean(row.get(m) for row in rows) for m in names}
    if whole is not None:
        overall |= {m: v for m, v in whole.items() if m in options.metrics}
    told = ["; ".join(dict.fromkeys(t for m, t in one.items() if m in options.metrics)) for one in reasons]
    return rows, told, overall


def _defined(name: str, value: Any) -> float:
    """Return the value of a metric.

    Raises:
        InputError: it is not finite.

    """
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"the {METRICS[name].title} is not a finite number")
    return number


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is defined, or None."""
    defined = [v for v in values if v is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _factor(x: np.ndarray, r: np.ndarray) -> float | None:
    """Return what brings a volume to its reference by least squares; None where there is nothing to bring."""
    power = float(np.vdot(x, x))
    return float(np.vdot(x, r)) / power if power > 0 and math.isfinite(power) else None


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
