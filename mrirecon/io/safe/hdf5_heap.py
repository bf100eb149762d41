"""Variable-length strings of HDF5 files, decoded here (HDF5 File Format Specification 3.0, III.E, IV.A.1.a, IV.A.2.m).

A damaged heap or pointer makes libhdf5 loop for ever or write outside its memory (seen with 2.0 under mutation); here
it can only end in an error. Read are the forms that h5py and fastMRI write; `None` stands for any other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from mrirecon.io.safe.limits import TEXT_LIMIT

POINTER = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_HEADER = struct.Struct("<BxHII4x")
_MESSAGE = struct.Struct("<HHB3x")
_ATTRIBUTE = struct.Struct("<BBHHH")
_CONTINUATION = struct.Struct("<QQ")
_ATTRIBUTE_KIND, _CONTINUATION_KIND = 0x0C, 0x10
_MAX_BLOCKS = 64


def heap_string(file: BinaryIO, offset: int, base: int) -> bytes | None:
    """Return the string whose pointer (length, heap address, object index) stands at `offset` of the file.

    Args:
        file: opened for reading.
        offset: in bytes from the start of the file.
        base: size of the user block, from which addresses inside the file count.

    """
    file.seek(offset)
    return _resolve(file, file.read(POINTER.size), base)


def attribute_string(file: BinaryIO, address: int, base: int, name: bytes) -> bytes | None:
    """Return a scalar string attribute of the object whose header (version 1) stands at `address` plus `base`."""
    for kind, body in _messages(file, address, base):
        if kind != _ATTRIBUTE_KIND or len(body) < _ATTRIBUTE.size:
            continue
        version, _, *lengths = _ATTRIBUTE.unpack_from(body)
        if version not in (1, 2, 3):
            continue
        start = _ATTRIBUTE.size + (version == 3)
        steps = [-(-n // 8) * 8 if version == 1 else n for n in lengths]
        if body[start : start + lengths[0]].rstrip(b"\0") == name:
            data = start + sum(steps)
            return _resolve(file, body[data : data + POINTER.size], base)
    return None


def _messages(file: BinaryIO, address: int, base: int) -> Iterator[tuple[int, bytes]]:
    file.seek(base + address)
    version, _, _, size = _unpack(_HEADER, file.read(_HEADER.size)) or (0, 0, 0, 0)
    if version != 1:
        return
    blocks = [(address + _HEADER.size, size)]
    for place, length in blocks:
        file.seek(base + place)
        block, position = file.read(min(length, TEXT_LIMIT)), 0
        while position + _MESSAGE.size <= len(block):
            kind, size, _ = _MESSAGE.unpack_from(block, position)
            position += _MESSAGE.size
            body = block[position : position + size]
            position += size
            if kind == _CONTINUATION_KIND and len(body) >= _CONTINUATION.size and len(blocks) < _MAX_BLOCKS:
                more, length = _CONTINUATION.unpack_from(body)
                blocks.append((more, length))
            yield kind, body


def _resolve(file: BinaryIO, pointer: bytes, base: int) -> bytes | None:
    length, address, wanted = _unpack(POINTER, pointer) or (TEXT_LIMIT + 1, 0, 0)
    if length == 0:
        return b""
    if length > TEXT_LIMIT:
        return None
    file.seek(base + address)
    signature, _, size = _unpack(_HEAP, file.read(_HEAP.size)) or (b"", 0, 0)
    if signature != b"GCOL":
        return None
    heap, position = file.read(max(0, min(size, 2 * TEXT_LIMIT) - _HEAP.size)), 0
    while position + _OBJECT.size <= len(heap):
        index, _, stored = _OBJECT.unpack_from(heap, position)
        position += _OBJECT.size
        if index == wanted and length <= stored <= len(heap) - position:
            return heap[position : position + length].rstrip(b"\0")
        if index == 0:
            return None
        position += -(-stored // 8) * 8
    return None


def _unpack(form: struct.Struct, data: bytes) -> tuple[int, ...] | None:
    return form.unpack(data) if len(data) == form.size else None
