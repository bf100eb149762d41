"""Do runs differ? Paired by person, tested only where a test can say something, in words that claim no more.

For each metric and each pair of runs, with d the differences of persons' means:

- the mean of d, with a 95 % percentile bootstrap interval over persons (three persons or more);
- effect size: the matched-pairs rank-biserial correlation, (W₊ − W₋) / (W₊ + W₋) (Kerby, Compr. Psychol. 3, 2014), from
  −1 to 1, the share of evidence for A less that for B;
- from six persons on, the two-sided Wilcoxon signed-rank test (Biometrics Bull. 1:80, 1945), exact where there are no
  ties: with five, its p cannot fall below 0.0625. All tests of a comparison together are adjusted by Holm (Scand. J.
  Stat. 6:65, 1979).

Slices of a volume, and volumes of a person, are no independent draws: they are averaged first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mrirecon.data.settings import Data
from mrirecon.data.sources import check_person, person_of
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation.folders import summarize
from mrirecon.io.safe.text import parse_json
from mrirecon.metrics import METRICS

LEAST = 6  # persons for a test
LEVEL = 0.05
PERSON: str = Data.model_fields["person"].default
Values = Mapping[str, Mapping[str, float | None]]  # by scan, then by metric


@dataclass(frozen=True)
class Difference:
    """One metric of two runs.

    Attributes:
        metric: its name.
        a: first run.
        b: second run.
        persons: with a value in both.
        left_out: persons with a value in one alone, or none.
        mean: of a − b over persons.
        low: lower end of its 95 % interval; None for fewer than three persons.
        high: upper end.
        effect: rank-biserial correlation; None where all differences are zero.
        p: of the test; None for fewer than six persons, or where all differences are zero.
        adjusted: by Holm, over all tests of the comparison.
        verdict: in words.
        each: the difference of each person.

    """

    metric: str
    a: str
    b: str
    persons: int
    left_out: int
    mean: float | None
    low: float | None
    high: float | None
    effect: float | None
    p: float | None
    adjusted: float | None
    verdict: str
    each: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def compare_runs(
    runs: Mapping[str, Values],
    metrics: Sequence[str],
    *,
    person: str | None = None,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
    higher: Mapping[str, bool] | None = None,
) -> list[Difference]:
    """Compare pairs of runs in every metric.

    Args:
        runs: by name; each gives the metrics of each scan, by the scan's name.
        metrics: names.
        person: regular expression whose first group names the person in a file's name; see `person_of`.
        seed: of the bootstrap.
        pairs: of runs; all by default. Few that were planned leave the test more power than all that there are.
        higher: for each of `metrics`, whether more is better; by default as the registered metric of that name says.
            Less is where nothing is said.

    Raises:
        UsageError: fewer than two runs; a `person` that names nobody.
        InputError: two runs have no person in common.

    """
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more", why=f"there is {', '.join(runs) or 'none'}")
    check_person(person or PERSON, "--person")
    means = {name: _by_person(values, metrics, person) for name, values in runs.items()}
    found = [
        _difference(metric, a, b, means[a], means[b], seed)
        for a, b in (itertools.combinations(runs, 2) if pairs is None else pairs)
        for metric in metrics
    ]
    adjusted = holm([d.p for d in found])
    tests = sum(p is not None for p in adjusted)
    if higher is None:
        higher = {name: METRICS[name].higher for name in metrics if name in METRICS}
    return [_judged(replace(d, adjusted=p), tests, higher) for d, p in zip(found, adjusted, strict=True)]


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for the number of tests there are; None stays None and counts as no test."""
    there = sorted((v, i) for i, v in enumerate(p) if v is not None)
    out: list[float | None] = [None] * len(p)
    worst = 0.0
    for rank, (value, index) in enumerate(there):
        worst = max(worst, min(1.0, (len(there) - rank) * value))
        out[index] = worst
    return out


