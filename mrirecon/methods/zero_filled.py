"""Define the zero-filled image."""

from __future__ import annotations

from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.registry import register
from mrirecon.physics.problem import Problem


class ZeroFilled(Step[Tensor]):
    """Return x = Aᴴ y, without iterations."""

    def init(self, p: Problem) -> Tensor:
        """Return Aᴴ y (B, M, *space)."""
        return p.zero_filled

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the image unchanged."""
        return s


@register()
def zero_filled() -> Schedule[Tensor]:
    """Zero-filled image: the SENSE combination of the measured data, Aᴴ y."""
    return Schedule([ZeroFilled()])
