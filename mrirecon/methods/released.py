"""Define the CIRIM variants of other toolkits, for weights trained there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrirecon.engine import Schedule
from mrirecon.errors import UsageError
from mrirecon.methods.options import Cell, DataConsistency, copies
from mrirecon.methods.rim import Rim, RimState
from mrirecon.methods.updates import IN_KSPACE, data_consistency
from mrirecon.networks import RecurrentNet, apply_network, to_complex, to_real
from mrirecon.physics.problem import Problem


class ReleasedRim(Rim):
    """End each cascade with the explicit consistency of mridc 0.0.1 to 0.2: k⁺ = y − η M(k − y) − F S x.

    The sign of F S x is wrong: the network must output the negative of the missing part of the image, while its input
    gradient drives M F S x towards y. `Rim` with ``consistency`` has the correct sign. Here, k is the k-space at the
    start of the cascade.
    """

    needs_cartesian = IN_KSPACE
    follows_image = False  # its state is k-space

    def __init__(self, network: RecurrentNet, *, detach: bool, carry: bool) -> None:
        super().__init__(network, detach=detach, carry=carry)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def init(self, p: Problem) -> RimState:
        """Start at the initial image, with k = y."""
        return super().init(p)._replace(k=p.y)

    def enter(self, previous: RimState | Tensor, p: Problem) -> RimState:
        """Start at the last k-space and image of the previous cascade."""
        assert isinstance(previous, RimState), "see follows_image"
        k = self._end(previous, p)
        k = k.detach() if self.detach else k
        return super().enter(previous, p)._replace(x=p.encode.adjoint(k), k=k)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Return the state after one step, with the same k."""
        return super().forward(s, p)._replace(k=s.k)

    def image(self, s: RimState, p: Problem) -> Tensor:
        """Return the image of k⁺."""
        return p.encode.adjoint(self._end(s, p))

    def zero_init_output(self) -> None:
        """Do nothing: with zero network output, k⁺ is not the initial k-space."""

    def _end(self, s: RimState, p: Problem) -> Tensor:
        assert s.k is not None, "the state of another step"
        return p.y - self.dc_weight * (p.mask * (s.k - p.y)) - p.encode(s.x)


class FrozenRim(Rim):
    """Return x₀ + ReLU(Δ) at every step, as DIRECT 2.1, with x₀ the image at the start of the cascade.

    The network's input is the gradient at x₀ followed by x₀, and only the hidden states change from step to step. Its
    cascades are detached (direct/nn/cirim/cirim.py, `no_parameter_sharing`). The state's k holds x₀.
    """

    def __init__(self, network: RecurrentNet) -> None:
        super().__init__(network, detach=True)

    def init(self, p: Problem) -> RimState:
        """Start at the initial image."""
        return super().init(p)._replace(k=p.starting_image)

    def enter(self, previous: RimState | Tensor, p: Problem) -> RimState:
        """Start at the last image of the previous cascade."""
        start = super().enter(previous, p)
        return start._replace(k=start.x)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Return the next hidden states and image."""
        assert s.k is not None, "the state of another step"
        update, hidden = apply_network(self.network, to_real(p.gradient(s.k), s.k, dtype=self.network_dtype), s.hidden)
        return RimState(s.k + to_complex(update, s.k.shape[1]), hidden, s.k)

    def zero_init_output(self) -> None:
        """Do nothing: a ReLU has no gradient at zero."""


def released_cirim(
    compat: str,
    cascades: int,
    steps: int,
    features: int,
    cell: Cell,
    recurrent_kernel: int,
    dc: DataConsistency,
    share_weights: bool,
) -> Schedule[RimState]:
    """Return the schedule of a variant; the arguments are options of `mrirecon.methods.cirim.cirim`.

    mridc and DIRECT stop gradients between cascades, ATOMMIC passes the hidden states on. mridc 0.2 and ATOMMIC round
    the number of steps up to a multiple of 8. ``dc="soft"`` is `ReleasedRim`.

    Raises:
        UsageError: the variant does not have this data consistency.

    """
    detach, carry = compat.startswith("mridc"), compat == "atommic-1.0"
    steps = 8 * -(-steps // 8) if compat in ("mridc-0.2", "atommic-1.0") else steps
    has_soft = compat.startswith("mridc") or (compat == "atommic-1.0" and cascades == 1)
    if dc != "none" and not (dc == "soft" and has_soft):
        raise UsageError(
            f"{compat} has no dc={dc} for {cascades} cascades",
            where="dc",
            why="mridc supports dc=soft, ATOMMIC supports dc=soft for one cascade, DIRECT supports dc=none",
            fix="use dc=none, or compat=none, or compat=mridc-0.2 with dc=soft",
        )

    def block() -> Rim:
        network = RecurrentNet(4, 2, features, cell, recurrent_kernel, positive=compat == "direct-2.1")
        if compat == "direct-2.1":
            return FrozenRim(network)
        if dc == "soft":
            return ReleasedRim(network, detach=detach, carry=carry)
        return Rim(network, data_consistency(dc, "image"), detach=detach, carry=carry)

    return Schedule(copies(cascades, share_weights, block), steps)
