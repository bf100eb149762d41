"""Read Siemens raw data (twix, .dat; VB and VD/VE/XA): a text protocol, then readouts, each with its header.

A numpy type describes the C structure of a header. Other packages for twix trust the file: a readout of length 0 makes
twixtools loop for ever, and a large index in the protocol makes it fill the memory. Here, sizes and offsets are
compared with the size of the file before use. The tests read the same files with twixtools.
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
from mrirecon.io.readers.raw import raw_scan
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import (
    BOTH,
    CALIBRATION,
    IMAGE,
    KINDS,
    NOISE,
    Encoding,
    Kind,
    Plan,
    Readouts,
    classify,
    is_set,
)
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.readers.siemens import SIEMENS_WAYS, forward_transform
from mrirecon.io.scan import Scalar, Scan

# Bits of the evaluation mask in a readout's header; the first that is set gives the kind of the readout.
_FLAGS: tuple[tuple[int, Kind], ...] = (
    *((25, "noise"), (21, "phase correction"), (14, "other"), (15, "other"), (60, "other"), (51, "dummy")),
    *((1, "feedback"), (2, "feedback"), (23, "calibration and image"), (22, "calibration")),
)
_REFLECT, _MULTIBAND = 24, (38, 39)
# Protocol values: ucTrajectory, ucDimension, ucRefScanMode, alRegridMode.
_CARTESIAN, _VOLUME, _EMBEDDED, _UNIFORM = 1, 4, 2, 1
_COUNTERS = {
    **{"line": "Lin", "average": "Ave", "slice": "Sli", "partition": "Par", "echo": "Eco", "phase": "Phs"},
    **{"repetition": "Rep", "set": "Set", "segment": "Seg"},
}
# Largest number of measurements, listed from byte 8 in entries of 152 bytes (VD and later).
_MOST_MEASUREMENTS, _TABLE, _ENTRY = 64, 8, 152
_BUFFER_NAME = re.compile(rb"^[A-Za-z]\w{3,}\0")
_HEADER_LIMIT = 64 << 20
_READOUT_LIMIT = 4_000_000
_END, _SYNC = 0, 5
_DMA_BITS = 25
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg")
# Types and offsets of the fields in use, relative to the evaluation mask (at byte 40 in VD, 20 in VB).
_FIELDS = {
    **{"mask": ("<u8", 0), "samples": ("<u2", 8), "coils": ("<u2", 10), "counters": (("<u2", 9), 12)},
    **{"discard_pre": ("<u2", 40), "discard_post": ("<u2", 42), "centre": ("<u2", 44)},
    **{"centre_line": ("<u2", 56), "centre_partition": ("<u2", 58)},
}


class TwixStore(RawStore):
    """Read readouts of a twix file."""

    def __init__(self, path: Path, table: Readouts, plan: Plan, places: np.ndarray, version: Version) -> None:
        super().__init__(path, table, plan)
        self.places, self.version = places, version

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the concatenated samples of readouts."""
        readouts = []
        try:
            with self.path.open("rb") as file:
                for row in rows:
                    samples, coils = int(self.table.samples[row]), int(self.table.coils[row])
                    kind = np.dtype([("head", f"V{self.version.channel_head}"), ("data", "<c8", (samples,))])
                    file.seek(int(self.places[row]) + self.version.head)
                    block = file.read(coils * kind.itemsize)
                    readouts.append(np.frombuffer(block, kind, count=coils)["data"].reshape(-1))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read", why=str(error), fix="copy it again") from None
        return np.concatenate(readouts)


@register_reader("twix", rank=95, recognise=lambda source: is_twix(source.path), suffixes=(".dat",))
def read_twix(source: Source) -> Scan:
    """Read Siemens raw data of a Cartesian scan; see `mrirecon.io.read`.

    If the file holds several measurements, the last is read; the noise scan may be in another. Readouts are sorted by
    their flags and placed on the grid by their counters. Several at the same position are averaged. The readout is
    along y, phase encoding along x, the second phase encoding along z. Samples are conjugated (see
    `mrirecon.io.readers.siemens`).

    Raises:
        InputError: a damaged or truncated file, a trajectory that is not Cartesian, ramp sampling, multi-band.

    """
    path = source.path
    headers = read_headers(path)
    notes: list[str] = []
    if headers.measurements > 1:
        notes.append(f"the last of {headers.measurements} measurements in the file is read")
    table = _table(headers)
    table.conjugate, why = forward_transform("Siemens", headers.protocol.sequence)
    notes += [why] if why else []
    rows = table.rows(IMAGE, BOTH)
    if rows.size:
        _refuse(path, headers.protocol, headers.heads["mask"][rows])
    return raw_scan(
        source,
        "twix",
        table,
        _encodings(table, headers, notes),
        lambda plan: TwixStore(path, table, plan, headers.places, headers.version),
        notes=notes,
        attributes=_attributes(headers.protocol),
    )


