"""Which image belongs to which reference: by the scan that its sidecar says it was made of, then by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mrirecon.errors import InputError, UsageError
from mrirecon.io import sidecar_path
from mrirecon.io.readers.dicom import is_dicom
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.bids import DESCRIPTION
from mrirecon.methods.registry import methods

ITERATES = "_iterates"  # of the images of every step, see `mrirecon reconstruct --save-iterates`
_LIMIT = 4 << 20  # bytes of a sidecar


@dataclass(frozen=True)
class Pair:
    """An image and its reference.

    Attributes:
        case: name of the scan.
        prediction: file of images.
        reference: file that they are compared with.

    """

    case: str
    prediction: Path
    reference: Path


def pair_up(predictions: Path, references: Path) -> tuple[list[Pair], list[Path], list[Path]]:
    """Match the files of two folders, each reference with one image at most.

    A prediction belongs to the reference that has the name, up to its first dot, of the scan that the prediction's
    sidecar names, or that was made of a scan of that name itself; else to the one of its own name; else to the one of
    its own name without ``_METHOD``.

    Returns:
        The pairs in the order of their cases, the predictions without a reference, the references without a prediction.

    Raises:
        UsageError: a path that is no folder.
        InputError: nothing fits together; two images of one scan; two files of one name.

    """
    ours, theirs = by_name(predictions, iterates=False), by_name(references)
    known = {name: _scan_of(path) for name, path in theirs.items()}
    of_scan: dict[str, list[str]] = {}
    for name, scan in known.items():
        if scan is not None:
            of_scan.setdefault(scan, []).append(name)
    found: dict[str, str] = {}  # name of a prediction, by that of its reference
    left = dict.fromkeys(ours)
    for names in (
        {name: _scan_of(path) for name, path in ours.items()},
        {name: name for name in ours},
        {name: without_method(name) for name in ours},
    ):
        taken: dict[str, str] = {}
        for name in list(left):
            wanted = names[name]
            if wanted is None:
                continue
            made_of_it = of_scan.get(wanted, [])
            reference = wanted if wanted in theirs else made_of_it[0] if len(made_of_it) == 1 else None
            if reference is None or reference in found:
                continue
            if reference in taken:
                raise InputError(
                    f"two images are of {wanted}",
                    where=str(predictions),
                    why=f"{ours[taken[reference]].name}, {ours[name].name}",
                    fix="put the images of each method into a folder of their own, or keep one",
                )
            taken[reference] = name
            del left[name]
        found |= taken
    if not found:
        raise InputError(
            "no file in one folder belongs to one in the other",
            where=f"{predictions} and {references}",
            why=f"{few(ours)} and {few(theirs)}",
            fix="give files the same names up to the first dot, or keep the sidecars that name the scans",
        )
    pairs = [Pair(name, ours[found[name]], theirs[name]) for name in sorted(found)]
    return pairs, [ours[n] for n in sorted(left)], [theirs[n] for n in sorted(set(theirs) - set(found))]


def by_name(folder: Path, *, iterates: bool = True) -> dict[str, Path]:
    """Return the files of a folder that may hold images or scans, by their name up to its first dot.

    Args:
        folder: if it is a BIDS derivative dataset, the files of all subjects.
        iterates: whether files of an iteration's steps count.

    Raises:
        UsageError: it is no folder.
        InputError: two files of one name.

    """
    if not folder.is_dir() or is_dicom(folder):
        raise UsageError("a folder is compared with a folder", where=str(folder), fix="give two files or two folders")
    found: dict[str, Path] = {}
    for path in files_in(folder):
        known = path.name.lower().endswith(suffixes("images")) or (path.is_dir() and is_dicom(path))
        name = path.name.split(".")[0]
        if path.name.startswith(".") or not known or (name.endswith(ITERATES) and not iterates):
            continue
        if name in found:
            raise InputError(
                f"two files are called {name}",
                where=str(folder),
                why=f"{found[name].name}, {path.name}",
                fix="keep one",
            )
        found[name] = path
    return found


def files_in(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order; of a BIDS dataset, what lies with its subjects."""
    if (folder / DESCRIPTION).is_file():
        return sorted(p for p in folder.glob("sub-*/**/*") if p.is_file())
    return sorted(folder.iterdir())


def case_of(path: Path) -> str:
    """Return the name of the scan that an image is of: by its sidecar, else by its own name."""
    return _scan_of(path) or path.name.split(".")[0]


def without_method(name: str) -> str | None:
    """Return a name without the method that `mrirecon reconstruct` puts at its end; None where it ends in none."""
    stem, _, method = name.rpartition("_")
    return stem if stem and method in methods() else None


def load_sidecar(path: Path) -> tuple[dict[str, Any], str]:
    """Return what lies beside an image, and what is wrong with it; empty where it is not there."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}, "it has no sidecar: how it was made is not known"
    try:
        if beside.stat().st_size > _LIMIT:
            return {}, f"its sidecar is not read: it is larger than {_LIMIT >> 20} MB"
        told = parse_json(beside.read_bytes())
    except (OSError, ValueError) as error:
        return {}, f"its sidecar cannot be read: {type(error).__name__}"
    return (told, "") if isinstance(told, dict) else ({}, "its sidecar holds no settings")


def source_of(told: dict[str, Any]) -> tuple[Any, Any]:
    """Return the file that a sidecar says an image was made of, and the file's SHA-256."""
    source = told.get("input")
    return (source.get("file"), source.get("sha256")) if isinstance(source, dict) else (source, told.get("sha256"))


def last_part(text: str) -> str:
    """Return the last part of a path of this system or of Windows."""
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name


def few(names: Iterable[str]) -> str:
    """Return the first names of a list, for an error."""
    listed = sorted(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "") if listed else "nothing"


def _scan_of(path: Path) -> str | None:
    source, _ = source_of(load_sidecar(path)[0])
    return (last_part(source).split(".")[0] or None) if isinstance(source, str) else None
