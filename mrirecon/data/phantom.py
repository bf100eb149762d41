"""Draw an analytic head phantom with cortical folds and texture, which needs no input file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mrirecon.data.fields import generator
from mrirecon.errors import InputError

Real = npt.NDArray[np.floating[Any]]

# T1-weighted grey levels, white matter = 1 (ordered as in a T1-weighted spin echo at 1.5 T; the values are arbitrary)
AIR, BONE, FLUID, GREY, WHITE, MUSCLE, FAT = 0.0, 0.06, 0.22, 0.66, 1.0, 0.55, 1.35
# nuclei, as (y, x, half height, half width, tilt in degrees, level) in halves of the longer side of the field of view;
# mirrored in x
NUCLEI = (
    (-0.13, 0.075, 0.10, 0.035, -18, GREY),  # caudate
    (-0.02, 0.155, 0.14, 0.055, -14, 0.72),  # putamen and pallidum
    (0.12, 0.075, 0.10, 0.065, 25, 0.78),  # thalamus
    (-0.16, 0.035, 0.13, 0.030, -16, FLUID),  # anterior horn of the ventricle
    (0.24, 0.135, 0.14, 0.028, 22, FLUID),  # posterior horn
)


def phantom(shape: tuple[int, int], slices: int, seed: int) -> Real:
    """Draw axial slices of a head: scalp fat, bone, fluid, folded cortex, white matter, nuclei, ventricles, lesions.

    Similar to the phantom of Shepp and Logan (IEEE Trans Nucl Sci 21 (1974) 21), with boundaries deformed by smooth
    random fields and 3 % tissue texture, so that the phantom is neither piecewise constant nor symmetric. Each pixel is
    the mean of 3 x 3 points, so that edges are one pixel wide (partial volume).

    Args:
        shape: (y, x) size in square pixels; the head fits any aspect ratio.
        slices: number of slices, from the ventricles upwards; adjacent slices are similar.
        seed: seed of folds, texture and lesions.

    Returns:
        (slice, y, x), float32, 0 (air) to about 1.4 (fat), white matter about 1.

    Raises:
        InputError: the number of slices is below 1, or a side is below 16 pixels.

    """
    if slices < 1 or min(shape) < 16:
        raise InputError("a phantom needs at least one slice of 16 x 16 pixels", why=f"shape={shape}, slices={slices}")
    heights = np.linspace(0.0, 0.35, slices) if slices > 1 else np.zeros(1)
    fine = (3 * shape[0], 3 * shape[1])
    drawn = (_slice(fine, float(z), seed).reshape(shape[0], 3, shape[1], 3).mean(axis=(1, 3)) for z in heights)
    return np.stack(list(drawn)).astype(np.float32)


def _slice(shape: tuple[int, int], z: float, seed: int) -> Real:
    """Draw one slice at the height ``z``, from the outside inwards."""
    y, x = ((np.arange(n) - (n - 1) / 2) / (max(shape) / 2) for n in shape)
    y, x = np.broadcast_arrays(y[:, None], x[None, :])
    rng = generator(seed, 5)
    head = (0.86 * shape[0] / max(shape), 0.86 * shape[1] / max(shape))
    # a head is longer than wide, whatever the field of view
    head = (min(head[0], head[1] * 1.25) * (1 - 0.25 * z), min(head[1], head[0] / 1.2) * (1 - 0.25 * z))
    size = min(head)
    outline = _field(rng, y, x, z, 2.5, 10)
    # depth below the scalp: 0 at the skin, 1 at the centre
    depth = 1 - np.hypot(y / head[0], x / head[1]) + 0.012 * outline
    texture = _field(rng, y, x, z, 45.0, 24)
    bending = _field(rng, y, x, z, 15.0, 32)
    folds = _field(rng, y, x, z, 26.0, 64)

    image = np.full(shape, AIR)
    for edge, level in ((0.0, MUSCLE), (0.014, FAT), (0.062, BONE), (0.115, FLUID)):
        image[depth > edge] = level
    brain = depth - 0.14
    # sulci: valleys at the zero crossings of a band-limited random field, deepest at the surface
    valley = np.abs(bending + 0.35 * folds)
    furrow = (brain > 0) & (valley < 0.19 - 0.42 * brain)
    image[brain > 0] = GREY
    white = (brain > 0.045) & (valley > 0.62 - 0.95 * brain)
    image[white | (brain > 0.45)] = WHITE
    image[furrow] = FLUID
    image[(brain > 0) & (np.abs(x + 0.012 * outline) < 0.010) & ((np.abs(y) > 0.42 * head[0]) | (z > 0.25))] = FLUID

    y0, x0 = y / size * 0.72, x / size * 0.72 + 0.006 * outline
    shrink = max(0.0, 1 - 2.2 * z)
    for cy, cx, tall, wide, tilt, level in NUCLEI if shrink > 0.3 else ():
        for side in (-1, 1):
            angle = math.radians(tilt) * side
            dy, dx = y0 - cy, x0 - side * cx
            across, along = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
            inside = (along / tall) ** 2 + (across / wide) ** 2 + 0.12 * bending < shrink
            image[inside & (brain > 0.1)] = level
    for _ in range(5):  # lesions, dark in T1, in the deep white matter
        spot = (rng.uniform(-0.45, 0.45), rng.uniform(-0.32, 0.32), rng.uniform(0.0, 0.35))
        radius = rng.uniform(0.012, 0.03)
        image[((y0 - spot[0]) ** 2 + (x0 - spot[1]) ** 2 + (0.2 * (z - spot[2])) ** 2 < radius**2) & white] = 0.5
    return np.asarray(image * (1 + 0.03 * texture + 0.04 * outline * (image > BONE)))


def _field(rng: np.random.Generator, y: Real, x: Real, z: float, wavenumber: float, waves: int) -> Real:
    """Draw a smooth random field of about unit variance: plane waves of similar length in random directions.

    ``wavenumber`` is in radians per half of the longer side; along z it is a quarter of that.
    """
    rows, columns = y[:, 0], x[0]
    down, across = np.empty((len(rows), waves), np.complex64), np.empty((waves, len(columns)), np.complex64)
    for wave in range(waves):
        angle, phase = rng.uniform(0, 2 * math.pi, 2)
        length = wavenumber * rng.uniform(0.6, 1.4)
        along = 0.25 * length * rng.normal()
        # A plane wave is a product of a function of y and one of x, so their sum is one matrix product.
        down[:, wave] = np.exp(1j * (length * math.sin(angle) * rows + along * z + phase))
        across[wave] = np.exp(1j * length * math.cos(angle) * columns)
    return np.asarray((down @ across).real * math.sqrt(2 / waves))
