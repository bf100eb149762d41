"""Read an image's sidecar for a report, without names of persons and folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrirecon.evaluation.pairing import ITERATES, last_part, load_sidecar, source_of
from mrirecon.io.readers.registry import suffixes
from mrirecon.io.safe.text import local

# Settings that a report shows. All others are omitted, because they may identify a patient.
_SHOWN = ("why", "device", "lambda", "seed", "options")
_LONGEST = 1e9  # seconds
_WORDS = 300  # characters of a text from a sidecar


@dataclass(frozen=True)
class Image:
    """Hold one file of reconstructed images and the content of its sidecar.

    Attributes:
        path: image file.
        run: name of the folder.
        case: name of the scan's file up to the first dot.
        method: method in the sidecar, else the name of the run.
        scan: file of the scan; None if unknown.
        scan_hash: SHA-256 of the scan when it was read.
        mask: file of the undersampling mask in the sidecar.
        paths: paths in the sidecar; a report shows at most their last part.
        seconds: time of each item.
        stopped: stopping reason of each item.
        notes: notes on the reconstruction.
        settings: settings that a report shows.

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
    """Read an image's sidecar; without one, return only the names of the file and its folder."""
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


def command_line(arguments: list[Any]) -> str:
    """Return a command as one line without folders, because they may contain names of persons and machines."""
    return " ".join(_name_of(w) if "/" in str(w) or "\\" in str(w) else _text(w) for w in arguments)


def without_folders(text: str, paths: Iterable[str], *, names: bool = True) -> str:
    """Remove the folders from all paths in a text; without ``names``, replace the whole path."""
    for path in sorted(set(paths), key=len, reverse=True):
        last = _name_of(path)
        text = text.replace(path, last)
        if not names and last:
            text = text.replace(last, "a file")
    return text


def is_image(path: Path) -> bool:
    """Return whether a name is that of an image file: not hidden, no images of all steps, a known suffix."""
    name = path.name.lower()
    return not name.startswith(".") and name.endswith(suffixes("images")) and not name.split(".")[0].endswith(ITERATES)


def iterates_path(path: Path) -> Path:
    """Return the file to which `mrirecon reconstruct --save-iterates` writes the image of every step."""
    return path.with_name(f"{path.name.split('.')[0]}{ITERATES}.h5")


def _name_of(path: object) -> str:
    """Return the last part of a path with the separators of this system or of Windows."""
    return last_part(_text(path))


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _WORDS else text[:_WORDS] + "…"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _value(value: object, depth: int = 4) -> object:
    """Return plain data, truncated to fit into a page."""
    if isinstance(value, dict | list) and not depth:
        return "…"
    if isinstance(value, dict):
        return {str(k)[:60]: _value(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return list(dict.fromkeys(v if isinstance(v, int | float | bool) else _text(v) for v in value))
    return value if isinstance(value, int | float | bool) or value is None else _text(value)
