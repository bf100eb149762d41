"""The one way into an HDF5 file: read-only, inside the file, and never larger than the file can hold.

HDF5 follows links, external storage and virtual sources without asking, and allocates what a header declares. A file
from elsewhere must not open another file of this machine, nor fill its memory, so everything goes through here.
libhdf5 can be made to crash by a damaged value of an odd type, so of attributes and strings only what is wanted is
read, only where its type is plain, and strings of variable length not by libhdf5 at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from mrirecon.errors import BusyError, InputError, MriReconError, ResourceError, UnsafeContentError
from mrirecon.io.identify import has_hdf5_signature, regular_file, unreadable
from mrirecon.io.safe.hdf5_heap import POINTER, attribute_string, heap_string
from mrirecon.io.safe.limits import (
    ATTRIBUTE_LIMIT,
    NAME_LIMIT,
    READ_LIMIT,
    SIZE_LIMIT,
    TEXT_LIMIT,
    is_numeric,
    refuse_bomb,
)

Index = tuple[int | slice, ...]
Scalar = str | int | float | bool

LINK_DEPTH = 16
_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
# Built into libhdf5 or into h5py; every other filter would be looked up among plugins and loaded as machine code.
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[GuardedFile]:
    """Open an HDF5 file read-only and yield a view of it that refuses whatever reaches outside the file.

    The file's bytes and times stay as they are. Open it anew for each access rather than keep it: HDF5 handles do not
    survive a fork.

    Raises:
        InputError: not HDF5 (with its size and what it looks like), truncated, damaged, or being written.
        UnsafeContentError: on access to a link, a storage or a filter that leads out of the file.

    """
    path = regular_file(path)
    if not has_hdf5_signature(path):
        raise unreadable(path, "an HDF5 file")
    file = _open(path)
    try:
        yield GuardedFile(path, file)
    finally:
        # Nothing was written, so nothing is lost where libhdf5 cannot close a damaged file.
        with suppress(Exception):
            file.close()


def _open(path: Path) -> h5py.File:
    for wait in (0.05, 0.2, None):
        try:
            return h5py.File(path, "r", locking="best-effort")
        except MemoryError:
            raise ResourceError(f"not enough memory to open {path}", fix="close other programs") from None
        except Exception as error:
            busy = "unable to lock file" in str(error) or "already open for" in str(error)
            if busy and wait is not None:
                time.sleep(wait)
                continue
            raise _opening_error(path, error, busy=busy) from None
    raise AssertionError("unreachable")


def _opening_error(path: Path, error: Exception, *, busy: bool) -> InputError:
    text = " ".join(str(error).split())
    if busy:
        return BusyError(f"{path} is being written by another program", why=text, fix="wait until it is finished")
    if "truncated file" in text:
        stored = "".join(c for c in text.partition("stored_eof = ")[2] if c.isdigit()) or "an unknown number of"
        why = f"{path.stat().st_size} of {stored} bytes are there"
        return InputError(f"{path} is truncated", why=why, fix="copy or download it again")
    return InputError(f"{path} is a damaged HDF5 file", why=text, fix="copy or download it again")


class GuardedFile(Mapping[str, "GuardedDataset"]):
    """Datasets of an open HDF5 file by path; a mapping over the names in the root group."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file
        self.size = path.stat().st_size

    def __getitem__(self, name: str) -> GuardedDataset:
        """Return the dataset at `name`, after looking at every component of its path and at its storage.

        Raises:
            KeyError: there is no such name.
            InputError: a group, a dangling or circular link, or a size the file cannot hold.
            UnsafeContentError: an external link, external or foreign virtual storage, an unknown filter.

        """
        return self._dataset(name, depth=0)

    def __iter__(self) -> Iterator[str]:
        with reading(self.path, "/"):
            if len(self._file) > NAME_LIMIT:
                raise InputError(f"{self.path} lists {len(self._file)} names", why=f"the limit is {NAME_LIMIT}")
            names = list(self._file)
        # h5py returns a name that is not UTF-8 as bytes.
        return iter([n.decode("utf-8", "surrogateescape") if isinstance(n, bytes) else n for n in names])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        # One link at a time: asking libhdf5 about a longer path would follow an external link in the middle of it.
        if not isinstance(name, str) or "/" in name:
            return False
        try:
            self._file.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        except Exception:
            return False
        return True

    @property
    def attribute_names(self) -> list[str]:
        """Names of the root group's attributes."""
        return attribute_names(self.path, self._file)

    def attribute(self, name: str) -> Scalar | None:
        """Return a scalar attribute of the root group; None for arrays and objects."""
        return read_attribute(self.path, self._file, name)

    def datasets(self) -> list[str]:
        """Return the paths of all datasets: those in the root (links included) first, then those inside of groups.

        Groups are entered by hard links alone, each once.

        Raises:
            InputError: more than `NAME_LIMIT` of them.

        """
        found = [name for name in self if not self.is_group(name)]
        seen: set[object] = set()
        # MATLAB keeps in groups of such names what its cells refer to.
        queue = [(name, 1) for name in self if self.is_group(name) and not name.startswith("#")]
        while queue:
            path, depth = queue.pop(0)
            with suppress(InputError), reading(self.path, path):
                group = self._file[path]
                address = getattr(h5py.h5o.get_info(group.id), "addr", path)
                if address in seen or len(group) > NAME_LIMIT:
                    continue
                seen.add(address)
                for part in group:
                    name = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
                    if group.id.links.get_info(name).type != h5py.h5l.TYPE_HARD or not isinstance(part, str):
                        continue
                    if not isinstance(group[part], h5py.Group):
                        found.append(f"{path}/{part}")
                    elif depth < LINK_DEPTH:
                        queue.append((f"{path}/{part}", depth + 1))
            if len(found) > NAME_LIMIT:
                raise InputError(f"{self.path} lists {len(found)} names", why=f"the limit is {NAME_LIMIT}")
        return found

    def is_group(self, name: str) -> bool:
        """Whether `name` in the root is a group held by a hard link."""
        with reading(self.path, name):
            links = self._file.id.links
            return (
                name in self
                and links.get_info(name.encode("utf-8", "surrogateescape")).type == h5py.h5l.TYPE_HARD
                and isinstance(self._file[name], h5py.Group)
            )

    def _dataset(self, name: str, depth: int) -> GuardedDataset:
        found = self._walk(name, depth)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"{name} in {self.path} is not a dataset", fix="name a dataset")
        dataset = GuardedDataset(self, name, found)
        dataset.check(depth)
        return dataset

    def _walk(self, name: str, depth: int) -> h5py.Group | h5py.Dataset | h5py.Datatype:
        """Follow a path one link at a time; h5py itself would follow an external link in the middle of it."""
        node: h5py.Group = self._file
        parts = [part for part in name.split("/") if part not in ("", ".")]
        while parts:
            part = parts.pop(0)
            if not isinstance(node, h5py.Group):
                raise InputError(f"{name} in {self.path} passes through something that is not a group")
            try:
                info = node.id.links.get_info(part.encode("utf-8", "surrogateescape"))
            except Exception:
                if depth:
                    raise InputError(
                        f"{self.path} holds a link to nowhere", where=name, fix="write the file again without it"
                    ) from None
                raise KeyError(name) from None
            if info.type == h5py.h5l.TYPE_SOFT:
                depth += 1
                if depth > LINK_DEPTH:
                    raise InputError(f"{self.path} holds links that lead in a circle", where=name)
                with reading(self.path, name):
                    target = node.id.links.get_val(part.encode("utf-8", "surrogateescape")).decode()
                parts = [p for p in target.split("/") if p not in ("", ".")] + parts
                node = self._file if target.startswith("/") else node
            elif info.type == h5py.h5l.TYPE_HARD:
                with reading(self.path, name):
                    node = node[part]
            else:
                raise UnsafeContentError(
                    f"{self.path} links to another file, which was not opened",
                    where=name,
                    why=f"the part {part!r} of the path is an external or user-defined link",
                    fix="copy the data into one file if you trust it",
                )
        return node


