"""Crop images and references to one size if the preset defines it, else reject different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from mrirecon.errors import InputError
from mrirecon.metrics.misalignment import correlation, fullest_slice

# References in fastMRI files are cropped around the centre, so the image is cropped as well.
BESIDE, FASTMRI = "the reference in the k-space file", "the cropped images of fastMRI"
CROPPED = (BESIDE, FASTMRI)
_LEAST = 0.5  # minimum correlation to assume that one image is a part or a resampled copy of the other


def common_centre(images: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Crop both to their common size around the centre, as fastMRI's `center_crop_to_smallest`, and return a note."""
    return _cut(images, truth, [min(a, b) for a, b in zip(images.shape[1:], truth.shape[1:], strict=True)])


def centre_square(
    images: np.ndarray, truth: np.ndarray, prediction: Path, reference: Path
) -> tuple[np.ndarray, np.ndarray, str]:
    """Crop both around the centre to a square of the reference's width, as `fastmri/evaluate.py`.

    Raises:
        InputError: one of them is smaller than the square.

    """
    side = truth.shape[-1]
    for values, path in ((truth, reference), (images, prediction)):
        if min(values.shape[-2:]) < side:
            raise InputError(
                f"images of {times(values.shape[-2:])} are smaller than the central {side}×{side}",
                where=str(path),
                why="the preset fastmri compares the square of the reference's width",
                fix="reconstruct the whole field of view, or use another preset",
            )
    return _cut(images, truth, (side, side))


def _cut(images: np.ndarray, truth: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray, str]:
    sizes = f"images {times(images.shape[1:])}, reference {times(truth.shape[1:])}"
    return _centre(images, size), _centre(truth, size), f"{sizes}: {times(size)} around the centre are compared"


def _centre(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Crop the last axes to this size around the centre."""
    lead = [slice(None)] * (values.ndim - len(size))
    starts = [(n - s) // 2 for n, s in zip(values.shape[-len(size) :], size, strict=True)]
    return values[(*lead, *(slice(a, a + s) for a, s in zip(starts, size, strict=True)))]


def check_shapes(images: np.ndarray, truth: np.ndarray, prediction: Path, reference: Path) -> None:
    """Raise an error if images and references differ in number or size, with a possible explanation.

    Raises:
        InputError: the number or the size differs; the message gives both shapes.

    """
    if images.shape == truth.shape:
        return
    fix = "compare images of the same scan, at the same matrix size"
    if len(images) != len(truth):
        what = f"{len(images)} {'image' if len(images) == 1 else 'images'} cannot be compared with {len(truth)}"
    elif images.shape[1:] == truth.shape[:0:-1] and images.ndim == 3:
        what, fix = "the images are transposed relative to each other", "transpose one of them"
    else:
        what, fix = "the images differ in size", "; ".join(filter(None, (fix, _resized(np.abs(images), np.abs(truth)))))
    raise InputError(
        what,
        where=f"{prediction} and {reference}",
        why=f"shapes {times(images.shape)} and {times(truth.shape)} (items first)",
        fix=fix,
    )


def _resized(image: np.ndarray, truth: np.ndarray) -> str:
    """Describe whether images (item, *space) of different sizes seem to be cropped or resized; else return "".

    Compares correlations of the larger image's centre, and of the image resampled to the other size.
    """
    if image.ndim != truth.ndim:
        return ""
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    middle = fullest_slice(r)
    if middle >= len(x) or not x[middle].any() or not r[middle].any():
        return ""
    x, r = x[middle], r[middle]
    common = [min(a, b) for a, b in zip(x.shape, r.shape, strict=True)]
    crop = correlation(_centre(x, common), _centre(r, common))
    zoom = [b / a for a, b in zip(x.shape, r.shape, strict=True)]
    again = ndimage.zoom(x, zoom, order=1, grid_mode=True, mode="nearest")
    whole = correlation(again, r) if again.shape == r.shape else 0.0
    if max(crop, whole) < _LEAST or abs(crop - whole) < 0.02:
        return ""
    if crop > whole:
        return f"one seems to be cropped: the correlation of their centres is {crop:.2f}"
    return f"one seems to be resized: the correlation after resampling is {whole:.2f}"


def times(shape: Sequence[int]) -> str:
    """Return a shape as text, such as 3×176×144."""
    return "×".join(map(str, shape))
