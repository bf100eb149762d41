"""Read BART's .cfl/.hdr pairs: complex64, little-endian, first dimension fastest, 16 dimensions of fixed meaning."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import BART, make_layout
from mrirecon.io.identify import cfl_pair, is_nifti_header, read_head, regular_file
from mrirecon.io.readers.assemble import assemble
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import ArrayTypes
from mrirecon.io.scan import Scan

_HEADER_LIMIT = 1 << 20
_MAX_DIMS = 16
_COIL, _MAPS = 3, 4


class CflStore:
    """Read one BART array, mapped into memory so that single items can be read.

    The dimensions keep BART's order, because numpy indexes Fortran order without a transpose. An index may have all
    sixteen.
    """

    def __init__(self, path: str | Path) -> None:
        header, data = cfl_pair(path)
        for one, other in ((header, data), (data, header)):
            if not one.exists() and other.exists():
                raise InputError(f"{one} is missing", why=f"{other.name} exists, but a BART array is a pair of files")
        self.path = data
        self.files: tuple[Path, ...] = (regular_file(header), regular_file(data))
        self.dims = read_dims(header)
        size, expected = data.stat().st_size, 8 * math.prod(self.dims)
        if size != expected:
            raise InputError(
                f"{data} is {'truncated' if size < expected else 'larger than its header states'}",
                why=f"{size} bytes for dimensions {list(self.dims)}, which need {expected}",
                fix="copy both files again",
            )
        self.arrays: ArrayTypes = {"cfl": (self.dims, np.dtype("<c8"))}

    def read(self, name: str = "cfl", index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a copy of a part of the array."""
        try:
            dims = (*self.dims, *(1,) * _MAX_DIMS)[:_MAX_DIMS]
            mapped = np.memmap(self.path, "<c8", "r", 0, dims, order="F")
            return np.array(mapped[index], order="C")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read", why=str(error), fix="copy the pair again") from None