def _table(headers: Headers) -> Readouts:
    heads = headers.heads
    names = ("samples", "coils", "centre", "discard_pre", "discard_post")
    columns = {name: heads[name].astype(np.int64) for name in names}
    kind = classify(heads["mask"], _FLAGS, columns["samples"] - columns["discard_pre"] - columns["discard_post"])
    # Only noise is used from the other measurements in the file.
    kind[~headers.last & (kind != NOISE)] = KINDS.index("other")
    dwell = headers.protocol.yaps("sRXSPEC.alDwellTime[0]") or 0.0
    return Readouts(
        kind=kind,
        counters={n: heads["counters"][:, COUNTERS.index(c)].astype(np.int64) for n, c in _COUNTERS.items()},
        samples=columns["samples"],
        coils=columns["coils"],
        centre=columns["centre"],
        discard_pre=columns["discard_pre"],
        discard_post=columns["discard_post"],
        reversed=is_set(heads["mask"], _REFLECT),
        encoding=(kind == CALIBRATION).astype(np.int64),
        dwell_us=np.where(kind == NOISE, 0.0, dwell / 1000),
        position=heads["position"].astype(np.float64),
        directions=directions(heads["quaternion"]),
        ways=SIEMENS_WAYS,
    )


def directions(quaternion: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3, 3) along read, phase and slice in LPS from Siemens's quaternions (n, 4), scalar first.

    The columns of the rotation matrix are phase, read and slice, as in siemens_to_ismrmrd.
    """
    r, i, j, k = quaternion.astype(np.float64).T
    phase = np.stack([1 - 2 * (j * j + k * k), 2 * (i * j + k * r), 2 * (i * k - j * r)], axis=-1)
    read = np.stack([2 * (i * j - k * r), 1 - 2 * (i * i + k * k), 2 * (j * k + i * r)], axis=-1)
    through = np.stack([2 * (i * k + j * r), 2 * (j * k - i * r), 1 - 2 * (i * i + j * j)], axis=-1)
    return np.stack([read, phase, through], axis=1)


def _refuse(path: Path, protocol: Protocol, mask: np.ndarray) -> None:
    trajectory = protocol.yaps("sKSpace.ucTrajectory")
    if trajectory not in (None, _CARTESIAN):
        why = f"ucTrajectory {trajectory:g}"
        raise InputError(
            f"{path} has a trajectory that is not Cartesian", why=why, fix="this toolkit reads Cartesian data"
        )
    regrid = protocol.number("Meas", "alRegridMode")
    if regrid is not None and regrid > _UNIFORM:
        ramp = protocol.number("Meas", "alRegridRampupTime") or 0
        raise InputError(
            f"{path} was sampled on the ramps of the gradient, which is not supported",
            why="its samples are evenly spaced in time and not in k-space "
            f"(alRegridMode {regrid:g}, ramps of {ramp:g} us)",
            fix="regrid it first, for example with siemens_to_ismrmrd and Gadgetron",
        )
    if any(is_set(mask, bit).any() for bit in _MULTIBAND):
        raise InputError(
            f"{path} excites several slices at once, which is not supported", fix="separate the slices first"
        )


def _encodings(table: Readouts, headers: Headers, notes: list[str]) -> list[Encoding]:
    """Return the encodings of the image and of a separate calibration scan, which differ in their centre."""
    rows, protocol = table.rows(IMAGE, BOTH), headers.protocol
    if not rows.size:
        return []

    def stated(name: str) -> float:
        return protocol.yaps(name) or 0.0

    longest = int(table.samples[rows].max())
    columns = int(protocol.number("Meas", "iNoOfFourierColumns") or 0)
    if columns < longest:
        if columns:
            notes.append(f"the protocol states {columns} samples per readout, but {longest} were measured")
        columns = longest
    oversampling = protocol.number("Meas", "flReadoutOSFactor") or 1.0
    further = [1 + stated(f"sKSpace.d{name}OversamplingForDialog") for name in ("Phase", "Slice")]
    lines = round(stated("sKSpace.lPhaseEncodingLines") * further[0])
    planes = 1
    slab = stated("sKSpace.ucDimension") == _VOLUME and bool(table.counters["partition"][rows].any())
    if slab:
        planes = round(stated("sKSpace.lPartitions") * further[1])
    matrix = (columns, *(max(1, n) for n in (lines, planes)))
    read, phase, depth = (stated(f"sSliceArray.asSlice[0].d{n}") for n in ("ReadoutFOV", "PhaseFOV", "Thickness"))
    encodings = []
    for kinds in ((IMAGE, BOTH), (CALIBRATION,)):
        own = table.rows(*kinds)
        centres = (headers.heads[name][own] for name in ("centre_line", "centre_partition"))
        line, partition = (int(np.median(values)) if own.size else None for values in centres)
        encodings.append(
            Encoding(
                matrix=(matrix[0], matrix[1], matrix[2]),
                fov_mm=(read * oversampling, phase * further[0], depth * (further[1] if slab else 1)),
                image=(round(columns / oversampling), matrix[1], matrix[2]),
                image_fov_mm=(read, phase, depth),
                line_centre=line,
                partition_centre=partition,
                embedded=protocol.yaps("sPat.ucRefScanMode") == _EMBEDDED,
            )
        )
    return encodings


def _attributes(protocol: Protocol) -> dict[str, Scalar]:
    """Return values of the protocol about scanner and sequence that cannot identify a person."""
    attributes: dict[str, Scalar] = {"vendor": "Siemens"}
    model = "".join(protocol.values("Dicom", "ManufacturersModelName")).strip('"')
    if model:
        attributes["model"] = model[:64]
    for name, value, unit in (
        ("TR_ms", protocol.yaps("alTR[0]"), 1000),
        ("TE_ms", protocol.yaps("alTE[0]"), 1000),
        ("TI_ms", protocol.yaps("alTI[0]"), 1000),
        ("flip_angle_deg", protocol.yaps("adFlipAngleDegree[0]"), 1),
        ("field_strength_T", protocol.number("Meas", "flMagneticFieldStrength"), 1),
    ):
        if value:
            attributes[name] = value / unit
    return attributes


def twix_measurements(head: bytes, size: int) -> list[tuple[int, int]] | None:
    """Return the measurements of a twix file as byte ranges (start, end), or None if it is not a twix file.

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
    """Return whether a file is twix: it has a table of measurements, and a protocol that begins with a buffer name."""
    measurements = twix_measurements(read_head(path, 10_240), path.stat().st_size)
    if not measurements:
        return False
    with path.open("rb") as file:
        file.seek(measurements[-1][0] + 8)
        return _BUFFER_NAME.match(file.read(48)) is not None


