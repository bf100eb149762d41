"""Define compressed sensing with wavelets, as a method and as the initial image of a learned method."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mrirecon.engine import Schedule, Step, Unrolled
from mrirecon.methods.options import Iterations, Lam, Ndim, Rho, Solver, Tolerance
from mrirecon.methods.registry import register
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.methods.steps import Admm, Fista, PrimalDual
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import Regularizer, WaveletL1
from mrirecon.physics.scale import percentile_scale
from mrirecon.physics.transforms import Identity, Prior

_ITERATIONS, _TOLERANCE = 100, 1.5e-3
_WAVELET = "haar,haar,db2,db4"
_AVERAGE = 20  # number of iterations in the running mean of the image
_SHORT_RUN_MOMENTUM = 30.0  # for a run that stops before convergence
# Fewer leave traces of the withheld samples in the image: then the blend weight is too small, 0.4 instead of 0.8 for a
# 12-fold Poisson disc.
_WARM_START_ITERATIONS = 40

Wavelet = Annotated[str, Field(description="Orthogonal wavelets of PyWavelets; each iteration draws one of them.")]
Shifts = Annotated[bool, Field(description="Shift the wavelet grid at random in every iteration (fista only).")]
Seed = Annotated[int, Field(description="Seed of the random shifts and wavelets.")]


@register(weighted=True)
def cs(
    *,
    lam: Lam = 0.0027,
    solver: Solver = "fista",
    wavelet: Wavelet = _WAVELET,
    shifts: Shifts = True,
    iterations: Iterations = _ITERATIONS,
    tolerance: Tolerance = _TOLERANCE,
    rho: Rho = 0.1,
    seed: Seed = 0,
    ndim: Ndim = 2,
) -> Schedule[Any]:
    """Compressed sensing: l1 norm of orthogonal wavelet details (Lustig et al., MRM 58:1182, 2007).

    x = argmin ½‖A x − y‖² + λ‖W x‖₁, without the approximation coefficients. For a small λ the tolerance is lowered
    (`tolerance_factor`).
    """
    # ADMM and primal-dual have variables on a fixed grid, so they cannot use random shifts.
    moving = shifts and solver == "fista"
    regularizer = WaveletL1(ndim, wavelet, shifts=moving, seed=seed)
    step = solver_step(solver, regularizer, lam, rho, average=_AVERAGE if moving else 1)
    return Schedule([step], iterations, tolerance * tolerance_factor(lam))


def solver_step(solver: Solver, regularizer: Regularizer, lam: float, rho: float, average: int = 1) -> Step[Any]:
    """Return one step of a solver; see `Fista`, `Admm` and `PrimalDual`."""
    if solver == "fista":
        return Fista(regularizer, lam, average)
    return Admm(regularizer, lam, rho) if solver == "admm" else PrimalDual(regularizer, lam)


def tolerance_factor(lam: float) -> float:
    """Return the factor of the tolerance: below 1 for λ < 0.0025.

    Small weights are used for data with little noise and a small error. They also need more iterations, each with a
    smaller change.
    """
    return min(1.0, lam / 0.0025)


def compressed_sensing_start(p: Problem, prior: Prior | None = None, *, iterations: int = 0) -> Tensor:
    """Return the image (B, M, *space) of `cs`, with λ from the noise of each item, as initial image of a network.

    Args:
        p: the problem. If it has an ``initial_image``, a few iterations from there reach the solution.
        prior: solve for u with x = w u, as `cs` alone.
        iterations: stop after this number, before convergence; 0 uses the limit of `cs`.

    """
    transform = Identity() if prior is None else prior
    q = transform.apply(p).prepared()
    weights = weight_by_noise("cs", q)
    lam = weights * percentile_scale(q.zero_filled)  # λ is relative to the scale of the problem
    factors = [_TOLERANCE * tolerance_factor(w) for w in weights.tolist()]
    tolerance: float | Tensor = torch.tensor(factors, device=lam.device)
    count = _ITERATIONS if p.initial_image is None else _WARM_START_ITERATIONS
    regularizer = WaveletL1(p.maps.ndim - 3, _WAVELET)
    step = Fista(regularizer, lam, _AVERAGE)
    if iterations and p.initial_image is None:
        # Before convergence, the image is better than its running mean, and the full momentum helps.
        step = Fista(regularizer, lam, 1, min(step.start, iterations), _SHORT_RUN_MOMENTUM)
        count, tolerance = iterations, 0.0
    u: Tensor = Unrolled([step], count, tolerance=tolerance)(q)
    return transform.undo(u)
