"""Where a scan lies in the patient: field of view, position and directions, as raw-data headers state them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

Vector = tuple[float, float, float]
# A header's directions are single precision: unit length and right angles to this.
_UNIT = 1e-2


@dataclass(frozen=True)
class Geometry:
    """Position and directions of a scan in the patient, in LPS (towards left, posterior, superior), in millimetres.

    As in ISMRMRD, `position_mm` is the centre of the field of view: not a corner, as DICOM has it. With the centred
    transform of this toolkit it is the centre of voxel n // 2 along every axis. Voxel indices increase along `read`,
    `phase` and `slice`; these are unit vectors at right angles to each other.

    Args:
        fov_mm: what the matrix of the scan (as `Scan.shape` has it, oversampling removed where a note says so) covers
            along read, phase and slice. In 2D the last is the thickness of one slice.
        position_mm: centre of the whole: of the one slice, of the 3D slab, or of the stack of slices.
        read: direction of frequency encoding.
        phase: direction of the first phase encoding.
        slice: direction through the slices, or of the second phase encoding.
        slices_mm: centre of each slice, in the order of the axis `slice`; one entry where there is no such axis.
        axes: which axis of `Scan.space` lies along read, phase and slice; "z" is the last one only in 3D.

    """

    fov_mm: Vector
    position_mm: Vector
    read: Vector
    phase: Vector
    slice: Vector
    slices_mm: tuple[Vector, ...] = ()
    axes: tuple[str, str, str] = ("y", "x", "z")

    @property
    def slice_spacing_mm(self) -> float | None:
        """Distance between the centres of neighbouring slices along `slice`; None for one slice, or where it varies."""
        along = [sum(p * s for p, s in zip(centre, self.slice, strict=True)) for centre in self.slices_mm]
        steps = [b - a for a, b in pairwise(along)]
        if not steps or not steps[0] or any(abs(step - steps[0]) > 1e-2 * max(1.0, abs(steps[0])) for step in steps):
            return None
        return steps[0]


def make_geometry(
    fov_mm: Vector, slices_mm: tuple[Vector, ...], read: Vector, phase: Vector, slice: Vector
) -> Geometry | None:
    """Return the geometry of slices in their order, or None where the header states none that can be meant.

    Args:
        fov_mm: along read, phase and slice.
        slices_mm: centre of each slice; the middle of the first and the last is that of the whole.
        read: see `Geometry`.
        phase: see `Geometry`.
        slice: see `Geometry`.

    """
    directions = (read, phase, slice)
    numbers = (*fov_mm, *(n for centre in slices_mm for n in centre), *(n for d in directions for n in d))
    if not slices_mm or not all(map(math.isfinite, numbers)) or min(fov_mm) <= 0:
        return None
    for i, one in enumerate(directions):
        for j, other in enumerate(directions):
            dot = sum(a * b for a, b in zip(one, other, strict=True))
            if abs(dot - (i == j)) > _UNIT:
                return None
    first, last = slices_mm[0], slices_mm[-1]
    middle = ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2, (first[2] + last[2]) / 2)
    return Geometry(fov_mm, middle, read, phase, slice, slices_mm)
