"""Slices of magnitude volumes, measured: the simulator behind training, `mrirecon simulate` and `mrirecon detect`.

y = F S (m e^{iφ}) + n, for a batch of slices at once, on any device. Coils and phase multiply the object on its own,
fine grid; the product is then truncated to the measured resolution, as a scanner does it, so that edges ring, phase
that turns fast within a pixel takes its signal away, and no reconstruction on the measured grid is exact. Random
numbers are drawn on the CPU beforehand (`mrirecon.data.scene`): an item does not depend on the device, nor on who else
is in its batch, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mrirecon.data.anatomy import AIR, FAT
from mrirecon.data.batch import require_one_size
from mrirecon.data.fields import COARSE, mean_power, noise_covariance, sensitivities
from mrirecon.data.lesions import Lesion
from mrirecon.data.scene import Scene, splines_over
from mrirecon.physics.operators import Fourier

_PLANE = (-2, -1)
_EDGE = 0.012  # of the depth: how soft the borders of fat are, in halves of the shorter side
_FAR = 30.0  # exp(−30) is nothing, and numbers far below it are slow
_AIR_EDGE = 1.0  # mm: how soft the border of a sphere of air is


@dataclass(frozen=True)
class Measured:
    """Simulated slices of one size.

    Attributes:
        kspace: (B, C, y, x) complex64, fully sampled, with noise; centred and unitary.
        clean: (B, C, y, x) complex64, the coil images without noise.
        image: (B, 1, y, x) complex64, the object with its phase, as it is measured without coils.
        covariance: (B, C, C) complex64, of the noise of one sample.
        snr: of each slice, mean signal of the object over the noise of an average coil image.
        labels: (B, 1, y, x) uint8, the lesions.
        lesions: what was inserted into each slice.

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
    """Compute on one thread, so that the bits do not depend on who computes: a worker has one, the trainer several.

    And, on a GPU, without the shorter numbers that a trainer may allow in matrix products.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@torch.no_grad()
def simulate(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Measured:
    """Measure a batch of slices.

    Args:
        scenes: of one number of coils and one size of the window.
        device: where to compute, and where the result is.

    Raises:
        InputError: sizes that differ.

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
        maps = measure(smooth, *grid.splines(item))  # interpolated, by the same products
        both = torch.cat([fine[item][None], maps * fine[item]])
        weighted.append(measure(both, grid.rows[item], grid.columns[item]))
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
    return Measured(
        Fourier(_PLANE)(clean).add_(noise.unflatten(-1, (height, width))),
        clean.contiguous(),
        image.contiguous(),
        covariance.to(torch.complex64),
        [s.snr for s in scenes],
        torch.from_numpy(np.stack([s.labels for s in scenes]))[:, None].to(grid.device),
        [s.lesions for s in scenes],
    )


