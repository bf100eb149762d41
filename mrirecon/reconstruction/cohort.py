"""Divide large batches: lists of files, subfolders of the output, and tables with one row per file.

A folder of a million images is slow on every file system, and a shared file system locks a folder for each process that
adds a file. With subfolders, every folder stays small, and the files of one process are in few folders.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import os
import random
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mrirecon.errors import InputError, UsageError
from mrirecon.io.safe.atomic import atomic_path, resources
from mrirecon.io.safe.text import utf8
from mrirecon.metrics import METRICS, score_metrics

if TYPE_CHECKING:
    from mrirecon.reconstruction.batch import Outcome

Subfolders = Literal[1, 16, 256, 4096]
PREFIX = "part-"  # with which the names of subfolders begin
FILES_PER_FOLDER = 4000  # a larger output is divided into subfolders
# The table and the failures of a list of files have its name with these suffixes.
TABLE, FAILURES = ".csv", ".failed.jsonl"


def columns() -> tuple[str, ...]:
    """Return the columns of a table: file, image, status, method, numbers, scores, error."""
    numbers = ("items", "failed items", "notes", "seconds")
    return ("file", "image", "status", "method", *numbers, *score_metrics(), "error", "reason")


def subfolders_for(files: int) -> Subfolders:
    """Return the number of subfolders for a number of files."""
    choices: tuple[Subfolders, ...] = (1, 16, 256, 4096)
    return next((n for n in choices if files <= n * FILES_PER_FOLDER), choices[-1])


def subfolder(output: Path, source: Path, count: int) -> Path:
    """Return the folder for the output of a file: one of `count` subfolders, by the hash of the file's name.

    The name up to its first dot decides, so that the place is known from the name alone, and does not change if files
    are added.
    """
    if count == 1:
        return output
    digits = len(f"{count - 1:x}")
    name = source.name.split(".")[0].encode("utf-8", "surrogateescape")
    return output / f"{PREFIX}{hashlib.sha256(name).hexdigest()[:digits]}"


def divide(sources: Iterable[Path], output: Path, count: int, tasks: int) -> list[list[Path]]:
    """Divide files into lists for tasks.

    Sizes differ by one at most. With subfolders, the files of a task are in consecutive subfolders, so that few folders
    are written by more than one task.
    """
    ordered = list(sources)
    if count == 1:
        return [ordered[i::tasks] for i in range(tasks)]
    ordered.sort(key=lambda source: (subfolder(output, source, count), source))
    bounds = [i * len(ordered) // tasks for i in range(tasks + 1)]
    return [ordered[a:b] for a, b in pairwise(bounds)]


def write_list(path: Path, sources: Sequence[Path]) -> None:
    """Write a list of files, one absolute path a line.

    Raises:
        UsageError: a name contains a line break.

    """
    for source in sources:
        if "\n" in str(source):
            raise UsageError("a file name contains a line break", where=repr(str(source)), fix="rename the file")
    text = "".join(f"{source.absolute()}\n" for source in sources)
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def read_list(path: Path) -> list[Path]:
    """Read a list of files, one path a line; empty lines are ignored.

    Raises:
        InputError: the list cannot be read or is empty.

    """
    try:
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise InputError("the list of files cannot be read", where=str(path), why=error.strerror) from None
    sources = [Path(line.rstrip("\r")) for line in lines if line.strip()]
    if not sources:
        raise InputError("the list of files is empty", where=str(path), fix="write one path a line")
    return sources


class Table:
    """Write a table with one row per file; the rows are on the disk as soon as they are added.

    If another process starts the table anew, the rows of this one are lost. This happens if a job is queued again while
    its first process still runs, on a node that lost its connection.

    Raises:
        ResourceError: the table cannot be written.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with resources(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._file)
        self._write(columns())

    def add(self, outcome: Outcome) -> None:
        """Add the outcome for a file."""
        row = _row(outcome)
        self._write([row[name] for name in columns()])

    def _write(self, values: Iterable[object]) -> None:
        with resources(self.path):
            os.write(self._file, utf8(csv_line(values)))


def csv_line(values: Iterable[object]) -> str:
    """Return a line of a CSV file; text is quoted if necessary, and line breaks become spaces."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([" ".join(v.split()) if isinstance(v, str) else v for v in values])
    return line.getvalue()


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(columns())
    row["file"] = str(outcome.source)
    if outcome.error is not None:
        error = outcome.error
        why = f": {error.why}" if error.why else ""
        return row | {"status": "failed", "error": error.code, "reason": f"{error.what}{why}"}
    record: dict[str, Any] = outcome.record or {}
    failed = record.get("failed_items", [])
    scores = record.get("scores", {}).get("mean", {})
    return row | {
        "image": record["outputs"][0],
        "status": "partial" if failed else "done",
        "method": record["method"],
        "items": record["items"],
        "failed items": len(failed),
        "notes": len(record["notes"]),
        "seconds": round(sum(record["seconds"]), 3),
        **{name: scores.get(name) for name in score_metrics()},
        "error": failed[0]["code"] if failed else None,
        "reason": "; ".join(f"{f['where']}: {f['what']}" for f in failed) or None,
    }


def read_rows(tables: Iterable[Path]) -> Iterator[dict[str, str]]:
    """Yield the rows of tables, one after another; a last row that a killed process left incomplete is omitted."""
    for table in tables:
        try:
            with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                for row in csv.DictReader(file):
                    if None not in row and row.get("reason") is not None:
                        yield row
        except FileNotFoundError:
            continue


def merge_tables(tables: Iterable[Path], path: Path) -> dict[str, int]:
    """Merge tables into one, row by row, and return the number of rows for each status."""
    counts: dict[str, int] = {}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(utf8(csv_line(columns())))
        for row in read_rows(tables):
            file.write(utf8(csv_line([row[name] for name in columns()])))
            counts[row["status"]] = counts.get(row["status"], 0) + 1
    return counts


def worst_rows(tables: Sequence[Path], count: int) -> tuple[list[dict[str, str]], str]:
    """Return the rows with the worst images, the worst first, and the name of the criterion.

    Images are ordered by the first score that any of them has; without scores, by failed items, then by notes, then by
    seconds.
    """
    scored = {name for row in read_rows(tables) for name in score_metrics() if row[name]}
    by = next((name for name in score_metrics() if name in scored), None)
    if by is None:
        images = (row for row in read_rows(tables) if row["image"])
        return heapq.nlargest(count, images, key=_trouble), "failed items, notes and seconds"
    images = (row for row in read_rows(tables) if row["image"] and row[by])
    choose = heapq.nsmallest if METRICS[by].higher else heapq.nlargest
    return choose(count, images, key=lambda row: float(row[by])), METRICS[by].title


def _trouble(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["failed items"]), float(row["notes"]), float(row["seconds"])


def random_rows(rows: Iterable[dict[str, str]], count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return a random sample of the rows that have an image; the same for the same rows and seed."""
    rng, sample = random.Random(seed), list[dict[str, str]]()
    for number, row in enumerate(row for row in rows if row["image"]):
        if number < count:
            sample.append(row)
        elif (index := rng.randint(0, number)) < count:  # reservoir sampling
            sample[index] = row
    return sample
