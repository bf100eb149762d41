"""Measure the costs of a learned method: parameters, operations and memory for one slice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from mrirecon.methods.registry import build
from mrirecon.physics.problem import Problem

_PROBE = 64  # operations and memory are proportional to the number of pixels, so they are measured on a small image


@dataclass(frozen=True)
class Costs:
    """Hold the costs of one slice.

    Attributes:
        parameters: number of distinct parameters.
        operations: multiplications and additions of the networks, in 10⁹; Fourier transforms are not counted.
        memory: peak memory of the reconstruction, in MiB, without the weights.

    """

    parameters: int
    operations: float
    memory: float


def peak_allocation(run: Callable[[], object]) -> int:
    """Measure the peak memory in bytes that torch allocates during a call, in addition to that before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _suppress_output(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextmanager
def _suppress_output() -> Iterator[None]:
    """Discard stderr, because the C++ library of the profiler prints to it and has no option to turn this off."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def parameters(method: str, options: Mapping[str, object] | None = None) -> int:
    """Count the distinct parameters, without allocation or random weights."""
    with torch.device("meta"):
        return sum(w.numel() for w in build(method, options).parameters())


def costs(method: str, options: Mapping[str, object] | None = None, *, size: int = 320, coils: int = 8) -> Costs:
    """Measure the costs of one slice of size × size pixels.

    Raises:
        UsageError: see `mrirecon.methods.registry.build`.

    """
    model = build(method, options).eval()
    n = _PROBE
    mask = torch.zeros(1, 1, n, n)
    mask[..., ::4] = 1
    mask[..., n // 2 - 8 : n // 2 + 8] = 1
    maps = torch.full((1, 1, coils, n, n), coils**-0.5, dtype=torch.complex64)
    y = mask * torch.randn(1, coils, n, n, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    problem = Problem(y, mask, maps)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(problem)
        peak = peak_allocation(lambda: model(problem))
    pixels = (size / n) ** 2
    return Costs(parameters(method, options), counter.get_total_flops() * pixels / 1e9, peak * pixels / 2**20)
