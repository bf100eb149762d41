"""Find the layout of k-space: the names of its axes, stated or guessed."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.io.scan import SPACE, Layout

# BART's sixteen dimensions in their order (its mri.h); the first three are space.
BART = (
    *("", "", "", "coil", "maps", "echo", "coefficient", "coefficient2"),
    *("iteration", "shift", "repetition", "repetition2", "level", "slice", "average", "batch"),
)
LOOPS = (*(name for name in BART if name not in ("", "coil", "maps")), "phase", "contrast", "set", "segment")
MAX_ITEMS = 1_000_000
_ALIASES = {
    **{"coils": "coil", "channel": "coil", "channels": "coil", "slices": "slice", "echoes": "echo", "te": "echo"},
    **{"time": "repetition", "rep": "repetition", "repetitions": "repetition", "sets": "set", "phases": "phase"},
    **{"kz": "z", "ky": "y", "kx": "x", "readout": "y", "spoke": "y", "interleaf": "y", "sample": "x"},
}
_KNOWN = (*SPACE, "coil", *LOOPS)
_EXAMPLES = {2: "y,x", 4: "slice,coil,y,x", 5: "repetition,slice,coil,y,x"}


def make_layout(axes: Sequence[str] | str, shape: tuple[int, ...], where: str, *, from_user: bool = False) -> Layout:
    """Return the layout of an array of `shape` with named axes.

    Args:
        axes: names, or one string of names separated by commas.
        shape: lengths of the array's axes.
        where: file and array, for the message.
        from_user: whether the names come from the user (`--axes`) and not from a file.

    Raises:
        UsageError, InputError: unknown or repeated name, no y or x, a wrong number of names, an empty axis.

    """
    error: type[MriReconError] = UsageError if from_user else InputError
    names_given = axes.split(",") if isinstance(axes, str) else axes
    names = [_ALIASES.get(name, name) for name in (str(g).strip().lower() for g in names_given)]
    joined = ",".join(names)
    for name in names:
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(_KNOWN)}"
            raise error(f"{name[:40]!r} is not the name of an axis", where=where, fix=fix)
    if len(set(names)) != len(names) or not {"y", "x"} <= set(names):
        raise error(f"axes {joined!r} must name y and x, and each axis once", where=where, fix=_advice(shape))
    if len(names) != len(shape):
        why = f"{joined!r} for shape {shape}"
        raise error(
            f"{len(names)} axes are named for an array of {len(shape)}", where=where, why=why, fix=_advice(shape)
        )
    empty = [name for name, n in zip(names, shape, strict=True) if n < 1]
    if empty:
        raise InputError(f"k-space has no {empty[0]}", where=where, why=f"shape {shape} for axes {joined}")
    layout = Layout(tuple(names), tuple(int(n) for n in shape))
    if layout.count > MAX_ITEMS:
        raise InputError(f"k-space has {layout.count} items", where=where, why=f"the limit is {MAX_ITEMS}")
    return layout


def axes_of_readouts(shape: tuple[int, ...]) -> str | None:
    """Return the axes of samples along a trajectory by their number, or None if there are too many."""
    return {2: "readout,sample", 3: "coil,readout,sample", 4: "slice,coil,readout,sample"}.get(len(shape))


def guess_axes(shape: tuple[int, ...]) -> tuple[str, str] | None:
    """Guess the axes of an array from its shape, if the shape leaves hardly any doubt.

    Returns:
        The axes and a note that states the guess; None if the user must name the axes.

    """
    if len(shape) == 2 and min(shape) >= 1:
        return "y,x", f"2 axes {shape} read as y,x of a single coil; if this is wrong, pass --axes"
    if len(shape) == 3 and 1 <= shape[0] <= 64 and min(shape[1:]) >= max(32, 2 * shape[0]):
        note = f"3 axes {shape} read as coil,y,x (the first is short); if they are slices, pass --axes slice,y,x"
        return "coil,y,x", note
    return None


def unknown_axes(shape: tuple[int, ...], where: str, why: str | None = None) -> InputError:
    """Return the error that asks the user to name the axes."""
    why = why or "the file does not state them, and its shape does not show them"
    return InputError(f"the axes of an array of shape {shape} are not known", where=where, why=why, fix=_advice(shape))


def axes_in_text(text: str) -> str | None:
    """Find the axes in free text (`axes: coil,y,x` or `"axes": ["coil", "y", "x"]`); return None if it has none."""
    match = re.search(r"\baxes\b[\"']?\s*[:=]\s*([^;}\]]{0,200})", text[:100_000])
    if not match:
        return None
    names = [_ALIASES.get(n, n) for n in re.findall(r"[a-z0-9]+", match[1].lower())]
    known = list(itertools.takewhile(_KNOWN.__contains__, names))
    return ",".join(known) if {"y", "x"} <= set(known) else None


def sidecar_candidates(path: Path) -> tuple[Path, Path]:
    """Return the possible paths of a sidecar of `path`: `data.npz.json` (as mrirecon writes it) and `data.json`."""
    return Path(f"{path}.json"), path.with_suffix(".json")


def _advice(shape: tuple[int, ...]) -> str:
    return f"name the {len(shape)} axes in their order, for example --axes {_EXAMPLES.get(len(shape), 'coil,y,x')}"
