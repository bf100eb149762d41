"""Which items of a scan are sampled alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.io.scan import Scan

FULLY_SAMPLED_RATE = 1.01  # acceleration below which k-space counts as fully sampled
ALIKE_RATIO = 1.1  # ratio of neighbouring accelerations, or sides of a calibration region, that count as alike


@dataclass(frozen=True)
class SamplingGroup:
    """Items that are sampled alike: all fully, or with about the same acceleration and calibration region.

    Attributes:
        items: in order.
        mask: (*space), that of the item in their middle, as one coil shows it.

    """

    items: tuple[int, ...]
    mask: np.ndarray

    @property
    def representatives(self) -> list[int]:
        """Items that may stand for all, the middle one first."""
        middle = (len(self.items) - 1) / 2
        order = sorted(range(len(self.items)), key=lambda place: (abs(place - middle), place))
        return [self.items[place] for place in order]


def group_by_sampling(scan: Scan, items: Iterable[int] | None = None) -> list[SamplingGroup]:
    """Return the items of a scan (or some of them) by how they are sampled; those without signal are in no group.

    Raises:
        BusyError: the file changed since it was opened.

    """
    masks: dict[bytes, np.ndarray] = {}
    where: dict[int, bytes] = {}
    for item in range(len(scan)) if items is None else items:
        mask = scan.quick_mask(item)
        if mask is not None:
            key = np.packbits(mask).tobytes()
            masks.setdefault(key, mask)
            where[item] = key
    keys = list(masks)
    rates = [masks[key].size / int(masks[key].sum()) for key in keys]
    sides = [min(s.stop - s.start for s in find_calibration(masks[key])) for key in keys]
    kinds = {
        key: (0, 0) if rate < FULLY_SAMPLED_RATE else (rank, side)
        for key, rate, rank, side in zip(keys, rates, _ranks(rates), _ranks([n + 1 for n in sides]), strict=True)
    }
    groups: dict[tuple[int, int], list[int]] = {}
    for item, key in where.items():
        groups.setdefault(kinds[key], []).append(item)
    return [SamplingGroup(tuple(found), masks[where[found[(len(found) - 1) // 2]]]) for found in groups.values()]


def format_items(items: Sequence[int]) -> str:
    """Return items as a text, stretches as ranges: "item 3", "items 0-2, 5"."""
    parts: list[list[int]] = []
    for item in sorted(items):
        if parts and item == parts[-1][1] + 1:
            parts[-1][1] = item
        else:
            parts.append([item, item])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts[:8]] + (["…"] if len(parts) > 8 else [])
    return f"{'item' if len(items) == 1 else 'items'} {', '.join(shown)}"


def _ranks(values: Sequence[float]) -> list[int]:
    """Number values from 1 on by size; neighbours that are near each other share a number."""
    order = np.argsort(values, kind="stable")
    found, rank = [0] * len(values), 0
    last = -np.inf
    for place in order.tolist():
        rank += values[place] > ALIKE_RATIO * last
        found[place], last = rank, values[place]
    return found
