"""Every method as a short composition on the one engine; the keyword-only signature is its configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mrirecon.engine import Reconstructor, Step, Unrolled
from mrirecon.registry import register
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


@register()
def sense(*, lam: Weight = 0.01, iterations: Count = 50, tolerance: Weight = 1e-4) -> Reconstructor:
    """CG-SENSE: least squares with Tikhonov regularization, by conjugate gradients."""
    return Reconstructor(Unrolled([ConjugateGradient(lam)], iterations, tolerance=tolerance))


@register()
def cs(
    *,
    lam: Weight = 0.005,
    solver: Solver = "fista",
    wavelet: str = "db4",
    shifts: bool = True,
    iterations: Count = 100,
    tolerance: Weight = 1e-3,
    rho: Positive = 0.1,
    seed: int = 0,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing: l1 norm of orthogonal wavelet details (Lustig et al., MRM 58:1182, 2007)."""
    # Splitting methods hold the wavelet grid fixed; only FISTA can move it at every iteration.
    regularizer = WaveletL1(ndim, wavelet, shifts=shifts and solver == "fista", seed=seed)
    return Reconstructor(Unrolled([_solver(solver, regularizer, lam, rho)], iterations, tolerance=tolerance))


@register()
def cs_tv(
    *,
    lam: Weight = 0.003,
    solver: Solver = "fista",
    iterations: Count = 100,
    tolerance: Weight = 1e-3,
    rho: Positive = 0.1,
    ndim: Dims = 2,
) -> Reconstructor:
    """Compressed sensing with isotropic total variation (Block et al., MRM 57:1086, 2007)."""
    return Reconstructor(Unrolled([_solver(solver, TotalVariation(ndim), lam, rho)], iterations, tolerance=tolerance))


def _solver(name: Solver, regularizer: Regularizer, lam: float, rho: float) -> Step:  # type: ignore[type-arg]
    if name == "fista":
        return Fista(regularizer, lam)
    if name == "admm":
        return Admm(regularizer, lam, rho)
    return PrimalDual(regularizer, lam)
