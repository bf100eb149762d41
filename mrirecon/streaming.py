"""Walk through a scan item by item, or through its volumes slice by slice, and hold no more than is being worked on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, MriReconError
from mrirecon.hybrid import Slices, slices
from mrirecon.io import Scan
from mrirecon.io.scratch import Rows, scratch_folders

Solve = Callable[[Scan, Sequence[int]], list[np.ndarray]]  # (scan, items) to images (*space) complex64
Told = Callable[[int, int], None]  # (items done, items)


def example(scan: Scan, options: Mapping[str, object] | None, scratch: Sequence[Path] | None) -> tuple[Scan, int]:
    """Return a scan and the item of it that stands for all: item 0, or the middle slice of the first volume, spooled.

    Args:
        scan: what is to be reconstructed.
        options: of the method, see `mrirecon.hybrid.slices`.
        scratch: folders for temporary files; None takes the system's.

    """
    found = slices(scan, 0, options)
    if found is None:
        return scan, 0
    if found.spool(_folders(scratch)):
        return found, len(found) // 2
    scan.note(f"the mask is constant along {found.readout}, but not every coil's data: solved as a volume")
    return scan, 0


def images(
    scan: Scan,
    first: Scan,
    solve: Solve,
    *,
    size: int = 1,
    scratch: Sequence[Path] | None = None,
    progress: Told | None = None,
) -> tuple[np.ndarray, list[float]]:
    """Reconstruct a scan, and return its images (item, *space) complex64 and the seconds of each item or slice.

    Args:
        scan: the scan.
        first: what `example` returned for it.
        solve: reconstructs a few items.
        size: how many at a time.
        scratch: folders for temporary files, in which large images are then kept; None keeps images in memory.
        progress: called before and after items are done.

    Raises:
        InputError: volumes that differ in the axis along which they are fully sampled; whatever `solve` raises.

    """
    told = progress or (lambda done, total: None)
    what = f"images of {scan.path.name}"
    if not isinstance(first, Slices):
        rows = Rows(len(scan), scan.space_shape, np.complex64, scratch, what)
        seconds = _items(scan, solve, rows, 0, size, told)
        told(len(rows), len(rows))
        return rows.view(), seconds
    n, seconds = len(first), []
    rows = Rows(len(scan) * n, first.space_shape, np.complex64, scratch, what)
    for volume in range(len(scan)):
        told(volume * n, len(rows))
        part = first if volume == 0 else _next(scan, volume, first, scratch)
        seconds += _items(part, solve, rows, volume * n, size, told)
    told(len(rows), len(rows))
    found = rows.view().reshape(len(scan), n, *first.space_shape)
    return np.moveaxis(found, 1, first.axis + 1), seconds


def _next(scan: Scan, volume: int, first: Slices, scratch: Sequence[Path] | None) -> Slices:
    part = slices(scan, volume)
    if part is None or part.axis != first.axis or not part.spool(_folders(scratch)):
        raise InputError(
            f"this volume is not fully sampled along {first.readout}, as the first is",
            where=scan.where(volume),
            fix="write volumes that were sampled differently to files of their own",
        )
    return part


def _items(scan: Scan, solve: Solve, rows: Rows, done: int, size: int, told: Told) -> list[float]:
    """Write the images of all items into rows, from row `done` on, and return the seconds of each."""
    seconds: list[float] = []
    for _, group in itertools.groupby(range(len(scan)), scan.blank):  # blank items are not mixed with others
        left = list(group)
        for items in (left[k : k + size] for k in range(0, len(left), size)):
            told(done + items[0], len(rows))
            start = time.perf_counter()
            try:
                found = solve(scan, items)
            except MriReconError as error:
                error.where = error.where if error.where and str(scan.path) in error.where else scan.where(items[0])
                raise
            for item, image in zip(items, found, strict=True):
                rows.write(done + item, image)
            seconds += [(time.perf_counter() - start) / len(items)] * len(items)
    return seconds


def _folders(scratch: Sequence[Path] | None) -> Sequence[Path]:
    return scratch_folders(None) if scratch is None else scratch
