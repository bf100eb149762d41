"""Which items of a file are not learned from: those that a configuration names, and those that hold only zeros."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io import Scan
from mrirecon.io.scan import to_complex64

_BY_ITEM = re.compile(r"(?P<name>.+):(?P<items>\d+(-\d+)?(,\d+(-\d+)?)*)")


def excluded_items(names: Iterable[str], count: int, exclude: Sequence[str]) -> set[int]:
    """Return which items of a file the entries ``NAME:ITEMS`` of ``data.exclude`` name, such as ``knee*.h5:0-2,17``.

    Args:
        names: that the file, and the array in it, go by; a pattern of an entry has to match one of them.
        count: items in it.
        exclude: the entries.

    Raises:
        UsageError: an entry that names an item which the file does not have, or the same ones backwards.

    """
    found: set[int] = set()
    for entry in exclude:
        match = _BY_ITEM.fullmatch(entry)
        if match is None or not any(fnmatch.fnmatch(name, match["name"]) for name in names):
            continue
        for part in match["items"].split(","):
            first, _, last = part.partition("-")
            chosen = range(int(first), int(last or first) + 1)
            if not chosen or chosen[-1] >= count:
                raise UsageError(
                    f"there are no items {part}",
                    where=f"data.exclude: {entry}",
                    why=f"{next(iter(names))} has {count}, from 0 to {count - 1}",
                    fix="name those that it has, the lower one first: 0-2,17",
                )
            found |= set(chosen)
    return found


def empty_items(scan: Scan, items: Iterable[int]) -> set[int]:
    """Return which items of a scan hold nothing but zeros.

    One line through the centre of one coil is enough to see that an item holds something; only of an item whose line is
    zero is more read.
    """
    return {i for i in items if not _line(scan, i).any() and scan.quick_mask(i) is None}


def _line(scan: Scan, item: int) -> np.ndarray:
    index, axes = list(scan.layout.index(item)), scan.layout.axes
    if "coil" in axes:
        index[axes.index("coil")] = scan.coils // 2
    index[axes.index(scan.space[0])] = scan.space_shape[0] // 2
    values = scan.store.read(scan.roles.kspace, tuple(index))
    return to_complex64(values, scan.where(item)) if values.dtype.fields else values
