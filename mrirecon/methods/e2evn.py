"""The end-to-end variational network."""

from __future__ import annotations

from torch import Tensor

from mrirecon.coils.sensitivity_net import SensitivityNet
from mrirecon.engine import Schedule
from mrirecon.methods.options import Count, Pools, copies
from mrirecon.methods.registry import register
from mrirecon.methods.steps import InKspace
from mrirecon.methods.steps.cascade import Combine
from mrirecon.methods.updates import Consistency, Lift, Net, Sign, cascade
from mrirecon.networks import NormUnet


@register(learned=True)
def e2evn(
    *,
    cascades: Count = 12,
    channels: Count = 18,
    pools: Pools = 4,
    dc: Consistency = "soft",
    skip: bool = True,
    sign: Sign = -1,
    combine: Combine = "rss",
    sensitivity: bool = True,
    sensitivity_channels: Count = 8,
    sensitivity_pools: Pools = 4,
    share: bool = False,
) -> Schedule[Tensor]:
    """End-to-end variational network on k-space, with its own or with given coil maps (Sriram et al., MICCAI 2020).

    k⁺ = k − η M(k − y) − F S U(Sᴴ Fᴴ k), with a U-Net U and a weight η of its own in each cascade.
    """

    def block() -> InKspace:
        refine = cascade(Lift(Net(NormUnet(channels, pools))), dc, "kspace", skip=skip, sign=sign)
        return InKspace(refine, combine)

    prepare = SensitivityNet(sensitivity_channels, sensitivity_pools) if sensitivity else None
    return Schedule(copies(cascades, share, block), prepare=prepare)
