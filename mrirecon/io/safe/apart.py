"""Look into a file in a process that may crash: libhdf5 is C, and a damaged file can make it write where it must not.

One worker reads, one after the other, all that files offer. Where it dies, takes too long or too much memory, that is
an error of the file, and a new worker takes the next. What it has read whole, this process reads without fear; whether
the content makes sense is for this process to say. A worker takes 0.2 to 0.3 s to start, and then about as long as
reading takes (2 ms for a small file, 0.13 s for 84 MB), so `mrirecon reconstruct` asks it where several files are
given, of which one must not take the others down, and for a single file with ``--isolate``.

`mrirecon.io.safe.isolated` is for parsers that never run in this process: a child for each file, whose answer is the
data. Here nothing is handed back, and the worker lasts, so that a batch of small files costs no start for each.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mrirecon.errors import InputError, MriReconError, ResourceError
from mrirecon.io.identify import has_hdf5_signature
from mrirecon.registries.plugins import files, load_files

SECONDS = 60.0
SECONDS_A_GIGABYTE = 120.0  # a slow network disk
MEMORY = 4 << 30
_START = 60.0
_READY, _DONE = "ready", "done"


def look_apart(
    path: str | Path,
    *,
    axes: str | None = None,
    dataset: str | None = None,
    seconds: float | None = None,
    memory: int | None = None,
) -> None:
    """Read all of an HDF5 file in a process of its own; return where that went well. Other files are not looked at.

    Args:
        path: the file.
        axes: see `mrirecon.io.read`.
        dataset: see `mrirecon.io.read`.
        seconds: time it may take; by default a minute, and more for files above half a gigabyte.
        memory: bytes of address space it may take; by default 4 GiB and four times the file.

    Raises:
        InputError: the worker died, or took too long.
        ResourceError: the memory did not suffice.

    """
    path = Path(path)
    if not path.is_file() or not has_hdf5_signature(path):
        return
    size = path.stat().st_size
    limit = seconds or max(SECONDS, SECONDS_A_GIGABYTE * size / (1 << 30))
    Worker.shared().look(path, {"axes": axes, "dataset": dataset}, limit, memory or MEMORY + 4 * size)


class Worker:
    """A process that reads files for this one."""

    _one: Worker | None = None

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._parent = os.getpid()
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Worker:
        """Return the worker of this process; one that a parent process had before a fork is left to it."""
        if cls._one is None or cls._one._parent != os.getpid():
            cls._one = cls()
        return cls._one

    def look(self, path: Path, names: dict[str, str | None], seconds: float, memory: int) -> None:
        """See `look_apart`."""
        process = self._running()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([str(path.absolute()), names, memory]) + "\n")
            process.stdin.flush()
        answer = self._answer(process, seconds)
        if answer is None:
            raise InputError(f"reading {path} took too long, and was ended", why=f"{seconds:g} s", fix=_FIX)
        if not answer:
            code = process.wait()
            self.close()
            raise InputError(f"the reader of {path} died", where=str(path), why=_death(code), fix=_FIX)
        if answer.strip() != _DONE:
            raise ResourceError(
                f"not enough memory to read {path}",
                why=f"the process that looks into it may take {memory / (1 << 30):.3g} GiB",
                fix="the file is damaged, or larger than this machine can read",
            )

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None and self._parent == os.getpid():
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            # No `python -m`: the folder that a user stands in must not offer modules.
            package = str(Path(__file__).parents[3])
            code = f"import sys; sys.path.append({package!r})\n"
            code += f"from mrirecon.io.safe.apart import serve; serve({files()!r})"
            command = [sys.executable, "-P", "-c", code]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            if (self._answer(self._process, _START) or "").strip() != _READY:
                self.close()
                raise MriReconError("the process that looks into files did not start", fix="leave --isolate out")
        return self._process

    def _answer(self, process: subprocess.Popen[str], seconds: float) -> str | None:
        """Return a line of the worker; "" where it died, None where it took too long (and is ended)."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.close()
                return None
        return process.stdout.readline()


_FIX = "the file is damaged, or made to harm: copy it again, and do not open it elsewhere"


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL): memory may have run out"
    if code < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}: the C library crashed on the file's content"
    return f"it ended with {code}"


def serve(plugins: Sequence[str] = ()) -> None:
    """Read the files that stdin names, one a line, until it ends, and say of each that this is done.

    Args:
        plugins: files that the parent was told to load: a reader may be among them.

    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked, and ends us
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    load_files(plugins)
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        path, names, memory = json.loads(line)
        _limit(memory)
        done = _DONE
        read: set[str] = set()
        for look in (_read_scan, _read_arrays):
            try:
                look(path, names, read)
            except (MemoryError, ResourceError):
                done = "memory"
            except Exception:
                continue  # the parent meets it again, and tells the user
        print(done, file=answers, flush=True)


def _read_scan(path: str, names: dict[str, str | None], done: set[str]) -> None:
    from mrirecon.io.readers.reader import read  # here: the parent has no use for it

    scan = read(path, axes=names["axes"], dataset=names["dataset"])
    for item in range(len(scan)):
        scan.raw(item)
    done.add(scan.roles.kspace)


def _read_arrays(path: str, _: dict[str, str | None], done: set[str]) -> None:
    """Read the other arrays of a file, or all where it holds no k-space, a part at a time."""
    from mrirecon.io.readers.images import open_store

    store = open_store(path)
    for name in set(store.arrays) - done:
        shape = store.arrays[name][0]
        for first in range(shape[0]) if len(shape) > 1 else ():
            store.read(name, (first,))
        if len(shape) <= 1:
            store.read(name)


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))
