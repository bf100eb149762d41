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
    """x, its running mean, the extrapolated point z, the momentum t (B,), the prox's restart, the iteration count."""

    x: Tensor
    mean: Tensor
    z: Tensor
    t: Tensor
    warm: Tensor | None
    iteration: int


class Fista(Step[FistaState]):
    """x⁺ = prox_{λR/L}(z − ∇f(z)/L),  t⁺ = (1 + √(1 + 4t²))/2,  z⁺ = x⁺ + (t − 1)/t⁺ (x⁺ − x).

    f(x) = ½‖A x − y‖², L ≥ λ_max(AᴴA) from the maps. Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009. The
    momentum restarts for an item when it points uphill (O'Donoghue and Candès, Found. Comput. Math. 15:715, 2015).

    A regularizer that draws its basis at random keeps x moving about the solution. The image is then the running mean
    over about ``average`` iterations, which takes that jitter away and lets the stopping rule see convergence; 1
    shows x itself.
    """

    def __init__(self, regularizer: Regularizer, lam: float, average: int = 1) -> None:
        super().__init__()
        self.regularizer, self.lam, self.average = regularizer, lam, average

    def init(self, p: Problem) -> FistaState:
        """Start at the zero-filled image."""
        x = p.adjoint
        return FistaState(x, x, x, torch.ones_like(p.bound), None, 0)

    def forward(self, s: FistaState, p: Problem) -> FistaState:
        """Take one proximal gradient step and extrapolate."""
        step = 1 / p.bound.clamp_min(torch.finfo(p.bound.dtype).tiny)
        descended = s.z - per_item(step, s.z) * p.gradient(s.z)
        x, warm = self.regularizer.prox(descended, per_item(self.lam * step, s.z), s.iteration, s.warm)
        moved = x - s.x
        uphill = inner(s.z - x, moved) > 0
        t = torch.where(uphill, torch.ones_like(s.t), s.t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        z = x + per_item((t - 1) / t_next, x) * moved
        mean = x if self.average == 1 else torch.lerp(s.mean, x, 1 / min(s.iteration + 1, self.average))
        return FistaState(x, mean, z, t_next, warm, s.iteration + 1)

    def image(self, s: FistaState, p: Problem) -> Tensor:
        """Return the running mean."""
        return s.mean

    def change(self, old: FistaState, new: FistaState, p: Problem) -> Tensor:
        """Return how far the running mean moved, relative to it."""
        return norm(new.mean - old.mean) / norm(new.mean).clamp_min(torch.finfo(new.t.dtype).tiny)
