"""Readout oversampling: a field of view wider than asked for, cut back in image space.

Sampling a readout more densely costs no time and keeps what lies outside from folding in; afterwards it is only size.
The cut is made in image space, where it loses nothing but the margins: dropping every second sample would fold them in
with their noise. It must be the readout: along an undersampled axis the image is folded until it is reconstructed.
"""

from __future__ import annotations

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.physics.fourier import to_image, to_kspace


def crop_slice(size: int, kept: int) -> slice:
    """Return which ``kept`` of ``size`` places lie around the centre: n // 2 stays the centre."""
    start = size // 2 - kept // 2
    return slice(start, start + kept)


def check_readout(mask: np.ndarray, axis: int, name: str) -> None:
    """Refuse an axis along which not every line was sampled whole.

    Args:
        mask: (*space) bool.
        axis: counted from the end.
        name: of the axis.

    Raises:
        UsageError: it is undersampled, or a part of it was never measured (an asymmetric echo).

    """
    lines = mask.any(axis=axis, keepdims=True)
    if (mask != lines).any():
        share = float(mask.sum() / (lines.sum() * mask.shape[axis]))
        raise UsageError(
            f"the axis {name} is not a fully sampled readout",
            why=f"{share:.0%} of its samples were acquired in the lines that were: its images are folded or blurred",
            fix="name the readout with --readout, or leave out what needs it",
        )


def remove_oversampling(kspace: np.ndarray, axis: int, kept: int) -> np.ndarray:
    """Return k-space whose field of view along the readout is the middle ``kept`` of its n places.

    Values of the image, and the noise in them, stay what they are.

    Args:
        kspace: (…, *space) complex, centred, fully sampled along ``axis`` (`check_readout`).
        axis: of the readout, counted from the end.
        kept: places to keep, at most n.

    Raises:
        UsageError: more places than there are, or none.

    """
    image = to_image(kspace, (axis,))
    return to_kspace(crop_image(image, axis, kept), (axis,))


def crop_image(image: np.ndarray, axis: int, kept: int) -> np.ndarray:
    """Return the middle ``kept`` places of an image, or of maps, along an axis counted from the end.

    Raises:
        UsageError: more places than there are, or none.

    """
    size = image.shape[axis]
    if not 1 <= kept <= size:
        raise UsageError(f"{kept} of {size} places cannot be kept", fix=f"keep 1 to {size}")
    index = [slice(None)] * image.ndim
    index[axis] = crop_slice(size, kept)
    return np.ascontiguousarray(image[tuple(index)])


def crop_mask(mask: np.ndarray, axis: int, kept: int) -> np.ndarray:
    """Return the mask (*space) of the cropped field of view: lines stay lines, of ``kept`` samples."""
    return np.repeat(np.asarray(mask.any(axis=axis, keepdims=True)), kept, axis=axis)
