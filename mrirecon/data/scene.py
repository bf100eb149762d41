"""Draw all random numbers of a simulated slice (`Scene`), on the CPU, for `mrirecon.data.simulate`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from mrirecon.data.anatomy import GYROMAGNETIC
from mrirecon.data.fields import (
    COARSE,
    Loops,
    Waves,
    draw_gains,
    draw_loops,
    draw_waves,
    generator,
    sinc_matrix,
)
from mrirecon.data.lesions import Lesion, insert_lesions
from mrirecon.data.settings import Simulation
from mrirecon.data.volumes import Volume

Real = npt.NDArray[np.floating[Any]]
ACROSS = 0.7  # fraction of slices perpendicular to B0, such as axial slices


@dataclass(frozen=True)
class Scene:
    """Hold one slice and its measurement; arrays are on its fine grid (y, x), or on the measured window (h, w).

    Attributes:
        seed: seed of coils, phase and noise.
        number: number of the slice; with the same seed, slices of different numbers differ only in noise and lesions.
        image: (y, x) float32, magnitudes with lesions.
        labels: (h, w) uint8, labels of the lesions.
        lesions: inserted lesions, in pixels of the volume.
        depth: (y, x) float32, depth below the skin, in halves of the shorter side.
        change: (y, x) float32, change of B0 in ppm.
        spacing: (y, x) pixel spacing in mm.
        radians: phase of the echo in radians per ppm.
        exponent: exponent of the magnitude.
        rows: (h, y), matrix from the object's pixels to the measured pixels along y.
        columns: (w, x), the same along x.
        waves: smooth part of the phase.
        strength: factor of the smooth phase.
        bias: (4, 3), waves of the logarithm of the bias field: radians along y and x, and phase.
        deviation: standard deviation of the logarithm of the bias field.
        detail: phase of fine structures in radians per contrast.
        fat: signal fraction of fat; depths at which subcutaneous fat begins and ends; depths at which marrow begins and
            ends.
        air: (n, 4), spheres: y, x and z in mm from the centre pixel, and radius in mm.
        axis: direction of B0: 0 across the slice, 1 along y, 2 along x.
        veins: (n, 8), arcs: centre y, x and radius, middle y, x and length, width, all in mm; and ppm.
        loops: receiver coils.
        height: position of the slice along z, in halves of the longer side of the field of view.
        points: positions along y and x of the coarse grid at which the coils are evaluated.
        window: positions along y and x of the measured pixels, for the true maps.
        gains: (C,), gains of the amplifiers.
        shared: fraction of the noise variance from the body.
        snr: mean signal over the noise of an average coil image.
        level: mean signal for ``snr``; None uses the mean of the slice.

    """

    seed: int
    number: int
    image: Real = field(repr=False)
    labels: npt.NDArray[np.uint8] = field(repr=False)
    lesions: list[Lesion]
    depth: Real = field(repr=False)
    change: Real = field(repr=False)
    spacing: tuple[float, float]
    radians: float
    exponent: float
    rows: Real = field(repr=False)
    columns: Real = field(repr=False)
    waves: Waves
    strength: float
    bias: Real
    deviation: float
    detail: float
    fat: tuple[float, float, float, float, float]
    air: Real
    axis: int
    veins: Real
    loops: Loops
    height: float
    points: tuple[Real, Real]
    window: tuple[Real, Real]
    gains: Real
    shared: float
    snr: float
    level: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Return the size (h, w) of the measured window."""
        return len(self.rows), len(self.columns)


