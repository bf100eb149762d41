"""Define the deep cascade of convolutional networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.errors import UsageError
from mrirecon.methods.options import Cascades, Channels, Combine, DataConsistency, ShareWeights, Skip, copies
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InImage, InKspace
from mrirecon.methods.updates import ImagePart, NetworkPart, Refine, cascade, data_consistency, then
from mrirecon.networks import ConvStack

Layers = Annotated[int, Field(ge=2, description="Number of convolutions in a cascade.")]
Order = Annotated[
    Literal["sequential", "parallel"],
    Field(description="Data consistency after the network, or parallel to it as in the released multi-coil form."),
]
SharedPrelu = Annotated[bool, Field(description="Use one PReLU for all layers of all cascades, as released.")]


@register(learned=True)
def cascadenet(
    *,
    cascades: Cascades = 10,
    channels: Channels = 64,
    layers: Layers = 5,
    dc: DataConsistency = "soft",
    skip: Skip = True,
    dc_order: Order = "sequential",
    shared_prelu: SharedPrelu = False,
    share_weights: ShareWeights = False,
    combine: Combine = "sense",
) -> Schedule[Tensor]:
    """Deep cascade of convolutions and data consistency (Schlemper et al., IEEE TMI 37:491, 2018).

    Sequential: x⁺ = DC(x + CNN(x)). Parallel, on k-space: k⁺ = DC(k) − F S CNN(Sᴴ Fᴴ k).
    """
    if combine == "rss" and dc_order == "sequential":
        raise UsageError("combine=rss needs k-space", where="combine", fix="use dc_order=parallel, or combine=sense")
    activation = nn.PReLU() if shared_prelu else None

    def block() -> Step[Tensor]:
        net = NetworkPart(ConvStack(2, channels, layers, activation))
        if dc_order == "parallel":
            return InKspace(cascade(ImagePart(net), dc, "kspace", skip=skip), combine)
        return InImage(then(Refine(net, skip=skip, sign=1), data_consistency(dc, "image")))

    return Schedule(copies(cascades, share_weights, block))
