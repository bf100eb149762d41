"""Write ISMRMRD files with the package ismrmrd for the tests of the reader."""

from __future__ import annotations

from pathlib import Path

import h5py
import ismrmrd
import numpy as np

NOISE, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE, NAVIGATOR, PHASE_CORRECTION, LAST, DUMMY = (
    *(19, 20, 21, 22, 23, 24, 25, 27),
)
PERSON = (
    "<subjectInformation><patientName>DOE^JANE</patientName><patientID>SECRET-1</patientID>"
    "<patientBirthdate>1999-12-31</patientBirthdate></subjectInformation>"
)


def space(name: str, matrix, fov) -> str:
    numbers = "".join(f"<{axis}>{n}</{axis}>" for axis, n in zip("xyz", matrix, strict=True))
    lengths = "".join(f"<{axis}>{n}</{axis}>" for axis, n in zip("xyz", fov, strict=True))
    return f"<{name}><matrixSize>{numbers}</matrixSize><fieldOfView_mm>{lengths}</fieldOfView_mm></{name}>"


def encoding(
    matrix, image=None, fov=(200, 160, 5), image_fov=None, centre=None, trajectory="cartesian", mode=None
) -> str:
    """Return an <encoding>; matrix and field of view along readout, lines and partitions."""
    image, image_fov = image or matrix, image_fov or fov
    limits = ""
    if centre is not None:
        for step, (c, size) in enumerate(zip(centre, matrix[1:], strict=True), start=1):
            name = f"kspace_encoding_step_{step}"
            limits += f"<{name}><minimum>0</minimum><maximum>{size - 1}</maximum><center>{c}</center></{name}>"
        limits = f"<encodingLimits>{limits}</encodingLimits>"
    parallel = f"<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging>" if mode else ""
    spaces = space("encodedSpace", matrix, fov) + space("reconSpace", image, image_fov)
    return f"<encoding>{spaces}{limits}<trajectory>{trajectory}</trajectory>{parallel}</encoding>"


def header(*encodings: str) -> str:
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"{PERSON}<experimentalConditions><H1resonanceFrequency_Hz>123000000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions>{''.join(encodings)}<sequenceParameters><TR>30</TR></sequenceParameters>"
        "</ismrmrdHeader>"
    )


def acquisition(data, line=0, *flags: int, centre=None, partition=0, before=0, behind=0, reference=0, **counters):
    """Return an acquisition of data (coil, sample) as measured."""
    data = np.ascontiguousarray(data, dtype=np.complex64)
    made = ismrmrd.Acquisition.from_array(
        data,
        center_sample=data.shape[1] // 2 if centre is None else centre,
        discard_pre=before,
        discard_post=behind,
        encoding_space_ref=reference,
        sample_time_us=5.0,
    )
    made.idx.kspace_encode_step_1, made.idx.kspace_encode_step_2 = line, partition
    for name, value in counters.items():
        setattr(made.idx, name, value)
    for flag in flags:
        made.setFlag(flag)
    made.read_dir[:], made.phase_dir[:], made.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    made.position[:] = (1, 2, 3 + 6 * counters.get("slice", 0))
    return made


def write(path: Path, acquisitions, text: str) -> Path:
    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].acquisitions = acquisitions
    with h5py.File(path, "a") as file:
        file.create_dataset("dataset/xml", (1,), h5py.special_dtype(vlen=bytes))[0] = text.encode()
    return path


def lines(kspace, *flags: int, order=None, **counters):
    """Return one acquisition for each line of kspace (coil, readout, line)."""
    order = range(kspace.shape[-1]) if order is None else order
    return [acquisition(kspace[..., i], i, *flags, **counters) for i in order]
