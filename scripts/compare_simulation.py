"""Compare simulated with measured k-space: spectrum, noise, coils and phase of a slice.

    python scripts/compare_simulation.py SCAN... [--config configs/base/brain.yaml] [--items 40]

Scans must be fully sampled. Prints a row for each scan, and the 10th, 50th and 90th percentile of simulated samples:
decay      slope of log amplitude over log frequency, 10 to 60 % of the band rim        amplitude in the outermost
twentieth of the band, over the amplitude expected from this slope snr        mean of the object in the combined image
over the noise of an average coil rho        mean |correlation| of the noise of two coils, in the darkest corner of the
image sigma      largest over smallest noise of a coil falloff    of a coil's share of the signal, 95th over 5th
percentile inside the object, median over coils coils      effective number: (sum of eigenvalues)² / sum of squares, of
the coils' covariance, over their number phase      mean |difference| of the phase of neighbouring pixels inside the
object, in radians fast       rms of the phase φ inside the object without its smooth part (behind a Hann window over 64
samples) f32 f16 f8 spectrum of exp(iφ): rms around 1/32, 1/16 and 1/8 of a cycle a pixel
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrirecon.coils.noise import noise_deviation
from mrirecon.data.samples import SampleFactory
from mrirecon.data.sources import open_sources
from mrirecon.io import read
from mrirecon.metrics import object_mask
from mrirecon.physics.operators import Fourier
from mrirecon.physics.scale import smooth_phase
from mrirecon.reconstruction.calibrate import item_maps
from mrirecon.training.config import load_config

NAMES = ("decay", "rim", "snr", "rho", "sigma", "falloff", "coils", "phase", "fast", "f32", "f16", "f8")
Complex = npt.NDArray[np.complexfloating[Any, Any]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/base/brain.yaml"))
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print(f"{'':34s}" + "".join(f"{name:>9s}" for name in NAMES))
    for path in options.scans:
        scan = read(path)
        kspace, mask = scan.kspace(0), scan.mask(0)
        maps = item_maps(scan, 0, kspace, mask).cropped()[0, 0].numpy()
        _row(path.name, measures(kspace, maps))
    config = load_config(options.config, ["method=cirim", "train.steps=1", *options.overrides])
    data = config.settings.data.model_copy(update={"target": "measured"})
    factory = SampleFactory(open_sources(data, options.config.parent).train, data, 0, with_kspace=True)
    rows = []
    for number in range(options.items):
        item = factory.sample(0, number, (number * 37) % len(factory.slices))
        assert item.kspace is not None, "the factory makes it"
        rows.append(measures(item.kspace[0].numpy(), item.problem.maps[0, 0].numpy()))
    for share, name in ((10, "simulated, 10th percentile"), (50, "median"), (90, "90th percentile")):
        _row(name, list(np.percentile(rows, share, axis=0)))


def measures(kspace: Complex, maps: Complex) -> list[float]:
    """Return the measures of one fully sampled slice (C, y, x)."""
    coils = Fourier((-2, -1)).adjoint(torch.from_numpy(kspace)).numpy()
    combined = (maps.conj() * coils).sum(0)
    inside = object_mask(np.abs(combined)).numpy()
    centre = [n // 2 for n in kspace.shape[1:]]
    y, x = ((np.arange(n) - c) / c for n, c in zip(kspace.shape[1:], centre, strict=True))
    amplitude = np.sqrt((np.abs(kspace) ** 2).sum(0))
    sigma = noise_deviation(kspace, np.ones(kspace.shape[1:], bool))
    radius = np.maximum(np.abs(y)[:, None], np.abs(x)[None, :])
    # minus the noise power, to measure the decay of the signal
    clean = np.sqrt(np.maximum(amplitude**2 - (sigma**2).sum(), 0))
    edges = np.linspace(0.1, 1.0, 19)
    shells = np.array([clean[(radius >= a) & (radius < b)].mean() for a, b in pairwise(edges)])
    middle = np.log((edges[1:] + edges[:-1]) / 2)
    slope, height = np.polyfit(middle[:10], np.log(shells[:10] + 1e-12), 1)
    rim = shells[-1] / np.exp(height + slope * middle[-1])
    corners = [
        coils[:, ::a, ::b][:, : len(y) // 12, : len(x) // 12].reshape(len(coils), -1) for a in (1, -1) for b in (1, -1)
    ]
    dark = min(corners, key=lambda c: float((np.abs(c) ** 2).sum()))
    covariance = np.cov(dark)
    root = np.sqrt(np.diag(covariance).real)
    correlation = np.abs(covariance / np.outer(root, root))
    rho = float((correlation.sum() - len(root)) / (len(root) * (len(root) - 1)))
    total = np.sqrt((np.abs(coils) ** 2).sum(0))[inside]
    shares = np.abs(coils[:, inside]) / total
    falloff = np.median(np.percentile(shares, 95, axis=1) / np.percentile(shares, 5, axis=1))
    values = np.linalg.eigvalsh(coils[:, inside] @ coils[:, inside].conj().T)
    effective = values.sum() ** 2 / (values**2).sum() / len(values)
    fast, rings = fast_phase(combined, inside)
    turns = np.abs(np.angle(combined[1:] * combined[:-1].conj()))[inside[1:] & inside[:-1]]
    signal = float(np.abs(combined)[inside].mean() / np.sqrt((sigma**2).mean()))
    found = [slope, rim, signal, rho, sigma.max() / sigma.min(), falloff, effective, turns.mean(), fast, *rings]
    return [float(v) for v in found]


def fast_phase(image: Complex, inside: npt.NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Return the rms of the phase of an image (y, x) without its smooth part, in radians, and its spectrum.

    The spectrum is that of exp(iφ) inside the object, with φ the remaining phase: the square root of the power between
    half and twice each of three frequencies, relative to the total power.
    """
    whole = torch.from_numpy(image)[None, None]
    left = torch.sgn(whole * smooth_phase(whole, (-2, -1)).conj())[0, 0].numpy()
    factor = np.where(inside, left, 0)
    factor = factor - np.where(inside, factor.sum() / inside.sum(), 0)
    power = np.abs(np.fft.fft2(factor)) ** 2
    y, x = (np.fft.fftfreq(n) for n in image.shape)
    radius = np.hypot(y[:, None], x)
    scale = power.size * inside.sum()
    rings = [
        float(np.sqrt(power[(radius >= f / 1.41) & (radius < 1.41 * f)].sum() / scale)) for f in (1 / 32, 1 / 16, 1 / 8)
    ]
    return float(np.sqrt((np.angle(left[inside]) ** 2).mean())), rings


def _row(name: str, values: list[float]) -> None:
    print(f"{name:34s}" + "".join(f"{v:9.3g}" for v in values), flush=True)


if __name__ == "__main__":
    main()
