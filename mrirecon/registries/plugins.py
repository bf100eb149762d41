"""Load plug-ins: installed packages with an entry point, and files given on the command line.

A plug-in is a module that registers methods, masks, readers, metrics, losses or coil calibrations when it is imported.
A package declares its module in its ``pyproject.toml``, in the group of each registry that it uses::

    [project.entry-points."mrirecon.masks"]
    spiral-like = "my_package"

A file is given on the command line, ``mrirecon --plugin my_mask.py masks make ...``. A plug-in is code that runs with
all permissions of the user. So only the command line and installed packages can load plug-ins, never a configuration, a
model or a scan.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

from mrirecon.errors import MriReconError, UsageError

GROUPS = ("methods", "masks", "readers", "metrics", "losses", "calibrations")


@dataclass(frozen=True)
class Plugin:
    """Hold name and origin of a loaded plug-in."""

    name: str
    origin: str


_loaded: dict[str, Plugin] = {}
_groups: set[str] = set()
_files: list[Path] = []


def loaded() -> list[Plugin]:
    """Return all plug-ins that this process has loaded, in the order of loading."""
    return list(_loaded.values())


def files() -> list[str]:
    """Return the absolute paths of the loaded files, for child processes."""
    return [str(path) for path in _files]


def load_files(paths: Sequence[str | Path]) -> None:
    """Import plug-in files, each once.

    Raises:
        UsageError: a file that does not exist, is not Python, or cannot be imported (the message has the line).

    """
    for path in (Path(p).resolve() for p in paths):
        if str(path) in _loaded:
            continue
        if path.suffix != ".py" or not path.is_file():
            why = "the file does not exist" if path.suffix == ".py" else "its name does not end in .py"
            raise UsageError(f"the plug-in {path} cannot be loaded", why=why, fix="give --plugin FILE.py")
        name = f"mrirecon_plugin_{path.stem}"
        if name in sys.modules:
            raise UsageError(f"two plug-ins have the name {path.stem}", where=str(path), fix="rename one of the files")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, "the name ends in .py"
        assert spec.loader is not None, "the name ends in .py"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # annotations and pickles look up the module by its name
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise _broken(str(path), error, path, "correct the file, or omit --plugin") from None
        _loaded[str(path)] = Plugin(path.name, str(path))
        _files.append(path)


def load_installed(group: str) -> None:
    """Import the modules that installed packages declare in the group ``mrirecon.GROUP``.

    Raises:
        UsageError: a module cannot be imported; the message has package, entry point, file and line.

    """
    if group in _groups:
        return
    for point in _installed():
        name = describe(point)
        if point.group != f"mrirecon.{group}" or name in _loaded:
            continue
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else point.module
            raise _broken(name, error, None, f"correct it, or remove it: pip uninstall {package}") from None
        _loaded[name] = Plugin(name, point.value)
    _groups.add(group)


@cache
def _installed() -> list[EntryPoint]:
    """Read the metadata of all installed packages, and return their entry points for mrirecon."""
    return [p for package in distributions() for p in package.entry_points if p.group.startswith("mrirecon.")]


def load_all() -> list[MriReconError]:
    """Load all installed plug-ins; return an error for each group with a broken plug-in."""
    broken = []
    for group in GROUPS:
        try:
            load_installed(group)
        except MriReconError as error:
            broken.append(error)
    return broken


def describe(point: EntryPoint) -> str:
    """Describe package, version and entry point."""
    dist = "" if point.dist is None else f"{point.dist.name} {point.dist.version}, "
    return f"{dist}{point.group}: {point.name} = {point.value}"


def _broken(name: str, error: Exception, file: Path | None, fix: str) -> UsageError:
    """Return the error for a broken plug-in, with the last line of its own code and Python's message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    own = [f for f in frames if not f.filename.startswith(("<", ours)) and "importlib" not in f.filename]
    if file is not None:
        own = [f for f in frames if Path(f.filename) == file]
    where = f"{own[-1].filename}:{own[-1].lineno}" if own else str(file or "")
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    what = error.what if isinstance(error, MriReconError) else str(error)
    return UsageError(
        f"the plug-in {name} cannot be loaded", where=where or None, why=f"{type(error).__name__}: {what}", fix=fix
    )
