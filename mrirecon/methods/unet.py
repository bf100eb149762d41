"""The U-Net: one network on one image."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.errors import UsageError
from mrirecon.methods.options import Count, Pools
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InImage
from mrirecon.methods.updates import Consistency, Net, Refine, data_consistency, then
from mrirecon.networks import NormUnet, Unet, apply_network
from mrirecon.physics.operators import Fourier, per_item, root_sum_of_squares
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


class MagnitudeNet(RunsNetwork, Step[Tensor]):
    """The root sum of squares of the zero-filled coil images, normalised, clamped to ±6 deviations, through a network.

    fastMRI's baseline (Zbontar et al., arXiv 1811.08839).
    """

    needs_cartesian = True
    takes_initial_image = False
    magnitude = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def init(self, p: Problem) -> Tensor:
        """Start at the magnitude (B, 1, y, x)."""
        return root_sum_of_squares(Fourier(p.axes).adjoint(p.y), 1, keepdim=True)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the network in units of the image's mean and deviation."""
        flat = s.flatten(1)
        mean = per_item(flat.mean(1), s)
        deviation = per_item(flat.std(1), s).clamp_min(torch.finfo(s.dtype).tiny)
        seen = ((s - mean) / deviation).clamp(-6, 6)
        out: Tensor = apply_network(self.network, seen.to(self.network_dtype or seen.dtype))
        return out.to(s.dtype) * deviation + mean

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return the magnitude."""
        return s


@register(learned=True)
def unet(
    *,
    channels: Count = 64,
    pools: Pools = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    domain: Literal["complex", "magnitude"] = "complex",
    dc: Consistency = "none",
    skip: bool = False,
) -> Schedule[Tensor]:
    """U-Net on the zero-filled image: complex, combined by maps, or the magnitude as in fastMRI's baseline."""
    if domain == "magnitude":
        if skip or dc != "none":
            raise UsageError("the magnitude's U-Net has no skip and no data consistency", fix="use domain=complex")
        return Schedule([MagnitudeNet(Unet(1, 1, channels, pools, dropout))])
    refine = Refine(Net(NormUnet(channels, pools, dropout=dropout)), skip=skip, sign=1)
    return Schedule([InImage(then(refine, data_consistency(dc, "image")))])
