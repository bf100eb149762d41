"""Solve for data consistency after a network, with a weight that follows from noise and acceleration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mrirecon.engine import Step
from mrirecon.physics.operators import per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient

_VARIANCE = 1e-3  # noise variance at which the weight does not depend on its exponent; also for unknown noise
_RATE = 10.0  # factor by which the three parameters change faster than the weights of networks


class Consistent(Step[Tensor]):
    """Solve x⁺ = argmin_z ‖A z − y‖² + μ‖z − x‖² by conjugate gradients, from the image x of the block before.

    If x has errors of variance e² in each sample, and y noise of variance σ², then μ = σ² / e² is optimal. The error
    grows with the acceleration, so μ = μ₀ (σ² / σ₀²)^b r^c with the sampled fraction r, and with μ₀, b and c learned.
    Errors of the coil maps act as noise that σ² does not include, so b is expected below 1. With fixed μ, this is
    the data consistency of MoDL (Aggarwal, Mani, Jacob, IEEE TMI 38:394, 2019).

    Args:
        image_of: ``image`` of the block before.
        iterations: number of iterations.

    """

    once = True

    def __init__(self, image_of: Callable[[Any, Problem], Tensor], iterations: int = 8) -> None:
        super().__init__()
        self.image_of, self.iterations = image_of, iterations
        self.exponents = nn.Parameter(torch.tensor([0.0, 0.0, 1.0]) / _RATE)  # (ln μ₀, b, c) / _RATE

    def init(self, p: Problem) -> Tensor:
        """Start at the initial image (B, M, *space)."""
        return p.starting_image

    def enter(self, previous: Any, p: Problem) -> Tensor:
        """Start at the image of the block before."""
        return self.image_of(previous, p)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the solution (B, M, *space)."""
        mu = per_item(self.weight(p), s)
        return s + conjugate_gradient(lambda v: p.normal(v) + mu * v, -p.gradient(s), None, self.iterations)

    def weight(self, p: Problem) -> Tensor:
        """Return μ (B,)."""
        log_mu0, b, c = self.exponents * _RATE
        noise = (p.noise_variance(_VARIANCE) / _VARIANCE).log()
        mu: Tensor = (log_mu0 + b * noise + c * p.sampled_share.log()).exp()
        return mu
