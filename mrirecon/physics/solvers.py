"""Conjugate gradients on batches: the inner solver of CG-SENSE, ADMM and proximal data consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.physics.operators import inner, norm, per_item
from mrirecon.physics.precision import full_precision


class CgState(NamedTuple):
    """x, the residual b − Hx, the search direction, and ‖r‖² (B,)."""

    x: Tensor
    r: Tensor
    d: Tensor
    rr: Tensor


@full_precision
def cg_start(operator: Callable[[Tensor], Tensor], b: Tensor, x: Tensor | None) -> CgState:
    """Return the state of CG on H x = b at x, or at zero, where H x needs not be computed."""
    r = b if x is None else b - operator(x)
    return CgState(torch.zeros_like(b) if x is None else x, r, r, inner(r, r))


@full_precision
def cg_step(operator: Callable[[Tensor], Tensor], s: CgState) -> CgState:
    """Return the next state. Every item has its own step sizes; an item that is solved exactly stays where it is."""
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
    """Return x after ``iterations`` of CG on H x = b from x (None: 0), or when every item has ‖r‖ ≤ tolerance·‖b‖."""
    s, limit = cg_start(operator, b, x), tolerance * norm(b)
    for _ in range(iterations):
        if tolerance and bool((s.rr.sqrt() <= limit).all()):
            break
        s = cg_step(operator, s)
    return s.x
