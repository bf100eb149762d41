"""Group the items of a scan by their sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.io.scan import Scan

FULLY_SAMPLED_RATE = 1.01  # acceleration below which k-space counts as fully sampled
ALIKE_RATIO = 1.1  # largest ratio of accelerations, or sides of a calibration region, that count as equal


@dataclass(frozen=True)
class SamplingGroup:
    """Hold items with the same sampling: full, or about the same acceleration and calibration region.

    Attributes:
        items: items in order.
        mask: (*space), mask of the middle item, from one coil.

    """

    items: tuple[int, ...]
    mask: np.ndarray

    @property
    def representatives(self) -> list[int]:
        """Return all items, the middle one first, then those nearest to it."""
        middle = (len(self.items) - 1) / 2
        order = sorted(range(len(self.items)), key=lambda place: (abs(place - middle), place))
        return [self.items[place] for place in order]


def group_by_sampling(scan: Scan, items: Iterable[int] | None = None) -> list[SamplingGroup]:
    """Group items of a scan by their sampling; leave out items without signal.

    Raises:
        BusyError: the file changed since it was opened.

    """
    masks: dict[bytes, np.ndarray] = {}
    keys: dict[int, bytes] = {}
    for item in range(len(scan)) if items is None else items:
        mask = scan.quick_mask(item)
        if mask is not None:
            keys[item] = np.packbits(mask).tobytes()
            masks.setdefault(keys[item], mask)
    rates = [mask.size / int(mask.sum()) for mask in masks.values()]
    sides = [1 + min(s.stop - s.start for s in find_calibration(mask)) for mask in masks.values()]
    ranks = zip(masks, rates, _ranks(rates), _ranks(sides), strict=True)
    kinds = {key: (0, 0) if rate < FULLY_SAMPLED_RATE else (rank, side) for key, rate, rank, side in ranks}
    groups: dict[tuple[int, int], list[int]] = {}
    for item, key in keys.items():
        groups.setdefault(kinds[key], []).append(item)
    return [SamplingGroup(tuple(group), masks[keys[group[(len(group) - 1) // 2]]]) for group in groups.values()]


def format_items(items: Sequence[int]) -> str:
    """Describe items, with ranges: "item 3", "items 0-2, 5"."""
    ranges: list[list[int]] = []
    for item in sorted(items):
        if ranges and item == ranges[-1][1] + 1:
            ranges[-1][1] = item
        else:
            ranges.append([item, item])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:8]] + (["…"] if len(ranges) > 8 else [])
    return f"{'item' if len(items) == 1 else 'items'} {', '.join(parts)}"


def _ranks(values: Sequence[float]) -> list[int]:
    """Rank values from 1 on by size; a value within the factor `ALIKE_RATIO` of the next smaller one gets its rank."""
    ranks, rank, last = [0] * len(values), 0, -np.inf
    for index in np.argsort(values, kind="stable").tolist():
        rank += values[index] > ALIKE_RATIO * last
        ranks[index], last = rank, values[index]
    return ranks
