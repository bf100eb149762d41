"""Define recurrent inference machines (RIM): recurrent networks whose input is the gradient of the data term."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Cell, DataConsistency, Features, Kernel, Steps, Symmetries
from mrirecon.methods.registry import register
from mrirecon.methods.updates import Part, data_consistency
from mrirecon.networks import RecurrentNet, apply_network, to_complex, to_real, zero_init_output
from mrirecon.networks.symmetry import symmetric_copies, symmetric_mean
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


class RimState(NamedTuple):
    """Hold the image, the hidden states, and the start of the cascade (`mrirecon.methods.released` only)."""

    x: Tensor  # (B, M, y, x)
    hidden: tuple[Tensor, ...]
    k: Tensor | None = None


class Rim(RunsNetwork, Step[RimState]):
    """Take one time step: h⁺, Δ = network([x, Aᴴ(A x − y)], h);  x⁺ = x + Δ;  then explicit data consistency, if any.

    Lønning et al., Med. Image Anal. 53:64, 2019; Karkalousos et al., arXiv 2012.07819 (cells), 2111.15498 (cascades).

    Args:
        network: recurrent network, whose weights are shared over the time steps.
        consistency: explicit data consistency after each step; None for implicit consistency by the gradient only.
        detach: stop gradients from flowing into the previous cascade.
        carry: pass the hidden states to the next cascade, which otherwise starts with zeros.
        symmetries: number of symmetric copies of the input over which Δ is averaged; see `mrirecon.networks.symmetry`.

    """

    follows_image = True

    def __init__(
        self,
        network: RecurrentNet,
        consistency: Part | None = None,
        *,
        detach: bool = False,
        carry: bool = False,
        symmetries: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.consistency, self.detach, self.carry = network, consistency, detach, carry
        self.symmetries = symmetries

    def init(self, p: Problem) -> RimState:
        """Start at the initial image, with hidden states of zeros."""
        x = p.starting_image
        return RimState(x, self.network.start(self._input(x)))

    def enter(self, previous: RimState | Tensor, p: Problem) -> RimState:
        """Start at the last image of the previous cascade, or at an image."""
        last = previous if isinstance(previous, Tensor) else previous.x
        x = last.detach() if self.detach else last
        carried = previous.hidden if self.carry and isinstance(previous, RimState) else None
        hidden = self.network.start(self._input(x)) if carried is None else carried
        return RimState(x, tuple(h.detach() for h in hidden) if self.detach else hidden)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Return the next image and hidden states."""
        update, hidden = apply_network(self.network, self._input(s.x, p.gradient(s.x)), s.hidden)
        x = s.x + to_complex(symmetric_mean(update, self.symmetries), s.x.shape[1])
        return RimState(x if self.consistency is None else self.consistency(x, p), hidden)

    def _input(self, *images: Tensor) -> Tensor:
        """Return the network's input, with its symmetric copies in the batch."""
        return symmetric_copies(to_real(*images, dtype=self.network_dtype), self.symmetries)

    def zero_init_output(self) -> None:
        """Initialize the network such that Δ = 0."""
        zero_init_output(self.network)


@register(learned=True)
def rim(
    *,
    cell: Cell = "gru",
    steps: Steps = 8,
    features: Features = 64,
    recurrent_kernel: Kernel = 1,
    dc: DataConsistency = "none",
    symmetries: Symmetries = 1,
) -> Schedule[RimState]:
    """Recurrent inference machine with GRU, MGU or IndRNN cells (arXiv 2012.07819).

    x⁺ = x + Δ with h⁺, Δ = network([x, Aᴴ(A x − y)], h), ``steps`` times.
    """
    network = RecurrentNet(4, 2, features, cell, recurrent_kernel)
    return Schedule([Rim(network, data_consistency(dc, "image"), symmetries=symmetries)], steps)


@register(learned=True)
def irim(
    *,
    steps: Steps = 8,
    features: Features = 64,
    recurrent_kernel: Kernel = 1,
    dc: DataConsistency = "none",
    symmetries: Symmetries = 1,
) -> Schedule[RimState]:
    """Independently recurrent inference machine: one cascade of a CIRIM (arXiv 2111.15498). Not the invertible RIM."""
    return rim(
        cell="indrnn", steps=steps, features=features, recurrent_kernel=recurrent_kernel, dc=dc, symmetries=symmetries
    )
