"""Find the limit of a model's gain over compressed sensing on a measured scan: noise, maps or phase.

    python scripts/explain_gain.py FULL_SCAN... [--model DIR] [--seed 5]

Five versions of the scan are undersampled: the measured scan; its complex conjugate; a consistent scan (its SENSE
image encoded with its own maps, plus white noise of equal strength); the same without noise; and the same with only
the smooth part of its phase. If only the last version has a gain, the phase varies faster than in training. If the
conjugate has another gain, the network depends on the sign of the phase, which is a convention of the scanner. Prints
a row for each mask and version: SSIM and PSNR of compressed sensing, and the gains of the model with and without
blending.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measured import draw_mask, undersample
from torch import Tensor

from mrirecon.coils.noise import noise_deviation
from mrirecon.engine import Reconstructor
from mrirecon.io import Scan, read
from mrirecon.methods.cross_validation import Blended
from mrirecon.metrics import scores
from mrirecon.models.checkpoints import load_model, shipped_models
from mrirecon.physics.operators import Fourier
from mrirecon.physics.scale import smooth_phase
from mrirecon.reconstruction.calibrate import build_problem, item_maps

POINTS = (("random", 4.0, 20), ("gaussian1d", 3.0, 20), ("gaussian2d", 8.0, 20))
PLANE = (-2, -1)


def main() -> None:
    """Print a row for each mask and each version of the scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, default=shipped_models()["cirim"])
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    trained = load_model(options.model)
    print(f"{'scan':18s} {'mask':14s} {'version':34s} cs (SSIM/PSNR)  {trained.method} - cs: blended, alone")
    for path in options.scans:
        scan = read(path)
        for family, rate, size in POINTS:
            mask = draw_mask(scan, family, rate, options.seed, size)
            for version, kspace in _versions(scan, options.seed).items():
                row = _row(scan, kspace.numpy(), mask, trained.model)
                print(f"{path.stem:18s} {family:10s} {rate:2g}x {version:34s} {row}", flush=True)


def _versions(scan: Scan, seed: int) -> dict[str, Tensor]:
    """Return k-space (C, y, x) as measured, and versions with fewer unmodelled effects."""
    kspace, full = scan.kspace(0), np.ones(scan.space_shape, dtype=bool)
    maps = item_maps(scan, 0, kspace, full)
    problem = build_problem(kspace, full, maps, "cropped").problem
    image, sensitivities, fourier = problem.adjoint[0, 0], maps.maps[0, 0], Fourier(PLANE)
    smooth = image.abs() * smooth_phase(image[None, None], PLANE)[0, 0]
    generator = torch.Generator().manual_seed(seed)
    deviation = torch.from_numpy(noise_deviation(kspace, full)).to(torch.float32)[:, None, None]
    noise = deviation * torch.randn(kspace.shape, dtype=torch.complex64, generator=generator)
    return {
        "as measured": torch.from_numpy(kspace),
        "complex conjugate": fourier(fourier.adjoint(torch.from_numpy(kspace)).conj()),
        "consistent, with white noise": fourier(sensitivities * image) + noise,
        "consistent, without noise": fourier(sensitivities * image),
        "consistent, noise, smooth phase": fourier(sensitivities * smooth) + noise,
    }


@torch.inference_mode()
def _row(scan: Scan, kspace: np.ndarray, mask: np.ndarray, model: Reconstructor) -> str:
    truth = undersample(scan, kspace, np.ones_like(mask)).build("cropped").problem.adjoint[0].abs().numpy()
    seen = undersample(scan, kspace, mask)
    informed, _, prior = seen.build("informed")
    alone = model.unblended if isinstance(model, Blended) else model
    images = [seen.reconstruct(), *(m.run(informed, prior=prior).image for m in (model, alone))]
    both = [scores(image[0].abs().numpy(), truth)[0] for image in images]
    (base, psnr), *rest = [(score.ssim or 0.0, score.psnr or 0.0) for score in both]
    return f"{base:.4f}/{psnr:.2f}  " + "  ".join(f"{a - base:+.4f}/{b - psnr:+.2f}" for a, b in rest)


if __name__ == "__main__":
    main()
