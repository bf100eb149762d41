"""Define the end-to-end variational network (E2EVN)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mrirecon.coils.sensitivity_net import SensitivityNet
from mrirecon.engine import Schedule
from mrirecon.methods.options import (
    Cascades,
    Channels,
    Combine,
    DataConsistency,
    NormalizeInput,
    Padding,
    Pools,
    ShareWeights,
    Sign,
    Skip,
    copies,
)
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InKspace
from mrirecon.methods.updates import ImagePart, NetworkPart, cascade
from mrirecon.networks import NormUnet

Sensitivity = Annotated[bool, Field(description="Estimate the coil maps by a separate network.")]


@register(learned=True)
def e2evn(
    *,
    cascades: Cascades = 12,
    channels: Channels = 18,
    pools: Pools = 4,
    dc: DataConsistency = "soft",
    skip: Skip = True,
    sign: Sign = -1,
    combine: Combine = "rss",
    sensitivity: Sensitivity = True,
    sensitivity_channels: Channels = 8,
    sensitivity_pools: Pools = 4,
    share_weights: ShareWeights = False,
    padding: Padding = -1,
    normalize: NormalizeInput = True,
) -> Schedule[Tensor]:
    """End-to-end variational network on k-space, with estimated or given coil maps (Sriram et al., MICCAI 2020).

    k⁺ = k − η M(k − y) − F S U(Sᴴ Fᴴ k), with a U-Net U and a weight η for each cascade.
    """

    def block() -> InKspace:
        unet = NormUnet(channels, pools, padding=None if padding < 0 else padding, normalize=normalize)
        network = ImagePart(NetworkPart(unet))
        return InKspace(cascade(network, dc, "kspace", skip=skip, sign=sign), combine)

    prepare = SensitivityNet(sensitivity_channels, sensitivity_pools) if sensitivity else None
    return Schedule(copies(cascades, share_weights, block), prepare=prepare)
