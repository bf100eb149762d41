"""The recurrent inference machine: a network that learns to use the gradient, with a memory."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mrirecon.engine import Step
from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.networks.recurrent import RecurrentNet
from mrirecon.problem import Problem
from mrirecon.updates import Part


class RimState(NamedTuple):
    """The image, the hidden states of the network, and, in released forms alone, what the cascade started at."""

    x: Tensor
    hidden: tuple[Tensor, ...]
    k: Tensor | None = None


class Rim(Step[RimState]):
    """h⁺, Δ = network([x, Aᴴ(A x − y)], h),  x⁺ = x + Δ, then data consistency if asked for.

    Lønning et al., Med. Image Anal. 53:64, 2019; arXiv 2012.07819 eq. of the update; arXiv 2111.15498 for the cascade.

    Args:
        network: its parameters are shared over the steps.
        consistency: explicit data consistency after each step; None leaves it to the gradient (implicit).
        detach: no gradient flows into the cascade before: each is trained for itself, as in the first release.
        carry: the hidden states go on into the next cascade.

    """

    def __init__(
        self, network: RecurrentNet, consistency: Part | None = None, *, detach: bool = False, carry: bool = False
    ) -> None:
        super().__init__()
        self.network, self.consistency, self.detach, self.carry = network, consistency, detach, carry

    def init(self, p: Problem) -> RimState:
        """Start at the image to refine, without memory."""
        return RimState(p.first, self.network.start(to_real(p.first, dtype=p.networks)))

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the previous cascade's image."""
        x = previous.x.detach() if self.detach else previous.x
        hidden = previous.hidden if self.carry else self.network.start(to_real(x, dtype=p.networks))
        return RimState(x, tuple(h.detach() for h in hidden) if self.detach else hidden)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Take one step."""
        update, hidden = apply_network(self.network, to_real(s.x, p.gradient(s.x), dtype=p.networks), s.hidden)
        x = s.x + to_complex(update, s.x.shape[1])
        return RimState(x if self.consistency is None else self.consistency(x, p), hidden)

    def image(self, s: RimState, p: Problem) -> Tensor:
        """Return x."""
        return s.x
