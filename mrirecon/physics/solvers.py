"""Solve linear systems by conjugate gradients (CG) on batches, for CG-SENSE, ADMM and data consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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


@full_precision
def cg_start(operator: Callable[[Tensor], Tensor], b: Tensor, x: Tensor | None) -> CgState:
    """Return the state of CG on H x = b at x; None starts at zero, without computing H x."""
    r = b if x is None else b - operator(x)
    return CgState(torch.zeros_like(b) if x is None else x, r, r, inner(r, r))


@full_precision
def cg_step(operator: Callable[[Tensor], Tensor], s: CgState) -> CgState:
    """Return the next state, with separate step sizes for each item; an exactly solved item keeps its x."""
    tiny = torch.finfo(s.rr.dtype).tiny
    hd = operator(s.d)
    alpha = s.rr / inner(s.d, hd).clamp_min(tiny)
    alpha = torch.where(s.rr > tiny, alpha, torch.zeros_like(alpha))
    x = s.x + per_item(alpha, s.x) * s.d
    r = s.r - per_item(alpha, s.r) * hd
    rr = inner(r, r)
    return CgState(x, r, r + per_item(rr / s.rr.clamp_min(tiny), s.d) * s.d, rr)


@full_precision
def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], b: Tensor, x: Tensor | None, iterations: int, tolerance: float = 0.0
) -> Tensor:
    """Solve H x = b by CG.

    Args:
        operator: H, Hermitian and positive definite on each item.
        b: (B, ...).
        x: initial value; None for zero.
        iterations: maximum number of iterations.
        tolerance: stop when every item has ‖r‖ ≤ tolerance · ‖b‖; 0 runs all iterations.

    """
    s, limit = cg_start(operator, b, x), tolerance * norm(b)
    for _ in range(iterations):
        if tolerance and bool((s.rr.sqrt() <= limit).all()):
            break
        s = cg_step(operator, s)
    return s.x
