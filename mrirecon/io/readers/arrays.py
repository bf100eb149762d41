"""Represent NumPy arrays as a `Scan`, so that they are checked and reconstructed as files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.registry import Source
from mrirecon.io.scan import Nan, Scan, complex_dtype, real_kspace

ARGUMENT = Path("argument")  # takes the place of a file name in messages: "argument:kspace"
_AXES = {2: "y,x", 3: "coil,y,x"}
_FIX_OF_FOUR_AXES = 'give axes="slice,coil,y,x" for slices, or axes="coil,z,y,x" for a volume'


class ArrayStore:
    """Hold arrays in memory as a `mrirecon.io.scan.Store`; they are never modified."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.path = ARGUMENT
        self.files: tuple[Path, ...] = ()
        self.arrays = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        self._values = dict(arrays)

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` selects, as a view that must not be modified."""
        return self._values[name][index]


def scan_of_arrays(
    kspace: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    maps: np.ndarray | None = None,
    axes: str | None = None,
    nan: Nan = "refuse",
) -> Scan:
    """Represent k-space in memory as a scan.

    Args:
        kspace: complex, centred on every axis; (y, x) or (coil, y, x), and with ``axes`` of any number of axes.
        mask: 1 where sampled, else 0, in the order of the axes without coil: one value per column (x), or one per
            sample, or (y, x) for a volume; k-space outside it is set to zero. None takes the samples that are not zero.
        maps: coil maps, (M, coil, *space) with M = 1 or 2 sets, or (coil, *space); with items in front, one per item.
        axes: names of the axes in order, such as "slice,coil,y,x"; see `mrirecon.io.axes.make_layout`.
        nan: ``zero`` treats samples that are NaN or infinite as not measured; ``refuse`` raises an error.

    Raises:
        UsageError: axes that do not fit the array.
        InputError: k-space that is real or empty, axes that are not known, a mask or maps that do not fit.

    """
    where = f"{ARGUMENT}:kspace"
    if not complex_dtype(kspace.dtype):
        raise real_kspace(kspace.dtype, kspace.shape, where)
    if axes is None and kspace.ndim not in _AXES:
        what = f"the axes of an array of shape {kspace.shape} are not known"
        fix = _FIX_OF_FOUR_AXES if kspace.ndim == 4 else 'name them in order, such as axes="repetition,slice,coil,y,x"'
        raise InputError(what, where=where, why=f"it has {kspace.ndim} axes", fix=fix)
    layout = make_layout(axes or _AXES[kspace.ndim], kspace.shape, where, from_user=axes is not None)
    source = Source(ARGUMENT, axes=axes)
    if mask is not None:
        plane = mask.ndim == 2 and len(layout.space) == 3
        source.mask = (mask[None] if plane else mask, f"{ARGUMENT}:mask")
    if maps is not None:
        source.maps = (ArrayStore({"maps": maps if complex_dtype(maps.dtype) else maps.astype(np.complex64)}), "maps")
    scan = assemble(source, ArrayStore({"kspace": kspace}), "array", "kspace", layout)
    scan.nan = nan
    return scan
