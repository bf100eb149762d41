"""Many files: scored one after the other, and summed up over volumes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, MriReconError
from mrirecon.evaluation.one import evaluate
from mrirecon.evaluation.partners import by_name, pair_up
from mrirecon.io import atomic_path
from mrirecon.io.safe.text import utf8
from mrirecon.metrics.evaluation import Evaluation, Options, Row
from mrirecon.metrics.lesions import LesionScore, by_size

RESAMPLES = 10_000
LEAST = 3  # volumes for an interval


@dataclass(frozen=True)
class Summary:
    """One metric over volumes.

    Attributes:
        volumes: where it is defined.
        undefined: where it is not; they are in no mean.
        mean: over volumes, each of which counts once, however many slices it has.
        deviation: sample standard deviation between volumes; None for one.
        low: lower end of the 95 % interval of the mean; None for fewer than three volumes.
        high: its upper end.

    """

    volumes: int
    undefined: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Evaluations:
    """What was found in two folders.

    Attributes:
        done: one a pair of files.
        failed: the files that could not be compared, and why.
        without_reference: predictions that have no partner.
        without_prediction: references that have none.
        options: what was measured.

    """

    done: list[Evaluation]
    failed: list[MriReconError]
    without_reference: list[Path]
    without_prediction: list[Path]
    options: Options
    seed: int = field(default=0)

    def volumes(self) -> list[Row]:
        """Return one row a file: the mean over its slices, or what the preset says of it as one volume."""
        return [
            {
                "file": one.prediction.name,
                "items": len(one.items),
                "slices": len(one.slices),
                **one.mean,
                "notes": "; ".join(one.notes) or None,
            }
            for one in self.done
        ]

    def summary(self) -> dict[str, Summary]:
        """Return each metric over files, with a bootstrap interval."""
        rows = [one.mean for one in self.done]
        return {name: summarize([row[name] for row in rows], self.seed) for name in self.options.metrics}

    def lacking(self) -> list[str]:
        """Say what is not as it should be: pairs that failed, files without a partner, metrics that no mean can hold.

        Slices where a metric is undefined are told beside it; here is where that leaves a whole file without it.
        """
        pairs = len(self.failed) + len(self.done)
        out = [f"{len(self.failed)} of {pairs} pairs could not be compared"] if self.failed else []
        for paths, what in ((self.without_reference, "reference"), (self.without_prediction, "prediction")):
            if paths:
                out.append(f"{len(paths)} {'file has' if len(paths) == 1 else 'files have'} no {what}")
        for name, one in self.summary().items():
            if one.undefined:
                out.append(f"{name} is undefined in {one.undefined} of {one.undefined + one.volumes} files")
        return out

    def lesions(self) -> list[LesionScore]:
        """Return the lesions of all files."""
        return [s for one in self.done for item in one.lesions for s in item]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        found: dict[str, Any] = {"lesions": by_size(self.lesions())} if self.options.region is not None else {}
        return found | {
            "preset": self.options.preset,
            "summary": {name: vars(s) for name, s in self.summary().items()},
            "interval": f"95 %, percentile bootstrap over volumes, {RESAMPLES} resamples, seed {self.seed}",
            "volumes": self.volumes(),
            "failed": [{"file": e.where, "error": e.what, "why": e.why, "fix": e.fix} for e in self.failed],
            "without reference": [str(p) for p in self.without_reference],
            "without prediction": [str(p) for p in self.without_prediction],
            "files": [one.as_dict() for one in self.done],
        }

    def write_slices(self, path: str | Path) -> None:
        """Write one row a slice as CSV; see `Evaluation.rows`."""
        rows = [{"file": one.prediction.name, **row} for one in self.done for row in one.rows()]
        write_csv(path, ("file", "item", "slice", *self.options.metrics, "scale", "reason"), rows, self._inputs())

    def write_volumes(self, path: str | Path) -> None:
        """Write one row a file as CSV; see `volumes`."""
        columns = ("file", "items", "slices", *self.options.metrics, "notes")
        write_csv(path, columns, self.volumes(), self._inputs())

    def _inputs(self) -> list[Path]:
        return [p for one in self.done for p in (one.prediction, one.reference)]


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    options: Options | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **names: Any,
) -> Evaluations:
    """Score every file of a folder against the one of the same scan; one pair is in memory at a time.

    What belongs together is told by the sidecars of the images, and by names up to their first dot: see
    `mrirecon.evaluation.partners.pair_up`. If options name a mask or a region that is a folder, each pair takes the
    file of its scan there.

    Args:
        predictions: folder of images.
        references: folder of images or fully sampled scans.
        options: what is measured.
        progress: is told (done, of, name).
        names: passed on to `evaluate`.

    Raises:
        InputError: nothing fits together; a folder holds two files of one name.

    """
    options = options or Options()
    pairs, alone, unused = pair_up(predictions, references)
    done: list[Evaluation] = []
    failed: list[MriReconError] = []
    for number, pair in enumerate(pairs):
        if progress is not None:
            progress(number, len(pairs), pair.case)
        try:
            own = own_options(options, pair.case, pair.prediction.name.split(".")[0])
            found = evaluate(pair.prediction, pair.reference, options=own, **names)
        except MriReconError as error:
            error.where = error.where or str(pair.prediction)
            failed.append(error)
        else:
            done.append(replace(found, case=pair.case))
    return Evaluations(done, failed, alone, unused, options)


def summarize(values: Sequence[float | None], seed: int = 0) -> Summary:
    """Return the mean over volumes with a 95 % interval by the percentile bootstrap (Efron, Ann. Stat. 7:1, 1979).

    Args:
        values: one a volume; slices of one volume are no independent draws, and must be averaged before.
        seed: of the resamples.

    """
    defined = np.array([v for v in values if v is not None])
    if not len(defined):
        return Summary(0, len(values), None, None, None, None)
    low = high = None
    if len(defined) >= LEAST:
        rng = np.random.Generator(np.random.PCG64(seed))
        means = defined[rng.integers(len(defined), size=(RESAMPLES, len(defined)))].mean(1)
        low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    deviation = float(defined.std(ddof=1)) if len(defined) > 1 else None
    return Summary(len(defined), len(values) - len(defined), float(defined.mean()), deviation, low, high)


def own_options(options: Options, *names: str) -> Options:
    """Return options whose mask and region are files of the first of these names there is, where they are folders.

    Raises:
        InputError: there is none.

    """
    changed = {}
    for key in ("mask", "region"):
        folder = getattr(options, key)
        if folder is not None and folder.is_dir():
            there = by_name(folder)
            name = next((n for n in names if n in there), None)
            if name is None:
                raise InputError(
                    f"there is no {key} for {names[0]}", where=str(folder), fix=f"add one, or leave out --{key}"
                )
            changed[key] = there[name]
    return Options(**{**vars(options), **changed})


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Row], inputs: Sequence[Path] = ()) -> None:
    """Write rows as CSV, atomically.

    Texts that a spreadsheet would run as a formula (=, +, -, @ or a tab first) get an apostrophe before them, as OWASP
    advises against CSV injection: names of files are not ours. Numbers stay what they are, and None is empty.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({k: _harmless(v) for k, v in row.items()} for row in rows)
    with atomic_path(path, inputs=inputs) as temporary:
        temporary.write_bytes(utf8(text.getvalue()))


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
