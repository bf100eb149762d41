"""Images and references of unlike sizes: cut to the centre where a definition says so, else refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.metrics.misfit import resized

# What fastMRI's files hold is cut around its centre: where these are the reference, the image is cut as well.
BESIDE, FASTMRI = "the reference beside its k-space", "the cropped images of fastMRI"
CROPPED = (BESIDE, FASTMRI)


def common_centre(images: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Cut both to what they share around their centres, as fastMRI's `center_crop_to_smallest` does, and say so."""
    size = tuple(min(a, b) for a, b in zip(images.shape[1:], truth.shape[1:], strict=True))
    cut = []
    for values in (images, truth):
        starts = ((n - s) // 2 for n, s in zip(values.shape[1:], size, strict=True))
        cut.append(values[(slice(None), *(slice(a, a + s) for a, s in zip(starts, size, strict=True)))])
    sizes = f"images {_times(images.shape[1:])}, reference {_times(truth.shape[1:])}"
    return cut[0], cut[1], f"{sizes}: {_times(size)} around the centre are compared"


def centre_square(
    images: np.ndarray, truth: np.ndarray, prediction: Path, reference: Path
) -> tuple[np.ndarray, np.ndarray, str]:
    """Cut both to the square of the reference's width around their centres, as `fastmri/evaluate.py` does.

    Raises:
        InputError: one of them is smaller than that.

    """
    side = truth.shape[-1]
    for values, path in ((truth, reference), (images, prediction)):
        if min(values.shape[-2:]) < side:
            raise InputError(
                f"there is no centre of {side}×{side} in images of {_times(values.shape[-2:])}",
                where=str(path),
                why="the preset fastmri compares the square of the reference's width",
                fix="reconstruct the whole field of view, or use another preset",
            )
    sizes = f"images {_times(images.shape[1:])}, reference {_times(truth.shape[1:])}"

    def cut(values: np.ndarray) -> np.ndarray:
        top, left = ((n - side) // 2 for n in values.shape[-2:])
        return values[..., top : top + side, left : left + side]

    return cut(images), cut(truth), f"{sizes}: {side}×{side} around the centre are compared"


def check_shapes(images: np.ndarray, truth: np.ndarray, prediction: Path, reference: Path) -> None:
    """Refuse images and references that differ in number or size, and say how they might come from each other.

    Raises:
        InputError: with both shapes.

    """
    if images.shape == truth.shape:
        return
    fix = "compare images of the same scan, at the same matrix size"
    if len(images) != len(truth):
        what = f"{len(images)} {_plural(len(images))} cannot be compared with {len(truth)}"
    elif images.shape[1:] == truth.shape[:0:-1] and images.ndim == 3:
        what, fix = "the images lie across each other", "transpose one of them"
    else:
        what = "the images differ in size"
        fix = "; ".join(filter(None, (fix, resized(np.abs(images), np.abs(truth)))))
    raise InputError(
        what,
        where=f"{prediction} and {reference}",
        why=f"shapes {_times(images.shape)} and {_times(truth.shape)} (items first)",
        fix=fix,
    )


def _plural(count: int) -> str:
    return "image" if count == 1 else "images"


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
