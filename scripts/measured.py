"""Undersample measured scans retrospectively; shared code of the scripts that compare methods, not a command."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mrirecon.io import Scan
from mrirecon.masks import make_mask
from mrirecon.methods.registry import Use, build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.metrics import Score
from mrirecon.reconstruction.calibrate import ItemMaps, ItemProblem, build_problem, item_maps

LINES, PLANES = ("random", "equispaced", "gaussian1d"), ("gaussian2d", "poisson")


@dataclass(frozen=True)
class Undersampled:
    """Hold an undersampled slice: k-space (C, y, x), zero where not sampled, the mask (y, x) and the coil maps."""

    kspace: np.ndarray
    mask: np.ndarray
    maps: ItemMaps

    def build(self, use: Use) -> ItemProblem:
        """Return problem, transform and prior for a method with this use of the maps."""
        return build_problem(self.kspace, self.mask, self.maps, use)

    def reconstruct(self, method: str = "cs", lam: float | None = None) -> torch.Tensor:
        """Return the image (1, M, y, x) of a regularized method, by default with the weight from the noise."""
        problem, transform, _ = self.build("weighted")
        lam = float(weight_by_noise(method, problem)[0]) if lam is None else lam
        with torch.inference_mode():
            return transform.undo(build(method, {"lam": lam}).run(problem).image)


def draw_mask(scan: Scan, family: str, rate: float, seed: int, size: int | None = None) -> np.ndarray:
    """Draw a mask (y, x); the default calibration region has 40 % of the lines, at most 24, or 16 or 20 per side."""
    if size is None:
        size = min(24, round(scan.space_shape[-1] / rate * 0.4)) if family in LINES else 20 if rate < 12 else 16
    return make_mask(family, scan.space_shape, rate, calibration=size, seed=seed).mask


def undersample(scan: Scan, kspace: np.ndarray, mask: np.ndarray) -> Undersampled:
    """Undersample k-space (C, y, x) and estimate the coil maps from the remaining samples."""
    seen = (kspace * mask).astype(np.complex64)
    return Undersampled(seen, mask, item_maps(scan, 0, seen, mask))


def numbers(score: Score) -> tuple[float, float]:
    """Return SSIM and PSNR."""
    assert score.ssim is not None, "both images are inside the object"
    assert score.psnr is not None, "the images differ"
    return score.ssim, score.psnr
