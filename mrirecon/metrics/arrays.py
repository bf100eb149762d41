"""Compute magnitudes of arrays, and means over regions and over defined values."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import InputError

Array = Tensor | np.ndarray


def average(values: Tensor, region: Tensor | None) -> Tensor:
    """Return the mean over the last two axes of the pixels in the region."""
    if region is None:
        return values.mean((-2, -1))
    count = region.expand(values.shape).sum((-2, -1))
    if not bool((count > 0).all()):
        raise InputError("the region to average over is empty", fix="exclude slices without an object")
    return torch.where(region, values, 0.0).sum((-2, -1)) / count


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values, or None."""
    defined = [v for v in values if v is not None]
    return math.fsum(defined) / len(defined) if defined else None


def magnitude(values: Array, *, signed: bool = False) -> Tensor:
    """Return the magnitude of (...), a real or complex array or tensor, as a float64 tensor.

    With ``signed``, real values keep their sign.
    """
    if isinstance(values, np.ndarray):
        wide = values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
        return torch.from_numpy(wide if signed and not np.iscomplexobj(wide) else np.abs(wide))
    tensor = values.detach().to(torch.complex128 if values.is_complex() else torch.float64)
    return tensor if signed and not tensor.is_complex() else tensor.abs()


def require_same_shape(image: Array, reference: Array) -> None:
    """Raise an error if images differ in shape.

    Raises:
        InputError: the shapes differ.

    """
    if image.shape != reference.shape:
        raise InputError(
            "the image and the reference differ in shape",
            why=f"{tuple(image.shape)} and {tuple(reference.shape)}",
            fix="compare images of the same scan, at the same size",
        )
