"""The deep cascade of convolutional networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Count, copies
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InImage, InKspace
from mrirecon.methods.updates import Consistency, Lift, Net, Refine, cascade, data_consistency, then
from mrirecon.networks import ConvStack


@register(learned=True)
def cascadenet(
    *,
    cascades: Count = 10,
    channels: Count = 64,
    layers: Annotated[int, Field(ge=2)] = 5,
    dc: Consistency = "soft",
    skip: bool = True,
    order: Literal["network first", "together"] = "network first",
    shared_prelu: bool = False,
    share: bool = False,
) -> Schedule[Tensor]:
    """Deep cascade of convolutions and data consistency (Schlemper et al., IEEE TMI 37:491, 2018).

    x⁺ = DC(x + CNN(x)). order="together" is the released multi-coil form, on k-space, with both terms at the same
    state; there, one PReLU serves all layers of all cascades (shared_prelu).
    """
    activation = nn.PReLU() if shared_prelu else None

    def block() -> Step[Tensor]:
        net = Net(ConvStack(2, channels, layers, activation))
        if order == "together":
            return InKspace(cascade(Lift(net), dc, "kspace", skip=skip))
        return InImage(then(Refine(net, skip=skip, sign=1), data_consistency(dc, "image")))

    return Schedule(copies(cascades, share, block))