class GuardedDataset:
    """A dataset that has been looked at: shape, type and storage are known to fit in the file."""

    def __init__(self, file: GuardedFile, name: str, dataset: h5py.Dataset) -> None:
        self.name, self._file, self._dataset = name, file, dataset
        self.where = f"{file.path}:{name}"
        with reading(file.path, name):
            if dataset.shape is None:
                raise InputError(f"{self.where} is empty", fix="choose a dataset that holds an array")
            self.shape: tuple[int, ...] = tuple(int(n) for n in dataset.shape)
            self.dtype: np.dtype = dataset.dtype
            self.nbytes: int = math.prod(self.shape) * self.dtype.itemsize
            self.storage: int = int(dataset.id.get_storage_size())
            self.numeric = is_numeric(self.dtype)

    def check(self, depth: int = 0) -> None:
        """Refuse foreign storage, unknown filters and sizes that the file cannot hold; see `GuardedFile`."""
        path = self._file.path
        with reading(path, self.name):
            external, virtual, chunks = self._dataset.external, self._dataset.is_virtual, self._dataset.chunks
            pipeline = self._dataset.id.get_create_plist()
            filters = [int(pipeline.get_filter(i)[0]) for i in range(pipeline.get_nfilters())]
            sources = self._dataset.virtual_sources() if virtual else []
            standard = not self.numeric or is_standard(self._dataset.id.get_type())
        if external:
            raise UnsafeContentError(
                f"{path} keeps its data in another file, which was not opened",
                where=self.name,
                why="external raw storage",
                fix="copy the data into one file if you trust it",
            )
        if not standard:
            raise InputError(
                f"{self.where} has a number type that is not read",
                why=f"it is stored otherwise than {self.dtype} usually is, or damaged",
                fix="store it as a plain numpy type",
            )
        for number in filters:
            if number not in FILTERS:
                raise UnsafeContentError(
                    f"{self.where} needs an HDF5 filter that is not built in",
                    why=f"filter {number}; known: {', '.join(FILTERS.values())}",
                    fix="repack it: h5repack -f GZIP=4 IN OUT",
                )
        if virtual:
            if depth:
                raise InputError(f"{self.where} is a virtual dataset under another", fix="copy the data out of both")
            named = {(source.file_name, source.dset_name) for source in sources}
            self.storage = sum(self._source(*pair).storage for pair in named)
        if not filters and not virtual and self.storage > self._file.size:
            raise InputError(
                f"{self.where} does not fit in its file",
                why=f"it declares {self.storage} stored bytes in a file of {self._file.size}",
                fix="the file is damaged or truncated: copy it again",
            )
        self._refuse_bomb(self.nbytes, SIZE_LIMIT)
        if chunks is not None:
            self._refuse_bomb(math.prod(chunks) * self.dtype.itemsize, READ_LIMIT)

    def _source(self, file_name: str, name: str) -> GuardedDataset:
        if file_name != "." or "%" in name:
            raise UnsafeContentError(
                f"{self.where} is a virtual dataset over other files, which were not opened",
                fix="copy the data into one file if you trust it",
            )
        return self._file._dataset(name, depth=1)

    def _refuse_bomb(self, nbytes: int, limit: int) -> None:
        if nbytes > limit:
            refuse_bomb(nbytes, min(self.storage, self._file.size), limit, self.where)

    @property
    def attribute_names(self) -> list[str]:
        """Names of the dataset's attributes."""
        return attribute_names(self._file.path, self._dataset)

    def attribute(self, name: str) -> Scalar | None:
        """Return a scalar attribute of the dataset; None for arrays and objects."""
        return read_attribute(self._file.path, self._dataset, name)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Lengths of a chunk along each axis, or None where the dataset is stored in one piece."""
        with reading(self._file.path, self.name):
            found = self._dataset.chunks
        return None if found is None else tuple(int(n) for n in found)

    @property
    def unwritten_chunks(self) -> int:
        """How many chunks were declared and never written: those read as fill values."""
        with reading(self._file.path, self.name):
            chunks = self._dataset.chunks
            if chunks is None or self._dataset.is_virtual:
                return 0
            wanted: int = math.prod(-(-n // c) for n, c in zip(self.shape, chunks, strict=True))
            return wanted - int(self._dataset.id.get_num_chunks())

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
        kept = [len(range(n)[i]) if isinstance(i, slice) else 1 for n, i in zip(self.shape, index, strict=False)]
        count = math.prod(kept) * math.prod(self.shape[len(index) :])
        self._refuse_bomb(count * self.dtype.itemsize, READ_LIMIT)
        with reading(self._file.path, self.name):
            return np.asarray(self._dataset[index])

    def records(self) -> np.ndarray:
        """Read records of plain numbers (a compound type), such as headers.

        Raises:
            InputError: fields that are not plain numbers, or a damaged file.

        """
        fields = [self.dtype[name].base for name in self.dtype.names or ()]
        if not fields or any(kind.kind not in "iuf" for kind in fields):
            raise InputError(f"{self.where} does not hold records of numbers", why=f"its type is {self.dtype}")
        self._refuse_bomb(self.nbytes, READ_LIMIT)
        with reading(self._file.path, self.name):
            return np.asarray(self._dataset[()])

    def text(self) -> str:
        """Read one string (fastMRI keeps its header so), with bytes that are not UTF-8 replaced."""
        return read_string(self._file.path, self._dataset, self.name)


def attribute_names(path: Path, node: h5py.Group | h5py.Dataset) -> list[str]:
    """Return the names of the attributes of a group or dataset, without opening any.

    Raises:
        InputError: damaged, or more than `NAME_LIMIT`.

    """
    with reading(path, "attributes"):
        if len(node.attrs) > NAME_LIMIT:
            raise InputError(f"{path} holds {len(node.attrs)} attributes", why=f"the limit is {NAME_LIMIT}")
        return [n.decode("utf-8", "surrogateescape") if isinstance(n, bytes) else n for n in node.attrs]


def read_attribute(path: Path, node: h5py.Group | h5py.Dataset, name: str) -> Scalar | None:
    """Return a scalar attribute that is a number or a string; None for any other.

    Raises:
        InputError: damaged.

    """
    with reading(path, f"attribute {name!r}"):
        attribute = h5py.h5a.open(node.id, name.encode("utf-8", "surrogateescape"))
        kind = attribute.get_type()
        single = math.prod(attribute.shape or ()) == 1
        if kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
            address = getattr(h5py.h5o.get_info(node.id), "addr", None)
            if address is None or not single or attribute.get_storage_size() != POINTER.size:
                return None
            with path.open("rb") as file:
                text = attribute_string(file, address, node.file.userblock_size, name.encode())
            return None if text is None else text.decode("utf-8", errors="replace")
        plain = kind.get_class() == h5py.h5t.STRING or (kind.get_class() in _NUMBERS and is_standard(kind))
        if not (plain and single) or attribute.get_storage_size() > ATTRIBUTE_LIMIT:
            return None
        value = np.asarray(node.attrs[name]).reshape(-1)[0]
        value = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
        value = value.item() if isinstance(value, np.generic) else value
        return value if isinstance(value, (str, int, float, bool)) and len(str(value)) <= ATTRIBUTE_LIMIT else None


def is_standard(kind: h5py.h5t.TypeID) -> bool:
    """Whether a type is exactly what h5py would store for the numpy type it reads as.

    libhdf5 converts odd types (fields that overlap, bits outside the bytes) without checking where it writes.
    """
    native = (getattr(h5py.h5t, f"COMPLEX_IEEE_F{bits}{order}", None) for bits in (32, 64) for order in ("LE", "BE"))
    return kind == h5py.h5t.py_create(kind.dtype, logical=True) or any(kind == other for other in native)


def read_string(path: Path, dataset: h5py.Dataset, where: str) -> str:
    """Return the one string that a dataset holds, with bytes that are not UTF-8 replaced.

    Raises:
        InputError: not one string, too long, damaged, or stored in an unusual way.

    """
    with reading(path, where):
        kind = dataset.id.get_type()
        offset = dataset.id.get_offset()
        if kind.get_class() != h5py.h5t.STRING or dataset.size != 1:
            raise InputError(f"{where} of {path} is not one string", why=f"{dataset.dtype} of shape {dataset.shape}")
        if not kind.is_variable_str():
            if kind.get_size() > TEXT_LIMIT:
                raise InputError(f"{where} of {path} is longer than {TEXT_LIMIT} bytes")
            value = np.asarray(dataset[()]).reshape(-1)[0]
            return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
        found = None
        if offset is not None and dataset.id.get_storage_size() == POINTER.size:
            with path.open("rb") as file:
                found = heap_string(file, offset, dataset.file.userblock_size)
        if found is None:
            why = f"it is damaged, longer than {TEXT_LIMIT} bytes, or stored in an unusual way"
            raise InputError(f"{where} of {path} cannot be read", why=why)
        return found.decode("utf-8", errors="replace")


@contextmanager
def reading(path: Path, where: str) -> Iterator[None]:
    """Turn what libhdf5 and h5py raise on damaged content, which is of many types, into one typed error.

    Raises:
        InputError: with libhdf5's own words.
        ResourceError: not enough memory.

    """
    try:
        yield
    except MriReconError:
        raise
    except MemoryError:
        raise ResourceError(f"not enough memory to read {where} of {path}", fix="read fewer slices at once") from None
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        failed = any(word in text.lower() for word in ("checksum", "fletcher", "filter", "inflate"))
        raise InputError(
            f"{where} of {path} cannot be read: {'a checksum or filter failed' if failed else 'it is damaged'}",
            why=text,
            fix="copy or download the file again",
        ) from None
