"""Find the slices to learn from and their subjects, and keep some subjects for validation."""

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

FULLY_SAMPLED_SHARE = 0.9  # share of k-space sampled, above which a scan counts as fully sampled
_BY_ITEM = re.compile(r"(?P<name>.+):(?P<items>\d+(-\d+)?(,\d+(-\d+)?)*)")
FileInfo = dict[str, object]


@dataclass(frozen=True)
class SliceRef:
    """Refer to one slice of a subject.

    Attributes:
        source: the volume or the scan.
        index: of the slice in it.
        subject: whose it is.
        name: for messages.
        shape: (C, y, x) of k-space; (y, x) of a volume.

    """

    source: Volume | Scan = field(repr=False)
    index: int
    subject: str
    name: str
    shape: tuple[int, ...]

    @property
    def simulated(self) -> bool:
        """Whether its k-space is simulated."""
        return isinstance(self.source, Volume)

    @cached_property
    def fingerprint(self) -> str:
        """A hash that no other slice has, nor the same slice of a changed file."""
        if isinstance(self.source, Volume):
            text = np.ascontiguousarray(self.source.slices[self.index]).tobytes() + repr(self.source.spacing).encode()
        else:
            stat = self.source.path.stat()
            text = f"{self.source.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {self.index}".encode()
        return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class SliceSources:
    """The slices of a run.

    Attributes:
        train: to learn from.
        val: to validate on, of other subjects.
        subjects: names of both groups.
        files: a description of each file, for the card.
        notes: notes for the user.

    """

    train: list[SliceRef] = field(repr=False)
    val: list[SliceRef] = field(repr=False)
    subjects: dict[str, list[str]]
    files: list[FileInfo]
    notes: list[str]


def open_sources(data: Data, folder: Path = Path()) -> SliceSources:
    """Read volumes and list the items of scans; subjects are kept apart.

    Args:
        data: what to read.
        folder: that relative paths start from, unless they exist from where the command runs.

    Raises:
        InputError: files that cannot be used.
        UsageError: no files, or a subject in both groups.

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
            "the same subject is in the training and in the validation data",
            where="data.val",
            why=", ".join(both[:5]),
            fix="give files of other subjects, or an expression data.subject that finds the subject in file names",
        )
    if not train or not val:
        raise UsageError(
            "there is nothing to train on" if not train else "there is nothing to validate on",
            where="data.train" if not train else "data.val",
            why=f"the subjects are {', '.join(subjects['train'] + subjects['val']) or 'none'}",
            fix="give more files, or another share",
        )
    return SliceSources(train, val, subjects, files, notes)


def expand(
    given: Sequence[str], exclude: Sequence[str], folder: Path, key: str, beside: Sequence[str] = ()
) -> list[str]:
    """Return the files that names, folders and patterns stand for, in order and once each.

    A ``#`` and the pattern of array names after it stay with their file. Each entry stands by itself; ``beside`` are
    further entries of the same list, for the error about a pattern that was meant for the folder of another entry.

    Raises:
        UsageError: an entry that matches nothing.

    """
    files: list[str] = []
    for text in given:
        if text.split(":")[0] == PHANTOM and not Path(text).exists():
            files.append(text)
            continue
        named, (text, sign, part) = text, os.path.expandvars(text).partition("#")
        _check_pattern(text, named, key)
        places = (Path(text).expanduser(), folder / Path(text).expanduser())
        found = next((m for p in places if (m := matches(p))), [])
        if not found:
            raise _no_match_error(named, text, folder, key, [*given, *beside])
        files += [f"{path}{sign}{part}" for path in found]
    return [f for f in dict.fromkeys(files) if not any(fnmatch.fnmatch(Path(f).name, e) for e in exclude)]


def _check_pattern(text: str, named: str, key: str) -> None:
    """Refuse what can be no file, folder or pattern.

    Raises:
        UsageError: with the reason.

    """
    parts = Path(text).parts
    if not text.strip():
        why = "the name is empty"
    elif any("**" in part and part != "**" for part in parts):
        why = "** stands for any folders, and must stand alone between two slashes"
    elif parts[0].startswith("~") and str(Path(parts[0])) == os.path.expanduser(parts[0]):  # noqa: PTH111  # it raises
        why = f"there is no home folder {parts[0]}"
    else:
        return
    fix = "write a file, a folder, or a pattern such as 'folder/**/*.nii.gz'"
    raise UsageError(f"{named!r} names no file", where=key, why=why, fix=fix)


def _no_match_error(named: str, text: str, folder: Path, key: str, beside: Sequence[str]) -> UsageError:
    """Return the error for an entry that matches nothing, with advice where a folder holds what it names."""
    what = f"no file matches {text!r}"
    around = [Path(os.path.expandvars(other)).expanduser() for other in beside if "#" not in other]
    for other in [p for p in around for p in (p, folder / p) if p.is_dir()]:
        if not Path(text).is_absolute() and matches(other / text):
            return UsageError(
                what,
                where=key,
                why="each entry stands by itself: a folder is all files in it, and a pattern starts from where the "
                "command runs, or from the configuration's folder",
                fix=f"write {str(other / text)!r} in place of {str(other)!r} and {text!r}",
            )
    for place in (Path(text).expanduser(), folder / Path(text).expanduser()):
        if place.is_dir():
            return UsageError(
                what,
                where=key,
                why=f"{place} holds no file that ends in {', '.join(suffixes('kspace', 'images'))}",
                fix=f"a folder is the files in it, not those below: write {str(place / '**/*.nii.gz')!r}, or the like",
            )
    unset = f"set the environment variable of {named}, or " if "$" in text else ""
    return UsageError(what, where=key, fix=f"{unset}check the path; a folder or a pattern will do")


def matches(path: str | Path) -> list[str]:
    """Return the files of a name or a pattern, and of a folder the files in it that can be read."""
    path = Path(path)
    if path.is_dir():
        ends = suffixes("kspace", "images")
        return sorted(str(p) for p in path.iterdir() if p.name.lower().endswith(ends) and p.is_file())
    if path.exists():
        return [str(path)]
    return sorted(str(p) for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))


def subject_of(text: str, expression: str) -> str:
    """Return the subject of a file: the first group of the expression in its name, or the whole name."""
    found = re.search(expression, text)
    name = re.sub(r"\.(nii\.gz|nii|img|npz|npy|h5|hdf5|cfl|dat|mat)", "", text)
    return next((g for g in found.groups() if g), name) if found else name


def check_subject_expression(expression: str, option: str, where: str | None = None) -> None:
    """Refuse an expression that cannot name a subject: without a group, each file would be its own subject.

    Raises:
        UsageError: no regular expression, or one without a group.

    """
    try:
        groups = re.compile(expression).groups
    except re.error as error:
        raise UsageError(f"{option} is not a regular expression", where=where or option, why=str(error)) from None
    if not groups:
        raise UsageError(
            f"{option} has no group, which would name the subject",
            where=where or option,
            why=f"{expression!r} has no parentheses, so every file would be its own subject",
            fix=f"put what names a subject into parentheses: ({expression})",
        )


def excluded_items(names: Iterable[str], count: int, exclude: Sequence[str]) -> set[int]:
    """Return the items of a file that entries ``NAME:ITEMS`` of ``data.exclude`` name, such as ``knee*.h5:0-2,17``.

    Args:
        names: of the file and the array in it; the pattern of an entry has to match one of them.
        count: items in it.
        exclude: the entries.

    Raises:
        UsageError: an entry that names items which the file does not have, or a range backwards.

    """
    excluded: set[int] = set()
    for entry in exclude:
        match = _BY_ITEM.fullmatch(entry)
        if match is None or not any(fnmatch.fnmatch(name, match["name"]) for name in names):
            continue
        for part in match["items"].split(","):
            first, _, last = part.partition("-")
            chosen = range(int(first), int(last or first) + 1)
            if not chosen or chosen[-1] >= count:
                raise UsageError(
                    f"there are no items {part}",
                    where=f"data.exclude: {entry}",
                    why=f"{next(iter(names))} has {count}, from 0 to {count - 1}",
                    fix="name items that it has, the lower one first: 0-2,17",
                )
            excluded |= set(chosen)
    return excluded


def empty_items(scan: Scan, items: Iterable[int]) -> set[int]:
    """Return the items of a scan that hold only zeros.

    One line through the centre of one coil shows that most items are not empty; more is read only where it is zero.
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
    """Return the slices of files; appends to ``files`` and ``notes``."""
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
    interpolated = sum(1 for f in files if f.get("measured share of k-space (y, x)", [1, 1]) != [1, 1])
    if interpolated:
        text = (
            f"{interpolated} volumes had been interpolated: their k-space is cut to what was measured, and coil noise "
        )
        text += "fills a background that was exactly zero"
        notes[:] = [n for n in notes if "had been interpolated" not in n] + [text]
    return slices


