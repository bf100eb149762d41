"""Define instance normalization and leaky ReLU for tensors with channels last in memory."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mrirecon.physics.precision import full_precision

_EPSILON = 1e-5  # as in torch and fastMRI


class InstanceNorm(nn.Module):
    """Normalize each channel of each image to mean 0 and variance 1, without parameters, then apply a leaky ReLU.

    Ulyanov et al., arXiv 1607.08022. On a CPU, torch's implementation moves channels first, and the following
    convolutions are up to four times slower. This implementation keeps channels last.

    Args:
        slope: slope of the leaky ReLU for negative input.

    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, y, x) to the same shape."""
        if x.device.type != "cpu":
            return F.leaky_relu(F.instance_norm(x, eps=_EPSILON), self.slope, inplace=True)
        if x.shape[-2] * x.shape[-1] == 1:
            raise ValueError("one pixel cannot be normalized")
        return cast("Tensor", full_precision(_Normalized.apply)(x, self.slope))


class _Normalized(torch.autograd.Function):
    # The arithmetic runs on rows (N, y, x · C), with channel values repeated x times, which is fastest on a CPU.

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        """See `InstanceNorm`. Only the output is stored; the normalized input is computed from it."""
        last = x.movedim(1, -1).contiguous()
        centred = _rows(last) - _repeated(_mean(last), last)
        spread = (_mean((centred * centred).view(last.shape)) + _EPSILON).rsqrt()
        out = F.leaky_relu_(centred.mul_(_repeated(spread, last)), slope).view(last.shape)
        ctx.slope = slope
        ctx.save_for_backward(out, spread)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return (g − mean(g) − y · mean(g y)) / deviation for the normalized input y and the gradient g at it."""
        out, spread = ctx.saved_tensors
        last = gradient.movedim(1, -1).contiguous()
        g = torch.ops.aten.leaky_relu_backward(last, out, ctx.slope, True)
        y = F.leaky_relu(out, 1 / ctx.slope)
        shift, tilt = -_mean(g) * spread, -_mean(g * y) * spread
        total = torch.addcmul(_repeated(shift, g), _rows(g), _repeated(spread, g))
        total.addcmul_(_rows(y), _repeated(tilt, g))
        return total.view(out.shape).movedim(-1, 1), None


def _mean(x: Tensor) -> Tensor:
    """Return the mean over y and x of (N, y, x, C) as (N, C), summed row by row to keep rounding small."""
    rows, columns = x.shape[1:3]
    sums = (x.new_ones(1, columns) @ x).squeeze(2)
    if x.dtype in (torch.bfloat16, torch.float16):
        sums = sums.float()
    return (sums / columns).sum(1) / rows


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2)


def _repeated(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for each channel (N, C) as rows (N, 1, x · C), in the type of ``like`` (N, y, x, C)."""
    return values.to(like.dtype).repeat(1, like.shape[2]).unsqueeze(1)
