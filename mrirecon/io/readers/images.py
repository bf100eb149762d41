"""Read images for evaluation, masks and coil maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.geometry import GRID_NAMES, Grid, decode_loops, restored_grid
from mrirecon.io.readers.assemble import KSPACE_NAMES, leaf, list_arrays
from mrirecon.io.readers.cfl import CflStore, image_store
from mrirecon.io.readers.mrd_images import mrd_images, raw_groups, series_of
from mrirecon.io.readers.nifti import is_nifti, read_nifti
from mrirecon.io.readers.npy import NpyStore, NpzStore
from mrirecon.io.readers.registry import holds_images as may_hold_images
from mrirecon.io.readers.registry import image_reader, sniff
from mrirecon.io.safe.hdf5 import Hdf5Store, is_numeric, open_hdf5
from mrirecon.io.scan import Store, complex_dtype, magnitude_of, real_of

IMAGE_NAMES = ("reconstruction", "reference", "reconstruction_rss", "reconstruction_esc", "image", "images", "img")


def open_store(path: str | Path) -> Store:
    """Open the arrays of a file of any format, with the same checks as `read`.

    Raises:
        InputError, UnsafeContentError: see `read`.

    """
    path = Path(path)
    kind = sniff(path)
    if kind == "npy":
        return NpyStore(path)
    if kind == "npz":
        return NpzStore(path)
    if kind == "cfl":
        return CflStore(path)
    with open_hdf5(path) as file:
        return Hdf5Store(path, file.survey()[0])


def pick(store: Store, names: Sequence[str], dataset: str | None = None) -> str:
    """Return the name of an array: `dataset`, else the first of `names`, else the only array of numbers.

    A name is searched in the root, then inside groups if only one array has this name.

    Raises:
        InputError: no such array; the message lists the arrays of the file.

    """
    if dataset is not None and dataset in store.arrays:
        return dataset
    numeric = [name for name, (_, dtype) in store.arrays.items() if is_numeric(dtype)]
    by_name = {name.lower(): name for name in numeric}
    named = [by_name[name] for name in names if name in by_name]
    inside = [[n for n in numeric if "/" in n and leaf(n).lower() == name] for name in names]
    named = named or [group[0] for group in inside if len(group) == 1] or (numeric if len(numeric) == 1 else [])
    if dataset is not None or not named:
        description = repr(dataset) if dataset is not None else " or ".join(names)
        fix = "rename the array, or select one with --dataset NAME"
        raise InputError(f"{store.path} holds no {description}", why=f"it holds {list_arrays(store.arrays)}", fix=fix)
    return named[0]


def read_array(path: str | Path, names: Sequence[str], dataset: str | None = None) -> np.ndarray:
    """Read an array as stored, selected by `pick`. Arrays of BART become (loops..., 1, *space), in C order.

    Raises:
        InputError, UnsafeContentError: see `read`.

    """
    if dataset is None and sniff(path) == "cfl":
        return image_store(Path(path)).read()
    store = open_store(path)
    return store.read(pick(store, names, dataset))


@dataclass(frozen=True)
class Images:
    """Hold the images of a file.

    Attributes:
        values: (item, y, x) or (item, z, y, x), real or complex, of the type stored.
        where: file and array, for messages.
        grid: position of the voxels, as far as the file states it.
        loops: lengths of the loop axes of the items; None if the file does not state them (the items are slices).

    """

    values: np.ndarray
    where: str
    grid: Grid
    loops: dict[str, int] | None = None


def read_image(path: str | Path, *, dataset: str | None = None) -> np.ndarray:
    """Read the magnitude images of a file, (item, *space) float32: a reconstruction or a reference.

    Args:
        path: HDF5 or .npz with one of `IMAGE_NAMES`, a series of ISMRMRD images as Gadgetron writes it, .npy, NIfTI
            (slices upright), the folder of a DICOM series, or a BART pair. A single 2D array is one item. Further
            leading axes of a BART array are items; a 4D array of another format is (item, z, y, x), as `write_image`
            writes it. The slices of several volumes of NIfTI and DICOM are items one after another.
        dataset: name of the array.

    Raises:
        InputError: no such array, fewer than two axes, NaN or infinite values.

    """
    return read_placed_image(path, dataset=dataset)[0]


def read_placed_image(path: str | Path, *, dataset: str | None = None, signed: bool = False) -> tuple[np.ndarray, Grid]:
    """Return the images of `read_image` and their grid; its position is unknown if there are several volumes.

    With `signed`, real images keep their sign; complex ones are still magnitudes.

    Raises:
        InputError: see `read_image`.

    """
    take = real_of if signed else magnitude_of
    if is_nifti(path):
        upright = read_nifti(path)
        if upright.placed:
            return take(upright.values, str(path)), upright.grid
    images = read_images(path, dataset=dataset)
    values, grid = images.values, images.grid
    several = values.ndim == 3 and images.loops is not None  # loops other than slices
    if is_volumes(path):
        several = values.ndim == 4
        values = values.reshape(-1, *values.shape[-2:])
    return take(values, images.where), Grid(grid.spacing, None, grid.thickness) if several else grid


def holds_images(path: str | Path) -> bool:
    """Return whether a file holds images and no k-space, judged by names, types and shapes.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`.

    """
    if is_volumes(path):
        return True
    kind = sniff(Path(path))
    if not may_hold_images(kind):
        return False
    store = open_store(path)
    if kind == "cfl":
        # Dimension 3 of a BART array is the coils: k-space of one coil looks like an image, so it needs `axes`.
        return next(iter(store.arrays.values()))[0][3] == 1
    if kind == "npy":
        shape, dtype = next(iter(store.arrays.values()))
        return len(shape) < 4 and not complex_dtype(dtype)
    if any(leaf(name).lower() in KSPACE_NAMES for name in store.arrays) or raw_groups(store.arrays):
        return False
    return any(name.lower() in IMAGE_NAMES for name in store.arrays) or bool(series_of(store))


def is_volumes(path: str | Path) -> bool:
    """Return whether the format of a file holds only images, such as NIfTI or DICOM, whose arrays have no names."""
    return image_reader(path) is not None


def read_images(path: str | Path, *, dataset: str | None = None) -> Images:
    """Read the images of a file as stored, real or complex, with their grid and the loop axes of the items.

    One volume of NIfTI or DICOM is (slice, y, x); several are (volume, slice, y, x).

    Raises:
        InputError: see `read_image`.

    """
    reader = image_reader(path)
    if reader is not None:
        volumes, grid = reader.build(path)
        return Images(volumes[0] if len(volumes) == 1 else volumes, str(path), grid)
    grid, loops = Grid(), None
    if sniff(path) == "cfl":
        bart = image_store(Path(path))
        values, depth = bart.read(), bart.depth
        values = values.reshape(-1, *values.shape[-depth:])
        where = f"{bart.path}"
    else:
        store = open_store(path)
        series = series_of(store, dataset)
        if series and not (dataset is None and any(name.lower() in IMAGE_NAMES for name in store.arrays)):
            return Images(*mrd_images(store, series))
        name = pick(store, IMAGE_NAMES, dataset)
        values, where = store.read(name), f"{path}:{name}"
        beside = {n: shape for n, (shape, _) in store.arrays.items() if n in GRID_NAMES}
        small = [n for n, shape in beside.items() if math.prod(shape) <= 16 and is_numeric(store.arrays[n][1])]
        grid = restored_grid({n: store.read(n) for n in small})
        loops = decode_loops(_items(store, name), len(values))
    if values.ndim == 2:
        values = values[None]
    if not 3 <= values.ndim <= 4 or not values.size:
        raise InputError("images must be (item, y, x) or (item, z, y, x)", where=where, why=f"shape {values.shape}")
    return Images(values, where, grid, loops)


def _items(store: Store, name: str) -> str | None:
    if isinstance(store, NpzStore):
        return store.text("items")
    if isinstance(store, Hdf5Store):
        with open_hdf5(store.path) as file:
            stated = file[name].attributes(["items"]).get("items")
            return None if stated is None else str(stated)
    return None
