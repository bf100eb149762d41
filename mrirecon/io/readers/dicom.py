"""Read a DICOM series of single-frame slices as images, with their positions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrirecon.errors import InputError, UnsafeContentError, UsageError
from mrirecon.io.geometry import Grid, from_matrix, slice_step
from mrirecon.io.identify import read_head, regular_file
from mrirecon.io.readers.registry import register_reader
from mrirecon.io.safe.hdf5 import READ_LIMIT, refuse_bomb, typed_errors
from mrirecon.io.writers.encode_dicom import INSTALL

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Transfer syntaxes without compression, or with DICOM's run-length encoding, which expands 64-fold at most.
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "ImageType", "InstanceNumber", "TemporalPositionIdentifier"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelData"),
]
_TOLERANCE = 1e-3  # tolerance in mm, or relative to unit length


@dataclass(frozen=True)
class _Page:
    """Hold one slice: values in the units of the file, number in the series, and position in space."""

    values: np.ndarray
    series: str
    instance: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None


def is_dicom(path: str | Path) -> bool:
    """Return whether `path` is a DICOM file, or a folder whose first file is one."""
    path = Path(path)
    try:
        files = dicom_files(path) if path.is_dir() else [path] if path.is_file() else []
        return bool(files) and read_head(files[0], 132)[128:] == b"DICM"
    except (OSError, InputError):
        return False


@register_reader(
    "dicom", rank=98, recognise=lambda source: is_dicom(source.path), holds=("images",), needs=("pydicom",)
)
def read_dicom(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Read a series as (volume, slice, y, x) float32, and its grid.

    Slices are ordered by instance number if that is also their order in space, else by position. If each position
    occurs several times, there are several volumes.

    Args:
        path: folder of the series, or one file.

    Raises:
        UsageError: pydicom is not installed.
        InputError: not DICOM; damaged, compressed or coloured; several frames or series; slices that are missing or
            differ in size or direction.
        UnsafeContentError: a deflated file, which could expand without limit.

    """
    path = Path(path)
    files = dicom_files(path) if path.is_dir() else [regular_file(path)]
    if not files:
        raise InputError(f"{path} holds no files", fix="name the folder of a DICOM series")
    pages = [_read(file) for file in files]
    first = pages[0]
    series = {page.series for page in pages}
    if len(series) > 1:
        raise InputError(f"{path} holds {len(series)} series", fix="put each series into its own folder")
    for page, file in zip(pages, files, strict=True):
        if page.values.shape != first.values.shape:
            raise InputError("slices differ in size", where=f"{files[0]} and {file}", fix="give one series")
        if not _alike(page.orientation, first.orientation) or not _alike(page.spacing, first.spacing):
            raise InputError(
                "slices differ in orientation or pixel spacing", where=f"{files[0]} and {file}", fix="give one series"
            )
    order, positions = _ordered(pages, path)
    volumes = np.stack([[pages[i].values for i in volume] for volume in order])
    return volumes, _grid(first, positions)


def dicom_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may be a series, sorted by name; skip hidden files and JSON."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.suffix != ".json")


def _ordered(pages: list[_Page], path: Path) -> tuple[list[list[int]], np.ndarray | None]:
    """Return indices by volume and slice, and the position of each slice (None if the files do not state it)."""
    by_number = sorted(range(len(pages)), key=lambda i: pages[i].instance)
    if len({page.instance for page in pages}) < len(pages):
        raise InputError(
            f"{path} holds two slices with the same instance number", fix="give one series, each slice once"
        )
    normal = _normal(pages[0])
    if normal is None or any(page.position is None for page in pages):
        return [by_number], None
    height = {i: float(np.dot(normal, np.array(pages[i].position))) for i in by_number}
    levels: list[list[int]] = []
    for i in by_number:
        level = next((level for level in levels if abs(height[level[0]] - height[i]) < _TOLERANCE), None)
        levels.append([i]) if level is None else level.append(i)
    if len({len(level) for level in levels}) > 1:
        raise InputError(
            f"{path} lacks slices",
            why=f"{len(levels)} positions occur {min(map(len, levels))} to {max(map(len, levels))} times",
            fix="copy the whole series again",
        )
    heights = [height[level[0]] for level in levels]
    if heights not in (sorted(heights), sorted(heights, reverse=True)):
        levels.sort(key=lambda level: height[level[0]])
    positions = np.array([pages[level[0]].position for level in levels])
    return [list(volume) for volume in zip(*levels, strict=True)], positions


