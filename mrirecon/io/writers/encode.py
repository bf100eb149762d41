"""Turn arrays into the bytes of a file: HDF5, npz, PNG, BART. Where and when it is written is `write`'s business."""

from __future__ import annotations

import errno
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from mrirecon.io.safe.scratch import pieces
from mrirecon.io.safe.text import utf8

_BESIDES = 64 << 10  # bytes of an HDF5 file beside its arrays
Encode = Callable[[Path], None]
Attributes = Mapping[str, str | int | float | bool]


class Converted:
    """An array of another type that is computed piece by piece, as it is written.

    Args:
        array: what it is made from.
        dtype: of the values that are made.
        convert: makes them, without changing the shape.

    """

    def __init__(self, array: np.ndarray, dtype: type, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.dtype, self._array, self._convert = array.shape, np.dtype(dtype), array, convert

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        return self._convert(self._array[index]).astype(self.dtype, copy=False)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self[()]


Lazy = np.ndarray | Converted


def encode_hdf5(arrays: Mapping[str, Lazy], root: Attributes, attributes: Mapping[str, Attributes]) -> Encode:
    """Return a function that writes arrays as contiguous HDF5 datasets, without times, so that bytes repeat.

    Args:
        arrays: datasets by name.
        root: attributes of the file.
        attributes: attributes by dataset.

    """

    def plain(values: Attributes) -> dict[str, object]:
        # Strings of fixed length: no heap, which is what breaks in a damaged file.
        return {k: np.bytes_(v.encode("utf-8")) if isinstance(v, str) and v else v for k, v in values.items()}

    def encode(path: Path) -> None:
        import h5py

        size = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values()) + _BESIDES
        _reserve(path, size)
        with h5py.File(path, "w") as file:
            _reserve(path, size)  # what was set aside before went when the file was opened anew
            for name, array in arrays.items():
                dataset = file.create_dataset(name, array.shape, array.dtype, track_times=False)
                for index in pieces(array.shape, array.dtype.itemsize):
                    dataset[index] = array[index]
                dataset.attrs.update(plain(attributes.get(name, {})))
            file.attrs.update(plain(root))
            file.flush()
            end = file.id.get_filesize()
        os.truncate(path, end)  # libhdf5 leaves what it does not know of

    return encode


def _reserve(path: Path, size: int) -> None:
    """Have the disk set space aside, so that it is full here and not within libhdf5, which crashes on it (seen in 2.0).

    Raises:
        OSError: there is not as much.

    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
                raise


def encode_npz(arrays: Mapping[str, Lazy]) -> Encode:
    """Return a function that writes arrays as an uncompressed .npz (noise does not compress)."""

    def encode(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    for index in pieces(array.shape, array.dtype.itemsize):
                        file.write(np.ascontiguousarray(array[index]).data)

    return encode


def encode_text(text: str) -> Encode:
    """Return a function that writes text as UTF-8."""

    def encode(path: Path) -> None:
        path.write_bytes(utf8(text))

    return encode


def encode_cfl(array: np.ndarray, dims: tuple[int, ...]) -> tuple[Encode, Encode]:
    """Return functions that write the header and the data of a BART pair.

    Args:
        array: any axes.
        dims: the BART dimension of each axis, all different.

    """
    order = sorted(range(array.ndim), key=lambda axis: dims[axis])
    lengths = dict(zip(dims, array.shape, strict=True))
    header = "# Dimensions\n" + " ".join(str(lengths.get(d, 1)) for d in range(16)) + "\n"

    def encode(path: Path) -> None:
        # BART's lowest dimension runs fastest: in C order, it is the last.
        turned = array.transpose(order[::-1])
        with path.open("wb") as file:
            for index in pieces(turned.shape, 8):
                file.write(np.ascontiguousarray(turned[index], "<c8").data)

    return encode_text(header), encode


def encode_png(page: np.ndarray, bits: Literal[8, 16], window: float) -> Encode:
    """Return a function that writes magnitudes (y, x) as a grey picture, see `grey`."""

    def encode(path: Path) -> None:
        from PIL import Image

        with path.open("wb") as file:
            Image.fromarray(grey(page, bits, window)).save(file, format="PNG")

    return encode


def grey(magnitude: np.ndarray, bits: Literal[8, 16], window: float) -> np.ndarray:
    """Return a picture as uint8 or uint16: black at 0, white at `window` and above.

    Args:
        magnitude: (y, x), finite; of complex values the absolute one is taken.
        bits: bits a pixel.
        window: one scale for all pages of a file, so that they can be compared.

    """
    top = 2**bits - 1
    scaled = np.abs(magnitude).astype(np.float32).astype(np.float64)
    levels: np.ndarray = np.rint(np.clip(scaled / window if window > 0 else 0 * scaled, 0, 1) * top)
    return levels.astype(np.uint8 if bits == 8 else np.uint16)
