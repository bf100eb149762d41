"""Define cascades of independently recurrent inference machines (CIRIM)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mrirecon.engine import Schedule
from mrirecon.errors import UsageError
from mrirecon.methods.options import (
    Cascades,
    Cell,
    Count,
    DataConsistency,
    Features,
    Kernel,
    ShareWeights,
    Steps,
    Symmetries,
    copies,
)
from mrirecon.methods.registry import register
from mrirecon.methods.released import released_cirim
from mrirecon.methods.rim import Rim, RimState
from mrirecon.methods.updates import data_consistency
from mrirecon.networks import RecurrentNet

Detach = Annotated[bool, Field(description="Train each cascade separately: stop gradients between cascades.")]
CarryHidden = Annotated[bool, Field(description="Pass the hidden states on to the next cascade.")]
Passes = Annotated[
    Count,
    Field(description="Apply all cascades this many times, each time from the last image: more for few samples."),
]
Compat = Annotated[
    Literal["none", "mridc-0.0.1", "mridc-0.2", "atommic-1.0", "direct-2.1"],
    Field(description="Variant released by another toolkit; it sets detach and carry_hidden."),
]


@register(learned=True)
def cirim(
    *,
    cascades: Cascades = 5,
    steps: Steps = 8,
    features: Features = 64,
    cell: Cell = "indrnn",
    recurrent_kernel: Kernel = 1,
    dc: DataConsistency = "none",
    detach: Detach = False,
    carry_hidden: CarryHidden = False,
    share_weights: ShareWeights = False,
    symmetries: Symmetries = 1,
    passes: Passes = 1,
    compat: Compat = "none",
) -> Schedule[RimState]:
    """Cascades of independently recurrent inference machines (arXiv 2111.15498).

    x_t+1 = x_t + RIM(x_t, Aᴴ(A x_t − y)), ``steps`` times; the next cascade starts at the last image of the one before.
    """
    if compat != "none":
        if symmetries > 1 or passes > 1:
            raise UsageError(
                f"{compat} has no symmetries and one pass",
                where="symmetries" if symmetries > 1 else "passes",
                why="its network is applied as the toolkit released it",
                fix="use symmetries=1 and passes=1, or compat=none",
            )
        return released_cirim(compat, cascades, steps, features, cell, recurrent_kernel, dc, share_weights)

    def block() -> Rim:
        network = RecurrentNet(4, 2, features, cell, recurrent_kernel)
        return Rim(network, data_consistency(dc, "image"), detach=detach, carry=carry_hidden, symmetries=symmetries)

    return Schedule(copies(cascades, share_weights, block) * passes, steps)