def _grid(page: _Page, places: np.ndarray | None) -> Grid:
    y, x = page.spacing or (None, None)
    if places is None or page.spacing is None or page.orientation is None:
        return Grid((None, y, x), None, page.thickness)
    rows, columns = np.array(page.orientation[:3]), np.array(page.orientation[3:])
    step = slice_step(places) if len(places) > 1 else np.cross(rows, columns) * (page.thickness or 1.0)
    if step is None:
        return Grid((None, y, x), None, page.thickness)
    return from_matrix(
        np.column_stack((rows * page.spacing[1], columns * page.spacing[0], step, places[0])), page.thickness
    )


def _normal(page: _Page) -> np.ndarray | None:
    if page.orientation is None:
        return None
    return np.cross(page.orientation[:3], page.orientation[3:])


def _alike(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, atol=_TOLERANCE, rtol=0))


def _read(path: Path) -> _Page:
    try:
        import pydicom
    except ImportError:
        raise UsageError("DICOM files are read by pydicom, which is not installed", fix=INSTALL) from None
    size = regular_file(path).stat().st_size
    if read_head(path, 132)[128:] != b"DICM":
        raise InputError(f"{path} is not a DICOM file", fix="keep only the files of the series in the folder")
    if size > READ_LIMIT:
        raise InputError(f"{path} is too large for one slice", why=f"{size} bytes")
    with typed_errors(str(path), quote=False), _silence_pydicom():
        syntax = str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            raise UnsafeContentError(
                f"{path} is compressed as a whole (deflated), and was not opened",
                why="it could expand to a thousand times its size",
                fix="store it uncompressed first, for example with dcmconv",
            )
        if syntax not in _PLAIN:
            raise InputError(
                f"{path} is compressed",
                why=f"transfer syntax {syntax[:64]}",
                fix="store it uncompressed first, for example with gdcmconv --raw",
            )
        return _page(pydicom.dcmread(path, specific_tags=list(_TAGS)), path, size)


@contextmanager
def _silence_pydicom() -> Iterator[None]:
    """Suppress the warnings of pydicom, which would quote values of the header."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _page(dataset: Dataset, path: Path, size: int) -> _Page:
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    kinds = [str(kind) for kind in dataset.get("ImageType", [])]
    if frames != 1 or "MOSAIC" in kinds:
        raise InputError(
            f"{path} holds several slices in one file", fix="convert the series to NIfTI first, with dcm2niix"
        )
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        raise InputError(
            f"{path} is not a grey-scale image", why=f"it is {str(dataset.get('PhotometricInterpretation'))[:40]}"
        )
    if "PixelData" not in dataset:
        raise InputError(f"{path} holds no image", fix="give the images of a series")
    rows, columns, bits = (int(dataset.get(name, 0) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
    if min(rows, columns) < 1 or bits not in (8, 16, 32):
        raise InputError(f"{path} declares an impossible image size", why=f"{rows} × {columns} of {bits} bits")
    refuse_bomb(rows * columns * bits // 8, size, READ_LIMIT // 4, str(path))
    slope, intercept = (_numbers(dataset, n, 1) for n in ("RescaleSlope", "RescaleIntercept"))
    values = dataset.pixel_array * (slope or (1.0,))[0] + (intercept or (0.0,))[0]
    if values.shape != (rows, columns):
        raise InputError(f"{path} is not a single slice", why=f"shape {values.shape}")
    if "InstanceNumber" not in dataset or dataset.InstanceNumber is None:
        raise InputError(f"{path} has no instance number", fix="give the original files of a scanner or an archive")
    spacing = _numbers(dataset, "PixelSpacing", 2)
    if spacing is not None and min(spacing) <= 0:
        spacing = None
    thickness = _numbers(dataset, "SliceThickness", 1)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    if orientation is not None and not _orthonormal(orientation):
        raise InputError(
            f"{path} has impossible directions", why=f"they are {orientation}", fix="copy or download it again"
        )
    return _Page(
        np.asarray(values, dtype=np.float32),
        str(dataset.get("SeriesInstanceUID", "")),
        int(dataset.InstanceNumber),
        _numbers(dataset, "ImagePositionPatient", 3),
        orientation,
        spacing,
        thickness[0] if thickness is not None and thickness[0] > 0 else None,
    )


def _orthonormal(orientation: tuple[float, ...]) -> bool:
    axes = np.array(orientation).reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < 10 * _TOLERANCE)


def _numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return `count` finite numbers of a header value; None if they are missing or not `count`."""
    value: Any = dataset.get(name)
    if value is None or value == "":
        return None
    numbers = tuple(float(v) for v in (value if count > 1 else [value]))
    return numbers if len(numbers) == count and all(np.isfinite(numbers)) else None
