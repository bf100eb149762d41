"""Read the sidecar of an image for a report: how it was made, without what names people and places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrirecon.evaluation.pairing import ITERATES, last_part, load_sidecar, source_of
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.text import local

# Shown as they are. All else that a sidecar may hold stays out of a report: it may name a patient.
_SHOWN = ("why", "device", "lambda", "seed", "options")
_LONGEST = 1e9  # seconds
_WORDS = 300  # characters of a text from a sidecar


@dataclass(frozen=True)
class Image:
    """One file of reconstructed images, and what its sidecar says.

    Attributes:
        path: the file.
        run: name of its folder.
        case: the scan that it was made of, by the scan's file name up to the first dot.
        method: by the sidecar, else the run's name.
        scan: the scan's file; None where that is not known.
        scan_hash: its SHA-256 when it was read.
        mask: file of the mask that undersampled it, by the sidecar.
        paths: named by the sidecar; a report shows their last part at most.
        seconds: of each item.
        stopped: why each item stopped.
        notes: of the reconstruction.
        settings: shown in a report.

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
    sidecar, fault = load_sidecar(path)
    method = _text(sidecar.get("method")) or run
    scan, digest = source_of(sidecar)
    maps, model, mask = sidecar.get("maps"), sidecar.get("model"), sidecar.get("mask")
    settings: dict[str, object] = {key: _value(sidecar[key]) for key in _SHOWN if key in sidecar}
    settings["maps"] = _text(maps.get("source") if isinstance(maps, dict) else maps)
    if isinstance(model, dict):
        settings["model"] = f"{_name_of(model.get('folder'))}, SHA-256 {_text(model.get('sha256'))[:12]}"
    if isinstance(sidecar.get("versions"), dict):
        settings["versions"] = {str(k)[:40]: _text(v) for k, v in sidecar["versions"].items()}
    if isinstance(sidecar.get("command"), list):
        settings["command"] = command_line(sidecar["command"])
    beside = [v.get(k) for v, k in ((maps, "file"), (model, "folder")) if isinstance(v, dict)]
    seconds = (s for s in _list(sidecar.get("seconds")) if isinstance(s, int | float) and 0 <= s < _LONGEST)
    notes = (fault, *map(_text, _list(sidecar.get("notes"))))
    return Image(
        path,
        run,
        _name_of(scan).split(".")[0] or path.name.split(".")[0].removesuffix(f"_{method}"),
        method,
        scan=Path(local(scan)) if isinstance(scan, str) and scan else None,
        scan_hash=digest if isinstance(digest, str) else None,
        mask=Path(local(mask)) if isinstance(mask, str) and mask else None,
        paths=tuple(p for p in (scan, mask, *beside) if isinstance(p, str) and p),
        seconds=tuple(map(float, seconds)),
        stopped=tuple(map(_text, _list(sidecar.get("stopped", sidecar.get("reasons"))))),
        notes=tuple(filter(None, notes)),
        settings={key: value for key, value in settings.items() if value not in (None, "", [], {})},
    )


def command_line(words: list[Any]) -> str:
    """Return a command as one line, its paths without their folders, which may name people and machines."""
    return " ".join(_name_of(w) if "/" in str(w) or "\\" in str(w) else _text(w) for w in words)


def without_folders(text: str, paths: Iterable[str], *, names: bool = True) -> str:
    """Return a text in which paths have lost their folders, and without ``names`` their last part too."""
    for path in sorted(set(paths), key=len, reverse=True):
        last = _name_of(path)
        text = text.replace(path, last)
        if not names and last:
            text = text.replace(last, "a file")
    return text


def is_image(path: Path) -> bool:
    """Return whether a file is one of images, by its name: not hidden, not an iteration's steps, of a known suffix."""
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
    """Return plain data, cut to a size that a page can show."""
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {str(k)[:60]: _value(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return list(dict.fromkeys(v if isinstance(v, int | float | bool) else _text(v) for v in value))
    return value if isinstance(value, int | float | bool) or value is None else _text(value)
