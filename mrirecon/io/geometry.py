"""Convert the position of scans and images in the patient, and the timing of the sequence, as headers state them.

`Geometry` is the position of a scan, as headers of raw data state it. `Grid` is the position of the voxels of its
images, as NIfTI and DICOM need it. Both use DICOM's convention: millimetres in LPS (towards left, posterior, superior).
A voxel has the indices (x, y, slice), that is (column, row, slice) of `images[slice, y, x]`, and an affine maps these
indices to the **centre** of the voxel:

    r = A (x, y, slice, 1)^T,    A = [ a_x  a_y  a_slice | r_0 ]

With k-space s(k) = ∫ m(r) exp(-2πi k·(r - p)) dr, measured at k = j / FOV for j = -n//2 … about the position p (raw
data of the other sign are conjugated when they are read, see `mrirecon.io.readers.siemens`), the centred transform of
this toolkit gives voxel i the value at (i - n//2) FOV / n from p. So voxel n // 2 of every encoded axis is at p. In an
even matrix, that is half a voxel from the middle. The corner voxel has its centre at

    r_0 = p - Σ_axis (n_axis // 2) a_axis,    a_axis = FOV_axis / N_axis · direction,

where N is the matrix size for the field of view, and n that of the image, which may be cropped about its centre. Slices
of a 2D scan are not encoded: each slice is at its own stated centre, and a_slice is the step from one slice to the
next, which includes gaps and follows the stored order.

NIfTI uses RAS, which changes the signs of the first two rows. It displays j upwards, but the rows of an image run
downwards. So rows are stored in reverse, y = n_y - 1 - j, as dcm2niix does: A_nifti = diag(-1, -1, 1, 1) A F, where F
is this reversal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.readers.header import read_header
from mrirecon.io.scan import SPACE, Scan

Vector = tuple[float, float, float]
Rows = tuple[tuple[float, float, float, float], ...]
Spacing = tuple[float | None, float | None, float | None]
GEOMETRY_NAMES = ("geometry_lps_mm", "geometry_axes")  # names of the arrays stored with k-space in HDF5 and npz
GRID_NAMES = ("affine_lps_mm", "spacing_mm", "thickness_mm")  # names of the arrays stored with images in HDF5 and npz
TO_LPS = np.diag([-1.0, -1.0, 1.0])  # also converts LPS to RAS
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNIT = 1e-2  # tolerance for unit length and right angles: headers have single precision
_EVEN = 1e-2  # largest distance of a slice from the line through the others, in mm
# Keyword of DICOM and BIDS: header values with this meaning, and whether BIDS uses seconds.
_SEQUENCE: dict[str, tuple[tuple[str, ...], bool]] = {
    "RepetitionTime": (("tr_ms", "tr"), True),
    "EchoTime": (("te_ms", "te"), True),
    "InversionTime": (("ti_ms", "ti"), True),
    "FlipAngle": (("flip_angle_deg", "flip_angle"), False),
    "MagneticFieldStrength": (("field_strength_t", "field_strength", "b0_t", "b0"), False),
}


@dataclass(frozen=True)
class Geometry:
    """Hold position and directions of a scan in the patient, LPS, in millimetres.

    `position_mm` is the centre of the field of view (as in ISMRMRD), not a corner (as in DICOM). With the centred
    transform of this toolkit, it is the centre of voxel n // 2 along every axis. Voxel indices increase along `read`,
    `phase` and `slice`, which are orthogonal unit vectors.

    Args:
        fov_mm: extent of the matrix `Scan.shape` along read, phase and slice (after removal of oversampling, if a note
            states it). In 2D, the last is the thickness of one slice.
        position_mm: centre of the single slice, the 3D slab, or the stack of slices.
        read: direction of frequency encoding.
        phase: direction of the first phase encoding.
        slice: direction through the slices, or of the second phase encoding.
        slices_mm: centre of each slice, in the order of the axis `slice`; one entry if there is no such axis.
        axes: the axes of `Scan.space` along read, phase and slice; the last one is "z" in 3D only.

    """

    fov_mm: Vector
    position_mm: Vector
    read: Vector
    phase: Vector
    slice: Vector
    slices_mm: tuple[Vector, ...] = ()
    axes: tuple[str, str, str] = ("y", "x", "z")


def make_geometry(
    fov_mm: Vector, slices_mm: tuple[Vector, ...], read: Vector, phase: Vector, slice: Vector
) -> Geometry | None:
    """Return the geometry of slices in their order, or None if the values of the header are not valid.

    Args:
        fov_mm: along read, phase and slice.
        slices_mm: centre of each slice; the position is the middle of the first and the last.
        read: see `Geometry`.
        phase: see `Geometry`.
        slice: see `Geometry`.

    """
    if not slices_mm or not _valid(np.array([fov_mm, read, phase, slice, *slices_mm])):
        return None
    first, last = slices_mm[0], slices_mm[-1]
    middle = ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2, (first[2] + last[2]) / 2)
    return Geometry(fov_mm, middle, read, phase, slice, slices_mm)


def stored_geometry(geometry: Geometry) -> dict[str, np.ndarray]:
    """Convert a geometry to arrays by name, which HDF5 and npz store with k-space.

    `geometry_lps_mm` has three columns and the rows field of view (read, phase, slice), position (L, P, S), directions
    of read, phase and slice, and then the centre of every slice; `geometry_axes` numbers the axes of k-space along
    read, phase and slice: 0 for z, 1 for y, 2 for x.
    """
    rows = (geometry.fov_mm, geometry.position_mm, geometry.read, geometry.phase, geometry.slice, *geometry.slices_mm)
    axes = [SPACE.index(axis) for axis in geometry.axes]
    return {"geometry_lps_mm": np.array(rows, dtype=np.float64), "geometry_axes": np.array(axes, dtype=np.uint8)}


def restored_geometry(arrays: Mapping[str, np.ndarray]) -> Geometry | None:
    """Convert the arrays of `stored_geometry` back to a geometry; return None if they are not valid."""
    rows, axes = (arrays.get(name) for name in GEOMETRY_NAMES)
    if rows is None or axes is None or rows.ndim != 2 or rows.shape[1] != 3 or len(rows) < 5 or rows.dtype.kind != "f":
        return None
    if (
        sorted(axes.ravel().tolist()) != [0, 1, 2]
        or not _valid(np.delete(rows, 1, axis=0))
        or not np.isfinite(rows[1]).all()
    ):
        return None
    fov, position, read, phase, through, *slices = ((float(a), float(b), float(c)) for a, b, c in rows)
    first, second, third = (SPACE[int(a)] for a in axes.ravel())
    return Geometry(fov, position, read, phase, through, tuple(slices), (first, second, third))


def _valid(rows: np.ndarray) -> bool:
    """Return whether all rows are finite, the field of view positive, and the three directions orthonormal."""
    directions = rows[1:4]
    if not np.isfinite(rows).all() or (rows[0] <= 0).any():
        return False
    return bool(np.abs(directions @ directions.T - np.eye(3)).max() <= _UNIT)


@dataclass(frozen=True)
class Grid:
    """Hold the position of the voxels of a volume (slice, y, x), as far as it is known.

    Args:
        spacing: distance in mm of neighbouring voxel centres along (slice, y, x); None if unknown.
        affine: the first three rows of A, in mm, LPS (see this module); None if unknown.
        thickness: thickness of a slice in mm, less than the spacing if there are gaps; None if unknown.

    """

    spacing: Spacing = (None, None, None)
    affine: Rows | None = None
    thickness: float | None = None

    @property
    def matrix(self) -> np.ndarray | None:
        """Return the affine A as a (4, 4) array."""
        return None if self.affine is None else np.array([*self.affine, (0, 0, 0, 1)], dtype=np.float64)

    def nifti(self, rows: int) -> np.ndarray | None:
        """Return the affine of NIfTI, (4, 4), mm in RAS, for data stored as [x, rows - 1 - y, slice]."""
        return None if self.matrix is None else _TO_RAS @ self.matrix @ _reversal(rows)


def from_matrix(matrix: np.ndarray, thickness: float | None = None) -> Grid:
    """Return the grid of an affine A, (4, 4) or (3, 4), mm in LPS."""
    rows = np.asarray(matrix, dtype=np.float64)[:3]
    x, y, slices = np.sqrt((rows[:, :3] ** 2).sum(0)).tolist()
    return Grid((slices, y, x), tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows), thickness)


def from_nifti(affine: np.ndarray, rows: int) -> Grid:
    """Return the grid of images [slice, y, x] that were stored as [x, rows - 1 - y, slice] under a NIfTI affine."""
    return from_matrix(_TO_RAS @ affine @ _reversal(rows))


def _reversal(rows: int) -> np.ndarray:
    reversal = np.diag([1.0, -1.0, 1.0, 1.0])
    reversal[1, 3] = rows - 1
    return reversal


def grid_of(scan: Scan, shape: tuple[int, ...]) -> tuple[Grid, list[str]]:
    """Return the grid of the images of a scan, and notes on the values that are not known.

    Args:
        scan: the scan from which the images were reconstructed.
        shape: shape of one image, (y, x) or (z, y, x); smaller than that of the scan if cropped about its centre.

    """
    geometry = scan.geometry
    if geometry is None:
        spacing, thickness = _sizes(scan, len(shape))
        known = [f"{name} {value:.4g} mm" for name, value in zip(("slice", "y", "x"), spacing, strict=True) if value]
        sizes = f"voxel sizes known: {', '.join(known)}" if known else "the voxel sizes are not known either"
        return Grid(spacing, None, thickness), [f"the position of the images in the patient is not known; {sizes}"]
    steps = {axis: _step(geometry, axis, scan.shape[axis]) for axis in scan.space}
    origin, slices = np.array(geometry.position_mm), scan.shape.get("slice", 1)
    thickness = geometry.fov_mm[2]
    across: np.ndarray | None = None
    reason = "the slices are not evenly spaced along a line: their positions are not written"
    if len(shape) == 3:
        across, reason = steps[scan.space[0]], "several slabs: their positions are not written"
        thickness = None if slices > 1 else float(np.linalg.norm(steps[geometry.axes[2]]))
    elif slices > 1:
        centres = np.array(geometry.slices_mm)
        if centres.shape != (slices, 3):
            reason = f"{len(centres)} positions are stated for {slices} slices: positions are not written"
        else:
            across, origin = slice_step(centres), centres[0]
    else:
        across = np.array(geometry.slice) * geometry.fov_mm[2]
    if across is None or thickness is None:
        lengths = [
            None if step is None else float(np.linalg.norm(step))
            for step in (across, *(steps[a] for a in scan.space[-2:]))
        ]
        return Grid((lengths[0], lengths[1], lengths[2]), None, thickness), [reason]
    for axis, length in zip(scan.space, shape, strict=True):
        origin = origin - (length // 2) * steps[axis]
    return from_matrix(np.column_stack((steps[scan.space[-1]], steps[scan.space[-2]], across, origin)), thickness), []


def slice_step(centres: np.ndarray) -> np.ndarray | None:
    """Return the step between centres of slices, (slice, 3) in mm; None if they are not evenly spaced along a line."""
    step: np.ndarray = (centres[-1] - centres[0]) / (len(centres) - 1)
    distances = np.abs(centres - (centres[0] + step * np.arange(len(centres))[:, None]))
    return step if distances.max() <= _EVEN < np.linalg.norm(step) else None


def _step(geometry: Geometry, axis: str, length: int) -> np.ndarray:
    index = geometry.axes.index(axis)
    direction = (geometry.read, geometry.phase, geometry.slice)[index]
    return np.array(direction) / float(np.linalg.norm(direction)) * (geometry.fov_mm[index] / length)


def _sizes(scan: Scan, depth: int) -> tuple[Spacing, float | None]:
    """Read voxel sizes and slice thickness from the reduced ISMRMRD header of fastMRI's layout.

    In this layout the readout is along y and the first phase encoding along x. The header is used only if its matrix
    equals that of k-space.
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


