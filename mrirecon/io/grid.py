"""Where the voxels of an image lie in the patient, for the formats that say so: NIfTI and DICOM.

One convention in here, DICOM's: millimetres in LPS (towards left, posterior, superior), voxels named by (x, y, slice),
that is (column, row, slice) of `images[slice, y, x]`, and an affine that maps these indices to a voxel's **centre**:

    r = A (x, y, slice, 1)^T,    A = [ a_x  a_y  a_slice | r_0 ]

With k-space s(k) = ∫ m(r) exp(-2πi k·(r - p)) dr, measured at k = j / FOV for j = -n//2 … about the position p (raw
data of the other sign are conjugated when they are read, see `mrirecon.io.readers.siemens`), the centred transform of
this toolkit gives voxel i the value at (i - n//2) FOV / n from p. So voxel n // 2 of every encoded axis lies at p, half
a voxel beside the middle of an even matrix, whose corner voxel has its centre at

    r_0 = p - Σ_axis (n_axis // 2) a_axis,    a_axis = FOV_axis / N_axis · direction,

N being the matrix that the field of view belongs to, n that of the image, which may be cropped about its centre. Slices
of a 2D scan are not encoded: each lies at its own stated centre, and a_slice is the step from one to the next, which
holds gaps, and the order in which they were stored.

NIfTI wants RAS, which turns the first two rows' signs. It shows j upwards where an image's rows run downwards, so rows
are stored in reverse, y = n_y - 1 - j, as dcm2niix does; then A_nifti = diag(-1, -1, 1, 1) A F with F that reversal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.geometry import Geometry
from mrirecon.io.readers.header import read_header
from mrirecon.io.scan import Scan

Rows = tuple[tuple[float, float, float, float], ...]
Spacing = tuple[float | None, float | None, float | None]
GRID_NAMES = ("affine_lps_mm", "spacing_mm", "thickness_mm")  # of the arrays in HDF5 and npz
_EVEN = 1e-2  # mm that a slice may lie beside the line that the others are on
TO_LPS = np.diag([-1.0, -1.0, 1.0])  # and back
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume (slice, y, x) lie, as far as it is known.

    Args:
        spacing: distance in mm of neighbouring voxel centres along (slice, y, x); None where unknown.
        affine: the first three rows of A, in mm, LPS; see above. None where unknown.
        thickness: of a slice in mm, which a gap makes less than the spacing; None where unknown.

    """

    spacing: Spacing = (None, None, None)
    affine: Rows | None = None
    thickness: float | None = None

    @property
    def matrix(self) -> np.ndarray | None:
        """A as a (4, 4) array."""
        return None if self.affine is None else np.array([*self.affine, (0, 0, 0, 1)], dtype=np.float64)

    def nifti(self, rows: int) -> np.ndarray | None:
        """Return the affine of NIfTI, (4, 4), mm in RAS, of data stored as [x, rows - 1 - y, slice]."""
        return None if self.matrix is None else _TO_RAS @ self.matrix @ _reversal(rows)


def from_matrix(matrix: np.ndarray, thickness: float | None = None) -> Grid:
    """Return the grid of an affine A, (4, 4) or (3, 4), mm in LPS."""
    rows = np.asarray(matrix, dtype=np.float64)[:3]
    step = np.sqrt((rows[:, :3] ** 2).sum(0))
    affine = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows)
    return Grid((float(step[2]), float(step[1]), float(step[0])), affine, thickness)


def from_nifti(affine: np.ndarray, rows: int) -> Grid:
    """Return the grid of images [slice, y, x] that were stored as [x, rows - 1 - y, slice] under a NIfTI affine."""
    return from_matrix(_TO_RAS @ affine @ _reversal(rows))


