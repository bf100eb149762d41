"""Write files and folders so that they appear complete or not at all: temporary first, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from mrirecon.errors import InputError, MriReconError, ResourceError, UsageError
from mrirecon.io.identify import cfl_pair
from mrirecon.io.safe.text import local, portable

_PREFIX = ".mrirecon-"
_STALE_SECONDS = 600
_NAME_BYTES = 200
_CLEANED: dict[str, float] = {}  # for each folder, when the temporary files of killed processes were last removed


@contextmanager
def atomic_path(path: str | Path, *, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which replaces `path` at the end.

    After an error or a kill, `path` is unchanged. An existing file keeps its permissions; a symbolic link is
    replaced, not followed. Missing folders are created.

    Args:
        path: the file to write.
        inputs: files that must not be overwritten.

    Raises:
        UsageError: `path` is a folder, or one of `inputs`.
        ResourceError: no space, no permission, a read-only disk.

    """
    with atomic_paths([path], inputs=inputs) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(
    paths: Sequence[str | Path], *, inputs: Iterable[str | Path] = (), never_mixed: bool = False
) -> Iterator[list[Path]]:
    """Yield temporary paths for files that belong together: all are written before any is moved; see `atomic_path`.

    Args:
        paths: the files to write; they are moved in this order, within a fraction of a millisecond.
        inputs: files that must not be overwritten.
        never_mixed: never leave an old file with a new one (a BART header and its data): old files are moved away
            first, so that after a kill at that moment a file is missing rather than wrong.

    """
    targets = [Path(p) for p in paths]
    refuse_overwrite(targets, inputs)
    temporaries: list[Path] = []
    try:
        with resources(targets[0]):
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                _remove_stale(target.parent)
                temporary = _temporary_name(target.parent)
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                temporaries.append(temporary)
            yield temporaries
            for target, temporary in zip(targets, temporaries, strict=True):
                _flush(temporary)
                with suppress(FileNotFoundError):
                    temporary.chmod(target.stat().st_mode & 0o777)
            move(targets, list(temporaries), temporaries, never_mixed=never_mixed)
            del temporaries[: len(targets)]  # moved; replaced files remain to be removed
            for folder in {target.parent for target in targets}:
                _flush(folder)
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


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
    _refuse_folder(target, inputs, ours)
    folder = _temporary_name(target.parent)
    leftovers = [folder]
    files: AbstractContextManager[list[Path]] = atomic_paths(beside, inputs=inputs) if beside else nullcontext([])
    try:
        with resources(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            with files as temporaries:
                yield folder, temporaries
                for file in (*folder.iterdir(), folder):
                    _flush(file)
                if target.exists():
                    folder.chmod(target.stat().st_mode & 0o777)
                move([target], [folder], leftovers, never_mixed=True)
            _flush(target.parent)
    finally:
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)


def _refuse_folder(target: Path, inputs: list[str | Path], ours: str) -> None:
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


def move(targets: list[Path], new: list[Path], leftovers: list[Path], *, never_mixed: bool) -> None:
    """Move new files to their targets; add replaced files to `leftovers`, or restore them on failure."""
    aside: list[tuple[Path, Path]] = []
    try:
        # Rename, do not remove: removal takes milliseconds, and a kill during this time would leave half a pair.
        for target in reversed(targets) if never_mixed else ():
            if target.exists():
                aside.append((_temporary_name(target.parent), target))
                target.rename(aside[-1][0])
        for target, temporary in zip(targets, new, strict=True):
            temporary.replace(target)
    except OSError:
        for old, target in aside:
            with suppress(OSError):
                old.replace(target)
        raise
    leftovers.extend(old for old, _ in aside)


def _temporary_name(folder: Path) -> Path:
    """Return an unused name in `folder` that `_remove_stale` recognises."""
    return folder / f"{_PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(6)}.tmp"


