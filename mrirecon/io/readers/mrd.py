"""Read ISMRMRD raw data (MRD version 1, HDF5): acquisitions with flags and counters, and a header in XML.

The package ismrmrd is not used: by default it opens files for writing, follows links and expands entities of the
header. The layout is a table in HDF5. h5py reads it in the sandbox, after a check of its links and storage.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.assemble import KSPACE_NAMES
from mrirecon.io.readers.header import ECHO_TRAIN, read_header, sequence_values, write_header
from mrirecon.io.readers.mrd_images import raw_groups
from mrirecon.io.readers.mrd_trajectory import trajectory_scan
from mrirecon.io.readers.raw import raw_scan
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import Encoding, Kind, Plan, Readouts, classify, is_set
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.readers.siemens import SEQUENCE_NAME, SIEMENS_WAYS, forward_transform, is_siemens
from mrirecon.io.safe import sandbox
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5, open_recognised
from mrirecon.io.safe.sandbox import Arrays, Facts
from mrirecon.io.scan import Scan

# Bits of an acquisition's flags (ISMRMRD numbers flags from 1); the first that is set gives the kind of a readout.
_FLAGS: tuple[tuple[int, Kind], ...] = (
    *((18, "noise"), (23, "phase correction"), (22, "navigator"), (26, "dummy"), (25, "feedback"), (27, "feedback")),
    *((28, "other"), (29, "other"), (30, "other"), (20, "calibration and image"), (19, "calibration")),
)
_REVERSE, _COMPRESSED = 21, (52, 53, 54, 55)
_TRAJECTORIES = ("cartesian", "epi")
_COUNTERS = {
    **{"line": "kspace_encode_step_1", "partition": "kspace_encode_step_2", "echo": "contrast"},
    **{name: name for name in ("average", "slice", "phase", "repetition", "set", "segment")},
}
_COLUMNS = ("number_of_samples", "active_channels", "center_sample", "discard_pre", "discard_post")
# Gaps of up to this many readouts are read and discarded: one long read is faster than several short ones.
_GAP = 8
_CHUNK = 128
# Time limit: damaged files can keep libhdf5 busy for ever; intact files need a hundredth of this time.
_SECONDS, _BYTES_A_SECOND = 10, 4e6


class MrdStore(RawStore):
    """Read acquisitions of a group of an ISMRMRD file."""

    def __init__(self, path: Path, table: Readouts, plan: Plan, group: str) -> None:
        super().__init__(path, table, plan)
        self.group = group

    def flat(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of readouts one after another, read in the sandbox."""
        return _flat(self.path, self.group, rows, self.table.samples[rows] * self.table.coils[rows])


def _flat(path: Path, group: str, rows: np.ndarray, sizes: np.ndarray, name: str = "data") -> np.ndarray:
    """Return the values of a field of acquisitions one after another, read in the sandbox."""
    arrays, _ = sandbox.call(
        acquisitions,
        path,
        seconds=_SECONDS + 8 * int(sizes.sum()) / _BYTES_A_SECOND,
        memory=(2 << 30) + 2 * 8 * _CHUNK * int(sizes.max(initial=0)),
        group=group,
        out=int(sizes.sum()),
        rows=rows.tolist(),
        sizes=sizes.tolist(),
        name=name,
    )
    return arrays["out"]


def raw_group(file: GuardedFile, dataset: str | None = None) -> str | None:
    """Return the group of ISMRMRD raw data: `dataset` if given, else "dataset", else the only one, else None.

    Raises:
        InputError: several groups hold raw data, and none is called "dataset".

    """
    groups = raw_groups(file.datasets())
    if dataset is not None:
        return dataset.strip("/") if dataset.strip("/") in groups else None
    if len(groups) > 1 and "dataset" not in groups:
        raise InputError(
            f"{file.path} holds raw data in {len(groups)} groups",
            why=", ".join(sorted(groups)[:12]),
            fix=f"name one of them, for example --dataset {min(groups)}",
        )
    return "dataset" if "dataset" in groups else groups[0] if groups else None


