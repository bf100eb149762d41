"""Write small Siemens raw-data files byte by byte for the tests of the reader, in the layouts VD and VB."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from twixtools import mdh_def

PROTOCOL = {
    **{
        "tSequenceFileName": '"%SiemensSeq%\\gre"',
        "sKSpace.lBaseResolution": 24,
        "sKSpace.lPhaseEncodingLines": 20,
        "sKSpace.ucDimension": 2,
    },
    **{"sKSpace.ucTrajectory": 1, "sKSpace.lPartitions": 1, "alTR[0]": 30000, "alTE[0]": 4500},
    **{"sSliceArray.asSlice[0].dThickness": 4, "sSliceArray.asSlice[0].dPhaseFOV": 200},
    **{"sSliceArray.asSlice[0].dReadoutFOV": 240, "adFlipAngleDegree[0]": 12, "sRXSPEC.alDwellTime[0]": 5000},
}
MEAS = {"iNoOfFourierColumns": 24, "flReadoutOSFactor": 1.0, "alRegridMode": "1 1"}


def protocol(yaps=None, meas=None) -> bytes:
    """Return a protocol of three buffers; the dictionaries override what stands in it."""
    lines = "".join(f"{key}\t = \t{value}\n" for key, value in {**PROTOCOL, **(yaps or {})}.items())
    values = ""
    for key, value in {**MEAS, **(meas or {})}.items():
        kind = "ParamDouble" if isinstance(value, float) else "ParamLong"
        values += f'<{kind}."{key}">  {{ {value} }}\n'
    texts = {
        "Config": '<XProtocol> { <ParamString."tPatientName"> { "DOE^JANE" } }\n',
        "Dicom": '<XProtocol> { <ParamString."ManufacturersModelName"> { "Prisma" } }\n',
        "Meas": f'<XProtocol> {{\n{values}<ParamString."tPatientName"> {{ "DOE^JANE" }}\n}}\n',
        "MeasYaps": f"### ASCCONV BEGIN ###\n{lines}\n### ASCCONV END ###\n",
    }
    body = b"".join(name.encode() + b"\0" + struct.pack("<I", len(t)) + t.encode() for name, t in texts.items())
    length = 8 + len(body)
    length += -length % 32
    return struct.pack("<II", length, len(texts)) + body.ljust(length - 8, b"\0")


def readout(data, *flags: str, modern=True, centre=None, centre_line=10, cut=(0, 0), **counters):
    """Return the bytes of a readout (coil, sample); flags by their names in twixtools, counters as "Lin", "Sli", ...

    The data are in the sign of an inverse transform; the file holds their conjugate, as Siemens writes it.
    """
    data = np.ascontiguousarray(np.conj(data), dtype="<c8")
    coils, samples = data.shape
    head = mdh_def.Scan_header() if modern else mdh_def.VB17_header()
    head.SamplesInScan, head.UsedChannels = samples, coils
    head.CenterCol = samples // 2 if centre is None else centre
    head.CenterLin = centre_line
    head.CutOff.Pre, head.CutOff.Post = cut
    for name, value in counters.items():
        setattr(head.Counter, name, value)
    for flag in flags:
        mdh_def.add_flag(head, flag)
    place = head.SliceData.SlicePos
    place.Sag, place.Cor, place.Tra = 1, 2, 3
    # A quarter turn about the normal: phase encoding towards posterior, readout towards the right.
    head.SliceData.Quaternion[:] = [0.5**0.5, 0, 0, 0.5**0.5]
    if modern:
        channel = bytes(mdh_def.Channel_header())
        return bytes(head) + b"".join(channel + data[c].tobytes() for c in range(coils))
    return b"".join(bytes(head) + data[c].tobytes() for c in range(coils))


def end(modern=True) -> bytes:
    """Return the header that says that the measurement is over."""
    head = mdh_def.Scan_header() if modern else mdh_def.VB17_header()
    mdh_def.add_flag(head, "ACQEND")
    return bytes(head) + bytes(160)


def synchronous(size=64) -> bytes:
    """Return a block of other data among the readouts, such as a pulse curve."""
    head = mdh_def.Scan_header()
    mdh_def.add_flag(head, "SYNCDATA")
    head.FlagsAndDMALength = 192 + size
    return bytes(head) + bytes(size)


def write(path: Path, *measurements: tuple[bytes, list[bytes]]) -> Path:
    """Write a file of VD's layout; each measurement is its protocol and its readouts."""
    table, body, place = b"", b"", 10240
    for number, (text, blocks) in enumerate(measurements):
        content = text + b"".join(blocks) + end()
        table += struct.pack("<IIQQ64s64s", number, number, place, len(content), b"DOE^JANE", b"SECRET")
        content += bytes(-len(content) % 512)
        body, place = body + content, place + len(content)
    path.write_bytes((struct.pack("<II", 0, len(measurements)) + table).ljust(10240, b"\0") + body)
    return path


def write_vb(path: Path, text: bytes, blocks: list[bytes]) -> Path:
    """Write a file of VB's layout, whose protocol must be longer than 10,000 bytes."""
    length = 16384
    text = struct.pack("<I", length) + text[4:].ljust(length - 4, b"\0")
    path.write_bytes(text + b"".join(blocks) + end(modern=False))
    return path
