"""The invertible recurrent inference machine, whose steps can be undone."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.networks.invertible import InvertibleNet
from mrirecon.problem import Problem


class InvertibleRim(Step[Tensor]):
    """z₂ += Aᴴ(A z₁ − y), then z⁺ = network(z), for z = [z₁, z₂, …]: the image, and latent channels.

    Putzky and Welling, arXiv 1911.10914. Both halves of a step are undone exactly, so training with ``memory="invert"``
    stores one state, whatever the number of steps.
    """

    def __init__(self, network: InvertibleNet, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def init(self, p: Problem) -> Tensor:
        """Start at the zero-filled image, latent channels zero: (B·M, channels, y, x) real."""
        x = to_real(p.adjoint)
        return torch.cat([x, x.new_zeros(x.shape[0], self.channels - 2, *x.shape[2:])], 1)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Add the gradient, apply the network."""
        seen = self._add_gradient(s, p, 1)
        out: Tensor = apply_network(self.network, seen.to(p.networks or s.dtype))
        return out.to(s.dtype)

    def inverse(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state that ``forward`` maps to s."""
        return self._add_gradient(self.network.inverse(s), p, -1)

    def _add_gradient(self, s: Tensor, p: Problem, sign: int) -> Tensor:
        gradient = to_real(p.gradient(self.image(s, p)))
        return torch.cat([s[:, :2], s[:, 2:4] + sign * gradient.to(s.dtype), s[:, 4:]], 1)

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return z₁ as complex numbers."""
        return to_complex(s[:, :2], p.maps.shape[1])
