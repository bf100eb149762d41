"""Describe where the k-space of an item was sampled: on a grid with a mask, or along a trajectory.

Reconstruction asks a `Sampling` for the calibration region, the noise, the undersampling and the problem, so that it
treats both alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import LOUD_COIL, NoiseLevel, measure_noise, relative_noise
from mrirecon.physics.nonuniform import Gram, NonUniformFourier, NonUniformProblem, Weighting, pipe_menon
from mrirecon.physics.operators import Fourier
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient

_COVERED = 0.4  # density of samples, relative to 1/FOV, from which a position of k-space counts as sampled
_MARGIN = 8  # further samples of k-space along each axis that the low-resolution images cover
_GRID_ITERATIONS, _GRID_RIDGE = 12, 1e-3
_FAR = 0.1  # fraction of the samples farthest from the centre, for an upper bound of the noise
_EDGE = 0.45  # highest frequency along a readout that the receiver does not attenuate, in cycles per sample
_FEWEST_NOISE_SAMPLES = 256
_MAX_RATIO = 100.0  # of the deviation of outer samples to that outside of the field of view


class Sampling(ABC):
    """Describe where the k-space of one item was sampled.

    Attributes:
        kind: the kind of sampling, for the card of a model.

    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Return the spatial shape of the image."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def only(self, part: np.ndarray) -> Sampling:
        """Return the sampling of a part of the samples; ``part`` has the shape of the mask."""

    @property
    @abstractmethod
    def acceleration(self) -> float:
        """Return the size of k-space over that of its sampled part."""

    @property
    @abstractmethod
    def box(self) -> tuple[slice, ...]:
        """Return the fully sampled box around the centre of k-space, in samples of the grid of the image."""

    @abstractmethod
    def calibration(self, kspace: np.ndarray, limit: int | None = None) -> np.ndarray:
        """Return Cartesian k-space of the calibration region (C, *box) with at most ``limit`` samples along an axis."""

    @abstractmethod
    def noise(self, kspace: np.ndarray) -> NoiseLevel:
        """Measure the noise of the samples of all coils."""

    @abstractmethod
    def relative_noise(self, kspace: np.ndarray) -> np.ndarray:
        """Return the ratio (C,) of the noise of each coil to that of the others, and 1 for coils that are not loud."""

    @abstractmethod
    def coil_images(self, kspace: np.ndarray) -> np.ndarray:
        """Return the zero-filled images of the coils (C, *shape)."""

    @abstractmethod
    def problem(self, kspace: np.ndarray, maps: Tensor, noise: Tensor | None = None) -> Problem:
        """Return the problem of k-space for maps (1, M, C, *space), as a batch of one."""


def as_sampling(sampling: Sampling | np.ndarray) -> Sampling:
    """Return a sampling unchanged, and a mask (*space) as a `GridSampling`."""
    return sampling if isinstance(sampling, Sampling) else GridSampling(sampling)


