"""Siemens raw data (twix, .dat; VB and VD/VE/XA): a protocol in text, then readouts, each with a header of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.assemble import Given, MapsSource
from mrirecon.io.extras import need
from mrirecon.io.isolated import isolated
from mrirecon.io.raw import raw_scan
from mrirecon.io.raw_store import RawStore
from mrirecon.io.readouts import BOTH, CALIBRATION, IMAGE, KINDS, NOISE, Encoding, Kind, Plan, Readouts
from mrirecon.io.scan import Scalar, Scan

# Bits of the evaluation mask in a readout's header; the first that is set says what the readout is.
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
Numbers = dict[str, float]


class TwixStore(RawStore):
    """Readouts of a twix file, by their places in it."""

    def __init__(self, path: Path, table: Readouts, plan: Plan, place: np.ndarray, heads: tuple[int, int]) -> None:
        super().__init__(path, table, plan)
        self.place, self.heads = place, heads

    def fetch(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return readouts as measured, each (coil, samples) complex64."""
        before, between = self.heads
        found = []
        try:
            with self.path.open("rb") as file:
                for row in rows:
                    samples, coils = int(self.table.samples[row]), int(self.table.coils[row])
                    kind = np.dtype([("head", f"V{between}"), ("data", "<c8", (samples,))])
                    file.seek(int(self.place[row]) + before)
                    block = file.read(coils * kind.itemsize)
                    found.append(np.ascontiguousarray(np.frombuffer(block, kind, count=coils)["data"]))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read", why=str(error), fix="copy it again") from None
        return found


def read_twix(
    path: Path,
    *,
    axes: str | None = None,
    dataset: str | None = None,
    mask: Given = None,
    maps: MapsSource = None,
) -> Scan:
    """Read Siemens raw data of a Cartesian scan; see `mrirecon.io.read`.

    Of several measurements in a file the last is read; the noise scan may be in another. Readouts are sorted by their
    flags, placed by their counters, and averaged where several fall on one place. The readout lies along y, phase
    encoding along x, the second phase encoding along z. The protocol is parsed by twixtools in a child process.

    Raises:
        InputError: a damaged or truncated file, a trajectory that is not Cartesian, ramp sampling, multi-band.
        UsageError: the package twixtools is missing, or `axes` or `dataset` was given.

    """
    if axes is not None or dataset is not None:
        raise UsageError("raw data say themselves what their axes are", where=str(path), fix="leave the option out")
    need("twixtools", "Siemens raw data")
    columns, facts = isolated("mrirecon.io.twix_survey:survey", path)
    protocol: Numbers = facts["numbers"]
    notes: list[str] = []
    if facts["measurements"] > 1:
        notes.append(f"the last of {facts['measurements']} measurements in the file is read")
    table = _table(columns, facts["dwell_us"])
    rows = table.rows(IMAGE, BOTH)
    if rows.size:
        _refuse(path, protocol, columns["flags"][rows])
    encodings = _encodings(table, columns, protocol, notes)
    text: dict[str, Scalar] = facts["text"]
    return raw_scan(
        path,
        "twix",
        table,
        encodings,
        lambda plan: TwixStore(path, table, plan, columns["place"], (facts["head"], facts["channel_head"])),
        notes=notes,
        attributes=text,
        mask=mask,
        maps=maps,
    )


def _table(columns: dict[str, np.ndarray], dwell_us: float) -> Readouts:
    flags, own = columns["flags"], columns["own"].astype(bool)
    kind = np.zeros(len(flags), dtype=np.int64)
    for bit, name in reversed(_FLAGS):
        kind[_is_set(flags, bit)] = KINDS.index(name)
    samples, before, behind = columns["SamplesInScan"], columns["Pre"], columns["Post"]
    kind[samples <= before + behind] = KINDS.index("other")
    # Of other measurements in the file, only noise is of use.
    kind[~own & (kind != NOISE)] = KINDS.index("other")
    return Readouts(
        kind=kind,
        counters={name: columns[stored].copy() for name, stored in _COUNTERS.items()},
        samples=samples,
        coils=columns["UsedChannels"],
        centre=columns["CenterCol"],
        before=before,
        behind=behind,
        reversed=_is_set(flags, _REFLECT),
        encoding=(kind == CALIBRATION).astype(np.int64),
        dwell_us=np.where(kind == NOISE, 0.0, dwell_us),
        position=columns["position"],
        directions=directions(columns["quaternion"]),
    )


