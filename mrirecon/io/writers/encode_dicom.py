"""Write images as DICOM: one file per slice, marked as derived and for research, without data about the patient.

With a known position, slices are MR Image Storage, for which the standard requires an image plane. Otherwise they are
Secondary Capture, the class for images without a plane, so that no viewer displays a left and a right.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrirecon import __version__
from mrirecon.errors import UsageError
from mrirecon.io.geometry import Grid

if TYPE_CHECKING:
    from mrirecon.io.writers.write import Encode

INSTALL = "pip install 'mrirecon[formats]'"
MR, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
RESEARCH = "RESEARCH ONLY"
PLACEHOLDER = ("RESEARCH^ONLY", "MRIRECON")
_TOP = 65535  # largest stored value, and largest number of rows or columns: both have 16 bits
_MR_ONLY: dict[str, object] = {
    # The type of excitation is not known, so the sequence is "RM", research mode.
    **{"Modality": "MR", "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": ""},
    **{"MRAcquisitionType": "", "EchoTime": None, "EchoTrainLength": None, "RepetitionTime": None},
    **{"PatientPosition": "", "PositionReferenceIndicator": "", "Laterality": "", "SOPClassUID": MR},
}
_CAPTURE_ONLY: dict[str, object] = {
    **{"Modality": "MR", "ConversionType": "WSD", "PatientOrientation": "", "Laterality": ""},
    "SOPClassUID": SECONDARY_CAPTURE,
}


@dataclass(frozen=True)
class Series:
    """Hold description and source of a series, which cannot identify a person.

    Args:
        description: DICOM's Series Description, such as the method.
        source: SHA-256 of the k-space; images of the same scan share a study and a frame of reference.
        sequence: see `mrirecon.io.geometry.sequence`.

    """

    description: str = "image"
    source: str = ""
    sequence: Mapping[str, float] = field(default_factory=dict)


def encode_dicom(volumes: np.ndarray, grid: Grid, series: Series) -> dict[str, Encode]:
    """Return functions by file name that write one slice each, always with the same bytes.

    Values are stored as whole numbers of 16 bits with one Rescale Slope for the series, the largest value over 65535:
    the rounding error is at most half the slope (see `rounding`). Image Position is the centre of the first voxel of a
    slice, Image Orientation the direction of increasing columns, then of increasing rows (PS3.3 C.7.6.2). Identifiers
    are new UUIDs (PS3.5 B.2) and a function of content: the same images of the same scan are the same instances.

    Args:
        volumes: (volume, slice, y, x) float32, finite, not negative.
        grid: position of the voxels.
        series: description of the series.

    Raises:
        UsageError: more than 65535 rows or columns.

    """
    count, slices, *shape = volumes.shape
    if max(shape) > _TOP:
        why = f"{max(shape)} of at most {_TOP}"
        raise UsageError("the image is too large for DICOM", why=why, fix="write h5 or npz")
    slope = rescale_slope(float(volumes.max()))
    content = hashlib.sha256(np.ascontiguousarray(volumes, dtype="<f4").data)
    content.update(repr((volumes.shape, grid, series, __version__)).encode())
    digest = content.hexdigest()
    scan = series.source or digest
    shared = _common(shape[0], shape[1], slope, series)
    shared |= {"StudyInstanceUID": _uid("study", scan), "SeriesInstanceUID": _uid("series", digest)}
    if grid.affine is None:
        shared |= _CAPTURE_ONLY
    else:
        shared |= {**_MR_ONLY, **series.sequence, "FrameOfReferenceUID": _uid("frame", scan)}
    digits = max(4, len(str(count * slices)))
    files: dict[str, Encode] = {}
    for number, page in enumerate(volumes.reshape(-1, *shape), start=1):
        values = {**shared, "SOPInstanceUID": _uid("instance", digest, str(number)), "InstanceNumber": number}
        values |= _plane(grid, (number - 1) % slices, slices)
        if count > 1:
            values["TemporalPositionIdentifier"] = (number - 1) // slices + 1
            values["NumberOfTemporalPositions"] = count
        files[f"slice-{number:0{digits}d}.dcm"] = partial(_write, page=page, slope=slope, values=values)
    return files


def rescale_slope(largest: float) -> float:
    """Return the step of stored values, rounded up to a number of DICOM's 16 characters; 1 for an empty image."""
    from pydicom.valuerep import format_number_as_ds

    if largest <= 0:
        return 1.0
    slope = largest / _TOP
    rounded = float(format_number_as_ds(slope))
    return rounded if rounded * _TOP >= largest * (1 - 1e-7) else float(format_number_as_ds(slope * (1 + 1e-9)))


