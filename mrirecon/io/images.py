"""Read arrays that are not k-space: images for evaluation, masks, coil maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.cfl import CflStore, image_store
from mrirecon.io.fastmri import Hdf5Store
from mrirecon.io.hdf5 import open_hdf5
from mrirecon.io.identify import sniff
from mrirecon.io.limits import is_numeric
from mrirecon.io.nifti import SUFFIXES as NIFTI
from mrirecon.io.nifti import read_nifti
from mrirecon.io.npy import NpyStore, NpzStore
from mrirecon.io.scan import Store
from mrirecon.io.values import magnitude_of

IMAGE_NAMES = ("reconstruction", "reference", "reconstruction_rss", "reconstruction_esc", "image", "images", "img")


def open_store(path: str | Path) -> Store:
    """Return the arrays of a file of any format, guarded as `read` guards them.

    Raises:
        InputError, UnsafeContentError: see `read`.

    """
    path = Path(path)
    kind = sniff(path)
    if kind == "npy":
        return NpyStore(path)
    if kind == "zip":
        return NpzStore(path)
    if kind == "cfl":
        return CflStore(path)
    arrays = {}
    with open_hdf5(path) as file:
        for name in file:
            if not file.is_group(name):
                try:
                    found = file[name]
                except (InputError, KeyError):  # a name that is listed, and leads to nothing
                    continue
                arrays[name] = (found.shape, found.dtype)
    return Hdf5Store(path, arrays)


def pick(store: Store, names: Sequence[str], dataset: str | None = None) -> str:
    """Return the name of an array: the one asked for, else the first of `names` there is, else the only one of numbers.

    Raises:
        InputError: none of these; what there is is listed.

    """
    if dataset is not None and dataset in store.arrays:
        return dataset
    numeric = [name for name, (_, dtype) in store.arrays.items() if is_numeric(dtype)]
    by_name = {name.lower(): name for name in numeric}
    found = [by_name[name] for name in names if name in by_name] or (numeric if len(numeric) == 1 else [])
    if dataset is not None or not found:
        listed = (
            ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in list(store.arrays.items())[:12])
            or "no arrays"
        )
        wanted = repr(dataset) if dataset is not None else " or ".join(names)
        raise InputError(f"{store.path} holds no {wanted}", why=f"it holds {listed}", fix="name the array so")
    return found[0]


def read_array(path: str | Path, names: Sequence[str], dataset: str | None = None) -> np.ndarray:
    """Return one array of a file, as stored; see `pick` for which.

    Raises:
        InputError, UnsafeContentError: see `read`.

    """
    store = open_store(path)
    return store.read(pick(store, names, dataset))


def read_image(path: str | Path, *, dataset: str | None = None) -> np.ndarray:
    """Return the magnitude images of a file, (item, *space) float32: a reconstruction or a reference.

    Args:
        path: HDF5 or .npz with one of `IMAGE_NAMES`, .npy, NIfTI (slices upright), or a BART pair. A single 2D array is
            one item; further leading axes of a BART array are counted as items; a 4D array elsewhere is (item, z, y,
            x), as `write_image` writes it.
        dataset: name of the array.

    Raises:
        InputError: no such array, fewer than two axes, values that are not numbers.

    """
    if str(path).lower().endswith(NIFTI):
        values, where = read_nifti(path).values, str(path)
    elif sniff(path) == "cfl":
        bart = image_store(Path(path))
        values, depth = bart.read(), bart.depth
        values = values.reshape(-1, *values.shape[-depth:])
        where = f"{bart.path}"
    else:
        store = open_store(path)
        name = pick(store, IMAGE_NAMES, dataset)
        values, where = store.read(name), f"{path}:{name}"
    if values.ndim == 2:
        values = values[None]
    if not 3 <= values.ndim <= 4 or not values.size:
        raise InputError("images must be (item, y, x) or (item, z, y, x)", where=where, why=f"shape {values.shape}")
    return magnitude_of(values, where)
