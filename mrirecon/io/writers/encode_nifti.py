"""Write images as a NIfTI-1 file: magnitudes in float32, with the affine of their `Grid`, if any."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrirecon import __version__
from mrirecon.errors import UsageError
from mrirecon.io.geometry import Grid

if TYPE_CHECKING:
    from mrirecon.io.writers.write import Encode

_MOST = 32767  # a NIfTI-1 header counts voxels in 16 bits
_SQUARE = 1e-4  # largest cosine between axes for which a quaternion can describe them
_SCANNER, _UNKNOWN = 1, 0


def encode_nifti(volumes: np.ndarray, grid: Grid, *, compressed: bool) -> Encode:
    """Return a function that writes magnitudes as NIfTI-1, always with the same bytes.

    Voxels are stored as [x, n_y - 1 - y, slice, volume]: j runs upwards, but the first row of an image is at the top. A
    known affine is stored as both sform and qform with code 1 (scanner coordinates). Otherwise both have code 0, and
    the voxel sizes are stored as far as they are known. An unknown size is 1, because NIfTI requires a number, and then
    the unit is left out.

    Args:
        volumes: (volume, slice, y, x) float32, finite.
        grid: position of the voxels.
        compressed: as .nii.gz.

    Raises:
        UsageError: more than 32767 voxels along an axis.

    """
    import nibabel

    if max(volumes.shape) > _MOST:
        why = f"{max(volumes.shape)} of at most {_MOST}"
        raise UsageError("the image is too large for NIfTI", why=why, fix="write h5 or npz")
    stored = volumes[:, :, ::-1].transpose(3, 2, 1, 0)
    stored = stored[..., 0] if stored.shape[3] == 1 else stored
    affine = grid.nifti(volumes.shape[2])
    image: Any = nibabel.Nifti1Image(stored, affine, dtype=np.float32)  # type: ignore[no-untyped-call]
    header = image.header
    header["descrip"] = f"mrirecon {__version__}, for research only".encode()
    if affine is not None:
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        square = np.abs(axes.T @ axes - np.eye(3)).max() < _SQUARE
        image.set_sform(affine, _SCANNER)
        # A quaternion cannot describe sheared axes (shifted slices); then only the sform is stored.
        image.set_qform(affine if square else None, _SCANNER if square else _UNKNOWN)
    else:
        header.set_sform(None, _UNKNOWN)
        header.set_qform(None, _UNKNOWN)
        header["pixdim"][1:4] = [size or 1.0 for size in grid.spacing[::-1]]
    if affine is not None or None not in grid.spacing:
        header.set_xyzt_units("mm")
    return partial(_write, image=image, compressed=compressed)


def _write(path: Path, image: Any, compressed: bool) -> None:
    with path.open("wb") as file:
        if not compressed:
            image.to_stream(file)
            return
        # No name and time in the gzip header, so that bytes are reproducible. Level 1: noise hardly compresses.
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            image.to_stream(packed)
