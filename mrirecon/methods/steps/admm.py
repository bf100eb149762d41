"""Minimize an objective by ADMM: alternate between the data term and the penalty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import Regularizer
from mrirecon.physics.solvers import conjugate_gradient


class AdmmState(NamedTuple):
    """Hold the image x, the split variable v ≈ G x, and the scaled dual u."""

    x: Tensor
    v: Tensor
    u: Tensor


class Admm(Step[AdmmState]):
    """Take one ADMM iteration.

    x⁺ = argmin ½‖A x − y‖² + ½ρ‖G x − v + u‖²,  v⁺ = prox_{λφ/ρ}(G x⁺ + u),  u⁺ = u + G x⁺ − v⁺.
    Boyd et al., Found. Trends Mach. Learn. 3:1, 2011. CG solves for x⁺, starting at x.

    Args:
        regularizer: φ and G; without random shifts, because v has a fixed grid.
        lam: λ.
        rho: ρ, relative to AᴴA of norm 1.
        inner: number of CG iterations in one step.

    """

    def __init__(self, regularizer: Regularizer, lam: float, rho: float, inner: int = 10) -> None:
        super().__init__()
        self.regularizer, self.lam, self.rho, self.inner = regularizer, lam, rho, inner

    def init(self, p: Problem) -> AdmmState:
        """Start at the zero-filled image."""
        v = self.regularizer.operator()(p.adjoint)
        return AdmmState(p.adjoint, v, torch.zeros_like(v))

    def forward(self, s: AdmmState, p: Problem) -> AdmmState:
        """Update x, v and u in turn."""
        g, rho = self.regularizer.operator(), self.rho
        b = p.adjoint + rho * g.adjoint(s.v - s.u)
        x = conjugate_gradient(lambda z: p.normal(z) + rho * g.normal(z), b, s.x, self.inner, tolerance=1e-7)
        gx = g(x)
        v = self.regularizer.shrink(gx + s.u, self.lam / rho)
        return AdmmState(x, v, s.u + gx - v)

    def change(self, old: AdmmState, new: AdmmState, p: Problem) -> Tensor:
        """Return max(‖x⁺ − x‖, ‖u⁺ − u‖) / ‖x⁺‖ (B,); u⁺ − u is the disagreement G x⁺ − v⁺."""
        size = norm(new.x)
        size = size.clamp_min(torch.finfo(size.dtype).tiny)
        return torch.maximum(norm(new.x - old.x), norm(new.u - old.u)) / size
