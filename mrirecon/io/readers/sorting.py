"""Sort readouts: which make the image, which calibrate, where each goes, and what there is to tell about it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import MAX_ITEMS, make_layout
from mrirecon.io.readers.auxiliary import assign_phase_lines, cropped, first_of_loops, place_calibration
from mrirecon.io.readers.echo import echoes
from mrirecon.io.readers.readouts import (
    BOTH,
    CALIBRATION,
    IMAGE,
    LOOPED,
    Encoding,
    Placement,
    Plan,
    Readouts,
    describe_counts,
    span,
)
from mrirecon.io.safe.limits import READ_LIMIT, refuse_bomb
from mrirecon.io.scan import Layout

_LARGEST = 1 << 14


def plan(table: Readouts, encodings: list[Encoding], path: Path, notes: list[str]) -> Plan:
    """Conclude the grid and the place of every readout on it; what was concluded is added to `notes`.

    Lines and partitions are placed by the counter that the header names as the centre of k-space, and readouts by the
    sample at which the echo lies, so that partial Fourier and asymmetric echoes leave gaps where nothing was measured.

    Args:
        table: the readouts.
        encodings: what the header says, one for each `Readouts.encoding`.
        path: the file, for messages.
        notes: what there is to tell, added to.

    Raises:
        InputError: no imaging readouts, several coil counts, lines or samples outside the matrix.

    """
    image = table.rows(IMAGE, BOTH)
    if not image.size:
        raise InputError(
            f"{path} holds no imaging readouts",
            why=describe_counts(table.counts()) or "it holds no readouts",
            fix="name the file of the scan itself; readouts of which every sample is to be discarded count as other",
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
    kept, fov = _removed(encoding, grid[0], notes)
    placed = _place(table, image, grid, centres, sizes, path, notes)
    volume = grid[2] > 1
    axes = (*loops, "coil", *(("z",) if volume else ()), "y", "x")
    shape = (*(sizes[name] for name in loops), coils, *((grid[2],) if volume else ()), kept, grid[1])
    layout = make_layout(axes, shape, str(path))
    one = 8 * coils * math.prod(grid)
    refuse_bomb(one, 8 * int((table.samples * table.coils)[image].sum()), READ_LIMIT, f"an image of {path}")
    _tell(table, placed, grid, encoding, layout, notes)
    separate = first_of_loops(table, separate, notes)
    calibration, box = place_calibration(
        table, separate, encodings, grid, centres, number, coils, sizes["slice"], path, notes
    )
    # Lines beyond the header's matrix make voxels finer, not the field of view larger.
    whole = (fov, encoding.fov_mm[1], encoding.fov_mm[2])
    box = tuple(cropped(part, grid[0], kept) if i == len(box) - 2 else part for i, part in enumerate(box))
    return Plan(layout, grid[0], placed, calibration, box, whole, assign_phase_lines(table, grid[0], path))


def _one(values: np.ndarray, name: str, path: Path) -> int:
    first, last = span(values)
    if first != last or first < 1:
        raise InputError(f"the readouts of {path} differ in {name}", why=f"from {first} to {last}")
    return first


def _centres(table: Readouts, rows: np.ndarray, encoding: Encoding, notes: list[str]) -> tuple[int | None, int, int]:
    """Return the echo's sample (None: as each readout says), and the counters of the central line and partition."""
    # Writers that leave a field empty leave it 0. An echo at the first sample of a full readout, or a centre before
    # which no line lies though the lines fill the matrix, is such a field.
    echo = None
    if not table.centre[rows].any() and (table.samples[rows] > 1).all():
        echo = 0
        notes.append("the header does not say at which sample the echo lies: taken as the middle of each readout")
    found = []
    for name, stated, size in (
        ("line", encoding.line_centre, encoding.matrix[1]),
        ("partition", encoding.partition_centre, encoding.matrix[2]),
    ):
        last = int(table.counters[name][rows].max())
        if stated is None or (stated == 0 and last >= max(1, size - size // 2)):
            stated = max(size, last + 1) // 2
            if last:
                notes.append(f"the header does not say which {name} is the centre of k-space: taken as {stated}")
        found.append(stated)
    return echo, found[0], found[1]


def _grid(
    table: Readouts,
    rows: np.ndarray,
    encoding: Encoding,
    centres: tuple[int | None, int, int],
    path: Path,
    notes: list[str],
) -> tuple[int, int, int]:
    """Return the size of the grid along readout, lines and partitions: the header's, or what the readouts need."""
    grid = list(encoding.matrix)
    for axis, name in ((1, "line"), (2, "partition")):
        first, last = span(table.counters[name][rows])
        centre = centres[axis] or 0
        below, above = centre - first, last - centre
        if below > grid[axis] // 2 or above > grid[axis] - 1 - grid[axis] // 2:
            # The smallest even or odd size whose index n // 2 has so many on either side.
            need = max(1, min(2 * max(below, above + 1), 2 * max(below, above) + 1))
            notes.append(f"{name}s {first} to {last} do not fit the header's {grid[axis]}: the grid has {need}")
            grid[axis] = need
    if max(grid) > _LARGEST or min(grid) < 1:
        raise InputError(f"{path} has a matrix of {grid[0]} x {grid[1]} x {grid[2]}", why=f"the limit is {_LARGEST}")
    longest = int((table.samples - table.before - table.behind)[rows].max())
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


def _removed(encoding: Encoding, samples: int, notes: list[str]) -> tuple[int, float]:
    """Return the readout's length without oversampling, and its field of view in mm."""
    fov, wanted = encoding.fov_mm[0], encoding.image_fov_mm[0]
    kept = samples * wanted / fov if fov > 0 else samples
    if kept > samples * (1 - 1e-3):
        return samples, fov
    if abs(kept - round(kept)) > 0.05 or round(kept) < 2:
        notes.append(f"the readout covers {fov:g} mm for an image of {wanted:g} mm: kept, for no whole crop fits")
        return samples, fov
    notes.append(
        f"readout oversampling removed: {samples} samples over {fov:g} mm, cropped in the image to {round(kept)} over "
        f"{wanted:g} mm"
    )
    return round(kept), wanted


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
    kept = table.samples[rows] - table.before[rows] - table.behind[rows]
    echo = echoes(table, rows, grid[0], centres[0] is not None, path, notes)
    start = grid[0] // 2 - echo
    for values, size, name in ((line, grid[1], "line"), (partition, grid[2], "partition")):
        if (values < 0).any() or (values >= size).any():
            raise InputError(
                f"a {name} of {path} lies outside its matrix",
                why=f"index {int(values.min())} to {int(values.max())} of {size}",
                fix="the header is wrong: convert the raw data again",
            )
    if (start < 0).any() or (start + kept > grid[0]).any():
        bad = int(np.flatnonzero((start < 0) | (start + kept > grid[0]))[0])
        raise InputError(
            f"a readout of {path} lies outside its matrix",
            why=f"readout {rows[bad]}: {kept[bad]} samples, echo at {echo[bad]}, in a matrix of {grid[0]}",
            fix="the header is wrong: convert the raw data again",
        )
    item = np.zeros(len(rows), dtype=np.int64)
    for name in LOOPED:
        item = item * sizes[name] + np.minimum(table.counters[name][rows], sizes[name] - 1)
    return Placement(rows, item, line, partition, start)


def _tell(
    table: Readouts,
    placed: Placement,
    grid: tuple[int, int, int],
    encoding: Encoding,
    layout: Layout,
    notes: list[str],
) -> None:
    place = (placed.item * grid[2] + placed.partition) * grid[1] + placed.line
    _, times = np.unique(place, return_counts=True)
    repeated = int((times - 1).sum())
    if repeated:
        averages = int(table.counters["average"][placed.rows].max()) + 1
        _, once = np.unique(place * averages + table.counters["average"][placed.rows], return_counts=True)
        same = int((once - 1).sum())
        if repeated - same:
            notes.append(f"{averages} averages: {repeated - same} readouts averaged with others of the same place")
        if same:
            notes.append(f"{same} readouts measured twice (same counters): averaged")
    for name, values, size in (("lines", placed.line, grid[1]), ("partitions", placed.partition, grid[2])):
        first, last = span(values)
        # The first index may lie one further from the centre than the last.
        below, above = size // 2 - first, last - size // 2 + 1
        known = np.unique(values)
        gap = int(np.diff(known).max(initial=1))
        if size > 1 and len(known) > 1 and max(first, size - 1 - last) > gap:
            what = "partial Fourier" if abs(below - above) > max(2, size // 32) else "the outer ones not measured"
            notes.append(f"{what}: {name} {first} to {last} of {size}")
    kept = (table.samples - table.before - table.behind)[placed.rows]
    starts, stops = span(placed.start), span(placed.start + kept)
    if starts[1] > 0 or stops[0] < grid[0]:
        said = f"samples {starts[0]} to {stops[1] - 1} of {grid[0]} measured"
        notes.append(f"asymmetric echo or short readout: {said}")
    turned = int(table.reversed[placed.rows].sum())
    if turned:
        notes.append(f"{turned} readouts were measured backwards and are turned round")
    empty = layout.count - len(np.unique(placed.item))
    if empty:
        notes.append(f"{empty} of {layout.count} images have no readouts: the scan seems to be incomplete")
    ratio = encoding.image_fov_mm[1] / encoding.fov_mm[1] if encoding.fov_mm[1] > 0 else 1
    if ratio < 0.999:
        notes.append(
            f"phase oversampling kept: the image covers {encoding.fov_mm[1]:g} mm along phase, the scanner shows "
            f"{encoding.image_fov_mm[1]:g} mm"
        )
