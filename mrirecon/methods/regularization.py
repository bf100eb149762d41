"""Choose the regularization weight λ of a method from the mask and the noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.sampling import noise_of_samples
from mrirecon.methods.registry import find_method
from mrirecon.physics.problem import Problem, Undersampling, describe_mask
from mrirecon.physics.scale import percentile_scale

# With s, the noise of the zero-filled image relative to its scale:
#   below LOW_NOISE, λ decreases with s;
#   between LOW_NOISE and the knee, λ depends on the mask only (determined on measured scans with noise in that range);
#   above the knee, λ increases by slope · (s − knee), about one standard deviation of the noise.
# Knee and slope, for lines and for samples scattered over a plane, come from scripts/sweep_weights.py.
LOW_NOISE = 0.0085
_BY_NOISE = {
    "cs": ((0.02, 0.95), (0.0135, 1.3)),
    "cs-tv": ((0.0165, 0.45), (0.018, 0.55)),
    "sense": ((0.0165, 0.9), (0.013, 1.9)),
}
_DEFAULT = ((0.02, 0.9), (0.02, 0.9))  # for all other methods
# Minimum fraction of the weight from the mask, for lines and for scattered samples: without noise, aliasing and errors
# of the coil maps remain, and they are more coherent for lines.
_MIN_FRACTION = (0.35, 0.05)
_VOXELS = 4096  # number of voxels that is sufficient for a mean over the maps


def default_weight(method: str, mask: np.ndarray | Tensor) -> float:
    """Return λ for a mask (*space) if the noise is not known.

    The method's default is for lines undersampled 4-fold. The best λ on measured scans, from 2- to 12-fold, falls with
    the undersampling R: as R^(−1/3) for lines. Aliasing of samples scattered over a plane is as incoherent as noise:
    there, λ is 1.6 times larger at 4-fold, and falls as R^(−1/2).
    """
    return _by_sampling(method, *describe_mask(mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)))


def _by_sampling(method: str, rate: float, scattered: bool) -> float:
    default: float = find_method(method).schema.model_fields["lam"].default
    return default * float(1.6 * (4 / rate) ** 0.5 if scattered else (4 / rate) ** (1 / 3))


def weight_by_noise(method: str, problem: Problem) -> Tensor:
    """Return λ (B,) for the noise of each item, given in the problem or measured from its k-space.

    Noise of standard deviation σ per sample has σ/√R in a zero-filled image of R-fold undersampled data. λ is relative
    to the scale of `mrirecon.engine.Reconstructor`.

    Args:
        method: a method with an option ``lam``.
        problem: problem with the maps that the method will use.

    """
    p = problem.prepared()
    relative = (_noise(p) / percentile_scale(p.zero_filled)).tolist()
    weights = [_weight(method, s, one) for s, one in zip(relative, p.undersampling, strict=True)]
    return torch.tensor(weights, dtype=p.maps.real.dtype, device=p.maps.device)


def _weight(method: str, noise: float, sampling: Undersampling) -> float:
    """Return λ for the noise of a fully sampled image, relative to the scale, and the undersampling of an item."""
    scattered = sampling.scattered
    s, by_mask = noise / sampling.averaging, _by_sampling(method, sampling.acceleration, scattered)
    knee, slope = _BY_NOISE.get(method, _DEFAULT)[scattered]
    weight: float = by_mask * max(_MIN_FRACTION[scattered], min(1.0, s / LOW_NOISE)) + slope * max(0.0, s - knee)
    return weight


def _noise(p: Problem) -> Tensor:
    """Return the deviation (B,) of the noise in a fully sampled image, with maps of unit length."""
    covariances = noise_of_samples(p) if p.noise is None else p.noise
    deviations = []
    for maps, covariance in zip(p.maps, covariances, strict=True):
        s = maps.movedim(1, 0).flatten(1)  # (C, sets and voxels)
        s = s[:, :: max(1, s.shape[1] // _VOXELS)]
        power = (s.conj() * (covariance @ s)).real.sum() / s.abs().square().sum().clamp_min(1e-30)
        deviations.append(power.clamp_min(0).sqrt())
    return torch.stack(deviations)
