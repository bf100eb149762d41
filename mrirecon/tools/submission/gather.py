"""Gather the results of all tasks: one table, one list of failures, and a report of the worst and of random images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrirecon.errors import UsageError
from mrirecon.evaluation import Options
from mrirecon.evaluation.report.cases import About
from mrirecon.evaluation.report.gather import Sources
from mrirecon.evaluation.report.gather import gather as gather_cases
from mrirecon.evaluation.report.html import write_report
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.reconstruction.cohort import FAILURES, TABLE, merge_tables, random_rows, read_list, read_rows, worst_rows
from mrirecon.reconstruction.file import versions
from mrirecon.tools.submission.record import Submission

COHORT, REPORT, FAILED = "cohort.csv", "report.html", "failed.jsonl"


@dataclass(frozen=True)
class Cohort:
    """Hold the summary of all files of a submission.

    Attributes:
        files: number of files.
        counts: number of files that are done, partial (some items failed), failed, and missing (not tried yet).
        table: table with one row per file.
        failures: list of failures, or None without failures.
        report: report of the worst and of random images, or None without images.
        notes: notes to the user.

    """

    files: int
    counts: dict[str, int]
    table: Path
    failures: Path | None
    report: Path | None
    notes: list[str]


def gather(submission: Submission, *, worst: int = 12, sample: int = 12, reference: Path | None = None) -> Cohort:
    """Merge the tables and the failures of all tasks, and write the report; older results are replaced.

    Args:
        submission: a submission of `mrirecon submit reconstruct`.
        worst: number of the worst images in the report.
        sample: number of random images in the report.
        reference: folder of references.

    Raises:
        UsageError: the submission has no lists of files, as those of `train` and `study`.
        InputError: a list cannot be read.

    """
    lists = [submission.folder / f"{task.name}.txt" for task in submission.tasks]
    if not all(path.is_file() for path in lists):
        fix = "only `mrirecon submit reconstruct` has results to gather"
        raise UsageError("the submission has no lists of files", where=str(submission.folder), fix=fix)
    tables = [path.with_suffix(TABLE) for path in lists]
    table, report = submission.output / COHORT, submission.output / REPORT
    files = sum(len(read_list(path)) for path in lists)
    counts = {"done": 0, "partial": 0, "failed": 0} | merge_tables(tables, table)
    counts["missing"] = files - sum(counts.values())
    failures = _join([path.with_suffix(FAILURES) for path in lists], submission.output / FAILED)
    worst_images, by = worst_rows(tables, worst)
    random_images = random_rows(read_rows(tables), sample)
    images = [Path(row["image"]) for row in [*worst_images, *random_images]]
    images = [image for image in dict.fromkeys(images) if image.is_file()]
    notes = [
        f"{files} files: " + ", ".join(f"{number} {state}" for state, number in counts.items() if number),
        f"shown: the {len(worst_images)} worst by {by}, and {len(random_images)} random ones; all are in {COHORT}",
    ]
    if images:
        cases = gather_cases(Sources(images, reference))
        about = About(f"Cohort {submission.output.name}", Options(), None, versions(), notes=[*notes, *cases.notes])
        try:
            write_report(report, cases.cases, about)
        except UsageError as error:  # an optional package is missing
            notes.append(f"no report: {error.what} ({error.fix})")
            images = []
    return Cohort(files, counts, table, failures, report if images else None, notes)


def _join(parts: Sequence[Path], path: Path) -> Path | None:
    """Write several files into one; without any, remove the older one and return None."""
    existing = [part for part in parts if part.is_file()]
    if not existing:
        path.unlink(missing_ok=True)
        return None
    with atomic_path(path) as temporary, temporary.open("wb") as joined:
        for part in existing:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)
    return path
