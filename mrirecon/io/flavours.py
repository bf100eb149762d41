"""Which of the layouts that share HDF5 a file has, told from what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mrirecon.errors import InputError
from mrirecon.io.assemble import KSPACE_NAMES
from mrirecon.io.calgary import PACKED, SMALLEST
from mrirecon.io.cmrxrecon import is_matlab
from mrirecon.io.hdf5 import GuardedFile, open_hdf5
from mrirecon.io.mrd_images import raw_groups
from mrirecon.io.skmtea import is_skmtea

Flavour = Literal["fastmri", "ismrmrd", "calgary-campinas", "skm-tea", "cmrxrecon"]


def hdf5_flavour(path: Path, dataset: str | None = None, axes: str | None = None) -> Flavour:
    """Return the layout of an HDF5 file; "fastmri" is also our own, and whatever only `--axes` can tell.

    Args:
        path: the file.
        dataset: the array or group that was asked for, if one was.
        axes: the axes that were stated, if they were: then nothing is concluded from shapes.

    Raises:
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    with open_hdf5(path) as file:
        named = not dataset and any(name.lower() in KSPACE_NAMES for name in file)
        if not named and (_is_group(file, dataset or "dataset") or raw_group(file, dataset) is not None):
            return "ismrmrd"
        try:
            if axes is None and is_skmtea(file):
                return "skm-tea"
            if axes is None and _is_calgary(file):
                return "calgary-campinas"
            if is_matlab(file):
                return "cmrxrecon"
        except (InputError, KeyError):
            return "fastmri"  # whose reader says what is wrong with it
    return "fastmri"


def raw_group(file: GuardedFile, dataset: str | None = None) -> str | None:
    """Return the group that holds ISMRMRD raw data: the one asked for, else "dataset", else the only one; None if none.

    Raises:
        InputError: several groups hold raw data, and none is called "dataset".

    """
    found = raw_groups(file.datasets())
    if dataset is not None:
        return dataset.strip("/") if dataset.strip("/") in found else None
    if len(found) > 1 and "dataset" not in found:
        raise InputError(
            f"{file.path} holds raw data in {len(found)} groups",
            why=", ".join(sorted(found)[:12]),
            fix=f"name one of them, for example --dataset {min(found)}",
        )
    return "dataset" if "dataset" in found else found[0] if found else None


def _is_group(file: GuardedFile, name: str) -> bool:
    return "/" not in name and name in file and file.is_group(name)


def _is_calgary(file: GuardedFile) -> bool:
    """Whether the file holds real `kspace` (x, ky, kz, two per coil), which nothing else has at this size."""
    if "kspace" not in file or file.is_group("kspace"):
        return False
    found = file["kspace"]
    packed = len(found.shape) == 4 and found.shape[3] in PACKED and min(found.shape[:3]) >= SMALLEST
    return packed and found.dtype.kind == "f" and len(list(file)) == 1
