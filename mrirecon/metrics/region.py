"""Read masks and labelled regions from files on the grid of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.images import open_store, pick
from mrirecon.io.readers.nifti import is_nifti, read_nifti, resampled_labels
from mrirecon.io.safe.hdf5 import is_numeric
from mrirecon.metrics.shapes import times

NAMES = ("labels", "lesions", "mask", "region", "segmentation")


def read_region(path: str | Path, shape: tuple[int, ...], like: str | Path) -> np.ndarray:
    """Read a label for every pixel, in the shape of the images.

    Args:
        path: HDF5, .npz or .npy with integers; or NIfTI, which is resampled to the grid of ``like`` if that is also
            NIfTI, by the nearest label in scanner coordinates.
        shape: (item, *space) shape of the images.
        like: file of the images.

    Raises:
        InputError: the file cannot be read, has no labels, or does not match.

    """
    path, like = Path(path), Path(like)
    if is_nifti(path):
        labels = (resampled_labels(path, like) if is_nifti(like) else read_nifti(path)).values
    else:
        store = open_store(path)
        name = pick(store, NAMES)
        if not is_numeric(store.arrays[name][1]):
            raise InputError(f"{path} holds no labels", why=f"{name} is {store.arrays[name][1]}")
        labels = np.asarray(store.read(name))
    if np.iscomplexobj(labels) or not np.isfinite(labels).all() or bool((labels != np.rint(labels)).any()):
        raise InputError(
            f"{path} holds no labels", why="its values are not integers", fix="use a mask or integer labels"
        )
    if labels.size != int(np.prod(shape)) or labels.shape[-2:] != shape[-2:]:
        raise InputError(
            f"{path} does not match the images",
            why=f"shapes {times(labels.shape)} and {times(shape)} (items first)",
            fix="use the grid of the images, or NIfTI files with coordinates for both",
        )
    return labels.reshape(shape).astype(np.int32)
