"""Examine this machine for `mrirecon doctor`: packages, threads, memory, disks, HDF5, GPU, plug-ins and a self-test.

The metadata of packages are checked first. If a package is a known malicious upload, nothing is imported.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from mrirecon import __version__
from mrirecon.models.hardware import usable_cores
from mrirecon.registries import plugins

Verdict = Literal["ok", "look", "bad"]

# Malicious releases of known packages, which steal credentials. pyproject.toml excludes them.
COMPROMISED = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
LITTLE_DISK, FULL_DISK, LITTLE_MEMORY = 5e9, 2e8, 1e9  # bytes


@dataclass(frozen=True)
class Finding:
    """Hold the result of one check.

    Attributes:
        name: name of the check.
        verdict: ``bad`` prevents or endangers work; ``look`` needs attention.
        message: result in words.
        fix: what to do; may be empty.

    """

    name: str
    verdict: Verdict
    message: str
    fix: str = ""


def examine() -> list[Finding]:
    """Run all checks; write an empty file into the current and the temporary folder, and remove it."""
    checks: tuple[Callable[[], list[Finding]], ...] = (_packages, _threads, _memory, _disks)
    findings = [finding for check in checks for finding in check()]
    if any(version(name) in versions for name, versions in COMPROMISED.items()):
        return findings  # imports from here on could run it
    return [*findings, *_hdf5(), *_gpu(), *_plugins(), *_selftest()]


def version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    findings = [Finding("python", "ok", f"{platform.python_version()}, {sys.executable}; mrirecon {__version__}")]
    findings += [
        Finding(
            "compromised package",
            "bad",
            f"{name} {version(name)} is a malicious upload",
            "do not run it; change the passwords and tokens of this machine; pip install 'mrirecon[train]'",
        )
        for name, versions in COMPROMISED.items()
        if version(name) in versions
    ]
    groups: dict[str, list[str]] = {"": []}  # keys: extras; values: package names, without test tools
    with suppress(metadata.PackageNotFoundError):  # run from a source folder
        for line in metadata.requires("mrirecon") or []:
            name, extra = re.split(r"[^\w.-]", line, maxsplit=1)[0], re.search(r"extra == [\"']([\w-]+)", line)
            group = extra[1] if extra else ""
            if group not in ("test", "samples") and name != "mrirecon":
                groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        missing = [name for name in names if version(name) is None]
        message = ", ".join(f"{name} {version(name)}" for name in names if name not in missing)
        if missing:
            message = f"not installed: {', '.join(missing)}"
        title = f"extra {group}" if group else "packages"
        verdict: Verdict = "ok" if not missing else "look" if group else "bad"
        fix = f"pip install 'mrirecon{f'[{group}]' if group else ''}'" if missing else ""
        findings.append(Finding(title, verdict, message or "mrirecon runs from a source folder", fix))
    return findings


def _threads() -> list[Finding]:
    cores, threads = usable_cores(), os.environ.get("OMP_NUM_THREADS")
    message = f"{cores:g} usable of {os.cpu_count()}; OMP_NUM_THREADS {threads or 'not set'}"
    fix = f"export OMP_NUM_THREADS={max(1, int(cores))}"
    if threads and threads.isdecimal() and int(threads) > max(1, round(cores)):
        return [Finding("cores", "look", f"{message}: more threads than cores are slow", fix)]
    if threads is None and cores < (os.cpu_count() or 1) - 0.5:
        return [Finding("cores", "look", f"{message}: torch would start a thread for each core of the machine", fix)]
    return [Finding("cores", "ok", message)]


def usable_memory(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the bytes available to this process, by the kernel and the control group; None if unknown."""
    free: list[float] = []
    with suppress(OSError, IndexError, ValueError):
        free.append(1024.0 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            free.append(float((root / limit).read_text()) - float((root / used).read_text()))
    return min(free, default=None)


def _memory() -> list[Finding]:
    free = usable_memory()
    if free is None:
        return []
    little = free < LITTLE_MEMORY
    fix = "close programs, or use a machine with more memory" if little else ""
    return [Finding("memory", "look" if little else "ok", f"{free / 1e9:.1f} GB free", fix)]


def _disks() -> list[Finding]:
    findings = []
    for name, folder in (("disk here", Path()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        try:
            free = shutil.disk_usage(folder).free
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            findings.append(Finding(name, "bad", f"{folder.absolute()}: {error.strerror}", "work in another folder"))
            continue
        verdict: Verdict = "bad" if free < FULL_DISK else "look" if free < LITTLE_DISK else "ok"
        fix = "" if verdict == "ok" else "free some space"
        findings.append(Finding(name, verdict, f"{free / 1e9:.1f} GB free at {folder.absolute()}", fix))
    return findings


def _hdf5() -> list[Finding]:
    import h5py

    from mrirecon.io.safe.hdf5 import FILTERS

    locking = os.environ.get("HDF5_USE_FILE_LOCKING")
    message = f"{h5py.version.hdf5_version}; reads {', '.join(FILTERS.values())}, no filter plug-ins are loaded"
    if locking and locking.upper() in ("TRUE", "1"):
        fix = "unset HDF5_USE_FILE_LOCKING, because disks without locks (some NFS) then refuse every file"
        return [Finding("HDF5", "look", f"{message}; HDF5_USE_FILE_LOCKING is {locking}", fix)]
    return [Finding("HDF5", "ok", message)]


def _gpu() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return [Finding("GPU", "ok", f"{names}; torch {torch.__version__}")]
    if shutil.which("nvidia-smi") is None:
        return [Finding("GPU", "ok", f"none; torch {torch.__version__}")]
    fix = "check the driver with nvidia-smi, and install a build of torch for CUDA: https://pytorch.org/get-started"
    return [Finding("GPU", "look", f"a driver is installed, but torch {torch.__version__} cannot use a GPU", fix)]


def _plugins() -> list[Finding]:
    """Import all plug-ins, as the commands that use them."""
    broken = [
        Finding("plug-in", "bad", f"{error.what}: {error.why}, {error.where}", error.fix or "")
        for error in plugins.load_all()
    ]
    loaded = [Finding("plug-in", "ok", plugin.name) for plugin in plugins.loaded()]
    return [*broken, *loaded] or [Finding("plug-ins", "ok", "none")]


def _selftest() -> list[Finding]:
    from mrirecon.tools.selftest import selftest

    checks = selftest()
    failed = [check.name for check in checks if not check.ok]
    if failed:
        fix = "run `mrirecon selftest --device cpu`, and report its output"
        return [Finding("self-test", "bad", f"failed: {'; '.join(failed)}", fix)]
    return [Finding("self-test", "ok", f"{len(checks)} properties of operators and methods hold")]
