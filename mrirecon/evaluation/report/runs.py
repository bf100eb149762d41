"""Runs, that is folders of reconstructed images, gathered into the cases of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation.partners import by_name, case_of, few, files_in
from mrirecon.evaluation.report.cases import ZERO_FILLED, Case
from mrirecon.evaluation.report.reading import CaseReader, Sources
from mrirecon.evaluation.report.sidecars import Image, is_image, read_sidecar
from mrirecon.evaluation.report.studies import Part, parts


def find_images(runs: Sequence[Path], *, by_run: bool = False) -> dict[str, dict[str, Image]]:
    """Return all images by case, and by the method's name in the report.

    A method is called by its name where every case has it once, else with that of its run: ``run: method``; or
    ``by_run``, by that of its run alone.

    Raises:
        UsageError: no images, or two of one case, run and method.

    """
    found = [read_sidecar(path, run) for path, run in _files(runs)]
    if not found:
        raise UsageError(
            "there are no images",
            where=", ".join(map(str, runs)),
            fix="name folders as `mrirecon reconstruct SCANS -o FOLDER` leaves them",
        )
    once = len({(i.case, i.method) for i in found}) == len(found)
    cases: dict[str, dict[str, Image]] = {}
    for image in found:
        label = (
            image.run
            if by_run
            else image.method
            if once or image.method == image.run
            else f"{image.run}: {image.method}"
        )
        row = cases.setdefault(image.case, {})
        if label in row:
            raise UsageError(
                f"two images are {label} of {image.case}",
                where=f"{row[label].path} and {image.path}",
                fix="keep one, or put them into folders of different names",
            )
        row[label] = image
    return cases


@dataclass(frozen=True)
class Gathered:
    """What a report is to be made of.

    Attributes:
        notes: on files that are left out.
        count: of cases.
        cases: one after the other, each read when it is asked for.

    """

    notes: list[str]
    count: int
    cases: Iterator[Case]


def gather(sources: Sources) -> Gathered:
    """Find the cases of runs, each with its images, scores, mask and lesions; of studies, a group for each mask.

    What cannot be read or compared is in its place as failed; a case that some method lacks says so.

    Raises:
        UsageError: see `find_images`; a reference file for several cases.
        InputError: references are given, and none fits any case; see `parts` too.

    """
    each = [_gather(part) for part in parts(sources)]
    cases = (case for found in each for case in found.cases)
    if sources.anonymous:
        cases = (replace(case, name=f"case {number}") for number, case in enumerate(cases, start=1))
    notes = list(dict.fromkeys(note for found in each for note in found.notes))
    return Gathered(notes, sum(found.count for found in each), cases)


def _gather(part: Part) -> Gathered:
    sources = part.sources
    images = find_images(sources.runs, by_run=sources.by_run)
    methods = list(dict.fromkeys(m for row in images.values() for m in row))
    if part.planned is not None:
        methods = list(dict.fromkeys(method for method, _ in part.planned))
        images = {scan: images.get(scan, {}) for _, scan in part.planned}
    baseline = {label for row in images.values() for label, image in row.items() if image.method == ZERO_FILLED}
    if len(baseline) == 1 and ZERO_FILLED not in methods:  # whatever a study calls it
        images = {n: {ZERO_FILLED if m in baseline else m: i for m, i in row.items()} for n, row in images.items()}
        methods = [ZERO_FILLED if m in baseline else m for m in methods]
    references = _by_case(sources.reference, images, "--reference")
    scans = _by_case(sources.scans, images, "--scans")
    if references and not set(references) & set(images):
        raise InputError(
            "no reference has the name of a case",
            where=str(sources.reference),
            why=f"cases are called {few(images)}; references {few(references)}",
            fix="give references the names of the scans up to the first dot",
        )
    alone = sorted(set(references) - set(images))
    notes = []
    if alone:
        which = "" if sources.anonymous else f": {few(alone)}"
        notes.append(f"{len(alone)} of {len(references)} references have no image of any method{which}")
    methods.sort(key=lambda m: m != ZERO_FILLED)
    cases = (
        replace(
            CaseReader(sources, name, images[name], methods, references.get(name), scans.get(name)).read(name),
            group=part.group,
        )
        for name in sorted(images)
    )
    return Gathered(notes, len(images), cases)


def _files(runs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for run in runs:
        if run.is_file():
            yield run, run.resolve().parent.name
            continue
        if not run.is_dir():
            raise UsageError("there is no such run", where=str(run), fix="name a folder of images, or a file")
        here = [p for p in files_in(run) if p.is_file() and is_image(p)]
        for folder in [run] if here else sorted(p for p in run.iterdir() if p.is_dir()):
            for path in (p for p in files_in(folder) if p.is_file() and is_image(p)):
                yield path, folder.resolve().name


def _by_case(source: Path | None, images: Mapping[str, object], option: str) -> dict[str, Path]:
    if source is None:
        return {}
    if source.is_dir():
        named = by_name(source)
        found = {name: path for name, path in named.items() if name in images}
        for name, path in named.items():  # images that serve as references may be named after their method as well
            if name not in found:
                case = case_of(path)
                found.setdefault(name if case in found or case not in images else case, path)
        return found
    if len(images) > 1:
        raise UsageError(
            f"{option} is one file, and there are {len(images)} cases", where=str(source), fix="give a folder"
        )
    return dict.fromkeys(images, source)
