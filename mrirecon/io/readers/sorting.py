"""Sort readouts: find those of the image and of calibration, and the position of each on the grid of k-space."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import MAX_ITEMS, make_layout
from mrirecon.io.readers.echo_centre import echoes
from mrirecon.io.readers.readouts import (
    BOTH,
    CALIBRATION,
    IMAGE,
    LOOPED,
    PHASE_CORRECTION,
    Encoding,
    Placement,
    Plan,
    Readouts,
    describe_counts,
    span,
)
from mrirecon.io.safe.hdf5 import READ_LIMIT, refuse_bomb
from mrirecon.io.scan import Layout

_LARGEST = 1 << 14


def make_plan(table: Readouts, encodings: list[Encoding], path: Path, notes: list[str]) -> Plan:
    """Return the grid, and the position of every readout on it.

    Lines and partitions are placed relative to the counter that the header states as the centre of k-space, and
    samples of a readout relative to the echo. Partial Fourier and asymmetric echoes so leave unmeasured parts empty.

    Args:
        table: the readouts.
        encodings: encodings of the header, one for each `Readouts.encoding`.
        path: the file, for messages.
        notes: list to which conclusions are added.

    Raises:
        InputError: no imaging readouts, different numbers of coils, lines or samples outside the matrix.

    """
    image = table.rows(IMAGE, BOTH)
    if not image.size:
        raise InputError(
            f"{path} holds no imaging readouts",
            why=describe_counts(table.counts()) or "it holds no readouts",
            fix="give the file of the scan itself; readouts without valid samples do not count",
        )
    number = int(table.encoding[image[0]])
    others = image[table.encoding[image] != number]
    if others.size:
        notes.append(f"{others.size} imaging readouts of another encoding are not used")
        image = image[table.encoding[image] == number]
    if not 0 <= number < len(encodings):
        raise InputError(f"the header of {path} lacks encoding {number}, to which its readouts belong")
    encoding = encodings[number]
    separate = table.rows(CALIBRATION)
    if separate.size and encoding.embedded:
        notes.append(f"{separate.size} calibration lines belong to the image too (embedded calibration)")
        image, separate = np.union1d(image, separate), separate[:0]
    coils = _one(table.coils[image], "coils", path)
    centres = _centres(table, image, encoding, notes)
    grid = _grid(table, image, encoding, centres, path, notes)
    sizes, loops = _loops(table, image, path)
    readout, fov = _without_oversampling(encoding, grid[0], notes)
    placed = _place(table, image, grid, centres, sizes, path, notes)
    volume = grid[2] > 1
    axes = (*loops, "coil", *(("z",) if volume else ()), "y", "x")
    shape = (*(sizes[name] for name in loops), coils, *((grid[2],) if volume else ()), readout, grid[1])
    layout = make_layout(axes, shape, str(path))
    one = 8 * coils * math.prod(grid)
    refuse_bomb(one, 8 * int((table.samples * table.coils)[image].sum()), READ_LIMIT, f"an image of {path}")
    _note_coverage(table, placed, grid, encoding, layout, notes)
    separate = _first_of_loops(table, separate, notes)
    calibration, box = _place_calibration(
        table, separate, encodings, grid, centres, number, coils, sizes["slice"], path, notes
    )
    # Lines beyond the matrix of the header make voxels smaller; the field of view does not change.
    whole = (fov, encoding.fov_mm[1], encoding.fov_mm[2])
    box = tuple(_cropped(part, grid[0], readout) if i == len(box) - 2 else part for i, part in enumerate(box))
    return Plan(layout, grid[0], placed, calibration, box, whole, _assign_phase_lines(table, grid[0], path))


def _one(values: np.ndarray, name: str, path: Path) -> int:
    first, last = span(values)
    if first != last or first < 1:
        raise InputError(f"the readouts of {path} differ in {name}", why=f"from {first} to {last}")
    return first


def _centres(table: Readouts, rows: np.ndarray, encoding: Encoding, notes: list[str]) -> tuple[int | None, int, int]:
    """Return the sample of the echo (None: stated per readout), and the counters of the central line and partition."""
    # An empty field of a header is 0. So 0 counts as empty for the echo of a full readout, and for the central line if
    # the lines fill the upper half of the matrix.
    echo = None
    if not table.centre[rows].any() and (table.samples[rows] > 1).all():
        echo = 0
        notes.append("the header does not state the sample of the echo: taken as the middle of each readout")
    counters = []
    for name, stated, size in (
        ("line", encoding.line_centre, encoding.matrix[1]),
        ("partition", encoding.partition_centre, encoding.matrix[2]),
    ):
        last = int(table.counters[name][rows].max())
        if stated is None or (stated == 0 and last >= max(1, size - size // 2)):
            stated = max(size, last + 1) // 2
            if last:
                notes.append(f"the header does not state which {name} is the centre of k-space: taken as {stated}")
        counters.append(stated)
    return echo, counters[0], counters[1]


def _grid(
    table: Readouts,
    rows: np.ndarray,
    encoding: Encoding,
    centres: tuple[int | None, int, int],
    path: Path,
    notes: list[str],
) -> tuple[int, int, int]:
    """Return the size of the grid along readout, lines and partitions: that of the header, or larger if needed."""
    grid = list(encoding.matrix)
    for axis, name in ((1, "line"), (2, "partition")):
        first, last = span(table.counters[name][rows])
        centre = centres[axis] or 0
        below, above = centre - first, last - centre
        if below > grid[axis] // 2 or above > grid[axis] - 1 - grid[axis] // 2:
            # The smallest size n for which all indices lie within 0 and n - 1 when the centre is at n // 2.
            need = max(1, min(2 * max(below, above + 1), 2 * max(below, above) + 1))
            notes.append(f"{name}s {first} to {last} do not fit the header's {grid[axis]}: the grid has {need}")
            grid[axis] = need
    if max(grid) > _LARGEST or min(grid) < 1:
        raise InputError(f"{path} has a matrix of {grid[0]} x {grid[1]} x {grid[2]}", why=f"the limit is {_LARGEST}")
    longest = int(table.valid[rows].max())
    if longest > grid[0]:
        raise InputError(
            f"the readouts of {path} do not fit its matrix",
            why=f"{longest} samples in a readout, {grid[0]} in the header",
            fix="the header is wrong, or the trajectory is not Cartesian",
        )
    return grid[0], grid[1], grid[2]


def _loops(table: Readouts, rows: np.ndarray, path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    sizes = {name: int(table.counters[name][rows].max()) + 1 for name in LOOPED}
    if math.prod(sizes.values()) > MAX_ITEMS:
        raise InputError(f"{path} has {math.prod(sizes.values())} images", why=f"the limit is {MAX_ITEMS}")
    return sizes, tuple(name for name in LOOPED if sizes[name] > 1 or name == "slice")


def _without_oversampling(encoding: Encoding, samples: int, notes: list[str]) -> tuple[int, float]:
    """Return the length of the readout without oversampling, and its field of view in mm."""
    fov, wanted = encoding.fov_mm[0], encoding.image_fov_mm[0]
    size = samples * wanted / fov if fov > 0 else samples
    if size > samples * (1 - 1e-3):
        return samples, fov
    if abs(size - round(size)) > 0.05 or round(size) < 2:
        notes.append(
            f"the readout covers {fov:g} mm for an image of {wanted:g} mm: "
            "not cropped, because the size would not be a whole number"
        )
        return samples, fov
    notes.append(
        f"readout oversampling removed: {samples} samples over {fov:g} mm, cropped in the image to {round(size)} over "
        f"{wanted:g} mm"
    )
    return round(size), wanted


def _place(
    table: Readouts,
    rows: np.ndarray,
    grid: tuple[int, int, int],
    centres: tuple[int | None, int, int],
    sizes: dict[str, int],
    path: Path,
    notes: list[str],
) -> Placement:
    line = table.counters["line"][rows] - centres[1] + grid[1] // 2
    partition = table.counters["partition"][rows] - centres[2] + grid[2] // 2
    lengths = table.valid[rows]
    echo = echoes(table, rows, grid[0], centres[0] is not None, path, notes)
    start = grid[0] // 2 - echo
    for values, size, name in ((line, grid[1], "line"), (partition, grid[2], "partition")):
        if (values < 0).any() or (values >= size).any():
            raise InputError(
                f"a {name} of {path} is outside its matrix",
                why=f"index {int(values.min())} to {int(values.max())} of {size}",
                fix="the header is wrong: convert the raw data again",
            )
    if (start < 0).any() or (start + lengths > grid[0]).any():
        bad = int(np.flatnonzero((start < 0) | (start + lengths > grid[0]))[0])
        raise InputError(
            f"a readout of {path} is outside its matrix",
            why=f"readout {rows[bad]}: {lengths[bad]} samples, echo at {echo[bad]}, in a matrix of {grid[0]}",
            fix="the header is wrong: convert the raw data again",
        )
    item = np.zeros(len(rows), dtype=np.int64)
    for name in LOOPED:
        item = item * sizes[name] + np.minimum(table.counters[name][rows], sizes[name] - 1)
    return Placement(rows, item, line, partition, start)


def _note_coverage(
    table: Readouts,
    placed: Placement,
    grid: tuple[int, int, int],
    encoding: Encoding,
    layout: Layout,
    notes: list[str],
) -> None:
    position = (placed.item * grid[2] + placed.partition) * grid[1] + placed.line
    _, times = np.unique(position, return_counts=True)
    repeated = int((times - 1).sum())
    if repeated:
        averages = int(table.counters["average"][placed.rows].max()) + 1
        _, once = np.unique(position * averages + table.counters["average"][placed.rows], return_counts=True)
        same = int((once - 1).sum())
        if repeated - same:
            notes.append(f"{averages} averages: {repeated - same} readouts averaged with others at the same position")
        if same:
            notes.append(f"{same} readouts measured twice (same counters): averaged")
    for name, values, size in (("lines", placed.line, grid[1]), ("partitions", placed.partition, grid[2])):
        first, last = span(values)
        # The first index may be one farther from the centre than the last.
        below, above = size // 2 - first, last - size // 2 + 1
        known = np.unique(values)
        gap = int(np.diff(known).max(initial=1))
        if size > 1 and len(known) > 1 and max(first, size - 1 - last) > gap:
            what = "partial Fourier" if abs(below - above) > max(2, size // 32) else "the outer ones not measured"
            notes.append(f"{what}: {name} {first} to {last} of {size}")
    lengths = table.valid[placed.rows]
    starts, stops = span(placed.start), span(placed.start + lengths)
    if starts[1] > 0 or stops[0] < grid[0]:
        notes.append(f"asymmetric echo or short readout: samples {starts[0]} to {stops[1] - 1} of {grid[0]} measured")
    reversed_count = int(table.reversed[placed.rows].sum())
    if reversed_count:
        notes.append(f"{reversed_count} readouts were measured backwards and are flipped")
    empty = layout.count - len(np.unique(placed.item))
    if empty:
        notes.append(f"{empty} of {layout.count} images have no readouts: the scan seems to be incomplete")
    ratio = encoding.image_fov_mm[1] / encoding.fov_mm[1] if encoding.fov_mm[1] > 0 else 1
    if ratio < 0.999:
        notes.append(
            f"phase oversampling kept: the image covers {encoding.fov_mm[1]:g} mm along phase, the scanner shows "
            f"{encoding.image_fov_mm[1]:g} mm"
        )


def _assign_phase_lines(table: Readouts, samples: int, path: Path) -> dict[int, int]:
    """Return the first sample of phase-correction readouts by row, so that their echo is in the centre.

    If their header states no echo, or an impossible one, the middle of the readout is used.
    """
    rows = table.rows(PHASE_CORRECTION)
    if not rows.size:
        return {}
    lengths = table.valid[rows]
    start = samples // 2 - lengths // 2
    if table.centre[rows].all():
        with suppress(InputError):
            stated = samples // 2 - echoes(table, rows, samples, False, path, [])
            if (stated >= 0).all() and (stated + lengths <= samples).all():
                start = stated
    return dict(zip(rows.tolist(), start.tolist(), strict=True))


def _first_of_loops(table: Readouts, rows: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return the calibration readouts of the first echo, repetition, set and phase: a mean of several could cancel."""
    selected = np.ones(len(rows), dtype=bool)
    for name in LOOPED:
        if name != "slice" and rows.size:
            values = table.counters[name][rows]
            selected &= values == values[selected].min()
    if not selected.all():
        notes.append(
            f"{np.count_nonzero(~selected)} calibration readouts of further echoes or repetitions are not used"
        )
    return rows[selected]


