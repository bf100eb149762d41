"""Run a study: prepare scans, masks and models, reconstruct each cell and score it, and write tables and a report.

An interrupted study resumes: finished images are recognized by their sidecars, as in `mrirecon reconstruct`; trainings
by their states; simulated scans and references by a hash in their sidecars. Scores and tables are recomputed, unless
all cells are done and nothing has changed since ``table.json`` was written. The folder holds:

- study.yaml: the configuration, resolved
- scans/, references/, masks/MASK/: inputs shared by all methods, one file per scan
- models/METHOD-HASH/: training runs, as written by `mrirecon train`
- images/MASK/METHOD/SCAN.h5: images and sidecars, as written by `mrirecon reconstruct`
- cells.csv, table.csv, table.json, table.md, report.md, pictures/: results
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mrirecon import training
from mrirecon.data.scan import simulate_scan
from mrirecon.errors import MriReconError, ResourceError, Stopped, UsageError
from mrirecon.evaluation import evaluate, reference_images
from mrirecon.evaluation.study.plan import Cell, Plan, PlannedMethod, PlannedScan, digest
from mrirecon.evaluation.study.results import write_results
from mrirecon.io.readers.reader import read
from mrirecon.io.safe.atomic import atomic_path, sha256
from mrirecon.io.safe.lock import output_lock
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.write import sidecar_path, write_image, write_json
from mrirecon.masks import MaskResult, mask_bytes, seed_from
from mrirecon.metrics.presets import Preset
from mrirecon.reconstruction.file import finished, reconstruct_file, versions
from mrirecon.reconstruction.plan import Request
from mrirecon.training.config import Config

Progress = Callable[[int, int, str], None]
OnMessage = Callable[[str], None]
Record = dict[str, Any]
TRAINED, BUDGET, KEY = "study.json", "budget.json", "study key"


def dry_run(plan: Plan, out: Path) -> dict[str, Any]:
    """Return the content and the progress of a study, without writing files."""
    return {
        "folder": str(out),
        "scans": [{"name": s.name, "of": s.entry, "subject": s.subject, "source": s.source} for s in plan.scans],
        "masks": [{"name": m.name, **m.setting.model_dump(), "acceleration": m.acceleration} for m in plan.masks],
        "methods": [{"name": m.name, "what": m.description} for m in plan.methods],
        "to be trained": [m.name for m in plan.trained if not _read_json(out / "models" / m.folder / TRAINED)],
        "cells": [
            {"cell": str(c.place), "done": done} for c, done in zip(plan.cells(), _done_cells(plan, out), strict=True)
        ],
        "notes": plan.notes,
    }


def run_study(
    plan: Plan,
    out: str | Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    on_message: OnMessage = lambda text: None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run the unfinished part of a study, write tables and report, and return the content of ``table.json``.

    A failed cell is listed with the reason and retried in the next run; the other cells continue.

    Args:
        plan: from `load_study`.
        out: output folder; created if missing.
        device: device of the computation.
        progress: called with (cells done, cells, name of the cell).
        on_message: called with messages to the user.
        command: the command line, for the sidecars.

    Raises:
        BusyError: another process runs a study in the folder.
        ResourceError: disk or memory is full; finished cells are kept.
        Stopped: a signal stopped the study.

    """
    out = Path(out)
    with output_lock(out / "study.yaml", wait=False):
        with atomic_path(out / "study.yaml") as temporary:
            text = yaml.safe_dump(plan.settings.model_dump(mode="json"), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        for note in [*plan.notes, *_former_images(plan, out)]:
            on_message(f"note: {note}")
        complete = _complete_results(plan, out)
        if complete is not None:
            on_message(f"the study is complete: all {len(plan.cells())} cells are done and unchanged")
            return complete
        try:
            return _Run(plan, out, device, on_message, command).run(progress)
        except Stopped as stopped:
            raise Stopped(stopped.number, "finished cells are kept; run the study again to continue") from None


def train_method(
    plan: Plan, out: str | Path, name: str, *, device: str = "auto", on_message: OnMessage = lambda text: None
) -> str:
    """Train one method of a study, or resume its training, and return the folder of its model.

    Several processes can train different methods of a study at the same time; `run_study` then finds them trained.

    Raises:
        UsageError: the study trains no method of this name.
        MriReconError: see `mrirecon.training.train`.
        Stopped: a signal stopped the training; its state was saved.

    """
    method = next((m for m in plan.trained if m.name == name), None)
    if method is None:
        names = ", ".join(m.name for m in plan.trained) or "none"
        raise UsageError(f"the study does not train {name!r}", where=str(plan.path), why=f"it trains: {names}")
    return str(_train(method, Path(out), device, on_message)["model"])


class _Run:
    """Run a study. Run each shared step once; if it fails, fail the cells that need it."""

    def __init__(
        self, plan: Plan, out: Path, device: str, on_message: OnMessage, command: Sequence[str] | None
    ) -> None:
        self.plan, self.out, self.device, self.on_message, self.command = plan, out, device, on_message, command
        self.results: dict[str, Any] = {}

    def run(self, progress: Progress | None) -> Record:
        """Train the methods, run all cells, and write the results."""
        for method in self.plan.trained:  # first, so that the longest step fails early
            try:
                self.model(method)
            except ResourceError:
                raise
            except MriReconError:
                continue  # listed with its cells
        cells = self.plan.cells()
        records = []
        for number, cell in enumerate(cells):
            if progress:
                progress(number, len(cells), str(cell.place))
            records.append(self.cell(cell))
        if progress:
            progress(len(cells), len(cells), "tables")
        models = {m.name: _read_json(self.out / "models" / m.folder / TRAINED) for m in self.plan.trained}
        inputs = _inputs_of_results(self.plan, self.out)
        return write_results(self.plan, records, models, self.out, versions(), inputs)

    def once(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step at the first call; return its result, or raise its error, at every call."""
        if name not in self.results:
            try:
                self.results[name] = step()
            except ResourceError:
                raise
            except Exception as error:  # the failure is listed, and the study continues
                self.results[name] = _as_failure(error)
                self.on_message(f"{name} failed: {self.results[name]}")
        result = self.results[name]
        if isinstance(result, MriReconError):
            raise result
        return result

    def model(self, method: PlannedMethod) -> Path | None:
        """Return the folder of a method's weights, after training if the study trains it."""
        if method.config is None:
            return method.model
        done = self.once(f"model {method.name}", lambda: _train(method, self.out, self.device, self.on_message))
        return Path(done["model"])

    def cell(self, cell: Cell) -> Record:
        """Reconstruct and score the image of a cell; return its scores or its error."""
        scan, settings, out = cell.scan, self.plan.settings, self.out
        record: Record = {"data": scan.entry, "scan": scan.name, "subject": scan.subject}
        record |= {"mask": cell.mask.name, "method": cell.method.name}
        try:
            path, reference = self.once(
                f"scan {scan.name}", lambda: _prepare_scan(scan, out, settings.seed, settings.preset)
            )
            mask, drawn = self.once(
                f"mask {cell.mask.name} {scan.name}", lambda: _prepare_mask(cell, path, out, settings.seed)
            )
            record["achieved"] = drawn.acceleration
            request = _request(self.plan, cell, self.model(cell.method), self.device, mask)
            image = _image(cell, out)
            done: Any = finished(request, path, sidecar_path(image))
            if done is None:
                done = reconstruct_file(path, image, request=request, overwrite=True, command=self.command)
            scores = evaluate(image, reference, options=self.plan.options)
            record |= {
                "seconds a slice": sum(done["seconds"]) / len(done["seconds"]),
                "notes": [*done["notes"], *scores.notes],
                "scores": scores.mean,
                "status": "done",
            }
        except ResourceError:
            raise
        except Exception as error:  # the failure is listed, and the study continues
            failure = _as_failure(error)
            record |= {"status": "failed", "error": failure.as_dict()}
            self.on_message(f"{cell.place} failed: {failure}")
        return record


def _as_failure(error: Exception) -> MriReconError:
    """Convert the error of a step to an MriReconError."""
    if isinstance(error, MriReconError):
        return error
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return MriReconError("an unexpected error", why=why, fix="run this cell alone: mrirecon reconstruct --traceback")


def _image(cell: Cell, out: Path) -> Path:
    return out / "images" / cell.place.with_suffix(".h5")


def _request(plan: Plan, cell: Cell, model: Path | None, device: str, mask: Path) -> Request:
    m = cell.method
    return Request(
        method="auto" if model is not None else m.method,
        model=model,
        options=m.options,
        lam=m.lam,  # type: ignore[arg-type]  # checked with the settings
        maps="espirit",  # from the undersampled data, even if the file has maps of the full data
        mask=mask,
        axes=cell.scan.setting.axes,
        device=device,
        seed=plan.settings.seed,
    )


def _prepare_scan(scan: PlannedScan, out: Path, seed: int, preset: Preset) -> tuple[Path, Path]:
    """Return the files of a scan and its reference; write them if missing or outdated.

    The reference is the SENSE combination of all samples (`sense_reference`); with the preset ``fastmri``, the target
    stored in the fastMRI file.

    Raises:
        MriReconError: the scan cannot be read or is not fully sampled.

    """
    path, s = _scan_file(scan, out), scan.setting
    if s.volumes and not _is_current(path, scan.key):
        volume, _, name = scan.source.partition("#")
        simulate_scan(
            volume,
            path,
            volume=name or None,
            slices=None if s.slices is None else (s.slices[0], s.slices[1]),
            coils=s.coils,
            snr=s.snr,
            resolution=s.resolution,
            seed=seed_from(seed, scan.name),
        )
        beside = sidecar_path(path)
        write_json(beside, {**_read_json(beside), KEY: scan.key})
    reference, key = _reference(scan, out, preset)
    if not _is_current(reference, key):
        images, kind = reference_images(path, axes=s.axes, preset=preset)
        write_image(reference, images, sidecar={"input": scan.source, "reference": kind, KEY: key}, inputs=[path])
    return path, reference


def _reference(scan: PlannedScan, out: Path, preset: Preset) -> tuple[Path, str]:
    """Return the file of a scan's reference, and the hash of its inputs."""
    return out / "references" / f"{scan.name}.h5", f"{scan.key}, {preset == 'fastmri'}"


def _scan_file(scan: PlannedScan, out: Path) -> Path:
    return out / "scans" / f"{scan.name}.h5" if scan.setting.volumes else Path(scan.source)


def _is_current(path: Path, key: str) -> bool:
    """Return whether a file exists and its inputs have this hash."""
    return path.is_file() and _read_json(sidecar_path(path)).get(KEY) == key


def _prepare_mask(cell: Cell, path: Path, out: Path, seed: int) -> tuple[Path, MaskResult]:
    """Return the file of a scan's mask, shared by all methods, and the mask.

    Raises:
        UsageError: the mask cannot be drawn for the scan's size.

    """
    file, drawn, content = _draw_mask(cell, path, out, seed)
    if not file.is_file() or file.read_bytes() != content:
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    return file, drawn


def _draw_mask(cell: Cell, path: Path, out: Path, seed: int) -> tuple[Path, MaskResult, bytes]:
    drawn = cell.mask.draw(read(path, axes=cell.scan.setting.axes).space_shape, cell.scan.name, seed)
    return out / "masks" / cell.mask.name / f"{cell.scan.name}.npy", drawn, mask_bytes(drawn, ".npy")


def _done_cells(plan: Plan, out: Path) -> list[bool]:
    """Return for each cell whether its image exists and is up to date."""
    masks: dict[tuple[str, str], Path | None] = {}
    done = []
    for cell in plan.cells():
        key = (cell.mask.name, cell.scan.name)
        if key not in masks:
            masks[key] = _current_mask(plan, cell, out)
        mask = masks[key]
        done.append(mask is not None and _is_done(plan, cell, mask, out))
    return done


def _is_done(plan: Plan, cell: Cell, mask: Path, out: Path) -> bool:
    """Return whether the image of a cell exists and is up to date."""
    m = cell.method
    model = m.model if m.config is None else out / "models" / m.folder / "best"
    try:
        request = _request(plan, cell, model, "auto", mask)
        return finished(request, _scan_file(cell.scan, out), sidecar_path(_image(cell, out))) is not None
    except (OSError, MriReconError):  # the model is missing
        return False


def _current_mask(plan: Plan, cell: Cell, out: Path) -> Path | None:
    """Return the file of a scan's mask, or None if the mask or the scan is missing or outdated."""
    path = _scan_file(cell.scan, out)
    if cell.scan.setting.volumes and not _is_current(path, cell.scan.key):
        return None
    try:
        file, _, content = _draw_mask(cell, path, out, plan.settings.seed)
        return file if file.read_bytes() == content else None
    except (OSError, MriReconError):
        return None


def _inputs_of_results(plan: Plan, out: Path) -> str:
    """Return a hash of everything from which the tables are computed: settings, images, references and models."""
    files = [sidecar_path(_image(cell, out)) for cell in plan.cells()]
    files += [out / "models" / m.folder / TRAINED for m in plan.trained]
    references = [out / "references" / f"{s.name}.h5" for s in plan.scans]
    stamps = [(r.stat().st_size, r.stat().st_mtime_ns) for r in references if r.is_file()]
    contents = [sha256(f) for f in files if f.is_file()]
    return digest([plan.settings.model_dump(mode="json"), str(plan.path), plan.notes, versions(), stamps, contents])


def _complete_results(plan: Plan, out: Path) -> Record | None:
    """Return the content of ``table.json``, or None if a cell is not done or anything has changed since."""
    content = _read_json(out / "table.json")
    if not content.get("files") or content.get("failed") or content.get("inputs") != _inputs_of_results(plan, out):
        return None
    written = all((out / name).is_file() for name in content["files"])
    current = all(_is_current(*_reference(scan, out, plan.settings.preset)) for scan in plan.scans)
    return content if written and current and all(_done_cells(plan, out)) else None


def _train(method: PlannedMethod, out: Path, device: str, on_message: OnMessage) -> Record:
    """Train a method or resume its training; return the model's folder, steps and scores.

    Raises:
        MriReconError: see `mrirecon.training.train`.
        Stopped: a signal or the time limit of the job stopped the training; its state was saved.

    """
    assert method.config is not None, "the study trains it"
    folder = out / "models" / method.folder
    done = _read_json(folder / TRAINED)
    if done and (folder / "best").is_dir():
        return done
    config = (
        method.config if method.minutes is None else _within(method.config, method.minutes, folder, device, on_message)
    )
    on_message(f"training {method.name}: {method.method}, {method.length}")
    run = training.train(config, folder, device=device, on_message=lambda t: on_message(f"  {t}"))
    if not run.get("finished", True):
        raise Stopped(signal.SIGTERM)  # the time of the Slurm job has expired
    done = {"model": str(folder / "best"), "steps": run["steps"], "validation": run["scores"]}
    done["seconds"] = run.get("seconds", 0.0)
    write_json(folder / TRAINED, done)
    return done


def _within(config: Config, minutes: float, folder: Path, device: str, on_message: OnMessage) -> Config:
    """Set the number of training steps that fit into the time; a resumed training keeps its number.

    A few steps are timed, and a quarter of the time is reserved for validation and writing.
    """
    steps = _read_json(folder / BUDGET).get("steps")
    if steps is None:
        per_step = float(training.dry_run(config, folder, device)["seconds a step"])
        steps = max(1, int(60 * minutes / per_step * 0.75))
        on_message(f"{steps} steps of {per_step:.2f} s fit into {minutes:g} minutes, validation included")
        write_json(folder / BUDGET, {"steps": steps, "seconds a step": per_step, "minutes": minutes})
    settings = config.settings
    train = settings.train.model_copy(update={"steps": int(steps), "epochs": None})
    return replace(config, settings=settings.model_copy(update={"train": train}))


def _former_images(plan: Plan, out: Path) -> list[str]:
    """Return messages on images of an earlier configuration; they stay in the folder, but are in no table."""
    wanted = {str(c.place) for c in plan.cells()}
    images = (str(p.relative_to(out / "images").with_suffix("")) for p in sorted(out.glob("images/*/*/*.h5")))
    outdated = [name for name in images if name not in wanted]
    if not outdated:
        return []
    listed = ", ".join(outdated[:3]) + (", ..." if len(outdated) > 3 else "")
    return [f"{len(outdated)} images belong to an earlier configuration and are in no table: {listed}"]


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it is missing or unreadable."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
