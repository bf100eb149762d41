"""Collect the cases of a report from folders: find the images, references, masks and lesions of each scan, and score.

A result that cannot be read or compared is listed as failed, with the reason.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.evaluation import Options, holds_images
from mrirecon.evaluation.files import compare_placed, own_options
from mrirecon.evaluation.pairing import by_name, case_of, files_in, first_names
from mrirecon.evaluation.report.cases import ZERO_FILLED, Case, Result
from mrirecon.evaluation.report.sidecars import Image, is_image, iterates_path, read_sidecar, without_folders
from mrirecon.io.geometry import Grid
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.images import IMAGE_NAMES, open_store, pick, read_placed_image
from mrirecon.io.readers.reader import read
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.scan import Scan
from mrirecon.metrics import least_squares_scale, magnitude, nmse, object_mask
from mrirecon.metrics.presets import SIGNED
from mrirecon.metrics.region import read_region
from mrirecon.metrics.shapes import common_centre
from mrirecon.reconstruction.reference import placed_reference
from mrirecon.reconstruction.run import reconstruct

_NO_IMAGE = "no image of this case"


@dataclass(frozen=True)
class Sources:
    """Hold the input paths of a report.

    Attributes:
        runs: image files, folders of images, folders of such folders, or studies.
        reference: folder of references or fully sampled scans named like the cases; for a single case, a file.
        scans: folder of undersampled scans named like the cases, or a file; by default, the scans in the sidecars.
        options: settings of the metrics; the mask or region may be a folder with a file for each case.
        axes: axis names of k-space, if the files do not state them.
        anonymous: number the cases instead of naming them, and omit commands.

    """

    runs: Sequence[Path]
    reference: Path | None = None
    scans: Path | None = None
    options: Options = field(default_factory=Options)
    axes: str | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class GatheredCases:
    """Hold the content of a report.

    Attributes:
        notes: notes on omitted files.
        count: number of cases.
        cases: iterator over the cases, each read on demand.

    """

    notes: list[str]
    count: int
    cases: Iterator[Case]


def gather(sources: Sources) -> GatheredCases:
    """Find the cases of all runs with their images, scores, mask and lesions; for studies, group them by mask.

    Raises:
        UsageError: see `find_images`; or a single reference file is given for several cases.
        InputError: no reference matches a case, or a study has no images or an unreadable table.

    """
    others = [run for run in sources.runs if not _is_study(run)]
    groups = [_gather_group(replace(sources, runs=others))] if others else []
    for study in (run for run in sources.runs if _is_study(run)):
        cells = _read_cells(study / "cells.csv")
        masks = [p.name for p in sorted((study / "images").iterdir()) if p.is_dir()]
        if cells is not None:  # the folder may also contain images of an earlier configuration
            masks = list(dict.fromkeys(mask for mask, _, _ in cells))
        if not masks:
            raise InputError("the study has no images yet", where=str(study), fix="run `mrirecon study` first")
        reference = sources.reference or (study / "references")
        for mask in masks:
            own = replace(sources, runs=[study / "images" / mask], reference=reference if reference.exists() else None)
            planned = (
                None if cells is None else {(m, s): reason for (name, m, s), reason in cells.items() if name == mask}
            )
            groups.append(_gather_group(own, mask, planned))
    cases = (case for group in groups for case in group.cases)
    if sources.anonymous:
        cases = (replace(case, name=f"case {number}") for number, case in enumerate(cases, start=1))
    notes = list(dict.fromkeys(note for group in groups for note in group.notes))
    return GatheredCases(notes, sum(group.count for group in groups), cases)


def _is_study(folder: Path) -> bool:
    return (folder / "study.yaml").is_file() and (folder / "images").is_dir()


def _read_cells(path: Path) -> dict[tuple[str, str, str], str] | None:
    """Return why each cell (mask, method, scan) of a study has no image, or ""; None if there is no table yet."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {(r["mask"], r["method"], r["scan"]): r.get("reason") or "" for r in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(
            "the study's table cannot be read", where=str(path), why=str(error), fix="run the study again"
        ) from None


