"""Define the recurrent inference machine of DIRECT, for weights trained there."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Features, Skip, Steps, copies
from mrirecon.methods.registry import register
from mrirecon.networks import ConvGru, apply_network, to_complex, to_real, zero_init_output
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem

Layers = Annotated[int, Field(ge=1, le=16, description="Number of recurrent units.")]
ShareSteps = Annotated[bool, Field(description="Use one set of weights for all steps.")]
FirstImage = Annotated[
    Literal["sense", "sum"], Field(description="Initial image: combined with the maps, or the sum of the coil images.")
]


class GruState(NamedTuple):
    """Hold the image and the hidden states."""

    x: Tensor  # (B, M, y, x)
    hidden: tuple[Tensor, ...]


class DirectRim(RunsNetwork, Step[GruState]):
    """Take one time step: h⁺, Δ = network([x, Aᴴ(A x − y)], h);  x⁺ = x + Δ, or Δ without skip (direct/nn/rim/rim.py).

    Args:
        network: the recurrent network.
        skip: whether to add x.
        first_image: ``sense`` is Aᴴ y or the initial image, ``sum`` the sum of the coil images (`zero_filled` in
            DIRECT).

    """

    def __init__(self, network: ConvGru, skip: bool, first_image: str) -> None:
        super().__init__()
        self.network, self.skip, self.first_image = network, skip, first_image

    def init(self, p: Problem) -> GruState:
        """Start at the initial image, with hidden states of zeros."""
        x = p.starting_image
        if self.first_image == "sum":
            x = p.coil_images.sum(1, keepdim=True).expand_as(x)
        return GruState(x, self.network.start(to_real(x, dtype=self.network_dtype)))

    def forward(self, s: GruState, p: Problem) -> GruState:
        """Return the next image and hidden states."""
        update, hidden = apply_network(self.network, to_real(s.x, p.gradient(s.x), dtype=self.network_dtype), s.hidden)
        x = to_complex(update, s.x.shape[1])
        return GruState(s.x + x if self.skip else x, hidden)

    def zero_init_output(self) -> None:
        """Initialize the network such that Δ = 0."""
        if self.skip:
            zero_init_output(self.network)


@register(learned=True)
def direct_rim(
    *,
    steps: Steps = 8,
    features: Features = 64,
    layers: Layers = 2,
    skip: Skip = True,
    first_image: FirstImage = "sense",
    share_steps: ShareSteps = True,
) -> Schedule[GruState]:
    """Recurrent inference machine as in DIRECT, with weights shared by all steps or not (arXiv 1706.04008)."""

    def block() -> DirectRim:
        return DirectRim(ConvGru(4, 2, features, layers), skip, first_image)

    if share_steps:
        return Schedule([block()], steps)
    return Schedule(copies(steps, False, block))
