"""Reconstruction without training: zero filling, CG-SENSE, compressed sensing."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from mrirecon.engine import Reconstructor, Step, Unrolled
from mrirecon.problem import Problem
from mrirecon.registry import register
from mrirecon.regularization import default_weight
from mrirecon.scale import percentile_scale
from mrirecon.sparsity import Regularizer, TotalVariation, WaveletL1
from mrirecon.steps import Admm, CoilImages, ConjugateGradient, Fista, PrimalDual, ZeroFilled

Weight = Annotated[float, Field(ge=0, lt=float("inf"))]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Count = Annotated[int, Field(ge=1)]
Dims = Annotated[int, Field(ge=2, le=3)]
Solver = Literal["fista", "admm", "primal-dual"]


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
    tolerance: Weight = 1.5e-3,
    rho: Positive = 0.1,
    seed: int = 0,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing: l1 norm of orthogonal wavelet details (Lustig et al., MRM 58:1182, 2007)."""
    # Splitting methods hold the wavelet grid fixed; only FISTA can move it at every iteration.
    moving = shifts and solver == "fista"
    regularizer = WaveletL1(ndim, wavelet, shifts=moving, seed=seed)
    step = _solver(solver, regularizer, lam, rho, average=20 if moving else 1)
    return Reconstructor(Unrolled([step], iterations, tolerance=tolerance))


@register(weighted=True)
def cs_tv(
    *,
    lam: Weight = 0.002,
    solver: Solver = "fista",
    iterations: Count = 100,
    tolerance: Weight = 4e-3,
    rho: Positive = 0.1,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing with isotropic total variation (Block et al., MRM 57:1086, 2007)."""
    return Reconstructor(Unrolled([_solver(solver, TotalVariation(ndim), lam, rho)], iterations, tolerance=tolerance))


def compressed_sensing_start(p: Problem, near: Tensor | None = None) -> Tensor:
    """Return the image of `cs` at its default weight (B, M, *space), for a learned method to refine.

    With a prior w it solves for u = x / w, as it does when it is used alone. From an image near the solution, which
    lacks only what a few samples say, a few iterations lead there.
    """
    q = p if p.prior is None else replace(p, maps=p.maps * p.prior.unsqueeze(2), cache=None).prepared()
    engine = cs(ndim=p.y.ndim - 2).engine
    step = cast("Fista", engine.blocks[0])
    weights = [default_weight("cs", mask[0]) for mask in p.mask]
    # λ is relative to the scale of the problem that it is used for.
    step.lam = torch.tensor(weights, dtype=p.mask.dtype, device=p.mask.device) * percentile_scale(q.adjoint)
    if near is not None:
        engine.repeats = _FROM_NEAR
        step.near = near if p.prior is None else torch.where(p.prior > _NOTHING, near / p.prior, 0)
    u = cast("Tensor", engine(q))
    return u if p.prior is None else u * p.prior


_FROM_NEAR = 16  # iterations: weights by held-out samples are then within 0.13 of those of a converged solution
_NOTHING = 1e-12  # a prior below which there is no image


def _solver(name: Solver, regularizer: Regularizer, lam: float, rho: float, average: int = 1) -> Step:  # type: ignore[type-arg]
    if name == "fista":
        return Fista(regularizer, lam, average)
    if name == "admm":
        return Admm(regularizer, lam, rho)
    return PrimalDual(regularizer, lam)
