"""Register readers: a format is one function that reads a file, and functions that recognise the file."""

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
    """Hold a file to read and what the user states about it. As a context, it opens the file once.

    Attributes:
        path: the file.
        dataset: name of the array or group, if the user gives one.
        axes: names of the axes, if the user gives them: then nothing is guessed from shapes.
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
        """Return the first 1024 bytes.

        Raises:
            InputError: not an ordinary file, or empty.

        """
        return read_head(regular_file(self.path))

    @cached_property
    def hdf5(self) -> GuardedFile:
        """Return the file, opened as HDF5.

        Raises:
            InputError, UnsafeContentError: see `open_hdf5`.

        """
        return self._open.enter_context(open_hdf5(self.path))

    def holds(self, test: Callable[[GuardedFile], bool], kspace: str | None = None) -> bool:
        """Return whether the HDF5 file passes a test; an error in the test counts as not passed.

        Args:
            test: function that recognises a layout.
            kspace: the only k-space array of this layout, whose axes are fixed: if the user states axes or another
                array, the file does not have this layout.

        """
        if kspace is not None and (self.axes is not None or self.dataset not in (None, kspace)):
            return False
        try:
            return test(self.hdf5)
        except (InputError, KeyError):  # the reader that is chosen reports the error
            return False


def is_hdf5(source: Source) -> bool:
    """Return whether a file has the signature of HDF5."""
    return bool(source.head) and has_hdf5_signature(source.path)


@dataclass(frozen=True)
class Reader(Entry):
    """Hold a reader and how to recognise its files.

    A function for k-space takes a `Source`, and `axes` and `dataset` as keyword-only parameters if users may state
    them. It returns a `Scan`; `mrirecon.io.readers.assemble.assemble` builds one from arrays. It reads only headers:
    the store of the scan reads the values, one item at a time. It imports optional libraries when it is called, and
    raises an `InputError` for a file that is damaged or truncated. A function for a format of images only takes
    ``(path)``, and returns volumes (volume, slice, y, x) and their `Grid`.

    Attributes:
        signature: function that recognises the container from the first bytes of the file, or from its name.
        layout: function that recognises the format among several in one container; None for the default format.
        container: name of the container; by default the name of the reader.
        suffixes: endings of file names, used to find files in folders.
        holds: content of such files.
        needs: packages in addition to those that mrirecon requires.
        sample: function that writes a small file of the format, for the tests.

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
        """Return the name of the container."""
        return self.container or self.name


READERS = Registry("reader", Reader, package="mrirecon.io.readers", group="readers")
register_reader = READERS.register
register_hdf5_reader = partial(register_reader, signature=is_hdf5, container="hdf5")


def _readers(source: Source) -> list[Reader]:
    """Return all readers of the container that the first matching signature recognises.

    Raises:
        InputError: an unknown format; the message describes the file.

    """
    readers = [reader for reader in READERS.values() if "kspace" in reader.holds]
    kind = next((reader.kind for reader in readers if reader.signature(source)), None)
    if kind is None:
        raise unreadable(source.path, f"one of {describe_readers()}")
    return [reader for reader in readers if reader.kind == kind]


def reader_of(source: Source) -> Reader:
    """Return the reader of a k-space file, recognised by its content.

    Raises:
        InputError: an unknown format; the message describes the file.
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    readers = _readers(source)
    for reader in sorted(readers, key=lambda reader: reader.layout is None):
        if reader.layout is None or reader.layout(source):
            return reader
    raise InputError(f"{source.path} is {readers[0].kind} of an unknown layout", fix=f"formats: {describe_readers()}")


def sniff(path: str | Path) -> str:
    """Return the container of a file of k-space or arrays.

    Raises:
        InputError: an unknown format; the message describes the file.

    """
    with Source(Path(path)) as source:
        return _readers(source)[0].kind


def image_reader(path: str | Path) -> Reader | None:
    """Return the reader for a format that holds only images, or None."""
    with Source(Path(path)) as source:
        for reader in READERS.values():
            if "kspace" not in reader.holds and reader.signature(source):
                return reader
    return None


def suffixes(*holds: Holds) -> tuple[str, ...]:
    """Return the suffixes of formats with any of these contents."""
    ends = [s for reader in READERS.values() if set(holds) & set(reader.holds) for s in reader.suffixes]
    return tuple(dict.fromkeys(ends))


def holds_images(kind: str) -> bool:
    """Return whether files of a container may hold images."""
    return any(reader.kind == kind and "images" in reader.holds for reader in READERS.values())


def describe_readers() -> str:
    """List the formats of k-space with their suffixes in one line."""
    return ", ".join(
        f"{reader.name} ({', '.join(reader.suffixes)})" if reader.suffixes else reader.name
        for reader in READERS.values()
        if "kspace" in reader.holds
    )
