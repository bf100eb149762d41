"""Compare the default weight with the best one on measured scans with added noise, undersampled retrospectively.

    python scripts/sweep_weights.py FULL_SCAN... [--method cs] [--quick] [--seed 0] [--rate 4]

SNR is the mean of the object over √E|n|² of a coil image. The reference is the scan without added noise; the error is
the NRMSE of magnitudes inside the object. Prints a row for each noise level and mask: the error of zero filling, of the
weight from the mask only, of the default (from mask and noise), and of the best weight of a sweep, which ends when the
best weight lies between two others. ``--method auto`` reports the automatically chosen method instead of `cs` with its
default.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measured import LINES, PLANES, draw_mask, undersample

from mrirecon.io import Scan, read
from mrirecon.methods.regularization import default_weight, weight_by_noise
from mrirecon.metrics import object_mask
from mrirecon.reconstruction.calibrate import join_map_sets
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

LEVELS = (3, 8, 30, 120, 5, 15, 60, 200)
STEP = 1.6


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--method", default="cs")
    parser.add_argument("--quick", action="store_true", help="two levels of noise and two families")
    parser.add_argument("--levels", default="", help="SNR, separated by commas")
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    levels = [float(v) for v in options.levels.split(",")] if options.levels else [float(v) for v in LEVELS]
    families: tuple[str, ...] = LINES + PLANES
    if options.quick:
        levels, families = levels[1:4:2], ("random", "poisson")
    scans = []
    for path in options.scans:
        scan = read(path)
        scans.append((scan, sense_reference(scan)[0]))
    rows = []
    for snr in levels:
        for scan, truth in scans:
            for family in families:
                rows.append(_point(scan, truth, family, snr, options.method, options.rate, options.seed))
    zero, by_mask, default, best = np.array(rows).T
    over = default / best - 1
    print(f"\n{len(rows)} points: the default's error over the best weight's, mean {over.mean():+.1%}, worst "
          f"{over.max():+.1%}; over zero filling's, worst {(default / zero).max():.3f} times; against the "
          f"weight by the mask alone, worst {(20 * np.log10(by_mask / default)).min():+.2f} dB")  # fmt: skip


def noisy(kspace: np.ndarray, truth: np.ndarray, snr: float, mask: np.ndarray, seed: int) -> np.ndarray:
    """Return k-space (C, *space) with noise for an SNR, undersampled."""
    real, imaginary = np.random.default_rng([seed, round(snr)]).standard_normal((2, *kspace.shape))
    deviation = truth[_object(truth)].mean() / snr
    return np.asarray(((kspace + (real + 1j * imaginary) * deviation / 2**0.5) * mask).astype(np.complex64))


def nrmse(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the relative error of the magnitude inside the object."""
    inside = _object(truth)
    return float(np.linalg.norm(np.abs(image[inside]) - truth[inside]) / np.linalg.norm(truth[inside]))


def _object(truth: np.ndarray) -> np.ndarray:
    return np.asarray(object_mask(truth[None])[0].numpy())


def _point(
    scan: Scan, truth: np.ndarray, family: str, snr: float, method: str, rate: float, seed: int
) -> tuple[float, float, float, float]:
    mask = draw_mask(scan, family, rate, seed)
    kspace = noisy(scan.kspace(0), truth, snr, mask, seed)
    seen = undersample(scan, kspace, mask)
    swept = "cs" if method == "auto" else method
    errors: dict[float, float] = {}

    def error(lam: float) -> float:
        if lam not in errors:
            errors[lam] = nrmse(join_map_sets(seen.reconstruct(swept, lam)[0]), truth)
        return errors[lam]

    default = float(weight_by_noise(swept, seen.build("weighted").problem)[0])
    by_mask = default_weight(swept, mask)
    ours = error(default) if method != "auto" else nrmse(_chosen(kspace, mask), truth)
    low, best, high = default / STEP, default, default * STEP
    while error(best) > min(error(low), error(high)):
        best = low if error(low) < error(high) else high
        low, high = best / STEP, best * STEP
    zero = nrmse(join_map_sets(seen.build("cropped").problem.adjoint[0]), truth)
    before = error(by_mask)
    least = min(errors, key=errors.__getitem__)
    row = f"zero-filled {zero:.4f}  by mask {before:.4f} (λ {by_mask:.4f})  default {ours:.4f} (λ {default:.4f})"
    row += f"  best {errors[least]:.4f} (λ {least:.4f})  {ours / errors[least] - 1:+.1%}"
    print(f"{scan.path.stem:18s} SNR {snr:4g} {family:10s}  {row}", flush=True)
    return zero, before, ours, errors[least]


def _chosen(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image of the method chosen by `auto`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.npz"
        np.savez(path, kspace=kspace, mask=mask)
        return np.asarray(reconstruct(read(path, axes="coil,y,x")).images[0])


if __name__ == "__main__":
    main()
