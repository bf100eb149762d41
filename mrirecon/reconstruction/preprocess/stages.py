"""A scan that is changed as it is read: averaged, whitened, cropped along its readout, its coils compressed.

Each step is a scan made from another scan, so that whatever takes the one takes the other, and nothing is read before
it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Self

import numpy as np

from mrirecon.coils.compression import Compression, compress, compress_maps, compression
from mrirecon.coils.whitening import Whitening, mix_coils
from mrirecon.errors import InputError, UsageError
from mrirecon.io import Scan
from mrirecon.io.scan import Layout
from mrirecon.reconstruction.preprocess.combine import AVERAGED, mean_kspace
from mrirecon.reconstruction.preprocess.oversampling import check_readout, crop_image, crop_mask, remove_oversampling

_KEPT = 64  # compressions, each a few kB to a few MB


class DerivedScan(Scan):
    """A scan made from another one, with a layout of its own. What it does not change is that of the other.

    Its notes are those of the other scan, followed by its own.

    Args:
        base: the other scan.
        layout: by default that of the other.

    """

    def __init__(self, base: Scan, layout: Layout | None = None) -> None:
        own = {f.name: getattr(base, f.name) for f in fields(Scan) if f.init} | {"notes": []}
        self.base = base
        super().__init__(**own)
        self.layout = layout or base.layout
        self.given_mask = None  # the zeros of what is computed tell what was sampled
        self.dtype = np.dtype(np.complex64)
        self._last: tuple[int, np.ndarray] | None = None
        self._last_maps: tuple[int, np.ndarray | None] | None = None

    @property
    def notes(self) -> list[str]:
        """What was concluded or corrected, in words for the user: by the scan it was made from, then here."""
        return [*self.base.notes, *self._own_notes]

    @notes.setter
    def notes(self, own: list[str]) -> None:
        """Set its own notes."""
        self._own_notes = own

    def with_notes(self, notes: Iterable[str]) -> Self:
        """Return the same scan with further notes; this one keeps its own."""
        found = copy.copy(self)
        found.notes = [*self._own_notes, *notes]
        return found

    def _note(self, text: str) -> None:
        if text not in self._own_notes:
            self._own_notes.append(text)

    @property
    def has_mask(self) -> bool:
        """Whether a mask was in the file or given."""
        return self.base.has_mask

    def unmasked_kspace(self, item: int) -> np.ndarray:
        """Return what `kspace` does: nothing is stored in this form."""
        return self.kspace(item)

    def block(self, item: int, coils: slice, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of an item's k-space (coil, *part). The item is held whole, for its other parts."""
        if self._last is None or self._last[0] != item:
            self._last = (item, self.kspace(item))
        return np.ascontiguousarray(self._last[1][(coils, *part)])

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item, (coil, *space) complex64, zero where not sampled."""
        return self.base.kspace(item)

    def mask(self, item: int) -> np.ndarray:
        """Return which samples of an item may be used, (*space) booleans."""
        return self.base.mask(item)

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask of an item."""
        return self.kspace(item), self.mask(item)

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return about what `mask` does, quickly; see `Scan.quick_mask`."""
        return self.base.quick_mask(item)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space) complex64, or None where there are none."""
        return self.base.maps(item)

    def map_sets(self, item: int) -> int:
        """Return how many sets of coil maps are stored for an item."""
        return self.base.map_sets(item)

    def maps_block(self, item: int, number: int, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of one coil map of an item, (*part); see `Scan.maps_block`."""
        if self._last_maps is None or self._last_maps[0] != item:
            self._last_maps = (item, self.maps(item))
        maps = self._last_maps[1]
        assert maps is not None, "the caller looked"
        return np.ascontiguousarray(maps[(*divmod(number, maps.shape[1]), *part)])

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space, (1 or item, coil, *box) complex64, or None."""
        return self.base.calibration


class Averaged(DerivedScan):
    """The complex mean over repetitions and averages."""

    def __init__(self, base: Scan) -> None:
        gone = [a for a in base.layout.loops if a in AVERAGED and base.shape[a] > 1]
        if not gone:
            raise UsageError(
                "there are no repetitions or averages to take the mean of",
                where=str(base.path),
                why=f"its axes are {', '.join(base.shape)}",
                fix="leave --combine average out, or name the axes with --axes repetition,...",
            )
        kept = [(a, n) for a, n in zip(base.layout.axes, base.layout.sizes, strict=True) if a not in gone]
        super().__init__(base, Layout(tuple(a for a, _ in kept), tuple(n for _, n in kept)))
        self.members: list[list[int]] = [[] for _ in range(len(self))]
        places = {tuple(index.values()): item for item, index in enumerate(self.items)}
        for item, index in enumerate(base.items):
            self.members[places[tuple(n for a, n in index.items() if a not in gone)]].append(item)
        self.axes, self.count = tuple(gone), len(self.members[0])

    def kspace(self, item: int) -> np.ndarray:
        """Return the mean, of each sample over those that acquired it."""
        members = self._able(item)
        masks = [self.base.mask(i) for i in members]
        if any((m != masks[0]).any() for m in masks):
            self._note("repetitions sampled different places: noise differs from sample to sample of their mean")
        return mean_kspace([self.base.kspace(i) for i in members], masks)[0]

    def mask(self, item: int) -> np.ndarray:
        """Return what any of them sampled."""
        return np.asarray(np.any([self.base.mask(i) for i in self._able(item)], axis=0))

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return about what `mask` does, quickly; see `Scan.quick_mask`."""
        found = [mask for i in self.members[item] if (mask := self.base.quick_mask(i)) is not None]
        return np.asarray(np.any(found, axis=0)) if found else None

    def _able(self, item: int) -> list[int]:
        """Return the repetitions of an item that have signal; where none has, all of them, of which reading will tell.

        Values that are not numbers are refused, for nobody expects them to be left out of a mean.
        """
        members = self.members[item]
        found = [i for i in members if self.base.quick_mask(i) is not None]
        if found and len(found) < len(members):
            self._note(
                f"{len(members) - len(found)} of {len(members)} repetitions of {self.where(item)} hold no signal"
            )
        return found or members

    def maps(self, item: int) -> np.ndarray | None:
        """Return the maps of the first of them."""
        return self.base.maps(self.members[item][0])

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space, that of the first of each where every item has its own."""
        found = self.base.calibration
        return found if found is None or len(found) == 1 else found[[m[0] for m in self.members]]


class Whitened(DerivedScan):
    """Channels whose noise is white."""

    def __init__(self, base: Scan, whitening: Whitening) -> None:
        super().__init__(base)
        self.whitening = whitening
        self.noise = None if base.noise is None else mix_coils(base.noise, whitening.matrix)

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of the white channels."""
        return mix_coils(self.base.kspace(item), self.whitening.matrix)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the white channels' sensitivities."""
        found = self.base.maps(item)
        return None if found is None else mix_coils(found, self.whitening.matrix, axis=1)

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space of the white channels."""
        found = self.base.calibration
        return None if found is None else mix_coils(found, self.whitening.matrix, axis=1)


class Cropped(DerivedScan):
    """The middle of an oversampled readout."""

    def __init__(self, base: Scan, readout: str, kept: int) -> None:
        sizes = {**dict(zip(base.layout.axes, base.layout.sizes, strict=True)), readout: kept}
        super().__init__(base, Layout(base.layout.axes, tuple(sizes[a] for a in base.layout.axes)))
        self.readout, self.kept = readout, kept
        self.axis = base.space.index(readout) - len(base.space)
        self.size = base.shape[readout]
        where = base.geometry
        if where is not None:
            fov = list(where.fov_mm)
            fov[where.axes.index(readout)] *= kept / self.size
            self.geometry = replace(where, fov_mm=(fov[0], fov[1], fov[2]))

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return about what `mask` does, quickly; see `Scan.quick_mask`."""
        seen = self.base.quick_mask(item)
        return None if seen is None else crop_mask(seen, self.axis, self.kept)

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of the middle of the field of view."""
        check_readout(self.base.mask(item), self.axis, self.readout)
        return remove_oversampling(self.base.kspace(item), self.axis, self.kept)

    def mask(self, item: int) -> np.ndarray:
        """Return the mask, lines shorter by the factor."""
        mask = self.base.mask(item)
        check_readout(mask, self.axis, self.readout)
        return crop_mask(mask, self.axis, self.kept)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the middle of the maps."""
        found = self.base.maps(item)
        return None if found is None else crop_image(found, self.axis, self.kept)

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space of the middle: of the largest part that the factor divides."""
        found = self.base.calibration
        if found is None:
            return None
        step = self.size // np.gcd(self.size, self.kept)
        length = found.shape[self.axis] // step * step
        if not length:
            raise InputError(
                "the calibration data are too short along the readout to be cropped",
                why=f"{found.shape[self.axis]} samples for a factor of {self.size / self.kept:g}",
                fix="leave the oversampling in",
            )
        return remove_oversampling(crop_image(found, self.axis, length), self.axis, length * self.kept // self.size)


class Compressed(DerivedScan):
    """Virtual coils, found for every item from its own samples."""

    def __init__(self, base: Scan, coils: int, readout: int | None) -> None:
        sizes = {**dict(zip(base.layout.axes, base.layout.sizes, strict=True)), "coil": coils}
        super().__init__(base, Layout(base.layout.axes, tuple(sizes[a] for a in base.layout.axes)))
        self.readout = readout
        self._found: dict[int, Compression] = {}
        self._calibration: np.ndarray | None = None

    def compression(self, item: int, kspace: np.ndarray | None = None) -> Compression:
        """Return how the coils of an item become virtual ones."""
        if item not in self._found:
            if len(self._found) >= _KEPT:
                self._found.pop(next(iter(self._found)))
            full = self.base.kspace(item) if kspace is None else kspace
            self._found[item] = compression(full, coils=self.coils, readout=self.readout)
        return self._found[item]

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of the virtual coils."""
        full = self.base.kspace(item)
        mixed = compress(full, self.compression(item, full))
        return mixed * self.mask(item) if self.readout is not None else mixed

    def maps(self, item: int) -> np.ndarray | None:
        """Return the virtual coils' sensitivities."""
        found = self.base.maps(item)
        return None if found is None else compress_maps(found, self.compression(item))

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate calibration k-space of the virtual coils, which are every item's own."""
        found = self.base.calibration
        if found is not None and self._calibration is None:
            each = [compress(found[i if len(found) > 1 else 0], self.compression(i)) for i in range(len(self))]
            self._calibration = np.stack(each)
        return self._calibration


def pool_noise_samples(
    scan: Scan, samples: Callable[[np.ndarray, np.ndarray], np.ndarray], most: int = 5
) -> np.ndarray:
    """Return noise samples (C, N) of up to ``most`` items, evenly spread."""
    able = scan.items_with_signal() or [scan.representative_item()]
    items = [able[i] for i in np.unique(np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(int))]
    return np.concatenate([samples(scan.kspace(i), scan.mask(i)) for i in items], axis=1)
