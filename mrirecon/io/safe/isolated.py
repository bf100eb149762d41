"""Read in a child process what could bring this one down: a crash, a loop or a full memory ends the child alone.

Parsers of foreign formats run here under a limit of time and memory, without the right to write a file. The child hands
back arrays and plain facts over a pipe. It is a child against accidents and hostile files, not a jail against code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

import mrirecon
from mrirecon import errors
from mrirecon.errors import InputError, MriReconError, ResourceError

Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]

SECONDS = 60.0
# Wall time for every second of processor time: other programs, and slow disks, may keep a child waiting.
PATIENCE = 20
MEMORY = 4 << 30
# What the interpreter and the libraries take before anything is read; address space, most of which is never used.
_OWN = 1 << 30
_HEADER_LIMIT = 64 << 20
_KINDS = "biufc"
_OURS = ("mrirecon.",)


def isolated(
    function: str,
    path: Path,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    out: int = 0,
    **arguments: object,
) -> tuple[Arrays, Facts]:
    """Call ``function(path, **arguments)`` in a child process and return what it returns.

    Args:
        function: "mrirecon.io.module:name"; it returns arrays of numbers by name, and facts that JSON can hold.
        path: the file that it reads, its first argument; named in errors.
        seconds: processor time after which the child is ended; after `PATIENCE` times as long it is ended anyway.
        memory: bytes that it may take.
        out: where not 0, the function is also given ``out``, an array of so many complex64 numbers to fill, in memory
            that both processes share; it comes back as the array "out". Nothing is copied.
        **arguments: further arguments, as JSON can hold them.

    Raises:
        MriReconError: whatever error of ours it raised.
        InputError: it died, failed or took too long.
        ResourceError: it needed more memory.

    """
    module, _, name = function.partition(":")
    if not module.startswith(_OURS):
        raise ValueError(f"{function} is not a function of mrirecon")
    request = {"module": module, "name": name, "path": str(path), "arguments": arguments, "out": out}
    limits = {"seconds": math.ceil(seconds), "memory": memory + _OWN + 8 * out}
    late = threading.Event()
    with _shared(out) as (number, shared), _child(number) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def end() -> None:
            late.set()
            child.kill()

        clock = threading.Timer(PATIENCE * seconds, end)
        clock.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps({**request, **limits, "shared": number}).encode())
                child.stdin.close()
            answer = _receive(child.stdout)
            code = child.wait() if answer is None else 0
        finally:
            clock.cancel()
    if answer is not None:
        return ({"out": shared, **answer[0]} if out else answer[0]), answer[1]
    if late.is_set() or code == -getattr(signal, "SIGXCPU", 0):
        raise InputError(
            f"reading {path} took longer than {seconds:g} seconds and was stopped",
            fix="the file is damaged, or made to keep its reader busy",
        )
    raise _death(path, code, memory)


@contextlib.contextmanager
def _shared(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a file descriptor of memory that a child can share, and the complex64 array that lies there."""
    if not count:
        yield -1, np.empty(0, np.complex64)
        return
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            number = os.memfd_create("mrirecon")
            stack.callback(os.close, number)
        else:
            number = stack.enter_context(tempfile.TemporaryFile()).fileno()
        os.ftruncate(number, 8 * count)
        # The array keeps the mapping alive, and the mapping the memory.
        yield number, np.frombuffer(mmap.mmap(number, 8 * count), dtype=np.complex64)


