"""Provide small random problems and a known scan for the tests of the core."""

from __future__ import annotations

import torch

from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.physics.problem import Problem

SHAPES = [(8, 8), (7, 9), (13, 6), (1, 5), (11, 11), (4, 5, 6), (3, 7, 5)]


def draw(*shape, dtype=torch.complex128, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed + sum(shape)))


def random_problem(space=(9, 8), batch=2, sets=1, coils=3, axes=None, dtype=torch.complex128, seed=0, per_item=False):
    """Return a problem with random complex maps of length at most one, undersampled along the axes (default: all)."""
    g = torch.Generator().manual_seed(seed)
    real = torch.zeros(1, dtype=dtype).real.dtype
    axes = tuple(range(-len(space), 0)) if axes is None else axes
    size = [space[i] if i - len(space) in axes else 1 for i in range(len(space))]
    mask = (torch.rand(batch if per_item else 1, 1, *size, generator=g) < 0.6).to(real)
    mask = mask.expand(-1, -1, *space).contiguous()
    mask[(..., *(n // 2 for n in space))] = 1
    maps = torch.randn(batch, sets, coils, *space, dtype=dtype, generator=g)
    maps = maps / maps.abs().square().sum((1, 2), keepdim=True).sqrt()
    y = mask * torch.randn(batch, coils, *space, dtype=dtype, generator=g)
    return Problem(y, mask, maps)


def known_problem(space=(48, 40), coils=4, rate=3, snr=40.0, seed=1):
    """Return a problem of a phantom with its true maps, and the image that they show."""
    made = simulate_kspace(phantom(space, 1, seed), coils, snr, seed)
    kspace = torch.from_numpy(made.kspace).to(torch.complex64)
    maps = torch.from_numpy(made.maps).to(torch.complex64).reshape(1, 1, coils, *space)
    gain = maps.abs().square().sum(2).sqrt().amax()
    mask = torch.zeros(1, 1, *space)
    mask[..., ::rate] = 1
    mask[..., space[-1] // 2 - 5 : space[-1] // 2 + 5] = 1
    scale = kspace.abs().amax()
    return Problem(kspace * mask / scale, mask, maps / gain), kspace / scale
