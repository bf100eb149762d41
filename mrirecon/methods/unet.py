"""Define the U-Net: one network applied to one image."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.errors import UsageError
from mrirecon.methods.options import Channels, DataConsistency, NormalizeInput, Padding, Pools, Skip
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InImage
from mrirecon.methods.updates import NetworkPart, Refine, data_consistency, then
from mrirecon.networks import NormUnet, Unet, apply_network
from mrirecon.physics.operators import per_item, root_sum_of_squares
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem

Dropout = Annotated[float, Field(ge=0, lt=1, description="Probability of dropping a channel in training.")]
ImageKind = Annotated[
    Literal["complex", "magnitude"],
    Field(description="Input: the complex image combined with the maps, or the root sum of squares as in fastMRI."),
]


Crop = Annotated[
    int,
    Field(ge=0, description="With domain=magnitude, refine only the central square of this size; 0 for all pixels."),
]


class MagnitudeNet(RunsNetwork, Step[Tensor]):
    """Apply a network to the root sum of squares, normalized to mean 0 and deviation 1, clamped to ±6.

    The U-Net baseline of fastMRI (Zbontar et al., arXiv 1811.08839).

    Args:
        network: network with one channel.
        crop: size of the central square that is normalized and refined, as fastMRI crops before the network; 0 for the
            whole image.

    """

    takes_initial_image = False
    magnitude = True

    def __init__(self, network: nn.Module, crop: int = 0) -> None:
        super().__init__()
        self.network, self.crop = network, crop

    def init(self, p: Problem) -> Tensor:
        """Return the root sum of squares of the zero-filled coil images (B, 1, y, x), real."""
        return root_sum_of_squares(p.coil_images, 1, keepdim=True)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the network's output in the scale of s; outside of the crop, s itself."""
        if not self.crop:
            return self._refine(s)
        sides = [min(n, self.crop) for n in s.shape[2:]]
        (top, left), (rows, columns) = ((n - side) // 2 for n, side in zip(s.shape[2:], sides, strict=True)), sides
        out = s.clone()
        out[..., top : top + rows, left : left + columns] = self._refine(
            s[..., top : top + rows, left : left + columns]
        )
        return out

    def _refine(self, s: Tensor) -> Tensor:
        flat = s.flatten(1)
        mean = per_item(flat.mean(1), s)
        deviation = per_item(flat.std(1), s).clamp_min(torch.finfo(s.dtype).tiny)
        normalized = ((s - mean) / deviation).clamp(-6, 6)
        out: Tensor = apply_network(self.network, normalized.to(self.network_dtype or s.dtype))
        return out.to(s.dtype) * deviation + mean


@register(learned=True)
def unet(
    *,
    channels: Channels = 64,
    pools: Pools = 2,
    dropout: Dropout = 0.0,
    domain: ImageKind = "complex",
    dc: DataConsistency = "none",
    skip: Skip = False,
    padding: Padding = -1,
    normalize: NormalizeInput = True,
    crop: Crop = 0,
) -> Schedule[Tensor]:
    """U-Net on the zero-filled image: complex, combined by maps, or the magnitude as in fastMRI's baseline.

    x = U(Aᴴ y), or Aᴴ y + U(Aᴴ y) with ``skip``, then data consistency.
    """
    if domain == "magnitude":
        if skip or dc != "none":
            raise UsageError("a U-Net on magnitudes has no skip and no data consistency", fix="use domain=complex")
        return Schedule([MagnitudeNet(Unet(1, 1, channels, pools, dropout), crop)])
    padded = None if padding < 0 else padding
    network = NormUnet(channels, pools, dropout=dropout, padding=padded, normalize=normalize)
    refine = Refine(NetworkPart(network), skip=skip, sign=1)
    return Schedule([InImage(then(refine, data_consistency(dc, "image")))])
