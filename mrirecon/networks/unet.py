"""Define the U-Net of the fastMRI baselines, with the same parameter names, to load their published weights.

Ronneberger et al., MICCAI 2015; Zbontar et al., arXiv 1811.08839; Sriram et al., MICCAI 2020.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrirecon.errors import UsageError
from mrirecon.networks.normalise import InstanceNorm


class ConvBlock(nn.Module):
    """Apply two layers of 3×3 convolution without bias, instance norm, leaky ReLU (0.2), dropout of channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for width in (inputs, outputs):
            steps += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), InstanceNorm(0.2)]
            steps += [nn.Identity(), nn.Dropout2d(dropout)]  # the published weights count the ReLU as a layer
        self.layers = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, y, x) to (N, outputs, y, x)."""
        return cast("Tensor", self.layers(x))


class UpBlock(nn.Module):
    """Apply a transposed 2×2 convolution of stride 2 without bias, instance norm, leaky ReLU (0.2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False),
            InstanceNorm(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, y, x) to (N, outputs, 2y, 2x)."""
        return cast("Tensor", self.layers(x))


class Unet(nn.Module):
    """U-Net with ``channels`` features at the first level and twice as many at each next one.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        channels: number of features of the first level.
        pools: number of times that the resolution is halved.
        dropout: probability of dropping a channel in training.

    """

    def __init__(self, inputs: int, outputs: int, channels: int = 32, pools: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.pools = pools
        widths = [channels * 2**level for level in range(pools + 1)]
        self.down_sample_layers = nn.ModuleList(
            ConvBlock(a, b, dropout) for a, b in zip([inputs, *widths[:-2]], widths[:-1], strict=True)
        )
        self.conv = ConvBlock(widths[-2], widths[-1], dropout)
        self.up_transpose_conv = nn.ModuleList(UpBlock(2 * w, w) for w in reversed(widths[:-1]))
        ups: list[nn.Module] = [ConvBlock(2 * w, w, dropout) for w in reversed(widths[:-1])]
        ups[-1] = nn.Sequential(ups[-1], nn.Conv2d(channels, outputs, 1))
        self.up_conv = nn.ModuleList(ups)

    @property
    def final(self) -> nn.Module:
        """Return the last convolution."""
        return cast("nn.Sequential", self.up_conv[-1])[1]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, y, x) to (N, outputs, y, x).

        Raises:
            UsageError: the image is too small for the number of pools.

        """
        if min(x.shape[-2:]) < 2**self.pools or max(x.shape[-2:]) < 2 ** (self.pools + 1):
            raise UsageError(
                f"the image is too small for a U-Net of {self.pools} pools",
                why=f"{x.shape[-2]}×{x.shape[-1]}: its coarsest level has one pixel, which cannot be normalized",
                fix="use fewer pools",
            )
        skips = []
        for down in self.down_sample_layers:
            x = down(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.conv(x)
        for grow, merge, skip in zip(self.up_transpose_conv, self.up_conv, reversed(skips), strict=True):
            x = grow(x)
            # Halving an odd size loses the last row or column, so it is padded by reflection.
            missing = (0, skip.shape[-1] - x.shape[-1], 0, skip.shape[-2] - x.shape[-2])
            if any(missing):
                x = F.pad(x, missing, "reflect")
            x = merge(torch.cat([x, skip], 1))
        return x


class NormUnet(nn.Module):
    """Normalize every channel to mean 0 and deviation 1, apply a U-Net, and undo the normalization.

    Real and imaginary part have their own mean and deviation. The image is padded with zeros to a multiple of 2^pools.

    Args:
        channels, pools, dropout: see `Unet`.
        width: channels in and out.
        padding: pad n to ((n − 1) | padding) + 1 pixels, with a bitwise or: 0 for no padding, 15 for multiples of 16;
            None for multiples of 2^pools.
        normalize: whether to normalize; otherwise only pad.

    """

    def __init__(
        self,
        channels: int,
        pools: int,
        width: int = 2,
        dropout: float = 0.0,
        *,
        padding: int | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.unet = Unet(width, width, channels, pools, dropout)
        self.padding = 2**pools - 1 if padding is None else padding
        self.normalize = normalize

    @property
    def final(self) -> nn.Module:
        """Return the last convolution."""
        return self.unet.final

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, y, x) to the same shape."""
        if not self.normalize:
            return self._padded(x)
        flat = x.flatten(2)
        mean, deviation = flat.mean(2)[..., None, None], flat.std(2)[..., None, None]
        # A constant channel has deviation 0.
        deviation = deviation.clamp_min(torch.finfo(deviation.dtype).tiny)
        return self._padded((x - mean) / deviation) * deviation + mean

    def _padded(self, x: Tensor) -> Tensor:
        """Apply the U-Net to the padded image, and crop its output."""
        sides = [((n - 1) | self.padding) + 1 - n for n in x.shape[-2:]]
        (top, left), (rows, columns) = (side // 2 for side in sides), x.shape[-2:]
        pads = (left, sides[1] - left, top, sides[0] - top)
        return cast("Tensor", self.unet(F.pad(x, pads))[..., top : top + rows, left : left + columns])
