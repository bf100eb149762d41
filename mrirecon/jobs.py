"""One file in, one file out: read, reconstruct, score, write, with everything needed to do it again."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.checkpoints import UNSEALED, Trained, shipped
from mrirecon.choice import Group, choose, summary
from mrirecon.errors import UsageError
from mrirecon.evaluate import compare, holds_images
from mrirecon.evaluate.align import aligned, apart, upright
from mrirecon.evaluate.reference import placed_reference
from mrirecon.hardware import pick_device
from mrirecon.inference import Progress, Reconstruction, reconstruct
from mrirecon.io import read, refuse_overwrite, sidecar_path, write_image
from mrirecon.io.apart import look_apart
from mrirecon.io.bids import bids_fields, bids_path, describe_dataset
from mrirecon.io.claim import claim
from mrirecon.io.encode_dicom import Series
from mrirecon.io.formats import ImageFormat, image_files, image_format, kept, require
from mrirecon.io.grid import Grid, grid_of
from mrirecon.io.manifest import verify
from mrirecon.io.scan import Scan
from mrirecon.io.scratch import scratch_folders
from mrirecon.io.sequence import in_seconds, sequence
from mrirecon.prepared import Prepared, prepare
from mrirecon.request import Request, output_path, stamp
from mrirecon.text import local, parse_json


def reconstruct_file(
    path: str | Path,
    out: str | Path,
    *,
    request: Request | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    wait: bool = True,
    go_on: bool = False,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    **options: Any,  # the fields of `Request`, which names those that it does not know
) -> dict[str, object]:
    """Reconstruct one file and write its images with a JSON sidecar that says how.

    What is there already, made in the same way from the same file (see `mrirecon.request.Request.finished`), is left.

    Args:
        path: k-space file, see `mrirecon.io.read`.
        out: output file, or a folder for ``NAME_METHOD.h5``.
        request: how; by default made from ``options``, which are its fields: method, maps, mask, and so on.
        overwrite: replace an output that exists.
        dry_run: say what would be done, and write nothing.
        wait: for another process that makes the same output.
        go_on: leave out items that cannot be reconstructed: their images are zero, and ``failed_items`` lists them.
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
    asked = request or Request(**options)
    path, out = Path(path), Path(out)
    if asked.manifest is not None:
        verify(path, asked.manifest)
    if asked.isolate:
        for foreign in (path, asked.mask, asked.maps_file, asked.reference):
            if foreign is not None:
                look_apart(foreign, axes=asked.axes, dataset=asked.dataset if foreign == path else None)
    stored = read(
        path,
        axes=asked.axes,
        mask=asked.mask,
        maps=asked.maps_file,
        dataset=asked.dataset,
        nan=asked.nan,
        strict=asked.strict,
        items=asked.items,
    )
    scan = prepare(stored, asked.preprocess)
    groups, trained = _choose(scan, asked)
    chosen, why = summary(groups)
    target = output_path(path, out, chosen, asked.format)
    if asked.bids is not None:
        target = bids_path(asked.bids, path, chosen, contrast=asked.contrast, attributes=scan.attributes)
    written_as = image_format(target, asked.format if asked.bids is None else "nii")
    require(written_as)
    inputs = [p for p in (path, asked.mask, asked.maps_file, asked.reference) if p is not None]
    refuse_overwrite([target] if written_as != "dicom" else [sidecar_path(target)], inputs)
    plan: dict[str, object] = {
        "input": {"file": str(path), "sha256": "", **stamp(path), "shape": stored.shape, "format": scan.format},
        "method": chosen,
        "why": why,
        "device": str(pick_device(asked.device)),
        "items": len(scan),
        **({"chosen_items": asked.items} if asked.items is not None else {}),
        "preprocess": asked.preprocess.as_dict(),
    }
    pages = len(scan) * (scan.space_shape[0] if len(scan.space) == 3 else 1)
    files = image_files(target, written_as, pages)
    if dry_run:
        _free(target, files, asked, overwrite)
        return {**plan, "outputs": [str(target)], "dry_run": True, "notes": scan.notes}
    with claim(target, wait=wait):
        done = None if overwrite else asked.finished(path, sidecar_path(target))
        if done is not None:
            return as_finished(done, target)
        _free(target, files, asked, overwrite)
        made = groups if asked.method == "auto" and asked.model is None else None
        told, written = _make(scan, target, written_as, asked, plan, made, trained, command, progress, inputs, go_on)
    return {**told, "outputs": [str(w) for w in written], "total_seconds": time.perf_counter() - start}


