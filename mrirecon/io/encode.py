"""Turn arrays into the bytes of a file: HDF5, npz, PNG, BART. Where and when it is written is `write`'s business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

Encode = Callable[[Path], None]
Attributes = Mapping[str, str | int | float | bool]


def encode_hdf5(arrays: Mapping[str, np.ndarray], root: Attributes, attributes: Mapping[str, Attributes]) -> Encode:
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

        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                dataset = file.create_dataset(name, data=array, track_times=False)
                dataset.attrs.update(plain(attributes.get(name, {})))
            file.attrs.update(plain(root))

    return encode


def encode_npz(arrays: Mapping[str, np.ndarray]) -> Encode:
    """Return a function that writes arrays as an uncompressed .npz (noise does not compress)."""

    def encode(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict(arrays))

    return encode


def encode_text(text: str) -> Encode:
    """Return a function that writes text as UTF-8."""

    def encode(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

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
        # Transposed and in Fortran order, BART's lowest dimension runs fastest.
        data = np.ravel(array.transpose(order).astype("<c8", copy=False), order="F")
        with path.open("wb") as file:
            file.write(data.data)

    return encode_text(header), encode


def encode_png(page: np.ndarray) -> Encode:
    """Return a function that writes a grey picture, (y, x) uint8 or uint16."""

    def encode(path: Path) -> None:
        from PIL import Image

        with path.open("wb") as file:
            Image.fromarray(page).save(file, format="PNG")

    return encode


def grey(magnitude: np.ndarray, bits: Literal[8, 16], window: float | None) -> np.ndarray:
    """Return pictures (page, y, x) as uint8 or uint16: black at 0, white at `window` and above.

    Args:
        magnitude: (..., y, x), not negative, finite.
        bits: bits a pixel.
        window: by default the largest value of all pages; one scale serves them all, so that they can be compared.

    """
    white = float(magnitude.max()) if window is None else window
    top = 2**bits - 1
    pages = magnitude.reshape(-1, *magnitude.shape[-2:])
    scaled = pages.astype(np.float64) / white if white > 0 else np.zeros(pages.shape)
    levels: np.ndarray = np.rint(np.clip(scaled, 0, 1) * top)
    return levels.astype(np.uint8 if bits == 8 else np.uint16)