def stored_grid(grid: Grid) -> dict[str, np.ndarray]:
    """Convert a grid to arrays by name, which HDF5 and npz store with images.

    `affine_lps_mm` is A, (4, 4); without it, `spacing_mm` is (slice, y, x), NaN if unknown. `thickness_mm` is the
    thickness of a slice.
    """
    arrays: dict[str, np.ndarray] = {}
    if grid.matrix is not None:
        arrays["affine_lps_mm"] = grid.matrix
    elif any(grid.spacing):
        arrays["spacing_mm"] = np.array([np.nan if s is None else s for s in grid.spacing])
    if grid.thickness is not None:
        arrays["thickness_mm"] = np.array(grid.thickness)
    return arrays


def restored_grid(arrays: Mapping[str, np.ndarray]) -> Grid:
    """Convert the arrays of `stored_grid` back to a grid; treat invalid arrays as unknown."""
    matrix, spacing, thickness = (arrays.get(name) for name in GRID_NAMES)
    thick = float(thickness) if thickness is not None and thickness.size == 1 and thickness > 0 else None
    if matrix is not None and matrix.shape == (4, 4) and np.isfinite(matrix).all():
        return from_matrix(matrix, thick)
    if spacing is None or spacing.shape != (3,):
        return Grid(thickness=thick)
    slices, y, x = (float(s) if np.isfinite(s) and s > 0 else None for s in spacing)
    return Grid((slices, y, x), None, thick)


