"""Convert complex images to real channels for a network, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrirecon.errors import UsageError


def to_real(*images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Convert images to real and imaginary channels: (B, M, y, x) complex each ↦ (B·M, 2·images, y, x) real.

    The sets of maps are moved into the batch, because they share one network. Channels are last in memory, as in
    complex numbers, which is fastest for convolutions on a CPU.

    Args:
        *images: images of equal shape.
        dtype: type of the channels and therefore of the network (`apply_network`); by default, that of the images.

    Raises:
        UsageError: the images are volumes.

    """
    if images[0].ndim != 4:
        raise UsageError(
            "networks need two-dimensional images",
            why=f"this image has {images[0].ndim - 2} spatial axes",
            fix="Fourier transform a fully sampled axis and reconstruct slice by slice, or use cs",
        )
    parts = [torch.view_as_real(x.resolve_conj()).flatten(0, 1) for x in images]
    channels = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return channels.to(channels.dtype if dtype is None else dtype).movedim(-1, 1)


def apply_network(network: nn.Module, x: Tensor, *more: object) -> Any:
    """Apply a network in the type of its input x, with its weights cast to that type.

    The stored weights and their gradients keep their type: gradients of bfloat16 calls are accumulated in float32.
    """
    weights = {name: w.to(x.dtype) for name, w in network.named_parameters() if w.dtype != x.dtype}
    if not weights:
        return network(x, *more)
    # tie_weights=True would replace a shared module once per name and not restore it.
    return functional_call(network, weights, (x, *more), tie_weights=False)


def zero_init_output(network: nn.Module) -> None:
    """Set the weights of a network's ``final`` layer to zero in place, so that its initial output is zero."""
    for weight in network.final.parameters():  # type: ignore[union-attr]  # nn.Module does not know the type
        nn.init.zeros_(weight)


def channels_last(model: nn.Module) -> None:
    """Reorder a model's convolution weights in place for inputs with channels last in memory."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def to_complex(channels: Tensor, sets: int) -> Tensor:
    """Convert two channels to a complex image: (B·M, 2, y, x) real ↦ (B, M, y, x), with M = ``sets``.

    Channels of 16 bits give complex64.
    """
    if channels.dtype in (torch.float16, torch.bfloat16):
        channels = channels.float()
    image = torch.view_as_complex(channels.movedim(1, -1).contiguous())
    return image.reshape(-1, sets, *image.shape[1:])