def _is_raw(source: Source) -> bool:
    """Return whether an HDF5 file holds ISMRMRD raw data, complete or not."""
    file, name = source.hdf5, source.dataset or "dataset"
    if "/" not in name and name in file and file.is_group(name):
        return True
    groups = raw_groups(file.datasets())
    return bool(groups) if source.dataset is None else name.strip("/") in groups


@register_reader("ismrmrd", rank=10, hdf5=True, lacks=KSPACE_NAMES, recognise=_is_raw, suffixes=(".mrd",))
def read_mrd(source: Source, *, dataset: str | None = None) -> Scan:
    """Read ISMRMRD raw data, Cartesian, echo-planar or along a trajectory; see `mrirecon.io.read`.

    Acquisitions are sorted by their flags and placed on the grid by their counters and echo. Several at the same
    position are averaged. The notes count those that are not used. The readout is along y, phase encoding along x, the
    second phase encoding along z. Samples of Siemens scanners are conjugated (see `mrirecon.io.readers.siemens`).
    libhdf5 reads the file in the sandbox.

    Args:
        source: the file.
        dataset: name of the group, if it is not "dataset".

    Raises:
        InputError: a header without required values (the message names them), a trajectory without coordinates,
            damaged data.
        UnsafeContentError: links out of the file, or a header with a document type.

    """
    path = source.path
    group = raw_group(source.hdf5, dataset) or dataset or "dataset"
    seconds = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    columns, facts = sandbox.call(survey, path, seconds=seconds, group=group)
    notes: list[str] = []
    values = read_header(facts["xml"], path)
    if values is None:
        raise InputError(f"the header of {path} is not well-formed XML", where=f"{group}/xml", fix="convert it again")
    table = _table(columns, path)
    attributes = sequence_values(values)
    vendor = attributes.get("vendor")
    table.ways = SIEMENS_WAYS if is_siemens(vendor) else table.ways
    table.conjugate, why = forward_transform(vendor, values.get(SEQUENCE_NAME))
    notes += [why] if why else []
    encodings = _encodings(values, path, notes)
    if encodings[0].trajectory not in _TRAJECTORIES:
        dimensions = columns["trajectory_dimensions"]

        def samples(rows: np.ndarray) -> np.ndarray:
            values = _flat(path, group, rows, table.samples[rows] * table.coils[rows])
            return np.conjugate(values) if table.conjugate else values

        return trajectory_scan(
            source,
            table,
            encodings[0],
            samples,
            lambda rows, ndim: _flat(path, group, rows, table.samples[rows] * ndim, "traj").real,
            dimensions,
            notes=notes,
            attributes=attributes,
            header=write_header(values),
        )
    return raw_scan(
        source,
        "ismrmrd",
        table,
        encodings,
        lambda plan: MrdStore(path, table, plan, group),
        notes=notes,
        attributes=attributes,
        header=write_header(values),
    )


def _table(columns: Arrays, path: Path) -> Readouts:
    flags = columns["flags"]
    if any(is_set(flags, bit).any() for bit in _COMPRESSED):
        raise InputError(f"{path} holds compressed acquisitions, which are not supported", fix="write it uncompressed")
    samples, pre, post = (columns[name] for name in ("number_of_samples", "discard_pre", "discard_post"))
    if not samples.any():
        raise _without_samples(path, len(samples))
    return Readouts(
        kind=classify(flags, _FLAGS, samples - pre - post),
        counters={name: columns[stored] for name, stored in _COUNTERS.items()},
        samples=samples,
        coils=columns["active_channels"],
        centre=columns["center_sample"],
        discard_pre=pre,
        discard_post=post,
        reversed=is_set(flags, _REVERSE),
        encoding=columns["encoding_space_ref"],
        dwell_us=columns["sample_time_us"],
        position=columns["position"],
        directions=np.stack([columns[f"{name}_dir"] for name in ("read", "phase", "slice")], axis=1),
    )


