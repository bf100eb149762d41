"""Turn images into DICOM: one file a slice, marked as derived and for research, about nobody.

Where the slices lie is known: MR Image Storage, whose plane is mandatory. Where it is not: Secondary Capture, the
standard's own class for pictures without a plane, so that no viewer draws a left and a right that nobody knows.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrirecon import __version__
from mrirecon.errors import UsageError
from mrirecon.io.geometry import Grid
from mrirecon.io.writers.encode import Encode

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

INSTALL = "pip install 'mrirecon[formats]'"
MR, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
RESEARCH = "RESEARCH ONLY"
PLACEHOLDER = ("RESEARCH^ONLY", "MRIRECON")
_TOP = 65535
_MOST = 65535  # rows and columns are counted in 16 bits


@dataclass(frozen=True)
class Series:
    """What a series is called and what it comes from; nothing of it says whose it is.

    Args:
        description: in words, such as the method; DICOM's Series Description.
        source: SHA-256 of the k-space; images of the same scan share a study and a frame of reference.
        sequence: see `mrirecon.io.geometry.sequence`.

    """

    description: str = "image"
    source: str = ""
    sequence: Mapping[str, float] = field(default_factory=dict)


def encode_dicom(volumes: np.ndarray, grid: Grid, series: Series) -> dict[str, Encode]:
    """Return functions that write one slice each, by file name; the same bytes every time.

    Values are stored as whole numbers of 16 bits with one Rescale Slope for the series, the largest value over 65535:
    they are rounded by at most half of it (see `rounding`). Image Position is the centre of the first voxel of a
    slice, and Image Orientation the direction of rising columns, then of rising rows (PS3.3 C.7.6.2). Identifiers are
    new, of the UUID kind (PS3.5 B.2), and a function of content: the same images of the same scan are the same
    instances.

    Args:
        volumes: (volume, slice, y, x) float32, finite, not negative.
        grid: where the voxels lie.
        series: what it is called.

    Raises:
        UsageError: pydicom is not installed; more than 65535 rows or columns.

    """
    if max(volumes.shape[2:]) > _MOST:
        why = f"{max(volumes.shape[2:])} of at most {_MOST}"
        raise UsageError("DICOM cannot hold so many rows or columns", why=why, fix="write h5 or npz")
    slope = rescale_slope(float(volumes.max()))
    content = hashlib.sha256(np.ascontiguousarray(volumes, dtype="<f4").data)
    content.update(repr((volumes.shape, grid, series, __version__)).encode())
    digest = content.hexdigest()
    count = volumes.shape[0] * volumes.shape[1]
    digits, placed = max(4, len(str(count))), grid.affine is not None
    files: dict[str, Encode] = {}
    for volume, pages in enumerate(volumes):
        for number, page in enumerate(pages):
            instance = volume * len(pages) + number + 1
            where = _plane(grid, number, len(pages)) | _times(volume, len(volumes))
            identity = _identity(series, digest, instance, placed)
            name = f"slice-{instance:0{digits}d}.dcm"
            files[name] = _encode(page, slope, where, identity, series, placed)
    return files


def rescale_slope(largest: float) -> float:
    """Return the step of stored values, rounded up to what DICOM's 16 characters can say; 1 for an empty image."""
    try:
        from pydicom.valuerep import format_number_as_ds
    except ImportError:
        raise UsageError("DICOM files are written by pydicom, which is not installed", fix=INSTALL) from None
    if largest <= 0:
        return 1.0
    slope = largest / _TOP
    said = float(format_number_as_ds(slope))
    return said if said * _TOP >= largest * (1 - 1e-7) else float(format_number_as_ds(slope * (1 + 1e-9)))


def rounding(largest: float) -> str:
    """Say what 16 bits lose of values up to `largest`."""
    half = rescale_slope(largest) / 2
    return f"DICOM holds 16 bits a voxel: values are rounded by at most {half:.3g} (the largest over 131070)"


def _encode(
    page: np.ndarray,
    slope: float,
    where: Mapping[str, object],
    identity: Mapping[str, object],
    series: Series,
    placed: bool,
) -> Encode:
    stored = np.minimum(np.rint(page.astype(np.float64) / slope), _TOP).astype("<u2")

    def encode(path: Path) -> None:
        from pydicom import config
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import UID, ExplicitVRLittleEndian

        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.ImplementationClassUID = UID(_uid("mrirecon"))
        dataset.file_meta.ImplementationVersionName = f"MRIRECON_{__version__}"[:16]
        before = config.settings.writing_validation_mode
        config.settings.writing_validation_mode = config.RAISE
        try:
            _fill(dataset, _common(stored.shape, slope, series) | (_MR_ONLY if placed else _CAPTURE_ONLY))
            _fill(dataset, {**where, **identity, "SOPClassUID": MR if placed else SECONDARY_CAPTURE})
            if placed:
                _fill(dataset, series.sequence)
            dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
            dataset.save_as(path, enforce_file_format=True)
        finally:
            config.settings.writing_validation_mode = before

    return encode


