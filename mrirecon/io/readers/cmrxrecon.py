"""Read CMRxRecon raw data: cardiac k-space in MATLAB files of version 7.3 (HDF5 with axes in reverse order).

The layout is that of the challenge's description (Wang et al., Scientific Data 11:687, 2024): (kx, ky, coil, slice,
frame or weighting) in MATLAB, so (frame, slice, coil, ky, kx) in HDF5. Complex numbers are pairs of `real` and `imag`.
The centre of k-space is in the middle. No real file was available for a test: the reader is unverified.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mrirecon.io.axes import make_layout, unknown_axes
from mrirecon.io.readers.assemble import assemble, note_unusable, select_kspace
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import ArrayTypes, Hdf5Store
from mrirecon.io.scan import Layout, Scan, complex_dtype

_MULTI, _SINGLE = "phase,slice,coil,y,x", "phase,slice,y,x"
# Chunks of MATLAB may extend over all frames, so that reading one image reads the whole array. An array of up to this
# many bytes is then read once and kept in memory.
MAX_WHOLE = 4 << 30


class MatlabStore(Hdf5Store):
    """Read the arrays of a MATLAB file; the array `whole` is read at once and kept in memory."""

    def __init__(self, path: Path, arrays: ArrayTypes, whole: str | None) -> None:
        super().__init__(path, arrays)
        self.whole = whole
        self._values: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_values": None}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array."""
        if name != self.whole:
            return super().read(name, index)
        if self._values is None:
            self._values = super().read(name)
        return self._values[index]


@register_reader("cmrxrecon", rank=40, hdf5=True, attribute="MATLAB_class", suffixes=(".mat",))
def read_cmrxrecon(source: Source, *, axes: str | None = None, dataset: str | None = None) -> Scan:
    """Read a MATLAB v7.3 file in CMRxRecon's layout; see `mrirecon.io.read`.

    Five axes are (frame, slice, coil, ky, kx) in HDF5. Four axes are the same without coils if the name of the array
    contains `single`; otherwise the user must name them. The array is the complex one whose name starts with "k".

    Raises:
        InputError: no or several such arrays; axes that the user must name; see also `open_hdf5`.

    """
    path = source.path
    notes: list[str] = []
    arrays, unusable = source.hdf5.survey(dataset)
    note_unusable(unusable, dataset, notes)
    arrays = {name: array for name, array in arrays.items() if "/" not in name}
    named = [name for name, (_, kind) in arrays.items() if complex_dtype(kind) and name.lower().startswith("k")]
    name = select_kspace(arrays, path, dataset, named)
    shape, kind = arrays[name]
    layout = _layout(name, shape, axes, f"{path}:{name}", notes)
    # A chunk may extend over several images.
    chunks = zip(source.hdf5[name].chunks or (), layout.axes, strict=False)
    scattered = any(n > 1 for n, axis in chunks if axis in layout.loops)
    whole = name if scattered and math.prod(shape) * kind.itemsize <= MAX_WHOLE else None
    if whole is not None:
        notes.append(f"{name} has chunks that extend over several images: it is read at once and kept in memory")
    store = MatlabStore(path, arrays, whole)
    return assemble(source, store, "cmrxrecon", name, layout, notes=notes, unverified=True)


def _layout(name: str, shape: tuple[int, ...], axes: str | None, where: str, notes: list[str]) -> Layout:
    if axes is not None:
        return make_layout(axes, shape, where, from_user=True)
    single = "single" in name.lower()
    if len(shape) == (4 if single else 5):
        names = _SINGLE if single else _MULTI
        notes.append(f"read as CMRxRecon: MATLAB's axes in reverse order, {names}; the first is time or weighting")
        return make_layout(names, shape, where)
    raise unknown_axes(shape, where, "MATLAB stores the axes in reverse order")
