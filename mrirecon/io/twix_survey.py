"""The part of reading twix that could go wrong badly, for a child process: the protocol, and a walk over all readouts.

twixtools knows the protocol's text and the layout of the headers. Its own walk does not check what it reads (a length
of 0 keeps it busy for ever), so the walk here is ours, and every size and offset is compared with the file first.
"""

from __future__ import annotations

import contextlib
import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.identify import twix_measurements
from mrirecon.io.isolated import Arrays, Facts

_HEADER_LIMIT = 64 << 20
_READOUT_LIMIT = 4_000_000
_END, _SYNC = 0, 5
_DMA_BITS = 25


def survey(path: Path) -> tuple[Arrays, Facts]:
    """Return the headers of all readouts as columns, and the numbers of the protocol that reconstruction needs.

    Raises:
        InputError: truncated, damaged, or no readouts.

    """
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = twix_measurements(data[:10_240], size)
        if not places:
            raise InputError(f"{path} is not a twix file")
        start, end = places[-1]
        if end > size:
            raise _truncated(path, f"{size} of {end} bytes are there")
        modern = int.from_bytes(data[:4], "little") < 10_000
        parts: list[Arrays] = []
        for begin, stop in places:
            length = int.from_bytes(data[begin : begin + 4], "little")
            if not 8 <= length <= min(_HEADER_LIMIT, stop - begin):
                raise InputError(f"{path} is a damaged twix file", why=f"a header of {length} bytes")
            columns = _walk(data, begin + length, stop, modern, path)
            columns["own"] = np.full(len(columns["place"]), begin == start)
            parts.append(columns)
    protocol = _protocol(path, start)
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    numbers, text = _numbers(protocol), _text(protocol)
    dwell = _number(_at(protocol, "MeasYaps", "sRXSPEC", "alDwellTime", 0)) or 0.0
    sizes = {"head": 192 if modern else 0, "channel_head": 32 if modern else 128}
    facts: Facts = {"measurements": len(places), "numbers": numbers, "text": text, "dwell_us": dwell / 1000, **sizes}
    return merged, facts


def _truncated(path: Path, why: str) -> InputError:
    return InputError(f"{path} is truncated", why=why, fix="copy or export it again")


def _walk(data: mmap.mmap, place: int, end: int, modern: bool, path: Path) -> Arrays:
    """Go from header to header, and return their fields as columns, with the place of each in the file."""
    from twixtools import mdh_def

    kind = np.dtype(mdh_def.Scan_header if modern else mdh_def.VB17_header)
    flags_at, samples_at = kind.fields["EvalInfoMask"][1], kind.fields["SamplesInScan"][1]
    block = 32 if modern else kind.itemsize
    found: list[int] = []
    ended = False
    while place + kind.itemsize <= end:
        flags = int.from_bytes(data[place + flags_at : place + flags_at + 8], "little")
        if flags >> _END & 1:
            ended = True
            break
        if flags >> _SYNC & 1:
            length = int.from_bytes(data[place : place + 4], "little") % (1 << _DMA_BITS)
        else:
            samples, coils = (
                int.from_bytes(data[place + i : place + i + 2], "little") for i in (samples_at, samples_at + 2)
            )
            length = coils * (block + 8 * samples) + (kind.itemsize if modern else 0)
            if place + length > end:
                raise _truncated(path, f"readout {len(found)} needs {place + length - end} bytes more")
            found.append(place)
        if length < kind.itemsize or len(found) > _READOUT_LIMIT:
            raise InputError(
                f"{path} is a damaged twix file", why=f"a readout of {length} bytes, after {len(found)} readouts"
            )
        place += length
    if not ended:
        raise _truncated(path, f"after {len(found)} readouts it ends without saying so")
    heads = np.frombuffer(b"".join(data[at : at + kind.itemsize] for at in found), dtype=kind)
    columns: Arrays = {"place": np.asarray(found, dtype=np.int64), "flags": heads["EvalInfoMask"].astype(np.uint64)}
    for name in ("SamplesInScan", "UsedChannels", "CenterCol", "CenterLin", "CenterPar"):
        columns[name] = heads[name].astype(np.int64)
    for name in ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg"):
        columns[name] = heads["Counter"][name].astype(np.int64)
    for name in ("Pre", "Post"):
        columns[name] = heads["CutOff"][name].astype(np.int64)
    position = heads["SliceData"]["SlicePos"]
    columns["position"] = np.stack([position[name] for name in ("Sag", "Cor", "Tra")], axis=-1).astype(np.float64)
    columns["quaternion"] = heads["SliceData"]["Quaternion"].astype(np.float64).reshape(-1, 4)
    return columns


