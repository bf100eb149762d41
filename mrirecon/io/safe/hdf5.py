"""Open HDF5 files read-only; refuse access to other files and sizes that the file cannot hold.

HDF5 follows links, external storage and virtual sources automatically, and allocates the size that a header declares.
An untrusted file must not open another file of this machine or fill its memory, so all access goes through this module.
A damaged value of an unusual type can crash libhdf5, so only necessary attributes and strings are read, and only if
their type is plain. Strings of variable length are read in the sandbox: a damaged heap makes libhdf5 loop for ever or
write outside its memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from mrirecon.errors import BusyError, InputError, MriReconError, ResourceError, UnsafeContentError
from mrirecon.io.identify import has_hdf5_signature, regular_file, unreadable
from mrirecon.io.safe import sandbox

Index = tuple[int | slice, ...]
Scalar = str | int | float | bool
ArrayTypes = dict[str, tuple[tuple[int, ...], np.dtype]]

# Limits for every format. A size above SIZE_LIMIT (array) or READ_LIMIT (single read) is refused before allocation if
# it is also above RATIO_LIMIT times the stored size. Deflate cannot compress by more than a factor of about 1000.
SIZE_LIMIT = 4 << 30
READ_LIMIT = 256 << 20
RATIO_LIMIT = 1000
NAME_LIMIT = 10_000
TEXT_LIMIT = 1 << 20
ATTRIBUTE_LIMIT = 64 << 10
LINK_DEPTH = 16
_STRING_SECONDS, _STRING_MEMORY = 5, 256 << 20
_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
# Filters built into libhdf5 or h5py; libhdf5 would load any other filter from a plug-in as machine code.
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_NOT_OPENED = "copy the data into one file if you trust it"
_COPY_AGAIN = "copy or download it again"


def refuse_bomb(nbytes: int, stored: int, limit: int, where: str) -> None:
    """Refuse a declared size that far exceeds the stored size.

    Args:
        nbytes: declared size in bytes.
        stored: stored size in bytes.
        limit: declared sizes up to this limit are accepted.
        where: file and array, for the message.

    Raises:
        InputError: the declared size is too large; the message has both sizes.

    """
    if nbytes > limit and nbytes > RATIO_LIMIT * stored:
        raise InputError(
            f"{where} is larger than its file can hold",
            why=f"{nbytes} bytes are declared, {stored} are stored",
            fix="the file is damaged or malicious: write it again",
        )


def is_numeric(dtype: np.dtype) -> bool:
    """Return whether a type holds plain numbers: real, complex, or a (real, imaginary) pair of fields."""
    if dtype.fields:
        return len(dtype.fields) == 2 and all(f[0].kind in "iuf" and not f[0].shape for f in dtype.fields.values())
    return dtype.kind in "biufc" and dtype.itemsize > 0


@contextmanager
def typed_errors(where: str, *, quote: bool = True) -> Iterator[None]:
    """Convert the various exceptions of parsers on damaged content to one typed error.

    Args:
        where: file, or file and array, for the message.
        quote: whether to include the parser's message, which could quote a header with the patient's name.

    Raises:
        InputError: damaged content.
        ResourceError: not enough memory.

    """
    try:
        yield
    except MriReconError:
        raise
    except MemoryError:
        raise ResourceError(f"not enough memory to read {where}", fix="read fewer slices at once") from None
    except PermissionError as error:
        raise InputError(f"{where} cannot be read", why=str(error), fix="check the permissions of the file") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply", fix="do not trust this file") from None
    except Exception as error:
        kind = type(error).__name__
        text = " ".join(str(error).split())[:300] or kind
        filtered = any(word in text.lower() for word in ("checksum", "fletcher", "filter", "inflate"))
        what = (
            f"{where} cannot be read: a checksum or filter failed" if filtered else f"{where} is damaged or truncated"
        )
        raise InputError(what, why=text if quote else f"the parser stopped with {kind}", fix=_COPY_AGAIN) from None


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[GuardedFile]:
    """Open an HDF5 file read-only; yield a view of it that refuses access to other files.

    The bytes and times of the file do not change. Open the file for each access and do not keep it open: HDF5 handles
    do not survive a fork.

    Raises:
        InputError: not HDF5 (the message has its size and probable type), truncated, damaged, or being written.
        UnsafeContentError: access to a link, a storage or a filter outside the file.

    """
    path = regular_file(path)
    if not has_hdf5_signature(path):
        raise unreadable(path, "an HDF5 file")
    with open_recognised(path) as file:
        yield file


@contextmanager
def open_recognised(path: Path) -> Iterator[GuardedFile]:
    """Open an ordinary file whose HDF5 signature was checked before; see `open_hdf5`."""
    for wait in (0.05, 0.2, None):
        try:
            file = h5py.File(path, "r", locking="best-effort")
            break
        except MemoryError:
            raise ResourceError(f"not enough memory to open {path}", fix="close other programs") from None
        except Exception as error:
            text = " ".join(str(error).split())
            busy = "unable to lock file" in text or "already open for" in text
            if not busy or wait is None:
                raise _opening_error(path, text, busy) from None
            time.sleep(wait)
    try:
        yield GuardedFile(path, file)
    finally:
        # Nothing was written, so nothing is lost if libhdf5 cannot close a damaged file.
        with suppress(Exception):
            file.close()


def _opening_error(path: Path, text: str, busy: bool) -> InputError:
    if busy:
        return BusyError(f"{path} is being written by another program", why=text, fix="wait until it is finished")
    if "truncated file" in text:
        stored = "".join(c for c in text.partition("stored_eof = ")[2] if c.isdigit()) or "an unknown number of"
        why = f"{path.stat().st_size} of {stored} bytes are present"
        return InputError(f"{path} is truncated", why=why, fix=_COPY_AGAIN)
    return InputError(f"{path} is a damaged HDF5 file", why=text, fix=_COPY_AGAIN)


class _Guarded:
    """Read the attributes of a file or a dataset.

    Attributes:
        path: the file.
        name: path of the dataset; None for the file itself.
        node: the object of h5py, for access in the sandbox that this module does not offer.

    """

    path: Path
    name: str | None
    node: h5py.Group | h5py.Dataset

    @property
    def attribute_names(self) -> list[str]:
        """Return the names of the attributes without opening any.

        Raises:
            InputError: damaged, or more than `NAME_LIMIT`.

        """
        with typed_errors(f"{self.path}: attributes"):
            if len(self.node.attrs) > NAME_LIMIT:
                raise InputError(
                    f"{self.path} holds {len(self.node.attrs)} attributes", why=f"the limit is {NAME_LIMIT}"
                )
            return [_as_text(name) for name in self.node.attrs]

    def attributes(self, names: Sequence[str]) -> dict[str, Scalar]:
        """Return the attributes that exist and are scalar numbers or strings; leave out damaged strings.

        Raises:
            InputError: damaged.

        """
        values: dict[str, object] = {}
        variable = []
        for name in names:
            with typed_errors(f"{self.path}: attribute {name!r}"):
                if not h5py.h5a.exists(self.node.id, _as_bytes(name)):
                    continue
                attribute = h5py.h5a.open(self.node.id, _as_bytes(name))
                kind = attribute.get_type()
                text = kind.get_class() == h5py.h5t.STRING
                plain = text or (kind.get_class() in _NUMBERS and is_standard(kind))
                if not plain or math.prod(attribute.shape or ()) != 1:
                    continue
                if text and kind.is_variable_str():
                    variable.append(name)
                elif attribute.get_storage_size() <= ATTRIBUTE_LIMIT:
                    values[name] = _value(self.node.attrs[name])
        if variable:
            with suppress(InputError):
                values |= self._variable_strings(variable)
        ordered = {name: values[name] for name in names if name in values}
        return {
            name: value
            for name, value in ordered.items()
            if isinstance(value, (str, int, float, bool)) and len(str(value)) <= ATTRIBUTE_LIMIT
        }

    def _variable_strings(self, attributes: list[str]) -> dict[str, str]:
        """Return string attributes of variable length by name; without names, the string of the dataset, as ""."""
        limits = {"seconds": _STRING_SECONDS, "memory": _STRING_MEMORY}
        return sandbox.call(read_strings, self.path, dataset=self.name, attributes=attributes, **limits)[1]


def read_strings(path: Path, dataset: str | None, attributes: list[str]) -> tuple[sandbox.Arrays, sandbox.Facts]:
    """Read strings of variable length, see `_Guarded._variable_strings`; runs in the sandbox."""
    with open_hdf5(path) as file:
        node = (file if dataset is None else file[dataset]).node
        return {}, {name: _value(node.attrs[name]) for name in attributes} if attributes else {"": _value(node[()])}


def _value(stored: object) -> object:
    """Convert a stored scalar to a Python type; replace bytes that are not UTF-8."""
    value = np.asarray(stored).reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if isinstance(value, np.generic) else value


class GuardedFile(_Guarded, Mapping[str, "GuardedDataset"]):
    """Map paths to the datasets of an open HDF5 file, and iterate over the names in the root group."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.name, self.node = path, None, file
        self.size = path.stat().st_size
        self._datasets: dict[str, GuardedDataset] = {}

    def __getitem__(self, name: str) -> GuardedDataset:
        """Return the dataset at `name`, after a check of every component of its path and of its storage.

        Raises:
            KeyError: no such name.
            InputError: a group, a dangling or circular link, or a size that the file cannot hold.
            UnsafeContentError: an external link, external or foreign virtual storage, an unknown filter.

        """
        if name not in self._datasets:
            self._datasets[name] = self.dataset(name, depth=0)
        return self._datasets[name]

    @cached_property
    def names(self) -> list[str]:
        """Return the names in the root group."""
        with typed_errors(str(self.path)):
            if len(self.node) > NAME_LIMIT:
                raise InputError(f"{self.path} lists {len(self.node)} names", why=f"the limit is {NAME_LIMIT}")
            return [_as_text(name) for name in self.node]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        # Check one link at a time: libhdf5 would follow an external link inside a longer path.
        if not isinstance(name, str) or "/" in name:
            return False
        try:
            self.node.id.links.get_info(_as_bytes(name))
        except Exception:
            return False
        return True

    def datasets(self) -> list[str]:
        """Return the paths of all datasets: first those in the root (with links), then those inside groups.

        Groups are entered only by hard links, each once.

        Raises:
            InputError: more than `NAME_LIMIT` of them.

        """
        # MATLAB stores the content of its cells under names that begin with "#".
        groups = {name: self.is_group(name) for name in self if not name.startswith("#")}
        paths = [name for name, is_group in groups.items() if not is_group]
        visited: set[object] = set()
        queue = [(name, 1) for name, is_group in groups.items() if is_group]
        while queue:
            path, depth = queue.pop(0)
            with suppress(InputError), typed_errors(f"{self.path}:{path}"):
                group = self.node[path]
                address = getattr(h5py.h5o.get_info(group.id), "addr", path)
                if address in visited or len(group) > NAME_LIMIT:
                    continue
                visited.add(address)
                for part in group:
                    if not isinstance(part, str) or not _is_hard(group, part):
                        continue
                    if not isinstance(group[part], h5py.Group):
                        paths.append(f"{path}/{part}")
                    elif depth < LINK_DEPTH:
                        queue.append((f"{path}/{part}", depth + 1))
            if len(paths) > NAME_LIMIT:
                raise InputError(f"{self.path} lists {len(paths)} names", why=f"the limit is {NAME_LIMIT}")
        return paths

    def survey(self, dataset: str | None = None) -> tuple[ArrayTypes, dict[str, InputError]]:
        """Return shape and type of every usable dataset, and the errors of the others, by name.

        Args:
            dataset: name of a further dataset, to which perhaps only a link leads.

        Raises:
            UnsafeContentError: see `__getitem__`.

        """
        arrays: ArrayTypes = {}
        unusable: dict[str, InputError] = {}
        for name in dict.fromkeys((*self.datasets(), *(() if dataset is None else (dataset,)))):
            try:
                arrays[name] = (self[name].shape, self[name].dtype)
            except KeyError:  # requested, but missing
                continue
            except InputError as error:
                unusable[name] = error
        return arrays, unusable

    def marked_by(self, attribute: str) -> bool:
        """Return whether an array in the root has an attribute of this name."""
        for name in self.names:
            if not name.startswith("#") and not self.is_group(name):
                with suppress(InputError, KeyError):
                    if attribute in self[name].attribute_names:
                        return True
        return False

    def is_group(self, name: str) -> bool:
        """Return whether `name` in the root is a group with a hard link."""
        with typed_errors(f"{self.path}:{name}"):
            return name in self and _is_hard(self.node, name) and isinstance(self.node[name], h5py.Group)

    def dataset(self, name: str, depth: int) -> GuardedDataset:
        """Return a dataset; `depth` counts the soft links and virtual datasets on the way to it."""
        node = self._follow(name, depth)
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{name} in {self.path} is not a dataset", fix="name a dataset")
        return GuardedDataset(self, name, node, depth)

    def _follow(self, name: str, depth: int) -> h5py.Group | h5py.Dataset | h5py.Datatype:
        """Follow a path one link at a time, because h5py would follow an external link inside the path."""
        node: h5py.Group = self.node
        parts = [part for part in name.split("/") if part not in ("", ".")]
        while parts:
            part = parts.pop(0)
            if not isinstance(node, h5py.Group):
                raise InputError(f"{name} in {self.path} passes through something that is not a group")
            try:
                info = node.id.links.get_info(_as_bytes(part))
            except Exception:
                if depth:
                    fix = "write the file again without it"
                    raise InputError(f"{self.path} holds a link without a target", where=name, fix=fix) from None
                raise KeyError(name) from None
            if info.type == h5py.h5l.TYPE_SOFT:
                depth += 1
                if depth > LINK_DEPTH:
                    raise InputError(f"{self.path} holds circular links", where=name)
                with typed_errors(f"{self.path}:{name}"):
                    target = node.id.links.get_val(_as_bytes(part)).decode()
                parts = [p for p in target.split("/") if p not in ("", ".")] + parts
                node = self.node if target.startswith("/") else node
            elif info.type == h5py.h5l.TYPE_HARD:
                with typed_errors(f"{self.path}:{name}"):
                    node = node[part]
            else:
                raise UnsafeContentError(
                    f"{self.path} links to another file, which was not opened",
                    where=name,
                    why=f"the part {part!r} of the path is an external or user-defined link",
                    fix=_NOT_OPENED,
                )
        return node


