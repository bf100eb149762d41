"""Define KIKI-net: alternating networks on k-space and on the image."""

from __future__ import annotations

from torch import Tensor

from mrirecon.engine import Schedule
from mrirecon.methods.options import Cascades, Channels, DataConsistency, Pools, ShareWeights, Skip, copies
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InKspace
from mrirecon.methods.updates import Chain, ImagePart, NetworkPart, Refine, data_consistency, then
from mrirecon.networks import NormUnet


@register(learned=True)
def kikinet(
    *,
    cascades: Cascades = 2,
    channels: Channels = 16,
    pools: Pools = 2,
    dc: DataConsistency = "soft",
    skip: Skip = True,
    share_weights: ShareWeights = False,
) -> Schedule[Tensor]:
    """KIKI-net: networks on k-space and on the image in turn (Eo et al., MRM 80:2188, 2018).

    k⁺ = DC(k₁ − F S U₂(Sᴴ Fᴴ k₁)) with k₁ = DC(k − U₁(k)).
    """

    def block() -> InKspace:
        on_kspace = then(Refine(NetworkPart(NormUnet(channels, pools)), skip=skip), data_consistency(dc, "kspace"))
        on_image = Refine(ImagePart(NetworkPart(NormUnet(channels, pools))), skip=skip)
        return InKspace(then(Chain(on_kspace, on_image), data_consistency(dc, "kspace")))

    return Schedule(copies(cascades, share_weights, block))