class Version(NamedTuple):
    """Hold the layout of readouts of a scanner generation: header sizes of readout and channel, field offsets."""

    head: int
    channel_head: int
    mask: int
    slice: int

    @property
    def dtype(self) -> np.dtype:
        """Return the numpy type of a header; `position` is sagittal, coronal, transversal in mm."""
        fields = {name: (kind, self.mask + at) for name, (kind, at) in _FIELDS.items()}
        fields |= {"position": (("<f4", 3), self.slice), "quaternion": (("<f4", 4), self.slice + 12)}
        return np.dtype(
            {
                "names": list(fields),
                "formats": [kind for kind, _ in fields.values()],
                "offsets": [at for _, at in fields.values()],
                "itemsize": self.head or self.channel_head,
            }
        )


MODERN, OLD = Version(192, 32, 40, 100), Version(0, 128, 20, 96)


class Headers(NamedTuple):
    """Hold the headers of all readouts of a file, and the protocol of the last measurement.

    Attributes:
        version: the layout.
        heads: headers of the readouts, of `Version.dtype`.
        places: offset of each readout in the file, in bytes.
        last: whether each readout belongs to the last measurement.
        measurements: number of measurements.
        protocol: protocol of the last measurement.

    """

    version: Version
    heads: np.ndarray
    places: np.ndarray
    last: np.ndarray
    measurements: int
    protocol: Protocol


