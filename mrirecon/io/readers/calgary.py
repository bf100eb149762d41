"""Read Calgary-Campinas raw data: 3D brains as hybrid slices (x, ky, kz), real and imaginary parts on the coil axis.

The layout is that of the multi-coil data of Souza et al. (NeuroImage 170:482, 2018, and the later challenge), as other
loaders (such as DIRECT's) read it: the centre of k-space is in the middle, and the inverse transform without shifts
puts the object into the centre. No real file was available for a test: the reader is unverified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import Hdf5Store
from mrirecon.io.scan import Scan

# Two numbers for each of 12 or 32 coils.
PACKED = (24, 64)
SMALLEST = 100
# The scanner measured this share of the slice encoding and filled in the rest.
ENCODED = 0.85


class CalgaryStore(Hdf5Store):
    """Read `kspace` of a Calgary-Campinas file as complex (x, ky, kz, coil), for the centred transform."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__(path, {"kspace": ((*shape[:3], shape[3] // 2), np.dtype(np.complex64))})

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of k-space; read whole slices even if the index selects parts of them."""
        packed = super().read(name, index[:1]).astype(np.float32, copy=False)
        values: np.ndarray = (packed[..., 0::2] + 1j * packed[..., 1::2]).astype(np.complex64)
        for axis, size in ((-3, values.shape[-3]), (-2, values.shape[-2])):
            values *= _ramp(size).reshape(-1, *[1] * (-axis - 1))
        lead = (slice(None),) if not index or isinstance(index[0], slice) else ()
        return np.asarray(values[(*lead, *index[1:])])


def _ramp(size: int) -> np.ndarray:
    """Return the phase along k that shifts the image by n // 2 voxels, as the centred transform expects."""
    turns = (np.arange(size) - size // 2) * (size // 2) % size / size
    ramp: np.ndarray = np.exp(2j * np.pi * turns).astype(np.complex64)
    return ramp


def _is_calgary(source: Source) -> bool:
    """Return whether `kspace` is real, (x, ky, kz, 2 · coil), unlike in all other formats."""
    kspace = source.hdf5["kspace"]
    packed = len(kspace.shape) == 4 and kspace.shape[3] in PACKED and min(kspace.shape[:3]) >= SMALLEST
    return packed and kspace.dtype.kind == "f"


@register_reader("calgary-campinas", rank=30, hdf5=True, datasets=("kspace",), alone=True, recognise=_is_calgary)
def read_calgary(source: Source, *, dataset: str = "kspace") -> Scan:
    """Read Calgary-Campinas raw data; see `mrirecon.io.read`."""
    path, shape = source.path, source.hdf5[dataset].shape
    layout = make_layout("slice,y,x,coil", (*shape[:3], shape[3] // 2), str(path))
    notes = [
        f"read as Calgary-Campinas raw data: {shape[3]} channels are real and imaginary parts of {shape[3] // 2} "
        "coils, the readout is already an image axis (slices), k-space belongs to the transform without shifts",
        f"the scanner measured {ENCODED:.0%} of the slice encoding (axis x): data from index "
        f"{int(np.ceil(ENCODED * shape[2]))} of {shape[2]} on, if not zero, were filled in",
    ]
    store = CalgaryStore(path, shape)
    return assemble(source, store, "calgary-campinas", dataset, layout, notes=notes, unverified=True)
