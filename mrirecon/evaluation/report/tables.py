"""Compute the tables of a report: scores over volumes, differences of methods, and lesions."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrirecon.errors import MriReconError
from mrirecon.evaluation import Difference, Options, Summary, compare_runs, summarize
from mrirecon.evaluation.report.cases import ZERO_FILLED, Case, Result
from mrirecon.metrics import METRICS
from mrirecon.metrics.arrays import mean
from mrirecon.metrics.lesions import LesionScore

VISIBLE = 1.0  # below this contrast-to-noise ratio in the reference, a lesion is hardly visible
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
PRESETS = {
    "mrirecon": "Magnitudes. The object is where the reference exceeds 5 % of its 99.8th percentile, closed by 2 "
    "pixels, holes filled. Each slice is multiplied by the one factor that brings it closest to the reference inside "
    "the object (least squares). SSIM is the mean of its map over the object; PSNR and NMSE count the object's pixels; "
    "the range is the reference slice's maximum. A volume's score is the mean over its slices.",
    "fastmri": "As fastMRI's evaluate.py: centre square, unscaled, range of the whole volume, PSNR and NMSE of the "
    "volume, SSIM as the mean over slices.",
    "calgary": "As the Calgary-Campinas challenge: every slice divided by the maximum of the reference slice.",
    "atommic": "As ATOMMIC 1.0: unscaled, range of the larger of both volumes' spans, for SSIM at least 1.",
    "mridc": "As mridc 0.2: every slice normalized to its own range, range 1.",
    "skimage": "As scikit-image's functions, called with the reference's range.",
}


@dataclass(frozen=True)
class MethodRow:
    """Hold one method's scores over all volumes.

    Attributes:
        method: name of the method.
        number: index of the method, which selects its colour.
        summaries: summary of each metric.
        failed: number of cases with a reference but without a score.
        seconds: mean time of an item; None if unknown.
        best: metrics in which no other method has a better mean.

    """

    method: str
    number: int
    summaries: dict[str, Summary]
    failed: int
    seconds: float | None
    best: set[str]


def method_names(cases: Sequence[Case]) -> list[str]:
    """Return the methods of all cases in order of first appearance."""
    return list(dict.fromkeys(r.method for case in cases for r in case.results))


def result_of(case: Case, method: str) -> Result | None:
    """Return the result of a method; None if the case has none."""
    return next((r for r in case.results if r.method == method), None)


def method_rows(cases: Sequence[Case], methods: Sequence[str], options: Options) -> list[MethodRow]:
    """Return one row per method: metrics over volumes, and the number of undefined values."""
    rows = []
    for number, method in enumerate(methods):
        results = [r for case in cases for r in case.results if r.method == method]
        means = [r.evaluation.mean for r in results if r.evaluation is not None]
        summaries = {m: summarize([row[m] for row in means]) for m in options.metrics}
        failed = sum(r.failure is not None for r in results)
        if results:
            rows.append(
                MethodRow(method, number, summaries, failed, mean(s for r in results for s in r.seconds), set())
            )
    for metric in options.metrics:
        # Means over fewer volumes are not compared.
        most = max((row.summaries[metric].volumes for row in rows), default=0)
        rivals = {row.method: row.summaries[metric].mean for row in rows if row.summaries[metric].volumes == most}
        values = [v for v in rivals.values() if v is not None]
        if len(values) > 1:
            best = max(values) if METRICS[metric].higher else min(values)
            for row in rows:
                if rivals.get(row.method) == best:
                    row.best.add(metric)
    return rows


def differences(cases: Sequence[Case], options: Options) -> tuple[list[Difference], str]:
    """Return the difference of every pair of methods in every metric (see `compare_runs`), or why there is none."""
    values: dict[str, dict[str, Mapping[str, float | None]]] = {}
    names = [case.name for case in cases]
    for number, case in enumerate(cases):
        # The number keeps cases apart whose names differ only after the first dot.
        name = f"{case.name} {number}" if names.count(case.name) > 1 else case.name
        for r in case.results:
            if r.evaluation is not None:
                values.setdefault(r.method, {})[name] = r.evaluation.mean
    if len(values) < 2:
        return [], "fewer than two methods have scores"
    try:
        return compare_runs(values, options.metrics), ""
    except MriReconError as error:
        return [], f"{error.what} ({error.why})"


def worst_first(cases: Sequence[Case], metric: str) -> list[int]:
    """Return the indices of the cases: failed cases first, then by their worst score, ignoring zero filling."""

    def key(number: int) -> tuple[bool, float, int]:
        case = cases[number]
        evaluations = [case.results[i].evaluation for i in _compared(case)]
        worst = min((_ascending(e.mean, metric) for e in evaluations if e is not None), default=math.inf)
        return not any(r.failure for r in case.results), worst, number

    return sorted(range(len(cases)), key=key)


def worst_slice(case: Case, metric: str, count: int) -> int:
    """Return the slice with the worst score of any method but zero filling; without scores, the middle slice."""
    evaluations = [case.results[number].evaluation for number in _compared(case)]
    scored = [(_ascending(row, metric), i) for e in evaluations if e is not None for i, row in enumerate(e.slices)]
    worst, index = min(scored, key=lambda one: one[0], default=(math.inf, 0))
    return index if worst < math.inf else count // 2


def _ascending(row: Mapping[str, float | None], metric: str) -> float:
    """Return a score that is higher for better images: negated if lower is better; infinity if undefined."""
    value = row.get(metric)
    return math.inf if value is None else value if METRICS[metric].higher else -value


@dataclass(frozen=True)
class LesionRow:
    """Hold one lesion of a case.

    Attributes:
        lesion: item and label.
        diameter: diameter in mm, or in pixels if the spacing is unknown.
        contrast: contrast in the reference.
        cnr: contrast-to-noise ratio in the reference.
        faint: whether the CNR in the reference is too low for a reliable recovery value.
        each: measures of the lesion in each result.

    """

    lesion: tuple[int, int]
    diameter: float
    contrast: float | None
    cnr: float | None
    faint: bool
    each: list[LesionScore | None]


def lesion_rows(case: Case) -> list[LesionRow]:
    """Return one row per lesion; empty without a region.

    Lesions with the lowest recovery by any method but zero filling come first, lesions below `VISIBLE` last.
    """
    lesions: dict[tuple[int, int], list[LesionScore | None]] = {}
    for column, r in enumerate(case.results):
        for item, group in enumerate(r.evaluation.lesions if r.evaluation is not None else ()):
            for one in group:
                lesions.setdefault((item, one.label), [None] * len(case.results))[column] = one
    rows = []
    for lesion, each in lesions.items():
        first = next(s for s in each if s is not None)
        cnr = first.cnr_reference
        faint = cnr is None or abs(cnr) < VISIBLE
        rows.append(LesionRow(lesion, first.diameter, first.contrast_reference, cnr, faint, each))
    columns = _compared(case)

    def key(row: LesionRow) -> tuple[bool, float, tuple[int, int]]:
        recovered = [s.recovery for i in columns if (s := row.each[i]) is not None and s.recovery is not None]
        return row.faint, min(recovered, default=math.inf), row.lesion

    return sorted(rows, key=key)


def median_recoveries(case: Case, rows: Sequence[LesionRow]) -> list[tuple[int, float | None]]:
    """Return the number of visible lesions and their median recovery for each result."""
    medians = []
    for column in range(len(case.results)):
        scores = [row.each[column] for row in rows if not row.faint]
        values = [s.recovery for s in scores if s is not None and s.recovery is not None]
        medians.append((len(values), statistics.median(values) if values else None))
    return medians


def _compared(case: Case) -> list[int]:
    """Return the indices of all results but zero filling, or of all if there are no others."""
    others = [i for i, r in enumerate(case.results) if r.method != ZERO_FILLED]
    return others or list(range(len(case.results)))


def natural(text: str) -> list[tuple[bool, float, str]]:
    """Return a key for natural sorting: 4× before 10×."""
    return [(not p[:1].isdigit(), float(p) if p[:1].isdigit() else 0.0, p) for p in re.split(r"(\d+(?:\.\d+)?)", text)]


def merge_texts(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Merge texts that differ only in their numbers: return the text with the range of each number, and the count."""
    groups: dict[str, list[list[str]]] = {}
    for text in texts:
        groups.setdefault(_NUMBER.sub("\0", text), []).append(_NUMBER.findall(text))
    merged = []
    for words, numbers in groups.items():
        parts = words.split("\0")
        for i, column in enumerate(zip(*numbers, strict=True), start=1):
            low, high = min(column, key=float), max(column, key=float)
            parts[i] = (low if low == high else f"{low} to {high}") + parts[i]
        merged.append(("".join(parts), len(numbers)))
    return merged
