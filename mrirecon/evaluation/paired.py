"""Compare runs, paired by subject: differences with intervals, and a significance test if there are enough subjects.

For each metric and each pair of runs, with d the difference of the means of each subject:

- the mean of d, with a 95 % percentile bootstrap interval over subjects (three subjects or more);
- effect size: the matched-pairs rank-biserial correlation, (W₊ − W₋) / (W₊ + W₋) (Kerby, Compr. Psychol. 3, 2014), from
  −1 to 1: the share of evidence for A minus the share for B;
- from six subjects on, the two-sided Wilcoxon signed-rank test (Biometrics Bull. 1:80, 1945), exact without ties; with
  five subjects, p is at least 0.0625. Holm's method adjusts all tests of a comparison together (Scand. J. Stat. 6:65,
  1979).

Slices of a volume and volumes of a subject are not independent, so they are averaged first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mrirecon.data.settings import Data
from mrirecon.data.sources import check_subject_expression, subject_of
from mrirecon.errors import InputError, UsageError
from mrirecon.metrics import METRICS

RESAMPLES = 10_000
LEAST_FOR_INTERVAL = 3  # volumes, or subjects
LEAST = 6  # fewest subjects for a test
LEVEL = 0.05
SUBJECT: str = Data.model_fields["subject"].default
Values = Mapping[str, Mapping[str, float | None]]  # keys: scan, metric
Means = Mapping[str, Mapping[str, float]]  # keys: subject, metric


@dataclass(frozen=True)
class Summary:
    """Summarize one metric over volumes.

    Attributes:
        volumes: number of volumes in which the metric is defined.
        undefined: number of volumes in which it is undefined; the mean excludes them.
        mean: mean over volumes, each with weight 1, whatever its number of slices.
        deviation: sample standard deviation over volumes; None for one volume.
        low: lower end of the 95 % interval of the mean; None for fewer than three volumes.
        high: upper end of the interval.

    """

    volumes: int
    undefined: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None


def summarize(values: Sequence[float | None]) -> Summary:
    """Return the mean over volumes with a 95 % interval by the percentile bootstrap (Efron, Ann. Stat. 7:1, 1979).

    Args:
        values: one value per volume; average the slices of a volume first, because they are not independent.

    """
    defined = np.array([v for v in values if v is not None])
    if not len(defined):
        return Summary(0, len(values), None, None, None, None)
    low = high = None
    if len(defined) >= LEAST_FOR_INTERVAL:
        rng = np.random.Generator(np.random.PCG64(0))
        means = defined[rng.integers(len(defined), size=(RESAMPLES, len(defined)))].mean(1)
        low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    deviation = float(defined.std(ddof=1)) if len(defined) > 1 else None
    return Summary(len(defined), len(values) - len(defined), float(defined.mean()), deviation, low, high)


@dataclass(frozen=True)
class Difference:
    """Hold the difference of two runs in one metric.

    Attributes:
        metric: name of the metric.
        a: first run.
        b: second run.
        subjects: number of subjects with a value in both runs.
        left_out: number of subjects with a value in at most one run.
        mean: mean of a − b over subjects.
        low: lower end of its 95 % interval; None for fewer than three subjects.
        high: upper end of the interval.
        effect: rank-biserial correlation; None if all differences are zero.
        p: p-value of the test; None for fewer than six subjects or if all differences are zero.
        adjusted: p-value adjusted by Holm's method over all tests of the comparison.
        verdict: conclusion in words.
        each: difference of each subject.

    """

    metric: str
    a: str
    b: str
    subjects: int
    left_out: int
    mean: float | None
    low: float | None
    high: float | None
    effect: float | None
    p: float | None
    adjusted: float | None
    verdict: str
    each: dict[str, float]


def compare_runs(
    runs: Mapping[str, Values],
    metrics: Sequence[str],
    *,
    subject: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    higher: Mapping[str, bool] | None = None,
) -> list[Difference]:
    """Compare pairs of runs in every metric.

    Args:
        runs: keys: run, scan, metric.
        metrics: names of the metrics.
        subject: regular expression whose first group matches the subject in a file name; see `subject_of`.
        pairs: pairs of runs; all by default. A few planned pairs give each test more power.
        higher: for each metric, whether a higher value is better; by default, as registered for the metric of that
            name, else False.

    Raises:
        UsageError: there are fewer than two runs, or `subject` has no group.
        InputError: two runs have no subject in common.

    """
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more", why=f"given: {', '.join(runs) or 'none'}")
    check_subject_expression(subject or SUBJECT, "--subject")
    means = {name: _by_subject(values, metrics, subject or SUBJECT) for name, values in runs.items()}
    differences = [
        _difference(metric, a, b, means[a], means[b])
        for a, b in (itertools.combinations(runs, 2) if pairs is None else pairs)
        for metric in metrics
    ]
    adjusted = holm([d.p for d in differences])
    tests = sum(p is not None for p in adjusted)
    if higher is None:
        higher = {name: METRICS[name].higher for name in metrics if name in METRICS}
    out = []
    for d, p in zip(differences, adjusted, strict=True):
        judged = replace(d, adjusted=p)
        out.append(replace(judged, verdict=_verdict(judged, tests, higher)))
    return out


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for the number of tests; None stays None and counts as no test."""
    ascending = sorted((v, i) for i, v in enumerate(p) if v is not None)
    out: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - rank) * value))
        out[index] = largest
    return out


