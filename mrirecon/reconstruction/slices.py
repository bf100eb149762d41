"""Split volumes with a fully sampled readout into slices: an inverse FFT along it gives independent 2D problems.

With F = F_readout ⊗ F_2D and a mask that is constant along the readout, F_readoutᴴ transforms y = M F S x + n to
y_r = M F_2D S_r x_r + n_r for every position r along the readout, and white noise stays white. If hybrid k-space does
not fit into memory, it is written slice by slice to a temporary file, so that no whole volume is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mrirecon.errors import InputError
from mrirecon.io.safe.scratch import Rows, scratch_folders
from mrirecon.io.scan import SPACE, WHOLE_LINE, Layout, Scan, check_finite, check_scale, largest_part
from mrirecon.physics.operators import Fourier

_BLOCK = 64 << 20  # bytes of k-space to process at a time


@dataclass(frozen=True)
class Slicing:
    """Describe how the volumes of a scan are solved slice by slice.

    Attributes:
        axis: index of the spatial axis that is the readout of every volume.
        readout: name of this axis.
        lines: usable readout lines of each volume with signal: booleans over the other two axes, from the first coil.

    """

    axis: int
    readout: str
    lines: Mapping[int, np.ndarray] = field(repr=False)

    @property
    def note(self) -> str:
        """Return a note for the user."""
        return f"solved slice by slice: the readout, {self.readout}, is fully sampled"


def find_slicing(scan: Scan, options: Mapping[str, object] | None = None) -> tuple[Slicing | None, list[str]]:
    """Find out how to solve the volumes of a scan slice by slice, with notes; None if they are solved as a whole.

    The readout is an axis along which the mask of every volume is constant and its data (of the first coil with data)
    are complete. If there are several, z is preferred to y, and y to x, so that slices are in the plane of y and x if
    possible.

    Args:
        scan: any scan. It is solved as a whole if its items are already slices, if it is read with ``strict``, if
            samples are lost (``nan="zero"``), or if they lie on a trajectory.
        options: options of the method; ``ndim=3`` requests whole volumes.

    """
    if len(scan.space) != 3 or (options or {}).get("ndim") == 3 or scan.strict or not scan.on_grid:
        return None, []  # strict must compare whole items with their mask
    if scan.nan == "zero" and _has_missing_samples(scan):
        return None, ["solved as a volume: a lost sample would affect its whole readout"]
    each = {v: readouts for v in range(len(scan)) if (readouts := _readouts(scan, v)) is not None}
    shared = [a for a in next(iter(each.values()), {}) if all(a in readouts for readouts in each.values())]
    if shared:
        axis = shared[0]
        return Slicing(axis, scan.space[axis], {volume: readouts[axis] for volume, readouts in each.items()}), []
    if len(scan) > 1 and any(each.values()):
        return None, ["no axis is fully sampled in every volume: they are solved as volumes"]
    return None, []


def open_slices(scan: Scan, volume: int, slicing: Slicing) -> HybridSlices:
    """Return one volume of a scan as slices, before it is spooled.

    Raises:
        InputError: the volume has no signal, or is not fully sampled along the readout.

    """
    if volume not in slicing.lines:
        scan.mask(volume)  # raises the error for a volume without signal
        raise _not_alike(scan, volume, slicing)
    names, sizes = list(scan.space), list(scan.space_shape)
    names.pop(slicing.axis)
    length = sizes.pop(slicing.axis)
    return HybridSlices(
        path=scan.path,
        format=scan.format,
        layout=Layout(("slice", "coil", *names), (length, scan.coils, *sizes)),
        dtype=np.dtype(np.complex64),
        store=scan.store,
        roles=replace(scan.roles, reference=None),
        attributes=scan.attributes,
        header=scan.header,
        maps_store=scan.maps_store,
        retrospective=scan.retrospective,
        parent=scan,
        volume=volume,
        axis=slicing.axis,
        sampled_lines=slicing.lines[volume],
    )


def read_slices(scan: Scan, volume: int, slicing: Slicing, scratch: Sequence[Path] | None) -> HybridSlices:
    """Read one volume of a scan once, and store it as slices for fast access.

    Args:
        scan: the scan.
        volume: number of the item.
        slicing: see `find_slicing`.
        scratch: folders for temporary files; None takes those of the system.

    Raises:
        InputError: the volume cannot be read, or not every coil is fully sampled along the readout.
        ResourceError: not enough disk space for the temporary file.

    """
    slices = open_slices(scan, volume, slicing)
    if not slices.spool(scratch_folders(None) if scratch is None else scratch):
        raise _not_alike(scan, volume, slicing)
    return slices


def _not_alike(scan: Scan, volume: int, slicing: Slicing) -> InputError:
    return InputError(
        f"this volume is not fully sampled along {slicing.readout}, but the first volume is",
        where=scan.where(volume),
        fix="write volumes with different sampling to separate files",
    )


@dataclass(kw_only=True)
class HybridSlices(Scan):
    """Represent one volume of a scan as a scan of slices along its readout.

    Items are positions along the readout; the other two axes are the spatial axes. Before `spool`, reading an item
    needs a pass over the whole file.

    Attributes:
        parent: the scan of the volume.
        volume: number of the item in ``parent``.
        axis: index of the spatial axis of ``parent`` that is the readout.
        sampled_lines: usable readout lines, booleans over the other two axes.

    """

    parent: Scan
    volume: int
    axis: int
    sampled_lines: np.ndarray = field(repr=False)
    _rows: Rows | None = field(default=None, init=False, repr=False)
    _maps: Rows | None = field(default=None, init=False, repr=False)
    _blank: np.ndarray | None = field(default=None, init=False, repr=False)
    _boxes: np.ndarray | None = field(default=None, init=False, repr=False)

    @property
    def readout(self) -> str:
        """Return the name of the readout axis."""
        return self.parent.space[self.axis]

    def where(self, item: int) -> str:
        """Describe file, volume and position, for messages."""
        return f"{self.parent.where(self.volume)}, {self.readout} {item}"

    def unmasked_kspace(self, item: int) -> np.ndarray:
        """Return hybrid k-space at one position, (coil, *space) complex64; it is masked only after `spool`."""
        if self._rows is not None:
            return self._rows.read(item)
        n = len(self)
        offsets = np.arange(n) - n // 2
        wave = np.exp(2j * np.pi / n * (item - n // 2) * offsets).astype(np.complex64) / np.float32(math.sqrt(n))
        out = np.empty((self.coils, *self.space_shape), np.complex64)
        for channels, part, block in _blocks(self.parent, self.volume, self.axis):
            check_finite(block, ("coil", *self.parent.space), self.parent.where(self.volume), _start(channels, part))
            out[(channels, *_without(part, self.axis))] = np.tensordot(block, wave, (self.axis + 1, 0))
        return out

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps at one position, (M, coil, *space) complex64, or None if the file has none."""
        if self.roles.maps is None:
            return None
        if self._maps is None:
            maps = self.parent.maps(self.volume)
            assert maps is not None, "the parent has the same roles"
            return np.ascontiguousarray(maps.take(item, axis=self.axis + 2))
        return self._maps.read(item)

    @property
    def calibration(self) -> np.ndarray | None:
        """Return separate calibration data at every position, (item, coil, *box), transformed along the readout."""
        separate = self.parent.calibration
        if separate is None:
            return None
        if self._boxes is None:
            region = separate[self.volume if len(separate) > 1 else 0]
            n, size = len(self), region.shape[self.axis + 1]
            before = n // 2 - size // 2
            widths = [(0, 0)] * region.ndim
            widths[self.axis + 1] = (before, n - size - before)
            self._boxes = np.moveaxis(_inverse(np.pad(region, widths), self.axis), self.axis + 1, 0).copy()
        return self._boxes

    def is_blank(self, item: int) -> bool:
        """Return whether there is no signal or no coil sensitivity at this position."""
        return self._blank is not None and bool(self._blank[item])

    def spool(self, folders: Sequence[Path]) -> bool:
        """Read the volume once, transform it, and store its slices for fast access.

        Args:
            folders: folders for a temporary file, in order of preference; see `mrirecon.io.safe.scratch.Rows`.

        Returns:
            False if the data of all coils show that the readout is not fully sampled.

        Raises:
            SignalError: NaN or infinite values, only zeros, or a scale out of range.
            InputError: a mask that marks none of the data, or a file that changes while it is read.
            ResourceError: not enough disk space for the temporary file.

        """
        scan, where = self.parent, self.parent.where(self.volume)
        what = f"{scan.path.name} in hybrid space"
        rows = Rows(len(self), (self.coils, *self.space_shape), np.complex64, folders, what)
        marked = _marked(scan, self.volume)
        plane = None if marked is None else marked.take(0, axis=self.axis)
        seen = np.zeros(scan.space_shape, bool)
        largest, peak = np.zeros(len(self)), 0.0
        for channels, part, block in _blocks(scan, self.volume, self.axis):
            check_finite(block, ("coil", *scan.space), where, _start(channels, part))
            seen[part] |= (block != 0).any(axis=0)
            peak = max(peak, largest_part(block))
            if marked is not None:
                block *= marked[part]
            _write_slab(
                rows, np.moveaxis(_inverse(block, self.axis), self.axis + 1, 0), channels, part, self.axis, largest
            )
        check_scale(peak, where)
        if _full_lines(seen, plane, self.axis) is None:
            return False
        acquired: np.ndarray = np.any(seen, axis=self.axis)
        self.sampled_lines = acquired if plane is None else scan.reconciled(plane, acquired, where)
        blank = largest == 0
        if self.roles.maps is not None:
            self._maps, sensitivity = self._spool_maps(folders)
            blank |= sensitivity == 0
        self._rows, self._blank = rows, blank
        return True

    def _spool_maps(self, folders: Sequence[Path]) -> tuple[Rows, np.ndarray]:
        sets = self.parent.map_sets(self.volume)
        where = f"{(self.parent.maps_store or self.parent.store).path}:{self.roles.maps}"
        rows = Rows(len(self), (sets, self.coils, *self.space_shape), np.complex64, folders, f"maps of {where}")
        largest = np.zeros(len(self))
        for number in range(sets * self.coils):
            for part in _parts(self.parent.space_shape, self.axis):
                block = self.parent.maps_block(self.volume, number, part)
                check_finite(block, self.parent.space, where, tuple(s.start or 0 for s in part))
                moved = np.moveaxis(block, self.axis, 0)[:, None]
                _write_slab(rows, moved, slice(number, number + 1), part, self.axis, largest)
        return rows, largest

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask at one position."""
        return self.unmasked_kspace(item) * self.sampled_lines, self.sampled_lines.copy()

    def mask(self, item: int) -> np.ndarray:
        """Return the usable samples, which are the same at every position."""
        return self.sampled_lines.copy()

    quick_mask = mask


def _has_missing_samples(scan: Scan) -> bool:
    """Return whether any volume holds NaN or infinite values; one decides for all, so that all are solved alike."""
    volumes = range(len(scan))
    return any(not np.isfinite(block).all() for volume in volumes for *_, block in _blocks(scan, volume, 0))


def _readouts(scan: Scan, volume: int) -> dict[int, np.ndarray] | None:
    """Return the lines along each fully sampled axis, the preferred axis first; None without signal."""
    marked = _marked(scan, volume)
    candidates = [a for a in range(3) if marked is None or bool((marked == marked.take([0], axis=a)).all())]
    acquired = _first_coil(scan, volume) if candidates else None
    if acquired is not None and not acquired.any():
        return None
    readouts = {}
    for axis in sorted(candidates, key=lambda a: SPACE.index(scan.space[a])):
        assert acquired is not None, "read if an axis is possible"
        lines = _full_lines(acquired, None if marked is None else marked.take(0, axis=axis), axis)
        if lines is not None:
            readouts[axis] = lines
    return readouts


def _marked(scan: Scan, volume: int) -> np.ndarray | None:
    mask = scan.given_mask
    return None if mask is None else mask[volume if len(mask) > 1 else 0]


def _full_lines(seen: np.ndarray, plane: np.ndarray | None, axis: int) -> np.ndarray | None:
    """Return the acquired and marked lines along an axis, or None if one of them is incomplete."""
    share = seen.mean(axis=axis)
    used = share > 0 if plane is None else plane & (share > 0)
    return used if used.any() and (share[used] >= WHOLE_LINE).all() else None


def _first_coil(scan: Scan, volume: int) -> np.ndarray:
    """Return the nonzero samples of the first coil with data, (*space) booleans."""
    acquired = np.zeros(scan.space_shape, bool)
    for channels, part, block in _blocks(scan, volume, 0, one_by_one=True):
        if part[1].start == 0 and channels.start and acquired.any():
            break
        acquired[part] |= (block != 0).any(axis=0)
    return acquired


def _parts(shape: tuple[int, ...], axis: int) -> list[tuple[slice, ...]]:
    """Divide a volume into blocks along the first axis that is not `axis`."""
    split = 1 if axis == 0 else 0
    step = max(1, shape[split] * _BLOCK // (8 * math.prod(shape)))
    whole = [slice(0, n) for n in shape]
    starts = range(0, shape[split], step)
    return [(*whole[:split], slice(a, min(a + step, shape[split])), *whole[split + 1 :]) for a in starts]


def _blocks(
    scan: Scan, volume: int, axis: int, *, one_by_one: bool = False
) -> Iterator[tuple[slice, tuple[slice, ...], np.ndarray]]:
    """Yield k-space of a volume in blocks: coils, part of space, and values (coil, *part) complex64."""
    shape = scan.space_shape
    group = 1 if one_by_one else max(1, _BLOCK // (8 * math.prod(shape)))
    for first in range(0, scan.coils, group):
        channels = slice(first, min(first + group, scan.coils))
        for part in _parts(shape, axis):
            yield channels, part, scan.block(volume, channels, part)


def _inverse(block: np.ndarray, axis: int) -> np.ndarray:
    """Apply the inverse transform to (coil, *space) along one spatial axis."""
    return np.asarray(Fourier((axis - 3,)).adjoint(torch.from_numpy(block)).numpy())


def _write_slab(
    rows: Rows, moved: np.ndarray, channels: slice, part: tuple[slice, ...], axis: int, largest: np.ndarray
) -> None:
    """Write (position, channel, *part of the plane) into rows (position, [set,] channel, *plane)."""
    plane = rows.shape[-2:]
    first, _ = _without(part, axis)
    whole = moved.shape[-2:] == plane
    for position, slab in enumerate(moved):
        slab = np.ascontiguousarray(slab)
        largest[position] = max(largest[position], largest_part(slab))
        for number, values in enumerate([slab] if whole else slab):
            rows.write(position, values, ((channels.start + number) * plane[0] + first.start) * plane[1])


def _without(part: tuple[slice, ...], axis: int) -> tuple[slice, ...]:
    return (*part[:axis], *part[axis + 1 :])


def _start(channels: slice, part: tuple[slice, ...]) -> tuple[int, ...]:
    return (channels.start, *(s.start for s in part))
