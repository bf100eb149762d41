"""Measure the number of training samples per second, and the time of each part.

    python scripts/benchmark_pipeline.py [VOLUMES...] [--device cuda] [--threads 1] [--coils 8] [--size 160]

A sample is an undersampled multi-coil slice with ESPIRiT maps of its own calibration region, its reference, and an
initial image by compressed sensing; slices come from phantoms or the given volumes. With --threads 1 on a CPU, the
result is for one core. Prints seconds per sample: medians over rounds without the first, which fills caches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from mrirecon.data.batch import pack, unpack
from mrirecon.data.fields import generator
from mrirecon.data.loading import keep_freed_memory
from mrirecon.data.samples import SampleFactory, SampleKey
from mrirecon.data.settings import Data, MaskFamily, Simulation
from mrirecon.data.simulate import simulate
from mrirecon.data.sources import open_sources
from mrirecon.methods.cs import compressed_sensing_start

Family = Literal["random", "equispaced", "gaussian1d", "gaussian2d", "poisson"]
FAMILIES: tuple[Family, ...] = ("random", "equispaced", "gaussian1d", "gaussian2d", "poisson")


def main() -> None:
    """Print a row for each part, and the samples per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="*", default=["phantom:0", "phantom:1"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--start", type=int, default=20, help="iterations for the initial image; 0: until it converges")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    masks = [MaskFamily(family=f, acceleration=[4.0, 8.0], calibration=[16, 24]) for f in FAMILIES]
    data = Data(
        train=list(options.volumes),
        val=["phantom:99"],
        crop=[options.size, options.size],
        target="measured",
        masks=masks,
        simulation=Simulation(coils=[options.coils, options.coils]),
    )
    slices = open_sources(data).train
    start = partial(compressed_sensing_start, iterations=options.start)
    factory = SampleFactory(slices, data, 0, options.batch, start=start)
    rounds = [_keys(number, options.batch, len(slices)) for number in range(options.rounds + 1)]
    whole = _seconds(lambda one: factory.make(one, options.device), rounds, options.device)
    plain = replace(factory, start=None)
    unstarted = _seconds(lambda one: plain.make(one, options.device), rounds, options.device)
    bare = replace(plain, maps=False)
    measured = _seconds(lambda one: bare.make(one, options.device), rounds, options.device)
    scenes = [[_scene(factory, a) for a in one] for one in rounds]
    drawn = _seconds(lambda one: [_scene(factory, a) for a in one], rounds, options.device)
    simulated = _seconds(lambda one: simulate(one, options.device), scenes, options.device)
    made = factory.make(rounds[0], options.device)
    packed = pack(made)
    turned = _seconds(lambda one: factory.augment(unpack(packed), one, 1), rounds, options.device)
    size = sum(v.numel() * v.element_size() for v in packed.values()) / options.batch
    card = torch.cuda.get_device_name() if options.device != "cpu" else f"{options.threads} threads"
    print(
        f"{options.coils} coils, {options.size} x {options.size}, batches of {options.batch}, {options.device}, {card}"
    )
    parts = {
        "drawn": drawn,
        "simulated": simulated,
        "masks, sampling": measured - drawn - simulated,
        "maps, reference": unstarted - measured,
        f"initial image ({options.start or 'converged'})": whole - unstarted,
        "all": whole,
    }
    for name, seconds in parts.items():
        print(f"{name:24s}{seconds / options.batch:10.4f} s")
    print(f"{'samples a second':24s}{options.batch / whole:10.2f}")
    print(f"{'drawn again':24s}{turned / options.batch:10.4f} s, from {size / 1e6:.2f} MB a sample")


def _keys(number: int, batch: int, slots: int) -> list[SampleKey]:
    return [(number, n, (7 * (number * batch + n)) % slots) for n in range(batch)]


def _scene(factory: SampleFactory, key: SampleKey) -> object:
    epoch, number, slot = key
    own, shared = generator(0, epoch, number, 1), generator(0, epoch, number // factory.batch, 0)
    return factory.scene(factory.slices[slot], own, shared)


def _seconds(work: Callable[..., object], rounds: list[list[SampleKey]] | list[list[object]], device: str) -> float:
    """Return the median time of a round."""
    found = []
    for one in rounds:
        begun = time.perf_counter()
        work(one)
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return float(np.median(found[1:]))


if __name__ == "__main__":
    main()
