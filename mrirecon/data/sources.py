"""Find the training slices and their subjects, and hold out some subjects for validation."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mrirecon.data.settings import Data
from mrirecon.data.volumes import PHANTOM, Volume, is_volume, read_volumes
from mrirecon.errors import InputError, UsageError
from mrirecon.io.readers.reader import read
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.sampling import format_items
from mrirecon.io.scan import Scan, to_complex64
from mrirecon.io.select import parse_items

FULLY_SAMPLED_SHARE = 0.9  # minimum sampled fraction of k-space of a fully sampled scan
_BY_ITEM = re.compile(r"(?P<name>.+):(?P<items>\d+(-\d+)?(,\d+(-\d+)?)*)")
_SUPPORT = "measured share of k-space (y, x)"
FileInfo = dict[str, object]


@dataclass(frozen=True)
class SliceRef:
    """Refer to one slice of a subject.

    Attributes:
        source: volume or scan.
        index: index of the slice in the source.
        subject: subject of the slice.
        name: name for messages.
        shape: (C, y, x) of k-space; (y, x) of a volume.

    """

    source: Volume | Scan = field(repr=False)
    index: int
    subject: str
    name: str
    shape: tuple[int, ...]

    @property
    def simulated(self) -> bool:
        """Return whether the k-space is simulated."""
        return isinstance(self.source, Volume)

    @cached_property
    def fingerprint(self) -> str:
        """Return a unique hash of the slice, which changes with its file."""
        if isinstance(self.source, Volume):
            text = np.ascontiguousarray(self.source.slices[self.index]).tobytes() + repr(self.source.spacing).encode()
        else:
            stat = self.source.path.stat()
            text = f"{self.source.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {self.index}".encode()
        return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class SliceSources:
    """Hold the slices of a run.

    Attributes:
        train: training slices.
        val: validation slices, of other subjects.
        subjects: names of the subjects in both groups.
        files: description of each file, for the card.
        notes: notes for the user.

    """

    train: list[SliceRef] = field(repr=False)
    val: list[SliceRef] = field(repr=False)
    subjects: dict[str, list[str]]
    files: list[FileInfo]
    notes: list[str]


def open_sources(data: Data, folder: Path = Path()) -> SliceSources:
    """Read volumes, list the items of scans, and split them by subject.

    Args:
        data: settings of the data.
        folder: folder of relative paths that do not exist in the current folder.

    Raises:
        InputError: a file cannot be used.
        UsageError: there are no files, or a subject is in both groups.

    """
    files: list[FileInfo] = []
    notes: list[str] = []
    train = _slices(expand(data.train, data.exclude, folder, "data.train"), data, files, notes)
    if isinstance(data.val, float):
        train, val = _split_by_subject(train, data.val)
    else:
        val = _slices(expand(data.val, data.exclude, folder, "data.val"), data, files, notes)
    subjects = {"train": sorted({s.subject for s in train}), "val": sorted({s.subject for s in val})}
    both = sorted(set(subjects["train"]) & set(subjects["val"]))
    if both:
        raise UsageError(
            "a subject is in both the training and the validation data",
            where="data.val",
            why=", ".join(both[:5]),
            fix="use files of other subjects, or set data.subject so that it finds the subject in file names",
        )
    if not train or not val:
        raise UsageError(
            "no training data" if not train else "no validation data",
            where="data.train" if not train else "data.val",
            why=f"subjects: {', '.join(subjects['train'] + subjects['val']) or 'none'}",
            fix="add files, or change the fraction data.val",
        )
    interpolated = sum(f.get(_SUPPORT, [1, 1]) != [1, 1] for f in files)
    if interpolated:
        notes.append(
            f"{interpolated} volumes were interpolated: their k-space is cropped to the measured part, and coil noise "
            "fills their background, which was exactly zero"
        )
    return SliceSources(train, val, subjects, files, notes)


def expand(
    entries: Sequence[str], exclude: Sequence[str], folder: Path, key: str, beside: Sequence[str] = ()
) -> list[str]:
    """Expand names, folders and patterns to files, in order and without duplicates.

    A ``#`` with a pattern of array names remains attached to its file. Entries are independent; ``beside`` are other
    entries of the same list, for an error message about a pattern that was meant for another entry's folder.

    Raises:
        UsageError: an entry matches no file.

    """
    files: list[str] = []
    for text in entries:
        if text.split(":")[0] == PHANTOM and not Path(text).exists():
            files.append(text)
            continue
        named, (text, sign, part) = text, os.path.expandvars(text).partition("#")
        _check_pattern(text, named, key)
        places = (Path(text).expanduser(), folder / Path(text).expanduser())
        matched = next((m for p in places if (m := matches(p))), [])
        if not matched:
            raise _no_match_error(named, text, folder, key, [*entries, *beside])
        files += [f"{path}{sign}{part}" for path in matched]
    return [f for f in dict.fromkeys(files) if not any(fnmatch.fnmatch(Path(f).name, e) for e in exclude)]


def _check_pattern(text: str, named: str, key: str) -> None:
    """Raise an error if the text cannot be a file, folder or pattern.

    Raises:
        UsageError: the text is invalid; the message gives the reason.

    """
    parts = Path(text).parts
    if not text.strip():
        why = "the name is empty"
    elif any("**" in part and part != "**" for part in parts):
        why = "** matches any folders and must be alone between two slashes"
    elif parts[0].startswith("~") and str(Path(parts[0])) == os.path.expanduser(parts[0]):  # noqa: PTH111  # raises an error
        why = f"no home folder {parts[0]}"
    else:
        return
    fix = "write a file, a folder, or a pattern such as 'folder/**/*.nii.gz'"
    raise UsageError(f"{named!r} names no file", where=key, why=why, fix=fix)


def _no_match_error(named: str, text: str, folder: Path, key: str, beside: Sequence[str]) -> UsageError:
    """Return the error for an entry without a match, with advice if another entry's folder has matching files."""
    what = f"no file matches {text!r}"
    around = [Path(os.path.expandvars(other)).expanduser() for other in beside if "#" not in other]
    for other in [p for p in around for p in (p, folder / p) if p.is_dir()]:
        if not Path(text).is_absolute() and matches(other / text):
            return UsageError(
                what,
                where=key,
                why="entries are independent: a folder means all files in it; a pattern is relative to the current "
                "folder or to the configuration's folder",
                fix=f"write {str(other / text)!r} instead of {str(other)!r} and {text!r}",
            )
    for place in (Path(text).expanduser(), folder / Path(text).expanduser()):
        if place.is_dir():
            return UsageError(
                what,
                where=key,
                why=f"{place} has no file with a suffix of {', '.join(suffixes('kspace', 'images'))}",
                fix=f"subfolders are not searched: write a pattern such as {str(place / '**/*.nii.gz')!r}",
            )
    unset = f"set the environment variable of {named}, or " if "$" in text else ""
    return UsageError(what, where=key, fix=f"{unset}check the path; it may be a file, a folder or a pattern")