def as_finished(told: dict[str, object], target: Path) -> dict[str, object]:
    """Return what `reconstruct_file` returns of an output that was there, from what its sidecar tells."""
    outputs = told["outputs"]
    assert isinstance(outputs, list), "it was looked at"
    return {**told, "outputs": [str(target.parent / local(o["file"])) for o in outputs], "finished": True}


def _choose(scan: Scan, asked: Request) -> tuple[list[Group], Trained | None]:
    """Return methods by items, and the model that the first of them takes."""
    every = tuple(range(len(scan)))
    if asked.model is not None:
        trained = asked.load(asked.model)
        return [Group(every, trained.method, f"model {asked.model}")], trained
    automatic = asked.method == "auto"
    groups = choose(scan, asked.maps, asked.options) if automatic else [Group(every, asked.method, "as asked")]
    ours, method = shipped(), groups[0].method
    return groups, asked.load(ours[method]) if method in ours and not asked.options else None


def _free(target: Path, files: Sequence[Path], asked: Request, overwrite: bool) -> None:
    """Refuse to replace anything of what would be written, but for what a killed run of ours left of it.

    Raises:
        UsageError: with the file that is there.

    """
    beside = sidecar_path(target)
    wanted, begun = [*files, beside], _begun(beside, None)
    if asked.save_iterates:
        steps = _iterates(target)
        wanted += [steps, sidecar_path(steps)]
        begun |= _begun(sidecar_path(steps), asked.digest)
    for there in [] if overwrite else wanted:
        if (there.exists() or there.is_symlink()) and there not in begun:
            raise UsageError(
                "the output exists already",
                where=str(there),
                why="it was made in another way, from another file, or not by mrirecon",
                fix="choose another name, or pass --overwrite",
            )


def _begun(sidecar: Path, digest: str | None) -> set[Path]:
    """Return a sidecar of ours and the outputs that it names, if a killed run left only some of them.

    All of them are returned as well where the sidecar tells of the request `digest`: the same would be written again.
    """
    try:
        told = parse_json(sidecar.read_bytes())
        named = {sidecar.parent / local(str(o["file"])): (o["bytes"], o["mtime_ns"]) for o in told["outputs"]}
        whole = all(path.exists() for path in named) and told["request"] != digest
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    found = {p for p, noted in named.items() if p.is_file() and (p.stat().st_size, p.stat().st_mtime_ns) == noted}
    return set() if whole else {sidecar, *found}


def _iterates(target: Path) -> Path:
    return target.with_name(f"{target.name.split('.')[0]}_iterates.h5")


