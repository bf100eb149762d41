"""Provide coil maps without an estimate: those of the file, and constant maps for one coil."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.coils.registry import register_calibration
from mrirecon.physics.operators import root_sum_of_squares


@register_calibration(rank=98, reads="file")
def file(stored: Tensor) -> tuple[Tensor, float]:
    """Return stored maps (B, M, C, *space) divided by their largest length over the coils, and this length."""
    gain = float(root_sum_of_squares(stored, 2).amax())
    return (stored / gain if gain else stored), gain


@register_calibration(rank=99, reads="nothing")
def unit(coils: int, space: tuple[int, ...]) -> Tensor:
    """Return constant maps (1, 1, C, *space) of unit length over the coils."""
    return torch.full((1, 1, coils, *space), coils**-0.5, dtype=torch.complex64)
