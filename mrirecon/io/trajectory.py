"""Represent a scan whose k-space was sampled along a trajectory, and read the trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.scan import SPACE, Layout, Scan, check_finite, check_scale, largest_part, to_complex64, without_nan

if TYPE_CHECKING:
    from mrirecon.coils.sampling import Sampling
    from mrirecon.physics.nonuniform import Weighting

Units = Literal["1/fov", "cycles/voxel", "radians/voxel"]
Delays = Literal["none", "ring"]
TRAJECTORY_NAMES = ("traj", "trajectory", "coord", "coords")
MATRIX_NAMES = ("matrix", "matrix_size")
_SMALLEST_MATRIX = 8  # a trajectory that spans less in 1/FOV is probably in other units
_LARGEST_MATRIX = 2048
_TOLERANCE = 1e-3  # for rounded coordinates at the edge of k-space, in 1/FOV


@dataclass(frozen=True)
class TrajectoryOptions:
    """Hold what the user states about a trajectory.

    Attributes:
        file: file with the trajectory; None for that in the file of k-space.
        units: unit of the coordinates: ``1/fov`` as in BART, or relative to a voxel.
        matrix: size of the image along each axis of the trajectory; None for that in the file, or from the trajectory.
        weighting: weights of the samples in the data term; see `mrirecon.physics.nonuniform.NonUniformProblem`.
        delays: ``ring`` estimates the gradient delays of radial readouts, and corrects them.

    """

    file: Path | None = None
    units: Units = "1/fov"
    matrix: tuple[int, ...] | None = None
    weighting: Weighting = "density"
    delays: Delays = "none"


@dataclass
class TrajectoryScan(Scan):
    """Read a scan that was sampled along a trajectory.

    `layout` describes the images. `kspace` returns (coil, readout, sample), and masks are (readout, sample).

    Attributes:
        stored: axes of k-space as stored; y is the readout, and x the sample.
        points: (1 or item, readout, sample, ndim) float32, in 1/FOV, components in the order of the spatial axes.
        weighting: see `TrajectoryOptions`.

    """

    stored: Layout = field(kw_only=True)
    points: np.ndarray = field(kw_only=True, repr=False)
    weighting: Weighting = field(default="density", kw_only=True)

    @property
    def on_grid(self) -> bool:
        """Return False."""
        return False

    def unmasked_kspace(self, item: int) -> np.ndarray:
        """Return the samples of an item as stored, (coil, readout, sample) complex64, unchecked."""
        block = self.stored.arrange(self._read(self.roles.kspace, self.stored.index(item)))
        return np.array(to_complex64(self._readouts_first(block), self.where(item)), order="C")

    def marked(self, item: int) -> np.ndarray | None:
        """Return the samples of an item that the given mask marks, (readout, sample), or None without a mask."""
        mask = super().marked(item)
        return None if mask is None else self._readouts_first(mask)

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of an item and a mask (readout, sample) of those that can be used.

        Samples that are zero in every coil, outside the k-space of the image, or not marked by the given mask, are not
        used.

        Raises:
            InputError: no sample can be used.
            SignalError: NaN or infinite values with ``nan="refuse"``, or values that are too large.

        """
        kspace, where = self.unmasked_kspace(item), self.where(item)
        not_finite = without_nan(kspace) if self.nan == "zero" else np.zeros(kspace.shape[1:], bool)
        check_finite(kspace, ("coil", "readout", "sample"), where)
        check_scale(largest_part(kspace), where)
        inside = (np.abs(self._points(item)) <= np.array(self.space_shape) / 2 + _TOLERANCE).all(-1)
        mask = (kspace != 0).any(0) & inside & ~not_finite
        marked = self.marked(item)
        if marked is not None:
            mask &= marked
        if not mask.any():
            raise InputError("no sample can be used", where=where, fix="check the mask and --matrix")
        if not inside.all():
            self._note(f"{1 - inside.mean():.1%} of the samples lie outside the k-space of the image: not used")
        if not_finite.any():
            self._note(f"{int(not_finite.sum())} samples of {where} are NaN or infinite: not used")
        kspace *= mask
        self._masks[item] = mask
        return kspace, mask.copy()

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return a mask of all samples; None if the item holds no signal."""
        kspace = self.unmasked_kspace(item)
        return np.ones(kspace.shape[1:], bool) if kspace.any() else None

    def sampling(self, item: int, mask: np.ndarray) -> Sampling:
        """Return the trajectory of an item, with the samples of a mask."""
        import torch

        from mrirecon.coils.sampling import TrajectorySampling
        from mrirecon.physics.nonuniform import NonUniformFourier

        points = torch.from_numpy(np.ascontiguousarray(self._points(item)))[None]
        return TrajectorySampling(NonUniformFourier(points, self.space_shape), mask, self.weighting)

    def _readouts_first(self, values: np.ndarray) -> np.ndarray:
        """Return values (…, *stored) as (…, readout, sample)."""
        return values if self.stored.space == ("y", "x") else values.swapaxes(-1, -2)

    def _points(self, item: int) -> np.ndarray:
        """Return the trajectory (readout, sample, ndim) of an item."""
        return np.asarray(self.points[item if len(self.points) > 1 else 0])


def in_cycles_per_fov(
    points: np.ndarray, options: TrajectoryOptions, matrix: tuple[int, ...] | None, where: str, notes: list[str]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a trajectory in 1/FOV with only the components that vary, and the shape of the image.

    Args:
        points: (..., ndim) real, in the unit of the options.
        options: unit and matrix that the user states.
        matrix: matrix that the file states, or None.
        where: file and array, for messages.
        notes: conclusions for the user.

    Raises:
        InputError: not finite, a shape or a unit that cannot be.
        UsageError: a matrix with another number of axes.

    """
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        raise InputError("the trajectory holds NaN or infinite values", where=where)
    if points.shape[-1] == 3 and not points[..., 2].any():
        points = points[..., :2]
    ndim = points.shape[-1]
    wanted = options.matrix or matrix
    if wanted is not None and len(wanted) != ndim:
        raise UsageError(
            f"a matrix of {len(wanted)} axes does not fit a trajectory of {ndim} components",
            where=where,
            fix=f"give {ndim} sizes with --matrix, such as {'x'.join(['256'] * ndim)}",
        )
    if options.units != "1/fov":
        if wanted is None:
            raise UsageError(
                "the size of the image is not known",
                where=where,
                why=f"coordinates in {options.units} do not show it",
                fix="give it with --matrix, such as 256x256",
            )
        points = points * np.array(wanted) / (1 if options.units == "cycles/voxel" else 2 * math.pi)
    reach = 2 * np.abs(points).reshape(-1, ndim).max(0)
    if reach.max() < _SMALLEST_MATRIX:
        raise InputError(
            "the trajectory does not seem to be in 1/FOV",
            where=where,
            why=f"the image would have the size {' x '.join(f'{n:.3g}' for n in reach)}, from the extent",
            fix="give its unit: --trajectory-units cycles/voxel or radians/voxel, with --matrix",
        )
    if wanted is None:
        wanted = tuple(max(1, 2 * math.ceil(round(n / 2, 3))) for n in reach)
        notes.append(f"image of {'x'.join(map(str, wanted))} voxels, from the extent of the trajectory (--matrix)")
    if max(wanted) > _LARGEST_MATRIX or min(wanted) < 1:
        raise InputError(f"an image of {'x'.join(map(str, wanted))} voxels is not supported", where=where)
    return points.astype(np.float32), wanted


