"""Backpropagate through invertible steps without storing their states (Gomez et al., NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


def run_invertible(steps: Sequence[Any], p: Problem) -> Tensor:
    """Apply invertible steps in turn (`mrirecon.engine.Step`), and return the last state.

    Only the last state is stored. The backward pass computes the input of each step from its output.

    Raises:
        UsageError: the state is not one tensor, or a network computes in less than the precision of the data.

    """
    start = steps[0].init(p)
    if not isinstance(start, Tensor):
        raise UsageError("only steps whose state is one tensor can be inverted", fix="use memory=checkpoint")
    modules = [module for step in steps for module in step.modules()]
    dtypes = {module.network_dtype for module in modules if isinstance(module, RunsNetwork)}
    if dtypes - {None, p.adjoint.real.dtype} or torch.is_autocast_enabled(p.adjoint.device.type):
        raise UsageError(
            "memory=invert needs full precision",
            why="values rounded to half precision cannot be inverted",
            fix="compute in float32, or use memory=checkpoint",
        )
    weights = {w: None for step in steps for w in step.parameters() if w.requires_grad}
    return cast("Tensor", _Inverted.apply(steps, p, start, *weights))  # type: ignore[no-untyped-call]  # torch's


class _Inverted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, steps: Sequence[Any], p: Problem, state: Tensor, *weights: Tensor) -> Tensor:
        """Return the state after all steps."""
        for step in steps:
            state = step(state, p)
        ctx.steps, ctx.p, ctx.weights = steps, p, weights
        ctx.save_for_backward(state)
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Run the steps in reverse: compute the input, repeat the step with gradients, and propagate them."""
        (state,), gradient = ctx.saved_tensors, gradients[0]
        totals: dict[Tensor, Tensor] = {}
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
                    totals[weight] = totals[weight] + part if weight in totals else part
        return None, None, gradient, *map(totals.get, ctx.weights)