def _protocol(path: Path, start: int) -> dict[str, Any]:
    """Parse the protocol; twixtools prints what it does not understand."""
    import twixtools.twixprot as twixprot

    with path.open("rb") as file, contextlib.redirect_stdout(io.StringIO()):
        file.seek(start)
        return twixprot.parse_twix_hdr(file)  # type: ignore[no-any-return]


def _at(node: Any, *keys: str | int) -> Any:
    """Return what lies at a path of names and numbers in the protocol, or None."""
    for key in keys:
        try:
            node = node[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _number(value: Any) -> float | None:
    """Return a protocol value as a number: some are text, some hexadecimal, some empty."""
    try:
        found = float(int(value, 16)) if isinstance(value, str) and value.startswith("0x") else float(value)
    except (TypeError, ValueError):
        return None
    return found if abs(found) < 1e12 else None


def _numbers(protocol: dict[str, Any]) -> dict[str, float]:
    space, first = ("MeasYaps", "sKSpace"), ("MeasYaps", "sSliceArray", "asSlice", 0)
    oversampled = 1 + (_number(_at(protocol, *space, "dPhaseOversamplingForDialog")) or 0.0)
    lines = _number(_at(protocol, *space, "lPhaseEncodingLines")) or 0.0
    sliced = 1 + (_number(_at(protocol, *space, "dSliceOversamplingForDialog")) or 0.0)
    planes = _number(_at(protocol, *space, "lPartitions")) or 0.0
    wanted = {
        "trajectory": _at(protocol, *space, "ucTrajectory"),
        "dimension": _at(protocol, *space, "ucDimension"),
        "reference_mode": _at(protocol, "MeasYaps", "sPat", "ucRefScanMode"),
        "regrid": _at(protocol, "Meas", "alRegridMode", 0),
        "ramp_us": _at(protocol, "Meas", "alRegridRampupTime", 0),
        "readout_oversampling": _at(protocol, "Meas", "flReadoutOSFactor"),
        "columns": _at(protocol, "Meas", "iNoOfFourierColumns"),
        "lines": round(lines * oversampled),
        "partitions": round(planes * sliced),
        "phase_oversampling": oversampled - 1,
        "fov_read": _at(protocol, *first, "dReadoutFOV"),
        "fov_phase": _at(protocol, *first, "dPhaseFOV"),
        "thickness": (_number(_at(protocol, *first, "dThickness")) or 0.0) * (sliced if planes > 1 else 1),
    }
    numbers = {name: _number(value) for name, value in wanted.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _text(protocol: dict[str, Any]) -> dict[str, str | float]:
    """Return what the protocol says of scanner and sequence that identifies nobody."""
    times = {
        name: _number(_at(protocol, "MeasYaps", key, 0))
        for name, key in (("TR_ms", "alTR"), ("TE_ms", "alTE"), ("TI_ms", "alTI"))
    }
    found: dict[str, str | float] = {name: value / 1000 for name, value in times.items() if value}
    for name, keys in (
        ("flip_angle_deg", ("MeasYaps", "adFlipAngleDegree", 0)),
        ("field_strength_T", ("Meas", "flMagneticFieldStrength")),
    ):
        value = _number(_at(protocol, *keys))
        if value is not None:
            found[name] = value
    model = _at(protocol, "Dicom", "ManufacturersModelName")
    return {"vendor": "Siemens", **({"model": model[:64]} if isinstance(model, str) else {}), **found}
