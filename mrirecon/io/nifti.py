"""Magnitude volumes from NIfTI files, as slices that stand upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, ResourceError, UsageError
from mrirecon.io.identify import regular_file
from mrirecon.io.limits import READ_LIMIT

SUFFIXES = (".nii", ".nii.gz")
INSTALL = "pip install 'mrirecon[train]'"


@dataclass(frozen=True)
class Slices:
    """Slices of a volume.

    Attributes:
        values: (slice, y, x), real, in the file's units.
        spacing: (slice, y, x) distances of neighbouring voxels in mm.

    """

    values: np.ndarray
    spacing: tuple[float, float, float]


def read_nifti(path: str | Path) -> Slices:
    """Return a volume cut across its coarsest axis (axially where all are alike), the patient's front or top upwards.

    A fourth axis (echoes, repetitions) is counted among the slices.

    Raises:
        UsageError: nibabel is not installed.
        InputError: not a NIfTI file, truncated, without a usable geometry, or without numbers.

    """
    return _cut(*_load(path))


def resampled_labels(path: str | Path, like: str | Path) -> Slices:
    """Return a volume of labels on another volume's grid, cut as `read_nifti` cuts that one.

    Each voxel has the label that lies nearest to its centre in the scanner's coordinates, 0 outside of the labels.

    Raises:
        UsageError, InputError: see `read_nifti`; more than three axes.

    """
    from scipy import ndimage  # here: whoever only looks into a file need not wait for it

    (labels, at), (grid, target) = _load(path), _load(like)
    if labels.ndim != 3 or grid.ndim != 3:
        raise InputError("labels are resampled in three axes", where=f"{path} and {like}", why="one has more")
    matrix = np.linalg.inv(at) @ target
    found = ndimage.affine_transform(labels, matrix[:3, :3], matrix[:3, 3], grid.shape, order=0, cval=0.0)
    return _cut(found, target)


def _load(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return values (x, y, z, ...) to the right, the front and the top, and the affine from voxels to mm."""
    try:
        import nibabel
    except ImportError:
        raise UsageError("NIfTI files are read by nibabel, which is not installed", fix=INSTALL) from None
    path = regular_file(path)
    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():  # it says on stderr what it then raises
            image: Any = nibabel.load(path)
        stored = np.asarray(image.affine)
        if np.isfinite(stored).all() and np.linalg.det(stored[:3, :3]) != 0:  # to turn it needs to know how it lies
            image = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        shape, affine = tuple(int(n) for n in image.shape), np.asarray(image.affine)
        wrong = f"shape {shape}" if not 3 <= len(shape) <= 4 or 0 in shape else ""
        if not np.isfinite(affine).all():
            wrong = "its affine holds values that are not numbers"
        elif np.linalg.det(affine[:3, :3]) == 0:
            wrong = "its affine gives voxels no volume"
        if wrong:
            raise InputError(
                f"{path} is not a volume that can be cut into slices",
                why=wrong,
                fix="give three axes in space with an affine, and at most one axis more",
            )
        size = int(np.prod(shape, dtype=object)) * 4
        if size > READ_LIMIT:
            raise InputError(f"{path} is too large", why=f"{size / 2**30:.1f} GiB as float32", fix="cut it into parts")
        values = np.asarray(image.dataobj, dtype=np.float32)
    except InputError:
        raise
    except MemoryError:
        raise ResourceError(f"not enough memory to read {path}", fix="cut it into parts") from None
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path} is not a NIfTI file", why=str(error), fix="copy or download it again") from None
    except Exception as error:  # of many types: zlib, struct, numpy, nibabel's own
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is damaged or truncated", why=why, fix="copy or download it again") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds values that are not numbers", fix="replace them first: numpy.nan_to_num")
    return values, affine


def _cut(values: np.ndarray, affine: np.ndarray) -> Slices:
    shape = values.shape
    steps = [float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(0))]
    # Canonical axes run to the right, the front and the top; equal to 1 %, the axial cut is what people know.
    across = 2 if steps[2] > 0.99 * max(steps) else int(np.argmax(steps))
    rows, columns = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[across]
    if values.ndim == 3:
        values = values[..., None]
    turned = values.transpose(3, across, rows, columns)[:, :, ::-1, ::-1].reshape(-1, shape[rows], shape[columns])
    return Slices(np.ascontiguousarray(turned), (steps[across], steps[rows], steps[columns]))
