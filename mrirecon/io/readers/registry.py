"""The registry of readers: a format is one function that reads a file, beside what tells that a file is of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mrirecon.errors import InputError
from mrirecon.io.identify import read_head, regular_file, unreadable
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5
from mrirecon.registries import Entry, Registry

Holds = Literal["kspace", "images"]


class Candidate:
    """A file that readers look at, to tell whether it is of their format; a context that closes what it opened.

    Args:
        path: the file.
        dataset: name of the array or group that was asked for, if one was.
        axes: names of the axes, if they were stated: then nothing is concluded from shapes.

    """

    def __init__(self, path: str | Path, dataset: str | None = None, axes: str | None = None) -> None:
        self.path, self.dataset, self.axes = Path(path), dataset, axes
        self._open = ExitStack()

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @cached_property
    def head(self) -> bytes:
        """The first 1024 bytes.

        Raises:
            InputError: no ordinary file, or an empty one.

        """
        return read_head(regular_file(self.path))

    @cached_property
    def hdf5(self) -> GuardedFile:
        """The file, opened as HDF5.

        Raises:
            InputError, UnsafeContentError: see `open_hdf5`.

        """
        return self._open.enter_context(open_hdf5(self.path))

    def holds(self, test: Callable[[GuardedFile], bool]) -> bool:
        """Whether the HDF5 file passes a test; one that cannot be made counts as not passed."""
        try:
            return test(self.hdf5)
        except (InputError, KeyError):  # another reader says what is wrong with the file
            return False


def _never(candidate: Candidate) -> bool:
    return False


@dataclass(frozen=True)
class Reader(Entry):
    """A reader.

    The function of k-space takes ``(path, *, axes, dataset, mask, maps)``, see `mrirecon.io.read`, and returns a
    `Scan`; `mrirecon.io.readers.assemble.assemble` makes one from arrays. It reads headers only: values are read by the
    scan's store, an item at a time. It imports libraries that not everybody has when it is called, and raises an
    `InputError` for a file that is damaged or ends too early. The function of a format that holds images alone takes
    ``(path)``, and returns volumes (volume, slice, y, x) and their `Grid`.

    Attributes:
        signature: whether a file is in the format's container, told from its first bytes, or its name.
        layout: of several formats in one container, whether a file is of this one; None: it is if of no other.
        container: what the signature tells; by default the name of the reader.
        suffixes: ends of names, by which files are found in folders.
        holds: what such files hold.
        needs: packages beside those that mrirecon requires.
        sample: writes a small file of the format, for the tests.

    """

    signature: Callable[[Candidate], bool] = _never
    layout: Callable[[Candidate], bool] | None = None
    container: str = ""
    suffixes: tuple[str, ...] = ()
    holds: tuple[Holds, ...] = ("kspace",)
    needs: tuple[str, ...] = ()
    sample: Callable[[Path], None] | None = None

    @property
    def kind(self) -> str:
        """The container."""
        return self.container or self.name


READERS = Registry("reader", Reader, package="mrirecon.io.readers", group="readers")
register_reader = READERS.register


def sniff(path: str | Path) -> str:
    """Return the container that a file is: that of the first reader of k-space or arrays that knows its signature.

    Raises:
        InputError: nothing that can be read; the message says what the file looks like.

    """
    with Candidate(path) as candidate:
        for reader in READERS.values():
            if "kspace" in reader.holds and reader.signature(candidate):
                return reader.kind
    raise unreadable(Path(path), f"one of {describe_readers()}")


def reader_of(path: str | Path, dataset: str | None = None, axes: str | None = None) -> Reader:
    """Return the reader of a k-space file, told from what it holds.

    Raises:
        InputError: see `sniff`.
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    kind = sniff(path)
    alike = [reader for reader in READERS.values() if reader.kind == kind and "kspace" in reader.holds]
    with Candidate(path, dataset, axes) as candidate:
        for reader in alike:
            if reader.layout is not None and reader.layout(candidate):
                return reader
    others = [reader for reader in alike if reader.layout is None]
    if not others:
        raise InputError(f"{path} is {kind} of an unknown layout", fix=f"formats: {describe_readers()}")
    return others[0]


def image_reader(path: str | Path) -> Reader | None:
    """Return the reader of a file of images that is of no k-space format, or None."""
    with Candidate(path) as candidate:
        for reader in READERS.values():
            if "kspace" not in reader.holds and reader.signature(candidate):
                return reader
    return None


def suffixes(*holds: Holds) -> tuple[str, ...]:
    """Return the ends of the names of files that hold any of these."""
    found = [s for reader in READERS.values() if set(holds) & set(reader.holds) for s in reader.suffixes]
    return tuple(dict.fromkeys(found))


def holds_images(kind: str) -> bool:
    """Whether files in a container may hold images."""
    return any(reader.kind == kind and "images" in reader.holds for reader in READERS.values())


def describe_readers() -> str:
    """Return the formats of k-space in one line, with the ends of their names."""
    return ", ".join(
        f"{reader.name} ({', '.join(reader.suffixes)})" if reader.suffixes else reader.name
        for reader in READERS.values()
        if "kspace" in reader.holds
    )


def call(reader: Reader, path: Path, options: dict[str, Any]) -> Any:
    """Call a reader with those options that it has.

    Raises:
        InputError: it lacks one that was given a value.

    """
    for name, value in options.items():
        if value is not None and name not in reader.options:
            raise InputError(f"files of {reader.name} have no option {name!r}", where=str(path), fix="leave it out")
    return reader.build(path, **{name: value for name, value in options.items() if name in reader.options})
