"""Solve linear systems by conjugate gradients (CG) on batches, for CG-SENSE, ADMM and data consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrirecon.physics.operators import inner, norm, per_item
from mrirecon.physics.precision import full_precision


class CgState(NamedTuple):
    """Hold the state of CG on H x = b."""

    x: Tensor  # (B, ...)
    r: Tensor  # residual b − H x
    d: Tensor  # search direction
    rr: Tensor  # ‖r‖² (B,)
    floor: Tensor  # (B,), ‖r‖² below which r consists of rounding errors


@full_precision
def cg_start(operator: Callable[[Tensor], Tensor], b: Tensor, x: Tensor | None) -> CgState:
    """Return the state of CG on H x = b at x; None starts at zero, without computing H x."""
    r = b if x is None else b - operator(x)
    floor = inner(b, b).detach() * torch.finfo(b.dtype).eps ** 2
    return CgState(torch.zeros_like(b) if x is None else x, r, r, inner(r, r), floor)


@full_precision
def cg_step(operator: Callable[[Tensor], Tensor], s: CgState) -> CgState:
    """Return the next state, with separate step sizes for each item; an item solved up to rounding keeps its x.

    Further steps of such an item would divide rounding errors by each other, whose gradients overflow. Few distinct
    eigenvalues, as for one coil, are solved in as many steps.
    """
    active, one = s.rr > s.floor, torch.ones_like(s.rr)
    hd = operator(s.d)
    # A divisor of 1 for the other items also keeps their gradients finite.
    alpha = torch.where(active, s.rr / torch.where(active, inner(s.d, hd), one), 0)
    x = s.x + per_item(alpha, s.x) * s.d
    r = s.r - per_item(alpha, s.r) * hd
    rr = inner(r, r)
    beta = torch.where(active, rr / torch.where(active, s.rr, one), 0)
    return CgState(x, r, r + per_item(beta, s.d) * s.d, rr, s.floor)


@full_precision
def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], b: Tensor, x: Tensor | None, iterations: int, tolerance: float = 0.0
) -> Tensor:
    """Solve H x = b by CG.

    Gradients are those of the solution, by a second solve (implicit differentiation, as in MoDL: Aggarwal, Mani, Jacob,
    IEEE TMI 38:394, 2019): H λ = ∂L/∂x, and then the gradient of ⟨λ, b − H x⟩ at fixed x. Gradients through the steps
    would need the memory of all steps, and are wrong if few steps solve a system that its perturbations do not.

    Args:
        operator: H, Hermitian and positive definite on each item.
        b: (B, ...).
        x: initial value; None for zero. No gradients flow to it.
        iterations: maximum number of iterations.
        tolerance: stop when every item has ‖r‖ ≤ tolerance · ‖b‖; 0 runs all iterations.

    """

    @torch.no_grad()
    def solve(b: Tensor, x: Tensor | None = None) -> Tensor:
        s, limit = cg_start(operator, b, x), tolerance * norm(b)
        for _ in range(iterations):
            if tolerance and bool((s.rr.sqrt() <= limit).all()):
                break
            s = cg_step(operator, s)
        return s.x

    solution = solve(b, x)
    if not torch.is_grad_enabled():
        return solution
    residual = b - operator(solution)
    if not residual.requires_grad:
        return solution
    return solution + _Solved.apply(residual, solve)  # type: ignore[no-untyped-call, no-any-return]


class _Solved(torch.autograd.Function):
    """Return zero for the residual b − H x of a solved system; the gradient of the residual is H⁻¹ ∂L/∂x."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """Return zero, and keep the solver for the gradient."""
        ctx.solve = solve
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Solve for the gradient of the residual."""
        return ctx.solve(gradients[0]), None