def arrange_points(values: np.ndarray, stored: Layout, where: str) -> np.ndarray:
    """Return a trajectory as (1 or item, readout, sample, ndim).

    Accepted are (readout, sample, ndim) and BART's reverse (ndim, sample, readout), for all items or for each.

    Raises:
        InputError: another shape.

    """
    points = fitting_points(values, stored)
    if points is not None:
        return points
    raise InputError(
        "the trajectory does not fit k-space",
        where=where,
        why=f"trajectory {values.shape}, k-space with {stored.shape['y']} readouts of {stored.shape['x']} samples",
        fix="store it as (readout, sample, 2 or 3), and k-space as (coil, readout, sample)",
    )


def fitting_points(values: np.ndarray, stored: Layout) -> np.ndarray | None:
    """Return a trajectory as `arrange_points` does, or None if its shape does not fit k-space."""
    size = (stored.shape["y"], stored.shape["x"])
    values = values if values.ndim > 2 or size[0] > 1 else values[None]
    for candidate in (values, values.squeeze() if size[0] > 1 else values, values.T):
        lead, inner = candidate.shape[:-3], candidate.shape[-3:]
        if inner[:2] == size and inner[2:] in ((2,), (3,)) and math.prod(lead) in (1, stored.count):
            return candidate.reshape(-1, *inner)
    return None


def image_layout(stored: Layout, matrix: Sequence[int]) -> Layout:
    """Return the axes of the images: loops, coil, and the spatial axes in the order of the matrix."""
    loops = stored.loops
    sizes = (*(stored.shape[a] for a in loops), stored.shape["coil"], *matrix)
    return Layout((*loops, "coil", *SPACE[-len(matrix) :]), sizes)


def correct_delays(scan: Scan) -> Scan:
    """Return the scan with a trajectory that is corrected for gradient delays, estimated from a representative item.

    Raises:
        UsageError: the scan has no trajectory, or a trajectory in three dimensions.
        InputError: see `mrirecon.physics.delays.gradient_delays`.

    """
    if not isinstance(scan, TrajectoryScan):
        raise UsageError("only radial readouts have delays to correct", where=str(scan.path), fix="omit --delays")
    if scan.points.shape[-1] == 3:
        raise UsageError(
            "gradient delays are only estimated for radial readouts in a plane",
            where=str(scan.path),
            why="the trajectory has three components",
            fix="omit --delays",
        )
    from mrirecon.physics.delays import gradient_delays, shifted

    item = scan.representative_item()
    points = scan.points[item if len(scan.points) > 1 else 0]
    delays = gradient_delays(scan.samples(item)[0], points[..., :2])
    corrected = scan.points.copy()
    for points in corrected:
        points[..., :2] = shifted(points[..., :2], delays)
    first, second, mixed = delays[0, 0], delays[1, 1], delays[0, 1]
    note = (
        "trajectory corrected for gradient delays (RING), in 1/FOV: "
        f"{first:.3f} and {second:.3f} along the two axes, {mixed:.3f} between them"
    )
    return replace(scan, points=corrected, notes=[*scan.notes, note])
