"""Cascades of parts, on images or on k-space."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mrirecon.engine import Step
from mrirecon.methods.updates import Part
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.problem import Problem

Combine = Literal["sense", "rss"]


class InImage(Step[Tensor]):
    """x⁺ = part(x), from the initial image."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def init(self, p: Problem) -> Tensor:
        """Start at the initial image: Aᴴ y, if no other is given."""
        return p.starting_image

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the part."""
        out: Tensor = self.part(s, p)
        return out

    def zero_init_output(self) -> None:
        """Let the part leave the state as it is."""
        self.part.zero_init_output()

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return x."""
        return s


class InKspace(Step[Tensor]):
    """k⁺ = part(k), from the measured k-space, completed by the initial image if there is one.

    The image is Sᴴ Fᴴ k or the root sum of squares of the coil images.
    """

    needs_cartesian = True

    def __init__(self, part: Part, combine: Combine = "sense") -> None:
        super().__init__()
        self.part, self.combine, self.magnitude = part, combine, combine == "rss"

    def init(self, p: Problem) -> Tensor:
        """Start at y, and at the samples of the initial image where none were measured."""
        return p.y if p.initial_image is None else p.y + (1 - p.mask) * p.encode(p.initial_image)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the part."""
        out: Tensor = self.part(s, p)
        return out

    def zero_init_output(self) -> None:
        """Let the part leave the state as it is."""
        self.part.zero_init_output()

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Combine the coils."""
        if self.combine == "sense":
            return p.encode.adjoint(s)
        return root_sum_of_squares(Fourier(p.axes).adjoint(s), 1, keepdim=True)
