"""Draw and evaluate the smooth fields of a simulated scan: coil sensitivities and object phase.

The unit of length is half of the longer side of the field of view (11.5 cm for a head in a field of 23 cm), with 0 at
the centre pixel ``n // 2``. Random draws depend on an integer seed only; fields are evaluated in torch for a batch, on
any grid and device. Smooth fields are evaluated on a coarse grid and interpolated by cubic splines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Real = npt.NDArray[np.floating[Any]]
Complex = npt.NDArray[np.complexfloating[Any, Any]]

WIRE = 0.2  # thickness of a loop's conductor; keeps the field finite if a corner of the image lies on the wire
SEGMENTS = 32  # segments of a loop: for this thickness, the sum approximates the integral within 1e-4
DISTANCE = 1.3  # distance of the loops from the centre, relative to the half axes of the field of view
HEAD = 0.85  # largest object relative to the field of view; maps are normalised inside this ellipse
COARSE = 32  # points per axis at which smooth fields are evaluated


def generator(*key: int) -> np.random.Generator:
    """Return a random generator that is seeded by integers, such as a seed and a purpose number."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))


@dataclass(frozen=True)
class Loops:
    """Hold receiver coils: round loops of wire around the object.

    Attributes:
        centre: (L, 3), position (x, y, z).
        normal: (L, 3), unit normal vector.
        radius: (L,), radius.
        gain: (L,), complex gain of amplifier and cable.
        coils: number of coils: L, or 1 if the loops form one volume coil.
        half: (y, x), half axes of the field of view.

    """

    centre: Real
    normal: Real
    radius: Real
    gain: Complex
    coils: int
    half: tuple[float, float]

    def wire(self) -> tuple[Real, Real]:
        """Return the segments of every loop (L, SEGMENTS, 3): positions and length vectors."""
        other = np.where(np.abs(self.normal[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
        side = np.cross(self.normal, other)
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        up = np.cross(self.normal, side)  # normal × up = −side
        angle = np.arange(SEGMENTS) * 2 * math.pi / SEGMENTS
        cos, sin = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
        radius = self.radius[:, None, None]
        places = self.centre[:, None] + radius * (cos * side[:, None] + sin * up[:, None])
        return places, (cos * up[:, None] - sin * side[:, None]) * (radius * 2 * math.pi / SEGMENTS)


def draw_loops(view: tuple[int, int], coils: int, seed: int, distance: float = DISTANCE) -> Loops:
    """Draw loops of slightly irregular position, size, tilt and gain on an ellipse around the field of view.

    Up to 10 coils form one ring, more coils form several rings along z; each coil has its own cable phase. A single
    coil is a volume coil: eight loops driven in quadrature.

    Args:
        view: (y, x) size of the field of view in square pixels.
        coils: number of coils.
        seed: seed of the irregularities.
        distance: distance of the loops from the centre, relative to the half axes of the field of view.

    """
    rng = generator(seed, 1)
    loops = 8 if coils == 1 else coils
    rings = math.ceil(loops / 10)
    half = np.array(view) / max(view)
    centres, normals, radii = np.empty((loops, 3)), np.empty((loops, 3)), np.empty(loops)
    gains = np.empty(loops, np.complex128)
    for ring in range(rings):
        members = range(ring, loops, rings)
        around = distance * 2 * math.pi * math.sqrt(float((half**2).mean()))
        for place, coil in enumerate(members):
            angle = 2 * math.pi * (place + 0.5 * (ring % 2) + rng.uniform(-0.12, 0.12)) / len(members)
            height = 0.55 * (ring - (rings - 1) / 2) + rng.uniform(-0.05, 0.05)
            centre = np.array([distance * half[1] * math.cos(angle), distance * half[0] * math.sin(angle), height])
            centre[:2] *= rng.uniform(0.97, 1.06)
            normal = -centre + [*rng.uniform(-0.12, 0.12, 2), rng.uniform(-0.15, 0.15)]
            centres[coil], normals[coil] = centre, normal / np.linalg.norm(normal)
            radii[coil] = min(0.9, 0.65 * around / len(members)) * rng.uniform(0.92, 1.08)
            # The loops of a volume coil have equal gains; the loops of an array have different gains and cables.
            cable = angle if coils == 1 else rng.uniform(0, 2 * math.pi)
            volume = 1.0 if coils == 1 else rng.uniform(0.8, 1.25)
            gains[coil] = volume * np.exp(1j * cable)
    return Loops(centres, normals, radii, gains, coils, (float(half[0]), float(half[1])))


def loop_field(places: Tensor, steps: Tensor, points: Tensor) -> Tensor:
    """Return the magnetic field of loops with unit current, μ0/4π = 1, by the law of Biot and Savart: ∮ dl × r / |r|³.

    With r = p − w, the sum of dl × r / |r|³ over the wire's positions w is (Σ dl / |r|³) × p − Σ (dl × w) / |r|³, two
    matrix products with the inverse cubed distances.

    Args:
        places: (B, L, S, 3), positions of the wire segments.
        steps: (B, L, S, 3), length vectors of the segments.
        points: (B, P, 3), positions at which to evaluate the field.

    Returns:
        (B, L, P, 3), real.

    """
    batch, loops, segments, _ = places.shape
    wires = places.flatten(1, 2)
    square = points.square().sum(-1)[:, None] + wires.square().sum(-1)[..., None] + WIRE**2
    weight = torch.baddbmm(square, wires, points.mT, alpha=-2).pow_(-1.5)
    weight = weight.reshape(batch, loops, segments, -1).mT
    moment = torch.cat([steps, torch.linalg.cross(steps, places)], -1)
    total = weight @ moment  # (B, L, P, 6)
    p = points[:, None].expand(batch, loops, -1, 3)
    field: Tensor = torch.linalg.cross(total[..., :3], p) - total[..., 3:]
    return field


def sensitivities(loops: Sequence[Loops], y: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return receive sensitivities by reciprocity, B₁⁻ = Bx − iBy; B0 lies along z, across the slice.

    Reciprocity: Hoult and Richards, J Magn Reson 24 (1976) 71.

    Args:
        loops: loops of each slice, with equal numbers of coils.
        y: (B, m) positions along y; the result has their dtype and device.
        x: (B, n) positions along x.
        z: (B,) positions of the slices along z.

    Returns:
        (B, C, m, n), complex, not normalised; see `mean_power`.

    """
    wires = [one.wire() for one in loops]
    places, steps = (torch.as_tensor(np.stack(part)).to(y) for part in zip(*wires, strict=True))
    m, n = y.shape[1], x.shape[1]
    across = [v.expand(-1, m, n) for v in (x[:, None], y[..., None], z[:, None, None])]
    field = loop_field(places, steps, torch.stack(across, -1).flatten(1, 2))
    maps = torch.complex(field[..., 0], -field[..., 1])
    maps = maps * torch.as_tensor(np.stack([one.gain for one in loops])).to(maps)[..., None]
    if loops[0].coils == 1:
        maps = maps.sum(1, keepdim=True)
    return maps.reshape(*maps.shape[:-1], m, n)


def mean_power(maps: Tensor, loops: Sequence[Loops], y: Tensor, x: Tensor) -> Tensor:
    """Return the mean of Σ|S|² (B, 1, 1, 1) over the ellipse that is 0.85 of the field of view.

    Args:
        maps: (B, C, m, n), complex.
        loops: loops of the maps.
        y: (B, m) positions along y.
        x: (B, n) positions along x.

    """
    half = torch.tensor([one.half for one in loops], dtype=y.dtype, device=y.device)
    inside = (y / (HEAD * half[:, :1])).square()[..., None] + (x / (HEAD * half[:, 1:])).square()[:, None] < 1
    inside = inside | ~inside.flatten(1).any(1)[:, None, None]  # if the grid lies in a corner of the field of view
    power = torch.view_as_real(maps).square().sum((1, 4)) * inside
    return (power.sum((1, 2)) / inside.sum((1, 2)))[:, None, None, None]


@dataclass(frozen=True)
class Waves:
    """Hold a smooth phase: constant and ramp (receiver, echo shift), slow waves (B0) and one steep spot (air).

    Attributes:
        plane: (3,), radians: constant, along y, along x.
        waves: (8, 5): amplitude, radians a half field of view along y, x and z, and phase.
        spot: (3,): position along y and x, and height in radians.

    """

    plane: Real
    waves: Real
    spot: Real

    def at(self, y: Tensor, x: Tensor, z: float) -> Tensor:
        """Return the phase (m, n) in radians at positions y (m,) and x (n,) of the slice at z."""
        plane, waves, spot = (torch.as_tensor(v).to(y) for v in (self.plane, self.waves, self.spot))
        total = plane[0] + plane[1] * y[:, None] + plane[2] * x
        argument = waves[:, 1, None, None] * y[:, None] + waves[:, 2, None, None] * x
        argument = argument + (waves[:, 3] * z + waves[:, 4])[:, None, None]
        total = total + (waves[:, 0, None, None] * argument.cos()).sum(0)
        away = (y[:, None] - spot[0]).square() + (x - spot[1]).square() + (z + 0.3) ** 2
        return total + spot[2] * torch.exp(-away / 0.12)


def draw_waves(seed: int) -> Waves:
    """Draw a smooth phase with a range of about ±π over the object."""
    rng = generator(seed, 2)
    plane = np.array([rng.uniform(-math.pi, math.pi), rng.uniform(-1, 1), rng.uniform(-1, 1)])
    waves = np.empty((8, 5))
    for wave in waves:
        wave[1:4] = rng.normal(0, 2.2, 3)
        wave[0], wave[4] = rng.normal(0, 0.35), rng.uniform(0, 6.28)
    return Waves(plane, waves, np.array([rng.uniform(-0.6, -0.3), rng.uniform(-0.15, 0.15), rng.uniform(1.0, 2.0)]))


def noise_covariance(maps: Tensor, gains: Tensor, shared: Tensor) -> Tensor:
    """Return the noise covariance of the coils: body noise, noise of each coil's electronics, unequal gains.

    The overlap of the sensitivities correlates the body noise (Roemer et al., Magn Reson Med 16 (1990)); the noise of
    the electronics is uncorrelated.

    Args:
        maps: (B, C, m, n), complex.
        gains: (B, C), gains of the amplifiers.
        shared: (B,), fraction of each coil's noise variance from the body.

    Returns:
        (B, C, C), complex, Hermitian, positive definite, with a mean of 1 on the diagonal.

    """
    flat = maps.flatten(2)
    overlap = flat @ flat.mH
    own = overlap.diagonal(dim1=1, dim2=2).real.sqrt()
    shared = shared[:, None, None]
    one = torch.eye(maps.shape[1], dtype=maps.dtype, device=maps.device)
    covariance = shared * overlap / (own[:, :, None] * own[:, None]) + (1 - shared) * one
    covariance = covariance * (gains[:, :, None] * gains[:, None])
    return covariance / covariance.diagonal(dim1=1, dim2=2).real.mean(1)[:, None, None]


def draw_gains(coils: int, seed: int) -> Real:
    """Draw the gains (C,) of the coils' amplifiers."""
    return generator(seed, 3).uniform(0.75, 1.3, coils)


def sinc_matrix(fine: int, samples: int, first: int, size: int, *, exact: bool = False) -> npt.NDArray[Any]:
    """Return the matrix (size, fine) from the object's fine pixels to the pixels of a coarser measurement.

    The matrix is a periodic sinc: Fourier transform the fine pixels, crop to ``samples``, and transform back. Its rows
    are the pixels of a window that starts at pixel ``first`` of the measured field of view; rows outside it are zero.

    Args:
        fine: number of pixels of the object.
        samples: number of k-space samples over the same field of view; at most ``fine``.
        first: first pixel of the window.
        size: number of pixels of the window.
        exact: return the exact, complex matrix. An even number of samples has one more sample at the lower end of
            k-space; by default, the mean of both ends is measured, which makes the matrix real.

    """
    row = np.arange(size) + first
    place = (row - samples // 2) * (fine / samples)
    theta = 2 * math.pi / fine * (place[:, None] - (np.arange(fine) - fine // 2))
    near = np.abs(np.remainder(theta + math.pi, 2 * math.pi) - math.pi) < 1e-9
    half = np.where(near, 1.0, theta / 2)
    kernel = np.sin(samples * half) / (np.tan(half) if samples % 2 == 0 else np.sin(half))
    kernel = np.where(near, samples, kernel)
    if exact and samples % 2 == 0:
        kernel = kernel - 1j * np.sin(samples * theta / 2)
    return np.asarray(kernel / fine * ((row >= 0) & (row < samples))[:, None])
