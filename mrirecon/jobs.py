"""One file in, one file out: read, reconstruct, score, write, with everything needed to do it again."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.calibrate import EspiritOptions, Source
from mrirecon.errors import InputError, UsageError
from mrirecon.inference import Progress, choose_method, pick_device, reconstruct, sense_reference
from mrirecon.io import Scan, read, read_image, write_image
from mrirecon.io.images import open_store
from mrirecon.metrics import mean_score, scores

Format = Literal["h5", "npz", "cfl", "png"]
_SUFFIXES = {".h5", ".hdf5", ".npz", ".cfl", ".hdr", ".png"}


def output_path(source: Path, out: Path, method: str, format: Format | None) -> Path:
    """Return where the images of ``source`` go: ``out`` itself if it names a file, else a name of its own in it."""
    if out.suffix.lower() in _SUFFIXES and not out.is_dir():
        return out
    return out / f"{source.name.split('.')[0]}_{method}.{format or 'h5'}"


def reconstruct_file(
    path: str | Path,
    out: str | Path,
    *,
    method: str = "auto",
    maps: Source = "auto",
    maps_file: str | Path | None = None,
    espirit: EspiritOptions | None = None,
    mask: str | Path | None = None,
    axes: str | None = None,
    lam: float | Literal["auto"] | None = None,
    device: str = "auto",
    format: Format | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    reference: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Reconstruct one file and write its images with a JSON sidecar that says how.

    Args:
        path: k-space file, see `mrirecon.io.read`.
        out: output file, or a folder for ``NAME_METHOD.h5``.
        method: see `mrirecon.inference.reconstruct`, as for maps, espirit, lam, device, options, seed and progress.
        maps: where coil maps come from; ``maps_file`` names a file to take them from.
        maps_file: file with coil maps.
        espirit: how maps are estimated.
        mask: file with a sampling mask; undersamples fully sampled data.
        axes: names of the stored axes, where the file leaves them open.
        lam: regularization weight.
        device: where to compute.
        format: ``h5`` (magnitude and complex), ``npz``, ``cfl``, ``png``; by default from the name of ``out``.
        seed: of random draws.
        options: further options of the method.
        reference: image file or fully sampled k-space to score against.
        overwrite: replace an output that exists.
        dry_run: say what would be done, and write nothing.
        command: the command line, for the sidecar.
        progress: called as items are done.

    Returns:
        The sidecar's content, with ``outputs`` (paths) and, with a reference, ``scores``.

    Raises:
        MriReconError: see `reconstruct` and `mrirecon.io`; nothing is written then.

    """
    start = time.perf_counter()
    if maps_file is not None:
        maps = "file"
    scan = read(path, axes=axes, mask=mask, maps=maps_file)
    chosen, why = choose_method(scan, 0, maps) if method == "auto" else (method, "as asked")
    target = output_path(Path(path), Path(out), chosen, format)
    if target.exists() and not overwrite:
        raise UsageError("the output exists already", where=str(target), fix="choose another name, or pass --overwrite")
    where = pick_device(device)
    plan: dict[str, object] = {
        "input": {"file": str(path), "sha256": scan.sha256(), "shape": scan.shape, "format": scan.format},
        "method": chosen,
        "why": why,
        "device": str(where),
        "items": len(scan),
    }
    if dry_run:
        return {**plan, "outputs": [str(target)], "dry_run": True, "notes": scan.notes}
    done = reconstruct(
        scan,
        method=chosen,
        maps=maps,
        espirit=espirit,
        lam=lam,
        options=options,
        device=device,
        seed=seed,
        progress=progress,
    )
    told: dict[str, object] = {
        **plan,
        "maps": {"source": done.maps, "file": None if maps_file is None else str(maps_file)},
        "mask": None if mask is None else str(mask),
        "lambda": done.lam,
        "options": dict(options or {}),
        "seed": seed,
        "stopped": done.reasons,
        "seconds": done.seconds,
        "notes": done.notes,
        "command": list(command) if command is not None else None,
        "versions": versions(),
    }
    if reference is not None:
        told["scores"] = _scores(done.images, reference_images(reference, axes=None), Path(reference))
    target.parent.mkdir(parents=True, exist_ok=True)
    inputs = [p for p in (path, mask, maps_file, reference) if p is not None]
    written = write_image(target, done.images, format=format, sidecar=told, keep_complex=True, inputs=inputs)
    return {**told, "outputs": [str(w) for w in written], "total_seconds": time.perf_counter() - start}


def reference_images(path: str | Path, *, axes: str | None = None) -> np.ndarray:
    """Return reference magnitudes (item, *space) from an image file, or from fully sampled k-space.

    k-space is combined with ESPIRiT maps of the full data; an undersampled file must hold a reference of its own.
    """
    names = open_store(path).arrays if Path(path).suffix.lower() not in (".cfl", ".hdr", "") else {}
    images = any(name.startswith(("reconstruction", "reference", "image")) for name in names)
    if images and "kspace" not in names:
        return read_image(path)
    scan = read(path, axes=axes)
    if scan.reference is not None and not _full(scan):
        return scan.reference
    return sense_reference(scan)


def _full(scan: Scan) -> bool:
    return bool(scan.mask(0).mean() >= 0.9)


def _scores(images: np.ndarray, reference: np.ndarray, path: Path) -> dict[str, object]:
    if images.shape != reference.shape:
        raise InputError(
            "the reference does not fit the reconstruction",
            where=str(path),
            why=f"{reference.shape} and {images.shape}",
            fix="give a reference of the same slices and matrix",
        )
    found = scores(images, reference)
    return {"mean": asdict(mean_score(found)), "slices": [asdict(one) for one in found]}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mrirecon": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
