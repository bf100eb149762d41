"""Readouts as a scanner wrote them, one row each, before anything is sorted: what all raw-data formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mrirecon.io.scan import Layout

Kind = Literal[
    "image",
    "calibration and image",
    "calibration",
    "noise",
    "phase correction",
    "navigator",
    "dummy",
    "feedback",
    "other",
]
Way = Literal["as stored", "as stored and one late", "after turning"]
STORED: Way = "as stored"
LATE: Way = "as stored and one late"
TURNED: Way = "after turning"
# A row's `kind` is an index into this.
KINDS: tuple[Kind, ...] = (
    *("image", "calibration and image", "calibration", "noise", "phase correction", "navigator", "dummy"),
    *("feedback", "other"),
)
IMAGE, BOTH, CALIBRATION, NOISE, PHASE_CORRECTION = range(5)
# Counters over which separate images are made, in the order of the axes.
LOOPED = ("repetition", "set", "phase", "echo", "slice")
COUNTERS = (*LOOPED, "average", "segment", "line", "partition")


@dataclass
class Readouts:
    """A table of readouts. Every array has one row per readout, in the order of the file.

    Args:
        kind: index into `KINDS`.
        counters: the scanner's loop counters, by the names in `COUNTERS`.
        samples: complex samples per coil.
        coils: receiver channels.
        centre: sample at which the echo lies, as the header states it; see `mrirecon.io.readers.echo`.
        before: samples to drop at the start.
        behind: samples to drop at the end.
        reversed: whether the gradient ran backwards.
        encoding: which encoding of the header it belongs to.
        dwell_us: time per sample in microseconds, 0 where the file does not say.
        position: (n, 3), centre of the slice or slab in LPS mm.
        directions: (n, 3, 3), unit vectors along read, phase and slice, in this order.
        conjugate: whether samples are to be conjugated, as `mrirecon.io.readers.siemens` explains.
        ways: how `centre` of reversed readouts may be counted, the likeliest first; see `mrirecon.io.readers.echo`.

    """

    kind: np.ndarray
    counters: dict[str, np.ndarray]
    samples: np.ndarray
    coils: np.ndarray
    centre: np.ndarray
    before: np.ndarray
    behind: np.ndarray
    reversed: np.ndarray
    encoding: np.ndarray
    dwell_us: np.ndarray
    position: np.ndarray
    directions: np.ndarray
    conjugate: bool = False
    ways: tuple[Way, ...] = (STORED, LATE, TURNED)

    def __len__(self) -> int:
        return len(self.kind)

    def counts(self) -> dict[str, int]:
        """Return how many readouts there are of each kind that occurs."""
        found = np.bincount(self.kind, minlength=len(KINDS))
        return {name: int(n) for name, n in zip(KINDS, found, strict=True) if n}

    def rows(self, *kinds: int) -> np.ndarray:
        """Return the rows of these kinds, in the order of the file."""
        return np.flatnonzero(np.isin(self.kind, kinds))


@dataclass(frozen=True)
class Encoding:
    """What the header says of a Cartesian encoding; readout, lines and partitions in this order.

    Args:
        matrix: of k-space as acquired, readout oversampling included.
        fov_mm: what that matrix covers.
        image: of the image that the scanner makes.
        image_fov_mm: what that covers.
        line_centre: counter of the line through the centre of k-space; None where the header does not say.
        partition_centre: the same of the partitions.
        embedded: whether calibration lines are lines of the image too, and not a scan of their own.

    """

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]
    image: tuple[int, int, int]
    image_fov_mm: tuple[float, float, float]
    line_centre: int | None = None
    partition_centre: int | None = None
    embedded: bool = False


@dataclass(frozen=True)
class Placement:
    """Where some readouts go on the grid of k-space. Every array has one entry per row.

    Args:
        rows: of the table.
        item: number of the item, as `Layout` counts them.
        line: index along the phase encoding.
        partition: index along the second phase encoding; 0 in 2D.
        start: index along the oversampled readout of the first sample that is kept, once reversed lines are turned.

    """

    rows: np.ndarray
    item: np.ndarray
    line: np.ndarray
    partition: np.ndarray
    start: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What has been concluded from a table: the grid, and what goes where.

    Args:
        layout: axes of the k-space that comes out; readout along y, lines along x, partitions along z.
        oversampled: samples along the readout before oversampling is removed.
        image: readouts that make the image.
        calibration: readouts of a separate calibration scan, on the same grid; None where there is none.
        box: (partition,) readout and line, as slices of the grid, that the calibration scan fills.
        fov_mm: what the grid that comes out covers, along read, phase and slice.
        guides: where each phase-correction readout starts on the oversampled readout, by its row.

    """

    layout: Layout
    oversampled: int
    image: Placement
    calibration: Placement | None
    box: tuple[slice, ...]
    fov_mm: tuple[float, float, float]
    guides: Mapping[int, int] = field(default_factory=dict)


def span(values: np.ndarray) -> tuple[int, int]:
    """Return the smallest and the largest of some counters."""
    return int(values.min()), int(values.max())


def describe_counts(counts: Mapping[str, int]) -> str:
    """Say in words how many readouts of each kind there are."""
    return ", ".join(f"{n} {name}" for name, n in counts.items())
