"""Assemble arrays from raw data: read, reverse, crop, average and grid readouts, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrirecon.errors import SignalError
from mrirecon.io.readers.readouts import NOISE, PHASE_CORRECTION, Placement, Plan, Readouts
from mrirecon.io.safe.hdf5 import ArrayTypes

# A block of images of at most this many bytes is read at once and kept until another block is requested.
BLOCK = 256 << 20


class RawStore:
    """Assemble `kspace`, and `calibration` of a separate calibration scan, when they are read.

    A format overrides only `flat`.

    Args:
        path: the file.
        table: the readouts of the file.
        plan: the grid of k-space and the position of each readout.

    """

    def __init__(self, path: Path, table: Readouts, plan: Plan) -> None:
        self.path, self.table, self.plan = path, table, plan
        self.files: tuple[Path, ...] = (path,)
        kind = np.dtype(np.complex64)
        layout = plan.layout
        self.arrays: ArrayTypes = {"kspace": (layout.sizes, kind)}
        if plan.calibration is not None:
            box = tuple(part.stop - part.start for part in plan.box)
            lead = layout.count if layout.shape["slice"] > 1 else 1
            self.arrays["calibration"] = ((lead, layout.shape["coil"], *box), kind)
        self._block: tuple[range, np.ndarray] | None = None
        self._calibration: np.ndarray | None = None

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of readouts as measured, one after another, complex64."""
        raise NotImplementedError

    def _samples(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of `flat`, conjugated if the table requires it (before any crop)."""
        values = self.flat(rows)
        return np.conjugate(values, out=values) if self.table.conjugate else values

    def _readouts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return readouts, each (coil, samples)."""
        if not rows.size:
            return []
        coils = self.table.coils[rows]
        parts = np.split(self._samples(rows), np.cumsum(self.table.samples[rows] * coils)[:-1])
        return [part.reshape(int(count), -1) for part, count in zip(parts, coils, strict=True)]

    def __getstate__(self) -> dict[str, object]:
        # A worker process reads its own block.
        return {**self.__dict__, "_block": None, "_calibration": None}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array."""
        if name == "calibration":
            return self._read_calibration()[index]
        layout = self.plan.layout
        lead, rest = index[: len(layout.loops)], index[len(layout.loops) :]
        numbers = [int(i) for i in lead if not isinstance(i, slice)]
        if len(numbers) == len(layout.loops):
            return np.asarray(self._item(int(np.ravel_multi_index(numbers, layout.loop_shape)))[rest])
        whole = np.stack([self._item(item) for item in range(layout.count)])
        return np.asarray(whole.reshape(layout.sizes)[index])

    def noise(self) -> np.ndarray | None:
        """Return the concatenated readouts of the noise scan, (coil, samples), or None."""
        rows = self.table.rows(NOISE)
        rows = rows[self.table.coils[rows] == self.plan.layout.shape["coil"]]
        return np.concatenate(self._readouts(rows), axis=1) if rows.size else None

    def sampled(self, item: int) -> np.ndarray:
        """Return the sampled positions of an item, (*space) booleans, from the headers: readouts count as complete."""
        shape, placed = self.plan.layout.shape, self.plan.image
        of_item = placed.item == item
        lines = np.zeros((shape.get("z", 1), shape["x"]), dtype=bool)
        lines[placed.partition[of_item], placed.line[of_item]] = True
        mask = np.broadcast_to(lines[:, None], (len(lines), shape["y"], shape["x"]))
        return mask.copy() if "z" in shape else mask[0].copy()

    def _item(self, item: int) -> np.ndarray:
        if self._block is None or item not in self._block[0]:
            layout = self.plan.layout
            size = 8 * int(np.prod(layout.sizes[len(layout.loops) :]))
            count = max(1, BLOCK // max(1, size * self.plan.oversampled // max(1, layout.shape["y"])))
            first = item - item % count
            items = range(first, min(first + count, layout.count))
            self._block = None
            self._block = (items, self._grid(self.plan.image, items))
        items, block = self._block
        return np.asarray(block[item - items.start])

    def _read_calibration(self) -> np.ndarray:
        placed = self.plan.calibration
        if placed is None:
            raise KeyError("calibration")
        if self._calibration is None:
            whole = self._grid(placed, range(self.plan.layout.shape["slice"]))
            box = np.ascontiguousarray(whole[(slice(None), slice(None), *self.plan.box)])
            # Slices are the last loop: all other loops share the calibration of a slice.
            self._calibration = np.concatenate([box] * (self.arrays["calibration"][0][0] // len(box)))
        return self._calibration

    def _grid(self, placed: Placement, items: range) -> np.ndarray:
        """Return some items on the grid, (item, coil, [z,] y, x)."""
        shape = self.plan.layout.shape
        lead = (len(items), shape.get("z", 1), shape["x"])
        chosen = np.flatnonzero((placed.item >= items.start) & (placed.item < items.stop))
        # Readouts are contiguous here; in the result they are along y.
        order = self._complete(placed, chosen, lead)
        if order is not None:
            grid = self._samples(placed.rows[order]).reshape(*lead, shape["coil"], shape["y"])
        else:
            grid = np.zeros((*lead, shape["coil"], shape["y"]), dtype=np.complex64)
            with np.errstate(all="ignore"):  # the scan reports NaN later
                self._fill(grid, placed, chosen, items.start)
        grid = grid.transpose(0, 3, 1, 4, 2)
        return grid if "z" in shape else grid[:, :, 0]

    def _complete(self, placed: Placement, chosen: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return readouts in the order of the grid if each position has exactly one, unchanged; else None."""
        wide, rows = self.plan.oversampled, placed.rows[chosen]
        if len(chosen) != int(np.prod(shape)) or wide != self.plan.layout.shape["y"]:
            return None
        unchanged = (self.table.samples[rows] == wide) & ~self.table.reversed[rows]
        if not unchanged.all() or self.table.discard_pre[rows].any() or self.table.discard_post[rows].any():
            return None
        item = placed.item[chosen] - placed.item[chosen].min()
        position = np.ravel_multi_index((item, placed.partition[chosen], placed.line[chosen]), shape)
        order = np.argsort(position, kind="stable")
        return chosen[order] if np.array_equal(position[order], np.arange(len(position))) else None

    def _fill(self, grid: np.ndarray, placed: Placement, chosen: np.ndarray, first: int) -> None:
        """Put readouts into `grid` (item, z, x, coil, y), and average several at the same position."""
        corrections = self._corrections(placed, chosen)
        times = np.zeros((*grid.shape[:3], grid.shape[4]), dtype=np.float32)
        step = 8 * self.plan.layout.shape["coil"] * self.plan.oversampled
        for part in np.array_split(chosen, max(1, -(-len(chosen) * step // BLOCK))):
            if not part.size:
                continue
            for number, (start, values) in zip(part, self._lines(placed, part, corrections), strict=True):
                position = (placed.item[number] - first, placed.partition[number], placed.line[number])
                stop = start + values.shape[1]
                grid[position][:, start:stop] += values
                times[position][start:stop] += 1
        if times.max() > 1:
            grid /= np.maximum(times, 1)[:, :, :, None]

    def _lines(
        self, placed: Placement, part: np.ndarray, corrections: dict[int, np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the start of each readout on the cropped grid, and its samples (coil, y)."""
        wide, narrow = self.plan.oversampled, self.plan.layout.shape["y"]
        for number, values in zip(part, self.forward(placed.rows[part]), strict=True):
            start = int(placed.start[number])
            factor = corrections.get(int(number))
            if factor is None and narrow == wide:
                yield start, values
                continue
            image = to_image(_padded(values, start, wide))
            if factor is not None:
                image *= factor
            first = wide // 2 - narrow // 2
            line = to_kspace(image[:, first : first + narrow])
            a, b = self._measured(start, start + values.shape[1])
            yield a, line[:, a:b]

    def lines(self, placed: Placement, numbers: np.ndarray) -> np.ndarray:
        """Return single readouts of a placement on the grid, (readout, coil, y), 0 where not measured."""
        shape = self.plan.layout.shape
        out = np.zeros((len(numbers), shape["coil"], shape["y"]), dtype=np.complex64)
        with np.errstate(all="ignore"):
            lines = self._lines(placed, numbers, self._corrections(placed, numbers))
            for i, (start, values) in enumerate(lines):
                out[i, :, start : start + values.shape[1]] = values
        return out

    def forward(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return readouts (coil, samples) without discarded samples, reversed ones flipped."""
        readouts = []
        for row, values in zip(rows, self._readouts(rows), strict=True):
            valid = values[:, int(self.table.discard_pre[row]) : values.shape[1] - int(self.table.discard_post[row])]
            readouts.append(valid[:, ::-1] if self.table.reversed[row] else valid)
        return readouts

    def _measured(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of the cropped readout for a range of the oversampled readout."""
        wide, narrow = self.plan.oversampled, self.plan.layout.shape["y"]
        if start == 0 and stop == wide:
            return 0, narrow
        # A crop in the image spreads each end over nearby samples; samples outside count as not measured.
        first = -((wide // 2 - start) * narrow // wide) + narrow // 2
        last = (stop - 1 - wide // 2) * narrow // wide + narrow // 2
        return max(0, first), min(narrow, last + 1)

    def _corrections(self, placed: Placement, chosen: np.ndarray) -> dict[int, np.ndarray]:
        """Return the correction factor along the readout for each reversed readout with phase-correction lines."""
        table = self.table
        guides = table.rows(PHASE_CORRECTION)
        factors: dict[tuple[int, ...], np.ndarray | None] = {}
        result = {}
        for number in chosen[table.reversed[placed.rows[chosen]]].tolist() if guides.size else ():
            row = placed.rows[number]
            key = tuple(int(table.counters[name][row]) for name in _CORRECTED_BY)
            if key not in factors:
                factors[key] = self._factor(_matching(table, guides, key))
            factor = factors[key]
            if factor is not None:
                result[number] = factor
        return result

    def _factor(self, guides: np.ndarray) -> np.ndarray | None:
        wide = self.plan.oversampled
        lines: dict[bool, list[np.ndarray]] = {False: [], True: []}
        for row, values in zip(guides, self.forward(guides), strict=True):
            if values.shape[1] > wide:
                return None
            line = to_image(_padded(values, self.plan.guides[int(row)], wide))
            lines[bool(self.table.reversed[row])].append(line)
        if not lines[False] or not lines[True]:
            return None
        forward, backward = (np.asarray(sum(part[1:], part[0]) / np.float32(len(part))) for part in lines.values())
        offset, slope = linear_phase(forward, backward)
        if not np.isfinite([offset, slope]).all():
            raise SignalError(
                "the phase-correction readouts hold NaN or infinite values",
                where=str(self.path),
                fix="the file is damaged: copy or export it again",
            )
        factor: np.ndarray = np.exp(-1j * (offset + slope * (np.arange(wide) - wide // 2))).astype(np.complex64)
        return factor


_CORRECTED_BY = ("slice", "repetition", "echo", "set", "phase")


def _matching(table: Readouts, guides: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Return phase-correction lines of both directions with the same counters, else of the same slice, else none."""
    for depth in (len(_CORRECTED_BY), 2, 1):
        same = np.ones(len(guides), dtype=bool)
        for name, value in zip(_CORRECTED_BY[:depth], key, strict=False):
            same &= table.counters[name][guides] == value
        backwards = table.reversed[guides[same]]
        if backwards.any() and not backwards.all():
            return guides[same]
    return guides[:0]


def linear_phase(forward: np.ndarray, backward: np.ndarray) -> tuple[float, float]:
    """Estimate the phase difference of reversed and forward readouts: phase = offset + slope · (x - n // 2).

    Gradient and receiver delays shift a reversed echo relative to a forward one, and eddy currents change its phase.
    The image then has a ghost at half the field of view. As in Ahn and Cho (IEEE Trans Med Imaging 6:32, 1987), the
    slope is the phase of the autocorrelation at lag one of the product of both; the offset is the phase of the sum of
    this product after the slope is removed. Both are weighted by the signal of voxels and coils.

    Args:
        forward: (coil, x), readouts without phase encoding, transformed along x; several must be averaged before.
        backward: (coil, x), the same with the gradient reversed, flipped before the transform.

    Returns:
        Offset in radians, and slope in radians per voxel; multiply reversed lines by exp(-i · phase).

    """
    product: np.ndarray = (np.conj(forward) * backward).sum(axis=0)
    slope = float(np.angle((np.conj(product[:-1]) * product[1:]).sum()))
    x = np.arange(product.size) - product.size // 2
    return float(np.angle((product * np.exp(-1j * slope * x)).sum())), slope


def _padded(values: np.ndarray, start: int, size: int) -> np.ndarray:
    """Put readouts (coil, samples) on a grid of `size` samples, zero elsewhere."""
    line = np.zeros((len(values), size), dtype=np.complex64)
    line[:, start : start + values.shape[1]] = values
    return line


def to_image(lines: np.ndarray) -> np.ndarray:
    """Return the centred, unitary inverse Fourier transform along the last axis, complex64."""
    shifted = np.fft.ifftshift(lines, axes=-1)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=-1, norm="ortho"), axes=-1).astype(np.complex64)


def to_kspace(lines: np.ndarray) -> np.ndarray:
    """Return the centred, unitary Fourier transform along the last axis, complex64."""
    shifted = np.fft.ifftshift(lines, axes=-1)
    return np.fft.fftshift(np.fft.fft(shifted, axis=-1, norm="ortho"), axes=-1).astype(np.complex64)
