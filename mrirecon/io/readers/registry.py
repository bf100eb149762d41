"""The registry of readers: a format is one function that reads a file, and the tests that recognise the file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.identify import has_hdf5_signature, read_head, regular_file, unreadable
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5
from mrirecon.io.scan import Store
from mrirecon.registries import Entry, Registry

Holds = Literal["kspace", "images"]


@dataclass
class Source:
    """A file to be read, and what the user states about it; a context, in which the file is opened once.

    Attributes:
        path: the file.
        dataset: name of the array or group that is asked for, if one is.
        axes: names of the axes, if they are stated: then nothing is concluded from shapes.
        mask: a sampling mask from another file, with the name of that file.
        maps: store and array of coil maps in another file.

    """

    path: Path
    dataset: str | None = None
    axes: str | None = None
    mask: tuple[np.ndarray, str] | None = None
    maps: tuple[Store, str] | None = None
    _open: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __enter__(self) -> Source:
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

    def holds(self, test: Callable[[GuardedFile], bool], kspace: str | None = None) -> bool:
        """Tell whether the HDF5 file passes a test; a test that fails with an error counts as not passed.

        Args:
            test: recognises a layout.
            kspace: the only k-space array of that layout, whose axes are fixed: a file for which the user states axes,
                or another array, is not of this layout.

        """
        if kspace is not None and (self.axes is not None or self.dataset not in (None, kspace)):
            return False
        try:
            return test(self.hdf5)
        except (InputError, KeyError):  # another reader says what is wrong with the file
            return False


def is_hdf5(source: Source) -> bool:
    """Tell whether a file has the signature of HDF5."""
    return bool(source.head) and has_hdf5_signature(source.path)


@dataclass(frozen=True)
class Reader(Entry):
    """A reader.

    The function of k-space takes a `Source`, and `axes` and `dataset` as keyword-only parameters where users may state
    them. It returns a `Scan`; `mrirecon.io.readers.assemble.assemble` makes one from arrays. It reads headers only:
    values are read by the scan's store, an item at a time. It imports libraries that not everybody has when it is
    called, and raises an `InputError` for a file that is damaged or ends too early. The function of a format that holds
    images alone takes ``(path)``, and returns volumes (volume, slice, y, x) and their `Grid`.

    Attributes:
        signature: recognises the format's container from the file's first bytes, or its name.
        layout: recognises the format among several in one container; None for the one that takes the rest.
        container: what the signature recognises; by default the name of the reader.
        suffixes: ends of names, by which files are found in folders.
        holds: what such files hold.
        needs: packages beside those that mrirecon requires.
        sample: writes a small file of the format, for the tests.

    """

    signature: Callable[[Source], bool] = lambda source: False
    layout: Callable[[Source], bool] | None = None
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
register_hdf5_reader = partial(register_reader, signature=is_hdf5, container="hdf5")


def _readers(source: Source) -> list[Reader]:
    """Return the readers of the container that a file is: those that the first fitting signature names.

    Raises:
        InputError: nothing that can be read; the message says what the file looks like.

    """
    readers = [reader for reader in READERS.values() if "kspace" in reader.holds]
    kind = next((reader.kind for reader in readers if reader.signature(source)), None)
    if kind is None:
        raise unreadable(source.path, f"one of {describe_readers()}")
    return [reader for reader in readers if reader.kind == kind]


def reader_of(source: Source) -> Reader:
    """Return the reader of a k-space file, recognised by its content.

    Raises:
        InputError: nothing that can be read; the message says what the file looks like.
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    readers = _readers(source)
    for reader in sorted(readers, key=lambda reader: reader.layout is None):
        if reader.layout is None or reader.layout(source):
            return reader
    raise InputError(f"{source.path} is {readers[0].kind} of an unknown layout", fix=f"formats: {describe_readers()}")


def sniff(path: str | Path) -> str:
    """Return the container that a file of k-space or arrays is.

    Raises:
        InputError: nothing that can be read; the message says what the file looks like.

    """
    with Source(Path(path)) as source:
        return _readers(source)[0].kind


def image_reader(path: str | Path) -> Reader | None:
    """Return the reader of a file of images that is of no k-space format, or None."""
    with Source(Path(path)) as source:
        for reader in READERS.values():
            if "kspace" not in reader.holds and reader.signature(source):
                return reader
    return None


def suffixes(*holds: Holds) -> tuple[str, ...]:
    """Return the ends of the names of files that hold any of these."""
    ends = [s for reader in READERS.values() if set(holds) & set(reader.holds) for s in reader.suffixes]
    return tuple(dict.fromkeys(ends))


def holds_images(kind: str) -> bool:
    """Tell whether files in a container may hold images."""
    return any(reader.kind == kind and "images" in reader.holds for reader in READERS.values())


def describe_readers() -> str:
    """Return the formats of k-space in one line, with the ends of their names."""
    return ", ".join(
        f"{reader.name} ({', '.join(reader.suffixes)})" if reader.suffixes else reader.name
        for reader in READERS.values()
        if "kspace" in reader.holds
    )
