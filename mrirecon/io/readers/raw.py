"""Build a scan from a table of readouts, with slice order, noise and geometry, for all raw-data formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.geometry import Geometry, Vector, make_geometry
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.echo_centre import echo_from_samples
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import (
    BOTH,
    CALIBRATION,
    IMAGE,
    NOISE,
    PHASE_CORRECTION,
    Encoding,
    Placement,
    Plan,
    Readouts,
    describe_counts,
)
from mrirecon.io.readers.registry import Source
from mrirecon.io.readers.sorting import make_plan
from mrirecon.io.scan import Scalar, Scan

_PARALLEL = 1e-2  # largest difference of unit vectors of parallel slices
# Largest energy of the difference of equal readouts, relative to the signal: a phase of 0.2 rad, or a loss of a fifth
# of the signal. Drift stays below it; echoes a few milliseconds apart exceed it.
_SAME = 0.04
_PLACES, _PARTS = 16, 16
# Loops that may separate such readouts; the first unused one is taken.
_LOOPS = {"echo": "echoes", "set": "sets"}


def raw_scan(
    source: Source,
    file_format: str,
    table: Readouts,
    encodings: Sequence[Encoding],
    store: Callable[[Plan], RawStore],
    *,
    notes: Sequence[str] = (),
    attributes: Mapping[str, Scalar] | None = None,
    header: str | None = None,
) -> Scan:
    """Build the scan of a table of readouts.

    Args:
        source: the file.
        file_format: see `Scan.format`.
        table: the readouts of the file; slices are renumbered by their position.
        encodings: encodings of the header.
        store: function that returns the store of the format for a plan.
        notes: conclusions of the reader, for the user.
        attributes: see `assemble`.
        header: see `assemble`.

    Raises:
        InputError: see `make_plan` and `_separate_echoes`.

    """
    path, counts = source.path, table.counts()
    remarks = list(notes)
    positions = _order_slices(table, remarks)
    unused = {name: n for name, n in counts.items() if name in ("navigator", "dummy", "feedback", "other")}
    if unused:
        remarks.append(f"readouts that do not belong to the image and are left out: {describe_counts(unused)}")

    def make_store(concluded: list[str]) -> RawStore:
        return store(make_plan(table, list(encodings), path, concluded))

    concluded: list[str] = []
    raw = make_store(concluded)
    shape = raw.plan.layout.shape
    middle = (shape["x"] // 2, shape.get("z", 1) // 2)
    way = echo_from_samples(table, raw.plan.image, middle, raw.plan.oversampled, raw.forward)
    if way is not None:
        table.ways = (way,)
        concluded = []
        raw = make_store(concluded)
    separated = _separate_echoes(table, raw, path)
    if separated:
        concluded = separated
        raw = make_store(concluded)
    plan = raw.plan
    remarks += concluded
    noise = raw.noise()
    values: dict[str, Scalar] = dict(attributes or {})
    for name, rows in (("dwell_us", table.rows(IMAGE, BOTH)), ("noise_dwell_us", table.rows(NOISE))):
        if rows.size and table.dwell_us[rows[0]] > 0:
            values[name] = round(float(table.dwell_us[rows[0]]), 4)
    if noise is not None:
        remarks.append(f"noise scan of {noise.shape[1]} samples per coil, for prewhitening")
    elif counts.get("noise"):
        remarks.append("the noise scan has a different number of coils and is not used")
    guides, any_reversed = table.rows(PHASE_CORRECTION).size, table.reversed[plan.image.rows].any()
    if any_reversed and guides:
        remarks.append("reversed readouts are corrected by the linear phase of the phase-correction readouts")
    elif any_reversed:
        remarks.append("no phase-correction readouts: expect ghosts at half the field of view")
    geometry = _geometry(table, plan, positions, remarks)
    return assemble(
        source,
        raw,
        file_format,
        "kspace",
        plan.layout,
        notes=remarks,
        attributes=values,
        header=header,
        noise=noise,
        geometry=geometry,
        acquisitions=counts,
    )


def _order_slices(table: Readouts, notes: list[str]) -> list[Vector]:
    """Renumber slices by their position along the slice normal; return their centres in this order."""
    rows = table.rows(IMAGE, BOTH, CALIBRATION)
    number = table.counters["slice"]
    known, first = np.unique(number[rows], return_index=True)
    centres = table.position[rows[first]]
    if len(known) > 1 and len(known) == known[-1] + 1:
        along = centres @ table.directions[rows[first[0]], 2]
        order = np.argsort(along, kind="stable")
        if len(np.unique(along.round(3))) == len(known) and (order != np.arange(len(known))).any():
            rank = np.empty(len(known), dtype=np.int64)
            rank[order] = np.arange(len(known))
            inside = (number >= 0) & (number < len(known))
            table.counters["slice"] = np.where(inside, rank[np.clip(number, 0, len(known) - 1)], number)
            centres = centres[order]
            notes.append("slices are sorted by position; the scanner numbered them differently")
    return [(float(x), float(y), float(z)) for x, y, z in centres]


def _geometry(table: Readouts, plan: Plan, positions: list[Vector], notes: list[str]) -> Geometry | None:
    if len(positions) != plan.layout.shape["slice"]:
        return None  # slices without readouts have no position
    rows = plan.image.rows
    _, first = np.unique(table.counters["slice"][rows], return_index=True)
    if np.abs(table.directions[rows[first]] - table.directions[rows[0]]).max() > _PARALLEL:
        notes.append("slices have several orientations, as in a localizer: their positions are not written")
        return None
    read, phase, through = ((float(x), float(y), float(z)) for x, y, z in table.directions[rows[0]])
    return make_geometry(plan.fov_mm, tuple(positions), read, phase, through)


def _separate_echoes(table: Readouts, store: RawStore, path: Path) -> list[str]:
    """Number readouts with equal counters by their order, if their samples differ.

    Such readouts are either repeated measurements, which are averaged, or echoes without a counter. Echoes differ in
    phase, so that their mean can cancel. No header distinguishes the two cases; the samples near the centre of k-space
    do.

    Readouts that agree keep their counters and are averaged, as are a few that noise makes uncertain.

    Args:
        table: the readouts; the counters of separated readouts are changed.
        store: store that reads the samples.
        path: the file, for messages.

    Returns:
        Notes on separated readouts; none if the table is unchanged.

    Raises:
        InputError: readouts with equal counters differ, but only some positions of k-space have such readouts.

    """
    placed, shape = store.plan.image, store.plan.layout.shape
    average = table.counters["average"][placed.rows]
    position = (placed.item * shape.get("z", 1) + placed.partition) * shape["x"] + placed.line
    _, key, counts = np.unique(position * (int(average.max()) + 1) + average, return_inverse=True, return_counts=True)
    if counts.max() == 1:
        return []
    with np.errstate(all="ignore"):  # the scan reports NaN later
        same = _agree(placed, key, counts, store)
    each = int(counts[0]) if (counts == counts[0]).all() else 0
    free = next((name for name in _LOOPS if not table.counters[name][placed.rows].any()), None)
    if same or (same is None and not (each and free)):
        return []
    if not each or free is None:
        raise InputError(
            f"readouts of {path} that share all counters differ",
            why=f"{np.count_nonzero(counts > 1)} of {len(counts)} positions were measured up to {counts.max()} "
            "times, with a different signal each time: their mean could cancel, as for echoes",
            fix="number echoes by the counter contrast (Siemens: Eco), or remove readouts of other images",
        )
    order = np.argsort(key, kind="stable")
    number = np.empty(len(key), dtype=np.int64)
    number[order] = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
    table.counters[free] = table.counters[free].copy()
    table.counters[free][placed.rows] = number
    why = f"{'they differ' if same is False else 'noise hides whether they agree'}: taken as {each} {_LOOPS[free]}"
    return [f"{each} readouts share all counters at every position of k-space, and {why}, in order"]


def _agree(placed: Placement, key: np.ndarray, counts: np.ndarray, store: RawStore) -> bool | None:
    """Return whether readouts with equal counters agree near the centre of k-space; None if noise hides it."""
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
    # The weakest parts of the readouts give an upper limit of the noise.
    parts = [part.mean() for part in np.array_split(np.mean(profiles, axis=0), _PARTS) if part.size]
    noise = samples * float(np.quantile(parts, 0.25))
    if (difference <= _SAME * signal).all():
        return True
    hidden = signal - noise < signal / 2
    excess = difference - 2 * noise > _SAME * (signal - noise)
    if (excess & ~hidden).any():
        return False
    return None if (hidden & (difference > _SAME * signal)).any() else True
