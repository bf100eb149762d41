"""Define an invertible network, whose input is computed from its output instead of being stored in training.

Putzky and Welling, Invert to Learn to Invert, NeurIPS 2019 (arXiv 1911.10914).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Residual(nn.Module):
    """Apply conv (kernel = stride = dilation) → ReLU → conv 3×3 → ReLU → transposed conv → gated linear unit."""

    def __init__(self, channels: int, outputs: int, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.down = weight_norm(nn.Conv2d(channels, width, dilation, stride=dilation))
        self.middle = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.up = weight_norm(nn.ConvTranspose2d(width, 2 * outputs, dilation, stride=dilation), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, y, x) to (N, outputs, y, x); sizes are padded to a multiple of the stride."""
        rows, columns = x.shape[-2:]
        x = F.pad(x, (0, -columns % self.dilation, 0, -rows % self.dilation))
        x = F.relu(self.middle(F.relu(self.down(x))))
        return F.glu(self.up(x), 1)[..., :rows, :columns]


class Coupling(nn.Module):
    """Rotate the channels, add residual(left half) to the right half, rotate back: an additive coupling.

    It is invertible for any residual. The rotation is a product of Householder matrices I − 2 v vᵀ / ‖v‖².

    Args:
        channels: number of channels of the state, C.
        width: number of channels inside the residual.
        dilation: factor by which the residual reduces the resolution.
        reflections: number of Householder matrices.

    """

    def __init__(self, channels: int, width: int, dilation: int, reflections: int = 3) -> None:
        super().__init__()
        self.left = channels // 2
        self.reflectors = nn.Parameter(torch.randn(reflections, channels))
        self.residual = Residual(self.left, channels - self.left, width, dilation)

    def rotation(self) -> Tensor:
        """Return the orthogonal matrix (C, C)."""
        q = torch.eye(self.reflectors.shape[1], dtype=self.reflectors.dtype, device=self.reflectors.device)
        for v in self.reflectors:
            q = q - 2 * torch.outer(q @ v, v) / (v @ v)
        return q

    def forward(self, x: Tensor, sign: int = 1) -> Tensor:
        """Map (N, C, y, x) to the same shape; with sign −1, apply the inverse."""
        q = self.rotation()
        x = F.conv2d(x, q[..., None, None])
        left, right = x[:, : self.left], x[:, self.left :]
        x = torch.cat([left, right + sign * self.residual(left)], 1)
        return F.conv2d(x, q.T[..., None, None])


class InvertibleNet(nn.Module):
    """Apply several couplings.

    Args:
        channels: number of channels of the state; even.
        widths: numbers of channels inside each coupling.
        dilations: dilation of each coupling.

    """

    def __init__(self, channels: int, widths: Sequence[int], dilations: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(widths, dilations, strict=True)
        self.layers = nn.ModuleList(Coupling(channels, width, dilation) for width, dilation in pairs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, y, x) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Return the input that ``forward`` maps to x."""
        for layer in reversed(self.layers):
            x = cast("Tensor", layer(x, -1))
        return x
