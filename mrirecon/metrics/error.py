"""Compute pixel-wise errors: PSNR, NMSE and MSE."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import average, require_same_shape
from mrirecon.metrics.registry import register_metric


@register_metric(
    rank=2,
    label="PSNR (dB)",
    higher=True,
    digits=4,
    scope="score",
    about="peak signal-to-noise ratio, 10 log₁₀(range² / mean squared error); higher is better",
)
def psnr(
    image: Tensor, reference: Tensor, data_range: float | Tensor | None = None, *, region: Tensor | None = None
) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (...) in dB, 10 log₁₀(range² / MSE); infinite if equal.

    Args:
        image: (..., y, x).
        reference: (..., y, x).
        data_range: peak value, as one number or one per image (...); by default, the maximum of each reference.
        region: (..., y, x) booleans, evaluated pixels.

    Raises:
        InputError: the shapes differ, or the region is empty.

    """
    require_same_shape(image, reference)
    if data_range is None:
        data_range = reference.abs().amax((-2, -1))
    error = average((image - reference).abs().square(), region)
    return 10 * torch.log10(torch.as_tensor(data_range, dtype=error.dtype, device=error.device) ** 2 / error)


@register_metric(rank=3, label="NMSE", scope="score", about="squared error over squared reference; 0 for equal images")
def nmse(image: Tensor, reference: Tensor, *, region: Tensor | None = None) -> Tensor:
    """Return ‖image − reference‖² / ‖reference‖² of each image (...).

    Args:
        image: (..., y, x).
        reference: (..., y, x).
        region: (..., y, x) booleans, evaluated pixels.

    Raises:
        InputError: the shapes differ, the region is empty, or the reference is zero in it.

    """
    require_same_shape(image, reference)
    power = average(reference.abs().square(), region)
    if not bool((power > 0).all()):
        raise InputError("the NMSE against a zero reference is undefined", fix="exclude slices without signal")
    return average((image - reference).abs().square(), region) / power


@register_metric(
    rank=4,
    label="MSE",
    scope="preset",
    about="mean squared error, in the images' unit; 0 for equal images",
)
def mse(image: Tensor, reference: Tensor, *, region: Tensor | None = None) -> Tensor:
    """Return the mean |image − reference|² of each image (...).

    Args:
        image: (..., y, x).
        reference: (..., y, x).
        region: (..., y, x) booleans, evaluated pixels.

    Raises:
        InputError: the shapes differ, or the region is empty.

    """
    require_same_shape(image, reference)
    return average((image - reference).abs().square(), region)
