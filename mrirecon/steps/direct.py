"""Reconstructions without iteration: the zero-filled image, and the root sum of squares of the coil images."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.engine import Step
from mrirecon.operators import Fourier, root_sum_of_squares
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
