"""Read .npy and .npz; compare every declared size with the size of the file, and never load a pickle."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from mrirecon.errors import InputError, MriReconError, UnsafeContentError
from mrirecon.io.axes import axes_in_text, axes_of_readouts, guess_axes, make_layout, sidecar_candidates, unknown_axes
from mrirecon.io.identify import regular_file
from mrirecon.io.readers.assemble import assemble, note_unusable, select_kspace
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import NAME_LIMIT, READ_LIMIT, TEXT_LIMIT, ArrayTypes, is_numeric, refuse_bomb, typed_errors
from mrirecon.io.safe.text import parse_json
from mrirecon.io.scan import Layout, Scalar, Scan, complex_dtype, real_kspace
from mrirecon.io.trajectory import TRAJECTORY_NAMES

_HEADER_LIMIT = 64 << 10


@dataclass(frozen=True)
class Header:
    """Hold the header of a .npy file, with the offset of its data in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Return the declared size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], where: str) -> Header:
    """Read a .npy header from the start of a stream.

    Raises:
        InputError: not .npy, an unknown version, a broken header, negative lengths.
        UnsafeContentError: Python objects inside.

    """
    with typed_errors(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{where} has .npy version {version}", fix="save it again with numpy.save")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_HEADER_LIMIT)
        offset = file.tell()
    if dtype.hasobject:
        raise UnsafeContentError(
            f"{where} holds Python objects, which are never loaded",
            why="loading them could execute code",
            fix="save a plain array: numpy.save(path, numpy.asarray(a, dtype=numpy.complex64))",
        )
    if any(type(n) is not int or n < 0 for n in shape):
        raise InputError(f"{where} declares impossible lengths", why=f"shape {shape}", fix="save it again")
    return Header(tuple(shape), dtype, bool(fortran), offset)


class NpyStore:
    """Read one array of a .npy file, mapped into memory so that single items can be read."""

    def __init__(self, path: str | Path) -> None:
        self.path = regular_file(path)
        self.files: tuple[Path, ...] = (self.path,)
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            self._header = header = read_header(file, str(self.path))
        if header.offset + header.nbytes > size:
            raise InputError(
                f"{self.path} is truncated",
                why=f"{size} of {header.offset + header.nbytes} bytes are present",
                fix="copy or download it again",
            )
        self.arrays: ArrayTypes = {"array": (header.shape, header.dtype)}

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a copy of a part of the array."""
        header = self._header
        _require_numbers(header.dtype, str(self.path))
        if not header.nbytes:
            return np.zeros(header.shape, header.dtype)[index]
        with typed_errors(str(self.path)):
            order: Literal["F", "C"] = "F" if header.fortran else "C"
            mapped = np.memmap(self.path, header.dtype, "r", header.offset, header.shape, order)
            return np.array(mapped[index])


class NpzStore:
    """Read the arrays of a .npz archive; keep each in memory, because compressed data cannot be read in parts."""

    def __init__(self, path: str | Path) -> None:
        self.path = regular_file(path)
        self.files: tuple[Path, ...] = (self.path,)
        self.arrays: ArrayTypes = {}
        self.unusable: dict[str, MriReconError] = {}
        self._read: dict[str, np.ndarray] = {}
        with self._archive() as archive:
            members = archive.infolist()
            if len(members) > NAME_LIMIT:
                raise InputError(f"{self.path} holds {len(members)} members", why=f"the limit is {NAME_LIMIT}")
            for member in members:
                if member.filename.endswith(".npy"):
                    self._survey(archive, member)
        if not self.arrays and not self.unusable:
            names = ", ".join(m.filename[:60] for m in members[:3]) or "nothing"
            raise InputError(
                f"{self.path} is a zip archive without arrays", why=f"it holds {names}", fix="save it with numpy.savez"
            )

    def _survey(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        name = member.filename[: -len(".npy")]
        try:
            with archive.open(member) as file:
                header = self._header(file, member, f"{self.path}:{name}")
        except (InputError, UnsafeContentError) as error:
            # k-space can still be read; the error is raised when this array is requested.
            self.unusable[name] = error
            return
        self.arrays[name] = (header.shape, header.dtype)

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of an array, as a view that must not be modified."""
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name][index]

    def text(self, name: str) -> str | None:
        """Return an entry of text or of several words (joined by commas); None for any other."""
        shape, dtype = self.arrays.get(name, ((), np.dtype(float)))
        if dtype.kind not in "US" or not 1 <= math.prod(shape) * dtype.itemsize <= TEXT_LIMIT:
            return None
        words = self._load(name, text=True).reshape(-1)
        return ",".join(w.decode("utf-8", errors="replace") if isinstance(w, bytes) else str(w) for w in words)

    def _load(self, name: str, *, text: bool = False) -> np.ndarray:
        where = f"{self.path}:{name}"
        with self._archive() as archive, typed_errors(where):
            member = archive.getinfo(name + ".npy")
            with archive.open(member) as file:
                header = self._header(file, member, where)
                if not text:
                    _require_numbers(header.dtype, where)
                refuse_bomb(header.nbytes, member.compress_size, READ_LIMIT, where)
            with archive.open(member) as file:
                return np.lib.format.read_array(file, max_header_size=_HEADER_LIMIT)

    @staticmethod
    def _header(file: IO[bytes], member: zipfile.ZipInfo, where: str) -> Header:
        header = read_header(file, where)
        expected = header.offset + header.nbytes
        if expected != member.file_size:
            raise InputError(
                f"{where} is truncated or damaged",
                why=f"{member.file_size} of {expected} bytes are present",
                fix="copy or download it again",
            )
        return header

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_read": {}}

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with typed_errors(str(self.path)), zipfile.ZipFile(self.path) as archive:
            if {m.compress_type for m in archive.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                fix = "save it with numpy.savez"
                raise InputError(f"{self.path} is compressed in a way that numpy does not use", fix=fix)
            yield archive


def _require_numbers(dtype: np.dtype, where: str) -> None:
    if not is_numeric(dtype):
        raise InputError(f"{where} does not hold numbers", why=f"its type is {dtype}", fix="name another array")


_NPY, _ZIP = (b"\x93NUMPY",), (b"PK\x03\x04", b"PK\x05\x06")


@register_reader("npy", rank=2, signature=_NPY, suffixes=(".npy",), holds=("kspace", "images"))
@register_reader("npz", rank=3, signature=_ZIP, suffixes=(".npz",), holds=("kspace", "images"))
def read_arrays(source: Source, *, axes: str | None = None, dataset: str | None = None) -> Scan:
    """Read a .npz or .npy file; see `mrirecon.io.read`.

    The axes come from, in this order: `axes`; a JSON sidecar in the same folder with ``{"axes": ["coil", "y", "x"]}``;
    an entry `axes` in the archive; a statement ``axes: ...`` in its entry `meta`; the shape, with a note, if it leaves
    hardly any doubt. Otherwise an error asks the user for them.
    """
    path = source.path
    store: NpzStore | NpyStore = NpyStore(path) if source.head.startswith(_NPY) else NpzStore(path)
    notes: list[str] = []
    attributes: dict[str, Scalar] = {}
    name = "array"
    if isinstance(store, NpzStore):
        note_unusable(store.unusable, dataset, notes)
        name = select_kspace(store.arrays, path, dataset)
        attributes = _meta(store)
    shape, dtype = store.arrays[name]
    if not complex_dtype(dtype):
        raise real_kspace(dtype, shape, f"{path}:{name}")
    has_trajectory = source.points is not None or any(n.lower() in TRAJECTORY_NAMES for n in store.arrays)
    layout = _layout(store, name, axes, notes, has_trajectory=has_trajectory)
    file_format = "npz" if isinstance(store, NpzStore) else "npy"
    return assemble(source, store, file_format, name, layout, notes=notes, attributes=attributes)


def _layout(
    store: NpzStore | NpyStore, name: str, axes: str | None, notes: list[str], *, has_trajectory: bool
) -> Layout:
    shape, where = store.arrays[name][0], f"{store.path}:{name}"
    if axes is not None:
        return make_layout(axes, shape, where, from_user=True)
    for sidecar in sidecar_candidates(store.path):
        stated = _sidecar_axes(sidecar, notes)
        if stated is not None:
            notes.append(f"axes {stated} from {sidecar.name}")
            return make_layout(stated, shape, f"{where}, axes from {sidecar.name}")
    if isinstance(store, NpzStore):
        stated = store.text("axes")
        if stated is not None:
            return make_layout(stated, shape, f"{where}, axes from the entry 'axes'")
        stated = axes_in_text(store.text("meta") or "")
        if stated is not None:
            notes.append(f"axes {stated} from the entry 'meta'")
            return make_layout(stated, shape, f"{where}, axes from the entry 'meta'")
    readouts = axes_of_readouts(shape) if has_trajectory else None
    if readouts is not None:
        notes.append(f"{len(shape)} axes {shape} read as {readouts}, because there is a trajectory")
        return make_layout(readouts, shape, where)
    guessed = guess_axes(shape)
    if guessed is None:
        raise unknown_axes(shape, where)
    notes.append(guessed[1])
    return make_layout(guessed[0], shape, where)


def _sidecar_axes(sidecar: Path, notes: list[str]) -> str | None:
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > TEXT_LIMIT:
            return None
        content = parse_json(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes.append(f"{sidecar.name} is not JSON that can be read, and was not used")
        return None
    axes = content.get("axes") if isinstance(content, dict) else None
    if isinstance(axes, list) and all(isinstance(a, str) for a in axes):
        return ",".join(axes)
    return axes if isinstance(axes, str) else None


def _meta(store: NpzStore) -> dict[str, Scalar]:
    """Return the values of the entry `meta` if it is a JSON object."""
    try:
        content = parse_json(store.text("meta") or "{}")
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, (str, int, float, bool))}
