"""Select some items of a scan or of images: `--items 3-17`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.geometry import Geometry, Grid, from_matrix
from mrirecon.io.scan import Layout, Scan

if TYPE_CHECKING:
    from mrirecon.coils.sampling import Sampling


def parse_items(text: str, count: int, where: str | None = None) -> list[int]:
    """Parse a list of items: numbers and inclusive ranges, such as "0,3-17" or "20-".

    Args:
        text: the list; items are counted from 0.
        count: number of items.
        where: the file, for the message.

    Raises:
        UsageError: another text, or an item that does not exist.

    """
    items: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?", part)
        if match is None:
            raise UsageError(f"items cannot be {text!r}", where=where, fix="write --items 3-17, or 0,2,5-")
        first = int(match[1])
        last = first if match[2] is None else count - 1 if match[3] is None else int(match[3])
        if not first <= last < count:
            why = f"there are {count}, from 0 to {count - 1}"
            raise UsageError(f"items {part.strip()!r} do not exist", where=where, why=why, fix="choose from these")
        items |= set(range(first, last + 1))
    return sorted(items)


def select(scan: Scan, items: str) -> Scan:
    """Return a scan with the selected items (see `parse_items`), or the scan itself if these are all.

    Raises:
        UsageError: see `parse_items`.

    """
    chosen = parse_items(items, len(scan), str(scan.path))
    return scan if len(chosen) == len(scan) else Selected(scan, chosen, f"items {items} of {len(scan)}")


def select_images(images: np.ndarray, grid: Grid, items: str | None, path: str | Path) -> tuple[np.ndarray, Grid]:
    """Return the selected images (item, *space) and their position.

    Raises:
        UsageError: see `parse_items`.

    """
    if items is None:
        return images, grid
    chosen = parse_items(items, len(images), str(path))
    steps = set(np.diff(chosen).tolist()) or {1}
    if images.ndim == 3 and grid.affine is not None:
        matrix = np.array(grid.affine)
        matrix[:, 3] += chosen[0] * matrix[:, 2]
        matrix[:, 2] *= min(steps)
        evenly = len(steps) == 1
        grid = from_matrix(matrix, grid.thickness) if evenly else Grid(grid.spacing, None, grid.thickness)
    return images[chosen], grid


class Selected(Scan):
    """Select some items of another scan; messages use the numbers of that scan.

    If the scan has one loop axis, the items stay on an axis of that name; items of several loop axes are along `batch`.
    """

    def __init__(self, base: Scan, chosen: Sequence[int], note: str) -> None:
        super().__init__(**{f.name: getattr(base, f.name) for f in fields(Scan) if f.init})
        self.base, self.chosen = base, tuple(chosen)
        self._note(note)
        several = [a for a in base.layout.loops if base.shape[a] > 1]
        name = several[0] if len(several) == 1 else "slice" if not several else "batch"
        inner = [(a, n) for a, n in zip(base.layout.axes, base.layout.sizes, strict=True) if a not in base.layout.loops]
        self.layout = Layout((name, *(a for a, _ in inner)), (len(self.chosen), *(n for _, n in inner)))
        self.store = _SelectedStore(self)
        if base.given_mask is not None and len(base.given_mask) > 1:
            self.given_mask = base.given_mask[list(self.chosen)]
        self.geometry = _geometry(base, self.chosen, name)

    def where(self, item: int) -> str:
        """Return the names of file, array and item, counted as in the other scan."""
        return self.base.where(self.chosen[item])

    @property
    def on_grid(self) -> bool:
        """Return whether k-space was sampled on a Cartesian grid."""
        return self.base.on_grid

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask of an item."""
        return super().samples(item) if self.on_grid else self.base.samples(self.chosen[item])

    def sampling(self, item: int, mask: np.ndarray) -> Sampling:
        """Return where k-space of an item was sampled."""
        return self.base.sampling(self.chosen[item], mask)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space), or None if there are none."""
        return self.base.maps(self.chosen[item])

    def map_sets(self, item: int) -> int:
        """Return the number of stored sets of coil maps of an item."""
        return self.base.map_sets(self.chosen[item])

    def maps_block(self, item: int, number: int, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of one coil map of an item; see `Scan.maps_block`."""
        return self.base.maps_block(self.chosen[item], number, part)

    @property
    def reference(self) -> np.ndarray | None:
        """Return the magnitude of the fully sampled image, (item, *image) float32, or None."""
        images = self.base.reference
        return None if images is None else images[list(self.chosen)]

    @property
    def calibration(self) -> np.ndarray | None:
        """Return separate calibration k-space, (1 or item, coil, *box) complex64, or None."""
        data = self.base.calibration
        return data if data is None or len(data) == 1 else data[list(self.chosen)]

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return an approximation of `mask`, which is faster; see `Scan.quick_mask`."""
        return self.base.quick_mask(self.chosen[item])

    def is_blank(self, item: int) -> bool:
        """Return whether an item is known to hold no signal."""
        return self.base.is_blank(self.chosen[item])


class _SelectedStore:
    """Read arrays of a `Selected` scan: k-space with items along the first axis, the other arrays as stored."""

    def __init__(self, scan: Selected) -> None:
        base = scan.base
        self.path, self.files = base.store.path, base.store.files
        name = base.roles.kspace
        self.arrays = {**base.store.arrays, name: (scan.layout.sizes, base.store.arrays[name][1])}
        self._base, self._chosen, self._name = base, scan.chosen, name

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` selects."""
        if name != self._name:
            return self._base.store.read(name, index)
        first, inner = index[0] if index else slice(None), index[1:]
        if isinstance(first, int):
            return self._item(self._chosen[first], inner)
        return np.stack([self._item(item, inner) for item in self._chosen[first]])

    def _item(self, item: int, inner: Sequence[int | slice]) -> np.ndarray:
        layout = self._base.layout
        rest = iter(inner)
        loops = dict(zip(layout.loops, layout.loop_index(item), strict=True))
        index = tuple(loops[a] if a in loops else next(rest, slice(None)) for a in layout.axes)
        return self._base.store.read(self._name, index)


def _geometry(scan: Scan, chosen: Sequence[int], name: str) -> Geometry | None:
    """Return the geometry of the selected items; None if they are no longer slices of one stack."""
    geometry, slices = scan.geometry, scan.shape.get("slice", 1)
    if geometry is None or slices == 1:
        return geometry
    if name != "slice" or len(geometry.slices_mm) != slices:
        return None
    centres = tuple(geometry.slices_mm[i] for i in chosen)
    middle = tuple((a + b) / 2 for a, b in zip(centres[0], centres[-1], strict=True))
    return replace(geometry, slices_mm=centres, position_mm=(middle[0], middle[1], middle[2]))