def _gather_group(
    sources: Sources, group: str = "", planned: Mapping[tuple[str, str], str] | None = None
) -> GatheredCases:
    """Collect cases whose scores are averaged together.

    Args:
        sources: input paths.
        group: mask of a study, whose methods are named after their runs.
        planned: why each method and scan of a study has no image, or ""; None if unknown.

    """
    none = bool(planned) and all((planned or {}).values())
    images = {} if none else find_images(sources.runs, by_run=bool(group))
    methods = list(dict.fromkeys(m for row in images.values() for m in row))
    if planned is not None:
        methods = list(dict.fromkeys(method for method, _ in planned))
        images = {scan: images.get(scan, {}) for _, scan in planned}
        images = {s: {m: i for m, i in row.items() if not planned.get((m, s))} for s, row in images.items()}
    baseline = {label for row in images.values() for label, image in row.items() if image.method == ZERO_FILLED}
    if len(baseline) == 1 and ZERO_FILLED not in methods:  # named as in the study
        images = {n: {ZERO_FILLED if m in baseline else m: i for m, i in row.items()} for n, row in images.items()}
        methods = [ZERO_FILLED if m in baseline else m for m in methods]
    references = _by_case(sources.reference, images, "--reference")
    scans = _by_case(sources.scans, images, "--scans")
    if references and not set(references) & set(images):
        raise InputError(
            "no reference has the name of a case",
            where=str(sources.reference),
            why=f"cases: {first_names(images)}; references: {first_names(references)}",
            fix="give references the names of the scans up to the first dot",
        )
    alone = sorted(set(references) - set(images))
    which = "" if sources.anonymous else f": {first_names(alone)}"
    notes = [f"{len(alone)} of {len(references)} references have no image of any method{which}"] if alone else []
    methods.sort(key=lambda m: m != ZERO_FILLED)

    def case(name: str) -> Case:
        reasons = {m: (planned or {}).get((m, name)) or _NO_IMAGE for m in methods if m not in images[name]}
        reader = _CaseReader(sources, images[name], reasons, references.get(name), scans.get(name))
        return reader.read(name, methods, group)

    return GatheredCases(notes, len(images), map(case, sorted(images)))


def find_images(runs: Sequence[Path], *, by_run: bool = False) -> dict[str, dict[str, Image]]:
    """Return all images, keyed by case and by the method's name in the report.

    A method keeps its name if every case has it once; otherwise its name is ``run: method``, or with ``by_run`` the
    name of its run.

    Raises:
        UsageError: there are no images, or two with the same case, run and method.

    """
    images = [read_sidecar(path, run) for path, run in _image_files(runs)]
    if not images:
        raise UsageError(
            "no images",
            where=", ".join(map(str, runs)),
            fix="give folders that `mrirecon reconstruct SCANS -o FOLDER` wrote",
        )
    once = len({(i.case, i.method) for i in images}) == len(images)
    cases: dict[str, dict[str, Image]] = {}
    for image in images:
        plain = image.method if once or image.method == image.run else f"{image.run}: {image.method}"
        label = image.run if by_run else plain
        row = cases.setdefault(image.case, {})
        if label in row:
            raise UsageError(
                f"two images of {image.case} have the label {label}",
                where=f"{row[label].path} and {image.path}",
                fix="keep one, or put them into folders with different names",
            )
        row[label] = image
    return cases


