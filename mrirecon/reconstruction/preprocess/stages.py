"""Derive scans that change another scan when it is read: average, whiten, crop the readout, compress coils.

The result of each step is again a scan, so that it can be used as one, and nothing is read before it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Self

import numpy as np

from mrirecon.coils.compression import Compression, compress, compress_maps, compression
from mrirecon.coils.sampling import Sampling
from mrirecon.coils.whitening import Whitening, mix_coils
from mrirecon.errors import InputError, UsageError
from mrirecon.io.scan import Layout, Scan
from mrirecon.physics.fourier import to_image, to_kspace

AVERAGED = ("average", "repetition", "repetition2")  # loop axes over which the object and its contrast stay the same
_KEPT = 64  # number of compressions in the cache, each a few kB to a few MB


class DerivedScan(Scan):
    """Derive a scan from another one, item by item when it is read.

    Subclasses override `_kspace`, `_mask`, `_maps` and `_calibration` to change k-space, masks, maps and separate
    calibration data; by default these change nothing. The notes are those of the other scan, followed by new ones.

    Args:
        base: the other scan.
        **sizes: lengths of the axes whose length changes.

    """

    def __init__(self, base: Scan, **sizes: int) -> None:
        own = {f.name: getattr(base, f.name) for f in fields(Scan) if f.init} | {"notes": []}
        self.base = base
        super().__init__(**own)
        stored = dict(zip(base.layout.axes, base.layout.sizes, strict=True))
        self.layout = Layout(base.layout.axes, tuple(sizes.get(axis, n) for axis, n in stored.items()))
        self.given_mask = None  # samples that were not acquired are zero, so no mask is needed
        self.dtype = np.dtype(np.complex64)
        self._last: tuple[int, np.ndarray] | None = None
        self._last_maps: tuple[int, np.ndarray | None] | None = None

    def _kspace(self, kspace: np.ndarray, item: int) -> np.ndarray:
        return kspace

    def _mask(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def _maps(self, maps: np.ndarray, item: int) -> np.ndarray:
        return maps

    def _calibration(self, region: np.ndarray) -> np.ndarray:
        return region

    @property
    def notes(self) -> list[str]:
        """Return the notes for the user: those of the other scan, then those of this step."""
        return [*self.base.notes, *self._own_notes]

    @notes.setter
    def notes(self, own: list[str]) -> None:
        """Set the notes of this step."""
        self._own_notes = own

    def with_notes(self, notes: Iterable[str]) -> Self:
        """Return a copy of the scan with further notes."""
        copied = copy.copy(self)
        copied.notes = [*self._own_notes, *notes]
        return copied

    def _note(self, text: str) -> None:
        if text not in self._own_notes:
            self._own_notes.append(text)

    @property
    def has_mask(self) -> bool:
        """Return whether the file or the user gives a mask."""
        return self.base.has_mask

    def unmasked_kspace(self, item: int) -> np.ndarray:
        """Return the result of `kspace`, because derived k-space is not stored."""
        return self.kspace(item)

    def block(self, item: int, coils: slice, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of an item's k-space (coil, *part); keep the whole item in memory for other parts."""
        if self._last is None or self._last[0] != item:
            self._last = (item, self.kspace(item))
        return np.ascontiguousarray(self._last[1][(coils, *part)])

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item, (coil, *space) complex64, zero where not sampled."""
        return self._kspace(self.base.kspace(item), item)

    def mask(self, item: int) -> np.ndarray:
        """Return the usable samples of an item, (*space) booleans."""
        return self._mask(self.base.mask(item))

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask of an item."""
        return self.kspace(item), self.mask(item)

    @property
    def on_grid(self) -> bool:
        """Return whether k-space was sampled on a Cartesian grid."""
        return self.base.on_grid

    def sampling(self, item: int, mask: np.ndarray) -> Sampling:
        """Return where k-space of an item was sampled."""
        return self.base.sampling(item, mask)

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return an approximation of `mask`, which is faster; see `Scan.quick_mask`."""
        mask = self.base.quick_mask(item)
        return None if mask is None else self._mask(mask)

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space) complex64, or None if there are none."""
        maps = self.base.maps(item)
        return None if maps is None else self._maps(maps, item)

    def map_sets(self, item: int) -> int:
        """Return the number of stored sets of coil maps of an item."""
        return self.base.map_sets(item)

    def maps_block(self, item: int, number: int, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of one coil map of an item, (*part); see `Scan.maps_block`."""
        if self._last_maps is None or self._last_maps[0] != item:
            self._last_maps = (item, self.maps(item))
        maps = self._last_maps[1]
        assert maps is not None, "the caller checked"
        return np.ascontiguousarray(maps[(*divmod(number, maps.shape[1]), *part)])

    @property
    def calibration(self) -> np.ndarray | None:
        """Return separate calibration k-space, (1 or item, coil, *box) complex64, or None."""
        region = self.base.calibration
        return None if region is None else self._calibration(region)


class Averaged(DerivedScan):
    """Take the complex mean of k-space over repetitions and averages."""

    def __init__(self, base: Scan) -> None:
        averaged_axes = [a for a in base.layout.loops if a in AVERAGED and base.shape[a] > 1]
        if not averaged_axes:
            raise UsageError(
                "the scan has no repetitions or averages",
                where=str(base.path),
                why=f"its axes are {', '.join(base.shape)}",
                fix="omit --combine average, or name the axes with --axes repetition,...",
            )
        super().__init__(base)
        remaining = [(a, n) for a, n in zip(base.layout.axes, base.layout.sizes, strict=True) if a not in averaged_axes]
        self.layout = Layout(tuple(a for a, _ in remaining), tuple(n for _, n in remaining))
        self.members: list[list[int]] = [[] for _ in range(len(self))]
        item_by_index = {tuple(index.values()): item for item, index in enumerate(self.items)}
        for item, index in enumerate(base.items):
            self.members[item_by_index[tuple(n for a, n in index.items() if a not in averaged_axes)]].append(item)
        self.axes, self.count = tuple(averaged_axes), len(self.members[0])

    def kspace(self, item: int) -> np.ndarray:
        """Return the mean of each sample over the repetitions that acquired it."""
        members = self._with_signal(item)
        masks = [self.base.mask(i) for i in members]
        if any((m != masks[0]).any() for m in masks):
            self._note("repetitions have different sampling: the noise of their mean differs from sample to sample")
        return mean_kspace([self.base.kspace(i) for i in members], masks)[0]

    def mask(self, item: int) -> np.ndarray:
        """Return the samples acquired by any repetition."""
        return np.asarray(np.any([self.base.mask(i) for i in self._with_signal(item)], axis=0))

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return an approximation of `mask`, which is faster; see `Scan.quick_mask`."""
        masks = [mask for i in self.members[item] if (mask := self.base.quick_mask(i)) is not None]
        return np.asarray(np.any(masks, axis=0)) if masks else None

    def sampling(self, item: int, mask: np.ndarray) -> Sampling:
        """Return where the first repetition was sampled."""
        return self.base.sampling(self.members[item][0], mask)

    def _with_signal(self, item: int) -> list[int]:
        """Return the repetitions of an item with signal; without any, return all, so that reading raises the error.

        NaN and infinite values are refused, because users do not expect a mean to leave them out.
        """
        members = self.members[item]
        with_signal = [i for i in members if self.base.quick_mask(i) is not None]
        if with_signal and len(with_signal) < len(members):
            lost = len(members) - len(with_signal)
            self._note(f"{lost} of {len(members)} repetitions of {self.where(item)} hold no signal")
        return with_signal or members

    def maps(self, item: int) -> np.ndarray | None:
        """Return the maps of the first repetition."""
        return self.base.maps(self.members[item][0])

    def _calibration(self, region: np.ndarray) -> np.ndarray:
        return region if len(region) == 1 else region[[m[0] for m in self.members]]


class Whitened(DerivedScan):
    """Whiten the noise of the coils."""

    def __init__(self, base: Scan, whitening: Whitening) -> None:
        super().__init__(base)
        self.matrix = whitening.matrix
        self.noise = None if base.noise is None else mix_coils(base.noise, self.matrix)

    def _kspace(self, kspace: np.ndarray, item: int) -> np.ndarray:
        return mix_coils(kspace, self.matrix)

    def _maps(self, maps: np.ndarray, item: int) -> np.ndarray:
        return mix_coils(maps, self.matrix, axis=1)

    def _calibration(self, region: np.ndarray) -> np.ndarray:
        return mix_coils(region, self.matrix, axis=1)


class Cropped(DerivedScan):
    """Crop the field of view to the middle of an oversampled readout, so that lines are shorter by the factor."""

    def __init__(self, base: Scan, readout: str, cropped_size: int) -> None:
        super().__init__(base, **{readout: cropped_size})
        self.readout, self.cropped_size, self.size = readout, cropped_size, base.shape[readout]
        self.axis = base.space.index(readout) - len(base.space)
        where = base.geometry
        if where is not None:
            fov = list(where.fov_mm)
            fov[where.axes.index(readout)] *= cropped_size / self.size
            self.geometry = replace(where, fov_mm=(fov[0], fov[1], fov[2]))

    def _kspace(self, kspace: np.ndarray, item: int) -> np.ndarray:
        check_readout(self.base.mask(item), self.axis, self.readout)
        return remove_oversampling(kspace, self.axis, self.cropped_size)

    def _mask(self, mask: np.ndarray) -> np.ndarray:
        return crop_mask(mask, self.axis, self.cropped_size)

    def mask(self, item: int) -> np.ndarray:
        """Return the mask of the shorter lines, which must be fully sampled."""
        mask = self.base.mask(item)
        check_readout(mask, self.axis, self.readout)
        return self._mask(mask)

    def _maps(self, maps: np.ndarray, item: int) -> np.ndarray:
        return crop_image(maps, self.axis, self.cropped_size)

    def _calibration(self, region: np.ndarray) -> np.ndarray:
        """Return the region, cropped in the image; before, cut it to a length that the factor divides."""
        step = self.size // np.gcd(self.size, self.cropped_size)
        length = region.shape[self.axis] // step * step
        if not length:
            raise InputError(
                "the calibration data are too short along the readout for a crop",
                why=f"{region.shape[self.axis]} samples for a factor of {self.size / self.cropped_size:g}",
                fix="do not remove the oversampling",
            )
        return remove_oversampling(
            crop_image(region, self.axis, length), self.axis, length * self.cropped_size // self.size
        )


class Compressed(DerivedScan):
    """Compress to virtual coils, computed for every item from its own samples."""

    def __init__(self, base: Scan, coils: int, readout: int | None) -> None:
        super().__init__(base, coil=coils)
        self.readout = readout
        self._found: dict[int, Compression] = {}
        self._compressed: np.ndarray | None = None

    def compression(self, item: int, kspace: np.ndarray | None = None) -> Compression:
        """Return the coil compression of an item."""
        if item not in self._found:
            if len(self._found) >= _KEPT:
                self._found.pop(next(iter(self._found)))
            full = self.base.kspace(item) if kspace is None else kspace
            self._found[item] = compression(full, coils=self.coils, readout=self.readout)
        return self._found[item]

    def _kspace(self, kspace: np.ndarray, item: int) -> np.ndarray:
        mixed = compress(kspace, self.compression(item, kspace))
        return mixed * self.mask(item) if self.readout is not None else mixed

    def _maps(self, maps: np.ndarray, item: int) -> np.ndarray:
        return compress_maps(maps, self.compression(item))

    def _calibration(self, region: np.ndarray) -> np.ndarray:
        """Return the compressed region of every item, because each item has its own virtual coils; computed once."""
        if self._compressed is None:
            each = [compress(region[i if len(region) > 1 else 0], self.compression(i)) for i in range(len(self))]
            self._compressed = np.stack(each)
        return self._compressed


# --- functions on arrays ---
#
# Readout oversampling needs no scan time and prevents aliasing of the surroundings; after that it only adds size. The
# crop in image space removes only the margins, while dropping every second sample would alias them and their noise into
# the image. The axis must be the readout: along an undersampled axis, the image is aliased until it is reconstructed.


def mean_kspace(kspaces: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the complex mean of each sample over the acquisitions that contain it, and the union of their masks.

    N acquisitions lower the noise by √N where all are sampled; a mean of magnitudes would have a noise bias. Motion and
    drift between acquisitions blur the result.

    Args:
        kspaces: arrays (C, *space) complex, zero where not sampled.
        masks: arrays (*space) bool.

    """
    count = np.sum(masks, axis=0)
    total = np.sum(kspaces, axis=0, dtype=np.complex128)
    return (total / np.maximum(count, 1)).astype(kspaces[0].dtype), np.asarray(count > 0)


def check_readout(mask: np.ndarray, axis: int, name: str) -> None:
    """Refuse an axis along which some lines are not fully sampled.

    Args:
        mask: (*space) bool.
        axis: axis, counted from the end.
        name: name of the axis.

    Raises:
        UsageError: the axis is undersampled, or a part was never measured (an asymmetric echo).

    """
    lines = mask.any(axis=axis, keepdims=True)
    if (mask != lines).any():
        share = float(mask.sum() / (lines.sum() * mask.shape[axis]))
        raise UsageError(
            f"the axis {name} is not a fully sampled readout",
            why=f"{share:.0%} of the samples in acquired lines were measured, so that images are aliased or blurred",
            fix="give the readout with --readout, or omit the options that need it",
        )


def remove_oversampling(kspace: np.ndarray, axis: int, cropped_size: int) -> np.ndarray:
    """Crop the field of view of k-space along the readout to the middle ``cropped_size`` of n positions.

    The values and the noise of the image do not change.

    Args:
        kspace: (…, *space) complex, centred, fully sampled along ``axis`` (`check_readout`).
        axis: axis of the readout, counted from the end.
        cropped_size: number of positions to keep, at most n.

    Raises:
        UsageError: ``cropped_size`` is less than 1 or more than n.

    """
    image = to_image(kspace, (axis,))
    return to_kspace(crop_image(image, axis, cropped_size), (axis,))


def crop_image(image: np.ndarray, axis: int, cropped_size: int) -> np.ndarray:
    """Return the middle ``cropped_size`` positions of an image, or of maps, along an axis counted from the end.

    Raises:
        UsageError: ``cropped_size`` is less than 1 or more than n.

    """
    size = image.shape[axis]
    if not 1 <= cropped_size <= size:
        raise UsageError(f"{cropped_size} of {size} positions cannot be kept", fix=f"keep 1 to {size}")
    start = size // 2 - cropped_size // 2  # n // 2 remains the centre
    return np.ascontiguousarray(image.take(range(start, start + cropped_size), axis))


def crop_mask(mask: np.ndarray, axis: int, cropped_size: int) -> np.ndarray:
    """Return the mask (*space) for the cropped field of view, with lines of ``cropped_size`` samples."""
    return np.repeat(np.asarray(mask.any(axis=axis, keepdims=True)), cropped_size, axis=axis)


def pool_noise_samples(
    scan: Scan, samples: Callable[[np.ndarray, np.ndarray], np.ndarray], most: int = 5
) -> np.ndarray:
    """Return noise samples (C, N) of up to ``most`` evenly spread items."""
    readable = scan.items_with_signal() or [scan.representative_item()]
    items = [
        readable[i] for i in np.unique(np.linspace(0, len(readable) - 1, min(most, len(readable))).round().astype(int))
    ]
    return np.concatenate([samples(scan.kspace(i), scan.mask(i)) for i in items], axis=1)