def encode_loops(loops: Mapping[str, int] | None) -> str:
    """Encode loop axes and lengths for HDF5 and npz images: "repetition=2,slice=3"; "" for slices only."""
    return ",".join(f"{name}={n}" for name, n in (loops or {}).items()) if loops and set(loops) != {"slice"} else ""


def decode_loops(text: str | None, count: int) -> dict[str, int] | None:
    """Decode the text of `encode_loops` for `count` images; return None if it is not valid."""
    parts = [part.partition("=") for part in (text or "").split(",")]
    if not all(name.isidentifier() and n.isdecimal() and len(n) < 10 for name, _, n in parts):
        return None
    loops = {name: int(n) for name, _, n in parts}
    return loops if len(loops) == len(parts) and math.prod(loops.values()) == count else None


def as_volumes(images: np.ndarray, loops: Mapping[str, int] | None = None) -> np.ndarray:
    """Return images as (volume, slice, y, x), one volume for each repetition, echo or other loop except slices.

    Args:
        images: (item, y, x) or (item, z, y, x).
        loops: lengths of the loop axes that the items run over, the last fastest; by default items are slices in 2D
            and volumes in 3D.

    Raises:
        UsageError: the product of the lengths is not the number of items.

    """
    if images.ndim == 4:
        return images
    loops = dict(loops or {"slice": len(images)})
    if math.prod(loops.values()) != len(images):
        raise UsageError("the loops do not match the number of images", why=f"{loops} for {len(images)} images")
    unfolded = images.reshape(*loops.values(), *images.shape[1:])
    if "slice" in loops:
        unfolded = np.moveaxis(unfolded, list(loops).index("slice"), len(loops) - 1)
    else:
        unfolded = unfolded[..., None, :, :]
    return unfolded.reshape(-1, *unfolded.shape[-3:])


def sequence(attributes: Mapping[str, object], loops: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return times in ms, flip angle in degrees and field in T by DICOM's keywords, as far as the attributes hold them.

    The echo time is left out if it varies over a loop, because the stated value is not that of every image.

    Args:
        attributes: attributes of the scan.
        loops: lengths of its loop axes.

    """
    several_echoes = any((loops or {}).get(name, 1) > 1 for name in ("echo", "contrast"))
    values = {}
    for keyword, (names, _) in _SEQUENCE.items():
        value = next((v for v in (_number(attributes.get(name)) for name in names) if v is not None), None)
        if value is not None and not (keyword == "EchoTime" and several_echoes):
            values[keyword] = value
    return values


def in_seconds(values: Mapping[str, float]) -> dict[str, float]:
    """Convert the times of `sequence` to seconds, as BIDS requires."""
    return {keyword: value / 1000 if _SEQUENCE[keyword][1] else value for keyword, value in values.items()}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
