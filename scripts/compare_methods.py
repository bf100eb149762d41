"""Undersample measured scans in retrospect and compare trained models with compressed sensing, point by point.

    python scripts/compare_methods.py FULL_SCAN... [--models DIR...] [--seed 5] [--oracle]

Same masks, coil maps and score for all; cs at its default weight, and with --oracle also at the best of a sweep, which
no user can know. Without --models, those that come with mrirecon. Prints a row a point, then the mean, the worst
difference from cs, and the share of points won. Prospective scans: 5 % of the samples outside the calibration region
are held out, and the relative error of their prediction is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mrirecon.io import Scan, read
from mrirecon.masks import make_mask
from mrirecon.methods.cross_validation import choose_hidden_samples
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import Score, scores
from mrirecon.models.checkpoints import TrainedModel, load_model, shipped_models
from mrirecon.reconstruction.calibrate import ItemMaps, item_maps
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import build_problem

LINES, PLANES = ("random", "equispaced", "gaussian1d"), ("gaussian2d", "poisson")
SWEEP = (0.0015, 0.002, 0.003, 0.004, 0.006)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="take every n-th point")
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
        # as in compare_bart.py: short scans bear less
        rates = (2, 3, 4) if scan.space_shape[-1] <= 160 else (4, 6, 8)
        points = [(f, float(r)) for r in rates for f in LINES] + [(f, float(r)) for r in (4, 8, 12) for f in PLANES]
        for family, rate in points[:: options.every]:
            row = _point(scan, truth, family, rate, options.seed, models, options.oracle)
            table.append([(s.ssim or 0.0, s.psnr or 0.0) for s in row])
            told = "  ".join(f"{n} {a:.4f}/{b:.2f}" for n, (a, b) in zip(names, table[-1], strict=True))
            print(f"{path.stem:18s} {family:10s} {rate:4g}x  {told}", flush=True)
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
    shape = scan.space_shape
    size = min(24, round(shape[-1] / rate * 0.4)) if family in LINES else 20 if rate < 12 else 16
    mask = make_mask(family, shape, rate, calibration=size, seed=seed).mask
    kspace = (scan.kspace(0) * mask).astype(np.complex64)
    maps = item_maps(scan, 0, kspace, mask)

    def score(image: torch.Tensor) -> Score:
        return scores(image[0].numpy(), truth[:1])[0]

    with torch.inference_mode():
        plain = build_problem(kspace, mask, maps, "cropped").problem
        informed, _, prior = build_problem(kspace, mask, maps, "informed")
        weights = (None, *(SWEEP if oracle else ()))
        cs = [score(_cs(kspace, mask, maps, lam)) for lam in weights]
        best = [max(cs, key=lambda s: s.ssim or 0.0)] if oracle else []
        return [score(plain.adjoint), cs[0], *best, *(score(m.model.run(informed, prior=prior).image) for m in models)]


def _cs(kspace: np.ndarray, mask: np.ndarray, maps: ItemMaps, lam: float | None) -> torch.Tensor:
    problem, transform, _ = build_problem(kspace, mask, maps, "weighted")
    lam = float(weight_by_noise("cs", problem)[0]) if lam is None else lam
    return transform.undo(build("cs", {"lam": lam}).run(problem).image)


def _predict(scan: Scan, models: list[TrainedModel], seed: int) -> None:
    """Print how well samples are predicted that were held out of a prospective scan."""
    kspace, mask = scan.kspace(0), scan.mask(0)
    held = choose_hidden_samples(mask, 0.05, seed)
    assert held is not None, "a scan for reconstruction has samples to spare"
    kept = mask & ~held
    seen = (kspace * kept).astype(np.complex64)
    maps = item_maps(scan, 0, seen, kept)
    with torch.inference_mode():
        plain = build_problem(seen, kept, maps, "cropped").problem
        informed, _, prior = build_problem(seen, kept, maps, "informed")
        weighted = build_problem(seen, kept, maps, "weighted").problem
        found = {"zero-filled": plain.encode(plain.adjoint)}
        lam = float(weight_by_noise("cs", weighted)[0])
        found["cs"] = weighted.encode(build("cs", {"lam": lam}).run(weighted).image)
        found |= {str(m.method): informed.encode(m.model.run(informed, prior=prior).image) for m in models}
        for name, predicted in found.items():
            there = predicted[0].numpy()[:, held]
            error = np.linalg.norm(there - kspace[:, held]) / np.linalg.norm(kspace[:, held])
            print(f"{scan.path.stem}: {name} predicts held-out samples with relative error {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
