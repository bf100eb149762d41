"""Estimate coil maps from the calibration region by a network (Sriram et al., MICCAI 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import CalibrationError
from mrirecon.networks import NormUnet, apply_network, to_complex, to_real
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


class SensitivityNet(RunsNetwork, nn.Module):
    """Estimate S = U(Fᴴ centre(y)) / length over the coils, with the same network U for each coil.

    Args:
        channels: number of channels of the first level of the U-Net.
        pools: number of levels.

    """

    needs_cartesian = True

    def __init__(self, channels: int = 8, pools: int = 4) -> None:
        super().__init__()
        self.norm_unet = NormUnet(channels, pools)

    def forward(self, p: Problem) -> Problem:
        """Return the problem with maps (B, 1, C, y, x) estimated from its calibration region (1D or 2D).

        Raises:
            CalibrationError: no fully sampled centre.

        """
        images = Fourier(p.axes).adjoint(p.y * self.centre(p.mask))
        maps = to_complex(apply_network(self.norm_unet, to_real(images, dtype=self.network_dtype)), images.shape[1])
        length = root_sum_of_squares(maps, 1, keepdim=True)
        maps = maps / length.clamp_min(torch.finfo(length.dtype).tiny)
        return replace(p, maps=maps.unsqueeze(1), cache=None)

    @staticmethod
    def centre(mask: Tensor) -> Tensor:
        """Return 1 on the calibration region of each mask (B or 1, 1, y, x) and 0 elsewhere."""
        centre = torch.zeros_like(mask)
        for number, item_mask in enumerate(mask[:, 0]):
            box = find_calibration(item_mask.cpu().numpy() > 0)
            if any(side.stop <= side.start for side in box):
                raise CalibrationError(
                    "there is no calibration region for the sensitivity network",
                    where=f"item {number} of the batch",
                    fix="give maps from a file, and set sensitivity=false",
                )
            centre[number, 0][box] = 1
        return centre
