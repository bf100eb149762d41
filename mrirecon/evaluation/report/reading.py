"""One case of a report, read from files: what cannot be read or compared is in its place as failed, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import MriReconError
from mrirecon.evaluation import Evaluation, Options, compare, holds_images, reference_images
from mrirecon.evaluation.folders import own_options
from mrirecon.evaluation.report.cases import ZERO_FILLED, Case, Result
from mrirecon.evaluation.report.sidecars import Image, iterates_path, why_missing, without_folders
from mrirecon.io import Scan, read, sha256
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.images import IMAGE_NAMES, open_store, pick, read_placed_image
from mrirecon.io.readers.nifti import is_nifti, read_nifti
from mrirecon.metrics import magnitude, object_mask
from mrirecon.metrics.presets import SIGNED
from mrirecon.metrics.region import read_region
from mrirecon.metrics.shapes import common_centre
from mrirecon.reconstruction.run import reconstruct


@dataclass(frozen=True)
class Sources:
    """Where a report takes its images from.

    Attributes:
        runs: folders of images, or files; a folder of such folders is all of them.
        reference: folder of references or fully sampled scans, by the names of cases; a file, where there is one case.
        scans: folder of undersampled scans by the names of cases, or a file; by default those that sidecars name.
        options: of the scores; a mask or a region may be a folder with a file for each case.
        axes: of k-space, where files leave them open.
        anonymous: call cases by numbers, and leave commands out.
        by_run: call methods by their runs' names, as in a study.
        records: folder of METHOD/SCAN.json, which say why a study has no image; None outside a study.

    """

    runs: Sequence[Path]
    reference: Path | None = None
    scans: Path | None = None
    options: Options = field(default_factory=Options)
    axes: str | None = None
    anonymous: bool = False
    by_run: bool = False
    records: Path | None = None


class CaseReader:
    """One case: what is found of it, and why the rest is not."""

    def __init__(
        self,
        sources: Sources,
        name: str,
        images: Mapping[str, Image],
        methods: Sequence[str],
        reference: Path | None,
        scan: Path | None,
    ) -> None:
        self.sources, self.name, self.images, self.methods = sources, name, images, methods
        self.reference, self.given_scan = reference, scan
        self.notes: list[str] = []
        self.truth: np.ndarray | None = None
        self.kind = ""
        self.options = sources.options
        known = [reference, scan, sources.options.region, sources.options.mask, *(i.path for i in images.values())]
        self.paths = [p for p in known if p is not None]
        self.paths += [Path(p) for i in images.values() for p in i.paths]

    def read(self, shown: str) -> Case:
        """Return the case under the name that it is shown by."""
        self._read_reference()
        scan = self._find_scan()
        results = [self._result(method) for method in self.methods]
        if scan is not None and ZERO_FILLED not in self.methods:
            results.insert(0, self._zero_filled(scan))
        first = next((r.images for r in results if r.images is not None), None)
        shape = self.truth.shape if self.truth is not None else first.shape if first is not None else None
        return Case(
            shown,
            results,
            self.truth,
            self.kind,
            None if scan is None else self._masks(scan),
            self._region(shape),
            self._spacing(),
            [self._told(n) for n in self.notes],
        )

    def _told(self, text: str) -> str:
        """Return a text as the report may show it: folders may name people."""
        return without_folders(text, self.paths, names=not self.sources.anonymous)

    def _read_reference(self) -> None:
        if self.reference is None:
            if self.sources.reference is not None:
                self.notes.append("there is no reference of its name: it is shown, and not scored")
            return
        try:
            self.truth, self.kind = reference_images(
                self.reference,
                axes=None if holds_images(self.reference) else self.sources.axes,
                preset=self.options.preset,
            )
        except MriReconError as error:
            self.notes.append(f"its reference cannot be used: {_short(error)}")
        try:
            self.options = own_options(self.sources.options, self.name)
        except MriReconError as error:
            self.notes.append(_short(error))
            self.options = replace(self.sources.options, mask=None, region=None)

    def _result(self, method: str) -> Result:
        image = self.images.get(method)
        if image is None:
            return Result(method, failure=self._told(why_missing(self.sources.records, method, self.name)))
        notes = [self._told(n) for n in image.notes]
        known: dict[str, Any] = {"seconds": image.seconds, "stopped": image.stopped, "notes": notes}
        settings = {k: self._told(v) if isinstance(v, str) else v for k, v in image.settings.items()}
        if self.sources.anonymous:
            settings.pop("command", None)
        try:
            images = read_placed_image(image.path, signed=self.options.preset in SIGNED)[0]
        except MriReconError as error:
            return Result(method, failure=self._told(_short(error)), settings=settings, **known)
        evaluation, failure = self._score(images, image.path)
        steps, steps_are, note = self._steps(iterates_path(image.path), len(images))
        known["notes"] = [*notes, *note]
        images = self._shown(images, evaluation)
        return Result(method, images, evaluation, failure, settings=settings, steps=steps, steps_are=steps_are, **known)

    def _score(self, images: np.ndarray, path: Path) -> tuple[Evaluation | None, str | None]:
        if self.truth is None or self.reference is None:
            return None, "its reference cannot be used" if self.reference is not None else None
        try:
            found = compare(
                images, self.truth, prediction=path, reference=self.reference, kind=self.kind, options=self.options
            )
        except MriReconError as error:
            return None, self._told(_short(error))
        return found, None

    def _shown(self, images: np.ndarray, evaluation: Evaluation | None) -> np.ndarray:
        """Return what of images lies beside a reference that is cut around its centre, as they were scored."""
        if evaluation is None or self.truth is None or images.ndim != self.truth.ndim:
            return images
        larger = all(a >= b for a, b in zip(images.shape, self.truth.shape, strict=True))
        return common_centre(images, self.truth)[0] if larger and images.shape != self.truth.shape else images

    def _steps(self, path: Path, items: int) -> tuple[list[float], str, list[str]]:
        """Return the error of the image after every step, or how much each step changed it; means over items."""
        if not path.is_file():
            return [], "", []
        try:
            store = open_store(path)
            name = pick(store, IMAGE_NAMES)
            count = store.arrays[name][0][0] // items
            rows = [
                _curve(
                    np.abs(store.read(name, (slice(i * count, (i + 1) * count),))),
                    None if self.truth is None else self.truth[i],
                )
                for i in range(items)
            ]
        except (MriReconError, IndexError, ValueError) as error:
            return [], "", [f"its iterates cannot be read: {type(error).__name__}"]
        means = [math.fsum(v) / len(v) for v in zip(*rows, strict=True)]
        return means, "relative error inside the object" if self.truth is not None else "relative change", []

    def _find_scan(self) -> Scan | None:
        """Return the undersampled scan that the images were made of, if it is there and still the same."""
        method, said = next(((m, i) for m, i in self.images.items() if i.scan is not None), ("", None))
        path = self.given_scan or (said.scan if said is not None else None)
        if path is None:
            return None
        given = {(i.scan_hash, i.mask) for i in self.images.values() if i.scan is not None}
        if len(given) > 1:
            self.notes.append(
                f"its images were made of {len(given)} different scans or masks: shown is that of {method}"
            )
        digest = said.scan_hash if said is not None else None
        mask = said.mask if said is not None else None
        try:
            if not path.is_file() and not cfl_pair(path)[1].is_file():
                why = "is not there"
            elif digest is not None and sha256(path) != digest:
                why = "is not the file that the images were made of"
            else:
                scan = read(path, axes=self.sources.axes, mask=mask)
                return None if all(scan.mask(item).all() for item in scan.usable()) else scan
        except MriReconError as error:
            why = f"cannot be used: {_short(error)}"
        self.notes.append(f"no mask is shown: its scan {path} {why}")
        return None

    def _zero_filled(self, scan: Scan) -> Result:
        try:
            done = reconstruct(scan, method=ZERO_FILLED)
        except MriReconError as error:
            return Result(ZERO_FILLED, failure=self._told(_short(error)))
        images = np.abs(done.images)
        evaluation, failure = self._score(images, scan.path)
        settings = {"why": "made for this report, from the scan", "maps": done.maps}
        return Result(
            ZERO_FILLED, self._shown(images, evaluation), evaluation, failure, done.seconds, settings=settings
        )

    def _masks(self, scan: Scan) -> np.ndarray | None:
        try:
            none = np.zeros(scan.space_shape, bool)
            masks = np.stack([none if scan.empty(i) else scan.mask(i) for i in range(len(scan))])
        except MriReconError as error:
            self.notes.append(f"no mask is shown: {_short(error)}")
            return None
        return masks[:1] if bool((masks == masks[0]).all()) else masks

    def _region(self, shape: tuple[int, ...] | None) -> np.ndarray | None:
        path = self.options.region
        if path is None or shape is None:
            return None
        if self.reference is None:
            self.notes.append("its lesions are neither shown nor measured, as that takes a reference")
            return None
        try:
            return read_region(path, shape, self.reference)
        except MriReconError as error:
            self.notes.append(f"its lesions are not shown: {_short(error)}")
            return None

    def _spacing(self) -> tuple[float, float] | None:
        if self.options.spacing is not None:
            return self.options.spacing
        for path in (self.reference, *(i.path for i in self.images.values())):
            if path is not None and is_nifti(path):
                try:
                    return read_nifti(path).spacing[1:]
                except MriReconError:
                    continue
        return None


def _curve(steps: np.ndarray, truth: np.ndarray | None) -> list[float]:
    """Return the error of steps (step, *space) inside the object, after one scale each; or their relative change."""
    if truth is None:
        sizes = [max(float(np.linalg.norm(v)), 1e-30) for v in steps[1:]]
        return [float(np.linalg.norm(b - a)) / n for a, b, n in zip(steps[:-1], steps[1:], sizes, strict=True)]
    inside = object_mask(truth).numpy()
    r = magnitude(truth).numpy()[inside]
    found = []
    for step in steps:
        x = magnitude(step).numpy()[inside]
        power = float(x @ x)
        factor = float(x @ r) / power if power > 0 else 0.0
        found.append(float(np.linalg.norm(factor * x - r) / max(float(np.linalg.norm(r)), 1e-30)))
    return found


def _short(error: MriReconError) -> str:
    return f"{error.what} ({error.why})" if error.why else error.what