def _volume_slices(volume: Volume, path: str, data: Data, files: list[FileInfo]) -> list[SliceRef]:
    array = volume.name.partition(":")[2]
    # An array in a packed file bears the name of the file that it came from; otherwise the file's own name counts.
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
            "measured share of k-space (y, x)": [round(s, 2) for s in volume.support],
            "voxels exactly zero": round(volume.zeros, 2),
        }
    )
    kept = (i for i in range(len(volume)) if i not in excluded)
    return [SliceRef(volume, i, subject, f"{volume.name}, slice {i}", shape) for i in kept]


def _scan_slices(path: str, data: Data, files: list[FileInfo], notes: list[str]) -> list[SliceRef]:
    scan = read(path, axes=data.axes)
    if len(scan.space) != 2:
        raise InputError(
            "training takes two-dimensional k-space",
            where=path,
            why=f"its axes are {', '.join(scan.shape)}",
            fix="transform the fully sampled axis and save the slices",
        )
    shape = (scan.coils, *scan.space_shape)
    subject = subject_of(Path(path).name, data.subject)
    excluded = excluded_items((Path(path).name,), len(scan), data.exclude)
    empty = empty_items(scan, (i for i in range(len(scan)) if i not in excluded))
    if empty:
        notes.append(f"{path}: {format_items(sorted(empty))} hold nothing but zeros, and are left out")
    kept = [i for i in range(len(scan)) if i not in excluded | empty]
    files.append(
        {
            "file": Path(path).name,
            "subject": subject,
            "kind": "k-space",
            "slices": len(kept),
            **({"excluded items": sorted(excluded)} if excluded else {}),
            **({"items of nothing but zeros, left out": sorted(empty)} if empty else {}),
            "size": list(shape),
        }
    )
    return [SliceRef(scan, i, subject, scan.where(i), shape) for i in kept]


def _split_by_subject(slices: list[SliceRef], share: float) -> tuple[list[SliceRef], list[SliceRef]]:
    """Hold out the subjects whose names have the lowest hashes: more data moves nobody to the other group."""
    subjects = sorted({s.subject for s in slices}, key=lambda p: hashlib.sha256(p.encode()).digest())
    held = set(subjects[: max(1, round(share * len(subjects)))]) if len(subjects) > 1 else set()
    return [s for s in slices if s.subject not in held], [s for s in slices if s.subject in held]
