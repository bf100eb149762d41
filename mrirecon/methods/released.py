"""The CIRIM as other toolkits released it, so that weights trained there can be used."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mrirecon.engine import Schedule
from mrirecon.errors import UsageError
from mrirecon.methods.options import copies
from mrirecon.methods.rim import Rim, RimState
from mrirecon.methods.updates import Consistency, data_consistency
from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.networks.recurrent import CellName, RecurrentNet
from mrirecon.physics.problem import Problem

Compat = Literal["none", "mridc-0.0.1", "mridc-0.2", "atommic-1.0", "direct-2.1"]


class ReleasedRim(Rim):
    """Explicit consistency of mridc 0.0.1 to 0.2: a cascade ends in k⁺ = y − η M(k − y) − F S x.

    By its sign x is minus what is missing, against the gradient, which pulls M F S x to y. `Rim` with ``consistency``
    has the right sign; this one is for weights that were trained with it.
    """

    needs_cartesian = True

    def __init__(self, network: RecurrentNet, *, detach: bool, carry: bool) -> None:
        super().__init__(network, None, detach=detach, carry=carry)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def init(self, p: Problem) -> RimState:
        """Start at the initial image; the k-space before is the data."""
        return super().init(p)._replace(k=p.y)

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the image of the k-space that the previous cascade ended in."""
        k = self._end(previous, p)
        k = k.detach() if self.detach else k
        return super().enter(previous, p)._replace(x=p.encode.adjoint(k), k=k)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Take one step; the k-space before is unchanged."""
        return super().forward(s, p)._replace(k=s.k)

    def image(self, s: RimState, p: Problem) -> Tensor:
        """Return the image of k⁺."""
        return p.encode.adjoint(self._end(s, p))

    def zero_init_output(self) -> None:
        """Do nothing: without the network's part, the image is not the one that it started at."""

    def _end(self, s: RimState, p: Problem) -> Tensor:
        assert s.k is not None, "the state of another step"
        return p.y - self.dc_weight * (p.mask * (s.k - p.y)) - p.encode(s.x)


class FrozenRim(Rim):
    """The cascade of DIRECT 2.1: every step reads the image that the cascade started at, and returns x₀ + ReLU(Δ).

    Only the hidden states advance; the gradient comes before the image in the network's input. Its cascades are
    detached, and start without memory (direct/nn/cirim/cirim.py, `no_parameter_sharing`).
    """

    def __init__(self, network: RecurrentNet) -> None:
        super().__init__(network, None, detach=True, carry=False)

    def init(self, p: Problem) -> RimState:
        """Start at the initial image."""
        return super().init(p)._replace(k=p.starting_image)

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the last image of the previous cascade."""
        start = super().enter(previous, p)
        return start._replace(k=start.x)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Advance the hidden states, and return an image."""
        assert s.k is not None, "the state of another step"
        update, hidden = apply_network(self.network, to_real(p.gradient(s.k), s.k, dtype=self.network_dtype), s.hidden)
        return RimState(s.k + to_complex(update, s.k.shape[1]), hidden, s.k)

    def zero_init_output(self) -> None:
        """Do nothing: a ReLU whose input is zero has no gradient."""


def released_cirim(
    compat: Compat,
    *,
    cascades: int,
    steps: int,
    features: int,
    cell: CellName,
    recurrent_kernel: int,
    dc: Consistency,
    share: bool,
) -> Schedule[RimState]:
    """Return the schedule of a release, whose form overrides ``detach`` and ``carry``.

    mridc detaches between cascades, ATOMMIC carries the hidden states on; both but mridc 0.0.1 round the steps up to a
    multiple of 8. ``dc="soft"`` is their own explicit consistency. DIRECT never updates the image within a cascade (see
    `FrozenRim`), and detaches.

    Raises:
        UsageError: a consistency that the release does not have.

    """
    detach, carry = compat.startswith("mridc"), compat.startswith("atommic")
    steps = steps if compat in ("mridc-0.0.1", "direct-2.1") else 8 * -(-steps // 8)
    soft = compat.startswith("mridc") or (compat == "atommic-1.0" and cascades == 1)
    if dc != "none" and not (dc == "soft" and soft):
        raise UsageError(
            f"{compat} has no dc={dc!r} for {cascades} cascades",
            why="explicitly, it is soft; ATOMMIC's hands k-space to the next cascade as an image, DIRECT's is not here",
            fix="use dc=none, or compat=none, or mridc-0.2 with dc=soft",
        )

    def block() -> Rim:
        network = RecurrentNet(4, 2, features, cell, recurrent_kernel, positive=compat == "direct-2.1")
        if compat == "direct-2.1":
            return FrozenRim(network)
        if dc == "soft":
            return ReleasedRim(network, detach=detach, carry=carry)
        return Rim(network, data_consistency(dc, "image"), detach=detach, carry=carry)

    return Schedule(copies(cascades, share, block), steps)
