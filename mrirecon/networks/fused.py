"""The layers of a recurrent network as single operations: fewer passes over feature maps than their parts take.

A feature map of 64 channels at 320² is 13 MB in bfloat16. On a CPU with matrix units a convolution of it costs little
more than reading it, so that bias, ReLU and recurrence as operations of their own would cost most of the time. Each
operation here keeps only its inputs and its output for the backward pass.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrirecon.precision import full_precision

_backward = torch.ops.aten.convolution_backward
_below = torch.ops.aten.threshold_backward


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, relu: bool) -> Tensor:
    """Return the convolution of an image whose edge is repeated outward, with ReLU after it if asked for.

    Args:
        x: (N, inputs, y, x).
        weight: (outputs, inputs, kernel, kernel), the kernel odd, in the type of x.
        bias: (outputs,) or None.
        dilation: of the kernel.
        relu: whether negative values become zero.

    Returns:
        (N, outputs, y, x).

    """
    return _call(_Convolution, x, weight, bias, dilation, relu)


def recur(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, recurrent: Tensor) -> Tensor:
    """Return ReLU(W x + b + u ⊙ h), the next state of an independently recurrent unit (Li et al., CVPR 2018).

    Args:
        x: (N, F, y, x).
        h: the state before, (N, F, y, x).
        weight: W, (F, F, 1, 1), in the type of x.
        bias: b, (F,) or None.
        recurrent: u, (1, F, 1, 1).

    """
    return _call(_Recurrence, x, h, weight, bias, recurrent)


def _call(function: type[torch.autograd.Function], x: Tensor, *more: object) -> Tensor:
    """Apply an operation, in the type that autocast asks for where that is on; inside, it is off."""
    kind = x.device.type
    arguments: list[object] = [x, *more]
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        arguments = [a.to(dtype) if isinstance(a, Tensor) else a for a in arguments]
    return cast("Tensor", full_precision(function.apply)(*arguments))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, relu: bool) -> Tensor:
        """See `convolve`."""
        reach = dilation * (weight.shape[-1] // 2)
        padded = repeat_edge(x, reach)
        if _fuses(x):
            attribute = "relu" if relu else "none"
            out = torch.ops.mkldnn._convolution_pointwise(
                padded, weight, bias, [0, 0], [1, 1], [dilation] * 2, 1, attribute, [], ""
            )
        else:
            out = F.conv2d(padded, weight, bias, dilation=dilation)
            out = out.relu_() if relu else out
        ctx.dilation, ctx.reach = dilation, reach
        ctx.save_for_backward(x, weight, out if relu else None)
        ctx.biased = bias is not None
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch's
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient on to image, weight and bias."""
        x, weight, out = ctx.saved_tensors
        if out is not None:
            gradient = _below(gradient, out, 0)
        needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]]
        to_x, to_weight, to_bias = _backward(
            _channels_last(gradient), repeat_edge(x, ctx.reach), weight, [weight.shape[0]] if ctx.biased else None,
            [1, 1], [0, 0], [ctx.dilation] * 2, False, [0, 0], 1, needs,
        )  # fmt: skip
        return fold_edge(to_x, ctx.reach) if needs[0] else None, to_weight, to_bias, None, None


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, recurrent: Tensor) -> Tensor:
        """See `recur`."""
        if _fuses(x):
            out = torch.ops.mkldnn._convolution_pointwise.binary(
                x, h * recurrent, weight, bias, [0, 0], [1, 1], [1, 1], 1, "add", 1.0, "relu", [], ""
            )
        else:
            out = F.conv2d(x, weight, bias).addcmul_(recurrent, h).relu_()
        ctx.save_for_backward(x, h, weight, recurrent, out)
        ctx.biased = bias is not None
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch's
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient on to features, state, weight, bias and recurrent weight."""
        x, h, weight, recurrent, out = ctx.saved_tensors
        for_x, for_h, for_weight, for_bias, for_recurrent = ctx.needs_input_grad
        gradient = _channels_last(_below(gradient, out, 0))
        to_x, to_weight, to_bias = _backward(
            gradient, x, weight, [weight.shape[0]] if ctx.biased else None,
            [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [for_x, for_weight, ctx.biased and for_bias],
        )  # fmt: skip
        to_h = gradient * recurrent if for_h else None
        to_recurrent = (gradient * h).sum((0, 2, 3), keepdim=True) if for_recurrent else None
        return to_x, to_h, to_weight, to_bias, to_recurrent


def repeat_edge(x: Tensor, reach: int) -> Tensor:
    """Return the image with its edge repeated ``reach`` times on every side, its channels last in memory."""
    if reach == 0:
        return x
    if x.device.type != "cpu":
        return F.pad(x, (reach,) * 4, "replicate")
    rows, columns = x.shape[2:]
    out = x.new_empty(x.shape[0], rows + 2 * reach, columns + 2 * reach, x.shape[1])
    inside = slice(reach, -reach)
    out[:, inside, inside] = x.movedim(1, -1)
    out[:, :reach, inside] = out[:, reach : reach + 1, inside]
    out[:, -reach:, inside] = out[:, -reach - 1 : -reach, inside]
    out[:, :, :reach] = out[:, :, reach : reach + 1]
    out[:, :, -reach:] = out[:, :, -reach - 1 : -reach]
    return out.movedim(-1, 1)


def fold_edge(x: Tensor, reach: int) -> Tensor:
    """Return the adjoint of `repeat_edge`: what is outside is added to the edge. Overwrites x."""
    if reach == 0:
        return x
    x[:, :, :, reach] += x[:, :, :, :reach].sum(3)
    x[:, :, :, -reach - 1] += x[:, :, :, -reach:].sum(3)
    x[:, :, reach] += x[:, :, :reach].sum(2)
    x[:, :, -reach - 1] += x[:, :, -reach:].sum(2)
    return x[:, :, reach:-reach, reach:-reach]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _fuses(x: Tensor) -> bool:
    """Whether bias, ReLU and sum are best done by the convolution: bfloat16 on a CPU; float32 is slower so."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
