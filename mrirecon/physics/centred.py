"""The house's centred, unitary Fourier transform (`mrirecon.physics.operators.Fourier`), for NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch

from mrirecon.physics.operators import Fourier


def to_image(kspace: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the inverse transform of k-space over some axes; in its own precision, as everything here."""
    image: np.ndarray = Fourier(axes).adjoint(torch.from_numpy(np.ascontiguousarray(kspace))).numpy()
    return image


def to_kspace(image: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the transform of an image over some axes."""
    kspace: np.ndarray = Fourier(axes)(torch.from_numpy(np.ascontiguousarray(image))).numpy()
    return kspace


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Return a vector shaped so that it multiplies along one of ``ndim`` axes (counted from either end)."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def spatial(ndim: int) -> tuple[int, ...]:
    """Return the last ``ndim`` axes, counted from the end."""
    return tuple(range(-ndim, 0))
