"""Cascades of independently recurrent inference machines."""

from __future__ import annotations

from mrirecon.engine import Schedule
from mrirecon.methods.options import Count, Kernel, copies
from mrirecon.methods.registry import register
from mrirecon.methods.released import Compat, released_cirim
from mrirecon.methods.rim import Rim, RimState
from mrirecon.methods.updates import Consistency, data_consistency
from mrirecon.networks.recurrent import CellName, RecurrentNet


@register(learned=True)
def cirim(
    *,
    cascades: Count = 5,
    steps: Count = 8,
    features: Count = 64,
    cell: CellName = "indrnn",
    recurrent_kernel: Kernel = 1,
    dc: Consistency = "none",
    detach: bool = False,
    carry: bool = False,
    share: bool = False,
    compat: Compat = "none",
) -> Schedule[RimState]:
    """Cascades of independently recurrent inference machines (arXiv 2111.15498).

    Each cascade starts at the image of the one before (`Rim.enter`). ``compat`` is a form that another toolkit
    released, and overrides detach and carry; see `mrirecon.methods.released`.
    """
    if compat != "none":
        return released_cirim(
            compat,
            cascades=cascades,
            steps=steps,
            features=features,
            cell=cell,
            recurrent_kernel=recurrent_kernel,
            dc=dc,
            share=share,
        )

    def block() -> Rim:
        network = RecurrentNet(4, 2, features, cell, recurrent_kernel)
        return Rim(network, data_consistency(dc, "image"), detach=detach, carry=carry)

    return Schedule(copies(cascades, share, block), steps)
