"""A scan that is computed from another one, with a store that serves what it computes to whoever reads a store."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np

from mrirecon.io import Scan
from mrirecon.io.axes import Layout
from mrirecon.io.fit import maps_index

Arrays = dict[str, tuple[tuple[int, ...], np.dtype]]


class Served:
    """The store of a `Derived` scan: its k-space, maps and calibration data under the names that they have in the file.

    Parts of k-space, as those are read who take a volume block by block, are cut out of the item, of which the last is
    kept: a derived volume is held in memory whole.
    """

    def __init__(self, scan: Derived) -> None:
        base, complex64 = scan.base, np.dtype(np.complex64)
        self.scan = scan
        self.path, self.files = base.store.path, base.store.files
        self.arrays: Arrays = {**base.store.arrays, scan.roles.kspace: (scan.layout.sizes, complex64)}
        if scan.roles.maps is not None:
            shape = (len(scan), _sets(base), scan.coils, *scan.space_shape)
            self.arrays[scan.roles.maps] = (shape, complex64)
        self._last: tuple[int, np.ndarray] | None = None

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` cuts out."""
        scan, roles = self.scan, self.scan.roles
        if name == roles.kspace:
            return self._kspace(index)
        if name == roles.maps:
            # The first index is the item where it is a number; otherwise all of them are meant.
            if index and isinstance(index[0], int):
                return np.asarray(scan.maps(index[0]))[index[1:]]
            return np.stack([np.asarray(scan.maps(i)) for i in range(len(scan))])[index]
        if name == roles.calibration:
            return np.asarray(scan.calibration)[index]
        return scan.base.store.read(name, index)

    def _kspace(self, index: tuple[int | slice, ...]) -> np.ndarray:
        layout = self.scan.layout
        full = (*index, *[slice(None)] * (len(layout.axes) - len(index)))
        cut = dict(zip(layout.axes, full, strict=True))
        loops = tuple(cut[a] for a in layout.loops)
        if not all(isinstance(i, int) for i in loops):
            shape = (*layout.loop_shape, *self._item(0).shape)
            order = [(*layout.loops, *[a for a in layout.axes if a not in layout.loops]).index(a) for a in layout.axes]
            every = np.stack([self._item(i) for i in range(len(self.scan))]).reshape(shape)
            return np.transpose(every, order)[full]
        item = int(np.ravel_multi_index([i for i in loops if isinstance(i, int)], layout.loop_shape)) if loops else 0
        return self._item(item)[tuple(cut[a] for a in layout.axes if a not in layout.loops)]

    def _item(self, item: int) -> np.ndarray:
        """Return k-space of an item with its axes in the file's order."""
        if self._last is None or self._last[0] != item:
            axes = [a for a in self.scan.layout.axes if a not in self.scan.layout.loops]
            found = self.scan.kspace(item)
            self._last = (item, np.moveaxis(found, 0, axes.index("coil")) if "coil" in axes else found[0])
        return self._last[1]


def _sets(scan: Scan) -> int:
    """Return the number of sets of maps that a scan has, from the shape of their array."""
    store, name = scan.maps_store or scan.store, scan.roles.maps
    assert name is not None, "the caller looked"
    shape = store.arrays[name][0]
    lead = maps_index(shape, scan.layout, 0, f"{store.path}:{name}")
    return math.prod(shape[len(lead) :]) // (scan.coils * math.prod(scan.space_shape))


class Derived(Scan):
    """A scan over another one, with a layout of its own. What it does not change is the other's, notes included."""

    def __init__(self, base: Scan, layout: Layout | None = None) -> None:
        super().__init__(**{f.name: getattr(base, f.name) for f in fields(Scan) if f.init})
        self.base, self.layout = base, layout or base.layout
        # Those who read the store read what is derived; its zeros tell what was sampled.
        self.store, self.maps_store, self.given_mask = Served(self), None, None
        self.dtype = np.dtype(np.complex64)

    @property
    def has_mask(self) -> bool:
        """Whether a mask was in the file or given."""
        return self.base.has_mask

    def raw(self, item: int) -> np.ndarray:
        """Return what `kspace` does: nothing is stored in this form."""
        return self.kspace(item)

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item, (coil, *space) complex64, zero where not sampled."""
        return self.base.kspace(item)

    def mask(self, item: int) -> np.ndarray:
        """Return which samples of an item may be used, (*space) booleans."""
        return self.base.mask(item)

    def glance(self, item: int) -> np.ndarray | None:
        """Return about what `mask` does, quickly; see `Scan.glance`."""
        return self.base.glance(item)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space) complex64, or None where there are none."""
        return self.base.maps(item)

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space, (1 or item, coil, *box) complex64, or None."""
        return self.base.calibration
