"""Read series of ISMRMRD images in HDF5 (of Gadgetron and the package ismrmrd): GROUP/image_N/data and header."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.geometry import Grid, from_matrix, slice_step
from mrirecon.io.safe.hdf5 import is_numeric, open_hdf5
from mrirecon.io.scan import Store

# Loop axes by the counters of the header, the last one fastest.
_LOOPS = {"average": "average", "repetition": "repetition", "set": "set", "phase": "phase", "contrast": "echo"}
_VECTORS = ("position", "read_dir", "phase_dir", "slice_dir", "field_of_view", "matrix_size")
_HEADS = 1 << 26  # largest size of the headers in bytes
_UNIT = 1e-2  # tolerance for unit length and right angles: headers have single precision


def raw_groups(names: Iterable[str]) -> list[str]:
    """Return the groups of an HDF5 file that hold ISMRMRD raw data: `xml` and `data`."""
    known = set(names)
    return [name[: -len("/xml")] for name in known if name.endswith("/xml") and f"{name[: -len('/xml')]}/data" in known]


def series_of(store: Store, dataset: str | None = None) -> list[str]:
    """Return the names of the arrays that are series of ISMRMRD images: all, or the one selected by name or group.

    Such arrays are in groups, have the name `data` and five axes (image, channel, z, y, x).
    """
    series = [
        name
        for name, (shape, dtype) in store.arrays.items()
        if name.endswith("/data") and len(shape) == 5 and is_numeric(dtype)
    ]
    if dataset is None:
        return series
    return [name for name in series if dataset.strip("/") in (name, name[: -len("/data")])]


def mrd_images(store: Store, series: list[str]) -> tuple[np.ndarray, str, Grid, dict[str, int] | None]:
    """Read a series of images, (item, y, x) or (item, z, y, x), real or complex, in the order of their counters.

    Args:
        store: the file.
        series: result of `series_of`.

    Returns:
        Values; file and array; grid; lengths of the loop axes of the items, None for slices only.

    Raises:
        InputError: several series; images of single coils.

    """
    if len(series) > 1:
        listed = ", ".join(f"{name[: -len('/data')]} {store.arrays[name][0]}" for name in series[:12])
        fix = f"name one of them, for example --dataset {series[0][: -len('/data')]}"
        raise InputError(f"{store.path} holds {len(series)} series of images", why=f"it holds {listed}", fix=fix)
    name = series[0]
    (count, channels, depth, *plane), _ = store.arrays[name]
    where = f"{store.path}:{name}"
    if channels > 1:
        why = f"shape {store.arrays[name][0]}: {channels} channels"
        raise InputError("the images are of single coils", where=where, why=why, fix="combine the coils first")
    values = store.read(name)
    heads = _heads(store, name, count)
    loops: dict[str, int] | None = None
    grid = Grid()
    if heads is not None:
        names = [stored for stored in _LOOPS if len(np.unique(heads[stored])) > 1]
        order = np.lexsort([heads["slice"], *(heads[stored] for stored in reversed(names))])
        values, heads = values[order], heads[order]
        lengths = {_LOOPS[stored]: len(np.unique(heads[stored])) for stored in names}
        slices = len(np.unique(heads["slice"]))
        regular = int(np.prod(list(lengths.values()))) * slices == count
        loops = {**lengths, "slice": slices} if lengths and regular else None
        grid = _grid(heads[:slices] if regular else heads[:1], depth, *plane) if regular or count == 1 else Grid()
    return values.reshape(count, *plane) if depth == 1 else values[:, 0], where, grid, loops


def _heads(store: Store, name: str, count: int) -> np.ndarray | None:
    """Read the headers of a series; return None if they are missing or cannot be read."""
    beside = f"{name[: -len('data')]}header"
    if beside not in store.arrays:
        return None
    shape, dtype = store.arrays[beside]
    fields = {*_LOOPS, "slice", *_VECTORS}
    if shape != (count,) or not fields <= set(dtype.names or ()) or count * dtype.itemsize > _HEADS:
        return None
    if any(dtype[n].base.kind not in "iuf" for n in fields):
        return None
    with open_hdf5(store.path) as file:
        return file[beside].records()


def _grid(heads: np.ndarray, depth: int, rows: int, columns: int) -> Grid:
    """Return the grid of images whose voxel n // 2 is at the stated position; see `mrirecon.io.geometry`."""
    first = {n: np.asarray(heads[n][0], dtype=np.float64) for n in _VECTORS}
    if not all(np.isfinite(v).all() for v in first.values()) or first["field_of_view"].min() <= 0:
        return Grid()
    fov, turn = first["field_of_view"], np.stack([first[n] for n in ("read_dir", "phase_dir", "slice_dir")])
    if np.abs(turn @ turn.T - np.eye(3)).max() > _UNIT:
        return Grid()
    x, y = turn[0] * fov[0] / columns, turn[1] * fov[1] / rows
    across: np.ndarray = turn[2] * fov[2] / depth
    thickness = float(fov[2] / depth)
    centres = np.asarray(heads["position"], dtype=np.float64)
    if depth == 1 and len(centres) > 1:
        step = slice_step(centres)
        if step is None:
            return Grid((None, float(np.linalg.norm(y)), float(np.linalg.norm(x))), None, thickness)
        across = step
    origin = centres[0] - columns // 2 * x - rows // 2 * y - (depth // 2 * across if depth > 1 else 0)
    return from_matrix(np.column_stack((x, y, across, origin)), thickness)
