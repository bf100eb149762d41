"""Define the network of a recurrent inference machine: alternating convolutions and recurrent units.

Putzky and Welling, arXiv 1706.04008; Lønning et al., Med. Image Anal. 53:64, 2019; arXiv 2012.07819 (GRU, MGU, IndRNN).
Parameters have the names of the released code, so that released weights can be loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrirecon.networks.fused import convolve, inside, recur, widen

CellName = Literal["gru", "mgu", "indrnn"]


class Cell(nn.Module, ABC):
    """Define a convolutional recurrent unit: features x and hidden state h, both (N, F, y, x), give the next h."""

    gates: int  # number of feature maps per feature from the convolutions

    def __init__(self, features: int, kernel: int = 1) -> None:
        super().__init__()
        self.ih = nn.Conv2d(features, self.gates * features, kernel, padding=kernel // 2)
        self._recurrence(features, kernel)

    def _recurrence(self, features: int, kernel: int) -> None:
        self.hh: nn.Module | nn.Parameter = nn.Conv2d(
            features, self.gates * features, kernel, padding=kernel // 2, bias=False
        )

    def forward(self, x: Tensor, h: Tensor, halo: int = 0) -> Tensor:
        """Return the next hidden state with updated halo (`mrirecon.networks.fused`)."""
        if self.ih.kernel_size == (1, 1):  # values in the halo are replaced
            return widen(inside(self.update(x, h), halo), halo)
        return widen(self.update(inside(x, halo), inside(h, halo)), halo)

    @abstractmethod
    def update(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next hidden state of every pixel."""

    def _maps(self, x: Tensor, h: Tensor) -> list[tuple[Tensor, Tensor]]:
        from_h = cast("nn.Conv2d", self.hh)(h)
        return list(zip(self.ih(x).chunk(self.gates, 1), from_h.chunk(self.gates, 1), strict=True))


