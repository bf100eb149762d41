"""Keep arrays that do not fit into memory in a temporary file without a name."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mrirecon.errors import ResourceError
from mrirecon.io.safe.atomic import resources

IN_MEMORY = 64 << 20  # bytes; larger arrays go to the disk
_SPARE = 64 << 20  # bytes that stay free for other users


class Rows:
    """Store rows (arrays of the same shape and type) that are written and read one row, or part of a row, at a time.

    Up to `IN_MEMORY` bytes they stay in memory. Above that, they go to a temporary file without a name, which
    disappears when the process ends, in any way.

    Args:
        count: number of rows.
        shape: shape of each row.
        dtype: type of the numbers.
        folders: possible folders of the file; the first with enough space is used. None keeps everything in memory.
        what: content of the rows, for messages.

    Raises:
        ResourceError: no folder has enough space (checked before anything is written), or the disk fails later.

    """

    def __init__(
        self, count: int, shape: tuple[int, ...], dtype: np.dtype | type, folders: Sequence[Path] | None, what: str
    ) -> None:
        self.count, self.shape, self.dtype, self._what = count, shape, np.dtype(dtype), what
        self.row_bytes = math.prod(shape) * self.dtype.itemsize
        self._array: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        if folders is None or self.nbytes <= IN_MEMORY:
            self._array = np.zeros((count, *shape), self.dtype)
            return
        self.folder = _with_space(self.nbytes, folders, what)
        with resources(self.folder / f"a temporary file for {what}"):
            self._file = tempfile.TemporaryFile(dir=self.folder, prefix=".mrirecon-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)  # a view needs its own mapping of the file
            self._file.truncate(self.nbytes)

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Return the size of all rows in bytes."""
        return self.count * self.row_bytes

    def write(self, row: int, values: np.ndarray, start: int = 0) -> None:
        """Write consecutive elements of a row, in C order, from element `start` on."""
        values = np.ascontiguousarray(values, self.dtype)
        if self._array is not None:
            self._array[row].reshape(-1)[start : start + values.size] = values.reshape(-1)
            return
        assert self._file is not None
        left: memoryview = values.reshape(-1).view(np.uint8).data
        offset = row * self.row_bytes + start * self.dtype.itemsize
        with resources(self.folder / f"a temporary file for {self._what}"):
            while left:
                done = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[done:], offset + done

    def read(self, row: int) -> np.ndarray:
        """Return a copy of a row."""
        if self._array is not None:
            return np.array(self._array[row])
        assert self._file is not None
        out = np.empty(self.shape, self.dtype)
        left: memoryview = out.reshape(-1).view(np.uint8).data
        offset = row * self.row_bytes
        with resources(self.folder / f"a temporary file for {self._what}"):
            while left:
                done = os.preadv(self._file.fileno(), [left], offset)
                if not done:
                    raise OSError(f"row {row} of {self.count} does not exist")
                left, offset = left[done:], offset + done
        return out

    def view(self) -> np.ndarray:
        """Return all rows as one array (row, *shape): in memory, or the mapped file, copied on write."""
        if self._array is not None:
            return self._array
        assert self._file is not None
        return np.memmap(self._file, self.dtype, "c", shape=(self.count, *self.shape))


def scratch_folders(output: str | Path | None) -> list[Path]:
    """Return folders for temporary files: `$TMPDIR` if set, then the output's; without both, the system's."""
    folders = [Path(os.environ["TMPDIR"])] if os.environ.get("TMPDIR") else []
    if output is not None:
        target = Path(output).absolute()
        folders.append(next((p for p in (target, *target.parents) if p.is_dir()), target))
    return [folder for folder in folders if folder.is_dir()] or [Path(tempfile.gettempdir())]


def _with_space(need: int, folders: Sequence[Path], what: str) -> Path:
    free: dict[Path, int] = {}
    for folder in folders:
        with resources(folder):
            free[folder] = shutil.disk_usage(folder).free
        if free[folder] >= need + _SPARE:
            return folder
    listed = ", ".join(f"{size / 2**30:.2f} GiB are free in {folder}" for folder, size in free.items())
    raise ResourceError(
        f"there is not enough disk space for {what}",
        why=f"{(need + _SPARE) / 2**30:.2f} GiB are needed, and {listed}",
        fix="free some space, or set TMPDIR to a folder on a larger disk",
    )
