"""The one crossing between complex images and real channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrirecon.errors import UsageError


def to_real(*images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return real and imaginary channels of images: (B, M, y, x) complex each ↦ (B·M, 2·images, y, x) real.

    They come in ``dtype``, by default in the images' own precision, and a network computes in what it is given (see
    `apply_network`). Several sets of maps share one network: they go into the batch. Channels come last in memory,
    which is how complex numbers lie there already and how convolutions on a CPU are quickest.

    Raises:
        UsageError: volumes.

    """
    if images[0].ndim != 4:
        raise UsageError(
            "networks take two-dimensional images",
            why=f"this one has {images[0].ndim - 2} spatial axes",
            fix="transform along a fully sampled axis and reconstruct slice by slice, or use cs",
        )
    parts = [torch.view_as_real(x.resolve_conj()).flatten(0, 1) for x in images]
    channels = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return channels.to(channels.dtype if dtype is None else dtype).movedim(-1, 1)


def apply_network(network: nn.Module, x: Tensor, *more: object) -> Any:
    """Call a network in the type of its input x: weights of another type are cast for the call.

    They stay as they are, and so does the sum of their gradients over several calls: what is learned in bfloat16 is
    accumulated in float32.
    """
    weights = {name: w.to(x.dtype) for name, w in network.named_parameters() if w.dtype != x.dtype}
    if not weights:
        return network(x, *more)
    # What layers share is one module under several names. Tied, it would be replaced once a name, and not put back.
    return functional_call(network, weights, (x, *more), tie_weights=False)


def zero_init_output(network: nn.Module) -> None:
    """Set the weights of a network's ``final`` layer to zero, in place: it begins by adding nothing to what it refines.

    Raises:
        AttributeError: a network without a ``final`` layer.

    """
    for weight in network.final.parameters():  # type: ignore[union-attr]  # nn.Module tells no types
        nn.init.zeros_(weight)


def channels_last(model: nn.Module) -> None:
    """Lay a model's convolution weights out for inputs whose channels come last, in place."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def to_complex(channels: Tensor, sets: int) -> Tensor:
    """Return the complex image of two channels: (B·M, 2, y, x) real ↦ (B, M, y, x), M = ``sets``.

    Networks may run in half precision; physics does not, so 16-bit channels come out as complex64.
    """
    if channels.dtype in (torch.float16, torch.bfloat16):
        channels = channels.float()
    image = torch.view_as_complex(channels.movedim(1, -1).contiguous())
    return image.reshape(-1, sets, *image.shape[1:])
