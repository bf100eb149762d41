"""Do a study: cell by cell, each kept as it is done, so that a study that was killed goes on where it was.

What is left in the folder::

    study.yaml                        the configuration as it holds
    scans/, references/, masks/MASK/  what all methods share, one file a scan
    models/METHOD-KEY/                runs of training, as `mrirecon train` leaves them
    images/MASK/METHOD/SCAN.h5        and its sidecar, as `mrirecon reconstruct` leaves them
    cells/MASK/METHOD/SCAN.json       the scores of that image, or why there is none
    cells.csv, table.csv, table.json, table.md, report.md, pictures/

"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mrirecon.errors import MriReconError, ResourceError, Stopped, UsageError
from mrirecon.evaluation import evaluate
from mrirecon.evaluation.study.parts import Cell, Plan, PlannedMethod, digest
from mrirecon.evaluation.study.plan import as_error
from mrirecon.evaluation.study.prepare import DONE, Tell, noted, prepare_mask, prepare_model, prepare_scan
from mrirecon.evaluation.study.report import write_results
from mrirecon.io import atomic_path, write_json
from mrirecon.reconstruction.file import reconstruct_file, versions

Progress = Callable[[int, int, str], None]
Record = dict[str, Any]
DEFINITION = 2  # raised when the same image would get another score, so that records of before are scored again


def dry_run(plan: Plan, out: Path) -> dict[str, Any]:
    """Return what a study consists of, and what of it is done already; nothing is written."""
    cells = plan.cells()
    done = [c for c in cells if _finished(c, out) is not None]
    training = [m for m in plan.methods if m.config is not None]
    left = [m for m in training if noted(out / "models" / m.folder / DONE).get("key") != m.key]
    return {
        "folder": str(out),
        "scans": [{"name": s.name, "of": s.entry, "person": s.person, "source": s.source} for s in plan.scans],
        "masks": [{"name": m.name, **m.setting.model_dump(), "acceleration": m.rate} for m in plan.masks],
        "methods": [{"name": m.name, "what": m.what} for m in plan.methods],
        "to be trained": [m.name for m in left],
        "cells": [{"cell": str(c.place), "done": c in done} for c in cells],
        "notes": plan.notes,
    }


def run_study(
    plan: Plan,
    out: str | Path,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    tell: Tell = lambda text: None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Do what of a study is not done, write its tables and its report, and return the content of ``table.json``.

    A cell that fails is kept as failed, with the reason, and tried again the next time; the others go on.

    Args:
        plan: from `load_study`.
        out: folder; made where it does not exist.
        device: where to compute.
        progress: called with (cells done, cells, which).
        tell: called with lines for people.
        command: the command line, for the sidecars.

    Raises:
        UsageError: another process is at work in the folder.
        ResourceError: disk or memory ran out: what is done is kept.
        Stopped: by a signal.

    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        with atomic_path(out / "study.yaml") as temporary:
            text = yaml.safe_dump(plan.settings.model_dump(mode="json"), sort_keys=False)
            temporary.write_text(text, encoding="utf-8")
        for note in [*plan.notes, *_left_over(plan, out)]:
            tell(f"note: {note}")
        try:
            return _all(plan, _Work(plan, out, device, tell, command), progress)
        except Stopped as stopped:
            raise Stopped(stopped.number, "what is done is kept; run the study again to go on") from None


def _all(plan: Plan, work: _Work, progress: Progress | None) -> Record:
    cells = plan.cells()
    records = []
    for cell in cells:  # the models first, so that what takes longest is seen to fail first
        if cell.method.config is not None and _finished(cell, work.out) is None:
            work.model(cell.method)
    for number, cell in enumerate(cells):
        if progress:
            progress(number, len(cells), str(cell.place))
        records.append(work.cell(cell))
    if progress:
        progress(len(cells), len(cells), "tables")
    return write_results(plan, records, work.models(), work.out, versions())


class _Work:
    """What has been made in this run; what all cells share is made when the first of them needs it."""

    def __init__(self, plan: Plan, out: Path, device: str, tell: Tell, command: Sequence[str] | None) -> None:
        self.plan, self.out, self.device, self.tell, self.command = plan, out, device, tell, command
        self.shared: dict[tuple[str, ...], Any] = {}

    def models(self) -> dict[str, Record]:
        """Return what is known of the models that are trained here."""
        trained = [m for m in self.plan.methods if m.config is not None]
        return {m.name: noted(self.out / "models" / m.folder / DONE) for m in trained}

    def once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """Return what is made once, or the error that it failed of."""
        if key not in self.shared:
            try:
                self.shared[key] = make()
            except ResourceError:
                raise
            except Exception as error:  # a study shows what failed, and goes on
                self.shared[key] = as_error(error)
                self.tell(f"{' '.join(key)} failed: {self.shared[key]}")
        return self.shared[key]

    def get(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """Return what is made once, or raise the error that it failed of."""
        found = self.once(key, make)
        if isinstance(found, MriReconError):
            raise found
        return found

    def model(self, method: PlannedMethod) -> MriReconError | Record:
        """Return the trained model of a method, or the error that its training failed of."""
        found: MriReconError | Record = self.once(
            ("model", method.name), lambda: prepare_model(method, self.out, device=self.device, tell=self.tell)
        )
        return found

    def cell(self, cell: Cell) -> Record:
        """Return the record of a cell, made where it is not there."""
        wanted = digest([DEFINITION, self.plan.settings.preset, self.plan.settings.metrics])
        record = _finished(cell, self.out)
        if record is not None and record.get("score key") == wanted:
            return record
        image = self.out / "images" / cell.place.with_suffix(".h5")
        told: Record = {"key": cell.key, "score key": wanted, "scan": cell.scan.name, "data": cell.scan.entry}
        told |= {"person": cell.scan.person, "mask": cell.mask.name, "method": cell.method.name}
        try:
            seed = self.plan.settings.seed
            preset = self.plan.settings.preset
            path, reference = self.get(
                ("scan", cell.scan.name), lambda: prepare_scan(cell.scan, self.out, seed, preset)
            )
            mask, about = self.get(
                ("mask", cell.mask.name, cell.scan.name),
                lambda: prepare_mask(cell.mask, cell.scan, path, self.out, seed),
            )
            told["achieved"] = about["acceleration"]
            if record is None:
                # a kill must not leave the old record beside a new image
                _record_path(cell, self.out).unlink(missing_ok=True)
                told |= self.reconstruct(cell, path, mask, image)
            else:
                told |= {k: record[k] for k in ("seconds a slice", "maps", "lambda", "notes")}
            told |= _scored(image, reference, self.plan)
        except ResourceError:
            raise
        except Exception as error:  # a study shows what failed, and goes on
            known = as_error(error)
            told |= {"status": "failed", "error": known.as_dict()}
            self.tell(f"{cell.place} failed: {known}")
        else:
            told["status"] = "done"
        write_json(_record_path(cell, self.out), told)
        return told

    def reconstruct(self, cell: Cell, path: Path, mask: Path, image: Path) -> Record:
        """Make the image of a cell."""
        m = cell.method
        model = m.model
        if m.config is not None:
            trained = self.model(m)
            if isinstance(trained, MriReconError):
                raise trained
            model = Path(trained["model"])
        start = time.perf_counter()
        done: Record = reconstruct_file(
            path,
            image,
            method="auto" if model is not None else m.method,
            model=model,
            options=m.options,
            lam=m.lam,  # checked with the settings
            # of the samples that are left, whatever maps the file may hold of all of them
            maps="espirit",
            mask=mask,
            axes=cell.scan.setting.axes,
            device=self.device,
            seed=self.plan.settings.seed,
            overwrite=True,
            command=self.command,
        )
        seconds = done["seconds"]
        maps = done["maps"]["source"]
        return {
            "seconds a slice": sum(seconds) / len(seconds),
            "maps": maps,
            "lambda": done["lambda"],
            "notes": done["notes"],
            "reconstructed in": time.perf_counter() - start,
        }


def _scored(image: Path, reference: Path, plan: Plan) -> Record:
    found = evaluate(image, reference, options=plan.options)
    return {
        "scores": found.mean,
        "undefined": found.undefined,
        "slices": found.rows(),
        "remarks": found.notes,
    }


def _left_over(plan: Plan, out: Path) -> list[str]:
    """Say which images of a former configuration lie in the folder; they are kept, and are in no table."""
    wanted = {str(c.place) for c in plan.cells()}
    found = [str(p.relative_to(out / "images").with_suffix("")) for p in sorted(out.glob("images/*/*/*.h5"))]
    rest = [name for name in found if name not in wanted]
    if not rest:
        return []
    listed = ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
    return [f"{len(rest)} images are of a former configuration, and in no table: {listed}"]


def _record_path(cell: Cell, out: Path) -> Path:
    return out / "cells" / cell.place.with_suffix(".json")


def _finished(cell: Cell, out: Path) -> Record | None:
    """Return the record of a cell whose image is there and is what would be made now."""
    record = noted(_record_path(cell, out))
    there = (out / "images" / cell.place.with_suffix(".h5")).is_file()
    return record if there and record.get("key") == cell.key and record.get("status") == "done" else None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder; the system lets it go when the process ends, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "another process is at work on this study", where=str(out), fix="wait for it, or use another --output"
            ) from None
        yield
