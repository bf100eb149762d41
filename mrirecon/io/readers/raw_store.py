"""Raw data as arrays: readouts are fetched, turned, cropped, averaged and put on the grid, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import SignalError
from mrirecon.io.readers.readouts import NOISE, PHASE_CORRECTION, Placement, Plan, Readouts

# A block of images is read at once and kept until another is asked for.
BLOCK = 256 << 20


class RawStore:
    """The arrays `kspace` and, where there is a separate calibration scan, `calibration`, made when asked for.

    Formats differ in `fetch` alone.

    Args:
        path: the file.
        table: its readouts.
        plan: where they go.

    """

    def __init__(self, path: Path, table: Readouts, plan: Plan) -> None:
        self.path, self.table, self.plan = path, table, plan
        self.files: tuple[Path, ...] = (path,)
        kind = np.dtype(np.complex64)
        layout = plan.layout
        self.arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {"kspace": (layout.sizes, kind)}
        if plan.calibration is not None:
            box = tuple(part.stop - part.start for part in plan.box)
            lead = layout.count if layout.shape["slice"] > 1 else 1
            self.arrays["calibration"] = ((lead, layout.shape["coil"], *box), kind)
        self._block: tuple[range, np.ndarray] | None = None
        self._kept: np.ndarray | None = None

    def fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return readouts as measured, each (coil, samples) complex64."""
        raise NotImplementedError

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of readouts one after another."""
        return np.concatenate([values.reshape(-1) for values in self.fetch(rows)])

    def _fetched(self, rows: np.ndarray) -> list[np.ndarray]:
        """Fetch readouts, conjugated where the table says so: before anything else, for a crop is not symmetric."""
        values = self.fetch(rows)
        return [np.conj(one) for one in values] if self.table.conjugate else values

    def _flat(self, rows: np.ndarray) -> np.ndarray:
        values = self.flat(rows)
        return np.conjugate(values, out=values) if self.table.conjugate else values

    def __getstate__(self) -> dict[str, object]:
        # A worker reads its own.
        return {**self.__dict__, "_block": None, "_kept": None}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` cuts out."""
        if name == "calibration":
            return self._calibration()[index]
        layout = self.plan.layout
        loops = layout.loop_shape
        lead, rest = index[: len(loops)], index[len(loops) :]
        first = 0
        if len(lead) == len(loops) and all(isinstance(i, (int, np.integer)) for i in lead):
            first = int(np.ravel_multi_index([int(i) for i in lead if not isinstance(i, slice)], loops))
            return np.asarray(self._item(first)[rest])
        whole = np.stack([self._item(item) for item in range(layout.count)])
        return np.asarray(whole.reshape(layout.sizes)[index])

    def noise(self) -> np.ndarray | None:
        """Return the readouts of the noise scan, (coil, samples) one after another, or None where there is none."""
        rows = self.table.rows(NOISE)
        rows = rows[self.table.coils[rows] == self.plan.layout.shape["coil"]]
        return np.concatenate(self._fetched(rows), axis=1) if rows.size else None

    def sampled(self, item: int) -> np.ndarray:
        """Return where the readouts of an item go, (*space) booleans, each as if it were whole; nothing is read."""
        shape, placed = self.plan.layout.shape, self.plan.image
        here = placed.item == item
        lines = np.zeros((shape.get("z", 1), shape["x"]), dtype=bool)
        lines[placed.partition[here], placed.line[here]] = True
        found = np.broadcast_to(lines[:, None], (len(lines), shape["y"], shape["x"]))
        return found.copy() if "z" in shape else found[0].copy()

    def _item(self, item: int) -> np.ndarray:
        if self._block is None or item not in self._block[0]:
            size = 8 * int(np.prod(self.plan.layout.sizes[len(self.plan.layout.loops) :]))
            count = max(1, BLOCK // max(1, size * self.plan.oversampled // max(1, self.plan.layout.shape["y"])))
            first = item - item % count
            items = range(first, min(first + count, self.plan.layout.count))
            self._block = None
            self._block = (items, self._grid(self.plan.image, items))
        items, block = self._block
        return np.asarray(block[item - items.start])

    def _calibration(self) -> np.ndarray:
        placed = self.plan.calibration
        if placed is None:
            raise KeyError("calibration")
        if self._kept is None:
            whole = self._grid(placed, range(self.plan.layout.shape["slice"]))
            box = np.ascontiguousarray(whole[(slice(None), slice(None), *self.plan.box)])
            # Slices are the last loop: other loops share their calibration.
            self._kept = np.concatenate([box] * (self.arrays["calibration"][0][0] // len(box)))
        return self._kept

    def _grid(self, placed: Placement, items: range) -> np.ndarray:
        """Return some items on the grid, (item, coil, [z,] y, x)."""
        shape = self.plan.layout.shape
        kept, lines, planes = shape["y"], shape["x"], shape.get("z", 1)
        chosen = np.flatnonzero((placed.item >= items.start) & (placed.item < items.stop))
        # Readouts lie one after another here, and along y in what is returned.
        order = self._complete(placed, chosen, (len(items), planes, lines))
        if order is not None:
            whole = self._flat(placed.rows[order]).reshape(len(items), planes, lines, shape["coil"], kept)
            turned = whole.transpose(0, 3, 1, 4, 2)
            return turned if "z" in shape else turned[:, :, 0]
        out = np.zeros((len(items), planes, lines, shape["coil"], kept), dtype=np.complex64)
        times = np.zeros((len(items), planes, lines, kept), dtype=np.float32)
        # Values that are not numbers are the scan's to find and to name.
        with np.errstate(all="ignore"):
            corrections = self._corrections(placed, chosen)
            self._fill(out, times, placed, chosen, corrections, items.start)
        turned = out.transpose(0, 3, 1, 4, 2)
        return turned if "z" in shape else turned[:, :, 0]

    def _complete(self, placed: Placement, chosen: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return readouts in the order of the grid, where each place has one that can stay as it was measured."""
        wide, rows = self.plan.oversampled, placed.rows[chosen]
        if len(chosen) != int(np.prod(shape)) or wide != self.plan.layout.shape["y"]:
            return None
        untouched = (self.table.samples[rows] == wide) & ~self.table.reversed[rows]
        if not untouched.all() or self.table.before[rows].any() or self.table.behind[rows].any():
            return None
        item = placed.item[chosen] - placed.item[chosen].min()
        place = np.ravel_multi_index((item, placed.partition[chosen], placed.line[chosen]), shape)
        order = np.argsort(place, kind="stable")
        return chosen[order] if np.array_equal(place[order], np.arange(len(place))) else None

    def _fill(
        self,
        out: np.ndarray,
        times: np.ndarray,
        placed: Placement,
        chosen: np.ndarray,
        corrections: dict[int, np.ndarray],
        first: int,
    ) -> None:
        """Put readouts into `out` (item, z, x, coil, y), and average where several fall on one place."""
        step = 8 * self.plan.layout.shape["coil"] * self.plan.oversampled
        for part in np.array_split(chosen, max(1, -(-len(chosen) * step // BLOCK))):
            if not part.size:
                continue
            for number, (start, values) in zip(part, self._lines(placed, part, corrections), strict=True):
                place = (placed.item[number] - first, placed.partition[number], placed.line[number])
                stop = start + values.shape[1]
                out[place][:, start:stop] += values
                times[place][start:stop] += 1
        if times.max() > 1:
            out /= np.maximum(times, 1)[:, :, :, None]

    def _lines(
        self, placed: Placement, part: np.ndarray, corrections: dict[int, np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield for each readout where it starts on the cropped grid, and its samples (coil, y) there."""
        wide, kept = self.plan.oversampled, self.plan.layout.shape["y"]
        fetched = self.turned(placed.rows[part])
        for number, values in zip(part, fetched, strict=True):
            start = int(placed.start[number])
            factor = corrections.get(int(number))
            if factor is None and kept == wide:
                yield start, values
                continue
            line = np.zeros((len(values), wide), dtype=np.complex64)
            line[:, start : start + values.shape[1]] = values
            image = to_image(line)
            if factor is not None:
                image *= factor
            first = wide // 2 - kept // 2
            line = to_kspace(image[:, first : first + kept])
            a, b = self._measured(start, start + values.shape[1])
            yield a, line[:, a:b]

    def lines(self, placed: Placement, numbers: np.ndarray) -> np.ndarray:
        """Return some readouts of a placement on the grid, each by itself: (readout, coil, y), 0 where not measured."""
        shape = self.plan.layout.shape
        out = np.zeros((len(numbers), shape["coil"], shape["y"]), dtype=np.complex64)
        with np.errstate(all="ignore"):
            found = self._lines(placed, numbers, self._corrections(placed, numbers))
            for i, (start, values) in enumerate(found):
                out[i, :, start : start + values.shape[1]] = values
        return out

    def turned(self, rows: np.ndarray) -> list[np.ndarray]:
        """Fetch readouts, drop what is to be dropped, and turn those round that were measured backwards."""
        found = []
        for row, values in zip(rows, self._fetched(rows), strict=True):
            stop = values.shape[1] - int(self.table.behind[row])
            kept = values[:, int(self.table.before[row]) : stop]
            found.append(kept[:, ::-1] if self.table.reversed[row] else kept)
        return found

    def _measured(self, start: int, stop: int) -> tuple[int, int]:
        """Return as what range of the cropped readout one of the oversampled readout comes out."""
        wide, kept = self.plan.oversampled, self.plan.layout.shape["y"]
        if start == 0 and stop == wide:
            return 0, kept
        # Cropping in the image smears each end over the samples nearby; those outside are left unmeasured.
        first = -((wide // 2 - start) * kept // wide) + kept // 2
        last = (stop - 1 - wide // 2) * kept // wide + kept // 2
        return max(0, first), min(kept, last + 1)

    def _corrections(self, placed: Placement, chosen: np.ndarray) -> dict[int, np.ndarray]:
        """Return the factor along x for every reversed readout that has lines to correct it by."""
        table, wide = self.table, self.plan.oversampled
        guides = table.rows(PHASE_CORRECTION)
        turned = [int(n) for n in chosen if table.reversed[placed.rows[n]]]
        if not guides.size or not turned:
            return {}
        found: dict[tuple[int, ...], np.ndarray | None] = {}
        result = {}
        for number in turned:
            row = placed.rows[number]
            key = tuple(int(table.counters[name][row]) for name in ("slice", "repetition", "echo", "set", "phase"))
            if key not in found:
                found[key] = self._factor(_matching(table, guides, key), wide)
            factor = found[key]
            if factor is not None:
                result[number] = factor
        return result

    def _factor(self, guides: np.ndarray, wide: int) -> np.ndarray | None:
        table = self.table
        lines: dict[bool, list[np.ndarray]] = {False: [], True: []}
        for row, values in zip(guides, self.turned(guides), strict=True):
            if values.shape[1] > wide:
                return None
            line = np.zeros((len(values), wide), dtype=np.complex64)
            start = self.plan.guides[int(row)]
            line[:, start : start + values.shape[1]] = values
            lines[bool(table.reversed[row])].append(to_image(line))
        if not lines[False] or not lines[True]:
            return None
        offset, slope = linear_phase(_mean(lines[False]), _mean(lines[True]))
        if not np.isfinite([offset, slope]).all():
            raise SignalError(
                "the phase-correction readouts hold values that are not numbers",
                where=str(self.path),
                fix="the file is damaged: copy or export it again",
            )
        return _correction(offset, slope, wide)


def _mean(lines: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(lines[1:], lines[0]) / np.float32(len(lines)))


def _matching(table: Readouts, guides: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Return phase-correction lines of both polarities, of the same slice, repetition and so on, else of the slice."""
    names = ("slice", "repetition", "echo", "set", "phase")
    for depth in (len(names), 2, 1):
        same = np.ones(len(guides), dtype=bool)
        for name, value in zip(names[:depth], key, strict=False):
            same &= table.counters[name][guides] == value
        backwards = table.reversed[guides[same]]
        if backwards.any() and not backwards.all():
            return guides[same]
    return guides[:0]


def to_image(lines: np.ndarray) -> np.ndarray:
    """Return the centred, unitary inverse transform along the last axis, complex64."""
    shifted = np.fft.ifftshift(lines, axes=-1)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=-1, norm="ortho"), axes=-1).astype(np.complex64)


def to_kspace(lines: np.ndarray) -> np.ndarray:
    """Return the centred, unitary transform along the last axis, complex64."""
    shifted = np.fft.ifftshift(lines, axes=-1)
    return np.fft.fftshift(np.fft.fft(shifted, axis=-1, norm="ortho"), axes=-1).astype(np.complex64)


def cut(flat: np.ndarray, sizes: np.ndarray, coils: np.ndarray) -> list[np.ndarray]:
    """Cut readouts, (coil, samples) each, out of one array that holds them one after another."""
    ends = np.cumsum(sizes)
    return [flat[end - n : end].reshape(int(c), -1) for end, n, c in zip(ends, sizes, coils, strict=True)]


def linear_phase(forward: np.ndarray, backward: np.ndarray) -> tuple[float, float]:
    """Estimate by how much reversed readouts differ from forward ones: phase = offset + slope · (x - n // 2).

    Gradient and receiver delays shift a reversed echo against a forward one, and eddy currents turn its phase; in the
    image that leaves a ghost half a field of view away. As in Ahn and Cho (IEEE Trans Med Imaging 6:32, 1987), the
    slope is the phase of the autocorrelation at lag one of the product of both, and the offset is that of its sum once
    the slope is taken off. Both weigh voxels by their signal, and coils by theirs.

    Args:
        forward: (coil, x), readouts without phase encoding, transformed along x; several are averaged beforehand.
        backward: (coil, x), the same with the gradient reversed, turned round before its transform.

    Returns:
        Offset in radians, and slope in radians a voxel; multiply reversed lines by exp(-i · phase).

    """
    product: np.ndarray = (np.conj(forward) * backward).sum(axis=0)
    slope = float(np.angle((np.conj(product[:-1]) * product[1:]).sum()))
    x = np.arange(product.size) - product.size // 2
    return float(np.angle((product * np.exp(-1j * slope * x)).sum())), slope


def _correction(offset: float, slope: float, size: int) -> np.ndarray:
    """Return the factor (x) that takes the phase of `linear_phase` off reversed lines."""
    x = np.arange(size) - size // 2
    factor: np.ndarray = np.exp(-1j * (offset + slope * x)).astype(np.complex64)
    return factor
