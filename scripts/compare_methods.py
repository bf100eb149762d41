"""Compare trained models with compressed sensing on retrospectively undersampled measured scans.

    python scripts/compare_methods.py FULL_SCAN... [--models DIR...] [--seed 5] [--oracle]

All methods use the same masks, coil maps and scores (SSIM, PSNR). cs uses its default weight, and with --oracle also
the best weight of a sweep, which is unknown in practice. Without --models, the shipped models are compared. Prints a
row for each mask, then the mean, the worst difference from cs, and the fraction of masks on which the model is better.
For prospective scans, 5 % of the samples outside the calibration region are held out, and the relative error of their
prediction is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measured import LINES, PLANES, draw_mask, undersample

from mrirecon.io import Scan, read
from mrirecon.methods.cross_validation import choose_hidden_samples
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import Score, scores
from mrirecon.models.checkpoints import TrainedModel, load_model, shipped_models
from mrirecon.reconstruction.calibrate import join_map_sets
from mrirecon.reconstruction.reference import sense_reference

SWEEP = (0.0015, 0.002, 0.003, 0.004, 0.006)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="take every n-th mask")
    parser.add_argument("--oracle", action="store_true")
    options = parser.parse_args()
    models = [load_model(folder) for folder in options.models or shipped_models().values()]
    names = ["zero-filled", "cs", *(["cs, oracle"] if options.oracle else []), *(str(m.method) for m in models)]
    table: list[list[tuple[float, float]]] = []
    for path in options.scans:
        scan = read(path)
        if scan.mask(0).mean() < 0.9:
            _predict(scan, models, options.seed)
            continue
        truth = sense_reference(scan)
        # as in compare_bart.py, because small matrices allow less
        rates = (2, 3, 4) if scan.space_shape[-1] <= 160 else (4, 6, 8)
        points = [(f, float(r)) for r in rates for f in LINES] + [(f, float(r)) for r in (4, 8, 12) for f in PLANES]
        for family, rate in points[:: options.every]:
            row = _point(scan, truth, family, rate, options.seed, models, options.oracle)
            table.append([(s.ssim or 0.0, s.psnr or 0.0) for s in row])
            cells = "  ".join(f"{n} {a:.4f}/{b:.2f}" for n, (a, b) in zip(names, table[-1], strict=True))
            print(f"{path.stem:18s} {family:10s} {rate:4g}x  {cells}", flush=True)
    if not table:
        return
    values = np.array(table)
    print(f"\n{len(table)} points: SSIM/PSNR, mean; difference from cs, worst; points won")
    for column, name in enumerate(names):
        mean, gap = values[:, column].mean(0), values[:, column] - values[:, 1]
        won = f"{(gap[:, 0] > 0).mean():.0%}/{(gap[:, 1] > 0).mean():.0%}"
        print(f"{name:14s} {mean[0]:.4f}/{mean[1]:.2f}   {gap[:, 0].min():+.4f}/{gap[:, 1].min():+.2f}   {won}")


def _point(
    scan: Scan, truth: np.ndarray, family: str, rate: float, seed: int, models: list[TrainedModel], oracle: bool
) -> list[Score]:
    seen = undersample(scan, scan.kspace(0), draw_mask(scan, family, rate, seed))

    def score(image: torch.Tensor) -> Score:
        return scores(join_map_sets(image[0])[None], truth[:1])[0]

    with torch.inference_mode():
        plain = seen.build("cropped").problem
        informed, _, prior = seen.build("informed")
        cs = [score(seen.reconstruct("cs", lam)) for lam in (None, *(SWEEP if oracle else ()))]
        best = [max(cs, key=lambda s: s.ssim or 0.0)] if oracle else []
        return [score(plain.adjoint), cs[0], *best, *(score(m.model.run(informed, prior=prior).image) for m in models)]


def _predict(scan: Scan, models: list[TrainedModel], seed: int) -> None:
    """Print the relative error of predicted held-out samples of a prospective scan."""
    kspace, mask = scan.kspace(0), scan.mask(0)
    held = choose_hidden_samples(mask, 0.05, seed)
    assert held is not None, "a scan for reconstruction has samples to spare"
    seen = undersample(scan, kspace, mask & ~held)
    with torch.inference_mode():
        plain, weighted = seen.build("cropped").problem, seen.build("weighted").problem
        informed, _, prior = seen.build("informed")
        lam = float(weight_by_noise("cs", weighted)[0])
        predictions = {"zero-filled": plain.encode(plain.adjoint)}
        predictions["cs"] = weighted.encode(build("cs", {"lam": lam}).run(weighted).image)
        predictions |= {str(m.method): informed.encode(m.model.run(informed, prior=prior).image) for m in models}
        for name, predicted in predictions.items():
            error = np.linalg.norm(predicted[0].numpy()[:, held] - kspace[:, held]) / np.linalg.norm(kspace[:, held])
            print(f"{scan.path.stem}: {name} predicts held-out samples with relative error {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
