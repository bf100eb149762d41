"""Recognise files of Bruker's ParaVision, which are not supported, and state how to convert them."""

from __future__ import annotations

from pathlib import Path

from mrirecon.errors import InputError

# Current raw data, older raw data, raw data of ParaVision 360, images.
_SAMPLES = ("fid", "ser", "rawdata.job0", "2dseq")
_PARAMETERS = ("acqp", "method", "visu_pars", "reco")
JCAMP = b"##TITLE="
_MOST = 200  # largest number of entries of a study's folder to examine


def bruker(path: Path) -> InputError | None:
    """Return the error for a file or folder of a ParaVision scan or study; None for any other.

    Such files have no signature. The parameter files in the same folder (JCAMP-DX text) identify them.
    """
    scans = _scans(path)
    if not scans:
        return None
    scan = scans[0]
    samples = next((name for name in _SAMPLES if (scan / name).is_file()), "fid")
    data = str(scan / samples)
    several = f"; it holds {len(scans)} scans" if len(scans) > 1 else ""
    return InputError(
        f"{path} belongs to a Bruker ParaVision scan, which is not supported",
        why=f"{', '.join(name for name in _PARAMETERS if (scan / name).is_file())} are in {scan}{several}",
        fix=f"store its k-space as an array: with the Python package brukerapi, Dataset({data!r}).kspace; "
        "then numpy.savez('scan.npz', kspace=..., axes='coil,y,x'), with the names of its axes in their order",
    )


def _scans(path: Path) -> list[Path]:
    """Return the folder of the scan that `path` belongs to, or the folders of all scans if `path` is a study."""
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
