"""Compressed sensing with total variation."""

from __future__ import annotations

from typing import Any

from mrirecon.engine import Schedule
from mrirecon.methods.cs import Solver, solver_step, tolerance_factor
from mrirecon.methods.options import Count, Dims, Positive, Weight
from mrirecon.methods.registry import register
from mrirecon.physics.regularizers import TotalVariation


@register(weighted=True)
def cs_tv(
    *,
    lam: Weight = 0.002,
    solver: Solver = "fista",
    iterations: Count = 100,
    tolerance: Weight = 2e-3,
    rho: Positive = 0.1,
    ndim: Dims = 2,
) -> Schedule[Any]:
    """Compressed sensing with isotropic total variation (Block et al., MRM 57:1086, 2007).

    The tolerance is that of the default weight and of larger ones; see `cs`.
    """
    step = solver_step(solver, TotalVariation(ndim), lam, rho)
    return Schedule([step], iterations, tolerance * tolerance_factor(lam))
