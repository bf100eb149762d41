"""`mrirecon doctor`: whether this machine and what is installed on it are fit for the work.

Packages are asked by their metadata and not imported: that is quick, and a package that must not run does not. What is
``bad`` stops or endangers work; ``look`` is worth knowing. (torch itself is asked in `mrirecon selftest`.)
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from mrirecon.models.hardware import usable_cores
from mrirecon.registries import plugins

Verdict = Literal["ok", "look", "bad"]

# Malicious uploads under a good name: they send away what they find. pyproject.toml keeps pip from taking them.
COMPROMISED = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
EXTRAS = {"train": ("lightning", "nibabel"), "tensorboard": ("tensorboard",)}
# torch 2.n goes with torchvision 0.(n + 15), which otherwise fails when it is imported.
_TORCHVISION = 15
LITTLE_DISK, HARDLY_ANY = 5e9, 2e8  # bytes


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        name: of the question.
        verdict: ``ok``, ``look`` or ``bad``.
        message: in words.
        fix: what to do; empty where nothing is to be done.

    """

    name: str
    verdict: Verdict
    message: str
    fix: str = ""


def examine() -> list[Finding]:
    """Return every finding; nothing is written but one empty file in the current and the temporary folder."""
    questions: tuple[Callable[[], list[Finding]], ...] = (
        *(_versions, _compromised, _torchvision, _extras, _threads, _allocator, _memory),
        *(_disks, _locking, _case, _bart, _gpu, _plugins),
    )
    return [finding for question in questions for finding in question()]