def rounding(largest: float) -> str:
    """Return a note on the rounding of values up to `largest` to 16 bits."""
    half = rescale_slope(largest) / 2
    return f"DICOM holds 16 bits a voxel: values are rounded by at most {half:.3g} (the largest over 131070)"


def _write(path: Path, page: np.ndarray, slope: float, values: Mapping[str, object]) -> None:
    from pydicom import config
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian
    from pydicom.valuerep import format_number_as_ds

    def text(value: object) -> object:
        return format_number_as_ds(float(value)) if isinstance(value, float) else value

    stored = np.minimum(np.rint(page.astype(np.float64) / slope), _TOP).astype("<u2")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(_uid("mrirecon"))
    dataset.file_meta.ImplementationVersionName = f"MRIRECON_{__version__}"[:16]
    previous = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.RAISE
    try:
        for name, value in values.items():
            setattr(dataset, name, [text(v) for v in value] if isinstance(value, list) else text(value))
        dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
        dataset.save_as(path, enforce_file_format=True)
    finally:
        config.settings.writing_validation_mode = previous


def _common(rows: int, columns: int, slope: float, series: Series) -> dict[str, object]:
    largest = slope * _TOP
    description = "".join(c if c.isascii() and c.isprintable() and c != "\\" else "_" for c in series.description)
    text = f"{RESEARCH}: not a medical device, not for diagnosis. Reconstructed by mrirecon {__version__}."
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        **{"PatientName": PLACEHOLDER[0], "PatientID": PLACEHOLDER[1], "PatientBirthDate": "", "PatientSex": ""},
        **{"PatientIdentityRemoved": "YES", "DeidentificationMethod": "identity was never read"},
        **{"StudyDate": "", "StudyTime": "", "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": ""},
        **{"SeriesNumber": 1, "AcquisitionNumber": None, "Manufacturer": "mrirecon", "SoftwareVersions": __version__},
        "SeriesDescription": f"{RESEARCH}: {description}"[:64],
        "ImageComments": text,
        "DerivationDescription": f"Reconstructed from k-space: {description}"[:1024],
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"Rows": rows, "Columns": columns, "PixelRepresentation": 0},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        **{"RescaleSlope": slope, "RescaleIntercept": 0, "RescaleType": "US"},
        # LINEAR requires a window width of at least 1, but magnitudes may be much smaller.
        **{"WindowCenter": largest / 2, "WindowWidth": largest, "VOILUTFunction": "LINEAR_EXACT"},
        "BurnedInAnnotation": "NO",
    }


def _plane(grid: Grid, number: int, slices: int) -> dict[str, object]:
    """Return the known values of the image plane of a slice."""
    values: dict[str, object] = {}
    matrix = grid.matrix
    if matrix is not None:
        axes = matrix[:3, :2] / np.linalg.norm(matrix[:3, :2], axis=0)
        values["ImageOrientationPatient"] = [*axes[:, 0], *axes[:, 1]]
        values["ImagePositionPatient"] = list(matrix[:3, 3] + number * matrix[:3, 2])
        values["SliceThickness"] = grid.thickness
        if slices > 1:
            values["SpacingBetweenSlices"] = grid.spacing[0]
    if None not in grid.spacing[1:]:
        values["PixelSpacing"] = list(grid.spacing[1:])  # spacing between rows, then between columns
    return values


def _uid(*parts: str) -> str:
    """Return an identifier 2.25.UUID, a hash of the content."""
    digest = hashlib.sha256("/".join(("mrirecon", *parts)).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"
