"""FISTA: accelerated proximal gradient descent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.operators import inner, norm, per_item
from mrirecon.problem import Problem
from mrirecon.sparsity import Regularizer


class FistaState(NamedTuple):
    """The iterate x, the extrapolated point z, the momentum t (B,), what the proximal map restarts from, the count."""

    x: Tensor
    z: Tensor
    t: Tensor
    warm: Tensor | None
    iteration: int


class Fista(Step[FistaState]):
    """x⁺ = prox_{λR/L}(z − ∇f(z)/L),  t⁺ = (1 + √(1 + 4t²))/2,  z⁺ = x⁺ + (t − 1)/t⁺ (x⁺ − x).

    f(x) = ½‖A x − y‖², L ≥ λ_max(AᴴA) from the maps. Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009. The
    momentum restarts for an item when it points uphill (O'Donoghue and Candès, Found. Comput. Math. 15:715, 2015).
    """

    def __init__(self, regularizer: Regularizer, lam: float) -> None:
        super().__init__()
        self.regularizer, self.lam = regularizer, lam

    def init(self, p: Problem) -> FistaState:
        """Start at the zero-filled image."""
        x = p.adjoint
        return FistaState(x, x, torch.ones_like(p.bound), None, 0)

    def forward(self, s: FistaState, p: Problem) -> FistaState:
        """Take one proximal gradient step and extrapolate."""
        step = 1 / p.bound.clamp_min(torch.finfo(p.bound.dtype).tiny)
        descended = s.z - per_item(step, s.z) * p.gradient(s.z)
        x, warm = self.regularizer.prox(descended, per_item(self.lam * step, s.z), s.iteration, s.warm)
        moved = x - s.x
        uphill = inner(s.z - x, moved) > 0
        t = torch.where(uphill, torch.ones_like(s.t), s.t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        return FistaState(x, x + per_item((t - 1) / t_next, x) * moved, t_next, warm, s.iteration + 1)

    def image(self, s: FistaState, p: Problem) -> Tensor:
        """Return x."""
        return s.x

    def change(self, old: FistaState, new: FistaState, p: Problem) -> Tensor:
        """Return ‖x⁺ − x‖ / ‖x⁺‖."""
        return norm(new.x - old.x) / norm(new.x).clamp_min(torch.finfo(new.t.dtype).tiny)
