"""Define the stack of convolutions of the deep cascade (Schlemper et al., IEEE TMI 37:491, 2018)."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn


class ConvStack(nn.Module):
    """Apply 3×3 convolutions, with a PReLU after each except the last; the image size does not change.

    Args:
        width: number of input and output channels.
        channels: number of channels in between.
        layers: number of convolutions.
        activation: one module for all layers, as in the released code; by default, each layer has its own PReLU.

    """

    def __init__(
        self, width: int = 2, channels: int = 64, layers: int = 5, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        widths = [width, *[channels] * (layers - 1), width]
        steps: list[nn.Module] = []
        for a, b in pairwise(widths):
            steps += [nn.Conv2d(a, b, 3, padding=1), activation or nn.PReLU()]
        self.conv = nn.Sequential(*steps[:-1])

    @property
    def final(self) -> nn.Module:
        """Return the last convolution."""
        return self.conv[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, y, x) to the same shape."""
        return cast("Tensor", self.conv(x))
