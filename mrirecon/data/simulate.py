"""From a magnitude image to multi-coil k-space that looks measured: phase, coils, correlated noise.

The plain form of `mrirecon.data.simulator`, for an image as it is: every field is evaluated at every pixel, in double
precision. Every draw is a function of an integer seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrirecon.data.fields import (
    DISTANCE,
    draw_gains,
    draw_loops,
    draw_waves,
    generator,
    mean_power,
    noise_covariance,
    sensitivities,
    sinc_matrix,
)
from mrirecon.data.simulator import measure
from mrirecon.errors import InputError
from mrirecon.physics.operators import Fourier

Complex = npt.NDArray[np.complexfloating[Any, Any]]
Real = npt.NDArray[np.floating[Any]]
SHARED = 0.6  # part of each coil's noise that comes from the body


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
    objects = torch.from_numpy(stack) * torch.stack(
        [torch.exp(1j * torch.from_numpy(object_phase(fine, seed, offset=z))) for z in height]
    )
    sides = [sinc_matrix(n, m, 0, m, exact=True) for n, m in zip(fine, shape, strict=True)]
    rows, columns = (torch.from_numpy(side) for side in sides)
    images = torch.stack(
        [
            measure(torch.from_numpy(coil_maps(fine, coils, seed, offset=z)) * one, rows, columns)
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
    truth = measure(objects, rows, columns).numpy()
    one = slice(None) if np.ndim(image) == 3 else 0
    return Simulated(
        kspace[one].astype(np.complex64), maps[one].astype(np.complex64), covariance, truth[one].astype(np.complex64)
    )


def coil_maps(
    shape: tuple[int, int], coils: int, seed: int, *, offset: float = 0.0, distance: float = DISTANCE
) -> Complex:
    """Receive sensitivities of an array of loops around the object; see `mrirecon.data.fields`.

    Args:
        shape: (y, x) pixels, taken as square ones.
        coils: how many.
        seed: of the irregularities.
        offset: the slice's position along z, in halves of the longer field of view.
        distance: of the loops from the centre, relative to the field of view's half axes.

    Returns:
        (coil, y, x), complex128, with Σ|S|² = 1 on average over the ellipse of 0.85 of the field of view.

    """
    loops, (y, x) = [draw_loops(shape, coils, seed, distance)], _positions(shape)
    maps = sensitivities(loops, y[None], x[None], torch.tensor([offset], dtype=torch.float64))
    found: Complex = (maps / mean_power(maps, loops, y[None], x[None]).sqrt())[0].numpy()
    return found


def object_phase(shape: tuple[int, int], seed: int, *, offset: float = 0.0) -> Real:
    """Smooth random phase of the object; see `mrirecon.data.fields.Waves`.

    Args:
        shape: (y, x).
        seed: of the draw; the same field whatever the pixel count.
        offset: position along z, in halves of the longer field of view; neighbouring slices have similar phases.

    Returns:
        (y, x), radians, not wrapped; some ±π over the object.

    """
    found: Real = draw_waves(seed).at(*_positions(shape), offset).numpy()
    return found


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
    drawn = generator(seed, 4).standard_normal((*kspace.shape, 2))
    white = (drawn[..., 0] + 1j * drawn[..., 1]) / math.sqrt(2)
    return np.asarray(kspace + np.einsum("cd,...dyx->...cyx", root, white))


def _positions(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return pixel positions (y,) and (x,) in halves of the longer side, 0 at the centre pixel."""
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / (max(shape) / 2) for n in shape)
    return y, x
