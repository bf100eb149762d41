"""Read SKM-TEA raw data: 3D knees as hybrid slices, `kspace` (x, ky, kz, echo, coil), with coil maps and target image.

The layout is that of the data set's description (Desai et al., NeurIPS Datasets and Benchmarks 2021; DATASET.md of
StanfordMIMI/skm-tea, v1.0.0). No real file was available for a test: the reader is unverified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import Hdf5Store
from mrirecon.io.scan import Scan, complex_dtype


class SkmTeaStore(Hdf5Store):
    """Read arrays of an SKM-TEA file; `maps` as (slice, echo, set, coil, y, x), `target` as (slice, echo, y, x)."""

    def __init__(self, path: Path, kspace: tuple[int, ...], sets: int, kind: np.dtype) -> None:
        slices, y, x, echoes, coils = kspace
        arrays = {
            "kspace": (kspace, kind),
            "maps": ((slices, echoes, sets, coils, y, x), kind),
            "reference": ((slices, echoes, y, x), kind),
        }
        super().__init__(path, arrays)

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array."""
        if name == "kspace":
            return super().read(name, index)
        if name == "maps":
            maps = np.moveaxis(super().read("maps", index[:1]), (-1, -2), (-4, -3))
            # All echoes share the same maps.
            return maps[index[2:]] if len(index) >= 2 else np.stack([maps] * self.arrays["kspace"][0][3], axis=-5)
        target = super().read("target", index[:1])[..., 0]
        return np.moveaxis(target, -1, -3)[index[1:]]


_DATASETS = ("kspace", "maps", "target")


def _is_skmtea(source: Source) -> bool:
    """Return whether the arrays are complex, with the matching shapes of SKM-TEA."""
    arrays = [source.hdf5[name] for name in _DATASETS]
    if any(len(array.shape) != 5 or not complex_dtype(array.dtype) for array in arrays):
        return False
    kspace, maps, target = (array.shape for array in arrays)
    same = kspace[:3] == maps[:3] == target[:3] and kspace[3] == target[3] and kspace[4] == maps[3]
    return same and maps[4] == target[4] and maps[4] in (1, 2)


@register_reader("skm-tea", rank=20, hdf5=True, datasets=_DATASETS, recognise=_is_skmtea)
def read_skmtea(source: Source, *, dataset: str = "kspace") -> Scan:
    """Read SKM-TEA raw data; see `mrirecon.io.read`."""
    path, kspace = source.path, source.hdf5[dataset]
    notes = [
        "read as SKM-TEA raw data: the readout is already an image axis (slices along x), ky is y, kz is x",
        "the scanner filled in half of the k-space lines (2x1 ARC): they are not independent measurements",
    ]
    if "masks" in source.hdf5:
        notes.append("the masks in the file are smaller than its zero-padded k-space, and are not applied")
    store = SkmTeaStore(path, kspace.shape, source.hdf5["maps"].shape[4], kspace.dtype)
    layout = make_layout("slice,y,x,echo,coil", kspace.shape, str(path))
    return assemble(source, store, "skm-tea", dataset, layout, notes=notes, unverified=True)
