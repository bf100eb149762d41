"""Draw reconstructions of an undersampled measured scan beside the reference, and print their scores and times.

    python scripts/make_picture.py FULL_SCAN -o docs/brain.png [--family gaussian1d] [--rate 4] [--seed 5]

Prints SSIM, PSNR, NMSE and seconds of zero filling, compressed sensing and each shipped model. Seconds are medians of
three runs of one slice, including coil calibration, with torch's number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from measured import draw_mask, undersample

from mrirecon.engine import Reconstructor
from mrirecon.io import Scan, read
from mrirecon.io.drawing import Panel
from mrirecon.io.writers.pictures import save_panels
from mrirecon.methods.registry import Use, build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import scores
from mrirecon.models.checkpoints import load_model, shipped_models
from mrirecon.reconstruction.reference import sense_reference

GAIN = 5


def main() -> None:
    """Draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--family", default="gaussian1d")
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    scan = read(options.scan)
    truth = sense_reference(scan)[:1]
    mask = draw_mask(scan, options.family, options.rate, options.seed)
    models: dict[str, tuple[Reconstructor | None, Use]] = {
        "zero-filled": (build("zero-filled"), "cropped"),
        "cs": (None, "weighted"),
    }
    models |= {name: (load_model(folder).model, "informed") for name, folder in shipped_models().items()}
    white = float(np.quantile(truth, 0.998))
    panels, errors = [Panel("reference", truth[0], vmax=white, note=f"{scan.coils} coils, fully sampled")], []
    print("| method | SSIM | PSNR (dB) | NMSE | seconds |\n|---|---|---|---|---|")
    for name, (model, use) in models.items():
        image, seconds = _timed(model, use, scan, mask)
        score = scores(image[None], truth)[0]
        shown = np.abs(image) * (score.scale or 1.0)
        print(f"| {name} | {score.ssim:.4f} | {score.psnr:.2f} | {score.nmse:.4f} | {seconds:.2f} |")
        if name in ("zero-filled", "cs", "cirim"):
            panels.append(Panel(name, shown, vmax=white, note=f"SSIM {score.ssim:.3f}, PSNR {score.psnr:.1f} dB"))
            errors.append(Panel(f"error × {GAIN}", np.abs(shown - truth[0]), vmax=white / GAIN, colours="heat"))
    heading = f"measured: {options.scan.stem}, {options.family} {mask.size / mask.sum():.1f}-fold undersampled"
    sampled = Panel("samples", mask.astype(float), vmax=1.0, note=f"{mask.mean():.0%} of k-space")
    save_panels(options.output, [*panels, sampled, *errors], columns=len(panels), heading=heading)
    print(options.output)


def _timed(model: Reconstructor | None, use: Use, scan: Scan, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the image and the median of three times; without a model, for `cs` with its weight from the noise."""
    kspace, seconds = scan.kspace(0), []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            problem, transform, prior = undersample(scan, kspace, mask).build(use)
            used = model or build("cs", {"lam": float(weight_by_noise("cs", problem)[0])})
            image = transform.undo(used.run(problem, prior=prior).image)[0, 0].numpy()
        seconds.append(time.perf_counter() - start)
    return image, statistics.median(seconds)


if __name__ == "__main__":
    main()