def _encodings(values: dict[str, str], path: Path, notes: list[str]) -> list[Encoding]:
    encodings = []
    names = ["encoding"]
    while any(key.startswith(f"encoding#{len(names)}/") for key in values):
        names.append(f"encoding#{len(names)}")
    for name in names:
        wanted = [
            f"{name}/{space}/{what}/{axis}"
            for space in ("encodedSpace", "reconSpace")
            for what in ("matrixSize", "fieldOfView_mm")
            for axis in "xyz"
        ]
        missing = [key for key in (*wanted, f"{name}/trajectory") if key not in values]
        if missing:
            raise InputError(
                f"the header of {path} lacks values that reconstruction needs",
                why=f"missing: {', '.join(missing)}",
                fix="convert the raw data again, with a complete header",
            )
        trajectory = values[f"{name}/trajectory"].lower()
        if trajectory == "epi":
            _refuse_ramps(
                {key: float(values.get(f"{name}/trajectoryDescription/{key}", 0)) for key in ECHO_TRAIN}, path
            )
        numbers = [float(values[key]) for key in wanted]
        sizes = [round(n) for n in (*numbers[:3], *numbers[6:9])]
        if min(sizes) < 1 or min(numbers) <= 0:
            raise InputError(f"the header of {path} states a matrix or field of view of 0", where=name)
        limits = [values.get(f"{name}/encodingLimits/kspace_encoding_step_{step}/center") for step in (1, 2)]
        line, partition = (None if text is None else round(float(text)) for text in limits)
        mode = values.get(f"{name}/parallelImaging/calibrationMode", "").lower()
        encodings.append(
            Encoding(
                matrix=(sizes[0], sizes[1], sizes[2]),
                fov_mm=(numbers[3], numbers[4], numbers[5]),
                image=(sizes[3], sizes[4], sizes[5]),
                image_fov_mm=(numbers[9], numbers[10], numbers[11]),
                line_centre=line,
                partition_centre=partition,
                embedded=mode in ("embedded", "interleaved"),
                trajectory=trajectory,
            )
        )
    if "experimentalConditions/H1resonanceFrequency_Hz" not in values:
        notes.append("the header lacks experimentalConditions/H1resonanceFrequency_Hz, which its schema requires")
    return encodings


def _refuse_ramps(train: dict[str, float], path: Path) -> None:
    """Refuse echo trains that were sampled on the ramps of the gradient, if the header describes them."""
    begin, end = train["acqDelayTime"], train["acqDelayTime"] + train["numSamples"] * train["dwellTime"]
    flat = (train["rampUpTime"], train["rampUpTime"] + train["flatTopTime"])
    if train["rampUpTime"] and train["numSamples"] and (begin < flat[0] or end > flat[1] + train["dwellTime"]):
        raise InputError(
            f"{path} was sampled on the ramps of the gradient, which is not supported",
            why=f"samples from {begin:g} to {end:g} us, and the gradient is flat from {flat[0]:g} to {flat[1]:g} us",
            fix="regrid it first, for example with Gadgetron",
        )


def survey(path: Path, group: str) -> tuple[Arrays, Facts]:
    """Read the headers of all acquisitions as columns, and the XML header; runs in the sandbox.

    Raises:
        InputError: not in the layout of ISMRMRD.
        UnsafeContentError: a link, a storage or a filter that leads out of the file.

    """
    with open_hdf5(path) as file:
        try:
            data, xml = file[f"{group}/data"].node, file[f"{group}/xml"].text()
        except KeyError:
            raise _incomplete(file, group) from None
        names = data.dtype.names or ()
        if (
            data.ndim != 1
            or not {"head", "data"} <= set(names)
            or not {*_COLUMNS, "idx"} <= set(data.dtype["head"].names or ())
        ):
            raise InputError(f"{group}/data of {path} does not hold ISMRMRD acquisitions", why=str(names))
        heads = _heads(data)
    columns: Arrays = {
        name: heads[name].astype(np.int64) for name in (*_COLUMNS, "encoding_space_ref", "trajectory_dimensions")
    }
    columns |= {name: heads["idx"][name].astype(np.int64) for name in _COUNTERS.values()}
    columns["flags"] = heads["flags"].astype(np.uint64)
    for name in ("sample_time_us", "position", "read_dir", "phase_dir", "slice_dir"):
        columns[name] = heads[name].astype(np.float64)
    return columns, {"xml": xml}


