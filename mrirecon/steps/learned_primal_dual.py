"""The primal-dual method with its proximal maps learned."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mrirecon.engine import Step
from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.problem import Problem


class Buffers(NamedTuple):
    """Several images and several k-spaces: what the iteration remembers."""

    primal: Tensor  # (B, N, M, y, x)
    dual: Tensor  # (B, N, C, y, x)


class LearnedPrimalDual(Step[Buffers]):
    """h⁺ = h + D(h, A f₂, y),  f⁺ = f + P(f, Aᴴ h₁⁺), on N buffers each; the image is f₁.

    Adler and Öktem, IEEE TMI 37:1322, 2018. Released MRI code leaves "h +" and "f +" away: ``residual=False``.

    Args:
        primal: network from 2(N + 1) channels to 2N.
        dual: network from 2(N + 2) channels to 2N, applied to each coil.
        count: N.
        start: the dual starts at copies of the data, or at zero.
        residual: whether the networks' output is added to the buffers or replaces them.

    """

    def __init__(
        self, primal: nn.Module, dual: nn.Module, count: int, start: Literal["data", "zero"], residual: bool
    ) -> None:
        super().__init__()
        self.primal, self.dual, self.count, self.start, self.residual = primal, dual, count, start, residual

    def init(self, p: Problem) -> Buffers:
        """Start at copies of the zero-filled image and of the data."""
        y = p.y if self.start == "data" else torch.zeros_like(p.y)
        return Buffers(*(s.unsqueeze(1).expand(-1, self.count, *[-1] * (s.ndim - 1)) for s in (p.adjoint, y)))

    def forward(self, s: Buffers, p: Problem) -> Buffers:
        """Update the dual, then the primal buffers."""
        second = s.primal[:, min(1, self.count - 1)]
        dual = self._apply_to(self.dual, p, s.dual, p.A(second), p.y)
        return Buffers(self._apply_to(self.primal, p, s.primal, p.A.adjoint(dual[:, 0])), dual)

    def _apply_to(self, network: nn.Module, p: Problem, buffers: Tensor, *more: Tensor) -> Tensor:
        out = apply_network(network, to_real(*buffers.unbind(1), *more, dtype=p.networks))
        made = torch.stack([to_complex(pair, buffers.shape[2]) for pair in out.split(2, 1)], 1)
        return buffers + made if self.residual else made

    def image(self, s: Buffers, p: Problem) -> Tensor:
        """Return the first primal buffer."""
        return s.primal[:, 0]
