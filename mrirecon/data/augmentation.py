"""Augment samples each time they are drawn: mirror them, transpose them, change their phase.

The augmentations are exact: k-space, mask, maps, reference and initial image change consistently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrirecon.data.batch import Batch, from_tensors
from mrirecon.data.fields import generator


def augment(batch: Batch, keys: Sequence[tuple[int, int, int]], use: int, cavities: tuple[int, int]) -> Batch:
    """Augment a batch for its draw number ``use``, counted from 0.

    From the second draw on, all samples are randomly mirrored along each axis and transposed, in the same way, and each
    sample is multiplied by a phase. At each draw, the phase at ``cavities`` places is moved from the maps into the
    object, which does not change k-space.

    Args:
        batch: batch of samples.
        keys: (seed, epoch, number) of each sample; with ``use``, they seed all random draws.
        use: number of earlier draws of the batch.
        cavities: minimum and maximum number of such places; (0, 0) for none.

    """
    generators = [generator(*key, 3, use) if use else generator(*key, 3) for key in keys]
    if use:
        rows, columns, transpose = (bool(v) for v in generator(*keys[0], 4, use).random(3) < 0.5)
        tensors = batch.tensors()
        moved = {k: v if k == "noise" else _mirror(v, rows, columns, transpose) for k, v in tensors.items()}
        batch = from_tensors(moved, batch.names, batch.info)
    device = batch.problem.y.device
    if cavities[1]:
        space = (batch.problem.maps.shape[-2], batch.problem.maps.shape[-1])
        phases = [cavity_phase(space, int(g.integers(cavities[0], cavities[1] + 1)), g) for g in generators]
        phase = torch.from_numpy(np.stack(phases)).float()[:, None].to(device)
        factor = torch.polar(torch.ones_like(phase), phase)
        problem = replace(batch.problem, maps=batch.problem.maps * factor.conj().unsqueeze(2))
        batch = _multiply_image(replace(batch, problem=problem), factor)
    if use:
        angle = torch.tensor([g.uniform(0, 2 * math.pi) for g in generators], dtype=torch.float32)
        factor = torch.polar(torch.ones_like(angle), angle).to(device)[:, None, None, None]
        problem = replace(batch.problem, y=batch.problem.y * factor)
        kspace = None if batch.kspace is None else batch.kspace * factor
        batch = _multiply_image(replace(batch, problem=problem, kspace=kspace), factor)
    return batch


def _mirror(v: Tensor, rows: bool, columns: bool, transpose: bool) -> Tensor:
    """Mirror (…, y, x) about the centre pixel n // 2 and transpose it; the same for images and k-space."""
    for axis, wanted in ((-2, rows), (-1, columns)):
        if wanted:
            v = v.flip(axis)
            # If the number of pixels is even, pixel 0 is its own mirror image.
            v = v.roll(1, axis) if v.shape[axis] % 2 == 0 else v
    return (v.mT if transpose else v).contiguous()


def _multiply_image(batch: Batch, factor: Tensor) -> Batch:
    """Multiply the initial image and a complex reference by a factor (B, 1, y, x) or (B, 1, 1, 1)."""
    initial, target = batch.problem.initial_image, batch.target
    if initial is not None:
        batch = replace(batch, problem=replace(batch.problem, initial_image=initial * factor))
    return replace(batch, target=target * factor) if target is not None and target.is_complex() else batch


def cavity_phase(space: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a phase (y, x) in radians that varies rapidly at ``count`` places: Gaussians 1.5 to 12 pixels wide."""
    rows, columns = (np.empty((count, n)) for n in space)  # each Gaussian is a product over y and x
    for number in range(count):
        centre = rng.uniform(0.1, 0.9, 2) * space
        width = math.exp(rng.uniform(math.log(1.5), math.log(12)))
        height = rng.choice((-1, 1)) * math.exp(rng.uniform(math.log(0.3), math.log(4)))
        for profile, middle, factor in zip((rows, columns), centre, (height, 1.0), strict=True):
            profile[number] = factor * np.exp(-((np.arange(profile.shape[1]) - middle) ** 2) / (2 * width**2))
    return np.asarray(rows.T @ columns)
