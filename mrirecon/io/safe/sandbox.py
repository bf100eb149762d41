"""Read untrusted files in a child process: a crash, an endless loop or full memory ends only the child.

libhdf5 is written in C, and a damaged file can make it write outside its memory or loop for ever. Risky operations run
in the child, with limits of time and memory and without permission to write files. One child is started when it is
first needed and serves all files; if it dies, it is replaced. The sandbox protects from accidents and malicious files,
not from malicious code.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon import errors
from mrirecon.errors import InputError, MriReconError, ResourceError

Arrays = dict[str, np.ndarray]
Facts = dict[str, Any]

SECONDS = 60.0
# Seconds of wall time allowed per second of processor time: other programs and slow disks delay the child.
WALL_TIME_FACTOR = 20
MEMORY = 4 << 30
# Address space that the interpreter and the libraries need before anything is read; most of it is never used.
_OWN = 1 << 30
_FIX = "the file is damaged or malicious: copy or export it again, and do not open it elsewhere"


def call(
    function: Callable[..., tuple[Arrays, Facts]],
    path: Path,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    out: int = 0,
    **arguments: object,
) -> tuple[Arrays, Facts]:
    """Call ``function(path, **arguments)`` in the child process and return what it returns.

    Inside the child, the function is called directly.

    Args:
        function: function of a module that returns arrays of numbers by name, and plain data for JSON.
        path: the file to read, its first argument; used in error messages.
        seconds: limit of processor time; the limit of wall time is `WALL_TIME_FACTOR` times this.
        memory: limit of memory in bytes.
        out: if not 0, the function also gets ``out``, an array of this many complex64 numbers to fill, in memory
            shared by both processes. It is returned as the array "out" without a copy.
        **arguments: further arguments, plain data for JSON.

    Raises:
        MriReconError: the error raised by the function.
        InputError: the function failed, crashed or took too long.
        ResourceError: it needed more memory.

    """
    global _child
    if _inside:
        shared = np.empty(out, np.complex64)
        arrays, facts = function(path, **arguments, **({"out": shared} if out else {}))
        return {**arrays, **({"out": shared} if out else {})}, facts
    request = {
        "module": function.__module__,
        "name": function.__qualname__,
        "path": str(path.absolute()),
        "seconds": seconds,
        "memory": memory + _OWN + 8 * out,
        "out": out,
        "arguments": arguments,
    }
    with _lock:
        while True:
            fresh = _child is None
            _child = _child or _Child()
            try:
                return _child.ask(request)
            except (EOFError, ConnectionError):
                code = _child.process.wait()
            except TimeoutError:
                code = -signal.SIGXCPU
            except BaseException as error:
                if not isinstance(error, MriReconError):  # interrupted: an answer may be on its way
                    close()
                raise
            close()
            # An earlier file may have damaged the child: only a failure in a new child is due to this file.
            if fresh or code == -signal.SIGXCPU:
                raise _exit_error(path, code, seconds)


class _Child:
    """Hold the child process and the pipe to it."""

    def __init__(self) -> None:
        from mrirecon.registries.plugins import files  # imported here, so that the child starts faster

        self.connection, theirs = Pipe()
        # Not `python -m`, which would import modules from the current folder.
        package = str(Path(__file__).parents[3])
        code = f"import sys; sys.path.append({package!r})\n"
        code += f"from mrirecon.io.safe import sandbox; sandbox.serve({theirs.fileno()}, {files()!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # output of a library may contain the patient's name
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        try:
            self.connection.recv_bytes()
        except EOFError:
            raise MriReconError("the process that reads untrusted files did not start") from None

    def ask(self, request: dict[str, Any]) -> tuple[Arrays, Facts]:
        """Send a request and return the answer, or raise the error that the child reports.

        Raises:
            EOFError, ConnectionError: the child died.
            TimeoutError: the child did not answer in time.

        """
        with _shared_memory(request["out"]) as (number, shared):
            self.connection.send_bytes(json.dumps(request).encode())
            if request["out"]:
                send_handle(self.connection, number, self.process.pid)
            if not self.connection.poll(WALL_TIME_FACTOR * request["seconds"]):
                raise TimeoutError
            answer = json.loads(self.connection.recv_bytes())
        if "error" in answer:
            fields = answer["error"]
            kind: type[MriReconError] = getattr(errors, fields.pop("type"))
            raise kind(fields.pop("what"), **fields)
        with np.load(io.BytesIO(self.connection.recv_bytes())) as stored:
            arrays = dict(stored)
        return {**arrays, **({"out": shared} if request["out"] else {})}, answer["facts"]


_lock = threading.Lock()
_child: _Child | None = None
_inside = False


@atexit.register
def close() -> None:
    """End the child if it runs; the next call starts a new one."""
    global _child
    child, _child = _child, None
    if child is not None:
        child.process.kill()
        child.process.wait()
        child.connection.close()


def _leave_to_parent() -> None:
    """Forget the child of the parent process after a fork."""
    global _child, _lock
    child, _child, _lock = _child, None, threading.Lock()
    if child is not None:
        child.connection.close()
        child.process.returncode = 0  # this process must not wait for it


os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def _shared_memory(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a file descriptor of shared memory, and the complex64 array in it."""
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
        # The array keeps the mapping alive, and the mapping keeps the memory.
        yield number, np.frombuffer(mmap.mmap(number, 8 * count), dtype=np.complex64)