def refuse_overwrite(outputs: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Refuse outputs that are a folder, or an input under any name.

    Raises:
        UsageError: an output is an input or a folder; the message has both names.

    """
    sources = [p for name in inputs for p in (Path(name), *(cfl_pair(name) if not Path(name).is_file() else ()))]
    sources += [p for source in list(sources) if source.suffix in (".cfl", ".hdr") for p in cfl_pair(source)]
    for output in outputs:
        try:
            if output.is_dir():
                raise UsageError(f"{output} is a folder", fix="name the file to write in it")
            for source in sources:
                same = output.resolve() == source.resolve()
                if same or (output.exists() and source.exists() and output.samefile(source)):
                    raise UsageError(
                        f"{output} is an input", why=f"it is the same file as {source}", fix="give another output name"
                    )
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"{str(output)[:200]!r} cannot be written", why=str(error), fix="check the path") from None


def refuse_existing(outputs: Iterable[Path], overwrite: bool) -> None:
    """Refuse outputs that exist, unless they may be replaced, and invalid file names.

    Raises:
        UsageError: an output exists, or its name is invalid.

    """
    for output in outputs:
        try:
            exists = output.exists() or output.is_symlink()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{str(output)[:200]!r} cannot be written", why=why, fix="check the path") from None
        if exists and not overwrite:
            fix = "choose another name, or pass --overwrite"
            raise UsageError("the output exists already", where=str(output), fix=fix)


def safe_name(text: str, fallback: str = "item", *, room: int = 0) -> str:
    """Convert untrusted text to a safe file name without folders and control characters.

    The name is the same in every locale; a byte that is not UTF-8 becomes %XX. It is cut to 200 bytes, less `room` for
    a longer suffix, so that with prefix and suffix it stays below the limit of 255. Different texts can give the same
    name.
    """
    name = unicodedata.normalize("NFC", portable(text)).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(_safe(c) for c in name).strip(" .")
    return local(name.encode("utf-8")[: _NAME_BYTES - room].decode("utf-8", errors="ignore")) or fallback


def _safe(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"%{ord(character) - 0xDC00:02X}"
    return character if character.isprintable() and character not in '<>:"|?*' else "_"


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text; for a BART pair, that of its data file."""
    path = Path(path)
    if not path.exists() and cfl_pair(path)[1].exists():
        path = cfl_pair(path)[1]
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=str(error), fix="check the path and its permissions") from None


@contextmanager
def resources(target: Path) -> Iterator[None]:
    """Convert a failure of disk or memory while writing `target` to a `ResourceError`.

    HDF5 reports a full disk as OSError or RuntimeError, and gives the cause only in the text.
    """
    try:
        yield
    except MriReconError:
        raise
    except MemoryError:
        raise ResourceError(f"not enough memory to write {target}", fix="write fewer slices at once") from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "errno" not in str(error):
            raise
        number = getattr(error, "errno", None) or int((re.search(r"errno = (\d+)", str(error)) or [0, 0])[1])
        advice = {
            errno.ENOSPC: "free some space, or write to another disk",
            errno.EDQUOT: "free some of your quota, or write to another disk",
            errno.EROFS: "the disk is read-only: write elsewhere",
            errno.EACCES: "you have no permission to write there: choose another folder",
            errno.EPERM: "you have no permission to write there: choose another folder",
            errno.ENAMETOOLONG: "choose a shorter name",
            errno.ENOTDIR: "a part of the path is a file, not a folder",
        }
        raise ResourceError(
            f"{target} could not be written; no partial file was left",
            why=os.strerror(number) if number else " ".join(str(error).split()),
            fix=advice.get(number, "check the disk's space and permissions"),
        ) from None


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder; for a file, a failure means that it was not written.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_stale(folder: Path) -> None:
    """Remove temporary files that killed processes of this host left in the folder more than ten minutes ago.

    Do so once in ten minutes: listing a large folder for each output would take longer than writing the output.
    """
    name, now = str(folder.absolute()), time.monotonic()
    if now - _CLEANED.get(name, -_STALE_SECONDS) < _STALE_SECONDS:
        return
    _CLEANED[name] = now
    for path in folder.glob(f"{_PREFIX}{_host()}-*.tmp"):
        with suppress(OSError, ValueError):
            if time.time() - path.stat().st_mtime < _STALE_SECONDS:
                continue
            try:
                os.kill(int(path.name.split("-")[2]), 0)
            except ProcessLookupError:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
