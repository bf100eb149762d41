"""Identify files from their bytes, never only from their names; those of Bruker from the other files in the folder."""

from __future__ import annotations

import difflib
import stat
from pathlib import Path

from mrirecon.errors import InputError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MATLAB_5 = b"MATLAB 5.0"
MAX_USER_BLOCK = 1 << 20

# Current raw data, older raw data, raw data of ParaVision 360, images.
_BRUKER_SAMPLES = ("fid", "ser", "rawdata.job0", "2dseq")
_BRUKER_PARAMETERS = ("acqp", "method", "visu_pars", "reco")
_JCAMP = b"##TITLE="
_STUDY_LIMIT = 200  # largest number of entries of a study's folder to examine

_LOOKS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: the data were not downloaded"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x89PNG", "a PNG image"),
    (b"%PDF", "a PDF document"),
    (MATLAB_5, "a MATLAB v5 file"),
    (_JCAMP, "a parameter file of a Bruker scan (JCAMP-DX)"),
    (b"\x80\x02", "a Python pickle, which is not opened for safety"),
    (b"\x80\x04", "a Python pickle, which is not opened for safety"),
    (b"# Dimensions", "a BART header; it needs the suffix .hdr, and its .cfl file in the same folder"),
)


def regular_file(path: str | Path) -> Path:
    """Return `path` if it is a readable, non-empty, ordinary file (or a symbolic link to one).

    Devices and pipes are refused before they are opened, since opening one can block for ever.

    Raises:
        InputError: missing (the nearest name in the folder is suggested), a folder, not an ordinary file, empty.

    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", fix=_suggestion(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be opened", why=str(error), fix="check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise bruker_error(path) or InputError(f"{path} is a folder", fix="name the file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not an ordinary file", fix="copy the data to a file first")
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)", fix="copy or download it again")
    return path


def cfl_pair(path: str | Path) -> tuple[Path, Path]:
    """Return the header and data paths of a BART array named as `name`, `name.cfl` or `name.hdr`."""
    path = Path(path)
    base = str(path.with_suffix("")) if path.suffix in (".cfl", ".hdr") else str(path)
    return Path(base + ".hdr"), Path(base + ".cfl")


def read_head(path: Path, size: int = 1024, offset: int = 0) -> bytes:
    """Return `size` bytes of a file, from `offset` on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=str(error), fix="check the permissions of the file") from None


def has_hdf5_signature(path: Path) -> bool:
    """Return whether the HDF5 signature is at byte 0, 512, 1024, 2048, ... (a user block may precede it)."""
    offset = 0
    while offset <= MAX_USER_BLOCK and (head := read_head(path, len(HDF5_SIGNATURE), offset)):
        if head == HDF5_SIGNATURE:
            return True
        offset = max(512, 2 * offset)
    return False


def unreadable(path: Path, wanted: str) -> InputError:
    """Return the error for a file of another type, with its size and its probable type or vendor."""
    head = read_head(path)
    fix = "download or export it again, or convert it to HDF5, npz or cfl"
    if head.startswith(MATLAB_5):
        fix = "in MATLAB, save(name, 'kspace', '-v7.3'); in Python, scipy.io.loadmat, then numpy.savez"
    if is_nifti_header(head, analyze=False) or path.name.lower().endswith(".nii.gz") or head[128:132] == b"DICM":
        fix = "it holds images: `mrirecon evaluate` and `convert` read them, and reconstruction takes k-space"
    why = f"{path.stat().st_size} bytes that look like {looks_like(head)}"
    return bruker_error(path) or InputError(f"{path} is not {wanted}", why=why, fix=fix)


def bruker_error(path: Path) -> InputError | None:
    """Return the error for a file or folder of a ParaVision scan or study; None for any other.

    Such files have no signature. The parameter files in the same folder (JCAMP-DX text) identify them.
    """
    scans = _bruker_scans(path)
    if not scans:
        return None
    scan = scans[0]
    samples = next((name for name in _BRUKER_SAMPLES if (scan / name).is_file()), "fid")
    data = str(scan / samples)
    several = f"; it holds {len(scans)} scans" if len(scans) > 1 else ""
    return InputError(
        f"{path} belongs to a Bruker ParaVision scan, which is not supported",
        why=f"{', '.join(name for name in _BRUKER_PARAMETERS if (scan / name).is_file())} are in {scan}{several}",
        fix=f"store its k-space as an array: with the Python package brukerapi, Dataset({data!r}).kspace; "
        "then numpy.savez('scan.npz', kspace=..., axes='coil,y,x'), with the names of its axes in their order",
    )


def _bruker_scans(path: Path) -> list[Path]:
    """Return the folder of the scan that `path` belongs to, or the folders of all scans if `path` is a study."""
    try:
        if not path.is_dir():
            known = path.name in (*_BRUKER_SAMPLES, *_BRUKER_PARAMETERS) or path.name.startswith("rawdata.job")
            return [path.parent] if known and _is_bruker_scan(path.parent) else []
        if _is_bruker_scan(path):
            return [path]
        entries = sorted(
            entry for _, entry in zip(range(_STUDY_LIMIT), path.iterdir(), strict=False) if entry.name.isdecimal()
        )
        return [entry for entry in entries if _is_bruker_scan(entry)]
    except OSError:
        return []


def _is_bruker_scan(folder: Path) -> bool:
    return any(_is_jcamp(folder / name) for name in _BRUKER_PARAMETERS)


def _is_jcamp(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_JCAMP)) == _JCAMP


def is_nifti_header(head: bytes, *, analyze: bool = True) -> bool:
    """Return whether the first 352 bytes of a file are a header of NIfTI (or of ANALYZE 7.5, its predecessor)."""
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return True
    return analyze and len(head) >= 348 and 348 in (int.from_bytes(head[:4], order) for order in ("little", "big"))


def looks_like(head: bytes) -> str:
    """Describe the probable type of a file from its first bytes."""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    page = text.startswith(("<!doctype html", "<html")) or "<head>" in text
    printable = bool(text) and all((c.isprintable() or c.isspace()) and c != "\ufffd" for c in text)
    looks = (
        (head[128:132] == b"DICM", "a DICOM file"),
        (is_nifti_header(head, analyze=False), "a NIfTI image"),
        (is_nifti_header(head), "an image of ANALYZE 7.5"),
        *((head.startswith(signature), words) for signature, words in _LOOKS),
        (not head.strip(b"\0"), "nothing but zeros"),
        (page, "a web page (often a login or error page saved instead of the data)"),
        (text.startswith("<"), "XML text"),
        (text.startswith(("{", "[")), "JSON text"),
        (printable, "plain text"),
    )
    return next((words for applies, words in looks if applies), "unknown binary data")


def _suggestion(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"check the path: the folder {path.parent} cannot be listed"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"