_MR_ONLY: dict[str, object] = {
    # How it was excited is not known here: research mode, the standard's word for anything else.
    **{"Modality": "MR", "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": ""},
    **{"MRAcquisitionType": "", "EchoTime": None, "EchoTrainLength": None, "RepetitionTime": None},
    **{"PatientPosition": "", "PositionReferenceIndicator": "", "Laterality": ""},
}
_CAPTURE_ONLY: dict[str, object] = {
    "Modality": "MR",
    "ConversionType": "WSD",
    "PatientOrientation": "",
    "Laterality": "",
}


def _common(shape: tuple[int, ...], slope: float, series: Series) -> dict[str, object]:
    largest = slope * _TOP
    text = f"{RESEARCH}: not a medical device, not for diagnosis. Reconstructed by mrirecon {__version__}."
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        **{"PatientName": PLACEHOLDER[0], "PatientID": PLACEHOLDER[1], "PatientBirthDate": "", "PatientSex": ""},
        **{"PatientIdentityRemoved": "YES", "DeidentificationMethod": "identity was never read"},
        **{"StudyDate": "", "StudyTime": "", "StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": ""},
        **{"SeriesNumber": 1, "AcquisitionNumber": None, "Manufacturer": "mrirecon", "SoftwareVersions": __version__},
        "SeriesDescription": f"{RESEARCH}: {_ascii(series.description)}"[:64],
        "ImageComments": text,
        "DerivationDescription": f"Reconstructed from k-space: {_ascii(series.description)}"[:1024],
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"Rows": shape[0], "Columns": shape[1], "PixelRepresentation": 0},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        **{"RescaleSlope": slope, "RescaleIntercept": 0, "RescaleType": "US"},
        # LINEAR wants windows of at least 1, and magnitudes may be far below.
        **{"WindowCenter": largest / 2, "WindowWidth": largest, "VOILUTFunction": "LINEAR_EXACT"},
        "BurnedInAnnotation": "NO",
    }


def _plane(grid: Grid, number: int, slices: int) -> dict[str, object]:
    """Return what is known of the plane of a slice."""
    found: dict[str, object] = {}
    matrix = grid.matrix
    if matrix is not None:
        axes = matrix[:3, :2] / np.linalg.norm(matrix[:3, :2], axis=0)
        found["ImageOrientationPatient"] = [*axes[:, 0], *axes[:, 1]]
        found["ImagePositionPatient"] = list(matrix[:3, 3] + number * matrix[:3, 2])
        found["SliceThickness"] = grid.thickness
        if slices > 1:
            found["SpacingBetweenSlices"] = grid.spacing[0]
    if None not in grid.spacing[1:]:
        found["PixelSpacing"] = list(grid.spacing[1:])  # between rows first, then between columns
    return found


def _times(volume: int, volumes: int) -> dict[str, object]:
    if volumes == 1:
        return {}
    return {"TemporalPositionIdentifier": volume + 1, "NumberOfTemporalPositions": volumes}


def _identity(series: Series, digest: str, instance: int, placed: bool) -> dict[str, object]:
    scan = series.source or digest
    return {
        "StudyInstanceUID": _uid("study", scan),
        "SeriesInstanceUID": _uid("series", digest),
        "SOPInstanceUID": _uid("instance", digest, str(instance)),
        "InstanceNumber": instance,
        **({"FrameOfReferenceUID": _uid("frame", scan)} if placed else {}),
    }


def _uid(*parts: str) -> str:
    """Return an identifier of the kind 2.25.UUID, from what it names."""
    named = hashlib.sha256("/".join(("mrirecon", *parts)).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=named, version=5).int}"


def _ascii(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c != "\\" else "_" for c in text)


def _fill(dataset: Dataset, values: Mapping[str, object]) -> None:
    from pydicom.valuerep import format_number_as_ds

    def said(value: object) -> object:
        return format_number_as_ds(float(value)) if isinstance(value, float) else value

    for name, value in values.items():
        setattr(dataset, name, [said(v) for v in value] if isinstance(value, list) else said(value))
