"""Plug-ins: installed packages that name an entry point, and files named on the command line.

A plug-in is a module that registers methods, masks, readers, metrics, losses or coil calibrations when it is imported.
A package names its module in its own ``pyproject.toml``, in the group of each kind of thing that it registers::

    [project.entry-points."mrirecon.masks"]
    spiral-like = "my_package"

A file is named on the command line, ``mrirecon --plugin my_mask.py masks make ...``. A plug-in is code, and runs with
all rights of the user. So only the command line and installed packages name plug-ins: no configuration, no model, no
scan.
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
    """A loaded plug-in: its name, and its origin."""

    name: str
    origin: str


_loaded: dict[str, Plugin] = {}
_groups: set[str] = set()
_files: list[Path] = []


def loaded() -> list[Plugin]:
    """Return all plug-ins that this process has loaded, in the order of loading."""
    return list(_loaded.values())


def files() -> list[str]:
    """Return the absolute paths of the files that were loaded, for a process that is started to help this one."""
    return [str(path) for path in _files]


def load_files(paths: Sequence[str | Path]) -> None:
    """Import plug-in files, each once.

    Raises:
        UsageError: a file that does not exist, is no Python, or cannot be imported; with the line.

    """
    for path in (Path(p).resolve() for p in paths):
        if str(path) in _loaded:
            continue
        if path.suffix != ".py" or not path.is_file():
            why = "there is no such file" if path.suffix == ".py" else "its name does not end in .py"
            raise UsageError(f"the plug-in {path} cannot be loaded", why=why, fix="give --plugin a file FILE.py")
        name = f"mrirecon_plugin_{path.stem}"
        if name in sys.modules:
            raise UsageError(f"two plug-ins are called {path.stem}", where=str(path), fix="rename one of the files")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, "the name ends in .py"
        assert spec.loader is not None, "the name ends in .py"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # annotations and pickles look the module up by its name
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise _broken(str(path), error, path, "mend the file, or leave --plugin out") from None
        _loaded[str(path)] = Plugin(path.name, str(path))
        _files.append(path)


def load_installed(group: str) -> None:
    """Import the modules that installed packages name in the group ``mrirecon.GROUP``.

    Raises:
        UsageError: one of them cannot be imported; with its package, entry point, file and line.

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
            raise _broken(name, error, None, f"mend it, or remove it: pip uninstall {package}") from None
        _loaded[name] = Plugin(name, point.value)
    _groups.add(group)


@cache
def _installed() -> list[EntryPoint]:
    """Return the entry points of all installed packages in our groups; it reads the metadata of each package."""
    return [p for package in distributions() for p in package.entry_points if p.group.startswith("mrirecon.")]


def load_all() -> list[MriReconError]:
    """Load every installed plug-in; return an error for each group with a broken one."""
    broken = []
    for group in GROUPS:
        try:
            load_installed(group)
        except MriReconError as error:
            broken.append(error)
    return broken


def describe(point: EntryPoint) -> str:
    """Return package, version and entry point in words."""
    dist = "" if point.dist is None else f"{point.dist.name} {point.dist.version}, "
    return f"{dist}{point.group}: {point.name} = {point.value}"


def _broken(name: str, error: Exception, file: Path | None, fix: str) -> UsageError:
    """Return the error for a plug-in that raised one: the last line of its own code, and Python's message."""
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