def draw_scene(
    volume: Volume,
    index: int,
    settings: Simulation,
    rng: np.random.Generator,
    *,
    coils: int,
    window: tuple[int, int] | None = None,
    centred: bool = False,
    number: int = 0,
    level: float | None = None,
) -> Scene:
    """Draw coils, phase, lesions, bias field, resolution and noise of one slice.

    Args:
        volume: slices and their tissue maps.
        index: index of the slice.
        settings: ranges to draw from.
        rng: random generator.
        coils: number of receiver coils.
        window: (y, x) size of the field of view in samples: cropped around a position in the object, or padded with
            air. None keeps the object's field of view.
        centred: centre the window.
        number: number of the slice; with generators in the same state, slices of different numbers differ only in noise
            and lesions.
        level: mean signal for the SNR; None uses the mean of the slice.

    """
    seed = int(rng.integers(2**31))
    spacing = (volume.spacing[1], volume.spacing[2])
    image, labels, lesions = _with_lesions(volume, index, settings, generator(seed, 5, number))
    axis = 0 if rng.random() < ACROSS else int(rng.integers(1, 3))
    grids: list[Any] = [image, labels, _upsampled(volume.anatomy.depth(index), image.shape)]
    grids.append(_upsampled(volume.anatomy.field(index, axis), image.shape))
    grids, spacing, transposed = _mirror_and_transpose(grids, spacing, settings, rng)
    image, labels, depth, change = grids
    axis = (0, 2, 1)[axis] if transposed else axis

    shape = _matrix(image.shape, spacing, settings, rng)
    size = shape if window is None else window
    middle = (shape[0] // 2 - size[0] // 2, shape[1] // 2 - size[1] // 2)
    start = middle if window is None or centred else _place(image, shape, size, rng)
    mirrored = rng.choice([-1.0, 1.0], 2)
    # The coils surround the object's field of view and the window.
    view = (max(shape[0], size[0]), max(shape[1], size[1]))
    points, places = [], []
    for side, n, m, a, s in zip(mirrored, image.shape, shape, start, size, strict=True):
        points.append(side * np.linspace(-(n // 2), n - 1 - n // 2, COARSE) * (m / n) / (max(view) / 2))
        places.append(side * (np.arange(s) + a - m // 2) / (max(view) / 2))
    longer = max(image.shape) * max(volume.spacing[1:]) / 2
    height = (index - (len(volume) - 1) / 2) * volume.spacing[0] / longer

    field_strength = settings.field_strength[int(rng.integers(len(settings.field_strength)))]
    echo_time = _between(rng, settings.echo_time)
    spin_echo = rng.random() < settings.spin_echo_share
    return Scene(
        seed=seed,
        number=number,
        image=image,
        labels=_nearest(labels, shape, start, size),
        lesions=lesions,
        depth=depth,
        change=change,
        spacing=spacing,
        radians=0.0 if spin_echo else 2 * math.pi * GYROMAGNETIC * field_strength * echo_time * 1e-3,
        exponent=_between(rng, settings.gamma),
        rows=sinc_matrix(image.shape[0], shape[0], start[0], size[0]),
        columns=sinc_matrix(image.shape[1], shape[1], start[1], size[1]),
        waves=draw_waves(seed),
        strength=_between(rng, settings.phase),
        bias=np.concatenate([rng.normal(0, 1.6, (4, 2)), rng.uniform(0, 2 * math.pi, (4, 1))], 1),
        deviation=settings.bias_field,
        detail=_between(rng, settings.fine_phase),
        fat=_draw_fat(settings, rng),
        air=_draw_air(image.shape, spacing, settings, rng),
        axis=axis,
        veins=_draw_veins(image.shape, spacing, settings, rng),
        loops=draw_loops(view, coils, seed, _between(rng, settings.coil_distance)),
        # All slices of a long volume lie inside the coils.
        height=float(np.clip(height, -0.6, 0.6)),
        points=(points[0], points[1]),
        window=(places[0], places[1]),
        gains=draw_gains(coils, seed),
        shared=_between(rng, settings.noise_correlation),
        snr=_geometric(rng, settings.snr),
        level=level,
    )


def _with_lesions(
    volume: Volume, index: int, settings: Simulation, rng: np.random.Generator
) -> tuple[Real, npt.NDArray[np.uint8], list[Lesion]]:
    wanted, image = settings.lesions, volume.slices[index].astype(np.float32)
    count = int(rng.integers(wanted.count[0], wanted.count[1] + 1))
    if not count:
        return image, np.zeros(image.shape, np.uint8), []
    return insert_lesions(
        image,
        rng,
        count,
        size=(wanted.size[0], wanted.size[1]),
        contrast=(wanted.contrast[0], wanted.contrast[1]),
        spacing=(volume.spacing[1], volume.spacing[2]),
        region=volume.anatomy.homogeneous(index),
    )


def _draw_fat(settings: Simulation, rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    """Return the signal fraction of fat, and the depths of its limits: under the skin, and in marrow."""
    # The unit is about 75 mm; fat ends above the brain, which begins 12 mm below the skin.
    skin, thickness = rng.uniform(0.0, 0.015), rng.uniform(0.02, 0.07)
    gap, marrow = rng.uniform(0.015, 0.045), rng.uniform(0.01, 0.03)
    with_marrow = rng.random() < settings.marrow_fat_share
    first = skin + thickness + gap
    end = first + marrow if with_marrow else first
    return _between(rng, settings.fat), skin, skin + thickness, first, end


def _draw_air(
    shape: tuple[int, ...], spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> Real:
    """Return spheres (n, 4) of air; most are above or below the slice, so that only their field affects it."""
    count = int(rng.integers(settings.air[0], settings.air[1] + 1))
    radius = np.exp(rng.uniform(math.log(3), math.log(16), count))
    half = np.array([n * d / 2 for n, d in zip(shape, spacing, strict=True)])
    place = rng.uniform(-0.75, 0.75, (count, 2)) * half
    height = rng.choice([-1.0, 1.0], count) * radius * rng.uniform(0.9, 2.0, count)
    return np.column_stack([place, height, radius])


def _draw_veins(
    shape: tuple[int, ...], spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> Real:
    """Return veins as arcs (n, 8), shifted by 0.1 to 0.4 ppm, depending on oxygenation and direction."""
    count = int(rng.integers(settings.veins[0], settings.veins[1] + 1))
    half = np.array([n * d / 2 for n, d in zip(shape, spacing, strict=True)])
    middle = rng.uniform(-0.7, 0.7, (count, 2)) * half
    radius = np.exp(rng.uniform(math.log(8), math.log(200), count))
    angle = rng.uniform(0, 2 * math.pi, count)
    centre = middle + radius[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
    length = rng.uniform(4, 30, count)
    width = np.exp(rng.uniform(math.log(0.5), math.log(1.8), count))
    strength = rng.choice([-1.0, 1.0], count) * rng.uniform(0.05, 0.25, count)
    return np.column_stack([centre, radius, middle, length, width, strength])


def _mirror_and_transpose(
    grids: list[Any], spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> tuple[list[Any], tuple[float, float], bool]:
    """Mirror and transpose all arrays on the slice's grid."""
    flips, transposed = rng.random(2) < 0.5, bool(rng.random() < settings.transpose)
    if settings.flip:
        grids = [g[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1] for g in grids]
    if transposed:
        grids, spacing = [g.T for g in grids], (spacing[1], spacing[0])
    return [np.ascontiguousarray(g) for g in grids], spacing, transposed


def _matrix(
    shape: tuple[int, ...], spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> tuple[int, int]:
    """Return the number of measured samples (y, x) for nearly square pixels, not smaller than the volume's."""
    aspect = math.sqrt(_geometric(rng, settings.aspect))
    pixel = max(spacing) / _geometric(rng, settings.resolution)
    sides = (pixel * aspect, pixel / aspect)
    y, x = (min(n, max(32, 2 * round(n * d / side / 2))) for n, d, side in zip(shape, spacing, sides, strict=True))
    return y, x


def _place(image: Real, shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Return the first pixel (y, x) of a window around a random position in the object; negative if outside."""
    inside = np.flatnonzero(image > 0.1 * image.max())
    centre = np.unravel_index(inside[int(rng.random() * len(inside))], image.shape)
    starts = []
    for fine, n, m, c in zip(image.shape, shape, size, centre, strict=True):
        at = int((int(c) - fine // 2) * n / fine) + n // 2
        starts.append(int(np.clip(at - m // 2, 0, n - m)) if m <= n else n // 2 - m // 2)
    return starts[0], starts[1]


def _nearest(
    labels: npt.NDArray[np.uint8], shape: tuple[int, int], start: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Return the nearest labels at the measured pixels of the window, 0 outside the object's field of view."""
    indices, inside = [], []
    for fine, n, a, m in zip(labels.shape, shape, start, size, strict=True):
        position = np.arange(m) + a
        nearest = np.rint((position - n // 2) * fine / n).astype(int) + fine // 2
        indices.append(np.clip(nearest, 0, fine - 1))
        inside.append((position >= 0) & (position < n))
    return np.asarray(labels[np.ix_(*indices)] * np.outer(*inside), np.uint8)


def _upsampled(coarse: npt.NDArray[np.float16], shape: tuple[int, ...]) -> Real:
    """Interpolate linearly from every second pixel to all pixels."""
    values = coarse.astype(np.float32)
    for axis, n in enumerate(shape):
        moved = np.moveaxis(values, axis, 0)
        out = np.empty((n, *moved.shape[1:]), np.float32)
        out[::2] = moved
        out[1::2] = moved[: n // 2]
        out[1 : n - 1 : 2] = 0.5 * (moved[: (n - 1) // 2] + moved[1 : (n - 1) // 2 + 1])
        values = np.moveaxis(out, 0, axis)
    return values


def _between(rng: np.random.Generator, pair: list[float]) -> float:
    """Draw a number from a uniform distribution."""
    return float(rng.uniform(pair[0], pair[1]))


def _geometric(rng: np.random.Generator, pair: list[float]) -> float:
    """Draw a number from a log-uniform distribution."""
    return math.exp(rng.uniform(math.log(pair[0]), math.log(pair[1])))


@lru_cache(maxsize=256)
def splines_over(n: int) -> npt.NDArray[np.float32]:
    """Return the matrix (n, COARSE) that interpolates from a coarse grid to all n pixels."""
    spline = CubicSpline(np.arange(COARSE), np.eye(COARSE))
    return np.asarray(spline(np.linspace(0, COARSE - 1, n)), np.float32)
