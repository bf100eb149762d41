"""One file in, one file out: read, reconstruct, score, write, with everything needed to do it again."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.calibrate import EspiritOptions, Source
from mrirecon.checkpoints import load_model, shipped
from mrirecon.coverage import choose_method
from mrirecon.errors import UsageError
from mrirecon.evaluate import compare, holds_images, reference_images
from mrirecon.inference import Progress, pick_device, reconstruct
from mrirecon.io import read, write_image
from mrirecon.prepared import Preprocess, prepare

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
    preprocess: Preprocess | None = None,
    mask: str | Path | None = None,
    axes: str | None = None,
    dataset: str | None = None,
    lam: float | Literal["auto"] | None = None,
    device: str = "auto",
    format: Format | None = None,
    seed: int = 0,
    batch: int = 1,
    options: Mapping[str, object] | None = None,
    model: str | Path | None = None,
    strict_model: bool = False,
    save_iterates: bool = False,
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
        preprocess: what is done to k-space before, and to images afterwards; by default nothing.
        mask: file with a sampling mask; undersamples fully sampled data.
        axes: names of the stored axes, where the file leaves them open.
        dataset: name of the k-space array, where the file leaves it open.
        lam: regularization weight.
        device: where to compute.
        format: ``h5`` (magnitude and complex), ``npz``, ``cfl``, ``png``; by default from the name of ``out``.
        seed: of random draws.
        batch: items that a model takes at a time.
        options: further options of the method.
        model: folder of a trained model, in place of a method; a learned method without one takes the model that comes
            with mrirecon.
        strict_model: refuse data that the model was not trained for.
        save_iterates: also write the image after every step, as NAME_iterates.h5 with items and steps in turn.
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
    wanted = preprocess or Preprocess()
    stored = read(path, axes=axes, mask=mask, maps=maps_file, dataset=dataset)
    scan = prepare(stored, wanted)
    trained = None if model is None else load_model(model)
    if trained is not None and (method != "auto" or options):
        raise UsageError("a model brings its own method and options", fix="leave --method and --set out")
    chosen, why = choose_method(scan, 0, maps) if method == "auto" else (method, "as asked")
    if trained is not None:
        chosen, why = trained.method, f"model {model}"
    elif chosen in shipped() and not options:
        trained = load_model(shipped()[chosen])
    target = output_path(Path(path), Path(out), chosen, format)
    if target.exists() and not overwrite:
        raise UsageError("the output exists already", where=str(target), fix="choose another name, or pass --overwrite")
    where = pick_device(device)
    plan: dict[str, object] = {
        "input": {"file": str(path), "sha256": scan.sha256(), "shape": stored.shape, "format": scan.format},
        "method": chosen,
        "why": why,
        "device": str(where),
        "items": len(scan),
        "preprocess": wanted.as_dict(),
    }
    if dry_run:
        return {**plan, "outputs": [str(target)], "dry_run": True, "notes": scan.notes}
    iterates: list[np.ndarray] = []
    done = reconstruct(
        scan,
        model=trained,
        strict=strict_model,
        batch=batch,
        keep=(lambda _, images: iterates.append(images)) if save_iterates else None,
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
        "options": dict(options or {}) if trained is None else trained.options,
        "model": None if trained is None else {"folder": str(trained.folder), "sha256": trained.sha256},
        "seed": seed,
        "stopped": done.reasons,
        "seconds": done.seconds,
        "notes": done.notes,
        "command": list(command) if command is not None else None,
        "versions": versions(),
    }
    if reference is not None:
        # A full scan beside an undersampled one is stored in the same way.
        full_axes = None if holds_images(reference) else axes
        truth, kind = reference_images(reference, axes=full_axes, like=scan)
        found = compare(done.images, truth, prediction=path, reference=reference, kind=kind)
        told["scores"] = found.as_dict()
    target.parent.mkdir(parents=True, exist_ok=True)
    inputs = [p for p in (path, mask, maps_file, reference) if p is not None]
    written = write_image(target, done.images, format=format, sidecar=told, keep_complex=True, inputs=inputs)
    if save_iterates:
        steps = target.with_name(f"{target.name.split('.')[0]}_iterates.h5")
        written += write_image(steps, np.concatenate(iterates), inputs=inputs)
    return {**told, "outputs": [str(w) for w in written], "total_seconds": time.perf_counter() - start}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mrirecon": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
