"""Reconstruction without training: zero filling, CG-SENSE, compressed sensing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, TypedDict, cast

import torch
from pydantic import Field
from torch import Tensor

from mrirecon.engine import Begin, Reconstructor, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.problem import Problem
from mrirecon.registry import register
from mrirecon.regularization import weight_by_noise
from mrirecon.scale import percentile_scale
from mrirecon.sparsity import Regularizer, TotalVariation, WaveletL1
from mrirecon.steps import Admm, CoilImages, ConjugateGradient, Fista, PrimalDual, ZeroFilled

Weight = Annotated[float, Field(ge=0, lt=float("inf"))]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Count = Annotated[int, Field(ge=1)]
Dims = Annotated[int, Field(ge=2, le=3)]
Start = Literal["zero-filled", "cs"]  # the image that a learned method refines
Iterations = Annotated[int, Field(ge=0, le=200)]  # of the solver that makes the start; 0: until it converges
_HASTE = 30.0  # momentum of a solver that will not run to its end
Solver = Literal["fista", "admm", "primal-dual"]
_TOLERANCE = 1.5e-3
_SMALL_WEIGHT = 0.0025


@register()
def zero_filled() -> Reconstructor:
    """Zero-filled image: the SENSE combination of what was measured, Aᴴ y."""
    return Reconstructor(Unrolled([ZeroFilled()]))


@register(maps=False)
def rss() -> Reconstructor:
    """Root sum of squares of the zero-filled coil images; no maps needed, no phase left."""
    return Reconstructor(Unrolled([CoilImages()]))


@register(weighted=True)
def sense(*, lam: Weight = 0.015, iterations: Count = 50, tolerance: Weight = 1e-4) -> Reconstructor:
    """CG-SENSE: least squares with Tikhonov regularization, by conjugate gradients."""
    return Reconstructor(Unrolled([ConjugateGradient(lam)], iterations, tolerance=tolerance))


@register(weighted=True)
def cs(
    *,
    lam: Weight = 0.0027,
    solver: Solver = "fista",
    wavelet: str = "haar,haar,db2,db4",
    shifts: bool = True,
    iterations: Count = 100,
    tolerance: Weight = _TOLERANCE,
    rho: Positive = 0.1,
    seed: int = 0,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing: l1 norm of orthogonal wavelet details (Lustig et al., MRM 58:1182, 2007).

    The tolerance is that of the default weight and of larger ones; it falls with smaller ones (see `_tightness`).
    """
    # Splitting methods hold the wavelet grid fixed; only FISTA can move it at every iteration.
    moving = shifts and solver == "fista"
    regularizer = WaveletL1(ndim, wavelet, shifts=moving, seed=seed)
    step = _solver(solver, regularizer, lam, rho, average=20 if moving else 1)
    return Reconstructor(Unrolled([step], iterations, tolerance=tolerance * _tightness(lam)))


@register(weighted=True)
def cs_tv(
    *,
    lam: Weight = 0.002,
    solver: Solver = "fista",
    iterations: Count = 100,
    tolerance: Weight = 2e-3,
    rho: Positive = 0.1,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing with isotropic total variation (Block et al., MRM 57:1086, 2007).

    On the tolerance see `cs`.
    """
    step = _solver(solver, TotalVariation(ndim), lam, rho)
    return Reconstructor(Unrolled([step], iterations, tolerance=tolerance * _tightness(lam)))


def compressed_sensing_start(p: Problem, near: Tensor | None = None, *, iterations: int = 0) -> Tensor:
    """Return the image of `cs` at the weight that suits the noise (B, M, *space), for a learned method to refine.

    With a prior w it solves for u = x / w, as it does when it is used alone.

    Args:
        p: the problem.
        near: an image near the solution, which lacks only what a few samples say: a few iterations lead there.
        iterations: after which it ends, converged or not, as is enough for a network that goes on from it; 0 for those
            that `cs` takes alone.

    """
    q = p if p.prior is None else replace(p, maps=p.maps * p.prior.unsqueeze(2), cache=None).prepared()
    engine = cs(ndim=p.y.ndim - 2).engine
    # λ is relative to the scale of the problem that it is used for.
    weights = weight_by_noise("cs", q)
    step = cast("Fista", engine.blocks[0])
    step.lam = weights * percentile_scale(q.adjoint)
    engine.tolerance = torch.tensor([_TOLERANCE * _tightness(w) for w in weights.tolist()], device=weights.device)
    if near is not None:
        engine.repeats = _FROM_NEAR
        step.near = near if p.prior is None else torch.where(p.prior > _NOTHING, near / p.prior, 0)
    elif iterations:
        engine.repeats, engine.tolerance = iterations, 0.0
        # An image on its way is better without its mean over the way, and with as much momentum as it will have.
        step.start, step.average, step.momentum = min(step.start, iterations), 1, _HASTE
    u = cast("Tensor", engine(q))
    return u if p.prior is None else u * p.prior


_FROM_NEAR = 16  # iterations: weights by held-out samples are then within 0.13 of those of a converged solution
_NOTHING = 1e-12  # a prior below which there is no image


class Starts(TypedDict):
    """What a `Reconstructor` starts from, and what it falls back to."""

    start: Begin | None
    fallback: Begin | None


def starting(start: Start, iterations: int) -> Starts:
    """Return what a method starts from, and what it falls back to: a rough start is for a network to go on from.

    Raises:
        UsageError: iterations of a zero-filled image.

    """
    if start == "zero-filled":
        if iterations:
            raise UsageError(
                "a zero-filled image takes no iterations",
                where="start_iterations",
                fix="use start=cs, or leave it away",
            )
        return {"start": None, "fallback": None}
    if not iterations:
        return {"start": compressed_sensing_start, "fallback": None}
    return {"start": partial(compressed_sensing_start, iterations=iterations), "fallback": compressed_sensing_start}


def _tightness(lam: float) -> float:
    """Return by what the tolerance is multiplied: small weights are for data of little noise, whose error is small too.

    A weight that is n times smaller also takes more steps to act, each of which changes less.
    """
    return min(1.0, lam / _SMALL_WEIGHT)


def _solver(name: Solver, regularizer: Regularizer, lam: float, rho: float, average: int = 1) -> Step:  # type: ignore[type-arg]
    if name == "fista":
        return Fista(regularizer, lam, average)
    if name == "admm":
        return Admm(regularizer, lam, rho)
    return PrimalDual(regularizer, lam)
