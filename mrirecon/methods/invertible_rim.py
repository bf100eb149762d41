"""Define the invertible recurrent inference machine (i-RIM)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Count, ShareWeights, copies
from mrirecon.methods.registry import register
from mrirecon.networks import InvertibleNet, apply_network, to_complex, to_real
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem

StepCount = Annotated[Count, Field(description="Number of steps, each with a separate network.")]
StateChannels = Annotated[int, Field(ge=4, multiple_of=2, description="Channels of the state.")]
Width = Annotated[Count, Field(description="Channels inside the finest layers of the network.")]
DILATIONS = (1, 1, 2, 2, 4, 8, 8, 4, 2, 2, 1, 1)
WIDTHS = (1, 1, 2, 2, 4, 16, 16, 4, 2, 2, 1, 1)  # multiplied by the option ``width``


class InvertibleRim(RunsNetwork, Step[Tensor]):
    """Add the gradient, z₂ += Aᴴ(A z₁ − y), then apply the network, z⁺ = network(z).

    The state z = [z₁, z₂, …] has the image z₁ and latent channels.

    Putzky and Welling, arXiv 1911.10914. Both operations are invertible, so that training with ``memory="invert"``
    stores one state, whatever the number of steps.
    """

    def __init__(self, network: InvertibleNet, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def init(self, p: Problem) -> Tensor:
        """Start at the initial image and latent channels of zeros: (B·M, channels, y, x) real."""
        x = to_real(p.starting_image)
        return torch.cat([x, x.new_zeros(x.shape[0], self.channels - 2, *x.shape[2:])], 1)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Add the gradient to z₂, then apply the network."""
        z = self._add_gradient(s, p, 1)
        out: Tensor = apply_network(self.network, z.to(self.network_dtype or s.dtype))
        return out.to(s.dtype)

    def inverse(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state that ``forward`` maps to s."""
        return self._add_gradient(self.network.inverse(s), p, -1)

    def _add_gradient(self, s: Tensor, p: Problem, sign: int) -> Tensor:
        gradient = to_real(p.gradient(self.image(s, p)))
        return torch.cat([s[:, :2], s[:, 2:4] + sign * gradient.to(s.dtype), s[:, 4:]], 1)

    def image(self, s: Tensor, p: Problem) -> Tensor:
        """Return z₁ (B, M, y, x), complex."""
        return to_complex(s[:, :2], p.adjoint.shape[1])


@register(learned=True, shared={"memory": "invert"})
def invertible_rim(
    *, steps: StepCount = 8, features: StateChannels = 64, width: Width = 64, share_weights: ShareWeights = False
) -> Schedule[Tensor]:
    """Invertible recurrent inference machine, trained without storing its steps (arXiv 1911.10914). Not the IRIM.

    z₂ += Aᴴ(A z₁ − y), then z⁺ = network(z), ``steps`` times; the image is z₁.
    """
    widths = [width * factor for factor in WIDTHS]
    return Schedule(
        copies(steps, share_weights, lambda: InvertibleRim(InvertibleNet(features, widths, DILATIONS), features))
    )
