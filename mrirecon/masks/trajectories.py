"""Make trajectories: radial, golden-angle and spiral in 2D, stack-of-stars and kooshball in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mrirecon.errors import UsageError

_GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.25°, Winkelmann et al., IEEE TMI 26:68, 2007
# Golden means of two dimensions, for directions on a sphere: Chan et al., MRM 61:354, 2009.
_GOLDEN_3D = (0.4656, 0.6823)
_DENSE = 14.0  # radius in 1/FOV up to which a spiral is fully sampled, for coil maps

# A function of (shape, readouts, samples) that returns (readout, sample, ndim) in 1/FOV.
Maker = Callable[[tuple[int, ...], int, int | None], np.ndarray]


def radial(shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return straight readouts through the centre at evenly spaced angles over 180°."""
    return _spokes(shape, np.arange(readouts) * math.pi / readouts, samples)


def golden(shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return straight readouts through the centre, each 111.25° after the one before."""
    return _spokes(shape, np.arange(readouts) * _GOLDEN, samples)


def spiral(shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return interleaved spirals from the centre; neighbouring turns are 1/FOV apart in the centre and 2/FOV outside.

    Samples are evenly spaced along the path, by default half of 1/FOV apart.
    """
    edge = max(shape) / 2
    radius = np.linspace(0, edge, 4096)
    distance = 1 + np.clip((radius - _DENSE) / (edge / 4), 0, 1)
    step = radius[1]
    angle = np.concatenate([[0.0], np.cumsum(2 * math.pi * step / (readouts * distance[1:]))])
    path = np.concatenate([[0.0], np.cumsum(np.hypot(step, radius[1:] * np.diff(angle)))])
    position = np.linspace(0, path[-1], samples or math.ceil(2 * path[-1]) + 1)
    radii = np.interp(position, path, radius) / (2 * edge)
    angles = np.interp(position, path, angle) + 2 * math.pi * np.arange(readouts)[:, None] / readouts
    return np.asarray(np.stack([np.sin(angles), np.cos(angles)], -1) * radii[None, :, None] * np.array(shape))


def stack_of_stars(shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return radial readouts in the plane of the last two axes, ``readouts`` in each partition along the first axis."""
    plane = golden(shape[1:], readouts, samples)
    heights = np.arange(shape[0]) - shape[0] // 2
    return np.concatenate(
        [np.concatenate([np.full((*plane.shape[:2], 1), float(z)), plane], -1) for z in heights.tolist()]
    )


def kooshball(shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return straight readouts through the centre in directions spread over the sphere (3D radial)."""
    number = np.arange(readouts)
    height = (number * _GOLDEN_3D[0]) % 1  # a readout covers both halves of the sphere
    angle = 2 * math.pi * ((number * _GOLDEN_3D[1]) % 1)
    width = np.sqrt(1 - height**2)
    directions = np.stack([height, width * np.sin(angle), width * np.cos(angle)], -1)
    return np.asarray(directions[:, None] * _radius(samples or 2 * max(shape))[:, None] * np.array(shape))


PLANAR: dict[str, Maker] = {"radial": radial, "golden": golden, "spiral": spiral}
TRAJECTORIES: dict[str, Maker] = PLANAR | {"stack-of-stars": stack_of_stars, "kooshball": kooshball}


def make_trajectory(kind: str, shape: tuple[int, ...], readouts: int, samples: int | None = None) -> np.ndarray:
    """Return a trajectory (readout, sample, ndim) in 1/FOV, float32.

    Args:
        kind: name in `TRAJECTORIES`.
        shape: size of the image, one number per axis.
        readouts: number of readouts or interleaves; for a stack of stars, in each partition.
        samples: number of samples of a readout; by default 2-fold oversampled.

    Raises:
        UsageError: an unknown kind, a shape with another number of axes, too few readouts or samples.

    """
    if kind not in TRAJECTORIES:
        raise UsageError(f"there is no trajectory {kind!r}", fix=f"choose {', '.join(TRAJECTORIES)}")
    axes = 2 if kind in PLANAR else 3
    if len(shape) != axes or min(shape) < 2:
        raise UsageError(
            f"a {kind} trajectory has {axes} axes",
            why=f"the shape is {'x'.join(map(str, shape))}",
            fix=f"give {axes} sizes of at least 2",
        )
    if readouts < 1 or (samples is not None and samples < 2):
        raise UsageError("a trajectory needs a readout and two samples", why=f"{readouts} readouts, {samples} samples")
    return TRAJECTORIES[kind](shape, readouts, samples).astype(np.float32)


def _spokes(shape: tuple[int, ...], angles: np.ndarray, samples: int | None) -> np.ndarray:
    """Return straight readouts through the centre at some angles, 2-fold oversampled by default."""
    directions = np.stack([np.sin(angles), np.cos(angles)], -1)
    return np.asarray(directions[:, None] * _radius(samples or 2 * max(shape))[:, None] * np.array(shape))


def _radius(samples: int) -> np.ndarray:
    """Return positions along a readout, from −½ to just below ½, with the centre at sample n // 2."""
    return (np.arange(samples) - samples // 2) / samples