@dataclass(frozen=True)
class GridSampling(Sampling):
    """Sample a Cartesian grid.

    Attributes:
        mask: (*space), true where sampled.

    """

    kind = "a Cartesian grid"
    mask: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the grid."""
        return self.mask.shape

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return int(self.mask.sum())

    def only(self, part: np.ndarray) -> GridSampling:
        """Return the sampling of a part of the samples."""
        return GridSampling(self.mask & part)

    @property
    def acceleration(self) -> float:
        """Return the number of samples of the grid over that of the measured samples."""
        return self.mask.size / float(self.mask.sum())

    @property
    def box(self) -> tuple[slice, ...]:
        """Return the fully sampled box around the centre."""
        return find_calibration(self.mask)

    def calibration(self, kspace: np.ndarray, limit: int | None = None) -> np.ndarray:
        """Return the samples of the fully sampled box."""
        return kspace[(slice(None), *find_calibration(self.mask, limit))]

    def noise(self, kspace: np.ndarray) -> NoiseLevel:
        """Measure the noise; see `mrirecon.coils.noise.measure_noise`."""
        return measure_noise(kspace, self.mask)

    def relative_noise(self, kspace: np.ndarray) -> np.ndarray:
        """Return the ratios of `mrirecon.coils.noise.relative_noise`."""
        return relative_noise(kspace, self.mask)

    def coil_images(self, kspace: np.ndarray) -> np.ndarray:
        """Return the inverse Fourier transform."""
        images: np.ndarray = Fourier(tuple(range(-self.mask.ndim, 0))).adjoint(torch.from_numpy(kspace)).numpy()
        return images

    def problem(self, kspace: np.ndarray, maps: Tensor, noise: Tensor | None = None) -> Problem:
        """Return the Cartesian problem."""
        sampled = torch.from_numpy(self.mask.astype(np.float32))[None, None]
        return Problem(torch.from_numpy(kspace)[None], sampled, maps, noise=noise)


@dataclass(frozen=True)
class TrajectorySampling(Sampling):
    """Sample along a trajectory.

    Attributes:
        fourier: transform with the trajectory of this item, a batch of one.
        used: (readout, sample), true for the samples that are used.
        weighting: weights of the samples in the problem; see `NonUniformProblem`.

    """

    kind = "a trajectory"
    fourier: NonUniformFourier
    used: np.ndarray
    weighting: Weighting = "density"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the spatial shape of the image."""
        return self.fourier.shape

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return int(self.used.sum())

    def only(self, part: np.ndarray) -> TrajectorySampling:
        """Return the sampling of a part of the samples."""
        return TrajectorySampling(self.fourier, self.used & part, self.weighting)

    @cached_property
    def density(self) -> Tensor:
        """Return the density compensation (1, 1, readout, sample) of the samples that are used."""
        return pipe_menon(self.fourier, torch.from_numpy(self.used)[None, None])

    @cached_property
    def covered(self) -> np.ndarray:
        """Return a mask (*space) of the Cartesian positions that lie between samples at most about 1/FOV apart."""
        wide, axes = self.fourier.doubled, tuple(range(-len(self.shape), 0))
        image = wide.adjoint(torch.complex(self.density, torch.zeros_like(self.density)))
        for axis, n in zip(axes, self.shape, strict=True):
            triangle = 1 - (torch.arange(2 * n) - n).abs() / n
            image = image * triangle.reshape(-1, *[1] * (-axis - 1))
        # The two transforms have the factor (2ᵈ n)^(−½) each; every second position is one of the image's grid.
        spread = Fourier(axes)(image)[0, 0].real * 2 ** len(self.shape)
        integers = tuple(slice(n - 2 * (n // 2), None, 2) for n in self.shape)
        return np.asarray(spread[integers].numpy() > _COVERED)

    @cached_property
    def acceleration(self) -> float:
        """Return the area of k-space within the largest radius of the samples, over the area that they represent.

        At least 1. Radii are relative to half the size of k-space along each axis.
        """
        sides = torch.tensor(self.shape)
        largest = float((2 * self.fourier.trajectory[0][torch.from_numpy(self.used)] / sides).norm(dim=-1).max())
        axes = [2 * (np.arange(n) - n // 2) / n for n in self.shape]
        radius = np.sqrt(sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")))
        return max(1.0, float((radius <= largest).sum()) / float(self.density.sum()))

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """Return the box around the centre whose positions are all covered."""
        return find_calibration(self.covered)

    def calibration(self, kspace: np.ndarray, limit: int | None = None) -> np.ndarray:
        """Return the Cartesian k-space of low-resolution images that fit the samples near the centre."""
        size = tuple(s.stop - s.start for s in find_calibration(self.covered, limit))
        region: np.ndarray = grid_centre(torch.from_numpy(kspace), self.fourier, size, self.used).numpy()
        return region

    def noise(self, kspace: np.ndarray) -> NoiseLevel:
        """Measure the noise; see `noise_of_readouts`."""
        return noise_of_readouts(kspace, self.fourier.trajectory[0].cpu().numpy(), self.shape, self.used)

    def relative_noise(self, kspace: np.ndarray) -> np.ndarray:
        """Return the ratio to the median of all coils, if it is large and if the noise was measured without signal."""
        level = self.noise(kspace)
        ratio = level.deviation / max(float(np.median(level.deviation)), 1e-30)
        return np.where((ratio > LOUD_COIL) & (level.low > 0), ratio, 1.0)

    def coil_images(self, kspace: np.ndarray) -> np.ndarray:
        """Return the images by gridding."""
        images: np.ndarray = self.fourier.adjoint(self.density * torch.from_numpy(kspace)[None])[0].numpy()
        return images

    def problem(self, kspace: np.ndarray, maps: Tensor, noise: Tensor | None = None) -> Problem:
        """Return the problem of the samples on the trajectory."""
        used = torch.from_numpy(self.used)[None, None].to(torch.float32)
        return NonUniformProblem(
            torch.from_numpy(kspace)[None],
            used,
            maps,
            noise=noise,
            fourier=self.fourier,
            density=self.density,
            weighting=self.weighting,
        )


def grid_centre(y: Tensor, fourier: NonUniformFourier, size: tuple[int, ...], used: np.ndarray) -> Tensor:
    """Return Cartesian k-space around the centre, from the samples of one item.

    Images of low resolution are fitted to the samples near the centre. They cover a margin around the box, because
    samples at its edge also depend on the Cartesian positions just outside it.

    Args:
        y: (C, readout, sample) complex.
        fourier: transform with the trajectory of the item.
        size: size of the box.
        used: (readout, sample), true for the samples that are used.

    Returns:
        (C, *size) complex.

    """
    if min(size) < 1:
        return y.new_zeros(len(y), *size)
    wide = tuple(min(n + _MARGIN, full) for n, full in zip(size, fourier.shape, strict=True))
    k = fourier.trajectory[0]
    near = (k.abs() <= torch.tensor(wide) / 2).all(-1) & torch.from_numpy(used)
    centre = NonUniformFourier(k[near][None, None], wide)
    density = pipe_menon(centre)
    gram = Gram(centre, density)
    samples = y[:, near][None, :, None]
    images = conjugate_gradient(
        lambda v: gram(v) + _GRID_RIDGE * v, centre.adjoint(density * samples), None, _GRID_ITERATIONS
    )
    spread = Fourier(tuple(range(-len(size), 0)))(images)[0]
    for axis, (m, n) in enumerate(zip(wide, size, strict=True), -len(size)):
        spread = spread.narrow(axis, m // 2 - n // 2, n)
    return spread


def noise_of_readouts(
    kspace: np.ndarray, trajectory: np.ndarray, shape: tuple[int, ...], used: np.ndarray
) -> NoiseLevel:
    """Measure the noise covariance of the coils from readouts.

    An oversampled straight readout covers more than the field of view along its direction: the frequencies outside hold
    noise only. Other readouts give an upper bound, from the samples farthest from the centre.

    Args:
        kspace: (C, readout, sample) complex.
        trajectory: (readout, sample, ndim) in 1/FOV.
        shape: spatial shape of the image.
        used: (readout, sample), true for the samples that are used.

    """
    radius = np.where(used, np.linalg.norm(2 * trajectory / np.array(shape), axis=-1), -1)
    far = kspace[:, radius >= np.quantile(radius[used], 1 - _FAR)].astype(np.complex128)
    # The median is robust to some signal: the deviation of each coil comes from it, the correlations from all samples.
    deviation = np.sqrt(np.median(np.abs(far) ** 2, axis=1) / np.log(2))
    outside = _outside_field_of_view(kspace, trajectory, shape, used)
    # Interpolated samples have no noise outside of the field of view, so that it cannot be measured there.
    if outside is not None and np.linalg.norm(deviation) < _MAX_RATIO * np.sqrt((np.abs(outside) ** 2).mean(1).sum()):
        error = float(outside.size) ** -0.5
        covariance = outside.astype(np.complex128) @ outside.conj().T / outside.shape[1]
        return NoiseLevel(covariance, 1 - 2 * error, 1 + 2 * error, "the readouts outside of the field of view")
    products = far @ far.conj().T / far.shape[1]
    scale = deviation / np.sqrt(np.real(np.diagonal(products)).clip(min=1e-30))
    return NoiseLevel(products * np.outer(scale, scale), 0.0, 1.1, "outer samples, which may include signal")


def _outside_field_of_view(
    kspace: np.ndarray, trajectory: np.ndarray, shape: tuple[int, ...], used: np.ndarray
) -> np.ndarray | None:
    """Return values (C, N) with the covariance of the noise, from frequencies outside of the field of view.

    None if the readouts are not straight, not complete or not oversampled.
    """
    steps = np.diff(trajectory, axis=1)
    if len(steps[0]) < 16 or not used.all() or np.abs(steps - steps[:, :1]).max() > 1e-3 * np.abs(steps).max():
        return None
    samples = kspace.shape[2]
    phase = 2 * np.pi * (np.arange(samples) + 0.5) / samples
    # Blackman-Harris: side lobes at −92 dB, below the noise of any scan (Harris, Proc. IEEE 66:51, 1978).
    window = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
    window /= np.sqrt((window**2).sum())
    projections = np.fft.fft(kspace * window, axis=2)
    frequency = np.abs(np.fft.fftfreq(samples))
    # A corner of the field of view has the frequency ½ Σ |step|; the window widens it by four samples.
    corner = 0.5 * np.abs(steps[:, 0]).sum(-1) + 4 / samples
    noise = (frequency > corner[:, None]) & (frequency < _EDGE)
    return projections[:, noise] if noise.sum() >= _FEWEST_NOISE_SAMPLES else None


@singledispatch
def noise_of_samples(p: Problem) -> Tensor:
    """Measure the noise covariance (B, C, C) of the samples of a problem."""
    masks = p.mask.expand(p.y.shape[0], *p.mask.shape[1:])[:, 0].cpu().numpy() > 0
    levels = [measure_noise(y, mask) for y, mask in zip(p.y.cpu().numpy(), masks, strict=True)]
    return torch.from_numpy(np.stack([level.covariance for level in levels])).to(p.maps)


@noise_of_samples.register
def _(p: NonUniformProblem) -> Tensor:
    used = p.mask.expand(len(p.y), -1, -1, -1)[:, 0].cpu().numpy() > 0
    points = p.fourier.trajectory.expand(len(p.y), -1, -1, -1).cpu().numpy()
    items = zip(p.y.cpu().numpy(), points, used, strict=True)
    levels = [noise_of_readouts(y, k, p.fourier.shape, mask) for y, k, mask in items]
    return torch.from_numpy(np.stack([level.covariance for level in levels])).to(p.maps)
