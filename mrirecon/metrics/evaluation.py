"""Score images against reference images, slice by slice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.drawing import Panel, Shown
from mrirecon.metrics import METRICS, score_metrics, scores
from mrirecon.metrics.arrays import mean
from mrirecon.metrics.lesions import LesionScore, by_size, measure_lesions
from mrirecon.metrics.misalignment import misalignments
from mrirecon.metrics.presets import PRESETS, SIGNED, Preset, Values, score_volume
from mrirecon.metrics.region import read_region
from mrirecon.metrics.shapes import CROPPED, centre_square, check_shapes, common_centre

Row = dict[str, object]
ERROR_GAIN = 5  # factor of error images
_LEAST_SPAN = 0.5  # of images for ATOMMIC's SSIM, whose data range is at least 1


@dataclass(frozen=True)
class Options:
    """Set the metrics and their definition.

    Attributes:
        preset: definition of the metrics: ``mrirecon`` is that of `mrirecon.metrics.scoring`, others of
            `mrirecon.metrics.presets`.
        metrics: names of registered metrics, see `mrirecon.metrics.METRICS`.
        mask: file with the mask of the evaluated pixels.
        region: file with labels of the lesions to measure.
        spacing: (y, x) pixel spacing in mm; None uses that of the reference file, else 1 mm.

    """

    preset: Preset = "mrirecon"
    metrics: tuple[str, ...] = field(default_factory=score_metrics)
    mask: Path | None = None
    region: Path | None = None
    spacing: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        unknown = [m for m in self.metrics if m not in METRICS]
        if unknown or not self.metrics:
            fix = f"choose {', '.join(METRICS)}"
            raise UsageError(f"unknown metric {', '.join(unknown)}".rstrip(), fix=fix)
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}", fix=f"choose one of {', '.join(PRESETS)}")
        unscaled = [METRICS[m].title for m in self.metrics if METRICS[m].scope == "preset"]
        if self.preset == "mrirecon" and unscaled:
            raise UsageError(
                f"the preset mrirecon has no {unscaled[0]}, because it scales the images first",
                fix="use nmse, or another preset",
            )
        if self.spacing is not None and not all(0 < side < math.inf for side in self.spacing):
            raise UsageError(f"invalid pixel spacing {self.spacing} mm", fix="set --spacing to two positive numbers")
        if self.mask is not None:
            self.require_mask_support()

    def require_mask_support(self) -> None:
        """Refuse a mask with a preset that has none.

        Raises:
            UsageError: the preset has no mask.

        """
        if self.preset not in ("mrirecon", "mridc"):
            raise UsageError(
                f"the preset {self.preset} does not support a mask", fix="omit --mask, or use --preset mrirecon"
            )


@dataclass(frozen=True)
class Evaluation(Shown):
    """Hold the scores of every slice and every item, and their mean.

    Attributes:
        prediction: scored file.
        reference: reference file.
        kind: description of the reference.
        shape: shape of the images, (item, *space).
        options: settings of the metrics.
        slices: metrics of each slice, and ``scale``; None if undefined.
        reasons: why values of each slice are undefined; "" if none is.
        items: metrics of each item: of the whole volume if the preset defines it so, else the mean over slices.
        notes: notes to the user, for example on an image that seems to be mirrored.
        lesions: scores of the lesions, keyed by item.
        case: name of the scan, if files of folders were matched.
        example: the slice with the worst first metric, to be shown: image in the scale of the reference, and reference.

    """

    prediction: Path
    reference: Path
    kind: str
    shape: tuple[int, ...]
    options: Options
    slices: list[Values]
    reasons: list[str]
    items: list[Values]
    notes: list[str] = field(default_factory=list)
    lesions: list[list[LesionScore]] = field(default_factory=list)
    case: str | None = None
    example: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    def panels(self) -> list[Panel]:
        """Return panels with the image, the reference and the error of the example; none without an example."""
        if self.example is None:
            return []
        image, truth = self.example
        white = float(np.percentile(truth, 99.8))
        error = Panel(f"error × {ERROR_GAIN}", np.abs(image - truth), vmax=white / ERROR_GAIN)
        return [Panel("image", image, vmax=white), Panel("reference", truth, vmax=white), error]

    def caption(self) -> list[str]:
        """Return the means, their definition, and the notes."""
        means = ", ".join(self._describe_mean(name) for name in self.options.metrics)
        count = len(self.slices)
        slices = "one slice" if count == 1 else f"mean of {count} slices; the picture shows the worst"
        return [f"{means} ({slices}; definition: {self.options.preset})", *self.notes]

    def _describe_mean(self, name: str) -> str:
        """Return label, mean and unit of a metric, such as "PSNR 32.4 dB"."""
        label, _, unit = METRICS[name].title.partition(" (")
        value = self.mean[name]
        if value is None:
            return f"{label} undefined"
        return f"{label} {value:.{METRICS[name].digits}g} {unit.rstrip(')')}".rstrip()

    @property
    def mean(self) -> Values:
        """Return the mean of each metric: over defined slices for our own score, over items for other presets."""
        rows = self.slices if self.options.preset == "mrirecon" else self.items
        return {name: mean(row.get(name) for row in rows) for name in self.options.metrics}

    @property
    def undefined(self) -> dict[str, int]:
        """Return the number of slices with an undefined value, for each metric that is computed per slice."""
        per_slice = [m for m in self.options.metrics if any(m in row for row in self.slices)]
        return {name: sum(row.get(name) is None for row in self.slices) for name in per_slice}

    def rows(self) -> list[Row]:
        """Return one row per slice: item, slice (None for 2D items), metrics, scale, reason for undefined values."""
        depth = self.shape[1] if len(self.shape) == 4 else None
        return [
            {
                "item": i if depth is None else i // depth,
                "slice": None if depth is None else i % depth,
                **{name: row.get(name) for name in (*self.options.metrics, "scale")},
                "reason": reason or None,
            }
            for i, (row, reason) in enumerate(zip(self.slices, self.reasons, strict=True))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; undefined values are null."""
        content: dict[str, Any] = {} if self.case is None else {"case": self.case}
        content |= {
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
            content["lesions"] = {
                "by_size": by_size([s for item in self.lesions for s in item]),
                "each": [{"item": i, **vars(s)} for i, item in enumerate(self.lesions) for s in item],
            }
        return content


def compare(
    images: np.ndarray,
    truth: np.ndarray,
    *,
    prediction: str | Path,
    reference: str | Path,
    kind: str,
    options: Options | None = None,
    placed: bool = False,
    inside: np.ndarray | None = None,
) -> Evaluation:
    """Score images (item, *space) against reference images of the same shape.

    Args:
        images: magnitude or complex images.
        truth: reference images.
        prediction: file of the images, for errors and reports.
        reference: file of the reference.
        kind: description of the reference.
        options: settings of the metrics.
        placed: whether both positions agree by the coordinates of the files; an image that seems mirrored is then
            reported as a contradiction.
        inside: the evaluated pixels, booleans in the shape of the images, instead of the file in the options.

    Raises:
        InputError: the images differ in number or size, or the mask or region does not match.

    """
    options = options or Options()
    prediction, reference, own = Path(prediction), Path(reference), options.preset == "mrirecon"
    notes = []
    if images.shape != truth.shape and images.ndim == truth.ndim and (options.preset == "fastmri" or kind in CROPPED):
        if options.preset == "fastmri":
            images, truth, note = centre_square(images, truth, prediction, reference)
        else:
            images, truth, note = common_centre(images, truth)
        notes.append(note)
    check_shapes(images, truth, prediction, reference)
    images, truth = (v if options.preset in SIGNED and not np.iscomplexobj(v) else np.abs(v) for v in (images, truth))
    notes += [
        f"{np.count_nonzero(v < 0)} of {v.size} values of the {name} are negative and keep their sign"
        for name, v in (("images", images), ("reference", truth))
        if (v < 0).any()
    ]
    span = max(float(np.ptp(v)) for v in (images, truth))
    if options.preset == "atommic" and "ssim" in options.metrics and span < _LEAST_SPAN:
        notes.append(
            f"the values span {span:.3g}, but the preset atommic computes SSIM with a range of at least 1, so it is "
            "near 1 for any image: scale images and reference to a maximum of 1, or use another preset"
        )
    mask = inside
    if mask is None and options.mask is not None:
        mask = read_region(options.mask, images.shape, reference) > 0
    labels = None if options.region is None else read_region(options.region, images.shape, reference)
    evaluation = Evaluation(prediction, reference, kind, images.shape, options, [], [], [], notes)
    misaligned: dict[str, list[str]] = {}
    # With a preset, items that are slices form one volume.
    step = 1 if images.ndim == 4 or own else len(images)
    groups = [slice(i, i + step) for i in range(0, len(images), step)]
    for group in groups:
        x, r = (v[group].reshape(-1, *v.shape[-2:]) for v in (images, truth))
        rows, reasons, whole = _measure(x, r, None if mask is None else mask[group].reshape(x.shape), options)
        evaluation.slices.extend(rows)
        evaluation.reasons.extend(reasons)
        evaluation.items.append(whole)
        scale = mean(row.get("scale") for row in rows) if own else _volume_scale(x, r)
        scaled = own or options.preset == "mridc"  # mridc divides each slice by its own maximum
        x, r = np.abs(x), np.abs(r)
        for message, reason in misalignments(x, r, scale, placed=placed, scaled=scaled):
            misaligned.setdefault(message, []).append(reason)
        if labels is not None:
            spacing = options.spacing or (1.0, 1.0)
            evaluation.lesions.append(measure_lesions(x, r, labels[group].reshape(x.shape), spacing=spacing))
    for message, explanations in misaligned.items():
        items = f" ({len(explanations)} of {len(groups)} items)" if len(groups) > 1 else ""
        notes.append(f"{message}{items}: {explanations[0]}")
    return evaluation


def _measure(
    x: np.ndarray, r: np.ndarray, inside: np.ndarray | None, options: Options
) -> tuple[list[Values], list[str], Values]:
    """Return the metrics of each slice, the reasons for undefined values, and the metrics of the whole."""
    whole: Values = {}
    if options.preset == "mrirecon":
        results = scores(x, r, region=inside)
        rows: list[Values] = [{name: getattr(s, name) for name in (*score_metrics(), "scale")} for s in results]
        reasons = [dict(s.reasons) for s in results]
    else:
        score = score_volume(x, r, options.preset, mask=inside)
        rows, whole = score.slices, score.volume
        reasons = [dict(score.reasons) for _ in rows]
    for name in options.metrics:
        metric = METRICS[name]
        if metric.scope != "slice":
            continue
        for i, row in enumerate(rows):
            scale = row.get("scale", 1.0)
            row[name] = None
            pixels = {} if inside is None or "region" not in metric.options else {"region": inside[i]}
            try:
                value = math.nan if scale is None else float(metric.build(np.abs(x[i]) * scale, np.abs(r[i]), **pixels))
            except InputError as error:
                reasons[i][name] = error.what
                continue
            if math.isfinite(value):
                row[name] = value
            elif scale is not None:
                reasons[i][name] = f"the {metric.title} is NaN or infinite"
    means = {m: mean(row.get(m) for row in rows) for m in options.metrics if any(m in row for row in rows)}
    overall = means | {m: v for m, v in whole.items() if m in options.metrics}
    texts = ["; ".join(dict.fromkeys(t for m, t in one.items() if m in options.metrics)) for one in reasons]
    return rows, texts, overall


def _volume_scale(x: np.ndarray, r: np.ndarray) -> float | None:
    """Return the least-squares factor that scales a volume to its reference; None if the volume is zero."""
    power = float(np.vdot(x, x))
    return float(np.vdot(x, r)) / power if power > 0 and math.isfinite(power) else None