@contextlib.contextmanager
def _child(shared: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the interpreter on this module; whatever happens, no child is left behind."""
    home = str(Path(mrirecon.__file__).parents[1])
    paths = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "mrirecon.io.safe.isolated"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what a library prints may name the patient
        env=environment,
        pass_fds=() if shared < 0 else (shared,),
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _death(path: Path, code: int, memory: int) -> MriReconError:
    if code == -signal.SIGKILL:
        return ResourceError(
            f"the reader of {path} was killed",
            why="most likely the machine ran out of memory",
            fix="free memory, or read it on a larger machine",
        )
    if code == _OUT_OF_MEMORY:
        return ResourceError(
            f"reading {path} needs more than {memory / 1e9:.1f} GB of memory",
            fix="the file is damaged, or too large for this machine",
        )
    name = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    return InputError(f"{path} crashed its reader", why=name, fix="the file is damaged: copy or export it again")


_OUT_OF_MEMORY = 9


def _receive(pipe: IO[bytes]) -> tuple[Arrays, Facts] | None:
    """Return the child's answer, or None where it ended before giving a whole one."""
    line = pipe.readline(_HEADER_LIMIT)
    if not line.endswith(b"\n"):
        return None
    told = json.loads(line)
    if "error" in told:
        raise _error(told["error"])
    arrays: Arrays = {}
    for name, kind, shape in told["arrays"]:
        array = np.empty(shape, np.dtype(kind))
        view = _bytes(array)
        done = 0
        while done < len(view):
            count = pipe.readinto(view[done:])  # type: ignore[attr-defined]  # a buffered pipe has it
            if not count:
                return None
            done += count
        arrays[name] = array
    return arrays, told["facts"]


def _error(told: dict[str, str | None]) -> MriReconError:
    kind: type[MriReconError] = getattr(errors, str(told["type"]), InputError)
    return kind(str(told["what"]), where=told.get("where"), why=told.get("why"), fix=told.get("fix"))


def _send(pipe: IO[bytes], arrays: Arrays, facts: Facts) -> None:
    kept = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    if any(a.dtype.kind not in _KINDS for a in kept.values()):
        raise TypeError("only arrays of numbers are handed over")
    listed = [[name, a.dtype.str, a.shape] for name, a in kept.items()]
    pipe.write(json.dumps({"arrays": listed, "facts": facts}).encode() + b"\n")
    for array in kept.values():
        pipe.write(_bytes(array))


def _bytes(array: np.ndarray) -> memoryview:
    """Return the memory of a contiguous array as bytes."""
    return array.data.cast("B") if array.size else memoryview(b"")


def _limit(seconds: int, memory: int) -> None:
    """Bound the child: processor time, address space, no core file, and no byte written to any file."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's clock still holds
        return
    # Past the lower limit of time the child is told (SIGXCPU), past the upper one it is killed like any other.
    for what, low, high in (
        (resource.RLIMIT_CPU, seconds, seconds + 5),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
    ):
        _, most = resource.getrlimit(what)
        limits = (low, high) if most == resource.RLIM_INFINITY else (min(low, most), min(high, most))
        with contextlib.suppress(ValueError, OSError):  # macOS knows some of them by name only
            resource.setrlimit(what, limits)


def _where(error: BaseException) -> str:
    """Name an unexpected error by its type and place; its text may quote the file, which may name the patient."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _main() -> int:
    # What a library prints must not reach the pipe.
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)
        asked = json.loads(sys.stdin.buffer.read())
        _limit(asked["seconds"], asked["memory"])
        path = Path(asked["path"])
        try:
            function = getattr(importlib.import_module(asked["module"]), asked["name"])
            arguments = asked["arguments"]
            if asked["out"]:
                mapped = mmap.mmap(asked["shared"], 8 * asked["out"])
                arguments["out"] = np.frombuffer(mapped, dtype=np.complex64)
            arrays, facts = function(path, **arguments)
            _send(pipe, arrays, facts)
        except MemoryError:
            return _OUT_OF_MEMORY
        except MriReconError as error:
            told = {key: getattr(error, key) for key in ("what", "where", "why", "fix")}
            pipe.write(json.dumps({"error": {"type": type(error).__name__, **told}}).encode() + b"\n")
        except Exception as error:
            told = {"type": "InputError", "what": f"{path} cannot be read", "why": _where(error)}
            told["fix"] = "the file is damaged: copy or export it again"
            pipe.write(json.dumps({"error": told}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