class GuardedDataset(_Guarded):
    """Read a checked dataset: its storage is in the file, and its shape and type are valid.

    Attributes:
        shape: lengths of the axes.
        dtype: type as stored.
        chunks: lengths of a chunk along each axis, or None if the dataset is contiguous.
        numeric: whether it holds numbers.
        where: file and dataset, for messages.

    Raises:
        InputError: not an array, an unusual type of number, or a size that the file cannot hold.
        UnsafeContentError: external or foreign virtual storage, an unknown filter.

    """

    def __init__(self, file: GuardedFile, name: str, dataset: h5py.Dataset, depth: int) -> None:
        self.path, self.name, self.node, self._file = file.path, name, dataset, file
        self.where = f"{file.path}:{name}"
        with typed_errors(self.where):
            if dataset.shape is None:
                raise InputError(f"{self.where} is empty", fix="choose a dataset that holds an array")
            self.shape: tuple[int, ...] = tuple(int(n) for n in dataset.shape)
            self.dtype: np.dtype = dataset.dtype
            self.chunks: tuple[int, ...] | None = dataset.chunks
            self.storage: int = int(dataset.id.get_storage_size())
            self.numeric = is_numeric(self.dtype)
            self._virtual: bool = dataset.is_virtual
            external, sources = dataset.external, dataset.virtual_sources() if self._virtual else []
            pipeline = dataset.id.get_create_plist()
            filters = [int(pipeline.get_filter(i)[0]) for i in range(pipeline.get_nfilters())]
            standard = not self.numeric or is_standard(dataset.id.get_type())
        if external:
            raise UnsafeContentError(
                f"{self.path} stores its data in another file, which was not opened",
                where=name,
                why="external raw storage",
                fix=_NOT_OPENED,
            )
        if not standard:
            raise InputError(
                f"{self.where} has an unsupported number type",
                why=f"it differs from the usual storage of {self.dtype}, or is damaged",
                fix="store it as a plain numpy type",
            )
        unknown = next((number for number in filters if number not in FILTERS), None)
        if unknown is not None:
            raise UnsafeContentError(
                f"{self.where} needs an HDF5 filter that is not built in",
                why=f"filter {unknown}; known: {', '.join(FILTERS.values())}",
                fix="repack it: h5repack -f GZIP=4 IN OUT",
            )
        if self._virtual:
            if depth:
                raise InputError(
                    f"{self.where} is a virtual dataset inside another", fix="copy the data to a plain dataset"
                )
            named = {(source.file_name, source.dset_name) for source in sources}
            if any(where != "." or "%" in source for where, source in named):
                raise UnsafeContentError(
                    f"{self.where} is a virtual dataset that refers to other files, which were not opened",
                    fix=_NOT_OPENED,
                )
            self.storage = sum(file.dataset(source, depth=1).storage for _, source in named)
        elif not filters and self.storage > file.size:
            raise InputError(
                f"{self.where} does not fit in its file",
                why=f"it declares {self.storage} stored bytes in a file of {file.size}",
                fix="the file is damaged or truncated: copy it again",
            )
        self._refuse_bomb(math.prod(self.shape), SIZE_LIMIT)
        self._refuse_bomb(math.prod(self.chunks or (0,)), READ_LIMIT)

    def _refuse_bomb(self, count: int, limit: int) -> None:
        refuse_bomb(count * self.dtype.itemsize, min(self.storage, self._file.size), limit, self.where)

    @property
    def unwritten_chunks(self) -> int:
        """Return the number of chunks that were never written, which are read as fill values."""
        if self.chunks is None or self._virtual:
            return 0
        declared = math.prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        with typed_errors(self.where):
            return declared - int(self.node.id.get_num_chunks())

    def __getitem__(self, index: int | slice | Index) -> np.ndarray:
        """Read a hyperslab of numbers.

        Raises:
            InputError: objects, strings or variable-length data; a failed checksum; a damaged chunk.
            ResourceError: not enough memory.

        """
        if not self.numeric:
            raise InputError(
                f"{self.where} does not hold numbers",
                why=f"its type is {self.dtype}",
                fix="store it as a plain complex or real array",
            )
        index = index if isinstance(index, tuple) else (index,)
        lengths = [len(range(n)[i]) if isinstance(i, slice) else 1 for n, i in zip(self.shape, index, strict=False)]
        self._refuse_bomb(math.prod(lengths) * math.prod(self.shape[len(index) :]), READ_LIMIT)
        with typed_errors(self.where):
            return np.asarray(self.node[index])

    def records(self) -> np.ndarray:
        """Read records of plain numbers (a compound type), such as headers.

        Raises:
            InputError: fields that are not plain numbers, or a damaged file.

        """
        fields = [self.dtype[name].base for name in self.dtype.names or ()]
        if not fields or any(kind.kind not in "iuf" for kind in fields):
            raise InputError(f"{self.where} does not hold records of numbers", why=f"its type is {self.dtype}")
        self._refuse_bomb(math.prod(self.shape), READ_LIMIT)
        with typed_errors(self.where):
            return np.asarray(self.node[()])

    def text(self) -> str:
        """Read one string, such as fastMRI's header; replace bytes that are not UTF-8.

        Raises:
            InputError: not one string, longer than `TEXT_LIMIT`, or damaged.

        """
        with typed_errors(self.where):
            kind = self.node.id.get_type()
            if kind.get_class() != h5py.h5t.STRING or math.prod(self.shape) != 1:
                raise InputError(f"{self.where} is not one string", why=f"{self.dtype} of shape {self.shape}")
            if kind.is_variable_str():
                value: object = self._variable_strings([])[""]
            else:
                value = _value(self.node[()]) if kind.get_size() <= TEXT_LIMIT else None
        if not isinstance(value, str) or len(value) > TEXT_LIMIT:
            raise InputError(f"{self.where} is longer than {TEXT_LIMIT} bytes")
        return value


