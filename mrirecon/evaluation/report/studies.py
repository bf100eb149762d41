"""The folder of a study, read for a report: a run for every method, a group for every mask."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrirecon.errors import InputError
from mrirecon.evaluation.report.reading import Sources


@dataclass(frozen=True)
class Part:
    """What is gathered together.

    Attributes:
        group: the mask; empty outside a study.
        sources: of its images.
        planned: method and scan of every cell that the study's table lists; None where there is no table.

    """

    group: str
    sources: Sources
    planned: list[tuple[str, str]] | None = None


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / "study.yaml").is_file() and (folder / "images").is_dir()


def parts(sources: Sources) -> list[Part]:
    """Return the masks of every study among the runs, and all other runs as one part.

    Raises:
        InputError: a study without images, or whose table cannot be read.

    """
    found = []
    others = [run for run in sources.runs if not is_study(run)]
    if others:
        found.append(Part("", replace(sources, runs=others)))
    for study in (run for run in sources.runs if is_study(run)):
        cells = _cells(study / "cells.csv")
        masks = sorted(p for p in (study / "images").iterdir() if p.is_dir())
        if cells is not None:  # images of a former configuration may lie beside
            masks = [study / "images" / name for name in dict.fromkeys(mask for mask, _, _ in cells)]
        if not masks:
            raise InputError("the study has no images yet", where=str(study), fix="run it: `mrirecon study`")
        reference = sources.reference or (study / "references")
        for mask in masks:
            own = replace(
                sources,
                runs=[mask],
                reference=reference if reference.exists() else None,
                by_run=True,
                records=study / "cells" / mask.name,
            )
            planned = None if cells is None else [(method, scan) for name, method, scan in cells if name == mask.name]
            found.append(Part(mask.name, own, planned))
    return found


def _cells(path: Path) -> Sequence[tuple[str, str, str]] | None:
    """Return mask, method and scan of every cell in a study's table; None where it was not written yet."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["mask"], row["method"], row["scan"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            "the study's table cannot be read", where=str(path), why=str(error), fix="run the study again"
        ) from None
