"""Apply the parts of a cascade to images or to k-space."""

from __future__ import annotations

from torch import Tensor

from mrirecon.engine import Step
from mrirecon.methods.updates import IN_KSPACE, Part, Refine
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.problem import Problem


class _ApplyPart(Step[Tensor]):
    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Apply the part."""
        out: Tensor = self.part(s, p)
        return out

    def zero_init_output(self) -> None:
        """Initialize the refinements so that they add nothing."""
        for module in self.part.modules():
            if isinstance(module, Refine):
                module.zero_init_output()


class InImage(_ApplyPart):
    """Apply a part to the image, x⁺ = part(x), from the initial image."""

    follows_image = True

    def init(self, p: Problem) -> Tensor:
        """Start at the initial image (B, M, *space); Aᴴ y by default."""
        return p.starting_image


class InKspace(_ApplyPart):
    """Apply a part to k-space, k⁺ = part(k), from the measured samples and the initial image, if there is one.

    Args:
        part: for k-space (B, C, *space).
        combine: ``sense`` returns the image Sᴴ Fᴴ k, ``rss`` the root sum of squares of the coil images.

    """

    needs_cartesian = IN_KSPACE

    def __init__(self, part: Part, combine: str = "sense") -> None:
        super().__init__(part)
        self.combine, self.magnitude = combine, combine == "rss"

    def init(self, p: Problem) -> Tensor:
        """Start at y, with the samples of the initial image where nothing was measured."""
        return p.y if p.initial_image is None else p.y + (1 - p.mask) * p.encode(p.initial_image)

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Combine the coils."""
        if self.combine == "sense":
            return p.encode.adjoint(s)
        return root_sum_of_squares(Fourier(p.axes).adjoint(s), 1, keepdim=True)
