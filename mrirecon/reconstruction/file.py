"""One file in, one file out: read, preprocess, choose, reconstruct, score and write, with all that repeats it."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.errors import UsageError
from mrirecon.io import Scan, read, refuse_overwrite, safe_name, sha256, sidecar_path, write_image
from mrirecon.io.geometry import Grid, grid_of, in_seconds, sequence
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.images import holds_images
from mrirecon.io.safe.lock import output_lock
from mrirecon.io.safe.manifest import verify
from mrirecon.io.safe.probe import probe
from mrirecon.io.safe.scratch import scratch_folders
from mrirecon.io.safe.text import local, parse_json
from mrirecon.io.writers.bids import bids_fields, bids_path, describe_dataset
from mrirecon.io.writers.encode_dicom import Series
from mrirecon.io.writers.write import (
    EXTENSION,
    FOREIGN,
    ImageFormat,
    format_losses,
    image_files,
    image_format,
    named_format,
    require,
)
from mrirecon.metrics.align import aligned, apart, upright
from mrirecon.metrics.evaluation import compare
from mrirecon.models.checkpoints import UNSEALED
from mrirecon.models.hardware import pick_device
from mrirecon.reconstruction.choose import choose
from mrirecon.reconstruction.plan import Plan, Request
from mrirecon.reconstruction.preprocess.prepare import prepare
from mrirecon.reconstruction.reference import placed_reference
from mrirecon.reconstruction.run import Progress, Reconstruction, reconstruct


def reconstruct_file(
    path: str | Path,
    out: str | Path,
    *,
    request: Request | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    wait: bool = True,
    skip_failed: bool = False,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    **options: Any,  # the fields of `Request`, which names those that it does not know
) -> dict[str, object]:
    """Reconstruct one file and write its images with a JSON sidecar that says how.

    What is there already, made in the same way from the same file (see `finished`), is left.

    Args:
        path: k-space file, see `mrirecon.io.read`.
        out: output file, or a folder for ``NAME_METHOD.h5``.
        request: how; by default made from ``options``, which are its fields: method, maps, mask, and so on.
        overwrite: replace an output that exists.
        dry_run: say what would be done, and write nothing.
        wait: for another process that makes the same output.
        skip_failed: leave out items that cannot be reconstructed: their images are zero, and
            ``failed_items`` lists them.
        command: the command line, for the sidecar.
        progress: called as items are done.
        options: see `Request`.

    Returns:
        The sidecar's content, with ``outputs`` (paths), with ``finished`` where it was there already, and, with a
        reference, ``scores``.

    Raises:
        BusyError: another process makes the same output, and ``wait`` is false; or writes the input.
        MriReconError: see `reconstruct` and `mrirecon.io`; nothing is written then.

    """
    start = time.perf_counter()
    request = request or Request(**options)
    path, out = Path(path), Path(out)
    scan, stored_shape = _read_and_prepare(path, request)
    # Only where the method has to be chosen are the data looked at before the output has a name.
    scratch = scratch_folders(_output_folder(out, request))
    automatic = request.method == "auto" and request.model is None
    plan = choose(scan, request, scratch) if automatic else None
    method, reason = _method(request, plan)
    target = output_path(path, out, method, request.format)
    if request.bids is not None:
        target = bids_path(request.bids, path, method, contrast=request.contrast, attributes=scan.attributes)
    format = image_format(target, request.format if request.bids is None else "nii")
    require(format)
    inputs = [p for p in (path, request.mask, request.maps_file, request.reference) if p is not None]
    refuse_overwrite([target] if format != "dicom" else [sidecar_path(target)], inputs)
    record: dict[str, object] = {
        "input": {"file": str(path), "sha256": "", **stamp(path), "shape": stored_shape, "format": scan.format},
        "method": method,
        "why": reason,
        "device": str(pick_device(request.device)),
        "items": len(scan),
        **({"chosen_items": request.items} if request.items is not None else {}),
        "preprocess": request.preprocess.as_dict(),
    }
    pages = len(scan) * (scan.space_shape[0] if len(scan.space) == 3 else 1)
    files = image_files(target, format, pages)
    if dry_run:
        _refuse_existing(target, files, request, overwrite)
        notes = [*scan.notes, *(plan.notes if plan is not None else ())]
        return {**record, "outputs": [str(target)], "dry_run": True, "notes": notes}
    with output_lock(target, wait=wait):
        done = None if overwrite else finished(request, path, sidecar_path(target))
        if done is not None:
            return finished_result(done, target)
        _refuse_existing(target, files, request, overwrite)
        record["input"] = source = {**cast("dict[str, object]", record["input"]), "sha256": scan.sha256()}
        plan = plan or choose(scan, request, scratch)
        iterates: list[np.ndarray] = []
        result = reconstruct(
            scan,
            request,
            plan=plan,
            on_iterates=(lambda _, images: iterates.append(images)) if request.save_iterates else None,
            progress=progress,
            scratch=scratch,
            skip_failed=skip_failed,
        )
        sidecar, show = _describe(scan, request, plan, result, record, format, command)
        written: list[Path] = []
        if request.save_iterates:
            steps = {"input": source, "iterates of": target.name, "request": request.digest}
            written = write_image(_iterates(target), _filled(iterates), sidecar=steps, inputs=inputs)
        if request.bids is not None:
            describe_dataset(request.bids, scan.path)
        series = Series(method, str(source["sha256"]), show.sequence)
        images = write_image(
            target,
            show.images,
            format=format,
            sidecar=sidecar,
            keep_complex=True,
            inputs=inputs,
            grid=show.grid,
            loops=show.loops,
            series=series,
        )
    outputs = [str(path) for path in (*images, *written)]
    return {**sidecar, "outputs": outputs, "total_seconds": time.perf_counter() - start}


def _read_and_prepare(path: Path, request: Request) -> tuple[Scan, dict[str, int]]:
    """Return the scan of a file, preprocessed as asked, and the shape that is stored."""
    if request.manifest is not None:
        verify(path, request.manifest)
    if request.isolate:
        for foreign in (path, request.mask, request.maps_file, request.reference):
            if foreign is not None:
                probe(foreign, axes=request.axes, dataset=request.dataset if foreign == path else None)
    stored = read(
        path,
        axes=request.axes,
        mask=request.mask,
        maps=request.maps_file,
        dataset=request.dataset,
        nan=request.nan,
        strict=request.strict,
        items=request.items,
    )
    return prepare(stored, request.preprocess), stored.shape


def _method(request: Request, plan: Plan | None) -> tuple[str, str]:
    """Return the name of the method, and the reason for it, as the request or the plan says."""
    if plan is not None:
        return plan.method, plan.reason
    if request.model is not None:
        return request.load(request.model).method, f"model {request.model}"
    return request.method, "as asked"


@dataclass(frozen=True)
class _Shown:
    """Images as they are written: turned upright where the format asks for it, with their place and sequence."""

    images: np.ndarray
    grid: Grid
    loops: dict[str, int]
    sequence: dict[str, float]


def _describe(
    scan: Scan,
    request: Request,
    plan: Plan,
    result: Reconstruction,
    record: Mapping[str, object],
    format: ImageFormat,
    command: Sequence[str] | None,
) -> tuple[dict[str, object], _Shown]:
    """Return the content of the sidecar, scores included, and the images as they are to be written."""
    notes = list(result.notes)
    model = plan.model
    if model is not None and model.seal is None:
        notes.append(f"of the model {model.folder}: {UNSEALED}")
    grid, unknown = grid_of(scan, result.images.shape[1:])
    together = {"echo"} if request.preprocess.echoes else set()
    loops = {axis: scan.shape[axis] for axis in scan.layout.loops if axis not in together}
    stated = sequence(scan.attributes, loops)
    # Viewers of NIfTI turn what they show by its affine; those of DICOM and PNG do not.
    unturned: tuple[np.ndarray, Grid, list[str]] = (result.images, grid, [])
    shown, placed, turned = upright(result.images, grid) if format in ("dicom", "png") else unturned
    notes += [*(unknown if format in ("nii", "dicom") else []), *turned]
    notes += format_losses(format, result.images, grid, loops)
    bids = {} if request.bids is None else bids_fields(request.bids, scan.path) | in_seconds(stated)
    sidecar: dict[str, object] = {
        **bids,
        **record,
        "maps": {
            "source": result.maps,
            "sets": result.sets,
            "file": None if request.maps_file is None else str(request.maps_file),
        },
        "mask": None if request.mask is None else str(request.mask),
        "lambda": result.lam,
        "options": dict(request.options or {}) if model is None else model.options,
        "model": None if model is None else {"folder": str(model.folder), "sha256": model.sha256, "seal": model.seal},
        "precision": result.precision,
        "seed": request.seed,
        "stopped": result.reasons,
        **({"methods": result.methods} if result.methods else {}),
        **({"failed_items": [error.as_dict() for error in result.failed]} if result.failed else {}),
        "seconds": result.seconds,
        "notes": notes,
        "versions": versions(),
        "request": request.digest,
        "command": None if command is None else list(command),
    }
    if request.reference is not None:
        # A full scan beside an undersampled one is stored in the same way.
        axes = None if holds_images(request.reference) else request.axes
        truth, kind, place = placed_reference(request.reference, axes=axes, like=scan, items=request.items)
        mine, lies, of_place = aligned(np.abs(result.images), grid, place if set(loops) <= {"slice"} else Grid())
        scores = compare(mine, truth, prediction=scan.path, reference=request.reference, kind=kind)
        scores.notes[:0] = of_place + (apart(mine.shape[-3:], lies, place) if mine.shape == truth.shape else [])
        sidecar["scores"] = scores.as_dict()
    return sidecar, _Shown(shown, placed, loops, stated)


def finished(request: Request, source: Path, sidecar: Path) -> dict[str, object] | None:
    """Return the content of a sidecar, if it says that this request was done for a file that is the same; else None.

    The input and the outputs must be those that were noted. A file counts as such when its size, its time of
    modification and, of the input, its inode are; where only the size is, its SHA-256 decides.
    """
    try:
        content = parse_json(sidecar.read_bytes())
        if content["request"] != request.digest:
            return None
        noted, outputs = content["input"], content["outputs"]
        if not isinstance(content["method"], str):
            return None
        if not outputs or not _same(noted, stamp(source), ("mtime_ns", "inode"), source):
            return None
        for output in outputs:
            path = sidecar.parent / local(str(output["file"]))
            status = path.stat()
            now = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            if not _same(output, now, ("mtime_ns",), path):
                return None
    except (OSError, ValueError, KeyError, TypeError):  # no sidecar, or not one of ours: then it is not finished
        return None
    return dict(content)


def finished_result(content: dict[str, object], target: Path) -> dict[str, object]:
    """Return what `reconstruct_file` returns of an output that was there, from the content of its sidecar."""
    outputs = content["outputs"]
    assert isinstance(outputs, list), "it was looked at"
    return {**content, "outputs": [str(target.parent / local(o["file"])) for o in outputs], "finished": True}


def stamp(source: Path) -> dict[str, int]:
    """Return size in bytes, time of modification and inode of a k-space file (of the data file of a BART pair).

    Raises:
        OSError: it is not there.

    """
    try:
        status = source.stat() if source.suffix != ".hdr" else cfl_pair(source)[1].stat()
    except FileNotFoundError:
        status = cfl_pair(source)[1].stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _same(noted: Mapping[str, object], now: Mapping[str, int], quick: tuple[str, ...], path: Path) -> bool:
    if noted["bytes"] != now["bytes"]:
        return False
    return all(noted[key] == now[key] for key in quick) or noted["sha256"] == sha256(path)


def output_path(source: Path, out: Path, method: str, format: ImageFormat | None) -> Path:
    """Return where the images of ``source`` go: ``out`` itself if it names a file, else a name of its own in it.

    Raises:
        UsageError: a name that stands for a format that is not written, and for no folder that is there.

    """
    named = named_format(out)
    if named is None and out.suffix.lower() in FOREIGN and not out.is_dir() and format is None:
        image_format(out)  # which it is not, and says what to do
    if named is not None and (not out.is_dir() or named == "dicom"):
        return out
    ending = f"_{method}{EXTENSION[format or 'h5']}"
    return out / f"{safe_name(source.name.split('.')[0], room=len(ending))}{ending}"


def _output_folder(out: Path, request: Request) -> Path:
    """Return the folder that images go to, as far as it is known before the scan is."""
    if request.bids is not None:
        return Path(request.bids)
    return out.parent if named_format(out) is not None and not out.is_dir() else out


def _refuse_existing(target: Path, files: Sequence[Path], request: Request, overwrite: bool) -> None:
    """Refuse to replace anything of what would be written, but for what a killed run of ours left of it.

    Raises:
        UsageError: with the file that is there.

    """
    beside = sidecar_path(target)
    wanted, begun = [*files, beside], _left_by_killed_run(beside, None)
    if request.save_iterates:
        steps = _iterates(target)
        wanted += [steps, sidecar_path(steps)]
        begun |= _left_by_killed_run(sidecar_path(steps), request.digest)
    for there in [] if overwrite else wanted:
        if (there.exists() or there.is_symlink()) and there not in begun:
            raise UsageError(
                "the output exists already",
                where=str(there),
                why="it was made in another way, from another file, or not by mrirecon",
                fix="choose another name, or pass --overwrite",
            )


def _left_by_killed_run(sidecar: Path, digest: str | None) -> set[Path]:
    """Return a sidecar of ours and the outputs that it names, if a killed run left only some of them.

    All of them are returned as well where the sidecar tells of the request `digest`: the same would be written again.
    """
    try:
        content = parse_json(sidecar.read_bytes())
        named = {sidecar.parent / local(str(o["file"])): (o["bytes"], o["mtime_ns"]) for o in content["outputs"]}
        whole = all(path.exists() for path in named) and content["request"] != digest
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    ours = {p for p, noted in named.items() if p.is_file() and (p.stat().st_size, p.stat().st_mtime_ns) == noted}
    return set() if whole else {sidecar, *ours}


def _iterates(target: Path) -> Path:
    return target.with_name(f"{target.name.split('.')[0]}_iterates.h5")


def _filled(iterates: Sequence[np.ndarray]) -> np.ndarray:
    """Return the iterates of all items one after another, zeros for those that have none."""
    steps = max(len(one) for one in iterates)
    return np.concatenate([one if len(one) else np.zeros((steps, *one.shape[1:]), one.dtype) for one in iterates])


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mrirecon": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