def _by_subject(values: Values, metrics: Sequence[str], subject: str) -> dict[str, dict[str, float]]:
    """Return the mean of each metric over the files of each subject, without undefined values."""
    files: dict[str, list[Mapping[str, float | None]]] = {}
    for file, row in values.items():
        files.setdefault(subject_of(file.split(".")[0], subject), []).append(row)
    means: dict[str, dict[str, float]] = {name: {} for name in files}
    for (name, rows), metric in itertools.product(files.items(), metrics):
        defined = [v for row in rows if (v := row.get(metric)) is not None]
        if defined:
            means[name][metric] = math.fsum(defined) / len(defined)
    return means


def _difference(metric: str, a: str, b: str, first: Means, second: Means) -> Difference:
    if not set(first) & set(second):
        raise InputError(
            f"{a} and {b} have no subject in common",
            why=f"{', '.join(sorted(first)[:3])} and {', '.join(sorted(second)[:3])}",
            fix="compare runs over the same scans",
        )
    subjects = sorted({*first, *second})
    each = {
        name: first[name][metric] - second[name][metric]
        for name in subjects
        if metric in first.get(name, {}) and metric in second.get(name, {})
    }
    summary = summarize(list(each.values()))
    moved = np.array([d for d in each.values() if d != 0])
    effect = p = None
    if len(moved):
        ranks = stats.rankdata(np.abs(moved))
        effect = float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())
        if len(each) >= LEAST:
            p = float(stats.wilcoxon(np.array(list(each.values()))).pvalue)
    left_out = len(subjects) - len(each)
    return Difference(
        metric, a, b, len(each), left_out, summary.mean, summary.low, summary.high, effect, p, None, "", each
    )


def _verdict(d: Difference, tests: int, higher: Mapping[str, bool]) -> str:
    if d.subjects == 0:
        return "no subject has a value in both runs"
    if d.effect is None:
        return "equal for every subject"
    if d.subjects < LEAST:
        return f"no verdict: {d.subjects} {'subject' if d.subjects == 1 else 'subjects'}, a test needs {LEAST}"
    if tests * 2.0 ** (1 - d.subjects) >= LEVEL:  # the smallest possible p after Holm's first step
        return f"no verdict: {d.subjects} subjects are too few for {tests} tests at once"
    if d.adjusted is None or d.adjusted >= LEVEL:
        return "no difference shown; this does not prove that there is none"
    better = d.a if (d.effect > 0) == higher.get(d.metric, False) else d.b
    return f"{better} is better on these {d.subjects} subjects"
