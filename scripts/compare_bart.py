"""Compare compressed sensing with BART's l1-wavelet `pics` on retrospectively undersampled measured scans.

    python scripts/compare_bart.py FULL_SCAN... [--seed 1] [--lines 2,3,4] [--planes 4,8,12]

Both use the same mask and calibration region and the same scores (SSIM, PSNR). Each uses its best weight of a sweep
(BART: seven weights, 60 iterations, its own ESPIRiT maps); ours is also scored at its default. Prints a row for each
mask, then the mean and the worst difference. `bart` must be on the PATH.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from measured import LINES, PLANES, draw_mask, numbers, undersample

from mrirecon.io import Scan, read, read_image, write_kspace
from mrirecon.metrics import Score, scores
from mrirecon.reconstruction.calibrate import join_map_sets
from mrirecon.reconstruction.reference import sense_reference

OURS = (0.0015, 0.002, 0.003, 0.004, 0.006)
THEIRS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
SENSE = (0.005, 0.01, 0.02, 0.05)


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
    seen = undersample(scan, scan.kspace(0), draw_mask(scan, family, rate, seed))

    def ours(method: str, lam: float | None = None) -> Score:
        return scores(join_map_sets(seen.reconstruct(method, lam)[0])[None], truth[:1])[0]

    zero = numbers(scores(join_map_sets(seen.build("cropped").problem.adjoint[0])[None], truth[:1])[0])
    default, sense = numbers(ours("cs")), _best([ours("sense", lam) for lam in SENSE])
    best = _best([ours("cs", lam) for lam in OURS])
    best = max(best[0], default[0]), max(best[1], default[1])
    bart = _best(_bart(seen.kspace, truth))
    cells = [zero, sense, best, default, bart]
    gap = best[0] - bart[0], best[1] - bart[1]
    row = " | ".join(f"{s:.4f}/{p:.2f}" for s, p in cells)
    print(f"{scan.path.stem}, {family} {rate:g}: {row} | {gap[0]:+.4f}/{gap[1]:+.2f}", flush=True)
    return *gap, default[0] - best[0], default[1] - best[1]


def _bart(kspace: np.ndarray, truth: np.ndarray) -> list[Score]:
    with tempfile.TemporaryDirectory() as folder:
        write_kspace(Path(folder) / "k.cfl", kspace[None])
        _run("ecalib -m 1 -r 24 k s", folder)
        images = []
        for lam in THEIRS:
            _run(f"pics -S -i 60 -R W:3:0:{lam} k s x", folder)
            images.append(read_image(Path(folder) / "x.cfl"))
        return [scores(image, truth[:1])[0] for image in images]


def _best(of: list[Score]) -> tuple[float, float]:
    pairs = [numbers(score) for score in of]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


def _run(command: str, folder: str) -> None:
    subprocess.run(["bart", *command.split()], cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
