"""Read a whole file in the sandbox first: if libhdf5 crashes on it, only the sandbox crashes.

After that, this process can read the file safely. `mrirecon reconstruct` probes each of several files, so that one
cannot stop the others, and a single file with ``--isolate``.
"""

from __future__ import annotations

from pathlib import Path

from mrirecon.errors import ResourceError
from mrirecon.io.identify import has_hdf5_signature
from mrirecon.io.safe import sandbox

SECONDS_PER_GIGABYTE = 120.0  # slowest speed of a network disk


def probe(path: str | Path, *, axes: str | None = None, dataset: str | None = None) -> None:
    """Read all of an HDF5 file in the sandbox; raise an error if this fails. Skip files of other formats.

    The limit of time is a minute, more for files above half a gigabyte. The limit of memory is 4 GiB plus four times
    the size of the file.

    Args:
        path: the file.
        axes: see `mrirecon.io.read`.
        dataset: see `mrirecon.io.read`.

    Raises:
        InputError: the sandbox crashed, or took too long.
        ResourceError: not enough memory.

    """
    path = Path(path)
    if path.is_file() and has_hdf5_signature(path):
        size = path.stat().st_size
        seconds = max(sandbox.SECONDS, SECONDS_PER_GIGABYTE * size / (1 << 30))
        sandbox.call(read_all, path, seconds=seconds, memory=sandbox.MEMORY + 4 * size, axes=axes, dataset=dataset)


def read_all(path: Path, axes: str | None, dataset: str | None) -> tuple[sandbox.Arrays, sandbox.Facts]:
    """Read k-space item by item, then the other arrays in parts; ignore all errors except those of memory."""
    done: set[str] = set()
    for read_part in (_read_kspace, _read_others):
        try:
            read_part(path, axes, dataset, done)
        except (MemoryError, ResourceError):
            raise
        except Exception:
            continue
    return {}, {}


def _read_kspace(path: Path, axes: str | None, dataset: str | None, done: set[str]) -> None:
    from mrirecon.io.readers.reader import read  # imported here because readers import this folder

    scan = read(path, axes=axes, dataset=dataset)
    for item in range(len(scan)):
        scan.unmasked_kspace(item)
    done.add(scan.roles.kspace)


def _read_others(path: Path, axes: str | None, dataset: str | None, done: set[str]) -> None:
    from mrirecon.io.readers.images import open_store

    store = open_store(path)
    for name in set(store.arrays) - done:
        shape = store.arrays[name][0]
        for index in [(first,) for first in range(shape[0])] if len(shape) > 1 else [()]:
            store.read(name, index)