class Gru(Cell):
    """Gated recurrent unit (Cho et al., 2014).

    r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W x + r U h), h⁺ = (1 − z) n + z h.
    """

    gates = 3

    def __init__(self, features: int, kernel: int = 1) -> None:
        super().__init__(features, kernel)
        for conv in (self.ih, cast("nn.Conv2d", self.hh)):
            nn.init.orthogonal_(conv.weight)
        nn.init.zeros_(cast("Tensor", self.ih.bias))

    def update(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next hidden state of every pixel."""
        (rx, rh), (zx, zh), (nx, nh) = self._maps(x, h)
        z = torch.sigmoid(zx + zh)
        n = torch.tanh(nx + torch.sigmoid(rx + rh) * nh)
        return n * (1 - z) + z * h


class Mgu(Cell):
    """Minimal gated unit (Zhou et al., 2016), with the gate of the released code: f = 1 keeps the previous state.

    f = σ(W_f x + U_f h), c = tanh(W x + f U h), h⁺ = c + f (h − c).
    """

    gates = 2

    def __init__(self, features: int, kernel: int = 1) -> None:
        super().__init__(features, kernel)
        nn.init.xavier_uniform_(self.ih.weight, nn.init.calculate_gain("relu"))
        nn.init.xavier_uniform_(cast("nn.Conv2d", self.hh).weight)
        nn.init.zeros_(cast("Tensor", self.ih.bias))

    def update(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next hidden state of every pixel."""
        (fx, fh), (cx, ch) = self._maps(x, h)
        f = torch.sigmoid(fx + fh)
        c = torch.tanh(cx + f * ch)
        return c + f * (h - c)


class IndRnn(Cell):
    """Independently recurrent unit: h⁺ = ReLU(W x + b + u ⊙ h), one weight u for each channel. Li et al., CVPR 2018."""

    gates = 1

    def __init__(self, features: int, kernel: int = 1) -> None:
        super().__init__(features, kernel)
        deviation = (features * (1 + kernel**2)) ** -0.5
        nn.init.normal_(self.ih.weight, std=deviation)
        nn.init.normal_(cast("nn.Parameter", self.hh), std=deviation)
        nn.init.zeros_(cast("Tensor", self.ih.bias))

    def _recurrence(self, features: int, kernel: int) -> None:
        self.hh = nn.Parameter(torch.empty(1, features, 1, 1))

    def forward(self, x: Tensor, h: Tensor, halo: int = 0) -> Tensor:
        """Return the next hidden state with updated halo."""
        if self.ih.kernel_size == (1, 1):
            return recur(x, h, self.ih.weight, self.ih.bias, cast("Tensor", self.hh), halo)
        return super().forward(x, h, halo)

    def update(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the next hidden state of every pixel."""
        return F.relu(self.ih(x) + cast("Tensor", self.hh) * h)


CELLS: dict[CellName, type[Cell]] = {"gru": Gru, "mgu": Mgu, "indrnn": IndRnn}


class Convolution(nn.Module):
    """Convolve feature maps whose halo is at least as wide as the kernel reaches, with an optional ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, bias: bool, relu: bool) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(inputs, outputs, kernel, dilation=dilation, bias=bias)
        nn.init.kaiming_normal_(self.conv_layer.weight, nonlinearity="relu")
        if bias:
            nn.init.zeros_(cast("Tensor", self.conv_layer.bias))
        self.relu, self.dilation, self.reach = relu, dilation, dilation * (kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, y, x) to (N, outputs, y, x)."""
        conv = self.conv_layer
        return convolve(x, conv.weight, conv.bias, self.dilation, self.relu)


class Layer(nn.Module):
    """Apply a convolution, then a recurrent unit."""

    def __init__(self, inputs: int, features: int, kernel: int, dilation: int, cell: CellName, recurrent: int) -> None:
        super().__init__()
        self.convs = Convolution(inputs, features, kernel, dilation, bias=True, relu=True)
        self.rnn = CELLS[cell](features, recurrent)

    def forward(self, x: Tensor, h: Tensor, halo: int) -> Tensor:
        """Return the next hidden state, which is also the output of the layer."""
        return cast("Tensor", self.rnn(self.convs(x), h, halo))


class RecurrentNet(nn.Module):
    """Apply conv 5×5 → unit → conv 3×3, dilation 2 → unit → conv 3×3 without bias.

    Convolutions pad the image by repeating its edge. Hidden states contain the padding as a halo: (N, F, y + 2h, x +
    2h).

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        features: number of channels of both hidden states.
        cell: type of the recurrent unit.
        recurrent_kernel: kernel size of the unit.
        positive: whether to apply a final ReLU, as in DIRECT.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        features: int = 64,
        cell: CellName = "indrnn",
        recurrent_kernel: int = 1,
        positive: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.ModuleList(
            [
                Layer(inputs, features, 5, 1, cell, recurrent_kernel),
                Layer(features, features, 3, 2, cell, recurrent_kernel),
            ]
        )
        self.final_layer = nn.Sequential(Convolution(features, outputs, 3, 1, bias=False, relu=positive))
        self.halo = max(m.reach for m in self.modules() if isinstance(m, Convolution))

    @property
    def final(self) -> nn.Module:
        """Return the last convolution."""
        return self.final_layer

    def start(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return hidden states of zeros for an input x (N, inputs, y, x)."""
        rows, columns = (side + 2 * self.halo for side in x.shape[2:])
        zero = x.new_zeros(x.shape[0], rows, columns, self.features).movedim(-1, 1)
        return tuple(zero for _ in self.layers)

    def forward(self, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output (N, outputs, y, x) and the next hidden states."""
        states, x = [], widen(x, self.halo)
        for layer, h in zip(self.layers, hidden, strict=True):
            x = layer(x, h, self.halo)
            states.append(x)
        return inside(self.final_layer(x), self.halo), tuple(states)
