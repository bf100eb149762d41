"""CMRxRecon raw data: cardiac k-space in MATLAB files, version 7.3, which are HDF5 with the axes in reverse order.

The layout is that of the challenge's description (Wang et al., Scientific Data 11:687, 2024): MATLAB's (kx, ky, coil,
slice, frame or weighting), so (frame, slice, coil, ky, kx) in HDF5, complex numbers as pairs of `real` and `imag`, the
centre of k-space in the middle. No file of it was at hand: the reader is unverified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import ask_axes, make_layout
from mrirecon.io.readers.assemble import Given, MapsSource, assemble
from mrirecon.io.readers.fastmri import Hdf5Store, is_hdf5
from mrirecon.io.readers.registry import register_reader
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5
from mrirecon.io.scan import Layout, Scan, complex_dtype, real_kspace

_MULTI, _SINGLE = "phase,slice,coil,y,x", "phase,slice,y,x"
# MATLAB's chunks may reach through all frames, so that one image costs the whole array: it is then read once and kept.
KEPT = 4 << 30


class MatlabStore(Hdf5Store):
    """The arrays of a MATLAB file; one whose chunks reach through most of it is read whole, and kept."""

    def __init__(self, path: Path, arrays: dict[str, tuple[tuple[int, ...], np.dtype]], whole: str | None) -> None:
        super().__init__(path, arrays)
        self.whole = whole
        self._kept: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array."""
        if name != self.whole:
            return super().read(name, index)
        if self._kept is None:
            self._kept = super().read(name)
        return self._kept[index]


def is_matlab(file: GuardedFile) -> bool:
    """Whether MATLAB, or something in its manner, wrote an array of the file."""
    for name in file:
        if name.startswith("#") or file.is_group(name):
            continue
        try:
            if "MATLAB_class" in file[name].attribute_names:
                return True
        except (InputError, KeyError):
            continue
    return False


@register_reader(
    "cmrxrecon",
    rank=40,
    signature=is_hdf5,
    layout=lambda c: c.holds(is_matlab),
    container="hdf5",
    suffixes=(".mat",),
)
def read_cmrxrecon(
    path: Path, *, axes: str | None = None, dataset: str | None = None, mask: Given = None, maps: MapsSource = None
) -> Scan:
    """Read a MATLAB v7.3 file in CMRxRecon's layout; see `mrirecon.io.read`.

    Five axes are (frame, slice, coil, ky, kx) as HDF5 has them; four are that without coils where the name of the array
    says `single`, and are asked for otherwise. The array is the complex one whose name starts with "k".

    Raises:
        InputError: no or several such arrays, axes that have to be asked for, and as `open_hdf5`.

    """
    notes: list[str] = []
    with open_hdf5(path) as file:
        arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for name in file:
            if not name.startswith("#") and not file.is_group(name):
                found = file[name]
                arrays[name] = (found.shape, found.dtype)
        name = _kspace(arrays, path, dataset)
        chunks = file[name].chunks
    shape, kind = arrays[name]
    layout = _layout(name, shape, axes, f"{path}:{name}", notes)
    whole = name if _scattered(chunks, layout) and _bytes(shape, kind) <= KEPT else None
    if whole is not None:
        notes.append(f"{name} is stored across its images, so it is read whole and kept in memory")
    store = MatlabStore(path, arrays, whole)
    return assemble(store, "cmrxrecon", name, layout, notes=notes, mask=mask, maps=maps, unverified=True)


def _kspace(arrays: dict[str, tuple[tuple[int, ...], np.dtype]], path: Path, dataset: str | None) -> str:
    listed = ", ".join(f"{name} {shape} {kind}" for name, (shape, kind) in list(arrays.items())[:12]) or "no arrays"
    if dataset is not None:
        if dataset not in arrays:
            raise InputError(f"{path} has no array {dataset!r}", why=f"it holds {listed}", fix="name one of these")
        if not complex_dtype(arrays[dataset][1]):
            raise real_kspace(arrays[dataset][1], arrays[dataset][0], f"{path}:{dataset}")
        return dataset
    complex_ones = [name for name, (_, kind) in arrays.items() if complex_dtype(kind)]
    likely = [name for name in complex_ones if name.lower().startswith("k")] or complex_ones
    if len(likely) != 1:
        what = "several arrays that could be k-space" if likely else "no complex array"
        raise InputError(f"{path} holds {what}", why=f"it holds {listed}", fix="name the one that is k-space")
    return likely[0]


def _layout(name: str, shape: tuple[int, ...], axes: str | None, where: str, notes: list[str]) -> Layout:
    if axes is not None:
        return make_layout(axes, shape, where, asked=True)
    single = "single" in name.lower()
    if len(shape) == (4 if single else 5):
        said = _SINGLE if single else _MULTI
        notes.append(f"taken for CMRxRecon: MATLAB's axes in reverse order, {said}; the first is time or weighting")
        return make_layout(said, shape, where)
    raise ask_axes(shape, where, "MATLAB wrote it, and stores the axes in reverse order")


def _scattered(chunks: tuple[int, ...] | None, layout: Layout) -> bool:
    """Whether a chunk reaches through several images, and holds little of each."""
    if chunks is None:
        return False
    loops = [n for n, axis in zip(chunks, layout.axes, strict=True) if axis in layout.loops]
    return bool(np.prod(loops) > 1)


def _bytes(shape: tuple[int, ...], kind: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * kind.itemsize
