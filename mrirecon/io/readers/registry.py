"""Register readers: a format is one function that reads a file, and a declaration of how it is recognised."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.identify import HDF5_SIGNATURE, has_hdf5_signature, read_head, regular_file, unreadable
from mrirecon.io.safe.hdf5 import GuardedFile, open_recognised
from mrirecon.io.scan import Store
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.registries import Entry, Registry

Holds = Literal["kspace", "images"]


class Source(ExitStack):
    """Hold a file to read and what the user states about it. As a context, it opens the file once and closes it.

    Attributes:
        path: the file.
        dataset: name of the array or group, if the user gives one.
        axes: names of the axes, if the user gives them: then nothing is guessed from shapes.
        mask: a sampling mask from another file, with the name of that file.
        maps: store and array of coil maps in another file.
        trajectory: what the user states about a trajectory.
        points: a trajectory from another file, with the name of that file.

    """

    def __init__(self, path: Path, dataset: str | None = None, axes: str | None = None) -> None:
        super().__init__()
        self.path, self.dataset, self.axes = path, dataset, axes
        self.mask: tuple[np.ndarray, str] | None = None
        self.maps: tuple[Store, str] | None = None
        self.trajectory = TrajectoryOptions()
        self.points: tuple[np.ndarray, str] | None = None

    @cached_property
    def head(self) -> bytes:
        """Return the first 1024 bytes.

        Raises:
            InputError: not an ordinary file, or empty.

        """
        return read_head(regular_file(self.path))

    @cached_property
    def is_hdf5(self) -> bool:
        """Return whether the file has the signature of HDF5.

        Raises:
            InputError: see `head`.

        """
        return self.head.startswith(HDF5_SIGNATURE) or has_hdf5_signature(self.path)

    @cached_property
    def hdf5(self) -> GuardedFile:
        """Return the file, which must be HDF5, opened.

        Raises:
            InputError, UnsafeContentError: see `mrirecon.io.open_hdf5`.

        """
        return self.enter_context(open_recognised(self.path))


@dataclass(frozen=True)
class Reader(Entry):
    """Hold a reader and how its files are recognised. Of the readers that recognise a file, the lowest rank reads it.

    A function for k-space takes a `Source`, and `axes` and `dataset` as keyword-only parameters if users may state
    them. It reads only headers, and returns a `Scan`. `mrirecon.io.readers.assemble.assemble` builds it from a layout
    (`mrirecon.io.axes.make_layout`) and a `mrirecon.io.scan.Store`, which reads the values, one item at a time. The
    function imports optional libraries when it is called, and raises an `InputError` for a file that is damaged or
    truncated. A function for a format of images only takes ``(path)``, and returns volumes (volume, slice, y, x) and
    their `Grid`.

    A reader declares at least `signature`, `hdf5` or `recognise`, and a file must satisfy all that it declares.

    Attributes:
        signature: possible first bytes of its files, at most 1024.
        hdf5: its files are HDF5.
        datasets: names that the root of its HDF5 files holds. The first is k-space, with fixed axes: a file for which
            the user states axes or names another array is left to other readers.
        alone: the root holds no other names.
        attribute: name of an attribute that an array in the root has.
        lacks: names in lower case that the root does not hold, unless the user names an array or group.
        recognise: function for what these cannot state. For HDF5, an `InputError` counts as not recognised.
        suffixes: endings of file names, used to find files in folders.
        names: suffixes of file names that `recognise` is limited to; it is also asked for names without a file.
        holds: content of such files.
        needs: packages in addition to those that mrirecon requires.
        sample: function that writes a small file of the format to a path, for the tests; a new reader needs it.

    """

    signature: tuple[bytes, ...] = ()
    hdf5: bool = False
    datasets: tuple[str, ...] = ()
    alone: bool = False
    attribute: str = ""
    lacks: tuple[str, ...] = ()
    recognise: Callable[[Source], bool] | None = None
    suffixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    holds: tuple[Holds, ...] = ("kspace",)
    needs: tuple[str, ...] = ()
    sample: Callable[[Path], None] | None = None

    @property
    def container(self) -> str:
        """Return "hdf5", or the name of a reader whose files are not HDF5."""
        return "hdf5" if self.hdf5 else self.name

    def matches_container(self, source: Source) -> bool:
        """Return whether the container of a file is that of the reader; HDF5 files are not opened.

        Raises:
            InputError: not an ordinary file, or empty.

        """
        path = source.path
        if self.names and path.suffix not in self.names and os.path.exists(path):  # noqa: PTH110 never raises an error
            return False
        if self.hdf5:
            return source.is_hdf5
        if self.signature and not source.head.startswith(self.signature):
            return False
        return self.recognise(source) if self.recognise else bool(self.signature)

    def matches(self, source: Source) -> bool:
        """Return whether the reader recognises a file.

        Raises:
            InputError, UnsafeContentError: see `matches_container` and `mrirecon.io.open_hdf5`.

        """
        matched = self.matches_container(source)
        if not matched or not self.hdf5:
            return matched
        file, dataset = source.hdf5, source.dataset
        fixed = bool(self.datasets) and (source.axes is not None or dataset not in (None, self.datasets[0]))
        if fixed or not set(self.datasets) <= set(file.names) or (self.alone and len(file.names) > len(self.datasets)):
            return False
        if not dataset and any(name.lower() in self.lacks for name in file.names):
            return False
        try:
            marked = not self.attribute or file.marked_by(self.attribute)
            return marked and (self.recognise is None or self.recognise(source))
        except (InputError, KeyError):  # the reader that reads the file reports the error
            return False


READERS = Registry("reader", Reader, package="mrirecon.io.readers", group="readers")
register_reader = READERS.register


def reader_of(source: Source) -> Reader:
    """Return the reader of a k-space file, recognised by its content.

    Raises:
        InputError: an unknown format; the message describes the file.
        InputError, UnsafeContentError: see `mrirecon.io.open_hdf5`.

    """
    return _first(source, Reader.matches)


def sniff(path: str | Path) -> str:
    """Return the container of a file of k-space or arrays; see `Reader.container`.

    Raises:
        InputError: an unknown format; the message describes the file.

    """
    return _first(Source(Path(path)), Reader.matches_container).container


def _first(source: Source, test: Callable[[Reader, Source], bool]) -> Reader:
    for reader in READERS.values():
        if "kspace" in reader.holds and test(reader, source):
            return reader
    raise unreadable(source.path, f"one of {describe_readers()}")


def image_reader(path: str | Path) -> Reader | None:
    """Return the reader for a format that holds only images, or None."""
    source = Source(Path(path))
    for reader in READERS.values():
        with suppress(InputError):  # a folder, or the common name of a BART pair
            if "kspace" not in reader.holds and reader.matches_container(source):
                return reader
    return None


def suffixes(*holds: Holds) -> tuple[str, ...]:
    """Return the suffixes of formats with any of these contents."""
    ends = [s for reader in READERS.values() if set(holds) & set(reader.holds) for s in reader.suffixes]
    return tuple(dict.fromkeys(ends))


def holds_images(container: str) -> bool:
    """Return whether files of a container may hold images."""
    return any(reader.container == container and "images" in reader.holds for reader in READERS.values())


def describe_readers() -> str:
    """List the formats of k-space with their suffixes in one line."""
    return ", ".join(
        f"{reader.name} ({', '.join(reader.suffixes)})" if reader.suffixes else reader.name
        for reader in READERS.values()
        if "kspace" in reader.holds
    )
