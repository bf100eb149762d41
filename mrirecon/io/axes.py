"""Named axes: what a user, a sidecar or a file says about them, and what may be concluded where nobody does."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, MriReconError, UsageError

SPACE = ("z", "y", "x")
# BART's sixteen dimensions in their order (its mri.h); the first three are space.
BART = (
    *("", "", "", "coil", "maps", "echo", "coefficient", "coefficient2"),
    *("iteration", "shift", "repetition", "repetition2", "level", "slice", "average", "batch"),
)
LOOPS = (*(name for name in BART if name not in ("", "coil", "maps")), "phase", "contrast", "set", "segment")
_ALIASES = {
    **{"coils": "coil", "channel": "coil", "channels": "coil", "slices": "slice", "echoes": "echo", "te": "echo"},
    **{"time": "repetition", "rep": "repetition", "repetitions": "repetition", "sets": "set", "phases": "phase"},
    **{"kz": "z", "ky": "y", "kx": "x"},
}
_EXAMPLES = {2: "y,x", 3: "coil,y,x", 4: "slice,coil,y,x", 5: "repetition,slice,coil,y,x"}
MAX_ITEMS = 1_000_000


@dataclass(frozen=True)
class Layout:
    """The axes of k-space as the file stores them, and how one item (one 2D or 3D problem) is cut out of it.

    Args:
        axes: one name per stored axis, in the file's order.
        sizes: their lengths.

    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @cached_property
    def space(self) -> tuple[str, ...]:
        """Spatial axes in the file's order."""
        return tuple(a for a in self.axes if a in SPACE)

    @cached_property
    def loops(self) -> tuple[str, ...]:
        """Axes over which separate problems are solved, in the file's order."""
        return tuple(a for a in self.axes if a not in SPACE and a != "coil")

    @cached_property
    def shape(self) -> dict[str, int]:
        """Lengths by name: loops, then coil (1 where the file has no such axis), then space."""
        sizes = {"coil": 1, **dict(zip(self.axes, self.sizes, strict=True))}
        return {name: sizes[name] for name in (*self.loops, "coil", *self.space)}

    @cached_property
    def space_shape(self) -> tuple[int, ...]:
        """Lengths of the spatial axes."""
        return tuple(self.shape[a] for a in self.space)

    @cached_property
    def loop_shape(self) -> tuple[int, ...]:
        """Lengths of the loop axes."""
        return tuple(self.shape[a] for a in self.loops)

    @cached_property
    def count(self) -> int:
        """Number of items."""
        return math.prod(self.loop_shape)

    @property
    def items(self) -> list[dict[str, int]]:
        """Every combination of loop indices, the last loop axis fastest."""
        ranges = (range(n) for n in self.loop_shape)
        return [dict(zip(self.loops, index, strict=True)) for index in itertools.product(*ranges)]

    def loop_index(self, item: int) -> tuple[int, ...]:
        """Return the loop indices of an item, counted as in `items`."""
        if not 0 <= item < self.count:
            raise IndexError(f"item {item} of {self.count}")
        return tuple(int(i) for i in np.unravel_index(item, self.loop_shape)) if self.loops else ()

    def index(self, item: int) -> tuple[int | slice, ...]:
        """Return the index that cuts an item out of the stored array."""
        where = dict(zip(self.loops, self.loop_index(item), strict=True))
        return tuple(where.get(a, slice(None)) for a in self.axes)

    def arrange(self, block: np.ndarray) -> np.ndarray:
        """Bring what `index` cut out to (coil, *space)."""
        if "coil" not in self.axes:
            return block[None]
        kept = [a for a in self.axes if a not in self.loops]
        return np.moveaxis(block, kept.index("coil"), 0)


def make_layout(axes: Sequence[str] | str, shape: tuple[int, ...], where: str, *, asked: bool = False) -> Layout:
    """Return the layout of an array of `shape` whose axes are named.

    Args:
        axes: names, or one string of names separated by commas.
        shape: lengths of the array's axes.
        where: file and array, for the message.
        asked: whether the names come from the user (`--axes`) and not from a file.

    Raises:
        UsageError, InputError: unknown or repeated name, no y or x, a wrong number of names, an empty axis.

    """
    error: type[MriReconError] = UsageError if asked else InputError
    given = axes.split(",") if isinstance(axes, str) else list(axes)
    names = [_ALIASES.get(name, name) for name in (str(g).strip().lower() for g in given)]
    said = ",".join(names)
    known = (*SPACE, "coil", *LOOPS)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise error(
                f"{name[:40]!r} is not the name of an axis",
                where=where,
                fix=f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}",
            )
    if len(set(names)) != len(names) or not {"y", "x"} <= set(names):
        raise error(f"axes {said!r} must name y and x, and each axis once", where=where, fix=_advice(shape))
    if len(names) != len(shape):
        raise error(
            f"{len(names)} axes are named for an array of {len(shape)}",
            where=where,
            why=f"{said!r} for shape {shape}",
            fix=_advice(shape),
        )
    empty = [name for name, n in zip(names, shape, strict=True) if n < 1]
    if empty:
        raise InputError(f"k-space has no {empty[0]}", where=where, why=f"shape {shape} for axes {said}")
    layout = Layout(tuple(names), tuple(int(n) for n in shape))
    if layout.count > MAX_ITEMS:
        raise InputError(f"k-space has {layout.count} items", where=where, why=f"the limit is {MAX_ITEMS}")
    return layout


def guess_axes(shape: tuple[int, ...]) -> tuple[str, str] | None:
    """Name the axes of an array from its shape alone, only where there is hardly a second reading.

    Returns:
        The axes and a note that says what was concluded; None where somebody has to say.

    """
    if len(shape) == 2 and min(shape) >= 1:
        return "y,x", f"2 axes {shape} read as y,x of a single coil; if not so, pass --axes"
    if len(shape) == 3 and 1 <= shape[0] <= 64 and min(shape[1:]) >= max(32, 2 * shape[0]):
        return (
            "coil,y,x",
            f"3 axes {shape} read as coil,y,x (the first is short); if they are slices, pass --axes slice,y,x",
        )
    return None


def ask_axes(shape: tuple[int, ...], where: str, why: str | None = None) -> InputError:
    """Return the error that asks the user to name the axes."""
    why = why or "the file does not say, and its shape does not tell"
    return InputError(f"the axes of an array of shape {shape} are not known", where=where, why=why, fix=_advice(shape))


def axes_in_text(text: str) -> str | None:
    """Return the axes that free text states as `axes: coil,y,x` or `"axes": ["coil", "y", "x"]`, if it does."""
    found = re.search(r"\baxes\b[\"']?\s*[:=]\s*([^;}\]]{0,200})", text[:100_000])
    if not found:
        return None
    names = [_ALIASES.get(n, n) for n in re.findall(r"[a-z0-9]+", found[1].lower())]
    known = list(itertools.takewhile(lambda n: n in (*SPACE, "coil", *LOOPS), names))
    return ",".join(known) if {"y", "x"} <= set(known) else None


def _advice(shape: tuple[int, ...]) -> str:
    example = _EXAMPLES.get(len(shape), "coil,y,x")
    return f"name the {len(shape)} axes in their order, for example --axes {example}"


def sidecar_candidates(path: Path) -> tuple[Path, Path]:
    """Return where a sidecar of `path` may lie: `data.npz.json`, which we write, or `data.json`."""
    return Path(f"{path}.json"), path.with_suffix(".json")
