"""Lock an output, so that only one process at a time writes it; the lock is released when the process ends."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mrirecon.errors import BusyError
from mrirecon.io.safe.atomic import resources

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)
_TRIES = 5
_CLEANED: set[Path] = set()  # folders from which the locks of killed processes were removed


@contextmanager
def output_lock(target: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of an output while the context lasts.

    The lock is on a hidden file in the folder of the output. The system releases it when the process dies, so a lock
    is never stale. On a file system without locks there is no protection: files are still complete, and the last one
    written remains.

    Args:
        target: the file to be written. Its folder is created if necessary, and removed again if it stays empty.
        wait: wait for a process that holds the lock.

    Raises:
        BusyError: another process holds the lock, and `wait` is false.
        ResourceError: the folder cannot be created or written to.

    """
    folder = target.absolute().parent
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    name = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock_file = folder / f".mrirecon-{name}.lock"
    handle = _acquire(lock_file, target, wait)
    _remove_stale_locks(folder, lock_file)
    try:
        yield
    finally:
        # Remove the file while it is locked: a waiting process notices this, and locks a new file.
        with suppress(OSError):
            lock_file.unlink()
        os.close(handle)
        for created in missing:
            with suppress(OSError):
                created.rmdir()


def _remove_stale_locks(folder: Path, mine: Path) -> None:
    """Remove the hidden lock files that no process holds, once for each folder."""
    if folder in _CLEANED:
        return
    _CLEANED.add(folder)
    for lock_file in folder.glob(".mrirecon-*.lock"):
        with suppress(OSError):
            handle = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
            try:
                if lock_file != mine:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    lock_file.unlink()
            finally:
                os.close(handle)


def _acquire(place: Path, target: Path, wait: bool) -> int:
    vanished = 0
    while True:
        with resources(target):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(place, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                vanished += 1  # another process removed the empty folder in between
                if vanished > _TRIES:
                    raise
                continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(handle).st_ino == place.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            fix = "wait for it, or give another output name"
            raise BusyError("another process is writing this output", where=str(target), fix=fix) from None
        except FileNotFoundError:
            pass  # the process that held the lock has removed the file
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return handle
            os.close(handle)
            raise
        except BaseException:  # a signal, while waiting
            os.close(handle)
            raise
        os.close(handle)
