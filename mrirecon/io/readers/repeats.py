"""Tell readouts that were measured again, and are averaged, from echoes without a counter of their own.

Echoes differ in phase, so that their mean can cancel. No header distinguishes them from readouts that were measured
again; their samples near the centre of k-space do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import Placement, Readouts

# Energy of a difference, relative to that of the signal, up to which readouts count as the same: that of a phase of
# 0.2 rad, or of a signal weaker by a fifth. Drift stays below it, echoes a few milliseconds apart do not.
_SAME = 0.04
_PLACES, _PARTS = 16, 16
# Loops that may separate such readouts; the first that is unused is taken.
_LOOPS = {"echo": "echoes", "set": "sets"}


def separate_echoes(table: Readouts, store: RawStore, path: Path) -> list[str]:
    """Number readouts that share all counters by their order, where their samples show that they are not the same.

    Readouts that agree, and a few in which noise hides whether they do, keep their counters, and are averaged.

    Args:
        table: the readouts; its counters are changed where something is separated.
        store: fetches samples.
        path: the file, for messages.

    Returns:
        Notes on what was separated; none where the table stays as it is.

    Raises:
        InputError: readouts differ that share all counters, at some places of k-space and not at all of them.

    """
    placed, shape = store.plan.image, store.plan.layout.shape
    average = table.counters["average"][placed.rows]
    place = (placed.item * shape.get("z", 1) + placed.partition) * shape["x"] + placed.line
    _, key, counts = np.unique(place * (int(average.max()) + 1) + average, return_inverse=True, return_counts=True)
    if counts.max() == 1:
        return []
    with np.errstate(all="ignore"):  # the scan finds values that are not numbers
        same = _agree(placed, key, counts, store)
    each = int(counts[0]) if (counts == counts[0]).all() else 0
    free = next((name for name in _LOOPS if not table.counters[name][placed.rows].any()), None)
    if same or (same is None and not (each and free)):
        return []
    if not each or free is None:
        raise InputError(
            f"readouts of {path} that share all counters differ",
            why=f"{np.count_nonzero(counts > 1)} of {len(counts)} places of k-space were measured up to {counts.max()} "
            "times, with other signal each time: their mean could cancel, as that of echoes does",
            fix="number echoes by the counter contrast (Siemens: Eco), or leave out what is not of this image",
        )
    order = np.argsort(key, kind="stable")
    number = np.empty(len(key), dtype=np.int64)
    number[order] = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
    table.counters[free] = table.counters[free].copy()
    table.counters[free][placed.rows] = number
    why = f"{'they differ' if same is False else 'noise hides whether they agree'}: taken as {each} {_LOOPS[free]}"
    return [f"{each} readouts share all counters at every place of k-space, and {why}, in order"]


def _agree(placed: Placement, key: np.ndarray, counts: np.ndarray, store: RawStore) -> bool | None:
    """Return whether readouts of the same counters agree near the centre of k-space; None where noise hides it."""
    shape = store.plan.layout.shape
    away = abs(placed.line - shape["x"] // 2) + abs(placed.partition - shape.get("z", 1) // 2)
    repeated = np.flatnonzero(counts > 1)
    distance = np.full(len(counts), np.inf)
    np.minimum.at(distance, key, away)
    nearest = repeated[np.argsort(distance[repeated], kind="stable")][:_PLACES]
    difference, signal, samples = (np.zeros(int(counts.max())) for _ in range(3))
    profiles = []
    for one in nearest:
        lines = np.nan_to_num(store.lines(placed, np.flatnonzero(key == one)), posinf=0, neginf=0)
        energy = np.square(np.abs(lines), dtype=np.float64).sum(axis=1)
        profiles.append(energy.mean(axis=0))
        for i in range(1, len(lines)):
            difference[i] += float(np.square(np.abs(lines[i] - lines[0]), dtype=np.float64).sum())
            signal[i] += float(energy[i].sum() + energy[0].sum()) / 2
            samples[i] += energy.shape[1]
    # Noise is at most what the quiet parts of readouts hold.
    parts = [part.mean() for part in np.array_split(np.mean(profiles, axis=0), _PARTS) if part.size]
    noise = samples * float(np.quantile(parts, 0.25))
    if (difference <= _SAME * signal).all():
        return True
    hidden = signal - noise < signal / 2
    excess = difference - 2 * noise > _SAME * (signal - noise)
    if (excess & ~hidden).any():
        return False
    return None if (hidden & (difference > _SAME * signal)).any() else True
