"""Read volumes from NIfTI files, real or complex, as upright slices."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.geometry import TO_LPS, Grid, from_matrix, from_nifti
from mrirecon.io.identify import is_nifti_header, read_head, regular_file
from mrirecon.io.readers.registry import register_reader
from mrirecon.io.safe.hdf5 import READ_LIMIT, typed_errors
from mrirecon.io.writers.encode_dicom import INSTALL

SUFFIXES = (".nii", ".nii.gz")
PAIR = (".hdr", ".img")  # a header and its voxels in two files; headers of BART also end in .hdr
_TRAILING = 16 << 20  # largest number of bytes after the voxels of a compressed file


@dataclass(frozen=True)
class Slices:
    """Hold the slices of a volume.

    Attributes:
        values: (slice, y, x), float32 or complex64, in the file's units.
        spacing: (slice, y, x) distances of neighbouring voxels in mm.
        grid: their grid, without a position if the file states none or holds several volumes.
        placed: whether the file states its orientation.

    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    placed: bool = True


def is_nifti(path: str | Path) -> bool:
    """Return whether a file is NIfTI, by its name, or by the header of a pair .hdr and .img."""
    path = Path(path)
    if path.name.lower().endswith(SUFFIXES):
        return True
    header = path.with_suffix(".hdr")
    try:
        return path.suffix.lower() in PAIR and header.is_file() and is_nifti_header(read_head(header, 352))
    except (OSError, ValueError, InputError):
        return False


def read_nifti(path: str | Path) -> Slices:
    """Read a volume as slices across its coarsest axis (axial if all are equal), the patient's front or top upwards.

    The volumes of a fourth axis (echoes, repetitions) follow one another in the slices. A file with two axes is one
    slice; further axes of length 1 are ignored. Complex values stay complex.

    Args:
        path: .nii, .nii.gz, or either file of a pair .hdr and .img.

    Raises:
        UsageError: nibabel is not installed.
        InputError: not a NIfTI file; truncated; no usable geometry; values that are not finite; colours, vectors and
            values on surfaces (CIFTI), which are not an image volume.

    """
    return _cut(*_load(path)[:3])


