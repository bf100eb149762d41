"""Which slices there are to learn from, whose they are, and who is kept for validation."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mrirecon.data.leave_out import excluded, silent
from mrirecon.data.settings import Data
from mrirecon.data.volumes import PHANTOM, Volume, is_volume, read_volumes
from mrirecon.errors import InputError, UsageError
from mrirecon.io import Scan, read
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.sampling import in_words

MEASURED = 0.9  # share of k-space sampled, above which a scan counts as fully sampled


@dataclass(frozen=True)
class Slot:
    """One slice: where it lies, and whose it is."""

    source: Volume | Scan = field(repr=False)
    index: int
    person: str
    name: str
    shape: tuple[int, ...]  # (C, y, x) of k-space; (y, x) of a volume

    @property
    def simulated(self) -> bool:
        """Whether its k-space is simulated."""
        return isinstance(self.source, Volume)

    @cached_property
    def fingerprint(self) -> str:
        """A name that another slice, or the same of a changed file, does not have."""
        if isinstance(self.source, Volume):
            told = np.ascontiguousarray(self.source.slices[self.index]).tobytes() + repr(self.source.spacing).encode()
        else:
            at = self.source.path.stat()
            told = f"{self.source.path.resolve()} {at.st_size} {at.st_mtime_ns} {self.index}".encode()
        return hashlib.sha256(told).hexdigest()[:16]


@dataclass(frozen=True)
class Sources:
    """The slices of a run.

    Attributes:
        train: to learn from.
        val: of other people.
        people: names of both groups.
        files: path and what was found there, for the card.
        notes: what the user should know.

    """

    train: list[Slot] = field(repr=False)
    val: list[Slot] = field(repr=False)
    people: dict[str, list[str]]
    files: list[dict[str, object]]
    notes: list[str]


def open_sources(data: Data, folder: Path = Path()) -> Sources:
    """Read volumes and list scans; people are kept apart.

    Args:
        data: what to read.
        folder: that relative paths start from, unless they exist from where the command runs.

    Raises:
        InputError: files that cannot be used.
        UsageError: nothing found; a person in both groups.

    """
    files: list[dict[str, object]] = []
    notes: list[str] = []
    held = isinstance(data.val, float)
    train = _slots(expand(data.train, data.exclude, folder, "data.train"), data, files, notes)
    if held:
        train, val = _hold_out(train, float(data.val))  # type: ignore[arg-type]  # just checked
    else:
        val = _slots(expand(data.val, data.exclude, folder, "data.val"), data, files, notes)  # type: ignore[arg-type]
    people = {"train": sorted({s.person for s in train}), "val": sorted({s.person for s in val})}
    both = sorted(set(people["train"]) & set(people["val"]))
    if both:
        raise UsageError(
            "the same person is in the training and in the validation data",
            where="data.val",
            why=", ".join(both[:5]),
            fix="take files of other people, or set data.person to the expression that names a person in a file name",
        )
    if not train or not val:
        raise UsageError(
            "there is nothing to train on" if not train else "there is nobody left to validate on",
            where="data.train" if not train else "data.val",
            why=f"people found: {', '.join(people['train'] + people['val']) or 'none'}",
            fix="give more files, or another share",
        )
    return Sources(train, val, people, files, notes)


def expand(
    given: Sequence[str], exclude: Sequence[str], folder: Path, key: str, beside: Sequence[str] = ()
) -> list[str]:
    """Return the files that names, folders and patterns stand for, in order and once each.

    What follows a ``#`` is a pattern for the names of arrays in a file, and stays with it. Each entry stands by itself;
    `beside` are further ones of the same list, for the error about a pattern that was meant for another's folder.

    Raises:
        UsageError: one of them matches nothing.

    """
    found: list[str] = []
    for text in given:
        if text.split(":")[0] == PHANTOM and not Path(text).exists():
            found.append(text)
            continue
        named, (text, sign, part) = text, os.path.expandvars(text).partition("#")
        _check_pattern(text, named, key)
        there = next((m for p in (Path(text).expanduser(), folder / Path(text).expanduser()) if (m := matches(p))), [])
        if not there:
            raise _nothing(named, text, folder, key, [*given, *beside])
        found += [f"{path}{sign}{part}" for path in there]
    kept = [f for f in dict.fromkeys(found) if not any(fnmatch.fnmatch(Path(f).name, e) for e in exclude)]
    return kept


def _check_pattern(text: str, named: str, key: str) -> None:
    """Refuse what can be no file, folder or pattern, whatever there is.

    Raises:
        UsageError: with the reason.

    """
    parts = Path(text).parts
    if not text.strip():
        why = "no name is left"
    elif any("**" in part and part != "**" for part in parts):
        why = "** stands for any folders, and must be all between two slashes"
    elif parts[0].startswith("~") and str(Path(parts[0])) == os.path.expanduser(parts[0]):  # noqa: PTH111  # it raises
        why = f"there is no home folder {parts[0]}"
    else:
        return
    fix = "write a file, a folder, or a pattern such as 'folder/**/*.nii.gz'"
    raise UsageError(f"{named!r} names no file", where=key, why=why, fix=fix)


def _nothing(named: str, text: str, folder: Path, key: str, beside: Sequence[str]) -> UsageError:
    """Return the error for an entry that matches nothing: where a folder beside it holds what it names, with that."""
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
    """Return what a name or a pattern stands for, and of a folder the files in it that can be read."""
    path = Path(path)
    if path.is_dir():
        return sorted(
            str(p) for p in path.iterdir() if p.name.lower().endswith(suffixes("kspace", "images")) and p.is_file()
        )
    if path.exists():
        return [str(path)]
    return sorted(str(p) for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))


def person_of(text: str, expression: str) -> str:
    """Return who a file is of: the first group of the expression in its name, or all of the name."""
    found = re.search(expression, text)
    name = re.sub(r"\.(nii\.gz|nii|img|npz|npy|h5|hdf5|cfl|dat|mat)", "", text)
    return next((g for g in found.groups() if g), name) if found else name


def check_person(expression: str, option: str, where: str | None = None) -> None:
    """Refuse an expression that cannot name a person: without a group, each file would be a person of its own.

    Raises:
        UsageError: no regular expression, or one without a group.

    """
    try:
        groups = re.compile(expression).groups
    except re.error as error:
        raise UsageError(f"{option} is not a regular expression", where=where or option, why=str(error)) from None
    if not groups:
        raise UsageError(
            f"{option} has no group, which would name the person",
            where=where or option,
            why=f"of {expression!r}, nothing stands in parentheses, and every file would be a person of its own",
            fix=f"put what names a person into parentheses: ({expression})",
        )


def _slots(paths: list[str], data: Data, files: list[dict[str, object]], notes: list[str]) -> list[Slot]:
    check_person(data.person, "data.person")
    slots: list[Slot] = []
    for entry in paths:
        path, _, part = entry.partition("#")
        if is_volume(path):
            for volume in read_volumes(path):
                inner = volume.name.partition(":")[2]
                if part and not fnmatch.fnmatch(inner, part):
                    continue
                # An array in a packed file is named after the file that it was; else the file's own name tells.
                named = bool(re.search(data.person, inner)) and path.split(":")[0] != PHANTOM
                person = person_of(inner if named else volume.name, data.person)
                away = excluded((volume.name, inner, Path(path).name), len(volume), data.exclude)
                slots += [
                    Slot(volume, i, person, f"{volume.name}, slice {i}", volume.slices.shape[1:])
                    for i in range(len(volume))
                    if i not in away
                ]
                files.append(
                    {
                        "file": volume.name,
                        "person": person,
                        "kind": "magnitude volume, k-space simulated",
                        "slices": len(volume) - len(away),
                        "left out": volume.left_out,
                        **({"excluded slices": sorted(away)} if away else {}),
                        "size": list(volume.slices.shape[1:]),
                        "measured share of k-space (y, x)": [round(s, 2) for s in volume.support],
                        "voxels exactly zero": round(volume.zeros, 2),
                    }
                )
        else:
            scan = read(path, axes=data.axes)
            if len(scan.space) != 2:
                raise InputError(
                    "training takes two-dimensional k-space",
                    where=str(path),
                    why=f"its axes are {', '.join(scan.shape)}",
                    fix="transform the fully sampled axis and save the slices",
                )
            shape = (scan.coils, *scan.space_shape)
            person = person_of(Path(path).name, data.person)
            away = excluded((Path(path).name,), len(scan), data.exclude)
            zeros = silent(scan, (i for i in range(len(scan)) if i not in away))
            if zeros:
                notes.append(f"{path}: {in_words(sorted(zeros))} hold nothing but zeros, and are left out")
            taken = [i for i in range(len(scan)) if i not in away | zeros]
            slots += [Slot(scan, i, person, scan.where(i), shape) for i in taken]
            files.append(
                {
                    "file": Path(path).name,
                    "person": person,
                    "kind": "k-space",
                    "slices": len(taken),
                    **({"excluded items": sorted(away)} if away else {}),
                    **({"items of nothing but zeros, left out": sorted(zeros)} if zeros else {}),
                    "size": list(shape),
                }
            )
    cropped = sum(1 for f in files if f.get("measured share of k-space (y, x)", [1, 1]) != [1, 1])
    if cropped:
        text = f"{cropped} volumes had been interpolated: their k-space is cut to what was measured, and coil noise "
        text += "fills a background that was exactly zero"
        notes[:] = [n for n in notes if "had been interpolated" not in n] + [text]
    return slots


def _hold_out(slots: list[Slot], share: float) -> tuple[list[Slot], list[Slot]]:
    """Keep a share of the people for validation, those whose names hash lowest: more data moves nobody."""
    people = sorted({s.person for s in slots}, key=lambda p: hashlib.sha256(p.encode()).digest())
    held = set(people[: max(1, round(share * len(people)))]) if len(people) > 1 else set()
    return [s for s in slots if s.person not in held], [s for s in slots if s.person in held]
