"""Build a scan from a table of readouts, with order of the slices, noise and geometry: shared by raw-data formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

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
    Plan,
    Readouts,
    describe_counts,
)
from mrirecon.io.readers.registry import Source
from mrirecon.io.readers.repeats import separate_echoes
from mrirecon.io.readers.sorting import make_plan
from mrirecon.io.scan import Scalar, Scan

_PARALLEL = 1e-2  # difference of unit vectors up to which slices count as parallel


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
    """Return the scan that a table of readouts gives.

    Args:
        source: the file.
        file_format: see `Scan.format`.
        table: its readouts; slices are renumbered by their position.
        encodings: those of the header.
        store: returns the store of the format for a plan.
        notes: conclusions of the reader, in words for the user.
        attributes: see `assemble`.
        header: see `assemble`.

    Raises:
        InputError: see `make_plan` and `separate_echoes`.

    """
    path, counts = source.path, table.counts()
    notes = list(notes)
    positions = _order_slices(table, notes)
    unused = {name: n for name, n in counts.items() if name in ("navigator", "dummy", "feedback", "other")}
    if unused:
        notes.append(f"readouts that make no image and are left out: {describe_counts(unused)}")

    def make_store(concluded: list[str]) -> RawStore:
        return store(make_plan(table, list(encodings), path, concluded))

    raw = make_store(concluded := [])
    shape = raw.plan.layout.shape
    middle = (shape["x"] // 2, shape.get("z", 1) // 2)
    way = echo_from_samples(table, raw.plan.image, middle, raw.plan.oversampled, raw.forward)
    if way is not None:
        table.ways = (way,)
        raw = make_store(concluded := [])
    separated = separate_echoes(table, raw, path)
    if separated:
        raw = make_store(concluded := separated)
    plan = raw.plan
    notes += concluded
    noise = raw.noise()
    values: dict[str, Scalar] = dict(attributes or {})
    for name, rows in (("dwell_us", table.rows(IMAGE, BOTH)), ("noise_dwell_us", table.rows(NOISE))):
        if rows.size and table.dwell_us[rows[0]] > 0:
            values[name] = round(float(table.dwell_us[rows[0]]), 4)
    if noise is not None:
        notes.append(f"noise scan of {noise.shape[1]} samples a coil kept apart, for prewhitening")
    elif counts.get("noise"):
        notes.append("the noise scan has other coils and is not used")
    guides, turned = table.rows(PHASE_CORRECTION).size, table.reversed[plan.image.rows].any()
    if turned and guides:
        notes.append("reversed readouts are corrected by the linear phase of the phase-correction readouts")
    elif turned:
        notes.append("no phase-correction readouts: expect ghosts half a field of view away")
    geometry = _geometry(table, plan, positions, notes)
    return assemble(
        source,
        raw,
        file_format,
        "kspace",
        plan.layout,
        notes=notes,
        attributes=values,
        header=header,
        noise=noise,
        geometry=geometry,
        acquisitions=counts,
    )


def _order_slices(table: Readouts, notes: list[str]) -> list[Vector]:
    """Renumber slices by their position along the normal, and return their centres in that order."""
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
            notes.append("slices are sorted by their position; the scanner numbered them differently")
    return [(float(x), float(y), float(z)) for x, y, z in centres]


def _geometry(table: Readouts, plan: Plan, positions: list[Vector], notes: list[str]) -> Geometry | None:
    if len(positions) != plan.layout.shape["slice"]:
        return None  # some slices have no readouts, and so no position
    rows = plan.image.rows
    _, first = np.unique(table.counters["slice"][rows], return_index=True)
    if np.abs(table.directions[rows[first]] - table.directions[rows[0]]).max() > _PARALLEL:
        notes.append("slices have several orientations, as in a localizer: their positions are not written")
        return None
    read, phase, through = ((float(x), float(y), float(z)) for x, y, z in table.directions[rows[0]])
    return make_geometry(plan.fov_mm, tuple(positions), read, phase, through)