def matches(path: str | Path) -> list[str]:
    """Return the files that match a name or pattern; for a folder, its readable files."""
    path = Path(path)
    if path.is_dir():
        ends = suffixes("kspace", "images")
        return sorted(str(p) for p in path.iterdir() if p.name.lower().endswith(ends) and p.is_file())
    if path.exists():
        return [str(path)]
    return sorted(str(p) for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))


def subject_of(text: str, expression: str) -> str:
    """Return the subject of a file: the first group that the expression matches in its name, or the whole name."""
    match = re.search(expression, text)
    name = re.sub(r"\.(nii\.gz|nii|img|npz|npy|h5|hdf5|cfl|dat|mat)", "", text)
    return next((g for g in match.groups() if g), name) if match else name


def check_subject_expression(expression: str, option: str, location: str | None = None) -> None:
    """Raise an error if an expression has no group, because each file would then be a subject of its own.

    Raises:
        UsageError: the regular expression is invalid or has no group.

    """
    try:
        groups = re.compile(expression).groups
    except re.error as error:
        raise UsageError(f"{option} is not a regular expression", where=location or option, why=str(error)) from None
    if not groups:
        raise UsageError(
            f"{option} has no group for the subject",
            where=location or option,
            why=f"{expression!r} has no parentheses, so every file would be a subject of its own",
            fix=f"put the part that identifies the subject into parentheses, such as ({expression})",
        )


def excluded_items(names: Iterable[str], count: int, exclude: Sequence[str]) -> set[int]:
    """Return the items of a file that ``data.exclude`` lists as ``NAME:ITEMS``, such as ``knee*.h5:0-2,17``.

    Args:
        names: names of the file and of the array in it; the pattern of an entry must match one of them.
        count: number of items in the file.
        exclude: entries of ``data.exclude``.

    Raises:
        UsageError: an entry lists items that the file does not have.

    """
    excluded: set[int] = set()
    for entry in exclude:
        match = _BY_ITEM.fullmatch(entry)
        if match is None or not any(fnmatch.fnmatch(name, match["name"]) for name in names):
            continue
        excluded |= set(parse_items(match["items"], count, f"data.exclude: {entry}"))
    return excluded


