"""Represent a measured scan: named axes, and k-space, mask, coil maps and reference, read item by item and checked."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np

from mrirecon.errors import BusyError, InputError, NoSignalError, SignalError
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.safe.hdf5 import is_numeric

if TYPE_CHECKING:
    from mrirecon.coils.sampling import Sampling
    from mrirecon.io.geometry import Geometry
    from mrirecon.reconstruction.preprocess import Prepared

Scalar = str | int | float | bool
Nan = Literal["refuse", "zero"]
SPACE = ("z", "y", "x")
LARGEST, SMALLEST = 1e30, 1e-30  # outside this range, squares and sums of an FFT leave the range of single precision
WHOLE_LINE = 0.98  # smallest share of nonzero values for which a whole line counts as acquired
_CACHED_MASKS = 64
_COMPLEX_FIELDS = ({"r", "i"}, {"real", "imag"}, {"re", "im"})


class Store(Protocol):
    """Read parts of the arrays of a file, with known shapes and types, without keeping the file open."""

    path: Path
    files: tuple[Path, ...]
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]]

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` selects."""


@dataclass(frozen=True)
class Roles:
    """Hold the names of the arrays in a store by their role."""

    kspace: str
    mask: str | None = None
    maps: str | None = None
    reference: str | None = None
    calibration: str | None = None
    trajectory: str | None = None


