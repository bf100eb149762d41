"""Walk through a scan item by item, or through its volumes slice by slice, and hold no more than is being worked on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import BusyError, InputError, MriReconError
from mrirecon.hybrid import Slices, slices, volumes
from mrirecon.io import Scan
from mrirecon.io.scratch import Rows, scratch_folders

Solve = Callable[[Scan, Sequence[int]], list[np.ndarray]]  # (scan, items) to images (*space) complex64
Told = Callable[[int, int], None]  # (items done, items)
Lost = Callable[[int, InputError, int], None]  # (item, what is wrong with it, images lost); it may raise that


def example(scan: Scan, options: Mapping[str, object] | None, scratch: Sequence[Path] | None) -> tuple[Scan, int]:
    """Return a scan and the item of it that stands for all: item 0, or the middle slice of a volume, spooled.

    That is the first volume that can be read.

    Args:
        scan: what is to be reconstructed.
        options: of the method, see `mrirecon.hybrid.slices`.
        scratch: folders for temporary files; None takes the system's.

    Raises:
        InputError: no volume can be read; what is wrong with the first.

    """
    axis, able = volumes(scan, options) or (0, [])
    failed: InputError | None = None
    for volume in able:
        found = slices(scan, volume, options, [axis])
        if found is None:
            return scan, volume
        try:
            if found.spool(_folders(scratch)):
                return found, len(found) // 2
        except BusyError:
            raise
        except InputError as error:
            failed = failed or error
            continue
        scan.note(f"the mask is constant along {found.readout}, but not every coil's data: solved as a volume")
        return scan, volume
    if failed is not None:
        raise failed
    return scan, 0


def images(
    scan: Scan,
    first: Scan,
    solve: Solve,
    *,
    size: int = 1,
    scratch: Sequence[Path] | None = None,
    progress: Told | None = None,
    kind: Callable[[int], object] = lambda item: None,
    lost: Lost | None = None,
) -> tuple[np.ndarray, list[float]]:
    """Reconstruct a scan, and return its images (item, *space) complex64 and the seconds of each item or slice.

    Args:
        scan: the scan.
        first: what `example` returned for it.
        solve: reconstructs a few items.
        size: how many at a time.
        scratch: folders for temporary files, in which large images are then kept; None keeps images in memory.
        progress: called before and after items are done.
        kind: items of different kinds are not solved together.
        lost: called where an item cannot be read or solved; the image is zero then. None raises what is wrong.

    Raises:
        InputError: whatever `solve` or `lost` raises.

    """
    told = progress or (lambda done, total: None)
    what = f"images of {scan.path.name}"
    if not isinstance(first, Slices):
        rows = Rows(len(scan), scan.space_shape, np.complex64, scratch, what)
        seconds = _items(scan, solve, rows, 0, size, told, kind, lost)
        told(len(rows), len(rows))
        return rows.view(), seconds
    n, seconds = len(first), []
    rows = Rows(len(scan) * n, first.space_shape, np.complex64, scratch, what)
    for volume in range(len(scan)):
        told(volume * n, len(rows))
        start = time.perf_counter()
        try:
            part = first if volume == first.volume else _next(scan, volume, first, scratch)
        except InputError as error:
            _lose(scan, volume, error, lost, n)
            for row in range(volume * n, (volume + 1) * n):
                rows.write(row, np.zeros(first.space_shape, np.complex64))
            seconds += [(time.perf_counter() - start) / n] * n
            continue
        seconds += _items(part, solve, rows, volume * n, size, told, lambda _: None, lost)
    told(len(rows), len(rows))
    found = rows.view().reshape(len(scan), n, *first.space_shape)
    return np.moveaxis(found, 1, first.axis + 1), seconds


def _next(scan: Scan, volume: int, first: Slices, scratch: Sequence[Path] | None) -> Slices:
    part = slices(scan, volume, None, [first.axis])
    if part is None and scan.glance(volume) is None:
        scan.mask(volume)  # which says that there is no signal
    if part is None or not part.spool(_folders(scratch)):
        raise InputError(
            f"this volume is not fully sampled along {first.readout}, as the first is",
            where=scan.where(volume),
            fix="write volumes that were sampled differently to files of their own",
        )
    return part


def _items(
    scan: Scan,
    solve: Solve,
    rows: Rows,
    done: int,
    size: int,
    told: Told,
    kind: Callable[[int], object],
    lost: Lost | None,
) -> list[float]:
    """Write the images of all items into rows, from row `done` on, and return the seconds of each."""
    seconds: list[float] = []
    for _, group in itertools.groupby(range(len(scan)), lambda item: (scan.blank(item), kind(item))):
        left = list(group)
        for items in (left[k : k + size] for k in range(0, len(left), size)):
            told(done + items[0], len(rows))
            start = time.perf_counter()
            found = _solved(scan, items, solve, lost)
            for item, image in zip(items, found, strict=True):
                rows.write(done + item, image)
            seconds += [(time.perf_counter() - start) / len(items)] * len(items)
    return seconds


def _solved(scan: Scan, items: Sequence[int], solve: Solve, lost: Lost | None) -> list[np.ndarray]:
    """Return images of items; where they cannot be solved together, each alone, and zeros for those that are lost."""
    try:
        return solve(scan, items)
    except InputError as error:
        if len(items) > 1 and lost is not None and not isinstance(error, BusyError):
            return [image for item in items for image in _solved(scan, [item], solve, lost)]
        _lose(scan, items[0], error, lost, 1)
        return [np.zeros(scan.space_shape, np.complex64)]
    except MriReconError as error:
        error.where = _where(scan, items[0], error)
        raise


def _lose(scan: Scan, item: int, error: InputError, lost: Lost | None, count: int) -> None:
    """Tell of an item that is lost, by the number that it has in the file."""
    error.where = _where(scan, item, error)
    if lost is None:
        raise error
    lost(scan.volume if isinstance(scan, Slices) else item, error, count)


def _where(scan: Scan, item: int, error: MriReconError) -> str:
    return error.where if error.where and str(scan.path) in error.where else scan.where(item)


def _folders(scratch: Sequence[Path] | None) -> Sequence[Path]:
    return scratch_folders(None) if scratch is None else scratch