@register_reader(
    "nifti",
    rank=97,
    recognise=lambda source: is_nifti(source.path),
    suffixes=(*SUFFIXES, ".img"),
    holds=("images",),
    needs=("nibabel",),
)
def read_stored(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Read volumes in the order of `mrirecon.io.write_image`, (volume, slice, y, x), and their grid.

    Values are float32 or complex64. The slices are along the third axis of the file; axes are not reordered.

    Raises:
        UsageError, InputError: see `read_nifti`.

    """
    values, affine, placed, sized = _load(path, canonical=False)
    volumes = (values if values.ndim == 4 else values[..., None]).transpose(3, 2, 1, 0)[:, :, ::-1]
    x, y, z = (float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(0)))
    grid = from_nifti(affine, volumes.shape[2]) if placed else Grid((z, y, x) if sized else (None,) * 3)
    return np.ascontiguousarray(volumes), grid


def resampled_labels(path: str | Path, like: str | Path) -> Slices:
    """Resample a volume of labels to the grid of another volume, and slice it as `read_nifti` slices that volume.

    Each voxel gets the label nearest to its centre in the coordinates of the scanner, 0 outside the labels.

    Raises:
        UsageError, InputError: see `read_nifti`; more than three axes.

    """
    from scipy import ndimage  # imported here because it is slow, and seldom needed

    (labels, at, *_), (grid, target, placed, _) = _load(path), _load(like)
    if labels.ndim != 3 or grid.ndim != 3:
        raise InputError(
            "labels are resampled along three axes", where=f"{path} and {like}", why="one file has more axes"
        )
    matrix = np.linalg.inv(at) @ target
    resampled = ndimage.affine_transform(labels, matrix[:3, :3], matrix[:3, 3], grid.shape, order=0, cval=0.0)
    return _cut(resampled, target, placed)


def _load(path: str | Path, *, canonical: bool = True) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Return values (x, y, z, ...), the affine from voxels to mm in RAS, whether the file states it, and the unit.

    If `canonical`, axes point to the right, front and top of the patient; otherwise they stay as stored.
    """
    try:
        import nibabel
    except ImportError:
        raise UsageError("NIfTI files are read by nibabel, which is not installed", fix=INSTALL) from None
    path = _voxels(regular_file(path))
    with typed_errors(str(path)):
        try:
            # nibabel prints its errors on stderr before it raises them.
            with nibabel.imageglobals.LoggingOutputSuppressor():
                loaded = nibabel.load(path)
        except nibabel.filebasedimages.ImageFileError as error:
            raise InputError(f"{path} is not a NIfTI file", why=str(error), fix="copy or download it again") from None
        with _opened(loaded, path) as image:
            return _checked(image, path, canonical)


def _voxels(path: Path) -> Path:
    """Return the file to open: for a pair, the file of the voxels, if both files exist and state an orientation.

    Raises:
        InputError: half a pair; a header of ANALYZE 7.5.

    """
    if path.suffix.lower() not in PAIR:
        return path
    header, voxels = path.with_suffix(".hdr"), path.with_suffix(".img")
    for one, other in ((header, voxels), (voxels, header)):
        if not one.is_file():
            raise InputError(f"{one} is missing", why=f"{other.name} is one file of a pair", fix="copy both files")
    if not is_nifti_header(read_head(header, 352), analyze=False):
        raise InputError(
            f"{header} is a header of ANALYZE 7.5",
            why="this format does not state which side is left",
            fix="convert it to NIfTI with the program that wrote it",
        )
    return voxels


@contextmanager
def _opened(image: Any, path: Path) -> Iterator[Any]:
    """Yield an image that is read from one stream; then read the stream to its end to verify the checksum of gzip."""
    if not path.name.lower().endswith(".gz"):
        yield image
        return
    with gzip.open(path) as stream:
        yield type(image).from_stream(stream)
        if len(stream.read(_TRAILING + 1)) > _TRAILING:
            raise InputError(f"{path} holds more data than its header states", fix="copy or download it again")


def _checked(image: Any, path: Path, canonical: bool) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """Check an opened image, and return the values of `_load`."""
    import nibabel

    _refuse_other(image, path)
    # Formats other than NIfTI have no codes, but always state an affine.
    sized = "xyzt_units" not in image.header or bool(int(image.header["xyzt_units"]) & 7)
    codes = [int(image.header[c]) for c in ("qform_code", "sform_code") if c in image.header]
    shape, affine = _space(image.shape, path), np.asarray(image.affine, dtype=np.float64)
    wrong = ""
    if not np.isfinite(affine).all():
        wrong = "its affine holds NaN or infinite values"
    elif np.linalg.det(affine[:3, :3]) == 0:
        wrong = "its affine gives voxels of zero volume"
    if wrong:
        raise InputError(
            f"{path} is not a volume that can be cut into slices",
            why=wrong,
            fix="give three axes in space with an affine, and at most one axis more",
        )
    kind = np.complex64 if image.get_data_dtype().kind == "c" else np.float32
    size = int(np.prod(shape, dtype=object)) * np.dtype(kind).itemsize
    if size > READ_LIMIT:
        raise InputError(f"{path} is too large", why=f"{size / 2**30:.1f} GiB in single precision", fix="crop it")
    values = np.asarray(image.dataobj, dtype=kind).reshape(shape)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinite values", fix="replace them first: numpy.nan_to_num")
    if canonical:
        turn = nibabel.io_orientation(affine)  # type: ignore[no-untyped-call]
        values = nibabel.apply_orientation(values, turn)  # type: ignore[no-untyped-call]
        affine = affine @ nibabel.orientations.inv_ornt_aff(turn, shape[:3])  # type: ignore[no-untyped-call]
    return values, affine, not codes or any(codes), sized


def _refuse_other(image: Any, path: Path) -> None:
    """Refuse content other than an image that has the same suffix.

    Raises:
        InputError: CIFTI; colours.

    """
    import nibabel

    if isinstance(image, nibabel.Cifti2Image):
        raise InputError(
            f"{path} is a CIFTI file",
            why="it holds values on surfaces and in structures, not a volume",
            fix="export a volume first: wb_command -cifti-separate",
        )
    colours = image.get_data_dtype().names
    if colours:
        raise InputError(
            f"{path} is a colour image",
            why=f"each voxel has {', '.join(colours)}",
            fix="give the grey-scale image",
        )


def _space(stored: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Return the shape (x, y, z) or (x, y, z, volume) for a stored shape.

    Raises:
        InputError: fewer than two axes, an empty axis, or more than one number per voxel of a volume.

    """
    shape = tuple(int(n) for n in stored)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if 3 <= len(shape) <= 4 and 0 not in shape:
        return shape
    why, fix = f"shape {tuple(stored)}", "give three axes in space with an affine, and at most one axis more"
    if len(shape) > 4 and 0 not in shape:
        why = f"{why}: {'×'.join(map(str, shape[4:]))} values per voxel (a vector or tensor)"
        fix = "give one component"
    raise InputError(f"{path} is not a volume that can be cut into slices", why=why, fix=fix)


def _cut(values: np.ndarray, affine: np.ndarray, placed: bool) -> Slices:
    shape = values.shape
    steps = [float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(0))]
    # Canonical axes point to the right, front and top. If all voxel sizes agree to 1 %, the slices are axial.
    across = 2 if steps[2] > 0.99 * max(steps) else int(np.argmax(steps))
    rows, columns = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[across]
    if values.ndim == 3:
        values = values[..., None]
    slices = values.transpose(3, across, rows, columns)[:, :, ::-1, ::-1].reshape(-1, shape[rows], shape[columns])
    spacing = steps[across], steps[rows], steps[columns]
    # Rows and columns run against the canonical axes, so both are flipped.
    last = [affine[:3, axis] * (shape[axis] - 1) for axis in (columns, rows)]
    origin = affine[:3, 3] + last[0] + last[1]
    matrix = np.column_stack((-affine[:3, columns], -affine[:3, rows], affine[:3, across], origin))
    grid = from_matrix(TO_LPS @ matrix) if placed and len(shape) == 3 else Grid(spacing)
    return Slices(np.ascontiguousarray(slices), spacing, grid, placed)
