"""Recurrent inference machines: a network with a memory that learns to use the gradient."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Count, Kernel
from mrirecon.methods.registry import register
from mrirecon.methods.updates import Consistency, Part, data_consistency
from mrirecon.networks.crossing import apply_network, to_complex, to_real, zero_init_output
from mrirecon.networks.recurrent import CellName, RecurrentNet
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


class RimState(NamedTuple):
    """The image, the hidden states of the network, and, for released forms alone, where the cascade started."""

    x: Tensor
    hidden: tuple[Tensor, ...]
    k: Tensor | None = None


class Rim(RunsNetwork, Step[RimState]):
    """h⁺, Δ = network([x, Aᴴ(A x − y)], h),  x⁺ = x + Δ, then data consistency if asked for.

    Lønning et al., Med. Image Anal. 53:64, 2019; arXiv 2012.07819 eq. of the update; arXiv 2111.15498 for the cascade.

    Args:
        network: its parameters are shared over the steps.
        consistency: explicit data consistency after each step; None for implicit consistency, by the gradient alone.
        detach: no gradient flows into the previous cascade: each cascade is trained by itself, as in the first release.
        carry: the hidden states are passed on to the next cascade.

    """

    def __init__(
        self, network: RecurrentNet, consistency: Part | None = None, *, detach: bool = False, carry: bool = False
    ) -> None:
        super().__init__()
        self.network, self.consistency, self.detach, self.carry = network, consistency, detach, carry

    def init(self, p: Problem) -> RimState:
        """Start at the initial image, without memory."""
        x = p.starting_image
        return RimState(x, self.network.start(to_real(x, dtype=self.network_dtype)))

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the previous cascade's image."""
        x = previous.x.detach() if self.detach else previous.x
        hidden = previous.hidden if self.carry else self.network.start(to_real(x, dtype=self.network_dtype))
        return RimState(x, tuple(h.detach() for h in hidden) if self.detach else hidden)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Take one step."""
        update, hidden = apply_network(self.network, to_real(s.x, p.gradient(s.x), dtype=self.network_dtype), s.hidden)
        x = s.x + to_complex(update, s.x.shape[1])
        return RimState(x if self.consistency is None else self.consistency(x, p), hidden)

    def image(self, s: RimState, p: Problem) -> Tensor:
        """Return x."""
        return s.x

    def zero_init_output(self) -> None:
        """Let the network's update be zero."""
        zero_init_output(self.network)


@register(learned=True)
def rim(
    *,
    cell: CellName = "gru",
    steps: Count = 8,
    features: Count = 64,
    recurrent_kernel: Kernel = 1,
    dc: Consistency = "none",
) -> Schedule[RimState]:
    """Recurrent inference machine with GRU, MGU or IndRNN cells (arXiv 2012.07819)."""
    network = RecurrentNet(4, 2, features, cell, recurrent_kernel)
    return Schedule([Rim(network, data_consistency(dc, "image"))], steps)


@register(learned=True)
def irim(
    *, steps: Count = 8, features: Count = 64, recurrent_kernel: Kernel = 1, dc: Consistency = "none"
) -> Schedule[RimState]:
    """Independently recurrent inference machine: one cascade of a CIRIM (arXiv 2111.15498). Not the invertible RIM."""
    return rim(cell="indrnn", steps=steps, features=features, recurrent_kernel=recurrent_kernel, dc=dc)
