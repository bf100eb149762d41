"""Readouts that help the image and are not part of it: where those of calibration and phase correction go."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.echo import echoes
from mrirecon.io.readers.readouts import LOOPED, PHASE_CORRECTION, Encoding, Placement, Readouts


def place_guides(table: Readouts, samples: int, path: Path) -> dict[int, int]:
    """Return where phase-correction readouts start, by their rows: with their echo in the centre, as in the image.

    Where their header does not say where the echo lies, or says what cannot be, it is taken as the middle.
    """
    rows = table.rows(PHASE_CORRECTION)
    if not rows.size:
        return {}
    kept = (table.samples - table.before - table.behind)[rows]
    start = samples // 2 - kept // 2
    if table.centre[rows].all():
        with suppress(InputError):
            stated = samples // 2 - echoes(table, rows, samples, False, path, [])
            if (stated >= 0).all() and (stated + kept <= samples).all():
                start = stated
    return dict(zip(rows.tolist(), start.tolist(), strict=True))


def first_of_loops(table: Readouts, rows: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return the calibration readouts of one echo, repetition, set and phase: those of others could cancel them."""
    kept = np.ones(len(rows), dtype=bool)
    for name in LOOPED:
        if name != "slice" and rows.size:
            values = table.counters[name][rows]
            kept &= values == values[kept].min()
    if not kept.all():
        notes.append(f"{np.count_nonzero(~kept)} calibration readouts of further echoes or repetitions are not used")
    return rows[kept]


def place_calibration(
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
    """Place a separate calibration scan on the grid of the image, and find the box around the centre that it fills."""
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
    kept = table.samples[rows] - table.before[rows] - table.behind[rows]
    try:
        echo = echoes(table, rows, grid[0], centres[0] is not None, path, notes)
    except InputError as error:
        notes.append(f"{rows.size} calibration readouts are not used: {error.what}")
        return None, ()
    start = grid[0] // 2 - echo
    inside = (line >= 0) & (line < grid[1]) & (partition >= 0) & (partition < grid[2])
    item = table.counters["slice"][rows]
    inside &= (start >= 0) & (start + kept <= grid[0]) & (item < slices)
    full = np.zeros((slices, grid[2], grid[1]), dtype=bool)
    full[item[inside], partition[inside], line[inside]] = True
    common: np.ndarray = np.asarray(full.all(axis=0))
    # The central lines of the central partition, and the partitions that hold all of them.
    lines = _around(common[grid[2] // 2], grid[1] // 2)
    planes = _around(np.asarray(common[:, lines].all(axis=1)), grid[2] // 2) if grid[2] > 1 else slice(0, 1)
    low, high = int(start[inside].max(initial=0)), int((start + kept)[inside].min(initial=grid[0]))
    half = min(grid[0] // 2 - low, high - grid[0] // 2)
    if lines.stop - lines.start < 2 or half < 1:
        notes.append(f"{rows.size} calibration readouts are not used: they do not fill the centre of k-space")
        return None, ()
    notes.append(f"{rows.size} readouts of a separate calibration scan: {lines.stop - lines.start} central lines")
    placed = Placement(rows[inside], item[inside], line[inside], partition[inside], start[inside])
    readout = slice(grid[0] // 2 - half, grid[0] // 2 + half)
    return placed, (*((planes,) if grid[2] > 1 else ()), readout, lines)


def _around(there: np.ndarray, centre: int) -> slice:
    """Return the largest even range around the centre in which everything is there."""
    half = 0
    while centre - half - 1 >= 0 and centre + half < len(there) and there[centre - half - 1] and there[centre + half]:
        half += 1
    return slice(centre - half, centre + half)


def cropped(part: slice, samples: int, kept: int) -> slice:
    """Return a range of the oversampled readout as one of the cropped one, both around the centre."""
    half = int((samples // 2 - part.start) * kept / samples)
    return slice(kept // 2 - half, kept // 2 + half)