def read_run(path: str | Path) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each scan out of what `mrirecon evaluate FOLDER FOLDER --json` printed.

    Raises:
        InputError: see `read_scores`.

    """
    return read_scores(path)[0]


def read_scores(path: str | Path) -> tuple[dict[str, dict[str, float | None]], str]:
    """Return the metrics of each scan, and by whose definition, from what `evaluate --json` printed of two folders.

    Raises:
        InputError: it is something else; metrics that are no numbers; a scan that is there twice.

    """
    path = Path(path)
    found: dict[str, dict[str, float | None]] = {}
    try:
        told = parse_json(path.read_bytes())
        for one in told["files"]:
            # earlier versions did not say which scan it is, and matched by name alone
            case = str(one.get("case") or Path(one["prediction"]).name.split(".")[0])
            if case in found:
                raise ValueError(f"{case} is there twice")
            found[case] = {str(name): _number(value) for name, value in one["mean"].items()}
        return found, str(told.get("preset", "mrirecon"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "this is no evaluation of two folders",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            fix="write one with `mrirecon evaluate PREDICTIONS REFERENCES --json > run.json`",
        ) from None


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no metric")
    return float(value)


def _by_person(values: Values, metrics: Sequence[str], person: str | None) -> dict[str, dict[str, float]]:
    """Return the mean of each metric over a person's files, where one of them has it."""
    collected: dict[str, dict[str, list[float]]] = {}
    for file, row in values.items():
        name = person_of(file.split(".")[0], person or PERSON)
        for metric in metrics:
            value = row.get(metric)
            there = collected.setdefault(name, {}).setdefault(metric, [])
            if value is not None:
                there.append(value)
    return {
        name: {metric: math.fsum(v) / len(v) for metric, v in rows.items() if v} for name, rows in collected.items()
    }


def _difference(
    metric: str,
    a: str,
    b: str,
    first: Mapping[str, Mapping[str, float]],
    second: Mapping[str, Mapping[str, float]],
    seed: int,
) -> Difference:
    if not set(first) & set(second):
        raise InputError(
            f"{a} and {b} have no person in common",
            why=f"{', '.join(sorted(first)[:3])} and {', '.join(sorted(second)[:3])}",
            fix="compare runs over the same scans",
        )
    everyone = sorted(set(first) | set(second))
    each = {
        name: first[name][metric] - second[name][metric]
        for name in everyone
        if metric in first.get(name, {}) and metric in second.get(name, {})
    }
    summary = summarize(list(each.values()), seed)
    moved = np.array([d for d in each.values() if d != 0])
    effect = p = None
    if len(moved):
        ranks = stats.rankdata(np.abs(moved))
        effect = float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())
        if len(each) >= LEAST:
            p = float(stats.wilcoxon(np.array(list(each.values()))).pvalue)
    left = len(everyone) - len(each)
    return Difference(metric, a, b, len(each), left, summary.mean, summary.low, summary.high, effect, p, None, "", each)


def _judged(d: Difference, tests: int, higher: Mapping[str, bool]) -> Difference:
    if d.persons == 0:
        text = "no person has a value in both"
    elif d.effect is None:
        text = "equal for every person"
    elif d.persons < LEAST:
        text = f"no verdict: {d.persons} {'person' if d.persons == 1 else 'persons'}, a test needs {LEAST}"
    elif tests * 2.0 ** (1 - d.persons) >= LEVEL:
        # the smallest p there is, after Holm's first step
        text = f"no verdict: {d.persons} persons are too few for {tests} tests at once"
    elif d.p is None or d.adjusted is None or d.adjusted >= LEVEL:
        text = "no difference shown; that is not a proof of none"
    else:
        assert d.effect is not None, "there is a p"
        better = d.a if (d.effect > 0) == higher.get(d.metric, False) else d.b
        text = f"{better} is better on these {d.persons} persons"
    return replace(d, verdict=text)