def _heads(data: h5py.Dataset) -> np.ndarray:
    """Read the headers of all acquisitions, if possible as raw chunks: libhdf5 converts only 7,000 a second."""
    kind = data.id.get_type()
    head = data.dtype["head"]
    stored = kind.get_member_type(kind.get_member_index(b"head"))
    plain = data.chunks and not data.id.get_create_plist().get_nfilters() and stored == h5py.h5t.py_create(head)
    if not plain:
        return np.asarray(data.fields("head")[:])
    offset, size, length = kind.get_member_offset(kind.get_member_index(b"head")), kind.get_size(), data.chunks[0]
    row = np.dtype({"names": ["head"], "formats": [head], "offsets": [offset], "itemsize": size})
    heads = np.zeros(data.shape[0], dtype=head)
    for first in range(0, len(heads), length):
        _, block = data.id.read_direct_chunk((first,))
        part = heads[first : first + length]
        part[:] = np.frombuffer(block, dtype=row, count=len(part))["head"]
    return heads


def acquisitions(
    path: Path, group: str, rows: list[int], sizes: list[int], name: str, out: np.ndarray
) -> tuple[Arrays, Facts]:
    """Read the samples (`data`) or coordinates (`traj`) of some acquisitions, one after another, into `out`.

    Runs in the sandbox; coordinates become the real parts of `out`.

    Raises:
        InputError: the number of samples differs from that in the header of an acquisition.

    """
    wanted = np.asarray(rows, dtype=np.int64)
    ends = np.cumsum([0, *sizes])
    order = np.argsort(wanted, kind="stable")
    with open_recognised(path) as file:
        data = file[f"{group}/data"].node.fields(name)
        for stretch in _stretches(wanted[order]):
            first = int(wanted[order[stretch[0]]])
            block = data[first : int(wanted[order[stretch[-1]]]) + 1]
            for i in order[stretch]:
                values = block[wanted[i] - first]
                values = values.view(np.complex64) if name == "data" else values
                if values.size != sizes[i]:
                    raise InputError(
                        f"acquisition {wanted[i]} of {path} is not as long as its header states",
                        why=f"{values.size} samples are stored, {sizes[i]} are declared",
                        fix="the file is damaged: copy or convert it again",
                    )
                out[ends[i] : ends[i + 1]] = values
    return {}, {}


def _stretches(rows: np.ndarray) -> list[np.ndarray]:
    """Split sorted rows into runs without long gaps, of at most `_CHUNK` rows."""
    parts = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > _GAP) + 1)
    return [part[i : i + _CHUNK] for part in parts for i in range(0, len(part), _CHUNK)]


def _incomplete(file: GuardedFile, group: str) -> InputError:
    """Return the error for a group without header or acquisitions, with a list of its contents."""
    path, exists = file.path, file.is_group(group)
    names = sorted(str(name) for name in file.node[group]) if exists else []
    held = ", ".join(names[:12]) or "nothing"
    if "xml" in names:
        return InputError(
            f"{path} is ISMRMRD without raw data: a header, and no acquisitions",
            why=f"{group!r} holds {held}, and no 'data'",
            fix="export the raw data again; if the file holds only images, it needs no reconstruction: evaluate and "
            "convert read images",
        )
    if "data" in names:
        why = f"{group!r} holds {held}, and no 'xml'"
        return InputError(f"{path} holds acquisitions without a header", why=why, fix="convert the raw data again")
    why = f"{group!r} holds {held}" if exists else f"it has no group {group!r}"
    return InputError(
        f"{path} holds no ISMRMRD raw data in {group!r}", why=why, fix="name the group that holds 'xml' and 'data'"
    )


def _without_samples(path: Path, acquisitions: int) -> InputError:
    """Return the error for a file without samples."""
    why = f"{acquisitions} acquisitions are listed, each of 0 samples" if acquisitions else "'data' is empty"
    fix = "the samples were not written, or were removed: export the raw data again"
    return InputError(f"{path} is ISMRMRD without samples", why=why, fix=fix)
