"""Magnitude volumes from NIfTI files, as slices that stand upright."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, ResourceError, UsageError
from mrirecon.io.grid import TO_LPS, Grid, from_matrix, from_nifti
from mrirecon.io.identify import regular_file
from mrirecon.io.limits import READ_LIMIT

SUFFIXES = (".nii", ".nii.gz")
_TRAILING = 16 << 20  # bytes that a compressed file may hold behind its voxels
INSTALL = "pip install 'mrirecon[formats]'"


@dataclass(frozen=True)
class Slices:
    """Slices of a volume.

    Attributes:
        values: (slice, y, x), real, in the file's units.
        spacing: (slice, y, x) distances of neighbouring voxels in mm.
        grid: where they lie, without a position if the file states none or holds several volumes.
        placed: whether the file states how it lies.

    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    placed: bool = True


def read_nifti(path: str | Path) -> Slices:
    """Return a volume cut across its coarsest axis (axially where all are alike), the patient's front or top upwards.

    A fourth axis (echoes, repetitions) is counted among the slices.

    Raises:
        UsageError: nibabel is not installed.
        InputError: not a NIfTI file, truncated, without a usable geometry, or without numbers.

    """
    return _cut(*_load(path)[:3])


def read_stored(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Return volumes as `mrirecon.io.write_image` stores them, (volume, slice, y, x) float32, and where they lie.

    The slices are along the file's third axis; nothing is turned by the affine.

    Raises:
        UsageError, InputError: see `read_nifti`.

    """
    values, affine, placed, sized = _load(path, canonical=False)
    volumes = (values if values.ndim == 4 else values[..., None]).transpose(3, 2, 1, 0)[:, :, ::-1]
    x, y, z = (float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(0)))
    grid = from_nifti(affine, volumes.shape[2]) if placed else Grid((z, y, x) if sized else (None,) * 3)
    return np.ascontiguousarray(volumes), grid


def resampled_labels(path: str | Path, like: str | Path) -> Slices:
    """Return a volume of labels on another volume's grid, cut as `read_nifti` cuts that one.

    Each voxel has the label that lies nearest to its centre in the scanner's coordinates, 0 outside of the labels.

    Raises:
        UsageError, InputError: see `read_nifti`; more than three axes.

    """
    from scipy import ndimage  # here: whoever only looks into a file need not wait for it

    (labels, at, *_), (grid, target, placed, _) = _load(path), _load(like)
    if labels.ndim != 3 or grid.ndim != 3:
        raise InputError("labels are resampled in three axes", where=f"{path} and {like}", why="one has more")
    matrix = np.linalg.inv(at) @ target
    found = ndimage.affine_transform(labels, matrix[:3, :3], matrix[:3, 3], grid.shape, order=0, cval=0.0)
    return _cut(found, target, placed)


def _load(path: str | Path, *, canonical: bool = True) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Return values (x, y, z, ...), the affine from voxels to mm in RAS, and whether the file states it, and the unit.

    Axes run to the right, the front and the top if `canonical`, else as stored.
    """
    try:
        import nibabel
    except ImportError:
        raise UsageError("NIfTI files are read by nibabel, which is not installed", fix=INSTALL) from None
    path = regular_file(path)
    try:
        with _opened(nibabel.load(path), path) as image:
            return _checked(image, path, canonical)
    except InputError:
        raise
    except MemoryError:
        raise ResourceError(f"not enough memory to read {path}", fix="cut it into parts") from None
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path} is not a NIfTI file", why=str(error), fix="copy or download it again") from None
    except (OSError, EOFError, ValueError, TypeError, zlib.error, OverflowError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is damaged or truncated", why=why, fix="copy or download it again") from None


@contextmanager
def _opened(image: Any, path: Path) -> Iterator[Any]:
    """Yield an image whose values come from one stream, which is read to its end, where gzip has its checksum."""
    if not path.name.lower().endswith(".gz"):
        yield image
        return
    with gzip.open(path) as stream:
        yield type(image).from_stream(stream)
        if len(stream.read(_TRAILING + 1)) > _TRAILING:
            raise InputError(f"{path} holds more than its header says", fix="copy or download it again")


def _checked(image: Any, path: Path, canonical: bool) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Return what `_load` does, of an image that was opened."""
    import nibabel

    # Other formats than NIfTI have no codes, and state an affine.
    sized = "xyzt_units" not in image.header or bool(int(image.header["xyzt_units"]) & 7)
    codes = [int(image.header[c]) for c in ("qform_code", "sform_code") if c in image.header]
    shape, affine = tuple(int(n) for n in image.shape), np.asarray(image.affine)
    if not 3 <= len(shape) <= 4 or 0 in shape or not np.isfinite(affine).all():
        raise InputError(
            f"{path} is not a volume that can be cut into slices",
            why=f"shape {shape}" if np.isfinite(affine).all() else "its affine holds values that are not numbers",
            fix="give three axes in space, and at most one more",
        )
    size = int(np.prod(shape, dtype=object)) * 4
    if size > READ_LIMIT:
        raise InputError(f"{path} is too large", why=f"{size / 2**30:.1f} GiB as float32", fix="cut it into parts")
    if canonical:
        image = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
    values = np.asarray(image.dataobj, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds values that are not numbers", fix="replace them first: numpy.nan_to_num")
    return values, np.asarray(image.affine), not codes or any(codes), sized


def _cut(values: np.ndarray, affine: np.ndarray, placed: bool) -> Slices:
    shape = values.shape
    steps = [float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(0))]
    # Canonical axes run to the right, the front and the top; equal to 1 %, the axial cut is what people know.
    across = 2 if steps[2] > 0.99 * max(steps) else int(np.argmax(steps))
    rows, columns = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[across]
    if values.ndim == 3:
        values = values[..., None]
    turned = values.transpose(3, across, rows, columns)[:, :, ::-1, ::-1].reshape(-1, shape[rows], shape[columns])
    spacing = steps[across], steps[rows], steps[columns]
    # Rows and columns run against the canonical axes, from the last voxel of each.
    last = [affine[:3, axis] * (shape[axis] - 1) for axis in (columns, rows)]
    origin = affine[:3, 3] + last[0] + last[1]
    matrix = np.column_stack((-affine[:3, columns], -affine[:3, rows], affine[:3, across], origin))
    grid = from_matrix(TO_LPS @ matrix) if placed and len(shape) == 3 else Grid(spacing)
    return Slices(np.ascontiguousarray(turned), spacing, grid, placed)
