"""Estimate coil maps from the calibration region by a network (Sriram et al., MICCAI 2020), or by its images alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import CalibrationError
from mrirecon.networks import NormUnet, apply_network, to_complex, to_real
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem

Region = Literal["box", "columns", "rows", "all"]


class SensitivityNet(RunsNetwork, nn.Module):
    """Estimate S = U(Fᴴ centre(y)) / length over the coils, with the same network U for each coil.

    Args:
        channels: number of channels of the first level of the U-Net; 0 for no network, U(x) = x.
        pools: number of levels.
        padding, normalize: see `mrirecon.networks.NormUnet`.
        region: ``box`` is the fully sampled box around the centre. ``columns`` is the band of lines that fastMRI takes
            (`centre_band`), or the box for a mask of two dimensions. ``rows`` is the same band, as ATOMMIC applies it
            to rows with ``mask_type: 2D``. ``all`` is all of k-space.
        unit_input: whether to divide the input by its length over the coils, as DIRECT.
        magnitudes: whether to divide by the root of the sum of magnitudes instead of the length, as ATOMMIC does.
        unshifted: whether k-space is that of `mrirecon.physics.conventions.Unshifted`.

    """

    needs_cartesian = "it estimates coil maps from a Cartesian calibration region"

    def __init__(
        self,
        channels: int = 8,
        pools: int = 4,
        *,
        padding: int | None = None,
        normalize: bool = True,
        region: Region = "box",
        unit_input: bool = False,
        magnitudes: bool = False,
        unshifted: bool = False,
    ) -> None:
        super().__init__()
        self.norm_unet = NormUnet(channels, pools, padding=padding, normalize=normalize) if channels else None
        self.region, self.unit_input, self.magnitudes, self.unshifted = region, unit_input, magnitudes, unshifted

    def forward(self, p: Problem) -> Problem:
        """Return the problem with maps (B, 1, C, y, x) estimated from its calibration region (1D or 2D).

        Raises:
            CalibrationError: no fully sampled centre.

        """
        maps = Fourier(p.axes).adjoint(p.y * self.centre(p.mask))
        if self.unit_input:
            maps = _unit_length(maps)
        if self.norm_unet is not None:
            maps = to_complex(apply_network(self.norm_unet, to_real(maps, dtype=self.network_dtype)), maps.shape[1])
        if self.magnitudes:
            total = maps.abs().sum(1, keepdim=True)
            maps = maps / total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
        else:
            maps = _unit_length(maps)
        return replace(p, maps=maps.unsqueeze(1), cache=None)

    def centre(self, mask: Tensor) -> Tensor:
        """Return 1 on the calibration region of each mask (B or 1, 1, y, x) and 0 elsewhere."""
        if self.region == "all":
            return torch.ones_like(mask)
        if self.unshifted:
            mask = mask.roll([-(n // 2) for n in mask.shape[2:]], (-2, -1))
        centre = torch.zeros_like(mask)
        for number, item_mask in enumerate(mask[:, 0]):
            lines = [bool((item_mask == item_mask.narrow(axis, 0, 1)).all()) for axis in (0, 1)]
            if self.region == "rows":
                centre[number, 0][centre_band(item_mask[0] > 0)] = 1
                continue
            if self.region == "columns" and any(lines):
                columns = centre[number, 0] if lines[0] else centre[number, 0].T
                columns[:, centre_band(item_mask[0] > 0 if lines[0] else item_mask[:, 0] > 0)] = 1
                continue
            box = find_calibration(item_mask.cpu().numpy() > 0)
            if any(side.stop <= side.start for side in box):
                raise CalibrationError(
                    "there is no calibration region for the sensitivity network",
                    where=f"item {number} of the batch",
                    fix="give maps from a file, and set sensitivity=false",
                )
            centre[number, 0][box] = 1
        return centre.roll([n // 2 for n in mask.shape[2:]], (-2, -1)) if self.unshifted else centre


def centre_band(sampled: Tensor) -> slice:
    """Return the central band that fastMRI and ATOMMIC take for the calibration lines.

    They count sampled columns on both sides of the centre in the first row of the mask, and take twice the smaller
    count. For an odd number of columns, the band begins one column after the fully sampled box. A side that is sampled
    to its end counts as 0. ATOMMIC with ``mask_type: 2D`` takes the rows with these indices instead.

    Args:
        sampled: (x,) bool, the first row of the mask.

    """
    columns = len(sampled)
    sides = (sampled[: columns // 2].flip(0), sampled[columns // 2 :])
    left, right = (int(side.int().argmin()) for side in sides)
    width = max(2 * min(left, right), 1)
    start = (columns - width + 1) // 2
    return slice(start, start + width)


def _unit_length(maps: Tensor) -> Tensor:
    length = root_sum_of_squares(maps, 1, keepdim=True)
    return maps / length.clamp_min(torch.finfo(length.dtype).tiny)
