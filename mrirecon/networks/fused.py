"""Define fused layers of a recurrent network, with fewer passes over feature maps than separate operations.

A feature map of 64 channels at 320² is 13 MB in bfloat16. On a CPU with matrix units, a convolution of it costs little
more than reading it, and separate operations for padding, bias, ReLU and recurrence would take most of the time.
Instead of padding, feature maps have a *halo*: their edge, repeated outward as far as the next convolutions reach. The
halo is updated in place. Each operation stores only its inputs and its output for the backward pass.

The gradient of the halo is added to the gradient of the edge.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrirecon.physics.precision import full_precision

_convolution_backward = torch.ops.aten.convolution_backward
_relu_backward = torch.ops.aten.threshold_backward


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, relu: bool) -> Tensor:
    """Convolve feature maps without changing their size, with an optional ReLU.

    The outermost ``dilation`` · (kernel // 2) pixels are not valid: x is padded with zeros.

    Args:
        x: (N, inputs, y, x).
        weight: (outputs, inputs, kernel, kernel), the kernel odd, in the type of x.
        bias: (outputs,) or None.
        dilation: dilation of the kernel.
        relu: whether to apply a ReLU.

    Returns:
        (N, outputs, y, x).

    """
    return _call(_Convolution, x, weight, bias, dilation, relu)


def recur(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, recurrent: Tensor, halo: int) -> Tensor:
    """Return ReLU(W x + b + u ⊙ h), the next state of an independently recurrent unit, with updated halo.

    Li et al., CVPR 2018.

    Args:
        x: (N, F, y, x); its halo is ignored.
        h: previous state, (N, F, y, x).
        weight: W, (F, F, 1, 1), in the type of x.
        bias: b, (F,) or None.
        recurrent: u, (1, F, 1, 1).
        halo: width of the halo.

    """
    return _call(_Recurrence, x, h, weight, bias, recurrent, halo)


def widen(x: Tensor, halo: int) -> Tensor:
    """Add a halo of width h, with channels last in memory: (N, C, y, x) ↦ (N, C, y + 2h, x + 2h)."""
    return cast("Tensor", _Widened.apply(x, halo)) if halo else x  # type: ignore[no-untyped-call]  # torch's


def inside(x: Tensor, halo: int) -> Tensor:
    """Return a view of the image without its halo."""
    return x[..., halo:-halo, halo:-halo] if halo else x


def _call(function: type[torch.autograd.Function], x: Tensor, *more: object) -> Tensor:
    """Apply an operation in the type of autocast, if autocast is on."""
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
        reach = [dilation * (weight.shape[-1] // 2)] * 2
        if relu and _fuses(x):
            out = torch.ops.mkldnn._convolution_pointwise(
                _channels_last(x), weight, bias, reach, [1, 1], [dilation] * 2, 1, "relu", [], ""
            )
        else:
            out = F.conv2d(x, weight, bias, padding=reach, dilation=dilation)
            out = out.relu_() if relu else out
        ctx.reach, ctx.dilation, ctx.biases = reach, [dilation] * 2, None if bias is None else [len(bias)]
        ctx.save_for_backward(x, weight, out if relu else None)
        return cast("Tensor", out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of image, weight and bias."""
        x, weight, out = ctx.saved_tensors
        if out is not None:
            gradient = _relu_backward(gradient, out, 0)
        needs = list(ctx.needs_input_grad[:3])
        passed = _convolution_backward(
            _channels_last(gradient), x, weight, ctx.biases, [1, 1], ctx.reach, ctx.dilation, False, [0, 0], 1, needs
        )
        return *passed, None, None


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, recurrent: Tensor, halo: int
    ) -> Tensor:
        """See `recur`."""
        if _fuses(x):
            out = h * recurrent
            torch.ops.mkldnn._convolution_pointwise_.binary(
                out, _channels_last(x), weight, bias, [0, 0], [1, 1], [1, 1], 1, "add", 1.0, "relu", [], ""
            )
        else:
            out = F.conv2d(x, weight, bias).addcmul_(recurrent, h).relu_()
        _renew(out, halo)
        ctx.halo, ctx.biases = halo, None if bias is None else [len(bias)]
        ctx.save_for_backward(x, h, weight, recurrent, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, state, weight, bias and recurrent weight."""
        x, h, weight, recurrent, out = ctx.saved_tensors
        needs_x, needs_h, needs_weight, needs_bias, needs_recurrent, _ = ctx.needs_input_grad
        needs = [needs_x, needs_weight, needs_bias]
        # The halo repeats the edge, so that ReLU and halo can be reversed in any order.
        gradient = _fold(_channels_last(_relu_backward(gradient, out, 0)), ctx.halo)
        to_x, to_weight, to_bias = _convolution_backward(
            gradient, x, weight, ctx.biases, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, needs
        )
        product = gradient * h
        to_recurrent = product.sum((0, 2, 3), keepdim=True) if needs_recurrent else None
        # Writing to the memory of the product is faster than to new memory.
        to_h = torch.mul(gradient, recurrent, out=product) if needs_h else None
        return to_x, to_h, to_weight, to_bias, to_recurrent, None


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: int) -> Tensor:
        """See `widen`."""
        ctx.halo = halo
        n, channels, rows, columns = x.shape
        out = x.new_empty(n, rows + 2 * halo, columns + 2 * halo, channels).movedim(-1, 1)
        inside(out, halo).copy_(x)
        _renew(out, halo)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the image."""
        return inside(_fold(gradient.clone(), ctx.halo), ctx.halo), None


def _renew(x: Tensor, halo: int) -> None:
    """Fill the halo with the edge of the image, in place."""
    if halo:
        within, first, last = slice(halo, -halo), slice(halo, halo + 1), slice(-halo - 1, -halo)
        x[..., :halo, within] = x[..., first, within]
        x[..., -halo:, within] = x[..., last, within]
        x[..., :halo] = x[..., first]
        x[..., -halo:] = x[..., last]


def _fold(x: Tensor, halo: int) -> Tensor:
    """Add the halo of a gradient to its edge and set it to zero, in place: the adjoint of `_renew`."""
    for axis in (-1, -2) if halo else ():
        # Adding row by row is five times faster than a sum over a few strided rows.
        for edge, outer in ((halo, range(halo)), (-halo - 1, range(-halo, 0))):
            for row in outer:
                x.select(axis, edge).add_(x.select(axis, row))
                x.select(axis, row).zero_()
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _fuses(x: Tensor) -> bool:
    """Return whether to fuse bias, ReLU and sum into the convolution, which is only faster for bfloat16 on a CPU."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and available
