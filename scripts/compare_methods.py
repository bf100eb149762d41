"""Compare trained models with compressed sensing on retrospectively undersampled measured scans.

    python scripts/compare_methods.py FULL_SCAN... [--models DIR...] [--seed 5] [--oracle] [--precision bfloat16]
        [--variant blend=none --variant symmetries=1,passes=1] [--adapt]

All methods use the same masks, coil maps and scores (SSIM, PSNR). cs uses its default weight, and with --oracle also
the best weight of a sweep, which is unknown in practice. Without --models, the shipped models are compared. With
--variant, each model is also compared with other options and the same weights. Prints a
row for each mask, then the mean, the worst difference from cs, and the fraction of masks on which the model is better.
For prospective scans, 5 % of the samples outside the calibration region are held out, and the relative error of their
prediction is printed. With --adapt, each model is also adapted to each undersampled slice (`mrirecon models adapt`),
and compared with itself before.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import yaml
from measured import LINES, PLANES, draw_mask, undersample

from mrirecon.engine import Reconstructor
from mrirecon.io import Scan, read
from mrirecon.methods.cross_validation import choose_hidden_samples
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import Score, scores
from mrirecon.models.checkpoints import TrainedModel, load_model, shipped_models
from mrirecon.models.hardware import pick_precision
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior
from mrirecon.reconstruction.adaptation.fit import Case, Fit, fit
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.adaptation.split import split_measured
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
    parser.add_argument("--masks", nargs="*", default=[], help="only these masks, such as random:4 poisson:8")
    parser.add_argument("--oracle", action="store_true")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--variant", action="append", default=[], help="options KEY=VALUE,... of a further column")
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--steps", type=int, default=Adaptation.steps, help="largest number of steps of --adapt")
    options = parser.parse_args()
    loaded = [load_model(folder) for folder in options.models or shipped_models().values()]
    methods = [m.method for m in loaded]
    labels = [m.method if methods.count(m.method) == 1 else f"{m.method} {m.folder.name}" for m in loaded]
    models = {label: m.model for label, m in zip(labels, loaded, strict=True)}
    models |= {
        f"{a} {text}": with_options(m, text) for a, m in zip(labels, loaded, strict=True) for text in options.variant
    }
    for model in models.values():
        model.precision = options.precision
    names = ["zero-filled", "cs", *(["cs, oracle"] if options.oracle else []), *models]
    first = len(names)  # column of the first adapted model
    adapter = Adapter(Adaptation(steps=options.steps)) if options.adapt else None
    if adapter is not None:
        names += [f"{name}, adapted" for name in models]
    table: list[list[tuple[float, float]]] = []
    for path in options.scans:
        scan = read(path)
        if scan.mask(0).mean() < 0.9:
            _predict(scan, models, options.seed, adapter)
            continue
        truth = sense_reference(scan)
        # as in compare_bart.py, because small matrices allow less
        rates = (2, 3, 4) if scan.space_shape[-1] <= 160 else (4, 6, 8)
        points = [(f, float(r)) for r in rates for f in LINES] + [(f, float(r)) for r in (4, 8, 12) for f in PLANES]
        if options.masks:
            points = [(family, float(rate)) for family, rate in (mask.split(":") for mask in options.masks)]
        for family, rate in points[:: options.every]:
            row = _point(scan, truth, family, rate, options.seed, models, options.oracle, adapter)
            table.append([(s.ssim or 0.0, s.psnr or 0.0) for s in row])
            cells = "  ".join(f"{n} {a:.4f}/{b:.2f}" for n, (a, b) in zip(names, table[-1], strict=True))
            print(f"{path.stem:18s} {family:10s} {rate:4g}x  {cells}", flush=True)
    if not table:
        return
    values = np.array(table)
    print(f"\n{len(table)} points: SSIM/PSNR, mean; difference from cs, worst; points won")
    width = max(map(len, names))
    for column, name in enumerate(names):
        mean, gap = values[:, column].mean(0), values[:, column] - values[:, 1]
        won = f"{(gap[:, 0] > 0).mean():.0%}/{(gap[:, 1] > 0).mean():.0%}"
        print(f"{name:{width}s} {mean[0]:.4f}/{mean[1]:.2f}   {gap[:, 0].min():+.4f}/{gap[:, 1].min():+.2f}   {won}")
    if adapter is not None:
        print("\nadapted - not adapted: SSIM/PSNR, mean; worst; weights unchanged; mean seconds")
        for number, name in enumerate(models):
            gap = values[:, first + number] - values[:, first - len(models) + number]
            mean, worst, fits = gap.mean(0), gap.min(0), adapter.fits[number :: len(models)]
            unchanged, seconds = sum(not f.adapted for f in fits), np.mean([f.seconds for f in fits])
            print(
                f"{name:{width}s} {mean[0]:+.4f}/{mean[1]:+.2f}   {worst[0]:+.4f}/{worst[1]:+.2f}   "
                f"{unchanged} of {len(fits)}   {seconds:.0f}"
            )


def with_options(trained: TrainedModel, text: str) -> Reconstructor:
    """Return a model with the same weights and other options, such as ``symmetries=1,passes=1``."""
    changed = dict(pair.split("=") for pair in text.split(","))
    model = build(trained.method, {**trained.options, **{key: yaml.safe_load(v) for key, v in changed.items()}})
    weights = dict(trained.model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval()


class Adapter:
    """Adapt models to slices, and record how."""

    def __init__(self, settings: Adaptation) -> None:
        self.settings, self.fits = settings, list[Fit]()

    def run(self, name: str, model: Reconstructor, p: Problem, prior: Prior | None, mask: np.ndarray) -> torch.Tensor:
        """Return the image of the adapted model."""
        precision = model.precision
        model.precision = pick_precision("auto", torch.device("cpu"))[0]
        case = Case(p, prior, split_measured(mask, self.settings, location="the slice"), "the slice")
        self.fits.append(fit(model, [case], self.settings))
        model.precision = self.fits[-1].model.precision = precision
        errors = ", ".join(f"{step}: {error:.4f}" for step, error in self.fits[-1].errors.items())
        print(f"  {name}: {self.fits[-1].seconds:.0f} s; held-out error by step: {errors}", flush=True)
        with torch.inference_mode():
            return self.fits[-1].model.run(p, prior=prior).image


def _point(
    scan: Scan,
    truth: np.ndarray,
    family: str,
    rate: float,
    seed: int,
    models: Mapping[str, Reconstructor],
    oracle: bool,
    adapter: Adapter | None,
) -> list[Score]:
    seen = undersample(scan, scan.kspace(0), draw_mask(scan, family, rate, seed))

    def score(image: torch.Tensor) -> Score:
        return scores(join_map_sets(image[0])[None], truth[:1])[0]

    with torch.inference_mode():
        plain = seen.build("cropped").problem
        informed, _, prior = seen.build("informed")
        cs = [score(seen.reconstruct("cs", lam)) for lam in (None, *(SWEEP if oracle else ()))]
        best = [max(cs, key=lambda s: s.ssim or 0.0)] if oracle else []
        networks = [score(m.run(informed, prior=prior).image) for m in models.values()]
        row = [score(plain.adjoint), cs[0], *best, *networks]
    if adapter is None:
        return row
    informed, _, prior = seen.build("informed")  # tensors of inference mode have no gradients
    return [*row, *(score(adapter.run(name, m, informed, prior, seen.mask)) for name, m in models.items())]


def _predict(scan: Scan, models: Mapping[str, Reconstructor], seed: int, adapter: Adapter | None) -> None:
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
        predictions |= {name: informed.encode(m.run(informed, prior=prior).image) for name, m in models.items()}
    if adapter is not None:
        informed, _, prior = seen.build("informed")  # tensors of inference mode have no gradients
        images = {f"{name}, adapted": adapter.run(name, m, informed, prior, seen.mask) for name, m in models.items()}
        del adapter.fits[-len(models) :]  # the summary is that of scans with a reference
        predictions |= {name: informed.encode(image) for name, image in images.items()}
    for name, predicted in predictions.items():
        error = np.linalg.norm(predicted[0].numpy()[:, held] - kspace[:, held]) / np.linalg.norm(kspace[:, held])
        print(f"{scan.path.stem}: {name} predicts held-out samples with relative error {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
