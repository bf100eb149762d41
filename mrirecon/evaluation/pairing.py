"""Match images with references by the scan in the image's sidecar, else by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from mrirecon.errors import InputError, UsageError
from mrirecon.io.readers.dicom import is_dicom
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.bids import DESCRIPTION
from mrirecon.io.writers.write import sidecar_path
from mrirecon.methods.registry import methods
from mrirecon.reconstruction.cohort import PREFIX

ITERATES = "_iterates"  # suffix of files with the image of every step, see `reconstruct --save-iterates`
_LIMIT = 4 << 20  # bytes of a sidecar


class Pair(NamedTuple):
    """Hold an image file and its reference file.

    Attributes:
        case: name of the reference.
        prediction: image file.
        reference: reference file.

    """

    case: str
    prediction: Path
    reference: Path


def pair_up(predictions: Path, references: Path) -> tuple[list[Pair], list[Path], list[Path]]:
    """Match the files of two folders, with at most one image per reference.

    Names are compared up to their first dot. A prediction belongs to the reference that has the name of the scan in the
    prediction's sidecar, or that was reconstructed from this scan; else to the reference with its own name; else to the
    reference with its own name without ``_METHOD``.

    Returns:
        The pairs in the order of their cases, the predictions without a reference, the references without a prediction.

    Raises:
        UsageError: a path is not a folder.
        InputError: no files match, two images belong to one scan, or two files have the same name.

    """
    remaining, references_by_name = by_name(predictions, iterates=False), by_name(references)
    by_scan: dict[str | None, list[str]] = {}  # names of references; keys: the scans that they were reconstructed from
    for name, path in references_by_name.items():
        by_scan.setdefault(_scan_of(path), []).append(name)
    pairs: dict[str, Pair] = {}
    rules: tuple[Callable[[Path], str | None], ...] = (_scan_of, _stem, _stem_without_method)
    for name_of in rules:
        images: dict[str, list[Path]] = {}  # by reference
        for path in remaining.values():
            scan = name_of(path)
            matching = by_scan.get(scan, [])
            case = scan if scan in references_by_name else matching[0] if len(matching) == 1 else None
            if scan is not None and case is not None and case not in pairs:
                images.setdefault(case, []).append(path)
        for case, paths in images.items():
            if len(paths) > 1:
                raise InputError(
                    f"two images belong to {case}",
                    where=str(predictions),
                    why=", ".join(p.name for p in paths),
                    fix="put the images of each method into a separate folder, or keep one image",
                )
            pairs[case] = Pair(case, remaining.pop(_stem(paths[0])), references_by_name[case])
    if not pairs:
        raise InputError(
            "no file in one folder matches a file in the other",
            where=f"{predictions} and {references}",
            why=f"{first_names(remaining)} and {first_names(references_by_name)}",
            fix="give the files the same names up to the first dot, or keep the images' sidecars",
        )
    unused = [references_by_name[name] for name in sorted(set(references_by_name) - set(pairs))]
    return [pairs[name] for name in sorted(pairs)], [remaining[name] for name in sorted(remaining)], unused


def by_name(folder: Path, *, iterates: bool = True) -> dict[str, Path]:
    """Return the files of a folder that may contain images or scans, keyed by their name up to the first dot.

    Args:
        folder: folder of files; from a BIDS derivative dataset, the files of all subjects are returned.
        iterates: include files with the images of all steps.

    Raises:
        UsageError: the path is not a folder.
        InputError: two files have the same name.

    """
    if not folder.is_dir() or is_dicom(folder):
        raise UsageError(
            "one path is a folder, the other is a file", where=str(folder), fix="give two files or two folders"
        )
    files: dict[str, Path] = {}
    for path in files_in(folder):
        known = path.name.lower().endswith(suffixes("images")) or (path.is_dir() and is_dicom(path))
        name = _stem(path)
        if path.name.startswith(".") or not known or (name.endswith(ITERATES) and not iterates):
            continue
        if name in files:
            why = f"{files[name].name}, {path.name}"
            raise InputError(f"two files have the name {name}", where=str(folder), why=why, fix="keep one")
        files[name] = path
    return files


def files_in(folder: Path) -> list[Path]:
    """Return the sorted content of a folder; for a BIDS dataset, the files of its subjects.

    The files in the subfolders of `mrirecon reconstruct --subfolders` are included.
    """
    if (folder / DESCRIPTION).is_file():
        return sorted(p for p in folder.glob("sub-*/**/*") if p.is_file())
    return sorted([*folder.iterdir(), *folder.glob(f"{PREFIX}*/*")], key=lambda p: p.name)


def case_of(path: Path) -> str:
    """Return the name of an image's scan from its sidecar, else from the image's own name."""
    return _scan_of(path) or _stem(path)


def load_sidecar(path: Path) -> tuple[dict[str, Any], str]:
    """Return the content of an image's sidecar, and the reason if it is empty."""
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}, "no sidecar: the settings of the reconstruction are unknown"
    try:
        if beside.stat().st_size > _LIMIT:
            return {}, f"sidecar not read: it is larger than {_LIMIT >> 20} MB"
        content = parse_json(beside.read_bytes())
    except (OSError, ValueError) as error:
        return {}, f"sidecar cannot be read: {type(error).__name__}"
    return (content, "") if isinstance(content, dict) else ({}, "sidecar without settings")


def source_of(sidecar: dict[str, Any]) -> tuple[Any, Any]:
    """Return the input file of an image and its SHA-256, from the image's sidecar."""
    source = sidecar.get("input")
    return (source.get("file"), source.get("sha256")) if isinstance(source, dict) else (source, sidecar.get("sha256"))


def last_part(text: str) -> str:
    """Return the last part of a path with the separators of this system or of Windows."""
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name


def first_names(names: Iterable[str]) -> str:
    """Return the first few names of a list, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "") or "nothing"


def _scan_of(path: Path) -> str | None:
    source, _ = source_of(load_sidecar(path)[0])
    return (last_part(source).split(".")[0] or None) if isinstance(source, str) else None


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _stem_without_method(path: Path) -> str | None:
    """Return a name without the method that `mrirecon reconstruct` appends; None if it has no such suffix."""
    stem, _, method = _stem(path).rpartition("_")
    return stem if method in methods() else None
