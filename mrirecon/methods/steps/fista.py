"""Minimize an objective by FISTA (accelerated proximal gradient descent)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.physics.operators import inner, norm, per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import Regularizer
from mrirecon.physics.solvers import conjugate_gradient

_DAMPING = 0.01  # Tikhonov weight of the first iterations


class FistaState(NamedTuple):
    """Hold the image and the variables of the next iteration."""

    x: Tensor  # (B, M, *space)
    mean: Tensor  # running mean of x
    z: Tensor  # extrapolated point
    t: Tensor  # (B,) momentum
    warm: Tensor | None  # warm start of the proximal map
    iteration: int


class Fista(Step[FistaState]):
    """Take a proximal gradient step with momentum.

    x⁺ = prox_{λR/L}(z − ∇f(z)/L),  t⁺ = (1 + √(1 + 4t²))/2,  z⁺ = x⁺ + (t − 1)/t⁺ (x⁺ − x). f(x) = ½‖A x − y‖², L ≥
    λ_max(AᴴA) from the maps. Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009. The momentum of an item is reset when
    it points uphill (O'Donoghue and Candès, Found. Comput. Math. 15:715, 2015).

    A few iterations of CG-SENSE come first; therefore, the momentum starts at t₀ > 1. The error is still bounded, by
    (t₀² (F(x₀) − F*) + ½L‖x₀ − x*‖²) / t².

    Args:
        regularizer: R.
        lam: λ, one for all items or (B,).
        average: the image is the running mean of x over the last third of the iterations, at most over this number; 1
            uses x itself. With random shifts, x does not converge, but the mean does.
        start: number of initial iterations of CG-SENSE.
        momentum: t₀; with 10, the first extrapolation is by (t₀ − 1)/t₁ = 0.86.

    """

    def __init__(
        self,
        regularizer: Regularizer,
        lam: float | Tensor,
        average: int = 1,
        start: int = 8,
        momentum: float = 10.0,
    ) -> None:
        super().__init__()
        self.regularizer, self.lam, self.average = regularizer, lam, average
        self.start, self.momentum = start, momentum

    def init(self, p: Problem) -> FistaState:
        """Return the state after ``start`` iterations of CG-SENSE, from the initial image or from zero.

        The Tikhonov term ½·0.01·‖x − x₀‖² keeps unsampled components near the initial image x₀, or zero.
        """
        initial = p.initial_image
        x = p.adjoint if initial is None else initial
        if self.start:
            right = p.adjoint if initial is None else p.adjoint + _DAMPING * initial
            x = conjugate_gradient(lambda v: p.normal(v) + _DAMPING * v, right, initial, self.start)
        return FistaState(x, x, x, torch.full_like(p.lipschitz, self.momentum), None, 0)

    def forward(self, s: FistaState, p: Problem) -> FistaState:
        """Take one proximal gradient step and extrapolate."""
        step = 1 / p.lipschitz.clamp_min(torch.finfo(p.lipschitz.dtype).tiny)
        descent = s.z - per_item(step, s.z) * p.gradient(s.z)
        x, warm = self.regularizer.prox(descent, per_item(self.lam * step, s.z), s.iteration, s.warm)
        difference = x - s.x
        t_next = (1 + (1 + 4 * s.t * s.t).sqrt()) / 2
        uphill = inner(s.z - x, difference) > 0
        t = torch.where(uphill, torch.full_like(s.t, self.momentum), t_next)
        z = x + per_item(torch.where(uphill, torch.zeros_like(s.t), (s.t - 1) / t_next), x) * difference
        window = min(max((s.iteration + 1) / 3, 1), self.average)
        return FistaState(x, x if window == 1 else s.mean + (x - s.mean) / window, z, t, warm, s.iteration + 1)

    def image(self, s: FistaState, p: Problem) -> Tensor:
        """Return the running mean of x."""
        return s.mean

    def change(self, old: FistaState, new: FistaState, p: Problem) -> Tensor:
        """Return the relative change of the running mean (B,)."""
        return norm(new.mean - old.mean) / norm(new.mean).clamp_min(torch.finfo(new.t.dtype).tiny)
