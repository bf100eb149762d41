"""What is said of ISMRMRD files that lack what raw data are made of: header, acquisitions or samples."""

from __future__ import annotations

from pathlib import Path

import h5py

from mrirecon.errors import InputError


def incomplete(path: Path, group: str, there: bool) -> InputError:
    """Return the error for a group without header or acquisitions, which says what is in it instead."""
    names: list[str] = []
    if there:
        with h5py.File(path, "r") as file:
            names = sorted(str(name) for name in file[group])
    held = ", ".join(names[:12]) or "nothing"
    if "xml" in names:
        return InputError(
            f"{path} is ISMRMRD without raw data: a header, and no acquisitions",
            why=f"{group!r} holds {held}, and no 'data'",
            fix="export the raw data again; where only images are in it, there is nothing to reconstruct: evaluate and "
            "convert read images",
        )
    if "data" in names:
        why = f"{group!r} holds {held}, and no 'xml'"
        return InputError(f"{path} holds acquisitions without a header", why=why, fix="convert the raw data again")
    why = f"{group!r} holds {held}" if there else f"it has no group {group!r}"
    return InputError(
        f"{path} holds no ISMRMRD raw data in {group!r}", why=why, fix="name the group that holds 'xml' and 'data'"
    )


def without_samples(path: Path, acquisitions: int) -> InputError:
    """Return the error for a file that lists acquisitions, or none, and holds no samples."""
    why = f"{acquisitions} acquisitions are listed, each of 0 samples" if acquisitions else "'data' is empty"
    fix = "the samples were not written, or were taken out: export the raw data again"
    return InputError(f"{path} is ISMRMRD without samples", why=why, fix=fix)
