"""Mutate the bytes of a good file many times and read each: a typed error or success, in bounded time and memory.

Run by test_io_hostile.py in a process of its own, for a crash of libhdf5 would end the tests:
    python fuzz_io.py FOLDER FORMAT COUNT SEED
Prints one JSON line: how many were read, how many were refused, what escaped, the slowest, the peak memory.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import h5py
import numpy as np

from mrirecon import io
from mrirecon.errors import MriReconError

HEADER = "<ismrmrdHeader><sequenceParameters><TR>30</TR></sequenceParameters></ismrmrdHeader>"


def consume(path: Path) -> None:
    """Read all that a scan offers."""
    scan = io.read(path)
    for item in range(min(3, len(scan))):
        scan.kspace(item)
        scan.mask(item)
        scan.maps(item)
    _ = scan.reference, scan.calibration
    json.dumps(io.describe(path), allow_nan=False)


def make(folder: Path, kind: str) -> list[Path]:
    """Write a small good scan; return the files to mutate, the one to read first."""
    rng = np.random.default_rng(0)
    k = (rng.standard_normal((2, 3, 9, 8, 2)) @ [1, 1j]).astype(np.complex64)
    maps = np.ones((2, 1, 3, 9, 8), np.complex64)
    path = folder / ("seed.h5" if kind == "h5latest" else f"seed.{kind}")
    extras = {"mask": np.ones(8), "reference": np.abs(k[:, 0]), "maps": maps}
    if kind == "h5":
        io.write_kspace(path, k, **extras, attributes={"max": 1.0})
        with h5py.File(path, "a") as file:
            file["ismrmrd_header"] = HEADER
            file.attrs["acquisition"] = "AXT2"
            file.create_dataset("calibration", data=k[:1, :, :4, :4], chunks=(1, 1, 4, 4), compression="gzip")
    elif kind == "h5latest":
        with h5py.File(path, "w", libver="latest") as file:
            file.create_dataset(
                "kspace", data=k, chunks=(1, 3, 9, 8), compression="gzip", fletcher32=True, shuffle=True
            )
            file["kspace"].attrs["axes"] = np.bytes_("slice,coil,y,x")
            for name, value in extras.items():
                file.create_dataset(name, data=value, chunks=True)
            file["soft"] = h5py.SoftLink("/kspace")
    elif kind == "npz":
        io.write_kspace(path, k, **extras, attributes={"anatomy": "brain"})
    elif kind == "npy":
        np.save(path, k[0, :, :8, :8].repeat(4, 1).repeat(4, 2))
    else:
        io.write_kspace(path, k, axes="slice,coil,y,x")
        return [folder / "seed.cfl", folder / "seed.hdr"]
    return [path]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes, mostly near the start, where headers are; or cut, repeat or blank a piece."""
    buffer = bytearray(data)
    reach = len(buffer) if rng.random() < 0.4 else min(len(buffer), 2500)
    kind = rng.integers(6)
    at = int(rng.integers(max(1, reach)))
    size = int(rng.integers(1, 64))
    if kind <= 2:
        for _ in range(int(rng.integers(1, 5))):
            buffer[int(rng.integers(reach))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    elif kind == 3:
        del buffer[at : at + size]
    elif kind == 4:
        buffer[at:at] = buffer[at : at + size]
    else:
        buffer[at : at + size] = bytes([int(rng.choice([0, 0xFF]))]) * len(buffer[at : at + size])
    return bytes(buffer)


def main() -> None:
    """Mutate and read, as the arguments say."""
    folder, kind, count, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("error")
    files = make(folder, kind)
    good = [file.read_bytes() for file in files]
    consume(files[0])
    rng = np.random.default_rng(seed)
    done = {"read": 0, "refused": 0}
    escaped: list[str] = []
    slowest = 0.0
    for number in range(count):
        victim = int(rng.integers(len(files)))
        for file, data in zip(files, good, strict=True):
            file.write_bytes(data)
        files[victim].write_bytes(mutate(good[victim], rng))
        # Where the process dies, the last line tells on which mutation, and the file is still there.
        print(number, file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            consume(files[0])
            done["read"] += 1
        except MriReconError as error:
            done["refused"] += 1
            if not (error.what and str(error)):
                escaped.append(f"{number}: an error without words")
        except Exception as error:
            escaped.append(f"{number}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.perf_counter() - start)
    # Of this program alone: getrusage would count what the parent took before it started us.
    status = Path("/proc/self/status").read_text()
    memory = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({**done, "escaped": escaped[:10], "slowest": slowest, "megabytes": memory}))


if __name__ == "__main__":
    main()