def _is_set(flags: np.ndarray, bit: int) -> np.ndarray:
    return np.asarray((flags >> np.uint64(bit)) & np.uint64(1)).astype(bool)


def directions(quaternion: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3, 3) along read, phase and slice in LPS from Siemens's quaternions (n, 4), scalar first.

    The columns of the rotation matrix are phase, read and slice, as siemens_to_ismrmrd takes them.
    """
    r, i, j, k = quaternion.astype(np.float64).T
    phase = np.stack([1 - 2 * (j * j + k * k), 2 * (i * j + k * r), 2 * (i * k - j * r)], axis=-1)
    read = np.stack([2 * (i * j - k * r), 1 - 2 * (i * i + k * k), 2 * (j * k + i * r)], axis=-1)
    through = np.stack([2 * (i * k + j * r), 2 * (j * k - i * r), 1 - 2 * (i * i + j * j)], axis=-1)
    return np.stack([read, phase, through], axis=1)


def _refuse(path: Path, protocol: Numbers, flags: np.ndarray) -> None:
    if protocol.get("trajectory", _CARTESIAN) != _CARTESIAN:
        raise InputError(
            f"{path} has a trajectory that is not Cartesian",
            why=f"ucTrajectory {protocol['trajectory']:g}",
            fix="this toolkit reads Cartesian data",
        )
    if protocol.get("regrid", _UNIFORM) > _UNIFORM:
        raise InputError(
            f"{path} was sampled on the ramps of the gradient, which is not read yet",
            why="its samples are evenly spaced in time and not in k-space "
            f"(alRegridMode {protocol['regrid']:g}, ramps of {protocol.get('ramp_us', 0):g} us)",
            fix="regrid it first, for instance by siemens_to_ismrmrd and Gadgetron",
        )
    if any(_is_set(flags, bit).any() for bit in _MULTIBAND):
        raise InputError(f"{path} excites several slices at once, which is not read yet", fix="unfold it first")


def _encodings(table: Readouts, columns: dict[str, np.ndarray], protocol: Numbers, notes: list[str]) -> list[Encoding]:
    """Return the encoding of the image, and that of a separate calibration scan, which has a centre of its own."""
    rows = table.rows(IMAGE, BOTH)
    if not rows.size:
        return []
    longest = int(table.samples[rows].max())
    columns_stated = int(protocol.get("columns", 0))
    if columns_stated < longest:
        if columns_stated:
            notes.append(f"the protocol says {columns_stated} samples a readout, and {longest} were measured")
        columns_stated = longest
    oversampling = protocol.get("readout_oversampling") or 1.0
    lines = int(protocol.get("lines", 0)) or int(table.counters["line"][rows].max()) + 1
    planes = 1
    if protocol.get("dimension") == _VOLUME and table.counters["partition"][rows].any():
        planes = int(protocol.get("partitions", 0)) or int(table.counters["partition"][rows].max()) + 1
    read, phase, depth = (protocol.get(name) or 0.0 for name in ("fov_read", "fov_phase", "thickness"))
    found = []
    for kinds in ((IMAGE, BOTH), (CALIBRATION,)):
        own = table.rows(*kinds)
        line, partition = (int(np.median(columns[n][own])) if own.size else None for n in ("CenterLin", "CenterPar"))
        found.append(
            Encoding(
                matrix=(columns_stated, lines, planes),
                fov_mm=(read * oversampling, phase * (1 + protocol.get("phase_oversampling", 0.0)), depth),
                image=(round(columns_stated / oversampling), lines, planes),
                image_fov_mm=(read, phase, depth),
                line_centre=line,
                partition_centre=partition,
                embedded=protocol.get("reference_mode") == _EMBEDDED,
            )
        )
    return found
