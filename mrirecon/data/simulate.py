"""Simulate multi-coil k-space from magnitude images: y = F S (m e^{iφ}) + n.

`simulate` measures a batch of scenes on any device, for training, `mrirecon simulate` and `mrirecon detect`. Coils and
phase multiply the object on its own, fine grid; the product is then truncated to the measured resolution, as on a
scanner. Therefore edges have Gibbs ringing, a phase that varies rapidly within a pixel cancels signal, and no
reconstruction on the measured grid is exact. Random numbers are drawn on the CPU beforehand (`mrirecon.data.scene`): up
to rounding, a slice does not depend on the device or on the rest of its batch.

`simulate_kspace` measures an image on its own grid: it evaluates every field at every pixel in double precision. Random
draws depend on an integer seed only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mrirecon.data.anatomy import AIR, FAT
from mrirecon.data.batch import require_one_size
from mrirecon.data.fields import (
    COARSE,
    draw_gains,
    draw_loops,
    draw_waves,
    generator,
    mean_power,
    noise_covariance,
    sensitivities,
    sinc_matrix,
)
from mrirecon.data.lesions import Lesion
from mrirecon.data.scene import Scene, splines_over
from mrirecon.errors import InputError
from mrirecon.physics.operators import Fourier

Complex = npt.NDArray[np.complexfloating[Any, Any]]
Real = npt.NDArray[np.floating[Any]]
SHARED = 0.6  # fraction of each coil's noise variance from the body
_PLANE = (-2, -1)
_FAT_EDGE = 0.012  # width of the border of fat, in halves of the shorter side
_FAR = 30.0  # exp(−30) is negligible; denormal numbers would be slow
_AIR_EDGE = 1.0  # mm, width of the border of a sphere of air


@dataclass(frozen=True)
class SimulatedItems:
    """Hold simulated slices of one size.

    Attributes:
        kspace: (B, C, y, x) complex64, fully sampled, with noise; centred and unitary.
        clean: (B, C, y, x) complex64, the coil images without noise.
        image: (B, 1, y, x) complex64, the object with its phase, as measured without coils.
        covariance: (B, C, C) complex64, noise covariance of one sample.
        snr: SNR of each slice: mean signal of the object over the noise of an average coil image.
        labels: (B, 1, y, x) uint8, labels of the lesions.
        lesions: inserted lesions of each slice.

    """

    kspace: Tensor
    clean: Tensor
    image: Tensor
    covariance: Tensor
    snr: list[float]
    labels: Tensor
    lesions: list[list[Lesion]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread and, on a GPU, in full float32, so that the result is reproducible."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@torch.no_grad()
def simulate(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> SimulatedItems:
    """Measure a batch of slices.

    Args:
        scenes: scenes with equal numbers of coils and window sizes.
        device: device of the computation and of the result.

    Raises:
        InputError: the sizes differ.

    """
    require_one_size([(len(s.gains), *s.size) for s in scenes])
    grid = Grid(scenes, torch.device(device))
    coils, (height, width) = len(scenes[0].gains), scenes[0].size
    fine = grid.magnitude() * grid.phase()
    loops = [s.loops for s in scenes]
    points = sensitivities(loops, *grid.points(), grid.numbers("height").double())
    points = points / mean_power(points, loops, *grid.points()).sqrt()
    weighted = []
    for item, smooth in enumerate(points.to(torch.complex64)):
        maps = resample_kspace(smooth, *grid.splines(item))  # interpolation by the same matrix products
        object_and_coils = torch.cat([fine[item][None], maps * fine[item]])
        weighted.append(resample_kspace(object_and_coils, grid.rows[item], grid.columns[item]))
    measured = torch.stack(weighted)
    image, clean = measured[:, :1], measured[:, 1:]
    magnitude = image.abs()
    inside = magnitude > 0.1 * magnitude.amax(_PLANE, keepdim=True)
    level = (magnitude * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    stated = torch.tensor([math.nan if s.level is None else s.level for s in scenes], device=grid.device)
    sigma = torch.where(stated.isnan(), level, stated) / grid.numbers("snr")
    gains = torch.from_numpy(np.stack([s.gains for s in scenes])).to(grid.device)
    covariance = (
        noise_covariance(points, gains, grid.numbers("shared").double()) * sigma.double().square()[:, None, None]
    )
    white = torch.stack([_white(s, coils, height * width) for s in scenes]).to(grid.device)
    noise = torch.linalg.cholesky(covariance).to(torch.complex64) @ white
    return SimulatedItems(
        Fourier(_PLANE)(clean).add_(noise.unflatten(-1, (height, width))),
        clean.contiguous(),
        image.contiguous(),
        covariance.to(torch.complex64),
        [s.snr for s in scenes],
        torch.from_numpy(np.stack([s.labels for s in scenes]))[:, None].to(grid.device),
        [s.lesions for s in scenes],
    )


def true_maps(scenes: Sequence[Scene]) -> Tensor:
    """Return the sensitivities (B, C, y, x) complex64 at the measured pixels."""
    grid, loops = Grid(scenes, torch.device("cpu")), [s.loops for s in scenes]
    height = grid.numbers("height").double()
    y, x = (torch.from_numpy(np.stack([s.window[a] for s in scenes])) for a in (0, 1))
    power = mean_power(sensitivities(loops, *grid.points(), height), loops, *grid.points())
    return (sensitivities(loops, y, x, height) / power.sqrt()).to(torch.complex64)


def resample_kspace(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Truncate images on a fine grid to the measured resolution and window: R v Cᵀ.

    Args:
        values: (…, y, x), complex.
        rows: (h, y), real or complex; see `mrirecon.data.fields.sinc_matrix`.
        columns: (w, x).

    Returns:
        (…, h, w), complex.

    """
    if rows.is_complex() or columns.is_complex():
        return rows.to(values) @ values @ columns.to(values).mT
    # Two real products take half the time of a complex product.
    parts = torch.stack([values.real, values.imag])
    parts = rows @ (parts @ columns.mT)
    return torch.complex(parts[0], parts[1])


