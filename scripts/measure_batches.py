"""Measure the overhead of a batch besides its reconstructions: memory growth, time per item, and a second run.

    python scripts/measure_batches.py --items 2000

Writes small synthetic scans (hard links to a few files) to a temporary folder, reconstructs them all, and runs the same
batch again, which recognizes the finished items. Prints the slope of resident memory after the first fifth (Theil-Sen:
median over pairs of items), milliseconds per item without reading, calibration and solving, and items per second of the
second run.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import theilslopes

from mrirecon.io import write_kspace
from mrirecon.reconstruction import batch
from mrirecon.reconstruction.plan import Request


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make(folder: Path, items: int, size: int, coils: int) -> list[Path]:
    """Write eight different scans of noise, and hard links to them for the other items."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(items):
        path = folder / f"scan{number:05d}.h5"
        if number < 8:
            kspace = rng.normal(size=(2, 1, coils, size, size)).astype(np.float32)
            write_kspace(path, (kspace[0] + 1j * kspace[1]).astype(np.complex64))
        else:
            os.link(paths[number % 8], path)
        paths.append(path)
    return paths


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--size", type=int, default=32, help="matrix size")
    parser.add_argument("--coils", type=int, default=2)
    parser.add_argument("--method", default="zero-filled")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        folder.mkdir()
        sources = make(folder, options.items, options.size, options.coils)
        request = Request(method=options.method, maps="unit")
        request.check()
        memory, model = [], 0.0
        start, processor = time.perf_counter(), time.process_time()
        for outcome in batch.run(sources, out, request, failures=out / "failed.jsonl"):
            if outcome.record is None:
                raise SystemExit(str(outcome.error))
            seconds = outcome.record["seconds"]
            assert isinstance(seconds, list), "one number an item"
            model += sum(seconds)
            memory.append(resident())
        wall, processor = time.perf_counter() - start, time.process_time() - processor
        late = np.array(memory[len(memory) // 5 :: 5], dtype=float)
        slope = float(theilslopes(late, 5 * np.arange(len(late))).slope)  # a single step of the allocator is not a leak
        gc.collect()
        start = time.perf_counter()
        left = sum(bool(o.record and o.record.get("finished")) for o in batch.run(sources, out, request))
        again = time.perf_counter() - start
    print(f"{options.items} scans of {options.coils} coils, {options.size} x {options.size}, {options.method}")
    print(
        f"memory      {memory[0] / 2**20:.1f} MiB at first, {memory[-1] / 2**20:.1f} at last; {slope:.0f} bytes an item"
    )
    print(
        f"time        {1e3 * wall / options.items:.1f} ms an item, of which the model {1e3 * model / options.items:.1f}"
    )
    print(f"overhead    {1e3 * (wall - model) / options.items:.1f} ms an item beside the model")
    print(
        f"processor   {1e3 * processor / options.items:.1f} ms an item in all; the rest is waiting for disk and machine"
    )
    print(f"second run  {left} of {options.items} finished already, {options.items / again:.0f} items a second")


if __name__ == "__main__":
    main()