def version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    have = {name: version(name) for name in (_name(line) for line in _required() if "extra ==" not in line)}
    found = [Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")]
    missing = [name for name, have_it in have.items() if have_it is None]
    if missing:
        found.append(Finding("packages", "bad", f"not installed: {', '.join(missing)}", "pip install mrirecon"))
    told = ", ".join(f"{name} {v}" for name, v in have.items() if v)
    found.append(Finding("versions", "ok", f"mrirecon {version('mrirecon') or 'from a folder'}, {told}"))
    return found


def _compromised() -> list[Finding]:
    bad = [(name, v) for name in COMPROMISED if (v := version(name)) in COMPROMISED[name]]
    if not bad:
        return [Finding("compromised packages", "ok", "none of the known ones")]
    told = ", ".join(f"{name} {v}" for name, v in bad)
    fix = "do not run it; change the passwords and tokens of this machine; pip install 'mrirecon[train]'"
    return [Finding("compromised packages", "bad", f"{told} is a malicious upload", fix)]


def _torchvision() -> list[Finding]:
    torch, vision = version("torch"), version("torchvision")
    if torch is None or vision is None:
        return []
    wanted = f"0.{_number(torch)[1] + _TORCHVISION}" if _number(torch)[0] == 2 else None
    if wanted is None or vision.startswith(f"{wanted}."):
        return [Finding("torchvision", "ok", f"{vision} goes with torch {torch}")]
    fix = f"pip install 'torchvision=={wanted}.*', or remove it: mrirecon has no use for it"
    return [Finding("torchvision", "bad", f"{vision} does not go with torch {torch}", fix)]


def _extras() -> list[Finding]:
    found = []
    for extra, names in _extras_known().items():
        missing = [name for name in names if version(name) is None]
        told = f"not installed: {', '.join(missing)}" if missing else ", ".join(f"{n} {version(n)}" for n in names)
        fix = f"pip install 'mrirecon[{extra}]'" if missing else ""
        found.append(Finding(f"extra {extra}", "look" if missing else "ok", told, fix))
    return found


def _extras_known() -> dict[str, tuple[str, ...]]:
    """Return what the installed metadata say of extras (test tools left out), or what held when this was written."""
    found: dict[str, list[str]] = {}
    for line in _required():
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", line)
        if extra and extra[1] not in ("test", "samples", "all") and _name(line) != "mrirecon":
            found.setdefault(extra[1], []).append(_name(line))
    return {extra: tuple(names) for extra, names in found.items()} or EXTRAS


def _required() -> list[str]:
    try:
        return metadata.requires("mrirecon") or []
    except metadata.PackageNotFoundError:  # run from a folder
        return []


def _threads() -> list[Finding]:
    cores, asked = usable_cores(), os.environ.get("OMP_NUM_THREADS")
    told = f"{cores:g} usable of {os.cpu_count()}; OMP_NUM_THREADS {asked or 'not set'}"
    if asked and asked.isdecimal() and int(asked) > max(1, round(cores)):
        fix = f"export OMP_NUM_THREADS={max(1, int(cores))}"
        return [Finding("cores", "look", f"{told}: more threads than cores slow each other", fix)]
    if asked is None and cores < (os.cpu_count() or 1) - 0.5:
        fix = f"export OMP_NUM_THREADS={max(1, int(cores))}"
        return [Finding("cores", "look", f"{told}: torch would start a thread for each core of the machine", fix)]
    return [Finding("cores", "ok", told)]


def usable_memory(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many bytes this process may still take, as the kernel and the control group tell; None if unknown."""
    found: list[float] = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(1024.0 * int(text.split("MemAvailable:")[1].split()[0]))
    except (OSError, IndexError, ValueError):
        pass
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(float((root / limit).read_text()) - float((root / used).read_text()))
        except (OSError, ValueError):
            continue
    return min(found, default=None)


def _memory() -> list[Finding]:
    free = usable_memory()
    if free is None:
        return []
    if free < 1e9:
        return [Finding("memory", "look", f"{free / 1e9:.1f} GB free", "close programs, or ask for more")]
    return [Finding("memory", "ok", f"{free / 1e9:.1f} GB free")]


def _allocator() -> list[Finding]:
    preloaded = os.environ.get("LD_PRELOAD", "")
    name = next((n for n in ("jemalloc", "tcmalloc", "mimalloc") if n in preloaded), None)
    return [Finding("allocator", "ok", f"{name}, preloaded" if name else "the system's")]


def _disks() -> list[Finding]:
    found = []
    for what, folder in (("disk here", Path()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        try:
            free = shutil.disk_usage(folder).free
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            found.append(Finding(what, "bad", f"{folder.absolute()}: {error.strerror}", "work in another folder"))
            continue
        told = f"{free / 1e9:.1f} GB free at {folder.absolute()}"
        verdict: Verdict = "bad" if free < HARDLY_ANY else "look" if free < LITTLE_DISK else "ok"
        found.append(Finding(what, verdict, told, "" if verdict == "ok" else "free some space"))
    return found


def _locking() -> list[Finding]:
    said = os.environ.get("HDF5_USE_FILE_LOCKING")
    told = f"HDF5_USE_FILE_LOCKING {said or 'not set'}; mrirecon locks where the file system can"
    if said and said.upper() in ("TRUE", "1"):
        fix = "unset HDF5_USE_FILE_LOCKING, for disks without locks (some NFS) refuse every file then"
        return [Finding("file locking", "look", told, fix)]
    return [Finding("file locking", "ok", told)]


def ignores_case(folder: Path) -> bool:
    """Whether a folder's file system takes A and a for one name; False where nothing can be written."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".mrirecon-a", dir=folder) as file:
            path = Path(file.name)
            return path.with_name(path.name.replace("-a", "-A", 1)).exists()
    except OSError:
        return False


def _case() -> list[Finding]:
    if ignores_case(Path()):
        told = "the disk here takes A.h5 and a.h5 for one file"
        return [Finding("upper and lower case", "look", told, "do not tell files apart by case alone")]
    return []


def _bart() -> list[Finding]:
    path = shutil.which("bart")
    if path is None:
        return [Finding("BART", "ok", "not on the PATH; only `mrirecon benchmark` compares with it")]
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("BART", "look", f"{path} does not run: {error}", "install it again")]
    return [Finding("BART", "ok", f"{done.stdout.strip()[:40]}, {path}")]


def _gpu() -> list[Finding]:
    build = version("torch") or ""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [Finding("GPU", "ok", f"none seen (no nvidia-smi); torch {build}")]
    command = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("GPU", "look", f"nvidia-smi does not answer: {error}", "see to the driver")]
    cards = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not cards:
        return [
            Finding("GPU", "look", f"nvidia-smi: {(done.stderr or done.stdout).strip()[:100]}", "see to the driver")
        ]
    if build.endswith("+cpu"):
        fix = "install a build of torch for CUDA: https://pytorch.org/get-started"
        return [Finding("GPU", "look", f"{'; '.join(cards)}, and torch {build} cannot use it", fix)]
    return [Finding("GPU", "ok", "; ".join(cards))]


def _plugins() -> list[Finding]:
    """Import all plug-ins, as every command does that uses them."""
    broken = [
        Finding("plug-in", "bad", f"{error.what}: {error.why}, {error.where}", error.fix or "")
        for error in plugins.load_all()
    ]
    found = [Finding("plug-in", "ok", plugin.name) for plugin in plugins.loaded()]
    return [*broken, *found] or [Finding("plug-ins", "ok", "none")]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return found[0] if found else ""


def _number(text: str) -> tuple[int, int]:
    major, minor = [*re.findall(r"\d+", text), "0", "0"][:2]
    return int(major), int(minor)
