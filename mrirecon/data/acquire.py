"""A slice of a magnitude volume, measured: the fast simulator behind training and `mrirecon simulate`.

y = F S (m e^{iφ}) + n, as `mrirecon.data.simulate`, whose physics it calls on a coarse grid: phase and sensitivities
are smooth, and are interpolated to the pixels. Everything is a function of the generator that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.interpolate import CubicSpline
from torch import Tensor

from mrirecon.data.lesions import Lesion, insert_lesions
from mrirecon.data.settings import Simulation
from mrirecon.data.simulate import coil_maps, noise_covariance, object_phase
from mrirecon.operators import Fourier

Real = npt.NDArray[np.floating[Any]]
COARSE = 32  # points along an axis that phase and sensitivities are computed at
_PLANE = (-2, -1)


@dataclass(frozen=True)
class Acquired:
    """One simulated slice.

    Attributes:
        kspace: (C, y, x) complex64, fully sampled, with noise; centred and unitary.
        clean: (C, y, x) complex64, the coil images without noise.
        maps: (C, y, x) complex64, the true sensitivities.
        image: (y, x) complex64, the object with its phase.
        covariance: (C, C) complex128, of the noise of one sample.
        snr: mean signal of the object over the noise of an average coil image.
        labels: (y, x) uint8, the lesions.
        lesions: what was inserted, in pixels of ``labels``' own grid before the window was cut.

    """

    kspace: Tensor
    clean: Tensor
    maps: Tensor
    image: Tensor
    covariance: npt.NDArray[np.complexfloating[Any, Any]]
    snr: float
    labels: npt.NDArray[np.uint8]
    lesions: list[Lesion]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that the bits do not depend on who computes: a worker has one, the trainer several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def acquire(
    image: Real,
    spacing: tuple[float, float],
    settings: Simulation,
    rng: np.random.Generator,
    *,
    coils: int,
    window: tuple[int, int] | None = None,
    height: float = 0.0,
    centred: bool = False,
    number: int = 0,
    level: float | None = None,
) -> Acquired:
    """Measure one slice with coils, phase, lesions, bias field, resolution and noise drawn from ``settings``.

    Args:
        image: (y, x), real, not negative, any unit.
        spacing: (y, x) distances of its pixels.
        settings: what is drawn from.
        rng: of all draws.
        coils: receiver coils.
        window: (y, x) samples of the field of view: cut out around a place in the object, or filled up with air. None
            keeps the object's own field of view.
        height: of the slice along z, in halves of the longer field of view.
        centred: put the window in the middle.
        number: of the slice: with generators in the same state, slices of different numbers differ in noise and
            lesions alone.
        level: the mean signal that the SNR relates to; None takes the slice's own.

    """
    seed = int(rng.integers(2**31))
    image, spacing = _turn(np.asarray(image, np.float32), spacing, settings, rng)
    wanted = settings.lesions
    places = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 5, number])))
    image, labels, lesions = insert_lesions(
        image,
        places,
        int(places.integers(wanted.count[0], wanted.count[1] + 1)),
        size=(wanted.size[0], wanted.size[1]),
        contrast=(wanted.contrast[0], wanted.contrast[1]),
        spacing=spacing,
    )
    peak = max(float(image.max()), 1e-30)
    image = peak * (image / peak) ** np.float32(_between(rng, settings.contrast))
    grid = _coarse(image.shape)
    # The object is as fine as the volume; the measurement has fewer samples, and its edges ring as real ones do.
    factor = _smooth(_bias(rng, grid, settings.bias), image.shape).astype(np.float32)
    strength, snr = _between(rng, settings.phase), _geometric(rng, settings.snr)
    phase = _smooth(strength * object_phase(image.shape, seed, offset=height, grid=grid), image.shape)
    phase = phase + _tissue_phase(image / peak, settings, rng)
    fine = torch.from_numpy((image * factor * np.exp(1j * phase)).astype(np.complex64))
    shape = _matrix(image.shape, spacing, settings, rng)
    small = _centre(Fourier(_PLANE)(fine), shape) * math.sqrt(math.prod(shape) / image.size)
    whole = Fourier(_PLANE).adjoint(small)
    coarse_labels = labels[np.ix_(*(_nearest(n, m) for n, m in zip(labels.shape, shape, strict=True)))]
    size = shape if window is None else window
    middle = (shape[0] // 2 - size[0] // 2, shape[1] // 2 - size[1] // 2)
    start = middle if window is None or centred else _place(whole.abs().numpy(), size, rng)
    object_, labels = _cut(whole, start, size), _cut(torch.from_numpy(coarse_labels), start, size).numpy()

    # Positions of the window in halves of the object's field of view: the coils stand around all of it.
    view = (int(max(shape[0], size[0])), int(max(shape[1], size[1])))
    mirrored = rng.choice([-1.0, 1.0], 2)
    rows, columns = (
        side * (a + np.linspace(0, n - 1, COARSE) - m // 2) / (max(view) / 2)
        for side, a, n, m in zip(mirrored, start, size, shape, strict=True)
    )
    points = coil_maps(
        view,
        coils,
        seed,
        offset=height,
        distance=_between(rng, settings.distance),
        grid=(rows[:, None], columns[None, :]),
    )
    maps = torch.from_numpy(_smooth(points, size).astype(np.complex64))
    clean = maps * object_
    magnitude = object_.abs()
    inside = magnitude > 0.1 * magnitude.max()
    sigma = (float(magnitude[inside].mean()) if level is None else level) / snr
    covariance = sigma**2 * noise_covariance(points, seed, shared=_between(rng, settings.correlation))
    generator = torch.Generator().manual_seed(seed + 2**31 * number)
    white = torch.randn(coils, size[0] * size[1], dtype=torch.complex64, generator=generator)
    root = torch.from_numpy(np.linalg.cholesky(covariance).astype(np.complex64))
    kspace = Fourier(_PLANE)(clean).add_((root @ white).reshape(clean.shape))
    return Acquired(kspace, clean, maps, object_, covariance, snr, labels, lesions)


def _turn(
    image: Real, spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> tuple[Real, tuple[float, float]]:
    """Mirror and turn."""
    flips, turned = rng.random(2) < 0.5, rng.random() < settings.transpose
    if settings.flip:
        image = image[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    if turned:
        image, spacing = image.T, (spacing[1], spacing[0])
    return np.ascontiguousarray(image), spacing


def _matrix(
    shape: tuple[int, ...], spacing: tuple[float, float], settings: Simulation, rng: np.random.Generator
) -> tuple[int, int]:
    """Return how many (y, x) samples are measured: nearly square pixels, no finer than the volume's."""
    aspect = math.sqrt(_geometric(rng, settings.aspect))
    pixel = max(spacing) / _geometric(rng, settings.resolution)
    sides = (pixel * aspect, pixel / aspect)
    found = [min(n, max(32, 2 * round(n * d / side / 2))) for n, d, side in zip(shape, spacing, sides, strict=True)]
    return found[0], found[1]


