"""Recognise files of Bruker's ParaVision, which are not read, and say how to convert them."""

from __future__ import annotations

from pathlib import Path

from mrirecon.errors import InputError

# Raw data, older raw data of several scans, raw data of ParaVision 360, images.
_SAMPLES = ("fid", "ser", "rawdata.job0", "2dseq")
_PARAMETERS = ("acqp", "method", "visu_pars", "reco")
JCAMP = b"##TITLE="
_MOST = 200  # entries of a folder that are examined, for a study


def bruker(path: Path) -> InputError | None:
    """Return the error for a file or folder of a ParaVision scan, or of a study of several; None for any other.

    Such files have no signature: the parameter files beside them, which are text in JCAMP-DX, identify them.
    """
    scans = _scans(path)
    if not scans:
        return None
    scan = scans[0]
    samples = next((name for name in _SAMPLES if (scan / name).is_file()), "fid")
    data = str(scan / samples)
    several = f"; it holds {len(scans)} scans" if len(scans) > 1 else ""
    return InputError(
        f"{path} is of a Bruker ParaVision scan, which is not read",
        why=f"{', '.join(name for name in _PARAMETERS if (scan / name).is_file())} lie in {scan}{several}",
        fix=f"store its k-space as an array: with the Python package brukerapi, Dataset({data!r}).kspace; "
        "then numpy.savez('scan.npz', kspace=..., axes='coil,y,x'), with the names of its axes in their order",
    )


def _scans(path: Path) -> list[Path]:
    """Return the folders of the scan that `path` is or belongs to, or of the scans in the study that it is."""
    try:
        if not path.is_dir():
            known = path.name in (*_SAMPLES, *_PARAMETERS) or path.name.startswith("rawdata.job")
            return [path.parent] if known and _is_scan(path.parent) else []
        if _is_scan(path):
            return [path]
        entries = sorted(
            entry for _, entry in zip(range(_MOST), path.iterdir(), strict=False) if entry.name.isdecimal()
        )
        return [entry for entry in entries if _is_scan(entry)]
    except OSError:
        return []


def _is_scan(folder: Path) -> bool:
    return any(_is_jcamp(folder / name) for name in _PARAMETERS)


def _is_jcamp(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(JCAMP)) == JCAMP
