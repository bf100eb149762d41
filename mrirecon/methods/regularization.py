"""The weight λ of a regularized method: by the mask, and by the noise that was measured."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.noise import measure_noise
from mrirecon.methods.registry import find
from mrirecon.physics.problem import Problem
from mrirecon.physics.scale import percentile_scale

# s, the noise of a zero-filled image relative to its scale: below QUIET the weight falls with the noise. Between that
# and the knee it is the one that was found on measured scans, whose own noise is in that range. From the knee on it
# grows by the slope: a threshold of about one deviation of the noise. Knee and slope for lines and for scattered
# samples, by `scripts/sweep_weights.py`.
QUIET = 0.0085
_BY_NOISE = {
    "cs": ((0.02, 0.95), (0.0135, 1.3)),
    "cs-tv": ((0.0165, 0.45), (0.018, 0.55)),
    "sense": ((0.0165, 0.9), (0.013, 1.9)),
}
_UNKNOWN = ((0.02, 0.9), (0.02, 0.9))  # of a method that has no such row
# Of the weight by the mask alone, for lines and for scattered samples: without noise, aliasing and the errors of coil
# maps remain, those of lines more coherent.
_LEAST = (0.35, 0.05)
_VOXELS = 4096  # enough for a mean over the maps


def default_weight(method: str, mask: np.ndarray | Tensor) -> float:
    """Return λ for a mask (*space) where nothing is known of the noise: the default is for 4-fold undersampled lines.

    The data term of fewer samples weighs less, and the best λ, found on measured scans between 2- and 12-fold, falls
    with it, though more slowly, as there is more aliasing to remove: as R^(−1/3) for lines. Where samples lie scattered
    over a plane, aliasing is as incoherent as noise, and a larger weight removes it: 1.6 times that at 4-fold, falling
    as R^(−1/2).
    """
    at_4 = _number(find(method).schema.model_fields["lam"].default)
    rate, scattered = _sampling(mask)
    return at_4 * float(1.6 * (4 / rate) ** 0.5 if scattered else (4 / rate) ** (1 / 3))


def weight_by_noise(method: str, problem: Problem) -> Tensor:
    """Return λ (B,) for the noise of each item of a problem, as it is known, or else measured from its k-space.

    Noise of deviation σ a sample has σ/√R in a zero-filled image of R-fold undersampled data: that is what a threshold
    has to exceed. λ is relative to the same scale as that of `mrirecon.engine.Reconstructor`.

    Args:
        method: with an option ``lam``.
        problem: with maps as the method is to use them.

    """
    p = problem.prepared()
    masks = p.mask.expand(p.y.shape[0], *p.mask.shape[1:])
    relative = (_noise(p) / percentile_scale(p.adjoint)).tolist()
    weights = [_weight(method, s, m[0]) for s, m in zip(relative, masks, strict=True)]
    return torch.tensor(weights, dtype=p.mask.dtype, device=p.y.device)


def _weight(method: str, noise: float, mask: Tensor) -> float:
    """Return λ for noise relative to the scale, of a fully sampled image, and a mask (*space)."""
    rate, scattered = _sampling(mask)
    s, by_mask = noise / rate**0.5, default_weight(method, mask)
    knee, slope = _BY_NOISE.get(method, _UNKNOWN)[scattered]
    weight: float = by_mask * max(_LEAST[scattered], min(1.0, s / QUIET)) + slope * max(0.0, s - knee)
    return weight


def _noise(p: Problem) -> Tensor:
    """Return the deviation (B,) of the noise in the images' unit: sampled fully, with maps of unit length."""
    found = []
    for item, (maps, mask) in enumerate(zip(p.maps, p.mask.expand(p.y.shape[0], *p.mask.shape[1:]), strict=True)):
        if p.noise is None:
            level = measure_noise(p.y[item].cpu().numpy(), mask[0].cpu().numpy() > 0)
            covariance = torch.from_numpy(level.covariance).to(maps.dtype).to(maps.device)
        else:
            covariance = p.noise[item]
        s = maps.movedim(1, 0).flatten(1)  # (C, sets and voxels)
        s = s[:, :: max(1, s.shape[1] // _VOXELS)]
        power = (s.conj() * (covariance @ s)).real.sum() / s.abs().square().sum().clamp_min(1e-30)
        found.append(power.clamp_min(0).sqrt())
    return torch.stack(found)


def _sampling(mask: np.ndarray | Tensor) -> tuple[float, bool]:
    """Return the rate of a mask (*space), and whether it varies along more than one axis."""
    sampled = (mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)).astype(bool)
    varying = sum(bool((sampled != sampled.take([0], axis)).any()) for axis in range(sampled.ndim))
    return sampled.size / max(1, int(sampled.sum())), varying > 1


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
