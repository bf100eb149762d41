"""Backpropagation through steps whose inputs are computed back from their outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrirecon.physics.problem import Problem


class Inverted(torch.autograd.Function):
    """Steps whose inputs are computed back from their outputs while gradients flow (Gomez et al., NeurIPS 2017)."""

    @staticmethod
    def forward(ctx: Any, steps: list[Any], p: Problem, state: Tensor, *weights: Tensor) -> Tensor:
        """Return the state after all steps."""
        for step in steps:
            state = step(state, p)
        ctx.steps, ctx.p, ctx.weights = steps, p, weights
        ctx.save_for_backward(state)
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Walk back: undo a step, take it again with gradients, pass them on."""
        (state,), gradient = ctx.saved_tensors, gradients[0]
        totals: dict[int, Tensor] = {}
        for step in reversed(ctx.steps):
            with torch.no_grad():
                state = step.inverse(state, ctx.p)
            before = state.detach().requires_grad_()
            own = [w for w in step.parameters() if w.requires_grad]
            with torch.enable_grad():
                after = step(before, ctx.p)
            gradient, *parts = torch.autograd.grad(after, [before, *own], gradient, allow_unused=True)
            for weight, part in zip(own, parts, strict=True):
                if part is not None:
                    totals[id(weight)] = totals[id(weight)] + part if id(weight) in totals else part
        return None, None, gradient, *(totals.get(id(w)) for w in ctx.weights)
