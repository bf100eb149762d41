"""Read the headers of twix files: those of the readouts, and the numbers of the protocol that are needed.

The layout is a C structure, described by a numpy type. The packages that read twix trust the file (a readout of length
0 keeps twixtools busy for ever, and an index in the protocol makes it fill the memory). Here sizes and offsets are
compared with the file before they are used; the tests read the same files with twixtools.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.identify import read_head

# At most so many measurements, listed from byte 8 in entries of 152 bytes (VD and later).
_MOST_MEASUREMENTS, _TABLE, _ENTRY = 64, 8, 152
_BUFFER_NAME = re.compile(rb"^[A-Za-z]\w{3,}\0")
_HEADER_LIMIT = 64 << 20
_READOUT_LIMIT = 4_000_000
_END, _SYNC = 0, 5
_DMA_BITS = 25
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg")
# Types and offsets of the fields that are used, from the evaluation mask on, which VD has at byte 40 and VB at 20.
_FIELDS = {
    **{"mask": ("<u8", 0), "samples": ("<u2", 8), "coils": ("<u2", 10), "counters": (("<u2", 9), 12)},
    **{"before": ("<u2", 40), "behind": ("<u2", 42), "centre": ("<u2", 44)},
    **{"centre_line": ("<u2", 56), "centre_partition": ("<u2", 58)},
}


def twix_measurements(head: bytes, size: int) -> list[tuple[int, int]] | None:
    """Return the measurements of a twix file as byte ranges (start, end), or None where it is no such file.

    Args:
        head: the first 10,240 bytes of the file.
        size: size of the file.

    """
    if len(head) < 32:
        return None
    first, second = (int.from_bytes(head[i : i + 4], "little") for i in (0, 4))
    if first >= 10_000:  # VB: the file is one measurement, and starts with the length of its header
        return [(0, size)] if first < size and 1 <= second <= _MOST_MEASUREMENTS else None
    if not 1 <= second <= _MOST_MEASUREMENTS or len(head) < _TABLE + second * _ENTRY:
        return None
    measurements = []
    for number in range(second):
        at = _TABLE + number * _ENTRY + 8
        start, length = (int.from_bytes(head[i : i + 8], "little") for i in (at, at + 8))
        # Some writers state 0 as the length of a single measurement.
        length = size - start if length == 0 and second == 1 else length
        if not _TABLE + _ENTRY <= start < size or length < 8:
            return None
        measurements.append((start, start + length))
    return measurements


def is_twix(path: Path) -> bool:
    """Tell whether a file is twix: it has a table of measurements, and a protocol that begins with a buffer's name."""
    measurements = twix_measurements(read_head(path, 10_240), path.stat().st_size)
    if not measurements:
        return False
    with path.open("rb") as file:
        file.seek(measurements[-1][0] + 8)
        return _BUFFER_NAME.match(file.read(48)) is not None


class Version(NamedTuple):
    """Layout of readouts of a scanner generation: bytes before all channels, before each, and offsets of fields."""

    head: int
    channel_head: int
    mask: int
    slice: int

    @property
    def dtype(self) -> np.dtype:
        """The header as a numpy type; `position` is sagittal, coronal, transversal in mm, `quaternion` scalar first."""
        places = {name: (kind, self.mask + at) for name, (kind, at) in _FIELDS.items()}
        places |= {"position": (("<f4", 3), self.slice), "quaternion": (("<f4", 4), self.slice + 12)}
        return np.dtype(
            {
                "names": list(places),
                "formats": [kind for kind, _ in places.values()],
                "offsets": [at for _, at in places.values()],
                "itemsize": self.head or self.channel_head,
            }
        )


MODERN, OLD = Version(192, 32, 40, 100), Version(0, 128, 20, 96)


class Headers(NamedTuple):
    """Headers of a file: those of the readouts of all measurements, and the protocol of the last measurement.

    Attributes:
        version: the layout.
        heads: headers of the readouts, of `Version.dtype`.
        places: offset of each readout in the file, in bytes.
        last: whether each readout belongs to the last measurement.
        measurements: number of measurements.
        protocol: that of the last measurement.

    """

    version: Version
    heads: np.ndarray
    places: np.ndarray
    last: np.ndarray
    measurements: int
    protocol: Protocol


