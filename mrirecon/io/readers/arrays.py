"""k-space in .npz and .npy files: which array it is, and what its axes are."""

from __future__ import annotations

from pathlib import Path

from mrirecon.io.axes import ask_axes, axes_in_text, guess_axes, make_layout, sidecar_candidates
from mrirecon.io.readers.assemble import NEEDED_NAMES, Given, MapsSource, assemble, select_kspace
from mrirecon.io.readers.npy import NpyStore, NpzStore
from mrirecon.io.readers.registry import Candidate, register_reader, sniff
from mrirecon.io.safe.limits import TEXT_LIMIT
from mrirecon.io.safe.text import parse_json
from mrirecon.io.scan import Layout, Scalar, Scan, complex_dtype, real_kspace

_NPY_SIGNATURE = b"\x93NUMPY"
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")


def _is_npy(candidate: Candidate) -> bool:
    return candidate.head.startswith(_NPY_SIGNATURE)


def _is_zip(candidate: Candidate) -> bool:
    return candidate.head.startswith(_ZIP_SIGNATURES)


@register_reader("npy", rank=2, signature=_is_npy, suffixes=(".npy",), holds=("kspace", "images"))
@register_reader("npz", rank=3, signature=_is_zip, container="zip", suffixes=(".npz",), holds=("kspace", "images"))
def read_arrays(
    path: Path, *, axes: str | None = None, dataset: str | None = None, mask: Given = None, maps: MapsSource = None
) -> Scan:
    """Read a .npz or .npy file; see `mrirecon.io.read`.

    The axes come from, in this order: `axes`; a JSON sidecar beside the file with ``{"axes": ["coil", "y", "x"]}``; an
    entry `axes` in the archive; a statement ``axes: ...`` in its entry `meta`; and, where the shape allows hardly any
    other reading, from the shape, with a note. Otherwise an error asks for them.
    """
    store: NpzStore | NpyStore = NpzStore(path) if sniff(path) == "zip" else NpyStore(path)
    notes: list[str] = []
    attributes: dict[str, Scalar] = {}
    name = "array"
    if isinstance(store, NpzStore):
        for skipped, error in store.skipped.items():
            if skipped == dataset or skipped.lower() in NEEDED_NAMES:
                raise error
            notes.append(f"not used: {error.what}")
        name = select_kspace(store.arrays, path, dataset)
        attributes = _meta(store)
    shape, dtype = store.arrays[name]
    if not complex_dtype(dtype):
        raise real_kspace(dtype, shape, f"{path}:{name}")
    layout = _layout(store, name, axes, notes)
    file_format = "npz" if isinstance(store, NpzStore) else "npy"
    return assemble(store, file_format, name, layout, notes=notes, attributes=attributes, mask=mask, maps=maps)


def _layout(store: NpzStore | NpyStore, name: str, axes: str | None, notes: list[str]) -> Layout:
    shape, where = store.arrays[name][0], f"{store.path}:{name}"
    if axes is not None:
        return make_layout(axes, shape, where, asked=True)
    for sidecar in sidecar_candidates(store.path):
        stated = _sidecar_axes(sidecar, notes)
        if stated is not None:
            notes.append(f"axes {stated} from {sidecar.name}")
            return make_layout(stated, shape, f"{where}, axes from {sidecar.name}")
    if isinstance(store, NpzStore):
        stated = store.text("axes")
        if stated is not None:
            return make_layout(stated, shape, f"{where}, axes from the entry 'axes'")
        stated = axes_in_text(store.text("meta") or "")
        if stated is not None:
            notes.append(f"axes {stated} from the entry 'meta'")
            return make_layout(stated, shape, f"{where}, axes from the entry 'meta'")
    guessed = guess_axes(shape)
    if guessed is None:
        raise ask_axes(shape, where)
    notes.append(guessed[1])
    return make_layout(guessed[0], shape, where)


def _sidecar_axes(sidecar: Path, notes: list[str]) -> str | None:
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > TEXT_LIMIT:
            return None
        content = parse_json(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes.append(f"{sidecar.name} is not JSON that can be read, and was not used")
        return None
    axes = content.get("axes") if isinstance(content, dict) else None
    if isinstance(axes, list) and all(isinstance(a, str) for a in axes):
        return ",".join(axes)
    return axes if isinstance(axes, str) else None


def _meta(store: NpzStore) -> dict[str, Scalar]:
    """Return the values of the entry `meta` where it is a JSON object."""
    try:
        content = parse_json(store.text("meta") or "{}")
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, (str, int, float, bool))}
