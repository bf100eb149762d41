"""Which of the layouts that share HDF5 a file has, told from what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mrirecon.io.assemble import KSPACE_NAMES
from mrirecon.io.hdf5 import GuardedFile, open_hdf5

Flavour = Literal["fastmri", "ismrmrd"]


def hdf5_flavour(path: Path, dataset: str | None = None) -> Flavour:
    """Return the layout of an HDF5 file; "fastmri" is also our own, and whatever only `--axes` can tell.

    Args:
        path: the file.
        dataset: the array or group that was asked for, if one was.

    Raises:
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    with open_hdf5(path) as file:
        group = dataset or "dataset"
        if _is_group(file, group) and not any(name.lower() in KSPACE_NAMES for name in ([] if dataset else file)):
            return "ismrmrd"
    return "fastmri"


def _is_group(file: GuardedFile, name: str) -> bool:
    return "/" not in name and name in file and file.is_group(name)