def _place_calibration(
    table: Readouts,
    rows: np.ndarray,
    encodings: list[Encoding],
    grid: tuple[int, int, int],
    centres: tuple[int | None, int, int],
    number: int,
    coils: int,
    slices: int,
    path: Path,
    notes: list[str],
) -> tuple[Placement | None, tuple[slice, ...]]:
    """Place a separate calibration scan on the grid of the image, and find the fully sampled box around its centre."""
    if not rows.size:
        return None, ()
    which = int(table.encoding[rows[0]])
    image, own = encodings[number], encodings[which] if 0 <= which < len(encodings) else encodings[number]
    unfit = (table.coils[rows] != coils).any() or (table.encoding[rows] != which).any()
    unfit = unfit or any(abs(a - b) > 1e-2 * b for a, b in zip(own.fov_mm[:2], image.fov_mm[:2], strict=True))
    if unfit:
        notes.append(f"{rows.size} calibration readouts are not used: another field of view, or other coils")
        return None, ()
    line_centre, partition_centre = centres[1], centres[2]
    if which != number:
        line_centre = own.line_centre if own.line_centre is not None else own.matrix[1] // 2
        partition_centre = own.partition_centre if own.partition_centre is not None else own.matrix[2] // 2
    line = table.counters["line"][rows] - line_centre + grid[1] // 2
    partition = table.counters["partition"][rows] - partition_centre + grid[2] // 2
    lengths = table.valid[rows]
    try:
        echo = echoes(table, rows, grid[0], centres[0] is not None, path, notes)
    except InputError as error:
        notes.append(f"{rows.size} calibration readouts are not used: {error.what}")
        return None, ()
    start = grid[0] // 2 - echo
    inside = (line >= 0) & (line < grid[1]) & (partition >= 0) & (partition < grid[2])
    item = table.counters["slice"][rows]
    inside &= (start >= 0) & (start + lengths <= grid[0]) & (item < slices)
    full = np.zeros((slices, grid[2], grid[1]), dtype=bool)
    full[item[inside], partition[inside], line[inside]] = True
    common: np.ndarray = np.asarray(full.all(axis=0))
    # Take the central lines of the central partition, and the partitions that hold all of these lines.
    lines = _around(common[grid[2] // 2], grid[1] // 2)
    planes = _around(np.asarray(common[:, lines].all(axis=1)), grid[2] // 2) if grid[2] > 1 else slice(0, 1)
    low, high = int(start[inside].max(initial=0)), int((start + lengths)[inside].min(initial=grid[0]))
    half = min(grid[0] // 2 - low, high - grid[0] // 2)
    if lines.stop - lines.start < 2 or half < 1:
        notes.append(f"{rows.size} calibration readouts are not used: they do not fill the centre of k-space")
        return None, ()
    notes.append(f"{rows.size} readouts of a separate calibration scan: {lines.stop - lines.start} central lines")
    placed = Placement(rows[inside], item[inside], line[inside], partition[inside], start[inside])
    readout = slice(grid[0] // 2 - half, grid[0] // 2 + half)
    return placed, (*((planes,) if grid[2] > 1 else ()), readout, lines)


def _around(full: np.ndarray, centre: int) -> slice:
    """Return the largest even range around the centre in which all values are true."""
    half = 0
    while centre - half - 1 >= 0 and centre + half < len(full) and full[centre - half - 1] and full[centre + half]:
        half += 1
    return slice(centre - half, centre + half)


def _cropped(part: slice, samples: int, readout: int) -> slice:
    """Convert a range around the centre of the oversampled readout to a range of the cropped readout."""
    half = int((samples // 2 - part.start) * readout / samples)
    return slice(readout // 2 - half, readout // 2 + half)
