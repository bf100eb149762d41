"""Write a Cartesian scan as ISMRMRD raw data (MRD version 1), one acquisition per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.io.geometry import grid_of, sequence
from mrirecon.io.readers.siemens import forward_transform
from mrirecon.io.scan import Scan

if TYPE_CHECKING:
    from mrirecon.io.writers.write import Encode

_PROTON = 42.577478518e6  # Hz/T, CODATA 2018
_COUNTER = {"echo": "contrast", **{name: name for name in ("slice", "repetition", "set", "phase")}}
_MOST = 65535
_UNKNOWN = 1.0  # mm per voxel


def encode_mrd(scan: Scan, notes: list[str]) -> Encode:
    """Return a function that writes a scan as ISMRMRD; add notes on data that the format cannot hold.

    The readout is the axis in the geometry of the scan, else y, as in fastMRI's layout. Lines that were not measured
    are left out. A readout extends from its first to its last measured sample; if this range does not include the
    centre, it is extended to it with zeros. The header states the centre of k-space as n // 2, and positions and
    directions if the scan has them, else 0. If the vendor is Siemens, samples are conjugated, as readers of Siemens
    data expect (see `mrirecon.io.readers.siemens`); the name of the sequence is not written.

    Args:
        scan: any Cartesian scan.
        notes: list to which notes are added.

    Raises:
        UsageError: readouts with gaps; loops or sizes without a counter in ISMRMRD.

    """
    import ismrmrd

    others = [name for name in scan.layout.loops if name not in _COUNTER and scan.shape[name] > 1]
    if others or max(scan.shape.values()) > _MOST:
        why = f"axes {', '.join(others)}" if others else f"{max(scan.shape.values())} along one axis"
        raise UsageError("ISMRMRD has no counter for these data", where=str(scan.path), why=why, fix="write h5")
    notes += _losses(scan)
    header = _header(scan)

    def encode(path: Path) -> None:
        with ismrmrd.File(str(path), "w") as file:
            file["dataset"].header = header
            file["dataset"].acquisitions = list(_acquisitions(scan))

    return encode


def _losses(scan: Scan) -> list[str]:
    missing = [name for name in ("maps", "reference", "calibration") if getattr(scan.roles, name) is not None]
    unplaced, unsized = scan.geometry is None, scan.geometry is None and None in _sizes(scan)
    losses = (
        (bool(missing), f"ISMRMRD cannot hold {', '.join(missing)}; not written"),
        (scan.has_mask, "only lines of the mask are written; samples outside the mask are left out"),
        (unplaced, "the position of the scan is not known: positions and directions are 0"),
        (unsized, "the voxel size is not known, but the header must state one: it states 1 mm"),
        (
            _conjugated(scan),
            "the header states Siemens as the vendor, so k-space is conjugated in the file, as in Siemens data",
        ),
        (
            "field_strength_t" not in scan.attributes,
            "the field strength is not known: the header states a resonance frequency of 0",
        ),
    )
    return [note for applies, note in losses if applies]


def _conjugated(scan: Scan) -> bool:
    """Return whether readers will conjugate the file: they decide by the vendor, since no sequence name is written."""
    return forward_transform(scan.attributes.get("vendor"), None)[0]


def _order(scan: Scan) -> list[int]:
    """Return the axes of `Scan.space` as readout, first and, in 3D, second phase encoding."""
    axes = scan.geometry.axes if scan.geometry is not None else ("y", "x", "z")
    return [scan.space.index(axis) for axis in axes if axis in scan.space]


def _sizes(scan: Scan) -> tuple[float | None, ...]:
    """Return the voxel sizes along readout, first and second phase encoding, for a scan without geometry."""
    grid = grid_of(scan, scan.space_shape)[0]
    through, y, x = grid.spacing
    return y, x, through if len(scan.space) == 3 else grid.thickness


def _header(scan: Scan) -> Any:
    from ismrmrd import xsd

    lengths = [scan.space_shape[i] for i in _order(scan)]
    lengths += [1] * (3 - len(lengths))
    if scan.geometry is not None:
        fov = scan.geometry.fov_mm
    else:
        first, second, third = (n * (size or _UNKNOWN) for n, size in zip(lengths, _sizes(scan), strict=True))
        fov = (first, second, third)
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(**dict(zip("xyz", lengths, strict=True))),
        fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", map(float, fov), strict=True))),
    )
    steps = {f"kspace_encoding_step_{i}": (lengths[i], lengths[i] // 2) for i in (1, 2)}
    steps |= {_COUNTER[name]: (scan.shape[name], 0) for name in scan.layout.loops if name in _COUNTER}
    limits = {name: xsd.limitType(minimum=0, maximum=n - 1, center=centre) for name, (n, centre) in steps.items()}
    known = sequence(scan.attributes, {name: scan.shape[name] for name in scan.layout.loops})
    field = known.get("MagneticFieldStrength")
    vendor, model = (scan.attributes.get(name) for name in ("vendor", "model"))
    times = {"TR": "RepetitionTime", "TE": "EchoTime", "TI": "InversionTime", "flipAngle_deg": "FlipAngle"}
    return xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(
            H1resonanceFrequency_Hz=round(_PROTON * field) if field else 0
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor=None if vendor is None else str(vendor),
            systemModel=None if model is None else str(model),
            systemFieldStrength_T=field,
            receiverChannels=scan.coils,
        ),
        encoding=[
            xsd.encodingType(
                encodedSpace=space,
                reconSpace=space,
                encodingLimits=xsd.encodingLimitsType(**limits),
                trajectory=xsd.trajectoryType.CARTESIAN,
            )
        ],
        sequenceParameters=xsd.sequenceParametersType(
            **{name: [known[keyword]] for name, keyword in times.items() if keyword in known}
        ),
    )


def _acquisitions(scan: Scan) -> Iterator[Any]:
    import ismrmrd

    if scan.noise is not None:
        noise = _acquisition(scan, scan.noise, "noise_dwell_us", {})
        noise.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        yield noise
    order = _order(scan)
    for item, loops in enumerate(scan.items):
        if scan.is_empty(item):
            continue  # without signal, no readout was measured
        # (coil, readout, phase[, partition]) and (readout, ...)
        kspace, mask = scan.kspace(item).transpose(0, *(i + 1 for i in order)), scan.mask(item).transpose(order)
        lines = np.argwhere(mask.any(axis=0))
        for number, line in enumerate(lines):
            measured = np.flatnonzero(mask[(slice(None), *line)])
            first, last = int(measured[0]), int(measured[-1]) + 1
            if len(measured) < last - first and scan.has_mask:
                raise UsageError(
                    "readouts with gaps cannot be written as ISMRMRD",
                    where=scan.where(item),
                    why=f"{len(measured)} of {last - first} samples of a readout along {scan.space[order[0]]}",
                    fix="write h5, npz or cfl",
                )
            # The readout must contain the centre, but not at index 0, which means "not stated".
            centre = len(mask) // 2
            first, last = min(first, max(0, centre - 1)), max(last, centre + 1)
            readout = _acquisition(scan, kspace[(slice(None), slice(first, last), *line)], "dwell_us", loops)
            readout.center_sample = centre - first
            readout.idx.kspace_encode_step_1 = int(line[0])
            readout.idx.kspace_encode_step_2 = int(line[1]) if len(line) > 1 else 0
            if number == 0:
                readout.setFlag(ismrmrd.ACQ_FIRST_IN_SLICE)
            if number == len(lines) - 1:
                readout.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
                if item == len(scan) - 1:
                    readout.setFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
            yield readout


def _acquisition(scan: Scan, data: np.ndarray, dwell: str, loops: dict[str, int]) -> Any:
    import ismrmrd

    values = np.ascontiguousarray(data, dtype=np.complex64)
    readout = ismrmrd.Acquisition.from_array(np.conj(values) if _conjugated(scan) else values)
    stated = scan.attributes.get(dwell)
    readout.sample_time_us = float(stated) if isinstance(stated, int | float) else 0.0
    for name, index in loops.items():
        if name in _COUNTER:
            setattr(readout.idx, _COUNTER[name], index)
    geometry = scan.geometry
    if geometry is not None:
        number = loops.get("slice", 0)
        stated_slice = number < len(geometry.slices_mm)
        readout.position[:] = geometry.slices_mm[number] if stated_slice else geometry.position_mm
        readout.read_dir[:], readout.phase_dir[:] = geometry.read, geometry.phase
        readout.slice_dir[:] = geometry.slice
    return readout
