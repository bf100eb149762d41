"""SKM-TEA raw data: 3D knees as hybrid slices, `kspace` (x, ky, kz, echo, coil), with coil maps and target image.

The layout is that of the data set's own description (Desai et al., NeurIPS Datasets and Benchmarks 2021; DATASET.md of
StanfordMIMI/skm-tea, v1.0.0). No file of it was at hand: the reader is unverified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.axes import make_layout
from mrirecon.io.readers.assemble import Given, MapsSource, assemble
from mrirecon.io.readers.fastmri import Hdf5Store, is_hdf5
from mrirecon.io.readers.registry import register_reader
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5
from mrirecon.io.scan import Scan, complex_dtype


class SkmTeaStore(Hdf5Store):
    """The arrays of an SKM-TEA file; `maps` as (slice, echo, set, coil, y, x), `target` as (slice, echo, y, x)."""

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
            # The echoes share their maps.
            stored = super().read("maps", index[:1])
            return np.moveaxis(stored, (-1, -2), (-4, -3))[index[2:]] if len(index) >= 2 else self._maps(stored, index)
        target = super().read("target", index[:1])[..., 0]
        return np.moveaxis(target, -1, -3)[index[1:]]

    def _maps(self, stored: np.ndarray, index: tuple[int | slice, ...]) -> np.ndarray:
        echoes = self.arrays["kspace"][0][3]
        moved = np.moveaxis(stored, (-1, -2), (-4, -3))
        return np.stack([moved] * echoes, axis=-5)


def is_skmtea(file: GuardedFile) -> bool:
    """Whether a file holds complex `kspace`, `maps` and `target` whose five axes fit together as SKM-TEA's do."""
    if not all(name in file and not file.is_group(name) for name in ("kspace", "maps", "target")):
        return False
    found = [file[name] for name in ("kspace", "maps", "target")]
    if any(len(one.shape) != 5 or not complex_dtype(one.dtype) for one in found):
        return False
    kspace, maps, target = (one.shape for one in found)
    same = kspace[:3] == maps[:3] == target[:3] and kspace[3] == target[3] and kspace[4] == maps[3]
    return same and maps[4] == target[4] and maps[4] in (1, 2)


@register_reader(
    "skm-tea",
    rank=20,
    signature=is_hdf5,
    layout=lambda c: c.axes is None and c.holds(is_skmtea),
    container="hdf5",
)
def read_skmtea(
    path: Path, *, axes: str | None = None, dataset: str | None = None, mask: Given = None, maps: MapsSource = None
) -> Scan:
    """Read SKM-TEA raw data; see `mrirecon.io.read`.

    Raises:
        UsageError: `axes` or another `dataset` was given.
        InputError: see `open_hdf5`.

    """
    if axes is not None or dataset not in (None, "kspace"):
        raise UsageError(
            "this is laid out as SKM-TEA raw data", where=str(path), fix="leave --axes and the dataset out"
        )
    with open_hdf5(path) as file:
        kspace, sets = file["kspace"], file["maps"].shape[4]
        shape, kind = kspace.shape, kspace.dtype
        prepared = "masks" in file
    notes = [
        "taken for SKM-TEA raw data: the readout is already an image axis (slices along x), ky is y, kz is x",
        "one half of the k-space lines was filled in by the scanner (2x1 ARC): it is no independent measurement",
    ]
    if prepared:
        notes.append("the masks in the file are smaller than its zero-padded k-space, and are not applied")
    store = SkmTeaStore(path, shape, sets, kind)
    layout = make_layout("slice,y,x,echo,coil", shape, str(path))
    return assemble(store, "skm-tea", "kspace", layout, notes=notes, mask=mask, maps=maps, unverified=True)
