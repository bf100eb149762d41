"""Measure how many readouts per second the ISMRMRD reader reads.

    python scripts/time_raw_data.py [READOUTS]

Writes a file of 16 coils × 512 samples per readout to a temporary folder, and reads it as `reconstruct`: headers, then
one image after the other. For comparison, also measures h5py reading only the samples in a loop. Needs the extra
`test`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mrirecon import io

COILS, SAMPLES, LINES = 16, 512, 500


def main() -> None:
    """Write and read the file, and print the rates in wall time and CPU time."""
    from tests.io import mrd_files as mrd

    slices = max(1, int(sys.argv[1]) // LINES if len(sys.argv) > 1 else 8)
    count = slices * LINES
    values = (np.random.default_rng(0).standard_normal((COILS, SAMPLES, 2)) @ [1, 1j]).astype(np.complex64)
    with tempfile.TemporaryDirectory() as folder:
        acquisitions = [mrd.acquisition(values, i % LINES, slice=i // LINES) for i in range(count)]
        header = mrd.header(mrd.encoding((SAMPLES, LINES, 1), centre=(LINES // 2, 0)))
        path = mrd.write(Path(folder) / "raw.h5", acquisitions, header)
        with h5py.File(path, "r") as file:
            start = time.perf_counter()
            for first in range(0, count, LINES):
                file["dataset/data"].fields("data")[first : first + LINES]
            plain = time.perf_counter() - start
        start = time.perf_counter()
        scan = io.read(path)
        headers = time.perf_counter() - start
        for item in range(len(scan)):
            scan.unmasked_kspace(item)
        whole = time.perf_counter() - start
    print(f"{count} readouts of {COILS} coils x {SAMPLES} samples, {8e-6 * COILS * SAMPLES * count:.0f} MB")
    print(f"all read, placed and copied out: {count / whole:.0f} readouts a second ({headers:.2f} s for the headers)")
    print(f"samples alone, by h5py in a loop: {count / plain:.0f} readouts a second")


if __name__ == "__main__":
    main()
