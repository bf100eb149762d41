"""Compressed sensing with wavelets, alone and as the start of a learned method."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mrirecon.engine import Schedule, Step, Unrolled
from mrirecon.methods.options import Count, Dims, Positive, Weight
from mrirecon.methods.registry import register
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.methods.steps import Admm, Fista, PrimalDual
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import Regularizer, WaveletL1
from mrirecon.physics.scale import percentile_scale
from mrirecon.physics.transforms import Identity, Prior

Solver = Literal["fista", "admm", "primal-dual"]
_ITERATIONS, _TOLERANCE = 100, 1.5e-3
_SMALL_WEIGHT = 0.0025
_WAVELET = "haar,haar,db2,db4"  # one at each iteration in turn
_AVERAGE = 20
_SHORT_RUN_MOMENTUM = 30.0  # of a solver that ends before it converges
_WARM_START_ITERATIONS = 16  # weights by held-out samples are then within 0.13 of those of a converged solution


@register(weighted=True)
def cs(
    *,
    lam: Weight = 0.0027,
    solver: Solver = "fista",
    wavelet: str = _WAVELET,
    shifts: bool = True,
    iterations: Count = _ITERATIONS,
    tolerance: Weight = _TOLERANCE,
    rho: Positive = 0.1,
    seed: int = 0,
    ndim: Dims = 2,
) -> Schedule[Any]:
    """Compressed sensing: l1 norm of orthogonal wavelet details (Lustig et al., MRM 58:1182, 2007).

    The tolerance is that of the default weight and of larger ones; it falls with smaller ones (see `tolerance_factor`).
    """
    # Splitting methods hold the wavelet grid fixed; only FISTA can move it at every iteration.
    moving = shifts and solver == "fista"
    regularizer = WaveletL1(ndim, wavelet, shifts=moving, seed=seed)
    step = solver_step(solver, regularizer, lam, rho, average=_AVERAGE if moving else 1)
    return Schedule([step], iterations, tolerance * tolerance_factor(lam))


def solver_step(name: Solver, regularizer: Regularizer, lam: float, rho: float, average: int = 1) -> Step[Any]:
    """Return one step of the solver of that name; see `Fista`, `Admm` and `PrimalDual`."""
    if name == "fista":
        return Fista(regularizer, lam, average)
    if name == "admm":
        return Admm(regularizer, lam, rho)
    return PrimalDual(regularizer, lam)


def tolerance_factor(lam: float) -> float:
    """Return by what the tolerance is multiplied: small weights are for data of little noise, whose error is small too.

    A weight that is n times smaller also takes more steps to act, each of which changes less.
    """
    return min(1.0, lam / _SMALL_WEIGHT)


def compressed_sensing_start(p: Problem, prior: Prior | None = None, *, iterations: int = 0) -> Tensor:
    """Return the image of `cs` at the weight that suits the noise (B, M, *space), for a learned method to refine.

    Args:
        p: the problem; its ``initial_image``, if it has one, is near the solution and lacks what a few samples add: a
            few iterations lead from there to the solution.
        prior: it solves for u, x = w u, as `cs` does when it is used alone.
        iterations: of a start that is left before it converges, for a network to go on from; 0 for those of `cs` alone.

    """
    transform = Identity() if prior is None else prior
    q = transform.apply(p).prepared()
    # λ is relative to the scale of the problem that it is used for.
    weights = weight_by_noise("cs", q)
    lam = weights * percentile_scale(q.adjoint)
    step = Fista(WaveletL1(p.maps.ndim - 3, _WAVELET, shifts=True, seed=0), lam, _AVERAGE)
    tolerance: float | Tensor = torch.tensor(
        [_TOLERANCE * tolerance_factor(w) for w in weights.tolist()], device=lam.device
    )
    count = _ITERATIONS if p.initial_image is None else _WARM_START_ITERATIONS
    if iterations and p.initial_image is None:
        # An image on its way is better without its mean over the way, and with as much momentum as it will have.
        step = Fista(step.regularizer, lam, 1, min(step.start, iterations), _SHORT_RUN_MOMENTUM)
        count, tolerance = iterations, 0.0
    u: Tensor = Unrolled([step], count, tolerance=tolerance)(q)
    return transform.undo(u)