class Hdf5Store:
    """Read the datasets of an HDF5 file, which is opened for each access.

    Args:
        path: the file, which must be HDF5.
        arrays: shapes and types of its datasets.

    """

    def __init__(self, path: Path, arrays: ArrayTypes) -> None:
        self.path, self.arrays = path, arrays
        self.files: tuple[Path, ...] = (path,)

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """Return a part of a dataset."""
        with open_recognised(self.path) as file:
            try:
                return file[name][index]
            except KeyError:
                raise InputError(f"{self.path}:{name} has disappeared", fix="the file is damaged") from None


def is_standard(kind: h5py.h5t.TypeID) -> bool:
    """Return whether a type is exactly the one that h5py would store for the same numpy type.

    libhdf5 converts unusual types (overlapping fields, bits outside the bytes) without checks of memory bounds.
    """
    native = (getattr(h5py.h5t, f"COMPLEX_IEEE_F{bits}{order}", None) for bits in (32, 64) for order in ("LE", "BE"))
    return kind == h5py.h5t.py_create(kind.dtype, logical=True) or any(kind == other for other in native)


def _is_hard(group: h5py.Group, name: str) -> bool:
    return bool(group.id.links.get_info(_as_bytes(name)).type == h5py.h5l.TYPE_HARD)


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _as_text(name: str | bytes) -> str:
    """Return a name as text; h5py returns names that are not UTF-8 as bytes."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _limit_of(number: int) -> str:
    return f"the limit is {number}"