class Protocol:
    """Hold the texts of a protocol by name, and look up values in them."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        pairs = re.finditer(r"^(\S{1,200})[ \t]*=[ \t]*(\S{1,200})[ \t\r]*$", texts.get("MeasYaps", ""), re.MULTILINE)
        self._yaps = {pair[1]: pair[2] for pair in pairs}

    def yaps(self, key: str) -> float | None:
        """Return a number from the lines of MeasYaps ("alTR[0]"), which may be hexadecimal, or None."""
        return _number(self._yaps.get(key, ""))

    @property
    def sequence(self) -> str | None:
        r"""Return the name of the sequence's file, such as ``%CustomerSeq%\gre``, or None."""
        named = self._yaps.get("tSequenceFileName") or "".join(self.values("Meas", "tSequenceFileName"))
        return named.strip('"') or None

    def values(self, buffer: str, name: str) -> list[str]:
        """Return the words of a parameter in another buffer, such as "Meas"; empty if there is no such parameter."""
        pattern = rf'<Param(?:Bool|Long|Double|String)\."{re.escape(name)}">\s*\{{([^{{}}]{{0,20000}})\}}'
        match = re.search(pattern, self.texts.get(buffer, ""))
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
            raise _truncated(path, f"{size} of {end} bytes are present")
        version = MODERN if _u32(data, 0) < 10_000 else OLD
        offsets: list[int] = []
        last: list[bool] = []
        for begin, stop in parts:
            length = _u32(data, begin)
            if not 8 <= length <= min(_HEADER_LIMIT, stop - begin):
                raise InputError(f"{path} is a damaged twix file", why=f"it states a protocol of {length} bytes")
            readouts = _find_readouts(data, begin + length, min(stop, size), version, path)
            offsets += readouts
            last += [begin == start] * len(readouts)
        kind = version.dtype
        heads = np.frombuffer(b"".join(data[at : at + kind.itemsize] for at in offsets), dtype=kind)
        protocol = Protocol(_texts(data[start : start + _u32(data, start)]))
    return Headers(version, heads, np.asarray(offsets, dtype=np.int64), np.asarray(last, bool), len(parts), protocol)


def _u32(data: bytes | mmap.mmap, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _truncated(path: Path, why: str) -> InputError:
    return InputError(f"{path} is truncated", why=why, fix="copy or export it again")


def _find_readouts(data: mmap.mmap, place: int, end: int, version: Version, path: Path) -> list[int]:
    """Return the offsets of the readouts of a measurement, up to the one marked as the last."""
    size = version.head or version.channel_head
    offsets: list[int] = []
    while place + size <= end:
        mask, samples, coils = struct.unpack_from("<QHH", data, place + version.mask)
        if mask >> _END & 1:
            return offsets
        if mask >> _SYNC & 1:
            length = _u32(data, place) % (1 << _DMA_BITS)
        else:
            length = version.head + coils * (version.channel_head + 8 * samples)
            if place + length > end:
                raise _truncated(path, f"readout {len(offsets)} needs {place + length - end} bytes more")
            offsets.append(place)
        if length < size or len(offsets) > _READOUT_LIMIT:
            why = f"a readout of {length} bytes, after {len(offsets)} readouts"
            raise InputError(f"{path} is a damaged twix file", why=why, fix="copy or export it again")
        place += length
    raise _truncated(path, f"it ends after {len(offsets)} readouts, and none is marked as the last")


def _texts(header: bytes) -> dict[str, str]:
    """Split a protocol into its named texts: each is a name, a zero byte, a length, and that number of bytes."""
    texts: dict[str, str] = {}
    offset = 8
    for _ in range(min(64, _u32(header, 4))):
        name = re.match(rb"(\w{1,40})\0", header[offset : offset + 41])
        if name is None:
            break
        offset += name.end() + 4
        length = _u32(header, offset - 4)
        texts[name[1].decode("ascii", "replace")] = header[offset : offset + length].decode("latin-1")
        offset += length
    return texts
