"""Reconstruct one file: read, preprocess, choose, reconstruct, score and write."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.errors import UsageError
from mrirecon.io.drawing import slice_panels
from mrirecon.io.geometry import Grid, grid_of, in_seconds, sequence
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.images import holds_images, read_image
from mrirecon.io.readers.reader import read
from mrirecon.io.safe.atomic import refuse_overwrite, safe_name, sha256
from mrirecon.io.safe.lock import output_lock
from mrirecon.io.safe.manifest import verify
from mrirecon.io.safe.probe import probe
from mrirecon.io.safe.scratch import scratch_folders
from mrirecon.io.safe.text import local, parse_json
from mrirecon.io.scan import Scan
from mrirecon.io.writers.bids import bids_fields, bids_path, describe_dataset
from mrirecon.io.writers.encode_dicom import Series
from mrirecon.io.writers.pictures import save_panels
from mrirecon.io.writers.write import (
    EXTENSION,
    ImageFormat,
    format_losses,
    image_files,
    image_format,
    named_format,
    require,
    sidecar_path,
    write_image,
)
from mrirecon.metrics.align import aligned, apart, upright
from mrirecon.metrics.evaluation import compare
from mrirecon.models.checkpoints import UNSEALED
from mrirecon.reconstruction.choose import choose
from mrirecon.reconstruction.plan import Plan, Request
from mrirecon.reconstruction.preprocess.prepare import prepare
from mrirecon.reconstruction.reference import placed_reference
from mrirecon.reconstruction.run import Progress, Reconstruction, reconstruct

_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,5}")  # what looks like the suffix of a file, not like "run.1"


def reconstruct_file(
    path: str | Path,
    out: str | Path,
    *,
    request: Request | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    wait: bool = True,
    skip_failed: bool = False,
    preview: bool = False,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    **options: Any,  # the fields of `Request`, which checks their names
) -> dict[str, object]:
    """Reconstruct one file, and write its images with a JSON sidecar that records how.

    An existing output of the same request and the same input (see `finished`) is kept.

    Args:
        path: k-space file, see `mrirecon.io.read`.
        out: output file, or a folder for ``NAME_METHOD.h5``.
        request: the user's request; by default made from ``options``, which are its fields: method, maps, ...
        overwrite: replace an output that exists.
        dry_run: return what would be done, and write nothing.
        wait: wait for another process that writes the same output.
        skip_failed: skip items that cannot be reconstructed: their images are zero, and ``failed_items`` lists them.
        preview: also draw at most 16 slices side by side, in NAME_preview.png beside the output.
        command: the command line, for the sidecar.
        progress: function called after each item.
        options: see `Request`.

    Returns:
        The content of the sidecar, with ``outputs`` (paths), ``finished`` if the output existed, and ``scores`` if
        there is a reference.

    Raises:
        BusyError: another process writes the same output, and ``wait`` is false; or it writes the input.
        MriReconError: see `reconstruct` and `mrirecon.io`; nothing is written.

    """
    start = time.perf_counter()
    request = request or Request(**options)
    path, out = Path(path), Path(out)
    scan, stored_shape = read_and_prepare(path, request)
    scratch = scratch_folders(request.bids or out)
    plan = choose(scan, request, scratch)
    if request.bids is None:
        target = output_path(path, out, plan.method, request.format)
        format = image_format(target, request.format)
    else:
        target = bids_path(request.bids, path, plan.method, contrast=request.contrast, attributes=scan.attributes)
        format = "nii"
    require(format)
    if preview and format in ("png", "montage"):
        raise UsageError("--preview has no effect on pictures", fix="omit --preview")
    beside, count, space = sidecar_path(target), len(scan), scan.space_shape
    files = image_files(target, format, count * (space[0] if len(space) == 3 else 1))
    inputs = [p for p in (path, request.mask, request.maps_file, request.reference) if p is not None]
    refuse_overwrite([target] if format != "dicom" else [beside], inputs)
    source = {"file": str(path), "sha256": "", **stamp(path), "shape": stored_shape, "format": scan.format}
    record: dict[str, object] = {
        "input": source,
        "method": plan.method,
        "why": plan.reason,
        "device": str(plan.device),
        "items": count,
        **({"chosen_items": request.items} if request.items is not None else {}),
        "preprocess": request.preprocess.as_dict(),
    }
    if dry_run:
        _refuse_existing(target, [*files, beside], request, overwrite)
        return {**record, "outputs": [str(target)], "dry_run": True, "notes": [*scan.notes, *plan.notes]}
    with output_lock(target, wait=wait):
        existing = None if overwrite else finished(request, path, beside)
        picture = _preview(target)
        if existing is not None:
            if preview and not picture.exists():
                save_panels(picture, slice_panels(read_image(target)))
            return finished_result(existing, target)
        _refuse_existing(target, [*files, *([picture] if preview else []), beside], request, overwrite)
        source["sha256"] = scan.sha256()
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
        sidecar, images, position = _describe(scan, request, plan, result, record, format, command)
        written: list[Path] = []
        if request.save_iterates:
            steps = {"input": source, "iterates of": target.name, "request": request.digest}
            written = write_image(_iterates(target), _filled(iterates), sidecar=steps, inputs=inputs)
        if request.bids is not None:
            describe_dataset(request.bids, scan.path)
        position["series"] = Series(plan.method, str(source["sha256"]), position.pop("sequence"))
        written[:0] = write_image(
            target, images, format=format, sidecar=sidecar, keep_complex=True, inputs=inputs, **position
        )
        if preview:
            shown = upright(result.images, grid_of(scan, result.images.shape[1:])[0])[0]
            save_panels(picture, slice_panels(shown))
    outputs = [str(path) for path in written]
    return {**sidecar, "outputs": outputs, "total_seconds": time.perf_counter() - start}


def read_and_prepare(path: Path, request: Request) -> tuple[Scan, dict[str, int]]:
    """Read a file and preprocess it as requested; return the scan and the stored shape."""
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
        trajectory=request.trajectory,
    )
    return prepare(stored, request.steps), stored.shape


def _describe(
    scan: Scan,
    request: Request,
    plan: Plan,
    result: Reconstruction,
    record: Mapping[str, object],
    format: ImageFormat,
    command: Sequence[str] | None,
) -> tuple[dict[str, object], np.ndarray, dict[str, Any]]:
    """Return the content of the sidecar, the images (upright if the format needs it), grid, loops and sequence."""
    notes = list(result.notes)
    model = plan.model
    if model is not None and model.seal is None:
        notes.append(f"of the model {model.folder}: {UNSEALED}")
    together = {"echo"} if request.preprocess.echoes else set()
    loops = {axis: scan.shape[axis] for axis in scan.layout.loops if axis not in together}
    grid, unknown = grid_of(scan, result.images.shape[1:])
    stated = sequence(scan.attributes, loops)
    # Viewers rotate NIfTI images by the affine, but not DICOM and PNG images.
    unturned: tuple[np.ndarray, Grid, list[str]] = (result.images, grid, [])
    images, placed, rotated = upright(result.images, grid) if format in ("dicom", "png", "montage") else unturned
    notes += [*(unknown if format in ("nii", "dicom") else []), *rotated]
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
        **({} if result.adaptation is None else {"adaptation": result.adaptation}),
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
        # A fully sampled reference scan has the same axes as the undersampled scan.
        axes = None if holds_images(request.reference) else request.axes
        truth, kind, reference_grid = placed_reference(request.reference, axes=axes, like=scan, items=request.items)
        mine, is_aligned, of_place = aligned(
            np.abs(result.images), grid, reference_grid if set(loops) <= {"slice"} else Grid()
        )
        scores = compare(mine, truth, prediction=scan.path, reference=request.reference, kind=kind)
        scores.notes[:0] = of_place + (
            apart(mine.shape[-3:], is_aligned, reference_grid) if mine.shape == truth.shape else []
        )
        sidecar["scores"] = scores.as_dict()
    return sidecar, images, {"grid": placed, "loops": loops, "sequence": stated}


def finished(request: Request, source: Path, sidecar: Path) -> dict[str, object] | None:
    """Return the content of a sidecar if it records this request, the same input and existing outputs; else None.

    A file counts as unchanged if its size, its modification time and (for the input) its inode are equal. If only the
    size is equal, the SHA-256 decides.
    """
    try:
        content = parse_json(sidecar.read_bytes())
        if content["request"] != request.digest or not isinstance(content["method"], str) or not content["outputs"]:
            return None
        paths = [sidecar.parent / local(str(output["file"])) for output in content["outputs"]]
        same = _same(content["input"], stamp(source), ("mtime_ns", "inode"), source) and all(
            _same(output, _stat(path), ("mtime_ns",), path)
            for output, path in zip(content["outputs"], paths, strict=True)
        )
    except (OSError, ValueError, KeyError, TypeError):  # no sidecar, or not one of mrirecon
        return None
    return dict(content) if same else None


def finished_result(content: dict[str, object], target: Path) -> dict[str, object]:
    """Return the result of `reconstruct_file` for an existing output from the content of its sidecar."""
    outputs = content["outputs"]
    assert isinstance(outputs, list), "`finished` checked this"
    return {**content, "outputs": [str(target.parent / local(o["file"])) for o in outputs], "finished": True}


def stamp(source: Path) -> dict[str, int]:
    """Return size in bytes, modification time and inode of a k-space file (of a BART pair, of its data file).

    Raises:
        OSError: the file does not exist.

    """
    try:
        return _stat(source if source.suffix != ".hdr" else cfl_pair(source)[1])
    except FileNotFoundError:
        return _stat(cfl_pair(source)[1])


def _stat(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _same(noted: Mapping[str, object], now: Mapping[str, int], quick: tuple[str, ...], path: Path) -> bool:
    if noted["bytes"] != now["bytes"]:
        return False
    return all(noted[key] == now[key] for key in quick) or noted["sha256"] == sha256(path)


def output_path(source: Path, out: Path, method: str, format: ImageFormat | None) -> Path:
    """Return the output path for ``source``: ``out`` itself if it is a file name, else a file in this folder.

    Raises:
        UsageError: ``out`` has an unknown suffix, and is not a folder.

    """
    named = named_format(out)
    if named is None and _SUFFIX.fullmatch(out.suffix) and not out.is_dir():
        if out.suffix.lower() == ".dcm":
            image_format(out)  # its error explains the format
        error = f"no format has the suffix {out.suffix}"
        known = ", ".join(suffix for suffix in EXTENSION.values() if suffix.startswith("."))
        fix = f"choose {known}; a folder of this name must exist: mkdir {out}"
        raise UsageError(error, where=str(out), fix=fix)
    if named is not None and (not out.is_dir() or named == "dicom"):
        return out
    ending = f"_{method}{EXTENSION[format or 'h5']}"
    return out / f"{safe_name(source.name.split('.')[0], room=len(ending))}{ending}"


def _refuse_existing(target: Path, wanted: list[Path], request: Request, overwrite: bool) -> None:
    """Refuse to replace existing outputs, except the remains of a killed run of mrirecon.

    Raises:
        UsageError: an output exists.

    """
    if overwrite:
        return
    begun = _left_by_killed_run(wanted[-1], None)
    if request.save_iterates:
        steps = _iterates(target)
        wanted = [*wanted, steps, sidecar_path(steps)]
        begun |= _left_by_killed_run(wanted[-1], request.digest)
    for target_file in wanted:
        if (target_file.exists() or target_file.is_symlink()) and target_file not in begun:
            raise UsageError(
                "the output exists already",
                where=str(target_file),
                why="it has other options or another input, or was not written by mrirecon",
                fix="choose another name, or pass --overwrite",
            )


def _left_by_killed_run(sidecar: Path, digest: str | None) -> set[Path]:
    """Return a sidecar and its outputs if a killed run left only some of them.

    They are also returned if the sidecar records the request `digest`, because the same data would be written again.
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


def _preview(target: Path) -> Path:
    return target.with_name(f"{target.name.split('.')[0]}_preview.png")


def _filled(iterates: Sequence[np.ndarray]) -> np.ndarray:
    """Return the iterates of all items in one array, with zeros for items without iterates."""
    steps = max(len(steps_of_item) for steps_of_item in iterates)
    return np.concatenate(
        [
            steps_of_item if len(steps_of_item) else np.zeros((steps, *steps_of_item.shape[1:]), steps_of_item.dtype)
            for steps_of_item in iterates
        ]
    )


def versions() -> dict[str, str]:
    """Return the versions of the software on which a result depends."""
    return {
        "mrirecon": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
