"""Cascades of parts, on images or on k-space."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mrirecon.engine import Step
from mrirecon.operators import Fourier, root_sum_of_squares
from mrirecon.problem import Problem
from mrirecon.updates import Part

Combine = Literal["sense", "rss"]


class InImage(Step[Tensor]):
    """x⁺ = part(x), from the image to refine."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def init(self, p: Problem) -> Tensor:
        """Start at the image to refine: Aᴴ y, if no other is given."""
        return p.first

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the part."""
        out: Tensor = self.part(s, p)
        return out

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return x."""
        return s


class InKspace(Step[Tensor]):
    """k⁺ = part(k), from the measured k-space, completed by the image to refine if there is one.

    The image is Sᴴ Fᴴ k or the root sum of squares of the coil images.
    """

    def __init__(self, part: Part, combine: Combine = "sense") -> None:
        super().__init__()
        self.part, self.combine = part, combine

    def init(self, p: Problem) -> Tensor:
        """Start at y, and where nothing was measured at what the image to refine says."""
        return p.y if p.start is None else p.y + (1 - p.mask) * p.encode(p.start)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the part."""
        out: Tensor = self.part(s, p)
        return out

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Combine the coils."""
        if self.combine == "sense":
            return p.encode.adjoint(s)
        return root_sum_of_squares(Fourier(p.axes).adjoint(s), 1, keepdim=True)