class ReshapedStore:
    """Read a BART array with selected dimensions in a given order; all others have length 1 and are dropped."""

    def __init__(self, store: CflStore, selected: tuple[int, ...]) -> None:
        self.path = store.path
        self.files: tuple[Path, ...] = store.files
        self._store, self._selected = store, selected
        self.depth = len(space_dims(store.dims))
        dims = (*store.dims, *(1,) * _MAX_DIMS)
        self.arrays: ArrayTypes = {"cfl": (tuple(dims[d] for d in selected), np.dtype("<c8"))}

    def read(self, name: str = "cfl", index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a copy of a part of the array."""
        full: list[int | slice] = [0] * _MAX_DIMS
        for position, dim in enumerate(self._selected):
            full[dim] = index[position] if position < len(index) else slice(None)
        part = self._store.read(name, tuple(full))
        remaining = [dim for dim in self._selected if isinstance(full[dim], slice)]
        return part.transpose([sorted(remaining).index(dim) for dim in remaining])


def read_dims(header: Path) -> tuple[int, ...]:
    """Read the dimensions in a BART header; drop trailing ones, but keep at least five.

    Raises:
        InputError: no dimensions, or one that is zero, negative, or impossibly large.

    """
    if header.stat().st_size > _HEADER_LIMIT:
        raise InputError(f"{header} is too large for a BART header", why=f"{header.stat().st_size} bytes")
    try:
        lines = header.read_bytes().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{header} cannot be read", why=str(error), fix="check its permissions") from None
    position = next((i for i, line in enumerate(lines) if line.strip() == "# Dimensions"), None)
    words = lines[position + 1].split() if position is not None and position + 1 < len(lines) else []
    if not words or not all(word.lstrip("-").isdecimal() and len(word) < 20 for word in words):
        raise InputError(f"{header} is not a BART header", why="no line of whole numbers follows '# Dimensions'")
    dims = [int(word.lstrip("-")) if word[0] != "-" else -1 for word in words]
    if min(dims) < 1 or math.prod(dims) >= 1 << 60 or any(d != 1 for d in dims[_MAX_DIMS:]):
        raise InputError(
            f"{header} declares impossible dimensions",
            why=" ".join(words)[:200],
            fix="every dimension must be at least 1, and there are at most 16; write the pair again",
        )
    while len(dims) > _MAPS + 1 and dims[-1] == 1:
        dims.pop()
    return tuple(dims + [1] * (_MAPS + 1 - len(dims)))


def space_dims(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return which of the first three dimensions are spatial: two, or three if none of them is 1."""
    for flat in (2, 0, 1):
        if dims[flat] == 1:
            return tuple(d for d in range(3) if d != flat)
    return (0, 1, 2)


def _is_pair(source: Source) -> bool:
    """Return whether the file is part of a BART pair; a header without .cfl may be that of a NIfTI pair."""
    path = source.path
    present = list(filter(os.path.exists, cfl_pair(path)))
    header_only = present == [path] and path.suffix == ".hdr" and path.is_file()
    return bool(present) and not (header_only and is_nifti_header(read_head(path)))


@register_reader(
    "cfl", rank=1, names=(".cfl", ".hdr"), recognise=_is_pair, suffixes=(".cfl",), holds=("kspace", "images")
)
def read_cfl(source: Source, *, axes: str | None = None) -> Scan:
    """Read BART k-space; see `mrirecon.io.read`.

    The spatial dimensions are named y, x (or z, y, x) in their order, so that an image has the rows and columns that
    `bart toimg` shows. Dimension 3 is the coils; the later ones are loops.

    Args:
        source: either file of the pair, or their common name.
        axes: names of the leading dimensions, if they differ from BART's meaning.

    Raises:
        InputError: files that do not match.

    """
    store = CflStore(source.path)
    if axes is not None:
        count = axes.count(",") + 1
        beyond = any(n != 1 for n in store.dims[count:])
        # Dimensions of length 1 need no names.
        shape = store.dims if beyond else (*store.dims, *(1,) * _MAX_DIMS)[:count]
        layout = make_layout(axes, shape, str(store.path), from_user=True)
        return assemble(source, ReshapedStore(store, tuple(range(count))), "cfl", "cfl", layout)
    if store.dims[_MAPS] != 1:
        raise InputError(
            f"{store.path} has {store.dims[_MAPS]} sets of maps",
            why="dimension 4 (maps) is not 1, so this is not k-space",
            fix="give coil maps with --maps, and k-space as the input",
        )
    space = space_dims(store.dims)
    named = dict(zip(space, ("z", "y", "x")[-len(space) :], strict=True))
    if source.points is not None:
        space, named = (1, 2), {1: "x", 2: "y"}  # samples and readouts
    loops = tuple(d for d in range(_MAPS + 1, len(store.dims)) if store.dims[d] != 1)
    dimensions = tuple(sorted((*space, _COIL, *loops)))
    names = [named.get(d) or BART[d] for d in dimensions]
    shape = tuple(store.dims[d] for d in dimensions)
    if source.points is not None:
        layout = make_layout(names, shape, str(store.path))
        return assemble(source, ReshapedStore(store, dimensions), "cfl", "cfl", layout)
    notes = [f"BART dimensions {', '.join(map(str, space))} read as {','.join(named.values())}"]
    layout = make_layout(names, shape, str(store.path))
    return assemble(source, ReshapedStore(store, dimensions), "cfl", "cfl", layout, notes=notes)


def maps_store(path: Path) -> ReshapedStore:
    """Return BART coil maps as (loops..., M, coil, *space)."""
    store = CflStore(path)
    loops = tuple(d for d in range(_MAPS + 1, len(store.dims)) if store.dims[d] != 1)
    return ReshapedStore(store, (*loops, _MAPS, _COIL, *space_dims(store.dims)))


def image_store(path: Path) -> ReshapedStore:
    """Return BART images as (loops..., M, *space), without a coil dimension."""
    store = CflStore(path)
    if store.dims[_COIL] != 1:
        raise InputError(
            f"{store.path} has {store.dims[_COIL]} coils",
            why="an image has no coil dimension",
            fix="combine the coils first",
        )
    loops = tuple(d for d in range(_MAPS, len(store.dims)) if store.dims[d] != 1)
    return ReshapedStore(store, (*loops, *space_dims(store.dims)))
