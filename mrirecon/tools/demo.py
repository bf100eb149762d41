"""Demonstrate mrirecon on a sample scan: reconstruct undersampled k-space, score the images and draw a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrirecon import __version__
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import InputError
from mrirecon.evaluation.pictures import save_comparison
from mrirecon.io.readers.reader import read
from mrirecon.io.scan import Scan
from mrirecon.io.writers.write import write_image, write_kspace
from mrirecon.masks import make_mask
from mrirecon.metrics import mean_score, score_metrics, scores
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import Progress, Reconstruction, reconstruct

METHODS = ("zero-filled", "sense", "cs", "cirim")
FULL, UNDERSAMPLED, PICTURE = "brain_full.h5", "brain_4x.h5", "comparison.png"
Real = npt.NDArray[np.floating[Any]]


def demo(out: Path, samples: Path | None = None, *, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Reconstruct the sample scan with each method, score the images, and write them with a comparison picture.

    Writes into ``out``: one HDF5 file with a sidecar for each method, ``reference.h5`` (coils of the fully sampled scan
    combined with ESPIRiT maps) and ``comparison.png`` (the middle slice; errors five times as bright).

    Args:
        out: output folder; created if missing.
        samples: folder with ``brain_full.h5`` and ``brain_4x.h5``. None simulates a scan of the phantom, written to
            ``out`` under these names.
        progress: as for ``reconstruct``.

    Returns:
        One row per method, in the order of the pictures: method, ssim, psnr (dB), nmse (means over the slices), seconds
        (all slices, including reading and calibration), file.

    Raises:
        InputError: a sample is missing, or the samples are not the same scan.

    """
    out.mkdir(parents=True, exist_ok=True)
    folder = _simulate(out) if samples is None else samples
    full, undersampled = read(folder / FULL), read(folder / UNDERSAMPLED)
    if full.shape != undersampled.shape:
        raise InputError(
            "the samples are not the same scan", where=str(folder), why=f"{full.shape}, {undersampled.shape}"
        )
    reference = sense_reference(full)
    write_image(out / "reference.h5", reference)
    rows: list[dict[str, Any]] = []
    images = []
    for method in METHODS:
        start = time.perf_counter()
        result = reconstruct(undersampled, method=method, progress=progress)
        seconds = time.perf_counter() - start
        metrics = scores(result.images, reference)
        mean = mean_score(metrics)
        file = out / f"{method}.h5"
        write_image(
            file, result.images, sidecar=_sidecar(undersampled, result), inputs=[folder / FULL, folder / UNDERSAMPLED]
        )
        rows.append({"method": method, **{name: getattr(mean, name) for name in score_metrics()}})
        rows[-1] |= {"seconds": seconds, "file": str(file)}
        item = len(reference) // 2
        images.append(np.abs(result.images[item]) * (metrics[item].scale or 0))
    _draw_picture(out / PICTURE, undersampled, reference, rows, images)
    return rows


def _simulate(out: Path, seed: int = 1) -> Path:
    """Write a simulated scan of the phantom and its undersampled version into ``out``, instead of data_samples/."""
    shape, coils = (176, 144), 8
    simulated = simulate_kspace(2e-4 * phantom((264, 216), 3, seed), coils, 35.0, seed, shape=shape, spacing=0.12)
    mask = make_mask("random", shape, 4, calibration=20, seed=seed, name="phantom").mask[0]
    about: dict[str, str | bool] = {"simulated": True, "source": "mrirecon.data.phantom", "acquisition": "AXT1"}
    write_kspace(out / FULL, simulated.kspace, attributes=about)
    write_kspace(out / UNDERSAMPLED, np.where(mask, simulated.kspace, 0), mask=mask, attributes=about)
    return out


def _sidecar(scan: Scan, result: Reconstruction) -> dict[str, object]:
    details = {name: value for name, value in vars(result).items() if name != "images"}
    return {"mrirecon": __version__, "input": str(scan.path), "sha256": scan.sha256(), **details}


def _draw_picture(path: Path, scan: Scan, reference: Real, rows: list[dict[str, Any]], images: list[Real]) -> None:
    """Draw the middle slice: the reference and the images above, the mask and the errors below."""
    item = len(reference) // 2
    scores = [f"SSIM {row['ssim']:.3f}   PSNR {row['psnr']:.1f} dB   NMSE {row['nmse']:.4f}" for row in rows]
    methods = [row["method"] for row in rows]
    heading = f"{scan.path.name}, slice {item + 1} of {len(reference)} (scores: mean over the slices)"
    save_comparison(path, reference[item], scan.mask(item), list(zip(methods, images, scores, strict=True)), heading)
