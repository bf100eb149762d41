"""Recurrent inference machines as released code has them, so that weights trained with it can be used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.networks.recurrent import RecurrentNet
from mrirecon.problem import Problem
from mrirecon.steps.rim import Rim, RimState


class ReleasedRim(Rim):
    """The released code's explicit consistency: a cascade ends in k⁺ = y − η M(k − y) − F S x.

    Its sign makes x stand for minus what is missing, against the gradient that pulls M F S x to y. It is here so that
    weights trained so can be used; `Rim` with ``consistency`` is the right form (mridc 0.0.1 to 0.2).
    """

    def __init__(self, network: RecurrentNet, *, detach: bool, carry: bool) -> None:
        super().__init__(network, None, detach=detach, carry=carry)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def init(self, p: Problem) -> RimState:
        """Start at the zero-filled image; the k-space before is the data."""
        return super().init(p)._replace(k=p.y)

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the image of the k-space that the cascade before ended in."""
        k = self._end(previous, p)
        k = k.detach() if self.detach else k
        return super().enter(previous, p)._replace(x=p.encode.adjoint(k), k=k)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Take one step, which leaves the k-space before as it is."""
        return super().forward(s, p)._replace(k=s.k)

    def image(self, s: RimState, p: Problem) -> Tensor:
        """Return the image of k⁺."""
        return p.encode.adjoint(self._end(s, p))

    def _end(self, s: RimState, p: Problem) -> Tensor:
        assert s.k is not None, "made by another step"
        return p.y - self.dc_weight * (p.mask * (s.k - p.y)) - p.encode(s.x)


class FrozenRim(Rim):
    """DIRECT's cascade: every step sees the image that the cascade started at, and shows x₀ + ReLU(Δ).

    Only the hidden states advance; the gradient comes before the image in the network's input. Its cascades are
    detached, and begin without memory (direct/nn/cirim/cirim.py, `no_parameter_sharing`).
    """

    def __init__(self, network: RecurrentNet) -> None:
        super().__init__(network, None, detach=True, carry=False)

    def init(self, p: Problem) -> RimState:
        """Start at the zero-filled image."""
        return super().init(p)._replace(k=p.adjoint)

    def enter(self, previous: RimState, p: Problem) -> RimState:
        """Start at the image that the cascade before showed last."""
        start = super().enter(previous, p)
        return start._replace(k=start.x)

    def forward(self, s: RimState, p: Problem) -> RimState:
        """Advance the hidden states, and show an image."""
        assert s.k is not None, "made by another step"
        update, hidden = apply_network(self.network, to_real(p.gradient(s.k), s.k, dtype=p.networks), s.hidden)
        return RimState(s.k + to_complex(update, s.k.shape[1]), hidden, s.k)