def _make(
    scan: Prepared,
    target: Path,
    written_as: ImageFormat,
    asked: Request,
    plan: dict[str, object],
    groups: Sequence[Group] | None,
    trained: Trained | None,
    command: Sequence[str] | None,
    progress: Progress | None,
    inputs: Sequence[str | Path],
    go_on: bool,
) -> tuple[dict[str, object], list[Path]]:
    noted = plan["input"]
    assert isinstance(noted, dict), "the caller made it"
    noted["sha256"] = scan.sha256()
    iterates: list[np.ndarray] = []
    done = reconstruct(
        scan,
        model=trained,
        strict=asked.strict_model,
        batch=asked.batch,
        keep=(lambda _, images: iterates.append(images)) if asked.save_iterates else None,
        method=str(plan["method"]),
        maps=asked.maps,
        espirit=asked.espirit,
        lam=asked.lam,
        options=asked.options,
        device=asked.device,
        precision=asked.precision,
        seed=asked.seed,
        progress=progress,
        scratch=scratch_folders(target.parent),
        chosen=groups,
        go_on=go_on,
    )
    done.notes += [f"of the model {trained.folder}: {UNSEALED}"] if trained is not None and trained.seal is None else []
    grid, unknown = grid_of(scan, done.images.shape[1:])
    together = {"echo"} if asked.preprocess.echoes else set()
    loops = {axis: scan.shape[axis] for axis in scan.layout.loops if axis not in together}
    stated = sequence(scan.attributes, loops)
    # Viewers of NIfTI turn what they show by its affine; those of DICOM and PNG do not.
    unturned: tuple[np.ndarray, Grid, list[str]] = (done.images, grid, [])
    shown, placed, turned = upright(done.images, grid) if written_as in ("dicom", "png") else unturned
    done.notes += [*(unknown if written_as in ("nii", "dicom") else []), *turned]
    done.notes += kept(written_as, done.images, grid, loops)
    bids = {} if asked.bids is None else bids_fields(asked.bids, scan.path) | in_seconds(stated)
    told = {**bids, **plan, **_told(done, asked, trained), "command": None if command is None else list(command)}
    if asked.reference is not None:
        # A full scan beside an undersampled one is stored in the same way.
        axes = None if holds_images(asked.reference) else asked.axes
        truth, kind, place = placed_reference(asked.reference, axes=axes, like=scan, items=asked.items)
        mine, lies, notes = aligned(np.abs(done.images), grid, place if set(loops) <= {"slice"} else Grid())
        found = compare(mine, truth, prediction=scan.path, reference=asked.reference, kind=kind)
        found.notes[:0] = notes + (apart(mine.shape[-3:], lies, place) if mine.shape == truth.shape else [])
        told["scores"] = found.as_dict()
    written: list[Path] = []
    if asked.save_iterates:
        steps = {"input": noted, "iterates of": target.name, "request": asked.digest}
        written = write_image(_iterates(target), _filled(iterates), sidecar=steps, inputs=inputs)
    if asked.bids is not None:
        describe_dataset(asked.bids, scan.path)
    images = write_image(
        target,
        shown,
        format=written_as,
        sidecar=told,
        keep_complex=True,
        inputs=inputs,
        grid=placed,
        loops=loops,
        series=Series(str(plan["method"]), str(noted["sha256"]), stated),
    )
    return told, [*images, *written]


def _filled(iterates: Sequence[np.ndarray]) -> np.ndarray:
    """Return the iterates of all items one after another, zeros for those that have none."""
    steps = max(len(one) for one in iterates)
    return np.concatenate([one if len(one) else np.zeros((steps, *one.shape[1:]), one.dtype) for one in iterates])


def _told(done: Reconstruction, asked: Request, trained: Trained | None) -> dict[str, object]:
    """Return what the sidecar says of how the images came about."""
    return {
        "maps": {
            "source": done.maps,
            "sets": done.sets,
            "file": None if asked.maps_file is None else str(asked.maps_file),
        },
        "mask": None if asked.mask is None else str(asked.mask),
        "lambda": done.lam,
        "options": dict(asked.options or {}) if trained is None else trained.options,
        "model": None
        if trained is None
        else {"folder": str(trained.folder), "sha256": trained.sha256, "seal": trained.seal},
        "precision": done.precision,
        "seed": asked.seed,
        "stopped": done.reasons,
        **({"methods": done.methods} if done.methods else {}),
        **({"failed_items": [error.as_dict() for error in done.failed]} if done.failed else {}),
        "seconds": done.seconds,
        "notes": done.notes,
        "versions": versions(),
        "request": asked.digest,
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mrirecon": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