def _white(scene: Scene, coils: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(scene.seed + 2**31 * scene.number)
    return torch.randn(coils, samples, dtype=torch.complex64, generator=generator)


class Grid:
    """Place slices of different sizes on one grid, padded with air after the last row and column."""

    def __init__(self, scenes: Sequence[Scene], device: torch.device) -> None:
        self.scenes, self.device = scenes, device
        self.shape = tuple(max(s.image.shape[a] for s in scenes) for a in (0, 1))
        self.image = self._stacked([s.image for s in scenes])
        self.rows = self._matrices([s.rows for s in scenes], self.shape[0])
        self.columns = self._matrices([s.columns for s in scenes], self.shape[1])

    def numbers(self, name: str) -> Tensor:
        """Return one attribute of all scenes as a tensor (B,)."""
        return torch.tensor([getattr(s, name) for s in self.scenes], dtype=torch.float32, device=self.device)

    def points(self) -> tuple[Tensor, Tensor]:
        """Return the positions (B, COARSE) along y and x at which the coils are evaluated."""
        return _along_both(lambda a: torch.from_numpy(np.stack([s.points[a] for s in self.scenes])).to(self.device))

    def splines(self, item: int) -> tuple[Tensor, Tensor]:
        """Return the matrices (y, COARSE) and (x, COARSE) that interpolate an item's coarse grid."""
        shape = self.scenes[item].image.shape
        matrices = _along_both(lambda a: torch.from_numpy(splines_over(shape[a])).to(self.device))
        return _along_both(lambda a: functional.pad(matrices[a], (0, 0, 0, self.shape[a] - shape[a])))

    def magnitude(self) -> Tensor:
        """Return the magnitude (B, y, x) with its contrast and bias field; set ``relative`` for `phase`."""
        peak = self.image.amax(_PLANE, keepdim=True).clamp_min(1e-30)
        self.relative = self.image / peak
        bias = torch.stack([self._bias(i) for i in range(len(self.scenes))])
        return peak * self.relative.pow(self.numbers("exponent")[:, None, None]) * bias

    def phase(self) -> Tensor:
        """Return the complex64 factor of the magnitude (B, y, x) for phase and fat; zero in air."""
        x = self.relative
        rows = functional.avg_pool2d(x[:, None], (15, 1), 1, (7, 0))
        local = functional.avg_pool2d(rows, (1, 15), 1, (0, 7))[:, 0]
        total = self.numbers("detail")[:, None, None] * (x - local)
        total += torch.stack([self._waves(i) for i in range(len(self.scenes))])
        change = self._stacked([s.change for s in self.scenes])
        radians = self.numbers("radians")[:, None, None]
        signal = torch.ones_like(total)
        y, x = self._millimetres()
        for number in range(max(len(s.air) for s in self.scenes)):
            self._add_sphere(number, y, x, change, signal)
        for number in range(max(len(s.veins) for s in self.scenes)):
            self._add_vein(number, y, x, change)
        total += radians * change
        fat = self._fat()
        # Fat precesses relative to water: signal·((1 − f) + f e^{iψ})
        fat_signal = torch.polar(fat, (radians * FAT).expand_as(fat))
        return torch.polar(signal, total) * (fat_signal + (1 - fat))

    def _stacked(self, arrays: Sequence[np.ndarray]) -> Tensor:
        out = torch.zeros(len(arrays), *self.shape)
        for target, array in zip(out, arrays, strict=True):
            target[: array.shape[0], : array.shape[1]] = torch.from_numpy(array)
        return out.to(self.device)

    def _matrices(self, matrices: Sequence[np.ndarray], whole: int) -> Tensor:
        out = torch.zeros(len(matrices), len(matrices[0]), whole)
        for target, matrix in zip(out, matrices, strict=True):
            target[:, : matrix.shape[1]] = torch.from_numpy(matrix)
        return out.to(self.device)

    def _coarse(self, item: int) -> tuple[Tensor, Tensor]:
        """Return positions (COARSE,) along y and x of an item's own grid, in halves of its longer side."""
        shape = self.scenes[item].image.shape
        places = [np.linspace(-(n // 2), n - 1 - n // 2, COARSE) / (max(shape) / 2) for n in shape]
        return _along_both(lambda a: torch.from_numpy(places[a]).to(self.device, torch.float32))

    def _waves(self, item: int) -> Tensor:
        scene = self.scenes[item]
        rows, columns = self.splines(item)
        return rows @ (scene.strength * scene.waves.at(*self._coarse(item), scene.height)) @ columns.T

    def _bias(self, item: int) -> Tensor:
        """Return a smooth positive bias field, the exponential of a few slow waves (transmit field, dielectrics)."""
        scene = self.scenes[item]
        y, x = self._coarse(item)
        waves = torch.from_numpy(scene.bias).to(y)[..., None, None]
        total = (waves[:, 0] * y[:, None] + waves[:, 1] * x + waves[:, 2]).cos().sum(0)
        rows, columns = self.splines(item)
        return rows @ torch.exp(scene.deviation / math.sqrt(2) * total) @ columns.T

    def _millimetres(self) -> tuple[Tensor, Tensor]:
        """Return the positions (B, y, 1) and (B, 1, x) of pixels in mm from each item's centre pixel."""

        def along(axis: int) -> Tensor:
            centre = torch.tensor([s.image.shape[axis] // 2 for s in self.scenes], device=self.device)
            step = torch.tensor([s.spacing[axis] for s in self.scenes], dtype=torch.float32, device=self.device)
            return (torch.arange(self.shape[axis], device=self.device) - centre[:, None]) * step[:, None]

        return along(0)[:, :, None], along(1)[:, None, :]

    def _drawn(self, name: str, number: int, missing: Sequence[float]) -> list[Tensor]:
        """Return the columns (B, 1, 1) of row ``number`` of a table in each scene, such as ``veins``."""
        rows = [getattr(s, name)[number] if number < len(getattr(s, name)) else missing for s in self.scenes]
        table = torch.tensor(np.array(rows), dtype=torch.float32, device=self.device)
        return list(table.T[..., None, None])

    def _add_sphere(self, number: int, y: Tensor, x: Tensor, change: Tensor, signal: Tensor) -> None:
        """Add the field of a sphere of air, Δχ/3 (a/r)³ (3 cos² θ − 1), to ``change``, and remove its signal."""
        at_y, at_x, z, radius = self._drawn("air", number, (0.0, 0.0, 1e3, 1e-3))
        dy, dx = y - at_y, x - at_x
        square = dy.square() + dx.square() + z.square()
        axis = torch.tensor([s.axis for s in self.scenes], device=self.device)[:, None, None]
        along = torch.where(axis == 0, z.square().expand_as(square), torch.where(axis == 1, dy, dx).square())
        distance = square.sqrt()
        outside = AIR / 3 * (radius / distance).pow(3) * (3 * along / square - 1)
        change += torch.where(distance > radius, outside, 0)
        signal *= ((distance - radius) / _AIR_EDGE + 0.5).clamp(0, 1)

    def _add_vein(self, number: int, y: Tensor, x: Tensor, change: Tensor) -> None:
        """Add the change of the field inside a vein."""
        none = (0.0, 0.0, 1.0, 1e3, 1e3, 1.0, 1.0, 0.0)
        centre_y, centre_x, radius, at_y, at_x, length, width, strength = self._drawn("veins", number, none)
        across = ((y - centre_y).square() + (x - centre_x).square()).sqrt() - radius
        along = (y - at_y).square() + (x - at_x).square()
        away = (across / width).square() + along / (2 * length.square())
        change += strength * torch.exp(-away.clamp_max(_FAR))

    def _fat(self) -> Tensor:
        """Return the signal fraction of fat (B, y, x) as a function of the depth below the skin."""
        depth = self._stacked([s.depth for s in self.scenes])
        share, first, last, marrow, end = torch.tensor(
            [s.fat for s in self.scenes], dtype=torch.float32, device=self.device
        ).T[..., None, None]
        under = ((depth - first) / _FAT_EDGE).clamp(0, 1) * ((last - depth) / _FAT_EDGE).clamp(0, 1)
        inner = ((depth - marrow) / _FAT_EDGE).clamp(0, 1) * ((end - depth) / _FAT_EDGE).clamp(0, 1)
        bright = (self.relative / 0.15).clamp(0, 1)  # the skull between them has no fat signal
        fat: Tensor = share * bright * torch.maximum(under, inner) * (depth > 0)
        return fat


@dataclass(frozen=True)
class Simulated:
    """Hold a simulated scan; the axis ``slice`` is absent if the image has none.

    Attributes:
        kspace: (slice, coil, y, x), complex64, centred and unitary, noise added.
        maps: (slice, coil, y, x), complex64, the coil sensitivities, as simulated, not normalised.
        noise_covariance: (coil, coil), complex128, E[n nᴴ] of one k-space sample (and so of one coil-image pixel).
        image: (slice, y, x), complex64, the object with its phase, on the grid of ``kspace``, without noise.

    """

    kspace: Complex
    maps: Complex
    noise_covariance: Complex
    image: Complex


def simulate_kspace(
    image: Real,
    coils: int,
    snr: float,
    seed: int,
    *,
    shape: tuple[int, int] | None = None,
    spacing: float = 0.05,
) -> Simulated:
    """Measure a magnitude image with a coil array; coil positions, noise and phase depend on the seed.

    The coils have the same position for all slices; their sensitivities change with the slice position.

    Args:
        image: (y, x) or (slice, y, x), real, nonnegative.
        coils: number of coils; 1 is a volume coil.
        snr: mean signal of the object (pixels above 5 % of the maximum) over √(E|n|²) of one pixel of an average coil
            image. The SNR of a fully sampled combined image is similar. ``math.inf`` adds no noise.
        seed: seed of all random draws.
        shape: (y, x) number of samples, at most the size of the image. With fewer samples than pixels, edges have Gibbs
            ringing as in a measurement. None measures all samples.
        spacing: distance of adjacent slices, in halves of the longer side of the field of view.

    Raises:
        InputError: the image, number of coils, SNR or shape is invalid.

    """
    stack = np.asarray(image)
    if np.iscomplexobj(stack):
        raise InputError("only a magnitude image can be simulated from", why="it is complex", fix="pass its magnitude")
    stack = stack.astype(np.float64)
    if stack.ndim not in (2, 3) or 0 in stack.shape or not np.isfinite(stack).all() or stack.min() < 0:
        raise InputError(
            "only a magnitude image can be simulated from",
            why=f"shape {stack.shape}, {np.count_nonzero(~np.isfinite(stack))} NaN or infinite; or some negative",
            fix="pass a real, finite, nonnegative image (y, x) or (slice, y, x)",
        )
    if coils < 1 or not snr > 0:
        raise InputError("the simulation needs at least one coil and a positive SNR", why=f"coils={coils}, snr={snr}")
    stack = stack if stack.ndim == 3 else stack[None]
    fine = stack.shape[-2:]
    shape = fine if shape is None else shape
    if any(a > b or a < 1 for a, b in zip(shape, fine, strict=True)):
        raise InputError(
            "the measurement cannot have more samples than the image",
            why=f"shape={shape}, image {fine}",
            fix="reduce shape, or interpolate the image first",
        )
    height = (np.arange(len(stack)) - (len(stack) - 1) / 2) * spacing
    objects = torch.from_numpy(stack) * torch.stack(
        [torch.exp(1j * torch.from_numpy(object_phase(fine, seed, offset=z))) for z in height]
    )
    rows, columns = (torch.from_numpy(sinc_matrix(n, m, 0, m, exact=True)) for n, m in zip(fine, shape, strict=True))
    images = torch.stack(
        [
            resample_kspace(torch.from_numpy(coil_maps(fine, coils, seed, offset=z)) * one, rows, columns)
            for z, one in zip(height, objects, strict=True)
        ]
    )
    kspace = Fourier((-2, -1))(images).numpy()
    maps = np.stack([coil_maps(shape, coils, seed, offset=z) for z in height])

    inside = stack > 0.05 * stack.max()
    sigma = 0.0 if math.isinf(snr) or not inside.any() else float(stack[inside].mean()) / snr
    gains = torch.from_numpy(draw_gains(coils, seed))[None]
    flat = torch.from_numpy(maps).movedim(1, 0).flatten(1)[None, :, None]
    relative = noise_covariance(flat, gains, torch.tensor([SHARED], dtype=torch.float64))[0]
    covariance: np.ndarray = sigma**2 * relative.numpy()
    kspace = add_noise(kspace, covariance, seed)
    arrays = (kspace, maps, resample_kspace(objects, rows, columns).numpy())
    kspace, maps, truth = ((v if np.ndim(image) == 3 else v[0]).astype(np.complex64) for v in arrays)
    return Simulated(kspace, maps, covariance, truth)


def coil_maps(shape: tuple[int, int], coils: int, seed: int, *, offset: float = 0.0) -> Complex:
    """Return the receive sensitivities of an array of loops around the object; see `mrirecon.data.fields`.

    Args:
        shape: (y, x) size in square pixels.
        coils: number of coils.
        seed: seed of the irregularities.
        offset: position of the slice along z, in halves of the longer side of the field of view.

    Returns:
        (coil, y, x), complex128, with Σ|S|² = 1 on average over the ellipse of 0.85 of the field of view.

    """
    loops, (y, x) = [draw_loops(shape, coils, seed)], _positions(shape)
    maps = sensitivities(loops, y[None], x[None], torch.tensor([offset], dtype=torch.float64))
    return np.asarray((maps / mean_power(maps, loops, y[None], x[None]).sqrt())[0])


def object_phase(shape: tuple[int, int], seed: int, *, offset: float = 0.0) -> Real:
    """Return a smooth random phase of the object; see `mrirecon.data.fields.Waves`.

    Args:
        shape: (y, x) size.
        seed: seed of the draw; the field does not depend on the number of pixels.
        offset: position along z, in halves of the longer side of the field of view; adjacent slices are similar.

    Returns:
        (y, x), radians, not wrapped; about ±π over the object.

    """
    return np.asarray(draw_waves(seed).at(*_positions(shape), offset))


def add_noise(kspace: Complex, covariance: Complex, seed: int) -> Complex:
    """Add circular complex Gaussian noise with E[n nᴴ] = ``covariance`` to every sample.

    Args:
        kspace: (..., coil, *samples) with two axes of samples.
        covariance: (coil, coil), Hermitian; zero adds nothing.
        seed: seed of the draw.

    Returns:
        A new array like ``kspace``, complex128.

    """
    if not covariance.any():
        return np.array(kspace, np.complex128)
    root = np.linalg.cholesky(covariance)
    drawn = generator(seed, 4).standard_normal((*kspace.shape, 2))
    white = (drawn[..., 0] + 1j * drawn[..., 1]) / math.sqrt(2)
    return np.asarray(kspace + np.einsum("cd,...dyx->...cyx", root, white))


def _positions(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return pixel positions (y,) and (x,) in halves of the longer side, 0 at the centre pixel."""
    return _along_both(lambda a: (torch.arange(shape[a], dtype=torch.float64) - shape[a] // 2) / (max(shape) / 2))


def _along_both(values: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """Return one value per axis (y, x)."""
    return values(0), values(1)
