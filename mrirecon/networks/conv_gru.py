"""Define the recurrent network of DIRECT's RIM: gated recurrent units between convolutions.

Its gates are separate convolutions with biases, and the hidden states pass a ReLU, unlike those of
`mrirecon.networks.recurrent`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvGru(nn.Module):
    """Apply conv 5×5 → unit, conv 3×3 → unit ..., and a last conv 3×3; the second convolution has dilation 2.

    For each unit with input x and hidden state h: z = σ(W_z [x, h]), r = σ(W_r [x, h]), c = tanh(W [x, r h]),
    h⁺ = (1 − z) h + z c. The next convolution gets ReLU(h⁺). Convolutions pad the image by repeating its edge.

    Args:
        inputs, outputs: number of input and output channels.
        features: number of channels of the hidden states.
        layers: number of units.

    """

    def __init__(self, inputs: int, outputs: int, features: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.features = features
        widths = [inputs, *[features] * layers, outputs]
        self.conv_blocks = nn.ModuleList(
            nn.Conv2d(a, b, 3 if number else 5, dilation=2 if number == 1 else 1)
            for number, (a, b) in enumerate(pairwise(widths))
        )
        self.update_gates, self.reset_gates, self.out_gates = (
            nn.ModuleList(nn.Conv2d(2 * features, features, 1) for _ in range(layers)) for _ in range(3)
        )
        for gates, bias in ((self.update_gates, 0.0), (self.reset_gates, -1.0), (self.out_gates, 0.0)):
            for gate in gates:
                conv = cast("nn.Conv2d", gate)
                nn.init.orthogonal_(conv.weight)
                nn.init.constant_(cast("Tensor", conv.bias), bias)

    @property
    def final(self) -> nn.Module:
        """Return the last convolution."""
        return self.conv_blocks[-1]

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return hidden states of zeros for an input x (N, inputs, y, x)."""
        zero = x.new_zeros(x.shape[0], *x.shape[2:], self.features).movedim(-1, 1)
        return tuple(zero for _ in self.update_gates)

    def forward(self, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output (N, outputs, y, x) and the next hidden states."""
        states = []
        gates = zip(self.update_gates, self.reset_gates, self.out_gates, strict=True)
        for conv, (update, reset, out), h in zip(self.conv_blocks, gates, hidden, strict=False):
            x = F.relu(_convolve(cast("nn.Conv2d", conv), x))
            both = torch.cat([x, h], 1)
            z, r = torch.sigmoid(update(both)), torch.sigmoid(reset(both))
            candidate = torch.tanh(out(torch.cat([x, h * r], 1)))
            states.append(h * (1 - z) + candidate * z)
            x = F.relu(states[-1])
        return _convolve(cast("nn.Conv2d", self.conv_blocks[-1]), x), tuple(states)


def _convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    reach = conv.dilation[0] * (conv.kernel_size[0] // 2)
    return cast("Tensor", conv(F.pad(x, (reach,) * 4, "replicate")))