def _exit_error(path: Path, code: int, seconds: float) -> MriReconError:
    if code == -signal.SIGXCPU:
        return InputError(f"reading {path} took too long and was stopped", why=f"the limit is {seconds:g} s", fix=_FIX)
    if code == -signal.SIGKILL:
        return ResourceError(
            f"the reader of {path} was killed (SIGKILL)",
            why="most likely the machine ran out of memory",
            fix="free memory, or read it on a larger machine",
        )
    name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return InputError(f"{path} crashed its reader", why=name, fix=_FIX)


def serve(number: int, plugins: list[str]) -> None:
    """Answer requests until the parent ends; runs in the child.

    Args:
        number: file descriptor of the pipe to the parent.
        plugins: plug-in files that the parent has loaded, which may contain readers.

    """
    global _inside
    import resource  # imported here: Windows has no such module, and no sandbox

    _inside = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends the child
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    if plugins:
        from mrirecon.registries.plugins import load_files

        load_files(plugins)
    connection = Connection(number)
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError):
        while True:
            request = json.loads(connection.recv_bytes())
            if request["out"]:
                handle = recv_handle(connection)
                mapped = mmap.mmap(handle, 8 * request["out"])
                os.close(handle)
                request["arguments"]["out"] = np.frombuffer(mapped, dtype=np.complex64)
            usage = {
                resource.RLIMIT_CPU: math.ceil(time.process_time() + request["seconds"]),
                resource.RLIMIT_AS: request["memory"],
            }
            for limit, amount in usage.items():
                hard = resource.getrlimit(limit)[1]
                with contextlib.suppress(ValueError, OSError):  # macOS defines some limits, but does not support them
                    resource.setrlimit(limit, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))
            facts, packed = _answer(request)
            connection.send_bytes(json.dumps(facts).encode())
            if packed:
                connection.send_bytes(packed)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Call the function of a request; return its data or error, and its arrays as the bytes of an .npz."""
    path = request["path"]
    try:
        function = getattr(importlib.import_module(request["module"]), request["name"])
        arrays, facts = function(Path(path), **request["arguments"])
        if any(array.dtype.hasobject for array in arrays.values()):
            raise TypeError("only arrays of numbers are returned")
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        return {"facts": facts}, packed.getvalue()
    except MriReconError as error:
        failure = error
    except MemoryError:
        limit = f"the limit is {(request['memory'] - _OWN) / 1e9:.1f} GB"
        failure = ResourceError(
            f"not enough memory to read {path}",
            why=limit,
            fix="the file is damaged, or larger than this machine can read",
        )
    except Exception as error:
        # Only type and line: the text may quote the file, which may contain the patient's name.
        last = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
        failure = InputError(f"{path} cannot be read", why=why, fix="the file is damaged: copy or export it again")
    fields = {key: getattr(failure, key) for key in ("what", "where", "why", "fix")}
    return {"error": {"type": type(failure).__name__, **fields}}, b""
