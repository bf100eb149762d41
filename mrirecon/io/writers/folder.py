"""Write a folder of files, such as a DICOM series, so that it appears complete or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from mrirecon.errors import UsageError
from mrirecon.io.safe.atomic import atomic_paths, flush, move, resources, temporary_name


@contextmanager
def atomic_folder(
    path: str | Path, *, beside: Iterable[str | Path] = (), inputs: Iterable[str | Path] = (), ours: str = r"$^"
) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a temporary folder that replaces `path` at the end, and temporary paths of further files.

    After an error or a kill, `path` is unchanged. Only after a kill between the two renames that replace an existing
    folder is it missing; old and new files are never mixed. The replaced folder is removed.

    Args:
        path: the folder to write. An existing folder is replaced if all its files match `ours`.
        beside: further files that belong to it, moved right after it.
        inputs: files that must not be overwritten, and must not be in a folder that is replaced.
        ours: regular expression for the names of files that may be replaced.

    Raises:
        UsageError: `path` is a file, holds an input, or holds other files.
        ResourceError: no space, no permission, a read-only disk.

    """
    target, beside, inputs = Path(path), list(beside), list(inputs)
    _refuse(target, inputs, ours)
    folder = temporary_name(target.parent)
    leftovers = [folder]
    files: AbstractContextManager[list[Path]] = atomic_paths(beside, inputs=inputs) if beside else nullcontext([])
    try:
        with resources(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            with files as temporaries:
                yield folder, temporaries
                for file in (*folder.iterdir(), folder):
                    flush(file)
                if target.exists():
                    folder.chmod(target.stat().st_mode & 0o777)
                move([target], [folder], leftovers, never_mixed=True)
            flush(target.parent)
    finally:
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)


def _refuse(target: Path, inputs: list[str | Path], ours: str) -> None:
    try:
        if not target.exists():
            return
        if not target.is_dir() or target.is_symlink():
            raise UsageError(f"{target} is a file", fix="name a new folder")
        for source in inputs:
            if Path(source).resolve().is_relative_to(target.resolve()):
                raise UsageError(f"{target} holds an input", why=str(source), fix="give another output name")
        others = [p.name for p in target.iterdir() if not (re.fullmatch(ours, p.name) and p.is_file())]
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{str(target)[:200]!r} cannot be written", why=str(error), fix="check the path") from None
    if others:
        why = ", ".join(others[:4])
        raise UsageError(f"the folder {target} holds other files and is not replaced", why=why, fix="name a new folder")
