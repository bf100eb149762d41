"""Linear phase between forward and reversed readouts of an echo train, from lines measured without phase encoding."""

from __future__ import annotations

import numpy as np


def linear_phase(forward: np.ndarray, backward: np.ndarray) -> tuple[float, float]:
    """Estimate by how much reversed readouts differ from forward ones: phase = offset + slope · (x - n // 2).

    Gradient and receiver delays shift a reversed echo against a forward one, and eddy currents turn its phase; in the
    image that leaves a ghost half a field of view away. As in Ahn and Cho (IEEE Trans Med Imaging 6:32, 1987), the
    slope is the phase of the autocorrelation at lag one of the product of both, and the offset is that of its sum once
    the slope is taken off. Both weigh voxels by their signal, and coils by theirs.

    Args:
        forward: (coil, x), readouts without phase encoding, transformed along x; several are averaged beforehand.
        backward: (coil, x), the same with the gradient reversed, turned round before its transform.

    Returns:
        Offset in radians, and slope in radians a voxel; multiply reversed lines by exp(-i · phase).

    """
    product: np.ndarray = (np.conj(forward) * backward).sum(axis=0)
    slope = float(np.angle((np.conj(product[:-1]) * product[1:]).sum()))
    x = np.arange(product.size) - product.size // 2
    return float(np.angle((product * np.exp(-1j * slope * x)).sum())), slope


def correction(offset: float, slope: float, size: int) -> np.ndarray:
    """Return the factor (x) that takes the phase of `linear_phase` off reversed lines."""
    x = np.arange(size) - size // 2
    factor: np.ndarray = np.exp(-1j * (offset + slope * x)).astype(np.complex64)
    return factor
