"""Kill a writing process at random times and check its files (run by test_fuzz.py).

    python kill_writer.py FOLDER FORMAT CYCLES SEED
A child (a fork: 2 ms, where a start takes 200) writes one version of a file after the other until it is killed. Each
time the file must be whole, and no older than what was seen before. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mrirecon import io
from mrirecon.io.safe import atomic

AGED = 7200.0


def content(number: int) -> np.ndarray:
    """Return k-space of a size and value of its own."""
    return np.full((1, 2, 8 * (number % 7 + 1), 16), number, np.complex64)


def write(path: Path, number: int) -> None:
    """Write a version, with its sidecar."""
    io.write_kspace(path, content(number), sidecar={"number": number})


def seen(path: Path) -> int | None:
    """Return which version stands there, after looking at every value; None where there is none."""
    header = path.with_suffix(".hdr")
    if not path.exists() or (path.suffix == ".cfl" and not header.exists()):
        return None  # between its two renames, a pair may lack its header, but it is never wrong
    kspace = io.read(path).kspace(0)
    number = int(kspace[0, 0, 0].real)
    np.testing.assert_array_equal(kspace, content(number)[0])
    return number


def life(path: Path, first: int) -> None:
    """Write until killed."""
    number = first
    while True:
        write(path, number)
        number += 1


def main() -> None:
    """Kill, look, and count."""
    folder, suffix, cycles, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    path, rng = folder / f"k.{suffix}", random.Random(seed)
    write(path, 1)
    start = time.perf_counter()
    for number in range(2, 7):
        write(path, number)
    usual = (time.perf_counter() - start) / 5
    told = {"cycles": cycles, "corrupt": 0, "older": 0, "absent": 0, "versions": 0, "left": 0, "not removed": 0}
    # A fork writes its first version more slowly than this process wrote the last: by how much, the kills tell.
    last, reach = 6, 2.5
    for cycle in range(cycles):
        child = os.fork()
        if child == 0:
            life(path, last + 1)
        time.sleep(usual * rng.uniform(0, reach))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            found = seen(path)
        except Exception:
            told["corrupt"] += 1
            write(path, last)
            continue
        if found is None:
            told["absent"] += 1
            continue
        reach = max(1.5, 0.8 * reach) if found > last else min(100.0, 1.2 * reach)
        told["older"] += found < last
        told["versions"] += found - last
        last = max(last, found)
        if cycle % 50 == 49 or cycle == cycles - 1:
            # After ten minutes, the next writer in this folder removes the files of killed processes.
            left = list(folder.glob(".mrirecon-*"))
            told["left"] += len(left)
            for one in left:
                os.utime(one, (time.time() - AGED,) * 2)
            last += 1
            atomic._CLEANED.clear()  # as in a process that starts then
            write(path, last)
            told["not removed"] += len(list(folder.glob(".mrirecon-*")))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
