"""Small values in HDF5 files: attributes and strings, read in the few forms that writers of k-space use.

libhdf5 can be made to crash by a damaged value of an odd type, so only what is wanted is read, only where its type is
plain, and strings of variable length not by libhdf5 at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from mrirecon.errors import InputError, MriReconError, ResourceError
from mrirecon.io.hdf5_heap import POINTER, attribute_string, heap_string
from mrirecon.io.limits import ATTRIBUTE_LIMIT, NAME_LIMIT, TEXT_LIMIT

Scalar = str | int | float | bool
_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)


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