def _place(magnitude: Real, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Return the first (y, x) of a window around a random place in the object; negative where it reaches outside."""
    inside = np.flatnonzero(magnitude > 0.1 * magnitude.max())
    centre = np.unravel_index(inside[int(rng.random() * len(inside))], magnitude.shape)
    starts = []
    for n, m, c in zip(magnitude.shape, size, centre, strict=True):
        starts.append(int(np.clip(int(c) - m // 2, 0, n - m)) if m <= n else n // 2 - m // 2)
    return starts[0], starts[1]


def _cut(image: Tensor, start: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the window, zero where it reaches outside the image."""
    out = image.new_zeros(size)
    here, there = [], []
    for a, m, n in zip(start, size, image.shape, strict=True):
        first, last = max(a, 0), min(a + m, n)
        here.append(slice(first, last))
        there.append(slice(first - a, last - a))
    out[there[0], there[1]] = image[here[0], here[1]]
    return out


def _between(rng: np.random.Generator, pair: list[float]) -> float:
    """Draw evenly between two numbers."""
    return float(rng.uniform(pair[0], pair[1]))


def _geometric(rng: np.random.Generator, pair: list[float]) -> float:
    """Draw between two numbers, evenly in the logarithm."""
    return math.exp(rng.uniform(math.log(pair[0]), math.log(pair[1])))


def _centre(kspace: Tensor, shape: tuple[int, int]) -> Tensor:
    a, b = (n // 2 - m // 2 for n, m in zip(kspace.shape, shape, strict=True))
    return kspace[a : a + shape[0], b : b + shape[1]]


def _nearest(fine: int, coarse: int) -> npt.NDArray[np.intp]:
    """Return which of ``fine`` pixels lies at each of ``coarse`` ones; both are centred on n // 2."""
    places = np.rint((np.arange(coarse) - coarse // 2) * fine / coarse) + fine // 2
    return np.asarray(np.clip(places, 0, fine - 1), np.intp)


def _bias(rng: np.random.Generator, grid: tuple[Real, Real], deviation: float) -> Real:
    """Return a smooth positive field: the exponential of a few slow waves (transmit field, dielectric shading)."""
    total = np.zeros((grid[0].size, grid[1].size))
    for _ in range(4):
        waves, phase = rng.normal(0, 1.6, 2), rng.uniform(0, 2 * math.pi)
        total += np.cos(waves[0] * grid[0] + waves[1] * grid[1] + phase)
    return np.asarray(np.exp(deviation * total / math.sqrt(2)))


def _tissue_phase(image: Real, settings: Simulation, rng: np.random.Generator) -> Real:
    """Return the phase (y, x) that tissue has of its own: a rim of fat, off resonance, and fine structures.

    Args:
        image: (y, x), magnitudes up to 1.
        settings: what is drawn from.
        rng: of the draws.

    """
    fat, detail = _between(rng, settings.fat), _between(rng, settings.detail)
    side, width = (1 if rng.random() < 0.5 else -1), rng.uniform(0.02, 0.06)
    phase = detail * (image - ndimage.uniform_filter(image, 15))
    if fat:
        # Every second pixel will do for a depth; the rim ends where the dark skull hides the step.
        inside = ndimage.binary_fill_holes(np.pad(image[::2, ::2] > 0.08, 1))
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1] / (min(image.shape) / 2)
        phase += (
            side * fat * _rim(depth, width, settings, rng).repeat(2, 0).repeat(2, 1)[: image.shape[0], : image.shape[1]]
        )
    return np.asarray(phase, np.float32)


def _rim(depth: Real, width: float, settings: Simulation, rng: np.random.Generator) -> Real:
    """Return how far the rim of an object is off resonance, -1 to 1, from the depth below its surface.

    One layer of fat, or fat, muscle and marrow in turn, as gradient echoes of heads show them. Depth and width are in
    halves of the shorter side.
    """
    layered, period, first = rng.random() < settings.layers, rng.uniform(0.03, 0.1), rng.uniform(0, 2 * math.pi)
    if not layered:
        return np.asarray(depth < width, np.float32)
    return np.asarray(np.sin(2 * math.pi * depth / period + first) * (depth < 2.5 * width), np.float32)


def _coarse(shape: tuple[int, ...]) -> tuple[Real, Real]:
    """Return coarse positions y (n, 1) and x (1, n) that span the pixels, in halves of the longer side."""
    y, x = (np.linspace(-(n // 2), n - 1 - n // 2, COARSE) / (max(shape) / 2) for n in shape)
    return y[:, None], x[None, :]


def _smooth(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Interpolate (..., COARSE, COARSE), whose corners are those of the image, to (..., y, x) by cubic splines."""
    rows, columns = _spline(shape[0]), _spline(shape[1])
    kind = np.complex64 if np.iscomplexobj(values) else np.float32
    return np.asarray(rows @ values.astype(kind) @ columns.T)


@lru_cache(maxsize=256)
def _spline(n: int) -> npt.NDArray[np.float32]:
    """Return the matrix (n, COARSE) of cubic interpolation from COARSE points to n."""
    found = CubicSpline(np.linspace(0, n - 1, COARSE), np.eye(COARSE))(np.arange(n))
    return np.asarray(found, np.float32)
