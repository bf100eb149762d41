"""Describe readouts as the scanner wrote them, one row each, before sorting, for all raw-data formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

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
Way = Literal["as stored", "as stored and one late", "after the reversal"]
STORED: Way = "as stored"
LATE: Way = "as stored and one late"
REVERSED: Way = "after the reversal"
# A row's `kind` is an index into this.
KINDS: tuple[Kind, ...] = get_args(Kind)
IMAGE, BOTH, CALIBRATION, NOISE, PHASE_CORRECTION = range(5)
# Counters over which separate images are made, in the order of the axes.
LOOPED = ("repetition", "set", "phase", "echo", "slice")
COUNTERS = (*LOOPED, "average", "segment", "line", "partition")


@dataclass
class Readouts:
    """Hold a table of readouts. Every array has one row per readout, in the order of the file.

    Args:
        kind: index into `KINDS`.
        counters: the scanner's loop counters, by the names in `COUNTERS`.
        samples: complex samples per coil.
        coils: receiver channels.
        centre: sample of the echo, as the header states it; see `mrirecon.io.readers.echo_centre`.
        discard_pre: samples to discard at the start.
        discard_post: samples to discard at the end.
        reversed: whether the gradient ran backwards.
        encoding: index of the encoding in the header.
        dwell_us: time per sample in microseconds, 0 if the file does not state it.
        position: (n, 3), centre of the slice or slab in LPS mm.
        directions: (n, 3, 3), unit vectors along read, phase and slice, in this order.
        conjugate: whether samples must be conjugated; see `mrirecon.io.readers.siemens`.
        ways: possible ways to count `centre` of reversed readouts, the most likely first; see `echo_centre`.

    """

    kind: np.ndarray
    counters: dict[str, np.ndarray]
    samples: np.ndarray
    coils: np.ndarray
    centre: np.ndarray
    discard_pre: np.ndarray
    discard_post: np.ndarray
    reversed: np.ndarray
    encoding: np.ndarray
    dwell_us: np.ndarray
    position: np.ndarray
    directions: np.ndarray
    conjugate: bool = False
    ways: tuple[Way, ...] = (STORED, LATE, REVERSED)

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def valid(self) -> np.ndarray:
        """Return the number of samples per coil that are not discarded."""
        return np.asarray(self.samples - self.discard_pre - self.discard_post)

    def counts(self) -> dict[str, int]:
        """Return the number of readouts of each kind that is present."""
        numbers = np.bincount(self.kind, minlength=len(KINDS))
        return {name: int(n) for name, n in zip(KINDS, numbers, strict=True) if n}

    def rows(self, *kinds: int) -> np.ndarray:
        """Return the rows of these kinds, in the order of the file."""
        return np.flatnonzero(np.isin(self.kind, kinds))


@dataclass(frozen=True)
class Encoding:
    """Hold an encoding of the header, with sizes along readout, lines and partitions in this order.

    Args:
        matrix: size of k-space as acquired, readout oversampling included.
        fov_mm: field of view of that matrix.
        image: size of the image that the scanner reconstructs.
        image_fov_mm: field of view of that image.
        line_centre: counter of the line through the centre of k-space; None if the header does not state it.
        partition_centre: the same for partitions.
        embedded: whether calibration lines also belong to the image, and are not a separate scan.
        trajectory: name of the trajectory in the header.

    """

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]
    image: tuple[int, int, int]
    image_fov_mm: tuple[float, float, float]
    line_centre: int | None = None
    partition_centre: int | None = None
    embedded: bool = False
    trajectory: str = "cartesian"


@dataclass(frozen=True)
class Placement:
    """Hold positions of readouts on the grid of k-space. Every array has one entry per row.

    Args:
        rows: rows of the table.
        item: number of the item, as `Layout` counts them.
        line: index along the phase encoding.
        partition: index along the second phase encoding; 0 in 2D.
        start: index along the oversampled readout of the first sample that is not discarded, reversed lines flipped.

    """

    rows: np.ndarray
    item: np.ndarray
    line: np.ndarray
    partition: np.ndarray
    start: np.ndarray


@dataclass(frozen=True)
class Plan:
    """Hold the grid of k-space for a table, and the position of each readout.

    Args:
        layout: axes of k-space; readout along y, lines along x, partitions along z.
        oversampled: samples along the readout before oversampling is removed.
        image: readouts that make the image.
        calibration: readouts of a separate calibration scan, on the same grid; None if there is none.
        box: (partition,) readout and line, as slices of the grid, that the calibration scan fills.
        fov_mm: field of view of the grid along read, phase and slice.
        guides: first sample of each phase-correction readout on the oversampled readout, by its row.

    """

    layout: Layout
    oversampled: int
    image: Placement
    calibration: Placement | None
    box: tuple[slice, ...]
    fov_mm: tuple[float, float, float]
    guides: Mapping[int, int] = field(default_factory=dict)


def is_set(mask: np.ndarray, bit: int) -> np.ndarray:
    """Return whether each of the masks (uint64) has a bit set."""
    return np.asarray((mask >> np.uint64(bit)) & np.uint64(1)).astype(bool)


def classify(mask: np.ndarray, flags: Sequence[tuple[int, Kind]], samples: np.ndarray) -> np.ndarray:
    """Return the kind of each readout, as an index into `KINDS`.

    Args:
        mask: flags of each readout.
        flags: bits and their meaning; the first set bit decides. Without a set bit, it is a readout of the image.
        samples: number of samples that are not discarded; with 0 it does not count as a readout, whatever its flags.

    """
    kind = np.zeros(len(mask), dtype=np.int64)
    for bit, name in reversed(flags):
        kind[is_set(mask, bit)] = KINDS.index(name)
    kind[samples <= 0] = KINDS.index("other")
    return kind


def span(values: np.ndarray) -> tuple[int, int]:
    """Return the smallest and the largest counter."""
    return int(values.min()), int(values.max())


def describe_counts(counts: Mapping[str, int]) -> str:
    """Describe the number of readouts of each kind."""
    return ", ".join(f"{n} {name}" for name, n in counts.items())
