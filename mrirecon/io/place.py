"""How HDF5 and npz k-space keeps where it lies: arrays of numbers, which every reader can read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mrirecon.io.geometry import Geometry, Vector
from mrirecon.io.scan import SPACE

NAMES = ("geometry_lps_mm", "geometry_axes")
_HEAD = 5  # field of view, position, three directions; then the slices


def stored_geometry(geometry: Geometry) -> dict[str, np.ndarray]:
    """Return a geometry as arrays by name.

    `geometry_lps_mm` has three columns and the rows field of view (read, phase, slice), position (L, P, S), directions
    of read, phase and slice, and then the centre of every slice; `geometry_axes` names the axes of k-space along read,
    phase and slice, 0 for z, 1 for y, 2 for x. See `mrirecon.io.Geometry`.
    """
    rows = (geometry.fov_mm, geometry.position_mm, geometry.read, geometry.phase, geometry.slice, *geometry.slices_mm)
    axes = [SPACE.index(axis) for axis in geometry.axes]
    return {"geometry_lps_mm": np.array(rows, dtype=np.float64), "geometry_axes": np.array(axes, dtype=np.uint8)}


def restored_geometry(found: Mapping[str, np.ndarray]) -> Geometry | None:
    """Return what `stored_geometry` stored, or None where it cannot be one."""
    rows, axes = (found.get(name) for name in NAMES)
    if rows is None or axes is None or rows.ndim != 2 or rows.shape[1] != 3 or len(rows) < _HEAD:
        return None
    if rows.dtype.kind != "f" or not np.isfinite(rows).all() or sorted(axes.ravel().tolist()) != [0, 1, 2]:
        return None
    if (rows[0] <= 0).any() or np.abs(rows[2:_HEAD] @ rows[2:_HEAD].T - np.eye(3)).max() > 1e-2:
        return None
    fov, position, read, phase, across, *slices = (_vector(row) for row in rows)
    first, second, third = (SPACE[int(a)] for a in axes.ravel())
    return Geometry(fov, position, read, phase, across, tuple(slices), (first, second, third))


def _vector(row: np.ndarray) -> Vector:
    return float(row[0]), float(row[1]), float(row[2])
