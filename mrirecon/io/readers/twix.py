"""Read Siemens raw data (twix, .dat; VB and VD/VE/XA): a protocol in text, then readouts, each with its header."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.raw import raw_scan
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import BOTH, CALIBRATION, IMAGE, KINDS, NOISE, Encoding, Kind, Plan, Readouts
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.readers.siemens import SIEMENS_WAYS, forward_transform
from mrirecon.io.readers.twix_headers import COUNTERS, Headers, Protocol, Version, is_twix, read_headers
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


class TwixStore(RawStore):
    """Readouts of a twix file."""

    def __init__(self, path: Path, table: Readouts, plan: Plan, places: np.ndarray, version: Version) -> None:
        super().__init__(path, table, plan)
        self.places, self.version = places, version

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of readouts one after another."""
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


def _is_twix(source: Source) -> bool:
    return bool(source.head) and is_twix(source.path)


@register_reader("twix", rank=95, signature=_is_twix, suffixes=(".dat",))
def read_twix(source: Source) -> Scan:
    """Read Siemens raw data of a Cartesian scan; see `mrirecon.io.read`.

    Of several measurements in a file the last is read; the noise scan may be in another. Readouts are sorted by their
    flags, placed by their counters, and averaged where several fall on one place. The readout is along y, phase
    encoding along x, the second phase encoding along z. Samples are conjugated, as `mrirecon.io.readers.siemens`
    explains.

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
    whole = {name: heads[name].astype(np.int64) for name in ("samples", "coils", "centre", "before", "behind")}
    kind = np.zeros(len(heads), dtype=np.int64)
    for bit, name in reversed(_FLAGS):
        kind[_is_set(heads["mask"], bit)] = KINDS.index(name)
    kind[whole["samples"] <= whole["before"] + whole["behind"]] = KINDS.index("other")
    # Of the other measurements in the file, only noise is used.
    kind[~headers.last & (kind != NOISE)] = KINDS.index("other")
    dwell = headers.protocol.yaps("sRXSPEC.alDwellTime[0]") or 0.0
    return Readouts(
        kind=kind,
        counters={n: heads["counters"][:, COUNTERS.index(c)].astype(np.int64) for n, c in _COUNTERS.items()},
        samples=whole["samples"],
        coils=whole["coils"],
        centre=whole["centre"],
        before=whole["before"],
        behind=whole["behind"],
        reversed=_is_set(heads["mask"], _REFLECT),
        encoding=(kind == CALIBRATION).astype(np.int64),
        dwell_us=np.where(kind == NOISE, 0.0, dwell / 1000),
        position=heads["position"].astype(np.float64),
        directions=directions(heads["quaternion"]),
        ways=SIEMENS_WAYS,
    )


def _is_set(mask: np.ndarray, bit: int) -> np.ndarray:
    return np.asarray((mask >> np.uint64(bit)) & np.uint64(1)).astype(bool)


def directions(quaternion: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3, 3) along read, phase and slice in LPS from Siemens's quaternions (n, 4), scalar first.

    The columns of the rotation matrix are phase, read and slice, as siemens_to_ismrmrd takes them.
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
            fix="regrid it first, for instance by siemens_to_ismrmrd and Gadgetron",
        )
    if any(_is_set(mask, bit).any() for bit in _MULTIBAND):
        raise InputError(f"{path} excites several slices at once, which is not supported", fix="unfold it first")


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
    """Return values of the protocol about scanner and sequence that identify nobody."""
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
