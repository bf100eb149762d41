"""From a magnitude image to multi-coil k-space that looks measured: phase, coils, correlated noise.

Every draw is a function of an integer seed alone. Lengths are in halves of the longer side of the field of view (of a
head in a 23 cm field: 11.5 cm), with 0 at the centre pixel ``n // 2``; image values are in whatever unit comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrirecon.errors import InputError

Complex = npt.NDArray[np.complexfloating[Any, Any]]
Real = npt.NDArray[np.floating[Any]]

WIRE = 0.2  # thickness of a loop's conductor; keeps the field finite where a corner of the picture lies on the wire
SEGMENTS = 32  # of a loop: with that thickness the sum is the integral to better than 1e-4
DISTANCE = 1.3  # of the loops from the centre, relative to the field of view's half axes
HEAD = 0.85  # the ellipse that the object may fill, as a part of the field of view; maps are normalised inside it


@dataclass(frozen=True)
class Simulated:
    """What ``simulate_kspace`` made; ``slice`` is absent where the image had none.

    Args:
        kspace: (slice, coil, y, x), complex64, centred and unitary, noise added.
        maps: (slice, coil, y, x), complex64, the coil sensitivities that were used; as simulated, not normalised.
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
    """Measure a magnitude image with an array of coils.

    y = F S (|x| e^{iφ}) + n, with φ, S and the covariance of n drawn from the seed. The loops stay where they are from
    slice to slice, and the sensitivities change with the slice's position.

    Args:
        image: (y, x) or (slice, y, x), real, not negative.
        coils: how many; 1 is a volume coil.
        snr: mean signal of the object (pixels above 5 % of the maximum) over √(E|n|²) of one pixel of an average coil
            image; near it is the SNR of a fully sampled combined image. ``math.inf`` adds no noise.
        seed: of everything that is drawn.
        shape: (y, x) samples to measure, at most the image's: the object is then finer than the measurement, and its
            edges ring as real ones do. None measures all samples.
        spacing: distance of neighbouring slices, in halves of the longer field of view.

    Raises:
        InputError: an image, coil count, SNR or shape that cannot be simulated.

    """
    stack = np.asarray(image)
    if np.iscomplexobj(stack):
        raise InputError("Only a magnitude image can be simulated from.", why="it is complex", fix="pass its magnitude")
    stack = stack.astype(np.float64)
    if stack.ndim not in (2, 3) or 0 in stack.shape or not np.isfinite(stack).all() or stack.min() < 0:
        raise InputError(
            "Only a magnitude image can be simulated from.",
            why=f"shape {stack.shape}, {np.count_nonzero(~np.isfinite(stack))} values not finite, or some negative",
            fix="pass (y, x) or (slice, y, x), real, finite and not negative",
        )
    if coils < 1 or not snr > 0:
        raise InputError("A simulation needs coils and a positive SNR.", why=f"coils={coils}, snr={snr}")
    stack = stack if stack.ndim == 3 else stack[None]
    fine = stack.shape[-2:]
    shape = fine if shape is None else shape
    if any(a > b or a < 1 for a, b in zip(shape, fine, strict=True)):
        raise InputError(
            "The measurement cannot have more samples than the image.",
            why=f"shape={shape} of an image of {fine}",
            fix="ask for fewer samples, or interpolate the image first",
        )
    height = (np.arange(len(stack)) - (len(stack) - 1) / 2) * spacing
    objects = stack * np.stack([np.exp(1j * object_phase(fine, seed, offset=z)) for z in height])
    window = tuple(slice(a // 2 - b // 2, a // 2 - b // 2 + b) for a, b in zip(fine, shape, strict=True))
    gain = math.sqrt(math.prod(shape) / math.prod(fine))  # unitary transforms of both sizes keep the image's values

    def measure(values: Complex) -> Complex:
        return gain * _fft(values)[..., window[0], window[1]]

    kspace = np.stack(
        [measure(coil_maps(fine, coils, seed, offset=z) * o) for z, o in zip(height, objects, strict=True)]
    )
    maps = np.stack([coil_maps(shape, coils, seed, offset=z) for z in height])
    truth = np.stack([_ifft(measure(o)) for o in objects])

    inside = stack > 0.05 * stack.max()
    sigma = 0.0 if math.isinf(snr) or not inside.any() else float(stack[inside].mean()) / snr
    covariance = sigma**2 * noise_covariance(maps, seed)
    kspace = add_noise(kspace, covariance, seed)
    one = slice(None) if np.ndim(image) == 3 else 0
    return Simulated(
        kspace[one].astype(np.complex64), maps[one].astype(np.complex64), covariance, truth[one].astype(np.complex64)
    )


def coil_maps(
    shape: tuple[int, int],
    coils: int,
    seed: int,
    *,
    offset: float = 0.0,
    distance: float = DISTANCE,
    grid: tuple[Real, Real] | None = None,
) -> Complex:
    """Receive sensitivities of round loops that stand around the object, by reciprocity B₁⁻ = Bx − iBy.

    B0 lies along z, across the slice. Loops of slightly irregular place, size, tilt and gain stand on an ellipse 1.3
    times the field of view, in one ring up to 10 coils, in more rings along z beyond; each has its own cable phase. One
    coil is a volume coil: eight loops driven in quadrature. The field is the law of Biot and Savart summed
    along the wire; reciprocity: Hoult and Richards, J Magn Reson 24 (1976) 71.

    Args:
        shape: (y, x) pixels, taken as square ones.
        coils: how many.
        seed: of the irregularities.
        offset: the slice's position along z, in halves of the longer field of view.
        distance: of the loops from the centre, relative to the field of view's half axes.
        grid: positions y (n, 1) and x (1, m) to evaluate at, in halves of the longer side; those of ``shape`` where
            none are given, and ``shape`` is then the field of view that the loops stand around.

    Returns:
        (coil, y, x), complex128, with Σ|S|² = 1 on average over the ellipse of 0.85 of the field of view.

    """
    rng = _generator(seed, 1)
    loops = 8 if coils == 1 else coils
    rings = math.ceil(loops / 10)
    y, x = _grid(shape) if grid is None else grid
    half = np.array(shape) / max(shape)
    there = (y.size, x.size)
    points = np.stack([*np.broadcast_arrays(x, y), np.full(there, offset)], axis=-1)
    maps = np.zeros((loops, *there), np.complex128)
    for ring in range(rings):
        members = range(ring, loops, rings)
        around = distance * 2 * math.pi * math.sqrt(float((half**2).mean()))
        for place, coil in enumerate(members):
            angle = 2 * math.pi * (place + 0.5 * (ring % 2) + rng.uniform(-0.12, 0.12)) / len(members)
            height = 0.55 * (ring - (rings - 1) / 2) + rng.uniform(-0.05, 0.05)
            centre = np.array([distance * half[1] * math.cos(angle), distance * half[0] * math.sin(angle), height])
            centre[:2] *= rng.uniform(0.97, 1.06)
            normal = -centre + [*rng.uniform(-0.12, 0.12, 2), rng.uniform(-0.15, 0.15)]
            radius = min(0.9, 0.65 * around / len(members)) * rng.uniform(0.92, 1.08)
            field = _loop_field(points - centre, normal / np.linalg.norm(normal), radius)
            # a volume coil's loops are alike; those of an array differ, and each has a cable
            cable = angle if coils == 1 else rng.uniform(0, 2 * math.pi)
            volume = 1.0 if coils == 1 else rng.uniform(0.8, 1.25)
            maps[coil] = volume * np.exp(1j * cable) * (field[..., 0] - 1j * field[..., 1])
    if coils == 1:
        maps = maps.sum(axis=0, keepdims=True)
    inside = (y / (HEAD * half[0])) ** 2 + (x / (HEAD * half[1])) ** 2 < 1
    if not inside.any():  # a grid in a corner of the field of view
        inside[:] = True
    normalised: Complex = maps / math.sqrt(float((np.abs(maps) ** 2).sum(axis=0)[inside].mean()))
    return normalised


def object_phase(
    shape: tuple[int, int], seed: int, *, offset: float = 0.0, grid: tuple[Real, Real] | None = None
) -> Real:
    """Smooth random phase of the object: a ramp (echo not centred), slow waves (B0) and one steep place (air nearby).

    Args:
        shape: (y, x).
        seed: of the draw; the same field whatever the pixel count.
        offset: position along z, in halves of the longer field of view; neighbouring slices have similar phases.
        grid: positions to evaluate at, as for ``coil_maps``.

    Returns:
        (y, x), radians, not wrapped; some ±π over the object.

    """
    rng = _generator(seed, 2)
    y, x = _grid(shape) if grid is None else grid
    total = rng.uniform(-math.pi, math.pi) + rng.uniform(-1, 1) * y + rng.uniform(-1, 1) * x
    for _ in range(8):
        wave = rng.normal(0, 2.2, 3)  # radians per half field of view
        total = total + rng.normal(0, 0.35) * np.cos(
            wave[0] * y + wave[1] * x + wave[2] * offset + rng.uniform(0, 6.28)
        )
    spot = (y - rng.uniform(-0.6, -0.3)) ** 2 + (x - rng.uniform(-0.15, 0.15)) ** 2 + (offset + 0.3) ** 2
    return np.asarray(total + rng.uniform(1.0, 2.0) * np.exp(-spot / 0.12))


def noise_covariance(maps: Complex, seed: int, *, shared: float = 0.6) -> Complex:
    """Covariance of the coils' noise: what they share through the body, what each has alone, and unequal amplifiers.

    Loops see the same conductor, so their noise is correlated as their sensitivities overlap (Roemer et al., Magn Reson
    Med 16 (1990)), as far as it comes from the body and not from the electronics.

    Args:
        maps: (..., coil, y, x).
        seed: of the gains.
        shared: part of each coil's variance that comes from the body; the rest is its own.

    Returns:
        (coil, coil), complex128, Hermitian, positive definite, with a mean diagonal of 1.

    """
    flat = np.moveaxis(maps, -3, 0).reshape(maps.shape[-3], -1).astype(np.complex128)
    overlap = flat @ flat.conj().T
    own = np.sqrt(np.diag(overlap).real)
    gains = _generator(seed, 3).uniform(0.75, 1.3, len(own))
    covariance = (shared * overlap / np.outer(own, own) + (1 - shared) * np.eye(len(own))) * np.outer(gains, gains)
    return np.asarray(covariance / np.trace(covariance).real * len(own))


def add_noise(kspace: Complex, covariance: Complex, seed: int) -> Complex:
    """Add circular complex Gaussian noise with E[n nᴴ] = ``covariance`` to every sample.

    Args:
        kspace: (..., coil, y, x).
        covariance: (coil, coil), Hermitian; zero adds nothing.
        seed: of the draw.

    Returns:
        A new array like ``kspace``, complex128.

    """
    if not covariance.any():
        return np.array(kspace, np.complex128)
    root = np.linalg.cholesky(covariance)
    drawn = _generator(seed, 4).standard_normal((*kspace.shape, 2))
    white = (drawn[..., 0] + 1j * drawn[..., 1]) / math.sqrt(2)
    return np.asarray(kspace + np.einsum("cd,...dyx->...cyx", root, white))


def _generator(seed: int, use: int) -> np.random.Generator:
    """A stream of its own for each use, so that more coils do not change the object's phase."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, use])))


def _grid(shape: tuple[int, int]) -> tuple[Real, Real]:
    """Pixel positions, y (y, 1) and x (1, x), in halves of the longer side, 0 at the centre pixel."""
    y, x = ((np.arange(n) - n // 2) / (max(shape) / 2) for n in shape)
    return y[:, None], x[None, :]


def _loop_field(points: Real, normal: Real, radius: float) -> Real:
    """Magnetic field (..., 3) of a round loop with unit current at the origin, μ0/4π = 1: ∮ dl × r / |r|³."""
    side = np.cross(normal, [0.0, 0.0, 1.0] if abs(normal[2]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    up = np.cross(normal, side)  # normal × up is −side: every step round the loop follows from these two
    field = np.zeros(points.shape)
    for angle in np.arange(SEGMENTS) * 2 * math.pi / SEGMENTS:
        wire = radius * (math.cos(angle) * side + math.sin(angle) * up)
        step = (math.cos(angle) * up - math.sin(angle) * side) * (radius * 2 * math.pi / SEGMENTS)
        away = points - wire
        weight = ((away**2).sum(-1) + WIRE**2) ** 1.5
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # the cross product, without np.cross's copies
            field[..., i] += (step[j] * away[..., k] - step[k] * away[..., j]) / weight
    return field


def _fft(image: Complex) -> Complex:
    shifted = np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=(-2, -1)))


def _ifft(kspace: Complex) -> Complex:
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=(-2, -1)))
