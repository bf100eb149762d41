"""Minimize an objective by the primal-dual method of Chambolle and Pock, which solves no linear system."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.physics.operators import norm, per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import Regularizer


class Dual(NamedTuple):
    """Hold the dual variable h of K = [A; G], with one part per operator."""

    data: Tensor  # (B, C, *space)
    sparse: Tensor  # range of G


class PrimalDualState(NamedTuple):
    """Hold the image x, its extrapolation x̄, and the dual h."""

    x: Tensor
    bar: Tensor
    dual: Dual


class PrimalDual(Step[PrimalDualState]):
    """Take a dual step, a primal step, and extrapolate.

    h⁺ = prox_{σF*}(h + σ K x̄),  x⁺ = x − τ Kᴴ h⁺,  x̄⁺ = 2x⁺ − x,  with K = [A; G] and στ‖K‖² < 1.
    F* is the conjugate of F(Ax, Gx) = ½‖Ax − y‖² + λφ(Gx). Chambolle and Pock, J. Math. Imaging Vis. 40:120, 2011.

    Args:
        regularizer: φ and G.
        lam: λ.
        balance: √(τ/σ). At unit scale, longer primal steps make λ effective early.

    """

    needs_cartesian = "the dual variable of this solver is k-space on a grid (solver=fista or admm has none)"

    def __init__(self, regularizer: Regularizer, lam: float, balance: float = 3.0) -> None:
        super().__init__()
        self.regularizer, self.lam, self.balance = regularizer, lam, balance

    def init(self, p: Problem) -> PrimalDualState:
        """Start at the zero-filled image with a zero dual."""
        x = p.adjoint
        zero = Dual(torch.zeros_like(p.y), torch.zeros_like(self.regularizer.operator()(x)))
        return PrimalDualState(x, x, zero)

    def forward(self, s: PrimalDualState, p: Problem) -> PrimalDualState:
        """Take an ascent step in the dual and a descent step in the image, and extrapolate."""
        g = self.regularizer.operator()
        size = 0.99 / (p.lipschitz + self.regularizer.norm2).sqrt()
        sigma, tau = size / self.balance, size * self.balance
        sd, sg = per_item(sigma, s.dual.data), per_item(sigma, s.dual.sparse)
        data = (s.dual.data + sd * p.residual(s.bar)) / (1 + sd)
        w = s.dual.sparse + sg * g(s.bar)
        # Moreau: the prox of the conjugate, from the proximal map of φ.
        sparse = w - sg * self.regularizer.shrink(w / sg, self.lam / sg)
        x = s.x - per_item(tau, s.x) * (p.A.adjoint(data) + g.adjoint(sparse))
        return PrimalDualState(x, 2 * x - s.x, Dual(data, sparse))

    def change(self, old: PrimalDualState, new: PrimalDualState, p: Problem) -> Tensor:
        """Return ‖x⁺ − x‖ / ‖x⁺‖ (B,)."""
        size = norm(new.x)
        return norm(new.x - old.x) / size.clamp_min(torch.finfo(size.dtype).tiny)
