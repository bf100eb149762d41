"""Compressed sensing with total variation."""

from __future__ import annotations

from typing import Any

from mrirecon.engine import Schedule
from mrirecon.methods.cs import solver_step, tolerance_factor
from mrirecon.methods.options import Iterations, Lam, Ndim, Rho, Solver, Tolerance
from mrirecon.methods.registry import register
from mrirecon.physics.regularizers import TotalVariation


@register(weighted=True)
def cs_tv(
    *,
    lam: Lam = 0.002,
    solver: Solver = "fista",
    iterations: Iterations = 100,
    tolerance: Tolerance = 2e-3,
    rho: Rho = 0.1,
    ndim: Ndim = 2,
) -> Schedule[Any]:
    """Compressed sensing with isotropic total variation (Block et al., MRM 57:1086, 2007).

    x = argmin ½‖A x − y‖² + λ Σ|∇x|. For a small λ the tolerance is lowered (`tolerance_factor`).
    """
    step = solver_step(solver, TotalVariation(ndim), lam, rho)
    return Schedule([step], iterations, tolerance * tolerance_factor(lam))
