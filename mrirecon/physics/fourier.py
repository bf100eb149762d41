"""Apply the centred, unitary Fourier transform of `mrirecon.physics.operators.Fourier` to NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch

from mrirecon.physics.operators import Fourier


def to_image(kspace: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the inverse transform of k-space over ``axes``, in the precision of the array."""
    image: np.ndarray = Fourier(axes).adjoint(torch.from_numpy(np.ascontiguousarray(kspace))).numpy()
    return image


def to_kspace(image: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the transform of an image over ``axes``, in the precision of the array."""
    kspace: np.ndarray = Fourier(axes)(torch.from_numpy(np.ascontiguousarray(image))).numpy()
    return kspace


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Reshape a vector such that it broadcasts along one of ``ndim`` axes (negative axes count from the end)."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def spatial(ndim: int) -> tuple[int, ...]:
    """Return the last ``ndim`` axes, counted from the end: (-2, -1) for 2."""
    return tuple(range(-ndim, 0))