def grid_of(scan: Scan, shape: tuple[int, ...]) -> tuple[Grid, list[str]]:
    """Return where the images of a scan lie, and what is not known of it, in words.

    Args:
        scan: the scan they were made of.
        shape: of one image, (y, x) or (z, y, x); smaller than the scan's where it was cropped about its centre.

    """
    geometry = scan.geometry
    if geometry is None:
        spacing, thickness = _sizes(scan, len(shape))
        known = [f"{name} {value:.4g} mm" for name, value in zip(("slice", "y", "x"), spacing, strict=True) if value]
        told = f"voxel sizes known: {', '.join(known)}" if known else "nor are voxel sizes"
        return Grid(spacing, None, thickness), [f"where the images lie in the patient is not known; {told}"]
    steps = {axis: _step(geometry, axis, scan.shape[axis]) for axis in scan.space}
    origin, slices = np.array(geometry.position_mm), scan.shape.get("slice", 1)
    thickness = geometry.fov_mm[2]
    if len(shape) == 3:
        if slices > 1:
            return Grid(_lengths(*(steps[a] for a in scan.space))), ["several slabs: where each lies is not written"]
        thickness = float(np.linalg.norm(steps[geometry.axes[2]]))
        across = steps[scan.space[0]]
    else:
        across = np.array(geometry.slice) * geometry.fov_mm[2]
        if slices > 1:
            centres = np.array(geometry.slices_mm)
            if centres.shape != (slices, 3):
                return Grid(_lengths(None, *(steps[a] for a in scan.space)), None, thickness), [
                    f"{len(centres)} positions are stated for {slices} slices: where they lie is not written"
                ]
            across = (centres[-1] - centres[0]) / (slices - 1)
            on_line = centres[0] + across * np.arange(slices)[:, None]
            if np.abs(centres - on_line).max() > _EVEN or not np.linalg.norm(across) > _EVEN:
                return Grid(_lengths(None, *(steps[a] for a in scan.space)), None, thickness), [
                    "the slices are not evenly spaced along a line: where they lie is not written"
                ]
            origin = centres[0]
    for axis, length in zip(scan.space, shape, strict=True):
        origin = origin - (length // 2) * steps[axis]
    matrix = np.column_stack((steps[scan.space[-1]], steps[scan.space[-2]], across, origin))
    return from_matrix(matrix, thickness), []


def stored_grid(grid: Grid) -> dict[str, np.ndarray]:
    """Return what HDF5 and npz images keep of where they lie: plain arrays by name, which `restored_grid` understands.

    `affine_lps_mm` is A, (4, 4); without it, `spacing_mm` is (slice, y, x), NaN where unknown; `thickness_mm` is that
    of a slice.
    """
    found: dict[str, np.ndarray] = {}
    if grid.matrix is not None:
        found["affine_lps_mm"] = grid.matrix
    elif any(grid.spacing):
        found["spacing_mm"] = np.array([np.nan if s is None else s for s in grid.spacing])
    if grid.thickness is not None:
        found["thickness_mm"] = np.array(grid.thickness)
    return found


def restored_grid(found: Mapping[str, np.ndarray]) -> Grid:
    """Return the grid that `stored_grid` stored; what cannot be one is taken as unknown."""
    thickness, spacing = found.get("thickness_mm"), found.get("spacing_mm")
    thick = float(thickness) if thickness is not None and thickness.size == 1 and thickness > 0 else None
    matrix = found.get("affine_lps_mm")
    if matrix is not None and matrix.shape == (4, 4) and np.isfinite(matrix).all():
        return from_matrix(matrix, thick)
    if spacing is None or spacing.shape != (3,):
        return Grid(thickness=thick)
    slices, y, x = (float(s) if np.isfinite(s) and s > 0 else None for s in spacing)
    return Grid((slices, y, x), None, thick)


def said_loops(loops: Mapping[str, int] | None) -> str:
    """Return loop axes and lengths as HDF5 and npz images keep them, "repetition=2,slice=3"; "" for slices alone."""
    return ",".join(f"{name}={n}" for name, n in (loops or {}).items()) if loops and set(loops) != {"slice"} else ""


def heard_loops(text: str | None, count: int) -> dict[str, int] | None:
    """Return what `said_loops` said of `count` images; None where it does not."""
    parts = [part.partition("=") for part in (text or "").split(",")]
    if not all(name.isidentifier() and n.isdecimal() and len(n) < 10 for name, _, n in parts):
        return None
    found = {name: int(n) for name, _, n in parts}
    return found if len(found) == len(parts) and math.prod(found.values()) == count else None


def as_volumes(images: np.ndarray, loops: Mapping[str, int] | None = None) -> np.ndarray:
    """Return images as (volume, slice, y, x): what was measured several times is a volume each.

    Args:
        images: (item, y, x) or (item, z, y, x).
        loops: lengths of the loop axes that the items run over, the last fastest; by default items are slices in 2D
            and volumes in 3D.

    Raises:
        UsageError: lengths that do not make the number of items.

    """
    if images.ndim == 4:
        return images
    loops = dict(loops or {"slice": len(images)})
    if math.prod(loops.values()) != len(images):
        raise UsageError("the loops are not those of the images", why=f"{loops} for {len(images)} images")
    names = list(loops)
    apart = images.reshape(*loops.values(), *images.shape[1:])
    at = names.index("slice") if "slice" in names else None
    apart = apart[..., None, :, :] if at is None else np.moveaxis(apart, at, len(names) - 1)
    return apart.reshape(-1, *apart.shape[-3:])


def _reversal(rows: int) -> np.ndarray:
    found = np.diag([1.0, -1.0, 1.0, 1.0])
    found[1, 3] = rows - 1
    return found


def _step(geometry: Geometry, axis: str, length: int) -> np.ndarray:
    index = geometry.axes.index(axis)
    direction = (geometry.read, geometry.phase, geometry.slice)[index]
    return np.array(direction) / float(np.linalg.norm(direction)) * (geometry.fov_mm[index] / length)


def _lengths(*steps: np.ndarray | None) -> Spacing:
    slices, y, x = (None if step is None else float(np.linalg.norm(step)) for step in steps)
    return slices, y, x


def _sizes(scan: Scan, depth: int) -> tuple[Spacing, float | None]:
    """Return voxel sizes and slice thickness that the reduced ISMRMRD header of fastMRI's layout states.

    There the readout is stored along the image's rows (y) and the first phase encoding along x; believed only where the
    stated matrix is that of k-space.
    """
    header = read_header(scan.header, Path(scan.path)) if scan.header else None
    if not header or scan.space[-2:] != ("y", "x"):
        return (None, None, None), None
    try:
        fov = [float(header[f"encoding/encodedSpace/fieldOfView_mm/{axis}"]) for axis in "xyz"]
        matrix = [int(float(header[f"encoding/encodedSpace/matrixSize/{axis}"])) for axis in "xyz"]
    except (KeyError, ValueError):
        return (None, None, None), None
    stored = [scan.shape["y"], scan.shape["x"], scan.shape["z"] if depth == 3 else 1]
    if matrix != stored or not all(math.isfinite(f) and f > 0 for f in fov):
        return (None, None, None), None
    size = [f / n for f, n in zip(fov, matrix, strict=True)]
    return (size[2] if depth == 3 else None, size[0], size[1]), size[2]
