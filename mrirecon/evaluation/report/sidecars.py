"""What lies beside an image, read for a report: how it was made, as far as that names nobody and no place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrirecon.evaluation.partners import ITERATES, last_part, load_sidecar, source_of
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.text import local, parse_json

_LIMIT = 4 << 20  # bytes of a record
# Shown as they are. All else that a sidecar may hold stays out of a report: it may name a patient.
_SHOWN = ("why", "device", "lambda", "seed", "options")
_LONGEST = 1e9  # seconds
_WORDS = 300  # characters of a text from a sidecar


@dataclass(frozen=True)
class Image:
    """One file of reconstructed images, and what its sidecar says.

    Attributes:
        path: the file.
        run: name of the folder that it was found in.
        case: the scan that it was made of, by the scan's file name up to the first dot.
        method: by the sidecar, else the run's name.
        scan: the scan's file; None where that is not known.
        scan_hash: its SHA-256 when it was read.
        mask: file of the mask that undersampled it, by the sidecar.
        paths: that the sidecar names, of which a report shows the last part at most.
        seconds: of each item.
        stopped: why each item stopped.
        notes: of the reconstruction.
        settings: that a report shows.

    """

    path: Path
    run: str
    case: str
    method: str
    scan: Path | None = None
    scan_hash: str | None = None
    mask: Path | None = None
    paths: tuple[str, ...] = ()
    seconds: tuple[float, ...] = ()
    stopped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


def read_sidecar(path: Path, run: str) -> Image:
    """Return what is known of a file of images; without a sidecar, that is its name and that of its folder."""
    stem = path.name.split(".")[0]
    told, fault = load_sidecar(path)
    notes = [fault] if fault else []
    method = _text(told.get("method")) or run
    scan, digest = source_of(told)
    name = _name_of(scan)
    case = name.split(".")[0] if name else stem.removesuffix(f"_{method}")
    settings: dict[str, object] = {key: _value(told[key]) for key in _SHOWN if key in told}
    maps, model = told.get("maps"), told.get("model")
    settings["maps"] = _text(maps.get("source") if isinstance(maps, dict) else maps)
    if isinstance(model, dict):
        settings["model"] = f"{_name_of(model.get('folder'))}, SHA-256 {_text(model.get('sha256'))[:12]}"
    if isinstance(told.get("versions"), dict):
        settings["versions"] = {str(k)[:40]: _text(v) for k, v in told["versions"].items()}
    if isinstance(told.get("command"), list):
        settings["command"] = command_line(told["command"])
    notes += [_text(n) for n in _list(told.get("notes"))]
    mask = told.get("mask")
    beside = [v.get(k) for v, k in ((maps, "file"), (model, "folder")) if isinstance(v, dict)]
    return Image(
        path,
        run,
        case,
        method,
        Path(local(scan)) if isinstance(scan, str) and scan else None,
        digest if isinstance(digest, str) else None,
        Path(local(mask)) if isinstance(mask, str) and mask else None,
        tuple(p for p in (scan, mask, *beside) if isinstance(p, str) and p),
        tuple(float(s) for s in _list(told.get("seconds")) if isinstance(s, int | float) and 0 <= s < _LONGEST),
        tuple(_text(s) for s in _list(told.get("stopped", told.get("reasons")))),
        tuple(n for n in notes if n),
        {key: value for key, value in settings.items() if value not in (None, "", [], {})},
    )


def why_missing(records: Path | None, method: str, scan: str) -> str:
    """Return why a study has no image of a scan by a method."""
    default = "there is no image of this case"
    if records is None:
        return default
    path = records / method / f"{scan}.json"
    try:
        told: Any = parse_json(path.read_text(encoding="utf-8")) if path.stat().st_size < _LIMIT else {}
        error = told["error"]
        return f"{error['what']} ({error['why']})" if error.get("why") else str(error["what"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return default


def command_line(words: list[Any]) -> str:
    """Return a command as one line, its paths without their folders, which may name people and machines."""
    return " ".join(_name_of(w) if "/" in str(w) or "\\" in str(w) else _text(w) for w in words)


def without_folders(text: str, paths: Iterable[str | Path], *, names: bool = True) -> str:
    """Return a text in which paths have lost their folders, and without ``names`` their last part too."""
    for path in sorted({str(p) for p in paths}, key=len, reverse=True):
        last = _name_of(path)
        text = text.replace(path, last)
        if not names and last:
            text = text.replace(last, "a file")
    return text


def is_image(path: Path) -> bool:
    """Whether a file's name is that of images: not hidden, of a kind that is read, and not an iteration's steps."""
    name = path.name.lower()
    return not name.startswith(".") and name.endswith(suffixes("images")) and not name.split(".")[0].endswith(ITERATES)


def iterates_path(path: Path) -> Path:
    """Return where `mrirecon reconstruct --save-iterates` leaves the image of every step."""
    return path.with_name(f"{path.name.split('.')[0]}{ITERATES}.h5")


def _name_of(path: object) -> str:
    """Return the last part of a path of this system or of Windows."""
    return last_part(_text(path))


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _WORDS else text[:_WORDS] + "…"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _value(value: object, depth: int = 4) -> object:
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {str(k)[:60]: _value(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return list(dict.fromkeys(v if isinstance(v, int | float | bool) else _text(v) for v in value))
    return value if isinstance(value, int | float | bool) or value is None else _text(value)