@dataclass(frozen=True)
class Layout:
    """Hold the axes of k-space as stored, and select the part of an array that belongs to an item.

    An item is one 2D or 3D problem: one combination of the indices of the loop axes.

    Args:
        axes: one name per stored axis, in the order of the file.
        sizes: lengths of the axes.

    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @cached_property
    def space(self) -> tuple[str, ...]:
        """Return the spatial axes in the order of the file."""
        return tuple(a for a in self.axes if a in SPACE)

    @cached_property
    def loops(self) -> tuple[str, ...]:
        """Return the axes over which separate problems are solved, in the order of the file."""
        return tuple(a for a in self.axes if a not in SPACE and a != "coil")

    @cached_property
    def shape(self) -> dict[str, int]:
        """Return the lengths by name: loops, then coil (1 if the file has no such axis), then space."""
        sizes = {"coil": 1, **dict(zip(self.axes, self.sizes, strict=True))}
        return {name: sizes[name] for name in (*self.loops, "coil", *self.space)}

    @cached_property
    def space_shape(self) -> tuple[int, ...]:
        """Return the lengths of the spatial axes."""
        return tuple(self.shape[a] for a in self.space)

    @cached_property
    def loop_shape(self) -> tuple[int, ...]:
        """Return the lengths of the loop axes."""
        return tuple(self.shape[a] for a in self.loops)

    @cached_property
    def count(self) -> int:
        """Return the number of items."""
        return math.prod(self.loop_shape)

    @property
    def items(self) -> list[dict[str, int]]:
        """Return every combination of loop indices, the last loop axis fastest."""
        ranges = (range(n) for n in self.loop_shape)
        return [dict(zip(self.loops, index, strict=True)) for index in itertools.product(*ranges)]

    def loop_index(self, item: int) -> tuple[int, ...]:
        """Return the loop indices of an item, counted as in `items`."""
        if not 0 <= item < self.count:
            raise IndexError(f"item {item} of {self.count}")
        return tuple(int(i) for i in np.unravel_index(item, self.loop_shape)) if self.loops else ()

    def index(self, item: int) -> tuple[int | slice, ...]:
        """Return the index that selects an item in the stored array."""
        loops = dict(zip(self.loops, self.loop_index(item), strict=True))
        return tuple(loops.get(a, slice(None)) for a in self.axes)

    def arrange(self, block: np.ndarray) -> np.ndarray:
        """Transpose a part selected by `index` to (coil, *space)."""
        if "coil" not in self.axes:
            return block[None]
        remaining = [a for a in self.axes if a not in self.loops]
        return np.moveaxis(block, remaining.index("coil"), 0)

    def maps_index(self, shape: tuple[int, ...], item: int, where: str) -> tuple[int, ...]:
        """Return the leading index that selects the coil maps of an item, ([M,] coil, *space), in an array.

        Accepted are (coil, *space), (M, coil, *space), (item, M, coil, *space), and (item, coil, *space) if there are
        more than two items: M is 1 or 2.

        Args:
            shape: shape of the array.
            item: number of the item.
            where: file and array, for the message.

        Raises:
            InputError: another shape, or an ambiguous one.

        """
        inner = (self.shape["coil"], *self.space_shape)
        lead = shape[: len(shape) - len(inner)]
        if len(shape) >= len(inner) and shape[len(lead) :] == inner:
            if lead in ((), (1,)) or (lead == (2,) and self.count == 1):
                return ()
            if len(lead) == 1 and lead[0] == self.count and self.count > 2:
                return (item,)
            if len(lead) >= 2 and lead[:-1] == self.loop_shape and lead[-1] in (1, 2):
                return self.loop_index(item)
            if len(lead) == 2 and lead[0] in (self.count, 1) and lead[1] in (1, 2):
                return (item if lead[0] == self.count else 0,)
        raise InputError(
            "the coil maps do not match k-space",
            where=where,
            why=self.compare("maps", shape),
            fix="store them as (slice, M, coil, y, x) with M = 1 or 2 sets",
        )

    def reference_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape (item, *image) for a reference of `shape`; None if it does not have one image per item.

        The images may be smaller than k-space, because fastMRI crops its references.
        """
        depth = len(self.space_shape)
        lead, image = shape[: len(shape) - depth], shape[-depth:]
        if len(shape) >= depth and min(image, default=0) >= 1 and math.prod(lead) == self.count:
            return (self.count, *image)
        return None

    def calibration_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape (1 or item, coil, *box) for separate calibration data, or None if they do not fit."""
        coils, depth = self.shape["coil"], len(self.space_shape)
        box = shape[-depth:]
        if len(shape) < depth or not all(1 <= n <= full for n, full in zip(box, self.space_shape, strict=True)):
            return None
        lead = shape[:-depth]
        if coils == 1 and (not lead or lead[-1] != 1):
            lead = (*lead, 1)
        if not lead or lead[-1] != coils or lead[:-1] not in ((), (1,), (self.count,), self.loop_shape):
            return None
        return (max(1, math.prod(lead[:-1])), coils, *box)

    def compare(self, name: str, shape: tuple[int, ...]) -> str:
        """Describe the shapes of an array and of k-space, for messages."""
        return f"{name} {tuple(shape)}, k-space {', '.join(f'{axis} {n}' for axis, n in self.shape.items())}"


@dataclass
class Scan:
    """Read a scan from a file, item by item.

    An item is one 2D or 3D problem: one combination of the loop axes (slice, repetition, ...).

    Values are read when needed and checked. The file is opened for each access, so that workers may fork.

    Args:
        path: the file.
        format: "hdf5" (layout of fastMRI and mrirecon), "npz", "npy", "cfl", "ismrmrd", "twix", "calgary-campinas",
            "skm-tea", "cmrxrecon" or "m4raw".
        layout: the axes as stored.
        dtype: the type as stored; `kspace` always returns complex64.
        store: the arrays.
        roles: names of the arrays.
        attributes: header values that cannot identify a person.
        header: the ISMRMRD header, reduced to values that cannot identify a person; None if there is none.
        notes: conclusions and corrections of the reader, for the user; reading items adds more.
        given_mask: (1 or item, *space), mask from this file or another; None if only the data show the sampling.
        maps_store: store of the coil maps if it is not `store`; `roles.maps` is their name in it.
        retrospective: whether `given_mask` came from another file, to undersample these data.
        nan: ``refuse`` samples that are NaN or infinite, or set them to ``zero`` and count them as not measured.
        strict: refuse data that otherwise only cause a note; see `warn_or_refuse`.
        warnings: notes that are warnings.
        noise: noise measured without signal, (coil, samples) complex64 in the scale and coil order of k-space, for
            prewhitening; the attributes `noise_dwell_us` and `dwell_us` hold the time per sample of noise and of
            k-space, if the file states them. None if the file has no noise scan.
        geometry: position of the scan in the patient, or None if the file does not state it.
        acquisitions: for raw data, the number of readouts of each kind ("image", "noise", "navigator", ...).
        unverified: whether the reader was tested only with files written from the specification of the format.
        prepared: the preprocessing that was applied, see `mrirecon.reconstruction.preprocess`; None for a scan as read.

    """

    path: Path
    format: str
    layout: Layout
    dtype: np.dtype
    store: Store = field(repr=False)
    roles: Roles
    attributes: dict[str, Scalar] = field(default_factory=dict, repr=False)
    header: str | None = field(default=None, repr=False)
    notes: list[str] = field(default_factory=list)
    given_mask: np.ndarray | None = field(default=None, repr=False)
    maps_store: Store | None = field(default=None, repr=False)
    retrospective: bool = False
    nan: Nan = "refuse"
    strict: bool = False
    warnings: list[str] = field(default_factory=list, repr=False)
    noise: np.ndarray | None = field(default=None, repr=False)
    geometry: Geometry | None = field(default=None, repr=False)
    acquisitions: dict[str, int] = field(default_factory=dict, repr=False)
    unverified: bool = False
    prepared: Prepared | None = field(default=None, repr=False)
    _masks: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _fingerprint: tuple[tuple[int, int], ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        self._fingerprint = self._stat()

    def __len__(self) -> int:
        return self.layout.count

    @property
    def shape(self) -> dict[str, int]:
        """Return the lengths by name, in order: loop axes, coil (1 if the file has none), space."""
        return self.layout.shape

    @property
    def space(self) -> tuple[str, ...]:
        """Return the names of the spatial axes, in the order of the file."""
        return self.layout.space

    @property
    def space_shape(self) -> tuple[int, ...]:
        """Return the lengths of the spatial axes."""
        return self.layout.space_shape

    @property
    def coils(self) -> int:
        """Return the number of receiver channels."""
        return self.shape["coil"]

    @property
    def items(self) -> list[dict[str, int]]:
        """Return the loop indices of each item, for example ``{"slice": 3}``."""
        return self.layout.items

    @property
    def has_mask(self) -> bool:
        """Return whether the file or the user gives a mask; otherwise the data show which samples were acquired."""
        return self.given_mask is not None

    def where(self, item: int) -> str:
        """Return the names of file, array and item, for messages."""
        index = zip(self.layout.loops, self.layout.loop_index(item), strict=True)
        return ", ".join([f"{self.path}:{self.roles.kspace}", *(f"{axis} {i}" for axis, i in index)])

    def unmasked_kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item as stored, (coil, *space) complex64, unmasked and unchecked."""
        block = self._read(self.roles.kspace, self.layout.index(item))
        values = block if block.dtype == np.complex64 else to_complex64(block, self.where(item))
        if values is not block and not values.any() and (block != np.zeros((), block.dtype)).any():
            fix = "scale the data, for example to maximum 1"
            raise NoSignalError("k-space values are too small for single precision", where=self.where(item), fix=fix)
        return np.array(self.layout.arrange(values), order="C")

    def block(self, item: int, coils: slice, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of an item's k-space as stored, (coil, *part) complex64, unmasked and unchecked.

        Args:
            item: number of the item.
            coils: indices of the coils.
            part: one slice per spatial axis.

        """
        parts = {"coil": coils, **dict(zip(self.space, part, strict=True))}
        index = tuple(parts.get(axis, i) for axis, i in zip(self.layout.axes, self.layout.index(item), strict=True))
        values = to_complex64(self._read(self.roles.kspace, index), self.where(item))
        return np.ascontiguousarray(self.layout.arrange(values))

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item, (coil, *space) complex64, zero where not sampled.

        Raises:
            SignalError: only zeros, or NaN or infinite values (the message names the first).
            InputError: the mask marks none of the data, or the file changed since it was opened.

        """
        return self.samples(item)[0]

    def mask(self, item: int) -> np.ndarray:
        """Return the usable samples of an item, (*space) booleans: acquired, and marked by the mask, if any."""
        if item not in self._masks:
            self.samples(item)
        return self._masks[item].copy()

    def marked(self, item: int) -> np.ndarray | None:
        """Return the samples of an item that the given mask marks, (*space) booleans, or None without a mask."""
        return None if self.given_mask is None else self.given_mask[item if len(self.given_mask) > 1 else 0]

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space) complex64, or None if there are none."""
        if self.roles.maps is None:
            return None
        store, where, index = self._stored_maps(item)
        maps = to_complex64(store.read(self.roles.maps, index), where)
        if not np.isfinite(maps).all():
            raise InputError("the coil maps hold NaN or infinite values", where=where, fix="estimate them again")
        return maps.reshape(-1, self.coils, *self.space_shape)

    def map_sets(self, item: int) -> int:
        """Return the number of stored sets of coil maps of an item."""
        store, _, index = self._stored_maps(item)
        size = math.prod(store.arrays[str(self.roles.maps)][0][len(index) :])
        return size // (self.coils * math.prod(self.space_shape))

    def maps_block(self, item: int, number: int, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of one coil map of an item as stored, (*part) complex64, unchecked.

        Args:
            item: number of the item.
            number: number of the map: coils of the first set, then coils of the next.
            part: one slice per spatial axis.

        """
        store, where, index = self._stored_maps(item)
        name = str(self.roles.maps)
        channels = store.arrays[name][0][len(index) : -len(self.space)]
        channel = tuple(int(i) for i in np.unravel_index(number, channels)) if channels else ()
        return to_complex64(store.read(name, (*index, *channel, *part)), where)

    def _stored_maps(self, item: int) -> tuple[Store, str, tuple[int, ...]]:
        """Return the store of the coil maps, the names of file and array, and the leading index of an item's maps."""
        assert self.roles.maps is not None, "the caller checked"
        store = self.maps_store or self.store
        where = f"{store.path}:{self.roles.maps}"
        return store, where, self.layout.maps_index(store.arrays[self.roles.maps][0], item, where)

    @property
    def reference(self) -> np.ndarray | None:
        """Return the magnitude of the fully sampled image, (item, *image) float32 (fastMRI: cropped), or None."""
        if self.roles.reference is None:
            return None
        values = magnitude_of(self._read(self.roles.reference), f"{self.path}:{self.roles.reference}")
        return values.reshape(self.layout.reference_shape(values.shape) or values.shape)

    @property
    def calibration(self) -> np.ndarray | None:
        """Return separate, fully sampled calibration k-space, (1 or item, coil, *box) complex64, or None."""
        if self.roles.calibration is None:
            return None
        where = f"{self.path}:{self.roles.calibration}"
        values = to_complex64(self._read(self.roles.calibration), where)
        values = values.reshape(self.layout.calibration_shape(values.shape) or values.shape)
        for item in values:
            check_kspace(item, ("coil", *self.space), where)
        return values

    @property
    def on_grid(self) -> bool:
        """Return whether k-space was sampled on a Cartesian grid; see `mrirecon.io.trajectory.TrajectoryScan`."""
        return True

    def require_grid(self, what: str) -> None:
        """Refuse a scan whose samples lie on a trajectory.

        Args:
            what: what needs Cartesian k-space.

        Raises:
            InputError: k-space was not sampled on a grid.

        """
        if not self.on_grid:
            raise InputError(
                f"{what} needs Cartesian k-space",
                where=str(self.path),
                why="the samples lie on a trajectory",
                fix="give a Cartesian scan; `mrirecon reconstruct` takes this one",
            )

    def sampling(self, item: int, mask: np.ndarray) -> Sampling:
        """Return where k-space of an item was sampled.

        Args:
            item: number of the item.
            mask: the samples to use, such as `mask` returns.

        """
        from mrirecon.coils.sampling import GridSampling  # needs torch

        return GridSampling(mask)

    def measured(self, item: int) -> tuple[np.ndarray, Sampling]:
        """Return the samples of an item, and where they were taken."""
        kspace, mask = self.samples(item)
        return kspace, self.sampling(item, mask)

    def is_blank(self, item: int) -> bool:
        """Return whether an item is known to hold no signal, so that its image is zero; False until it is read."""
        return False

    def items_with_signal(self, items: Iterable[int] | None = None) -> list[int]:
        """Return the items (of all, or of some) with finite signal inside the mask.

        Raises:
            BusyError: the file changed since it was opened.

        """
        readable = []
        for item in range(len(self)) if items is None else items:
            try:
                self.mask(item)
            except BusyError:
                raise
            except InputError:
                continue
            readable.append(item)
        return readable

    def representative_item(self) -> int:
        """Return the first item that can be read, for properties that all items share.

        Raises:
            InputError: no item can be read; the error of the first.

        """
        first = next((item for item in range(len(self)) if self.items_with_signal([item])), None)
        if first is None:
            self.mask(0)  # raises the error
        return first or 0

    def is_empty(self, item: int) -> bool:
        """Return whether an item holds no signal, and another item does.

        Raises:
            InputError: no item can be read; the error of the first.

        """
        return self.quick_mask(item) is None and self.representative_item() != item

    def quick_mask(self, item: int) -> np.ndarray | None:
        """Return an approximation of `mask`, from one coil and unchecked, which is faster; None without any signal."""
        if item in self._masks:
            return self._masks[item].copy()
        known = getattr(self.store, "sampled", None)  # the headers of raw data state the sampling
        index = list(self.layout.index(item))
        sampled = np.zeros(self.space_shape, bool) if known is None else known(item)
        for coil in dict.fromkeys((self.coils // 2, *range(self.coils))) if known is None else ():
            if "coil" in self.layout.axes:
                index[self.layout.axes.index("coil")] = slice(coil, coil + 1)
            values = self._read(self.roles.kspace, tuple(index))
            values = to_complex64(values, self.where(item)) if values.dtype.fields else values
            sampled = support(self.layout.arrange(values))
            if sampled.any():
                break
        marked = self.marked(item)
        if marked is not None:
            sampled = reconcile(marked, sampled)[0]
        return sampled if sampled.any() else None

    def sha256(self) -> str:
        """Return the SHA-256 of the file (of the data file of a BART pair)."""
        return sha256(self.store.files[-1])

    def with_notes(self, notes: Iterable[str]) -> Self:
        """Return a copy of the scan with further notes."""
        noted = copy.copy(self)
        noted.notes = [*self.notes, *notes]
        return noted

    def _note(self, text: str) -> None:
        """Add a note unless it is already present."""
        if text not in self.notes:
            self.notes.append(text)

    def warn_or_refuse(self, text: str, where: str) -> None:
        """Note a defect of the data.

        Raises:
            InputError: the scan is read with ``strict``.

        """
        if self.strict:
            fix = "omit --strict"
            raise InputError(
                "--strict refuses it; without --strict there is only a note", where=where, why=text, fix=fix
            )
        self._note(text)
        if text not in self.warnings:
            self.warnings.append(text)

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask of an item, as `kspace` and `mask` do, by reading it once."""
        kspace, where = self.unmasked_kspace(item), self.where(item)
        lost = without_nan(kspace) if self.nan == "zero" else None
        check_kspace(kspace, ("coil", *self.space), where)
        mask = acquired = support(kspace)
        if lost is not None and lost.any():
            acquired &= ~lost
            self._note(
                f"{int(lost.sum())} samples of {where} are NaN or infinite in some coil: treated as not measured"
            )
        marked = self.marked(item)
        if marked is not None:
            mask = self.reconciled(marked, acquired, where)
            kspace *= mask
            if not kspace.any():
                raise _no_overlap(marked, acquired, where)
        if len(self._masks) >= _CACHED_MASKS:
            self._masks.pop(next(iter(self._masks)))
        self._masks[item] = mask
        return kspace, mask.copy()

    def reconciled(self, marked: np.ndarray, acquired: np.ndarray, where: str) -> np.ndarray:
        """Return the samples that are both marked and acquired; note or refuse differences.

        Args:
            marked: samples that the mask marks, booleans.
            acquired: samples that the data show, booleans of the same shape.
            where: file and item, for the message.

        Raises:
            InputError: no sample in common, a transposed mask, or a difference with ``strict``.

        """
        mask, missing, extra = reconcile(marked, acquired)
        if not mask.any():
            raise _no_overlap(marked, acquired, where)
        extra = 0 if self.retrospective else extra
        if (missing or extra) and marked.T.shape == acquired.shape and (acquired == marked.T).all():
            why = "transposed, it marks exactly the samples that were acquired"
            raise InputError("the mask is along the wrong axis", where=where, why=why, fix="transpose the mask")
        if missing:
            what = f"{missing:.1%} of the samples that the mask marks are zero in every coil"
            self.warn_or_refuse(f"{what} (first in {where}): treated as not sampled", where)
        if extra:
            what = f"{extra:.1%} of the k-space samples are outside the mask"
            self.warn_or_refuse(f"{what} (first in {where}): set to zero", where)
        return mask

    def _read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        if self._stat() != self._fingerprint:
            raise BusyError(
                f"{self.path} has changed since it was opened", fix="run the command again when the file is complete"
            )
        return self.store.read(name, index)

    def _stat(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((s.st_size, s.st_mtime_ns) for s in map(os.stat, self.store.files))
        except OSError:
            return ()


def complex_dtype(dtype: np.dtype) -> bool:
    """Return whether a type is complex, natively or as two fields for real and imaginary parts."""
    if dtype.fields:
        return {name.lower() for name in dtype.fields} in _COMPLEX_FIELDS
    return dtype.kind == "c"


def to_complex64(values: np.ndarray, where: str) -> np.ndarray:
    """Convert complex values of any byte order and precision, or pairs of fields such as (r, i), to native complex64.

    Raises:
        InputError: a real array.
        SignalError: finite values that overflow single precision.

    """
    if not complex_dtype(values.dtype):
        raise real_kspace(values.dtype, values.shape, where)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if values.dtype.fields:
            names = {name.lower()[0]: name for name in values.dtype.fields}
            result = np.empty(values.shape, np.complex64)
            result.real, result.imag = values[names["r"]], values[names["i"]]
            finite = np.isfinite(values[names["r"]]).all() and np.isfinite(values[names["i"]]).all()
        else:
            result = values.astype(np.complex64)
            finite = values.dtype.itemsize > 8 and np.isfinite(values).all()
    if finite and not np.isfinite(result).all():
        fix = "scale the data, for example to maximum 1"
        raise SignalError("k-space values do not fit in single precision", where=where, fix=fix)
    return result


def real_kspace(dtype: np.dtype, shape: tuple[int, ...], where: str) -> InputError:
    """Return the error for k-space that is not complex."""
    fix = "store k-space as complex64; a magnitude image is not k-space"
    if dtype.kind not in "iufb":
        fix = "store k-space as complex64"
    elif shape and shape[-1] == 2:
        fix = "its last axis has length 2: if that is (real, imaginary), store a[..., 0] + 1j * a[..., 1]"
    return InputError("k-space must be complex", where=where, why=f"the array is {dtype} of shape {shape}", fix=fix)


def check_kspace(kspace: np.ndarray, axes: tuple[str, ...], where: str) -> None:
    """Refuse k-space of one item without signal or with NaN or infinite values.

    Args:
        kspace: complex64, one axis per name in `axes`.
        axes: names, for the index in the message.
        where: file, array and item.

    Raises:
        SignalError: NaN or infinity (with the first index), only zeros, or a scale whose squares overflow.

    """
    check_finite(kspace, axes, where)
    check_scale(largest_part(kspace), where)


def check_finite(kspace: np.ndarray, axes: tuple[str, ...], where: str, start: tuple[int, ...] | None = None) -> None:
    """Refuse NaN or infinite values in a part of k-space that begins at index `start`.

    Raises:
        SignalError: NaN or infinity, with the first index.

    """
    finite = np.isfinite(kspace)
    if not finite.all():
        first = np.unravel_index(int(np.argmin(finite)), kspace.shape)
        begin = start or (0,) * kspace.ndim
        index = ", ".join(f"{name} {int(i) + s}" for name, i, s in zip(axes, first, begin, strict=True))
        raise SignalError(
            "k-space holds NaN or infinite values",
            where=f"{where}, {index}",
            why=f"{finite.size - int(np.count_nonzero(finite))} NaN or infinite of {finite.size} samples",
            fix="export the data again; if they are few, --nan zero treats them as not measured",
        )


def largest_part(kspace: np.ndarray) -> float:
    """Return the largest absolute value of the real and imaginary parts of complex64 values."""
    return float(np.abs(np.ascontiguousarray(kspace).view(np.float32)).max())


def check_scale(peak: float, where: str) -> None:
    """Refuse k-space if its largest value `peak` is zero or out of range.

    Raises:
        NoSignalError: zero.
        SignalError: the square of `peak` leaves the range of single precision.

    """
    if peak == 0:
        raise NoSignalError("k-space is zero everywhere", where=where, fix="choose another slice or file")
    if not SMALLEST <= peak <= LARGEST:
        raise SignalError(
            "the scale of k-space is out of range for single precision",
            where=where,
            why=f"its largest value is {peak:.3g}; it must be {SMALLEST:g} to {LARGEST:g}",
            fix="scale the data, for example to maximum 1",
        )


def without_nan(kspace: np.ndarray) -> np.ndarray:
    """Set samples that are NaN or infinite in some coil to zero in every coil, in place.

    A zero in only one coil would contradict the other coils; a sample that is missing in all coils does not.

    Args:
        kspace: (coil, *space) complex.

    Returns:
        (*space) booleans, true where a sample was lost.

    """
    lost: np.ndarray = ~np.isfinite(kspace).all(axis=0)
    kspace[:, lost] = 0
    return lost


def magnitude_of(values: np.ndarray, where: str) -> np.ndarray:
    """Return the magnitude of real or complex values as float32.

    Raises:
        InputError: NaN or infinite values, or not a numeric type.

    """
    if not is_numeric(values.dtype):
        raise InputError("images must hold numbers", where=where, why=f"the array is {values.dtype}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        magnitude: np.ndarray = np.abs(to_complex64(values, where) if complex_dtype(values.dtype) else values)
        magnitude = magnitude.astype(np.float32)
    wrong = magnitude.size - int(np.count_nonzero(np.isfinite(magnitude)))
    if wrong:
        why = f"{wrong} of {magnitude.size} pixels"
        raise InputError("the images hold NaN or infinite values", where=where, why=why, fix="compute them again")
    return magnitude


def real_of(values: np.ndarray, where: str) -> np.ndarray:
    """Return real values unchanged (also negative ones) and the magnitude of complex values, as float32.

    Raises:
        InputError: NaN or infinite values, or not a numeric type.

    """
    magnitude = magnitude_of(values, where)  # checks the values
    return magnitude if complex_dtype(values.dtype) else values.astype(np.float32)


def support(kspace: np.ndarray) -> np.ndarray:
    """Return the acquired samples of k-space (coil, *space): those that are not zero in at least one coil.

    Integer data can hold measured values that are exactly zero. If every line along some axis is either empty or nearly
    full, whole lines were acquired, and such zeros count as samples.
    """
    some = np.asarray((kspace != 0).any(axis=0))
    for axis in range(some.ndim):
        share = some.mean(axis=axis, keepdims=True)
        if ((share == 0) | (share >= WHOLE_LINE)).all():
            return np.broadcast_to(share > 0, some.shape).copy()
    return some


def reconcile(mask: np.ndarray, acquired: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Combine the samples that a mask marks with those that the data show.

    A mask that varies along only one axis describes lines. A line counts as acquired if any of its samples is, because
    exact zeros inside it were measured. fastMRI's masks mark zero-padded columns as sampled; these are dropped.

    Args:
        mask: (*space), samples that the mask marks.
        acquired: (*space), result of `support`.

    Returns:
        The samples to use, (*space); the share of the mask without data; the share of the data outside the mask.

    """
    varying = [a for a in range(mask.ndim) if (mask != mask.take([0], axis=a)).any()]
    present = acquired
    if len(varying) == 1:
        present = np.any(acquired, axis=tuple(a for a in range(mask.ndim) if a != varying[0]), keepdims=True)
    used = np.asarray(mask & present)
    missing = 1 - int(np.count_nonzero(used)) / max(1, int(np.count_nonzero(mask)))
    extra = int(np.count_nonzero(acquired & ~mask)) / max(1, int(np.count_nonzero(acquired)))
    return used, missing, extra


def _no_overlap(marked: np.ndarray, acquired: np.ndarray, where: str) -> InputError:
    inverse = bool((marked != acquired).mean() > 0.99)
    return InputError(
        "the mask marks none of the samples that were acquired",
        where=where,
        why=f"it marks {marked.mean():.1%} of k-space, and {acquired.mean():.1%} is not zero",
        fix="the mask seems to be inverted: 1 must mean sampled" if inverse else "check that it is the right mask",
    )