def _image_files(runs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the image files of the runs, each with the name of its folder."""
    for run in runs:
        if not run.exists():
            raise UsageError("no such file or folder", where=str(run), fix="name a folder of images, or a file")
        if run.is_file():
            yield run, run.resolve().parent.name
        else:
            folders = [run] if _images_in(run) else sorted(p for p in run.iterdir() if p.is_dir())
            yield from ((path, folder.resolve().name) for folder in folders for path in _images_in(folder))


def _images_in(folder: Path) -> list[Path]:
    return [p for p in files_in(folder) if p.is_file() and is_image(p)]


def _by_case(source: Path | None, images: Mapping[str, object], option: str) -> dict[str, Path]:
    """Return the files of a folder, keyed by case; a single file belongs to the only case."""
    if source is None:
        return {}
    if source.is_dir():
        named = by_name(source)
        files = {name: path for name, path in named.items() if name in images}
        for name, path in named.items():  # names of reference images may end with their method, too
            if name not in files:
                case = case_of(path)
                files.setdefault(name if case in files or case not in images else case, path)
        return files
    if len(images) > 1:
        what = f"{option} is a single file for {len(images)} cases"
        raise UsageError(what, where=str(source), fix="give a folder")
    return dict.fromkeys(images, source)


class _CaseReader:
    """Read the files of one case, and collect notes on unreadable files."""

    def __init__(
        self,
        sources: Sources,
        images: Mapping[str, Image],
        reasons: Mapping[str, str],
        reference: Path | None,
        scan: Path | None,
    ) -> None:
        self.sources, self.images, self.reasons, self.reference, self.scan = sources, images, reasons, reference, scan
        self.notes: list[str] = []
        self.truth: np.ndarray | None = None
        self.kind, self.place = "", Grid()
        self.options = sources.options
        paths = [reference, scan, sources.options.region, sources.options.mask, *(i.path for i in images.values())]
        self.paths = [str(p) for p in paths if p is not None] + [p for i in images.values() for p in i.paths]

    def read(self, name: str, methods: Sequence[str], group: str) -> Case:
        """Return the case with the result of each method."""
        self._read_reference(name)
        scan = self._find_scan()
        results = [self._result(method) for method in methods]
        if scan is not None and ZERO_FILLED not in methods:
            results.insert(0, self._zero_filled(scan))
        shown = (r.images for r in results if r.images is not None)
        first = self.truth if self.truth is not None else next(shown, None)
        masks = None if scan is None else self._masks(scan)
        region = None if first is None else self._region(first.shape)
        notes = [self._without_folders(n) for n in self.notes]
        _, y, x = self.place.spacing
        spacing = self.options.spacing or ((y, x) if y and x else None)
        return Case(name, results, self.truth, self.kind, masks, region, spacing, notes, group)

    def _without_folders(self, text: str) -> str:
        """Remove folders from a text, because they may contain names of persons."""
        return without_folders(text, self.paths, names=not self.sources.anonymous)

    def _read_reference(self, name: str) -> None:
        if self.reference is None:
            if self.sources.reference is not None:
                self.notes.append("no reference with its name: shown without scores")
            return
        try:
            axes = None if holds_images(self.reference) else self.sources.axes
            self.truth, self.kind, self.place = placed_reference(self.reference, axes=axes, preset=self.options.preset)
        except MriReconError as error:
            self.notes.append(f"reference cannot be used: {_short(error)}")
        try:
            self.options = own_options(self.sources.options, name)
        except MriReconError as error:
            self.notes.append(_short(error))
            self.options = replace(self.sources.options, mask=None, region=None)

    def _result(self, method: str) -> Result:
        image = self.images.get(method)
        if image is None:
            return Result(method, failure=self._without_folders(self.reasons[method]))
        settings = {k: self._without_folders(v) if isinstance(v, str) else v for k, v in image.settings.items()}
        if self.sources.anonymous:
            settings.pop("command", None)
        notes = [self._without_folders(n) for n in image.notes]
        result = Result(method, seconds=image.seconds, stopped=image.stopped, notes=notes, settings=settings)
        try:
            images, grid = read_placed_image(image.path, signed=self.options.preset in SIGNED)
        except MriReconError as error:
            return replace(result, failure=self._without_folders(_short(error)))
        steps, steps_are, more = self._steps(iterates_path(image.path), len(images))
        result = replace(result, steps=steps, steps_are=steps_are, notes=[*notes, *more])
        return self._scored(result, images, grid, image.path)

    def _scored(self, result: Result, images: np.ndarray, grid: Grid, path: Path) -> Result:
        """Return a result with its images and their scores."""
        if not any(self.place.spacing):
            self.place = replace(self.place, spacing=grid.spacing)
        if self.reference is None:
            return replace(result, images=images)
        if self.truth is None:
            return replace(result, images=images, failure="reference cannot be used")
        about: dict[str, Any] = {"prediction": path, "reference": self.reference, "kind": self.kind}
        try:
            images, evaluation = compare_placed(images, grid, self.truth, self.place, options=self.options, **about)
        except MriReconError as error:
            return replace(result, images=images, failure=self._without_folders(_short(error)))
        # If the reference was cropped, show the images cropped as for the scores.
        if images.ndim == self.truth.ndim and images.shape != self.truth.shape:
            larger = all(a >= b for a, b in zip(images.shape, self.truth.shape, strict=True))
            images = common_centre(images, self.truth)[0] if larger else images
        return replace(result, images=images, evaluation=evaluation)

    def _steps(self, path: Path, items: int) -> tuple[list[float], str, list[str]]:
        """Return the error of the image after every step, or the change by every step, averaged over items."""
        if not path.is_file():
            return [], "", []
        try:
            store = open_store(path)
            name = pick(store, IMAGE_NAMES)
            count = store.arrays[name][0][0] // items
            curves = []
            for i in range(items):
                steps = np.abs(store.read(name, (slice(i * count, (i + 1) * count),)))
                curves.append(_changes(steps) if self.truth is None else _errors(steps, self.truth[i]))
        except (MriReconError, IndexError, ValueError) as error:
            return [], "", [f"iterates cannot be read: {type(error).__name__}"]
        means = [math.fsum(v) / len(v) for v in zip(*filter(None, curves), strict=True)]
        return means, "relative change" if self.truth is None else "relative error inside the object", []

    def _find_scan(self) -> Scan | None:
        """Return the undersampled scan of the images, if it exists and is unchanged."""
        with_scan = {method: i for method, i in self.images.items() if i.scan is not None}
        method, image = next(iter(with_scan.items()), ("", None))
        path = self.scan or (image.scan if image is not None else None)
        if path is None:
            return None
        different = len({(i.scan_hash, i.mask) for i in with_scan.values()})
        if different > 1:
            self.notes.append(
                f"the images come from {different} different scans or masks; the one of {method} is shown"
            )
        try:
            if not path.is_file() and not cfl_pair(path)[1].is_file():
                reason = "does not exist"
            elif image is not None and image.scan_hash is not None and sha256(path) != image.scan_hash:
                reason = "has changed since the images were reconstructed"
            else:
                scan = read(path, axes=self.sources.axes, mask=None if image is None else image.mask)
                return None if all(scan.mask(item).all() for item in scan.items_with_signal()) else scan
        except MriReconError as error:
            reason = f"cannot be used: {_short(error)}"
        self.notes.append(f"no mask is shown: its scan {path} {reason}")
        return None

    def _zero_filled(self, scan: Scan) -> Result:
        try:
            done = reconstruct(scan, method=ZERO_FILLED)
        except MriReconError as error:
            return Result(ZERO_FILLED, failure=self._without_folders(_short(error)))
        settings = {"why": "computed for this report from the scan", "maps": done.maps}
        result = Result(ZERO_FILLED, seconds=done.seconds, settings=settings)
        return self._scored(result, np.abs(done.images), Grid(), scan.path)

    def _masks(self, scan: Scan) -> np.ndarray | None:
        try:
            none = np.zeros(scan.space_shape, bool)
            masks = np.stack([none if scan.is_empty(i) else scan.mask(i) for i in range(len(scan))])
        except MriReconError as error:
            self.notes.append(f"no mask is shown: {_short(error)}")
            return None
        return masks[:1] if bool((masks == masks[0]).all()) else masks

    def _region(self, shape: tuple[int, ...]) -> np.ndarray | None:
        if self.options.region is None:
            return None
        if self.reference is None:
            self.notes.append("lesions are not shown or measured, because there is no reference")
            return None
        try:
            return read_region(self.options.region, shape, self.reference)
        except MriReconError as error:
            self.notes.append(f"lesions are not shown: {_short(error)}")
            return None


def _errors(steps: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the relative error of steps (step, *space) inside the object, each after a least-squares scale."""
    inside = object_mask(truth).flatten(0, -2)  # all slices of a volume are one image
    if not inside.any():
        return []
    x = magnitude(steps).reshape(-1, *inside.shape)
    r = magnitude(truth).reshape(inside.shape).expand_as(x)
    scaled = least_squares_scale(x, r, inside)[:, None, None] * x
    errors: list[float] = nmse(scaled, r, region=inside).sqrt().tolist()
    return errors


def _changes(steps: np.ndarray) -> list[float]:
    """Return the change of the image by each step, relative to the image after the step."""
    return [float(np.linalg.norm(b - a)) / max(float(np.linalg.norm(b)), 1e-30) for a, b in pairwise(steps)]


def _short(error: MriReconError) -> str:
    return f"{error.what} ({error.why})" if error.why else error.what