def empty_items(scan: Scan, items: Iterable[int]) -> set[int]:
    """Return the items of a scan that contain only zeros.

    One central line of one coil is read first; more is read only if this line is zero.
    """
    return {i for i in items if not _central_line(scan, i).any() and scan.quick_mask(i) is None}


def _central_line(scan: Scan, item: int) -> np.ndarray:
    index, axes = list(scan.layout.index(item)), scan.layout.axes
    if "coil" in axes:
        index[axes.index("coil")] = scan.coils // 2
    index[axes.index(scan.space[0])] = scan.space_shape[0] // 2
    values = scan.store.read(scan.roles.kspace, tuple(index))
    return to_complex64(values, scan.where(item)) if values.dtype.fields else values


def _slices(paths: list[str], data: Data, files: list[FileInfo], notes: list[str]) -> list[SliceRef]:
    """Return the slices of files, and append to ``files`` and ``notes``."""
    check_subject_expression(data.subject, "data.subject")
    slices: list[SliceRef] = []
    for entry in paths:
        path, _, pattern = entry.partition("#")
        if is_volume(path):
            for volume in read_volumes(path):
                if not pattern or fnmatch.fnmatch(volume.name.partition(":")[2], pattern):
                    slices += _volume_slices(volume, path, data, files)
        else:
            slices += _scan_slices(path, data, files, notes)
    return slices


def _volume_slices(volume: Volume, path: str, data: Data, files: list[FileInfo]) -> list[SliceRef]:
    array = volume.name.partition(":")[2]
    # An array in a packed file is named after its original file; otherwise, the name of the file is used.
    named = bool(re.search(data.subject, array)) and path.split(":")[0] != PHANTOM
    subject = subject_of(array if named else volume.name, data.subject)
    excluded = excluded_items((volume.name, array, Path(path).name), len(volume), data.exclude)
    shape = volume.slices.shape[1:]
    files.append(
        {
            "file": volume.name,
            "subject": subject,
            "kind": "magnitude volume, k-space simulated",
            "slices": len(volume) - len(excluded),
            "left out": volume.left_out,
            **({"excluded slices": sorted(excluded)} if excluded else {}),
            "size": list(shape),
            _SUPPORT: [round(s, 2) for s in volume.support],
            "voxels exactly zero": round(volume.zeros, 2),
        }
    )
    included = (i for i in range(len(volume)) if i not in excluded)
    return [SliceRef(volume, i, subject, f"{volume.name}, slice {i}", shape) for i in included]


def _scan_slices(path: str, data: Data, files: list[FileInfo], notes: list[str]) -> list[SliceRef]:
    scan = read(path, axes=data.axes)
    scan.require_grid("training on measured scans")
    if len(scan.space) != 2:
        raise InputError(
            "training needs two-dimensional k-space",
            where=path,
            why=f"its axes are {', '.join(scan.shape)}",
            fix="Fourier transform the fully sampled axis and save the slices",
        )
    shape = (scan.coils, *scan.space_shape)
    subject = subject_of(Path(path).name, data.subject)
    excluded = excluded_items((Path(path).name,), len(scan), data.exclude)
    empty = empty_items(scan, (i for i in range(len(scan)) if i not in excluded))
    if empty:
        rest = "contains only zeros and is excluded" if len(empty) == 1 else "contain only zeros and are excluded"
        notes.append(f"{path}: {format_items(sorted(empty))} {rest}")
    included = [i for i in range(len(scan)) if i not in excluded | empty]
    files.append(
        {
            "file": Path(path).name,
            "subject": subject,
            "kind": "k-space",
            "slices": len(included),
            **({"excluded items": sorted(excluded)} if excluded else {}),
            **({"empty items, left out": sorted(empty)} if empty else {}),
            "size": list(shape),
        }
    )
    return [SliceRef(scan, i, subject, scan.where(i), shape) for i in included]


def _split_by_subject(slices: list[SliceRef], share: float) -> tuple[list[SliceRef], list[SliceRef]]:
    """Hold out the subjects with the lowest hashes of their names, so that more data moves no subject."""
    subjects = sorted({s.subject for s in slices}, key=lambda p: hashlib.sha256(p.encode()).digest())
    held = set(subjects[: max(1, round(share * len(subjects)))]) if len(subjects) > 1 else set()
    return [s for s in slices if s.subject not in held], [s for s in slices if s.subject in held]
