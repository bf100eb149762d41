"""Formats that are written, and what a path's name says of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.geometry import Grid
from mrirecon.io.identify import cfl_pair
from mrirecon.io.writers.encode_dicom import INSTALL, rounding

ImageFormat = Literal["h5", "npz", "cfl", "nii", "dicom", "png"]
ArrayFormat = Literal["h5", "npz", "cfl"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
ARRAY_FORMATS: tuple[ArrayFormat, ...] = get_args(ArrayFormat)
# What a name is given where only a folder is named; a DICOM series is a folder itself.
EXTENSION: dict[ImageFormat, str] = {f: f".{f}" for f in FORMATS} | {"nii": ".nii.gz"}
FOREIGN = (".dcm", ".mrd", ".mat", ".jpg", ".jpeg", ".tif", ".tiff", ".mha", ".mgz", ".npy")  # not written, of images
_ENDINGS: dict[str, ImageFormat] = {
    **{".h5": "h5", ".hdf5": "h5", ".npz": "npz", ".cfl": "cfl", ".hdr": "cfl"},
    **{".nii": "nii", ".nii.gz": "nii", ".dicom": "dicom", ".png": "png"},
}


def named_format(path: str | Path) -> ImageFormat | None:
    """Return the format that the end of a name stands for, or None."""
    name = Path(path).name.lower()
    return next((found for ending, found in _ENDINGS.items() if name.endswith(ending) and name != ending), None)


def image_format(path: str | Path, format: str | None = None) -> ImageFormat:
    """Return the format to write: the one asked for, else that of the name.

    Raises:
        UsageError: neither tells.

    """
    chosen = format or named_format(path)
    for known in FORMATS:
        if chosen == known:
            return known
    listed = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    fix = f"choose {listed}"
    if Path(path).suffix.lower() == ".dcm":
        fix = f"a DICOM series is a folder: name it {Path(path).stem}.dicom"
    raise UsageError(f"the format of {path} is not known", why=f"{format or Path(path).suffix!r}", fix=fix)


def require(format: ImageFormat) -> None:
    """Refuse a format whose library is not installed, before anything is computed.

    Raises:
        UsageError: with the line that installs it.

    """
    library = {"nii": "nibabel", "dicom": "pydicom"}.get(format)
    if library is not None and find_spec(library) is None:
        raise UsageError(f"{_NAMES[format]} is written by {library}, which is not installed", fix=INSTALL)


def format_losses(
    format: ImageFormat, images: np.ndarray, grid: Grid | None = None, loops: Mapping[str, int] | None = None
) -> list[str]:
    """Say what a format does not keep of images, for the user; nothing where it keeps all.

    Args:
        format: the one written.
        images: (item, *space), real or complex.
        grid: where they lie.
        loops: lengths of the axes that items run over.

    """
    notes = []
    if format in ("nii", "dicom", "png") and np.iscomplexobj(images) and images.imag.any():
        notes.append(f"{_NAMES[format]} holds magnitudes here: the phase is not in it")
    if format == "dicom":
        notes.append(rounding(float(np.abs(images).max())))
    if format == "png":
        notes.append("PNG is for looking at: grey levels, not values")
    located = grid is not None and grid.affine is not None
    if located and format in ("cfl", "png"):
        notes.append(f"{_NAMES[format]} does not say where the images lie")
    if not located and format == "nii":
        notes.append("NIfTI states no position: sform and qform have code 0")
    if not located and format == "dicom":
        notes.append("DICOM states no position: written as secondary captures")
    if format in ("cfl", "png") and loops and set(loops) - {"slice"}:
        notes.append(f"{_NAMES[format]} does not name the loops {', '.join(loops)}: items are numbered")
    return notes


def page_names(path: Path, pages: int) -> list[Path]:
    """Return the files that the pages of a PNG go to."""
    if pages == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{page:03d}{path.suffix or '.png'}") for page in range(pages)]


def image_files(path: Path, format: ImageFormat, pages: int) -> list[Path]:
    """Return all files that images are written to; of DICOM, the folder.

    Args:
        path: where they are to go.
        format: the one written.
        pages: planes of all items.

    """
    if format == "cfl":
        return list(cfl_pair(path))
    return page_names(path, pages) if format == "png" else [path]


_NAMES = {"cfl": "BART's format", "nii": "NIfTI", "dicom": "DICOM", "png": "PNG"}
