"""Undersample measured scans in retrospect and compare with BART's l1-wavelet `pics`, point by point.

    python scripts/compare_bart.py FULL_SCAN... [--seed 1] [--rates 4,8,12]

Same mask, same calibration region, the one score of `mrirecon.metrics`. BART and ours each at their own best weight of
a sweep (BART's: seven weights, 60 iterations, its own ESPIRiT maps); ours also at its default. Prints a row a point.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from mrirecon.io import Scan, read, read_image, write_kspace
from mrirecon.masks import make_mask
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import Score, scores
from mrirecon.reconstruction.calibrate import item_maps
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import build_problem

OURS = (0.0015, 0.002, 0.003, 0.004, 0.006)
THEIRS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
SENSE = (0.005, 0.01, 0.02, 0.05)
LINES, PLANES = ("random", "equispaced", "gaussian1d"), ("gaussian2d", "poisson")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", default="", help="accelerations; by default 2,3,4 up to 160 lines, else 4,6,8")
    parser.add_argument("--planes", default="4,8,12")
    options = parser.parse_args()
    print("scan, mask: zero-filled | sense | cs | cs at its default | BART (SSIM/PSNR in dB) | cs − BART")
    gaps = []
    for path in options.scans:
        scan = read(path)
        truth = sense_reference(scan)
        lines = options.lines or ("2,3,4" if scan.space_shape[-1] <= 160 else "4,6,8")
        points = [(f, float(r)) for r in lines.split(",") for f in LINES]
        points += [(f, float(r)) for r in options.planes.split(",") for f in PLANES]
        gaps += [_point(scan, truth, family, rate, options.seed) for family, rate in points]
    means, worst = np.mean(gaps, 0), np.min(gaps, 0)
    print(f"{len(gaps)} points, mean and worst:")
    print(f"  cs − BART       {means[0]:+.4f}/{means[1]:+.2f}  {worst[0]:+.4f}/{worst[1]:+.2f}")
    print(f"  default − best  {means[2]:+.4f}/{means[3]:+.2f}  {worst[2]:+.4f}/{worst[3]:+.2f}")


def _point(scan: Scan, truth: np.ndarray, family: str, rate: float, seed: int) -> tuple[float, float, float, float]:
    shape = scan.space_shape
    size = min(24, round(shape[-1] / rate * 0.4)) if family in LINES else 20 if rate < 12 else 16
    mask = make_mask(family, shape, rate, calibration=size, seed=seed).mask
    kspace = (scan.kspace(0) * mask).astype(np.complex64)
    maps = item_maps(scan, 0, kspace, mask)

    def ours(method: str, **settings: float) -> Score:
        problem, transform, _ = build_problem(kspace, mask, maps, "cropped" if method == "zero-filled" else "weighted")
        with torch.inference_mode():
            image = transform.undo(build(method, settings).run(problem).image)
        return scores(image[0].numpy(), truth[:1])[0]

    zero, sense = ours("zero-filled"), _best([ours("sense", lam=lam) for lam in SENSE])
    weighted = build_problem(kspace, mask, maps, "weighted").problem
    default = _numbers(ours("cs", lam=float(weight_by_noise("cs", weighted)[0])))
    best = _best([ours("cs", lam=lam) for lam in OURS])
    best = max(best[0], default[0]), max(best[1], default[1])
    bart = _best(_bart(kspace, truth))
    cells = [_numbers(zero), sense, best, default, bart]
    gap = best[0] - bart[0], best[1] - bart[1]
    row = " | ".join(f"{s:.4f}/{p:.2f}" for s, p in cells)
    print(f"{scan.path.stem}, {family} {rate:g}: {row} | {gap[0]:+.4f}/{gap[1]:+.2f}", flush=True)
    return *gap, default[0] - best[0], default[1] - best[1]


def _bart(kspace: np.ndarray, truth: np.ndarray) -> list[Score]:
    with tempfile.TemporaryDirectory() as folder:
        write_kspace(Path(folder) / "k.cfl", kspace[None])
        _run("ecalib -m 1 -r 24 k s", folder)
        found = []
        for lam in THEIRS:
            _run(f"pics -S -i 60 -R W:3:0:{lam} k s x", folder)
            found.append(scores(read_image(Path(folder) / "x.cfl"), truth[:1])[0])
        return found


def _numbers(score: Score) -> tuple[float, float]:
    assert score.ssim is not None
    assert score.psnr is not None
    return score.ssim, score.psnr


def _best(found: list[Score]) -> tuple[float, float]:
    pairs = [_numbers(score) for score in found]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


def _run(command: str, folder: str) -> None:
    subprocess.run(["bart", *command.split()], cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
