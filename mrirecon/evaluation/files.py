"""Score image files against references, as single files or whole folders, and write and read the scores."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.evaluation.paired import RESAMPLES, Difference, Summary, compare_runs, summarize
from mrirecon.evaluation.pairing import by_name, pair_up
from mrirecon.io.geometry import Grid
from mrirecon.io.readers.dicom import is_dicom
from mrirecon.io.readers.images import read_placed_image
from mrirecon.io.safe.atomic import atomic_path, refuse_existing
from mrirecon.io.safe.text import parse_json, utf8
from mrirecon.io.select import select_images
from mrirecon.metrics.align import aligned, apart
from mrirecon.metrics.evaluation import Evaluation, Options, Row, compare
from mrirecon.metrics.lesions import LesionScore, by_size
from mrirecon.metrics.presets import SIGNED
from mrirecon.reconstruction.reference import placed_reference


def evaluate(
    prediction: str | Path,
    reference: str | Path,
    *,
    options: Options | None = None,
    dataset: str | None = None,
    reference_dataset: str | None = None,
    axes: str | None = None,
    items: str | None = None,
) -> Evaluation:
    """Score the images of a file.

    Args:
        prediction: image file: HDF5 or .npz (`reconstruction`, ...), .npy, NIfTI, a DICOM folder, a BART pair: see
            `read_image`. If both files state their position, the images are reoriented to the reference.
        reference: image file, or fully sampled k-space. From k-space, the reference is the magnitude of the SENSE
            combination with ESPIRiT maps of the full data. If a file holds both, its k-space is used, unless
            `reference_dataset` names its images. The preset ``fastmri`` uses the target stored in a fastMRI file.
        options: settings of the metrics; by default those of `mrirecon.metrics.scoring`.
        dataset: name of the image dataset in `prediction`.
        reference_dataset: name of the image dataset in `reference`.
        axes: axis names of the reference's k-space, if its file does not state them.
        items: items of the reference, such as "3-17". If the numbers of images and selected items are equal, all images
            are used; otherwise, the images with these numbers.

    Raises:
        InputError: a file cannot be read, images differ in number or size, or the reference is undersampled.

    """
    options = options or Options()
    images, grid = read_placed_image(prediction, dataset=dataset, signed=options.preset in SIGNED)
    truth, kind, place = placed_reference(
        reference, dataset=reference_dataset, axes=axes, preset=options.preset, items=items
    )
    if len(images) != len(truth):
        images, grid = select_images(images, grid, items, prediction)
    about = {"prediction": Path(prediction), "reference": Path(reference)}
    return compare_placed(images, grid, truth, place, kind=kind, options=options, **about)[1]


def compare_placed(
    images: np.ndarray,
    grid: Grid,
    truth: np.ndarray,
    place: Grid,
    *,
    prediction: Path,
    reference: Path,
    kind: str,
    options: Options,
) -> tuple[np.ndarray, Evaluation]:
    """Reorient images to their reference, if both positions are known, and score them (see `compare`).

    Args:
        images: (item, *space).
        grid: position of the images.
        truth: reference images.
        place: position of the reference; its spacing is used if the options have none.
        prediction: file of the images.
        reference: file of the reference.
        kind: description of the reference.
        options: settings of the metrics.

    Returns:
        The images after reorientation, and their scores.

    Raises:
        InputError: see `compare`.

    """
    images, grid, notes = aligned(images, grid, place)
    placed = False
    if images.shape == truth.shape:
        distance = apart(images.shape[-3:], grid, place)
        placed = grid.affine is not None and place.affine is not None and not distance
        notes = notes + distance
    _, y, x = place.spacing
    if options.spacing is None and y and x:
        options = replace(options, spacing=(y, x))
    evaluation = compare(
        images, truth, prediction=prediction, reference=reference, kind=kind, options=options, placed=placed
    )
    evaluation.notes[:0] = notes
    return images, evaluation


@dataclass(frozen=True)
class Evaluations:
    """Hold the scores of one file, or of the files of two folders.

    Attributes:
        done: scores, one per pair of files.
        failed: reasons why pairs could not be compared.
        without_reference: predictions without a matching reference.
        without_prediction: references without a matching prediction.
        options: settings of the metrics.
        folders: whether the files are those of folders.

    """

    done: list[Evaluation]
    failed: list[MriReconError]
    without_reference: list[Path]
    without_prediction: list[Path]
    options: Options
    folders: bool = True

    def volumes(self) -> list[Row]:
        """Return one row per file: the mean over its slices, or the preset's score of the whole volume."""
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
        """Return the mean of each metric over the files, with a bootstrap interval."""
        rows = [one.mean for one in self.done]
        return {name: summarize([row[name] for row in rows]) for name in self.options.metrics}

    def missing_scores(self) -> list[str]:
        """Return messages on missing scores: failed pairs, unmatched files, undefined metrics.

        Single slices with an undefined metric are counted in the scores instead.
        """
        pairs = len(self.failed) + len(self.done)
        out = [f"{len(self.failed)} of {pairs} pairs could not be compared"] if self.failed else []
        for paths, what in ((self.without_reference, "reference"), (self.without_prediction, "prediction")):
            if paths:
                out.append(f"{len(paths)} {'file has' if len(paths) == 1 else 'files have'} no {what}")
        for name, s in self.summary().items():
            if s.undefined:
                out.append(f"{name} is undefined in {s.undefined} of {s.undefined + s.volumes} files")
        return out

    def lesions(self) -> list[LesionScore]:
        """Return the lesions of all files."""
        return [s for one in self.done for item in one.lesions for s in item]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        lesions: dict[str, Any] = {"lesions": by_size(self.lesions())} if self.options.region is not None else {}
        return lesions | {
            "preset": self.options.preset,
            "summary": {name: vars(s) for name, s in self.summary().items()},
            "interval": f"95 %, percentile bootstrap over volumes, {RESAMPLES} resamples, seed 0",
            "volumes": self.volumes(),
            "failed": [{"file": e.where, "error": e.what, "why": e.why, "fix": e.fix} for e in self.failed],
            "without reference": [str(p) for p in self.without_reference],
            "without prediction": [str(p) for p in self.without_prediction],
            "files": [one.as_dict() for one in self.done],
        }

    def write_slices(self, path: str | Path) -> None:
        """Write one row per slice as CSV; see `Evaluation.rows`."""
        rows = [{"file": one.prediction.name, **row} for one in self.done for row in one.rows()]
        write_csv(path, ("file", "item", "slice", *self.options.metrics, "scale", "reason"), rows, self._inputs())

    def write_volumes(self, path: str | Path) -> None:
        """Write one row per file as CSV; see `volumes`."""
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
    """Score every file of a folder against the reference of the same scan, with one pair in memory at a time.

    Files are matched by the images' sidecars, else by their names up to the first dot: see
    `mrirecon.evaluation.pairing.pair_up`. If the mask or region in `options` is a folder, each pair uses the file of
    its scan in it.

    Args:
        predictions: folder of image files.
        references: folder of images or fully sampled scans.
        options: settings of the metrics.
        progress: called with (number done, total, name).
        names: further arguments of `evaluate`.

    Raises:
        InputError: no files match, or a folder holds two files with the same name.

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
            done.append(replace(evaluate(pair.prediction, pair.reference, options=own, **names), case=pair.case))
        except MriReconError as error:
            error.where = error.where or str(pair.prediction)
            failed.append(error)
    return Evaluations(done, failed, alone, unused, options)


def evaluate_paths(
    prediction: Path,
    reference: Path,
    *,
    options: Options,
    csv: Path | None = None,
    volumes: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    **names: Any,
) -> Evaluations:
    """Score an image file, or every file of a folder, and write the requested tables.

    Args:
        prediction: image file, or a folder of image files.
        reference: reference, or a folder of references.
        options: settings of the metrics.
        csv: file for the scores of every slice; see `Evaluations.write_slices`.
        volumes: file for the scores of every file of two folders; see `Evaluations.write_volumes`.
        overwrite: replace tables that exist.
        progress: called with (number done, total, name).
        names: further arguments of `evaluate`.

    Raises:
        UsageError: a table that exists, or one name for both tables; ``volumes`` without folders.
        InputError: see `evaluate` and `evaluate_folders`.

    """
    refuse_existing([path for path in (csv, volumes) if path is not None], overwrite)
    if csv is not None and volumes is not None and csv.resolve() == volumes.resolve():
        raise UsageError("--csv and --volumes are the same file", where=str(csv), fix="give two different names")
    if any(path.is_dir() and not is_dicom(path) for path in (prediction, reference)):
        scored = evaluate_folders(prediction, reference, options=options, progress=progress, **names)
    elif volumes is not None:
        raise UsageError("--volumes needs two folders", fix="give folders, or --csv")
    else:
        one = evaluate(prediction, reference, options=options, **names)
        scored = Evaluations([one], [], [], [], options, folders=False)
    if csv is not None:
        scored.write_slices(csv)
    if volumes is not None:
        scored.write_volumes(volumes)
    return scored


def compare_paths(
    runs: Sequence[Path],
    reference: Path | None,
    *,
    options: Options,
    axes: str | None = None,
    subject: str | None = None,
) -> tuple[list[Difference], list[str]]:
    """Compare runs, paired by subject; return the differences, and reasons why files are left out.

    Args:
        runs: folders of images, or files with the scores of folders; see `read_scores`.
        reference: folder of references for folders of images.
        options: settings of the metrics for folders of images.
        axes: axis names of the references' k-space.
        subject: see `mrirecon.evaluation.paired.compare_runs`.

    Raises:
        UsageError: a folder without references, one run given twice, or runs with different definitions of the scores.
        InputError: see `evaluate_folders` and `read_scores`.

    """
    values: dict[str, dict[str, dict[str, float | None]]] = {}
    definitions: dict[str, str] = {}
    lacking: list[str] = []
    for run, label in zip(runs, _labels(runs), strict=True):
        if not run.is_dir():
            values[label], definitions[label] = read_scores(run)
            continue
        if reference is None:
            raise UsageError("folders of images need references", where=str(run), fix="give --reference FOLDER")
        scored = evaluate_folders(run, reference, options=options, axes=axes)
        definitions[label] = options.preset
        values[label] = {str(result.case): result.mean for result in scored.done}
        lacking += [f"{e.where}: {e.what}" for e in scored.failed]
        lacking += [f"{path}: no reference found" for path in scored.without_reference]
    if len(set(definitions.values())) > 1:
        raise UsageError(
            "the runs were scored with different definitions",
            why=", ".join(f"{label} by {definition}" for label, definition in definitions.items()),
            fix="evaluate all with the same --preset, which is also used for folders",
        )
    return compare_runs(values, options.metrics, subject=subject), lacking


def _labels(runs: Sequence[Path]) -> list[str]:
    short = [run.name.split(".")[0] if run.is_file() else run.resolve().name for run in runs]
    if len(set(short)) == len(short):
        return short
    labels = [str(run) for run in runs]
    if len(set(labels)) < len(labels):
        raise UsageError("one run is given twice", fix="a run cannot be compared with itself")
    return labels


def own_options(options: Options, *names: str) -> Options:
    """Return the options for one scan, with a folder of masks or regions replaced by the scan's file in it.

    Raises:
        InputError: the folder has no such file.

    """

    def own(key: str, path: Path | None) -> Path | None:
        if path is None or not path.is_dir():
            return path
        files = by_name(path)
        file = next((files[n] for n in names if n in files), None)
        if file is None:
            raise InputError(f"no {key} for {names[0]}", where=str(path), fix=f"add one, or leave out --{key}")
        return file

    return replace(options, mask=own("mask", options.mask), region=own("region", options.region))


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Row], inputs: Sequence[Path] = ()) -> None:
    """Write rows as CSV, atomically.

    Text that a spreadsheet would run as a formula (starting with =, +, -, @ or a tab) gets a leading apostrophe, as
    OWASP advises against CSV injection, because file names are untrusted. Numbers are unchanged; None is an empty cell.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({k: _without_formula(v) for k, v in row.items()} for row in rows)
    with atomic_path(path, inputs=inputs) as temporary:
        temporary.write_bytes(utf8(text.getvalue()))


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def read_scores(path: str | Path) -> tuple[dict[str, dict[str, float | None]], str]:
    """Return the metrics of each scan, and the preset, from the output of ``evaluate FOLDER FOLDER --json``.

    Raises:
        InputError: the file has another content, a metric is not a number, or a scan occurs twice.

    """
    path = Path(path)
    scores: dict[str, dict[str, float | None]] = {}
    try:
        content = parse_json(path.read_bytes())
        for one in content["files"]:
            # earlier versions did not write the case and matched by name only
            case = str(one.get("case") or Path(one["prediction"]).name.split(".")[0])
            if case in scores:
                raise ValueError(f"{case} occurs twice")
            scores[case] = {str(name): _metric(value) for name, value in one["mean"].items()}
        return scores, str(content.get("preset", "mrirecon"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "not an evaluation of two folders",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            fix="write one with `mrirecon evaluate PREDICTIONS REFERENCES --json > run.json`",
        ) from None


def _metric(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is not the value of a metric")
    return float(value)