def true_maps(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Tensor:
    """Return the sensitivities (B, C, y, x) complex64 at the measured pixels."""
    grid, loops = Grid(scenes, torch.device(device)), [s.loops for s in scenes]
    height = grid.numbers("height").double()
    y, x = (torch.from_numpy(np.stack([s.window[a] for s in scenes])).to(device) for a in (0, 1))
    power = mean_power(sensitivities(loops, *grid.points(), height), loops, *grid.points())
    return (sensitivities(loops, y, x, height) / power.sqrt()).to(torch.complex64)


def measure(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
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
    # Two real products cost half of a complex one.
    parts = torch.stack([values.real, values.imag])
    parts = rows @ (parts @ columns.mT)
    return torch.complex(parts[0], parts[1])


def _white(scene: Scene, coils: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(scene.seed + 2**31 * scene.number)
    return torch.randn(coils, samples, dtype=torch.complex64, generator=generator)


class Grid:
    """Slices of different sizes on one grid, filled up with air behind their last row and column."""

    def __init__(self, scenes: Sequence[Scene], device: torch.device) -> None:
        self.scenes, self.device = scenes, device
        self.shape = tuple(max(s.image.shape[a] for s in scenes) for a in (0, 1))
        self.image = self._stacked([s.image for s in scenes])
        self.rows = self._matrices([s.rows for s in scenes], self.shape[0])
        self.columns = self._matrices([s.columns for s in scenes], self.shape[1])

    def numbers(self, name: str) -> Tensor:
        """Return one attribute of all scenes (B,)."""
        return torch.tensor([getattr(s, name) for s in self.scenes], dtype=torch.float32, device=self.device)

    def points(self) -> tuple[Tensor, Tensor]:
        """Return the positions (B, COARSE) along y and x that the coils are evaluated at."""
        found = [torch.from_numpy(np.stack([s.points[a] for s in self.scenes])).to(self.device) for a in (0, 1)]
        return found[0], found[1]

    def splines(self, item: int) -> tuple[Tensor, Tensor]:
        """Return the matrices (y, COARSE) and (x, COARSE) that interpolate an item's coarse grid."""
        both = []
        for n, whole in zip(self.scenes[item].image.shape, self.shape, strict=True):
            matrix = torch.from_numpy(splines_over(n)).to(self.device)
            both.append(functional.pad(matrix, (0, 0, 0, whole - n)))
        return both[0], both[1]

    def magnitude(self) -> Tensor:
        """Return the magnitude (B, y, x) with its contrast and bias field; the phase follows from it as it was."""
        peak = self.image.amax(_PLANE, keepdim=True).clamp_min(1e-30)
        self.relative = self.image / peak
        bias = torch.stack([self._bias(i) for i in range(len(self.scenes))])
        return peak * self.relative.pow(self.numbers("exponent")[:, None, None]) * bias

    def phase(self) -> Tensor:
        """Return what multiplies the magnitude (B, y, x), complex64: phase, fat, and nothing where air is."""
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
        # Fat turns against water: signal·((1 − f) + f e^{iψ})
        turned = torch.polar(fat, (radians * FAT).expand_as(fat))
        return torch.polar(signal, total) * (turned + (1 - fat))

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
        both = [np.linspace(-(n // 2), n - 1 - n // 2, COARSE) / (max(shape) / 2) for n in shape]
        y, x = (torch.from_numpy(p).to(self.device, torch.float32) for p in both)
        return y, x

    def _waves(self, item: int) -> Tensor:
        scene = self.scenes[item]
        rows, columns = self.splines(item)
        return rows @ (scene.strength * scene.waves.at(*self._coarse(item), scene.height)) @ columns.T

    def _bias(self, item: int) -> Tensor:
        """Return a smooth positive field: the exponential of a few slow waves (transmit field, dielectric shading)."""
        scene = self.scenes[item]
        y, x = self._coarse(item)
        waves = torch.from_numpy(scene.bias).to(y)[..., None, None]
        total = (waves[:, 0] * y[:, None] + waves[:, 1] * x + waves[:, 2]).cos().sum(0)
        rows, columns = self.splines(item)
        return rows @ torch.exp(scene.deviation / math.sqrt(2) * total) @ columns.T

    def _millimetres(self) -> tuple[Tensor, Tensor]:
        """Return the positions (B, y, 1) and (B, 1, x) of pixels in mm from each item's centre pixel."""
        both = []
        for axis in (0, 1):
            first = torch.tensor([s.image.shape[axis] // 2 for s in self.scenes], device=self.device)
            step = torch.tensor([s.spacing[axis] for s in self.scenes], dtype=torch.float32, device=self.device)
            both.append((torch.arange(self.shape[axis], device=self.device) - first[:, None]) * step[:, None])
        return both[0][:, :, None], both[1][:, None, :]

    def _drawn(self, name: str, number: int, missing: Sequence[float]) -> list[Tensor]:
        """Return the parts (B, 1, 1) of the n-th of things that are drawn for each item."""
        rows = [getattr(s, name)[number] if number < len(getattr(s, name)) else missing for s in self.scenes]
        table = torch.tensor(np.array(rows), dtype=torch.float32, device=self.device)
        return list(table.T[..., None, None])

    def _add_sphere(self, number: int, y: Tensor, x: Tensor, change: Tensor, signal: Tensor) -> None:
        """Add the field of a sphere of air, Δχ/3 (a/r)³ (3 cos² θ − 1), to ``change``, and take its signal away."""
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
        """Add what blood in a vein makes of the field inside the vein."""
        none = (0.0, 0.0, 1.0, 1e3, 1e3, 1.0, 1.0, 0.0)
        centre_y, centre_x, radius, at_y, at_x, length, width, strength = self._drawn("veins", number, none)
        across = ((y - centre_y).square() + (x - centre_x).square()).sqrt() - radius
        along = (y - at_y).square() + (x - at_x).square()
        away = (across / width).square() + along / (2 * length.square())
        change += strength * torch.exp(-away.clamp_max(_FAR))

    def _fat(self) -> Tensor:
        """Return the share of fat in the signal (B, y, x), from the depth below the skin."""
        depth = self._stacked([s.depth for s in self.scenes])
        share, first, last, marrow, end = torch.tensor(
            [s.fat for s in self.scenes], dtype=torch.float32, device=self.device
        ).T[..., None, None]
        under = ((depth - first) / _EDGE).clamp(0, 1) * ((last - depth) / _EDGE).clamp(0, 1)
        inner = ((depth - marrow) / _EDGE).clamp(0, 1) * ((end - depth) / _EDGE).clamp(0, 1)
        bright = (self.relative / 0.15).clamp(0, 1)  # the skull between them holds no fat that is seen
        fat: Tensor = share * bright * torch.maximum(under, inner) * (depth > 0)
        return fat
