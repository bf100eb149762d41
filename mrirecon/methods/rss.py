"""Define the root sum of squares of the coil images."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.registry import register
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.physics.problem import Problem


class CoilImages(Step[Tensor]):
    """Combine the coil images: x = (Σ_c |Fᴴ y_c|²)^½ (Roemer et al., MRM 16:192, 1990)."""

    def init(self, p: Problem) -> Tensor:
        """Return the coil images Fᴴ y (B, C, *space)."""
        return p.coil_images

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the coil images unchanged."""
        return s

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return the root sum of squares (B, 1, *space), complex with phase zero."""
        magnitude = root_sum_of_squares(s, 1, keepdim=True)
        return torch.complex(magnitude, torch.zeros_like(magnitude))


@register(maps=False)
def rss() -> Schedule[Tensor]:
    """Root sum of squares of the zero-filled coil images; needs no maps and loses the phase."""
    return Schedule([CoilImages()])
