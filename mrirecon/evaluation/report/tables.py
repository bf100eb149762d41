"""The numbers of a report: over volumes, method against method, lesion by lesion, and how each was made."""

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
from mrirecon.metrics.lesions import LesionScore

VISIBLE = 1.0  # contrast-to-noise ratio in the reference, below which a lesion can hardly be seen
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
    "mridc": "As mridc 0.2: every slice brought to its own range, range 1.",
    "skimage": "As scikit-image's functions, called with the reference's range.",
}


@dataclass(frozen=True)
class MethodRow:
    """One method over all volumes.

    Attributes:
        method: its name.
        number: its place, by which it is coloured.
        summaries: of each metric.
        failed: cases without a score, though they have a reference.
        seconds: mean of a slice; None where it is not known.
        best: metrics in which no other method's mean is better.

    """

    method: str
    number: int
    summaries: dict[str, Summary]
    failed: int
    seconds: float | None
    best: set[str]


def method_names(cases: Sequence[Case]) -> list[str]:
    """Return the methods of all cases, in the order in which they first appear."""
    return list(dict.fromkeys(r.method for case in cases for r in case.results))


def result_of(case: Case, method: str) -> Result | None:
    """Return what a method made of a case; None where it was not asked to."""
    return next((r for r in case.results if r.method == method), None)


def method_rows(cases: Sequence[Case], methods: Sequence[str], options: Options, seed: int = 0) -> list[MethodRow]:
    """Return one row for each of the methods that these cases have: metrics over volumes, undefined ones counted."""
    rows = []
    there = method_names(cases)
    for number, method in enumerate(methods):
        if method not in there:
            continue
        results = [r for case in cases if (r := result_of(case, method)) is not None]
        means = [r.evaluation.mean for r in results if r.evaluation is not None]
        seconds = [s for r in results for s in r.seconds]
        failed = sum(r.failure is not None for r in results)
        found = {m: summarize([row[m] for row in means], seed) for m in options.metrics}
        rows.append(
            MethodRow(method, number, found, failed, math.fsum(seconds) / len(seconds) if seconds else None, set())
        )
    for metric in options.metrics:
        # Means over other volumes are no rivals.
        most = max((row.summaries[metric].volumes for row in rows), default=0)
        rivals = [row for row in rows if row.summaries[metric].volumes == most and most]
        values = [row.summaries[metric].mean or 0.0 for row in rivals]
        if len(rivals) > 1:
            best = max(values) if METRICS[metric].higher else min(values)
            for row, value in zip(rivals, values, strict=True):
                if value == best:
                    row.best.add(metric)
    return rows


def differences(cases: Sequence[Case], options: Options) -> tuple[list[Difference], str]:
    """Return every pair of methods in every metric, paired by person (see `compare_runs`), or why there are none."""
    values: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for number, case in enumerate(cases):
        for r in case.results:
            if r.evaluation is not None:
                # Names that differ only behind their first dot are still two cases.
                twice = sum(other.name == case.name for other in cases) > 1
                name = f"{case.name} {number}" if twice else case.name
                values.setdefault(r.method, {})[name] = r.evaluation.mean
    if len(values) < 2:
        return [], "there are scores of fewer than two methods"
    try:
        return compare_runs(values, options.metrics), ""
    except MriReconError as error:
        return [], f"{error.what} ({error.why})"


def worst_first(cases: Sequence[Case], metric: str) -> list[int]:
    """Return the cases' numbers: those with failures first, then by their worst score, zero filling left aside."""

    def key(number: int) -> tuple[bool, float, int]:
        case = cases[number]
        judged = [case.results[i].evaluation for i in _judged(case)]
        values = [e.mean[metric] for e in judged if e is not None]
        defined = [v for v in values if v is not None]
        worst = math.inf if not defined else min(defined) if METRICS[metric].higher else -max(defined)
        return not any(r.failure for r in case.results), worst, number

    return sorted(range(len(cases)), key=key)


def worst_slice(case: Case, metric: str, count: int) -> int:
    """Return which of ``count`` slices is the worst of any method but zero filling; without scores the middle one."""
    worst, at = math.inf, None
    for number in _judged(case):
        found = case.results[number].evaluation
        for i, row in enumerate(found.slices if found is not None else ()):
            value = row.get(metric)
            if value is not None and (value if METRICS[metric].higher else -value) < worst:
                worst, at = (value if METRICS[metric].higher else -value), i
    return at if at is not None else count // 2


@dataclass(frozen=True)
class LesionRow:
    """One lesion of a case.

    Attributes:
        where: its item and its label.
        diameter: in mm, or in pixels where their distance is not known.
        contrast: in the reference.
        cnr: in the reference.
        faint: whether it can hardly be seen there, so that what is recovered of it says little.
        each: what is measured of it in each result.

    """

    where: tuple[int, int]
    diameter: float
    contrast: float | None
    cnr: float | None
    faint: bool
    each: list[LesionScore | None]


def lesion_rows(case: Case) -> list[LesionRow]:
    """Return one row a lesion; empty where no region was given.

    Those that any method but zero filling recovers least come first, those that are `VISIBLE` no more last.
    """
    found: dict[tuple[int, int], list[LesionScore | None]] = {}
    for column, r in enumerate(case.results):
        for item, group in enumerate(r.evaluation.lesions if r.evaluation is not None else ()):
            for one in group:
                found.setdefault((item, one.label), [None] * len(case.results))[column] = one
    rows = []
    for where, each in found.items():
        any_ = next(s for s in each if s is not None)
        cnr = any_.cnr_reference
        faint = cnr is None or abs(cnr) < VISIBLE
        rows.append(LesionRow(where, any_.diameter, any_.contrast_reference, cnr, faint, each))
    columns = _judged(case)

    def key(row: LesionRow) -> tuple[bool, float, tuple[int, int]]:
        recovered = [s.recovery for i in columns if (s := row.each[i]) is not None and s.recovery is not None]
        return row.faint, min(recovered, default=math.inf), row.where

    return sorted(rows, key=key)


def median_recoveries(case: Case, rows: Sequence[LesionRow]) -> list[tuple[int, float | None]]:
    """Return, for each result, of how many visible lesions recovery is defined, and its median."""
    found = []
    for column in range(len(case.results)):
        scores = [row.each[column] for row in rows if not row.faint]
        values = [s.recovery for s in scores if s is not None and s.recovery is not None]
        found.append((len(values), statistics.median(values) if values else None))
    return found


def _judged(case: Case) -> list[int]:
    """Return the results that count where the worst is looked for: all but zero filling, if there are others."""
    others = [i for i, r in enumerate(case.results) if r.method != ZERO_FILLED]
    return others or list(range(len(case.results)))


def natural(text: str) -> list[tuple[bool, float, str]]:
    """Return a key that sorts texts as people do: 4× before 10×."""
    return [(not p[:1].isdigit(), float(p) if p[:1].isdigit() else 0.0, p) for p in re.split(r"(\d+(?:\.\d+)?)", text)]


def summed_up(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return texts that differ in their numbers alone as one, with the range of each number, and how many they are."""
    groups: dict[str, list[list[str]]] = {}
    for text in texts:
        groups.setdefault(_NUMBER.sub("\0", text), []).append(_NUMBER.findall(text))
    found = []
    for words, numbers in groups.items():
        parts = words.split("\0")
        for i, column in enumerate(zip(*numbers, strict=True), start=1):
            low, high = min(column, key=float), max(column, key=float)
            parts[i] = (low if low == high else f"{low} to {high}") + parts[i]
        found.append(("".join(parts), len(numbers)))
    return found
