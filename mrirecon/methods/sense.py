"""Define CG-SENSE with Tikhonov regularization."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Iterations, Lam, Tolerance
from mrirecon.methods.registry import register
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import CgState, cg_start, cg_step


class ConjugateGradient(Step[CgState]):
    """Take one CG step towards x = argmin ½‖A x − y‖² + ½λ‖x‖², the solution of (AᴴA + λI) x = Aᴴ y.

    Pruessmann et al., MRM 46:638, 2001; Hestenes and Stiefel, J. Res. NBS 49:409, 1952.
    """

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.lam = lam

    def _operator(self, p: Problem) -> Callable[[Tensor], Tensor]:
        return lambda x: p.normal(x) + self.lam * x

    def init(self, p: Problem) -> CgState:
        """Start at zero."""
        return cg_start(self._operator(p), p.adjoint, None)

    def forward(self, s: CgState, p: Problem) -> CgState:
        """Return the state after one CG step."""
        return cg_step(self._operator(p), s)

    def change(self, old: CgState, new: CgState, p: Problem) -> Tensor:
        """Return the residual of the normal equations over ‖Aᴴ y‖ (B,)."""
        return new.rr.sqrt() / norm(p.adjoint).clamp_min(torch.finfo(new.rr.dtype).tiny)


@register(weighted=True)
def sense(*, lam: Lam = 0.015, iterations: Iterations = 50, tolerance: Tolerance = 1e-4) -> Schedule[CgState]:
    """CG-SENSE: least squares with Tikhonov regularization, by conjugate gradients.

    x = argmin ½‖A x − y‖² + ½λ‖x‖².
    """
    return Schedule([ConjugateGradient(lam)], iterations, tolerance)
