"""Reconstructions without iteration: the zero-filled image, and the root sum of squares of the coil images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrirecon.engine import Step
from mrirecon.networks import apply_network
from mrirecon.operators import Fourier, per_item, root_sum_of_squares
from mrirecon.problem import Problem


class ZeroFilled(Step[Tensor]):
    """x = Aᴴ y."""

    def init(self, p: Problem) -> Tensor:
        """Return Aᴴ y."""
        return p.adjoint

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Leave it as it is."""
        return s

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return it."""
        return s


class CoilImages(Step[Tensor]):
    """x = (Σ_c |Fᴴ y_c|²)^½ (Roemer et al., MRM 16:192, 1990). Needs no maps and shows no phase."""

    def init(self, p: Problem) -> Tensor:
        """Return the coil images Fᴴ y (B, C, *space)."""
        return Fourier(p.axes).adjoint(p.y)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Leave them as they are."""
        return s

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return their root sum of squares (B, 1, *space)."""
        magnitude = root_sum_of_squares(s, 1, keepdim=True)
        return torch.complex(magnitude, torch.zeros_like(magnitude))


class MagnitudeNet(Step[Tensor]):
    """The root sum of squares of the zero-filled coil images, normalised, clamped to ±6 deviations, through a network.

    fastMRI's baseline (Zbontar et al., arXiv 1811.08839).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def init(self, p: Problem) -> Tensor:
        """Start at the magnitude (B, 1, y, x)."""
        return root_sum_of_squares(Fourier(p.axes).adjoint(p.y), 1, keepdim=True)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the network in units of the image's mean and deviation."""
        flat = s.flatten(1)
        mean = per_item(flat.mean(1), s)
        deviation = per_item(flat.std(1), s).clamp_min(torch.finfo(s.dtype).tiny)
        seen = ((s - mean) / deviation).clamp(-6, 6)
        out: Tensor = apply_network(self.network, seen.to(p.networks or seen.dtype))
        return out.to(s.dtype) * deviation + mean

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return the magnitude."""
        return s
