"""Build the scan of ISMRMRD acquisitions with trajectories: radial, spiral, and stacks of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.readouts import BOTH, IMAGE, LOOPED, NOISE, Encoding, Readouts
from mrirecon.io.readers.registry import Source
from mrirecon.io.safe.hdf5 import ArrayTypes
from mrirecon.io.scan import Scalar, Scan

_LARGEST_NORMALIZED = 0.5 * (1 + 1e-3)  # largest coordinate in cycles per voxel, with a tolerance for rounding
# A function of acquisition numbers that returns their samples, one acquisition after another.
Flat = Callable[[np.ndarray], np.ndarray]


class ReadoutStore:
    """Read the samples of each item as (loops…, coil, readout, sample).

    Args:
        path: the file.
        rows: (item, readout), acquisitions of each item.
        loops: lengths of the loop axes.
        coils: number of coils.
        samples: the samples of a readout that are not discarded.
        flat: function that reads the samples of acquisitions.

    """

    def __init__(
        self,
        path: Path,
        rows: np.ndarray,
        loops: tuple[int, ...],
        coils: int,
        samples: slice,
        flat: Flat,
    ) -> None:
        self.path = path
        self.files: tuple[Path, ...] = (path,)
        self._rows, self._loops, self._coils, self._samples, self._flat = rows, loops, coils, samples, flat
        shape = (*loops, coils, rows.shape[1], samples.stop - samples.start)
        self.arrays: ArrayTypes = {"kspace": (shape, np.dtype(np.complex64))}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array."""
        lead, rest = index[: len(self._loops)], index[len(self._loops) :]
        items = np.arange(len(self._rows)).reshape(self._loops)[lead]
        blocks = [self._item(int(item)) for item in np.ravel(items)]
        whole = np.stack(blocks).reshape(*np.shape(items), *blocks[0].shape)
        return np.asarray(whole[(*[slice(None)] * np.ndim(items), *rest)])

    def _item(self, item: int) -> np.ndarray:
        rows = self._rows[item]
        values = self._flat(rows).reshape(len(rows), self._coils, -1)[..., self._samples]
        return np.ascontiguousarray(values.swapaxes(0, 1))


def trajectory_scan(
    source: Source,
    table: Readouts,
    encoding: Encoding,
    samples: Flat,
    coordinates: Callable[[np.ndarray, int], np.ndarray],
    dimensions: np.ndarray,
    *,
    notes: list[str],
    attributes: Mapping[str, Scalar],
    header: str | None,
) -> Scan:
    """Build the scan of acquisitions with a trajectory.

    The image has the matrix of reconSpace. Coordinates of at most 0.5 are taken as cycles per voxel; for others, see
    `mrirecon.io.trajectory.TrajectoryOptions`. Components kx, ky and kz belong to the axes y, x and z, as for Cartesian
    data. Coordinates of two components with several partitions are completed by the partition.

    Args:
        source: the file.
        table: the acquisitions.
        encoding: encoding of the header.
        samples: reads samples of acquisitions.
        coordinates: reads coordinates of acquisitions with a number of components.
        dimensions: number of components of each acquisition.
        notes: conclusions for the user.
        attributes: see `assemble`.
        header: see `assemble`.

    Raises:
        InputError: no trajectory; acquisitions of different length; images with different numbers of readouts.

    """
    path, rows = source.path, table.rows(IMAGE, BOTH)
    first = rows[0] if rows.size else 0
    ndim = int(dimensions[first]) if rows.size else 0
    if ndim not in (2, 3) or (dimensions[rows] != ndim).any():
        raise InputError(
            f"{path} has a trajectory that is not Cartesian, and no coordinates",
            why=f"its acquisitions have {ndim} components of a trajectory",
            fix="store the trajectory in the acquisitions",
        )
    for name in ("samples", "coils", "discard_pre", "discard_post"):
        column = getattr(table, name)[rows]
        if (column != column[0]).any():
            raise InputError(f"the readouts of {path} differ in {name}", why=f"{column.min()} to {column.max()}")
    sizes = {name: int(table.counters[name][rows].max()) + 1 for name in LOOPED}
    loops = tuple(name for name in LOOPED if sizes[name] > 1 or name == "slice")
    item = np.zeros(len(rows), dtype=np.int64)
    for name in loops:
        item = item * sizes[name] + table.counters[name][rows]
    count = np.bincount(item, minlength=math.prod(sizes[name] for name in loops))
    if (count != count[0]).any():
        raise InputError(
            f"the images of {path} have different numbers of readouts", why=f"{count.min()} to {count.max()}"
        )
    grouped = rows[np.argsort(item, kind="stable")].reshape(len(count), -1)
    length = int(table.samples[first])
    valid = slice(int(table.discard_pre[first]), length - int(table.discard_post[first]))
    points = coordinates(grouped.ravel(), ndim).reshape(*grouped.shape, length, ndim)[:, :, valid]
    matrix = encoding.image[:ndim]
    units = source.trajectory.units
    if units == "1/fov" and np.abs(points).max(initial=0) <= _LARGEST_NORMALIZED:
        units = "cycles/voxel"
        notes.append("coordinates of the trajectory are at most 0.5: taken as cycles per voxel")
    partition = table.counters["partition"][grouped]
    if ndim == 2 and partition.max() > 0:
        centre = encoding.partition_centre
        height = partition - (encoding.image[2] // 2 if centre is None else centre)
        depth = encoding.image[2] if source.trajectory.matrix is None else source.trajectory.matrix[0]
        # The counter is in 1/FOV; it is converted to the unit of the other components.
        scale = {"1/fov": 1, "cycles/voxel": depth, "radians/voxel": depth / (2 * math.pi)}[units]
        points = np.concatenate([points, np.broadcast_to(height[..., None, None] / scale, (*points.shape[:3], 1))], -1)
        matrix = encoding.image
        notes.append(f"{int(partition.max()) + 1} partitions of a stack: their counter is the third component")
    if points.shape[-1] == 3:
        points, matrix = points[..., [2, 0, 1]], (matrix[2], matrix[0], matrix[1])
    if (points == points[:1]).all():
        points = points[:1]
    source.trajectory = replace(source.trajectory, units=units, matrix=source.trajectory.matrix or matrix)
    source.points = (points, f"{path}, coordinates of its acquisitions")
    coils = int(table.coils[first])
    store = ReadoutStore(path, grouped, tuple(sizes[name] for name in loops), coils, valid, samples)
    noise_rows = table.rows(NOISE)
    noise_rows = noise_rows[table.coils[noise_rows] == coils]
    noise = None
    if noise_rows.size:
        each = np.split(samples(noise_rows), np.cumsum(table.samples[noise_rows] * coils)[:-1])
        noise = np.concatenate([part.reshape(coils, -1) for part in each], axis=1)
    axes = (*loops, "coil", "readout", "sample")
    layout = make_layout(axes, store.arrays["kspace"][0], str(path))
    return assemble(
        source,
        store,
        "ismrmrd",
        "kspace",
        layout,
        notes=notes,
        attributes=attributes,
        header=header,
        noise=noise,
        acquisitions=table.counts(),
    )