class Protocol:
    """The texts of a protocol by name, and single values in them."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        pairs = re.finditer(r"^(\S{1,200})[ \t]*=[ \t]*(\S{1,200})[ \t\r]*$", texts.get("MeasYaps", ""), re.MULTILINE)
        self._yaps = {pair[1]: pair[2] for pair in pairs}

    def yaps(self, key: str) -> float | None:
        """Return a number from the lines of MeasYaps ("alTR[0]"), or None; some are hexadecimal."""
        return _number(self._yaps.get(key, ""))

    @property
    def sequence(self) -> str | None:
        r"""The name of the sequence's file, such as ``%CustomerSeq%\gre``, or None where the protocol has none."""
        named = self._yaps.get("tSequenceFileName") or "".join(self.values("Meas", "tSequenceFileName"))
        return named.strip('"') or None

    def values(self, buffer: str, name: str) -> list[str]:
        """Return the words of a parameter in another buffer, such as "Meas"; none where there is no such parameter."""
        wanted = rf'<Param(?:Bool|Long|Double|String)\."{re.escape(name)}">\s*\{{([^{{}}]{{0,20000}})\}}'
        match = re.search(wanted, self.texts.get(buffer, ""))
        if match is None:
            return []
        body = re.sub(r"<Precision>\s*\d+|<\w+>[^\n]*", " ", match[1])
        return re.findall(r'"[^"]*"|\S+', body)

    def number(self, buffer: str, name: str) -> float | None:
        """Return the first word of a parameter as a number, or None."""
        return next((_number(word) for word in self.values(buffer, name)), None)


def _number(text: str) -> float | None:
    try:
        number = float(int(text, 16)) if text.lower().startswith("0x") else float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None


def read_headers(path: Path) -> Headers:
    """Read all headers of a twix file.

    Raises:
        InputError: truncated or damaged.

    """
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = twix_measurements(data[:10_240], size)
        if not parts:
            raise InputError(f"{path} is not a twix file")
        start, end = parts[-1]
        if end > size:
            raise _truncated(path, f"{size} of {end} bytes are there")
        version = MODERN if _u32(data, 0) < 10_000 else OLD
        places: list[int] = []
        last: list[bool] = []
        for begin, stop in parts:
            length = _u32(data, begin)
            if not 8 <= length <= min(_HEADER_LIMIT, stop - begin):
                raise InputError(f"{path} is a damaged twix file", why=f"it states a protocol of {length} bytes")
            readouts = _find_readouts(data, begin + length, min(stop, size), version, path)
            places += readouts
            last += [begin == start] * len(readouts)
        kind = version.dtype
        heads = np.frombuffer(b"".join(data[at : at + kind.itemsize] for at in places), dtype=kind)
        protocol = Protocol(_texts(data[start : start + _u32(data, start)]))
    return Headers(version, heads, np.asarray(places, dtype=np.int64), np.asarray(last, bool), len(parts), protocol)


def _u32(data: bytes | mmap.mmap, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _truncated(path: Path, why: str) -> InputError:
    return InputError(f"{path} is truncated", why=why, fix="copy or export it again")


def _find_readouts(data: mmap.mmap, place: int, end: int, version: Version, path: Path) -> list[int]:
    """Return the offsets of the readouts of a measurement, up to the one that is marked as the last."""
    size = version.head or version.channel_head
    places: list[int] = []
    while place + size <= end:
        mask, samples, coils = struct.unpack_from("<QHH", data, place + version.mask)
        if mask >> _END & 1:
            return places
        if mask >> _SYNC & 1:
            length = _u32(data, place) % (1 << _DMA_BITS)
        else:
            length = version.head + coils * (version.channel_head + 8 * samples)
            if place + length > end:
                raise _truncated(path, f"readout {len(places)} needs {place + length - end} bytes more")
            places.append(place)
        if length < size or len(places) > _READOUT_LIMIT:
            why = f"a readout of {length} bytes, after {len(places)} readouts"
            raise InputError(f"{path} is a damaged twix file", why=why, fix="copy or export it again")
        place += length
    raise _truncated(path, f"it ends after {len(places)} readouts, none of which is marked as the last")


def _texts(header: bytes) -> dict[str, str]:
    """Divide a protocol into its named texts: each is a name, a zero byte, a length, and so many bytes."""
    texts: dict[str, str] = {}
    place = 8
    for _ in range(min(64, _u32(header, 4))):
        name = re.match(rb"(\w{1,40})\0", header[place : place + 41])
        if name is None:
            break
        place += name.end() + 4
        length = _u32(header, place - 4)
        texts[name[1].decode("ascii", "replace")] = header[place : place + length].decode("latin-1")
        place += length
    return texts
