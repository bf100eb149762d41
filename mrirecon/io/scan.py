"""One measured scan: named axes, and k-space, mask, maps and reference read one item at a time."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np

from mrirecon.errors import BusyError, InputError
from mrirecon.io.axes import Layout
from mrirecon.io.fit import calibration_shape, maps_index, reference_shape
from mrirecon.io.geometry import Geometry
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.values import check_kspace, magnitude_of, reconcile, support, to_complex64, without_nan

if TYPE_CHECKING:
    from mrirecon.reconstruction.preprocess import Prepared

Scalar = str | int | float | bool
Nan = Literal["refuse", "zero"]
_KEPT_MASKS = 64
Fingerprint = tuple[tuple[int, int], ...]


class Store(Protocol):
    """Arrays in a file: what there is, and how to read a part of one. A store keeps no open handle."""

    path: Path
    files: tuple[Path, ...]
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]]

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return the part of an array that `index` cuts out."""


@dataclass(frozen=True)
class Roles:
    """Names of the arrays in a store, by what they are for."""

    kspace: str
    mask: str | None = None
    maps: str | None = None
    reference: str | None = None
    calibration: str | None = None


@dataclass
class Scan:
    """A scan in a file. An item is one 2D or 3D problem: one combination of the loop axes (slice, repetition, ...).

    Reading is lazy, opens the file anew each time (so that workers may fork), and checks what it reads.

    Args:
        path: the file.
        format: "hdf5" (fastMRI's and our own), "npz", "npy", "cfl", "ismrmrd", "twix", "calgary-campinas", "skm-tea",
            "cmrxrecon" or "m4raw".
        layout: the axes as stored.
        dtype: the type as stored; `kspace` always returns complex64.
        store: where the arrays are.
        roles: which array is which.
        attributes: header values that identify nobody.
        header: the ISMRMRD header, reduced to what identifies nobody; None where there is none.
        notes: what the reader concluded or corrected, in words for the user; reading items adds to it.
        given_mask: (1 or item, *space), the mask from this file or another; None where only the data tell.
        maps_store: where the maps are, if not in `store`; `roles.maps` names them there.
        retrospective: whether `given_mask` came from another file, to undersample these data.
        nan: ``refuse`` samples that are NaN or infinite, or ``zero``: set them to 0 and count them as not measured.
        strict: refuse what is otherwise noted and worked around; see `doubt`.
        doubts: those of the notes that say so.
        noise: noise measured without signal, (coil, samples) complex64 in the scale and coil order of k-space, for
            prewhitening; the attributes `noise_dwell_us` and `dwell_us` state the time per sample of noise and of
            k-space where the file does. None where the file has none.
        geometry: where the scan lies in the patient, or None where the file does not say.
        acquisitions: of raw data, how many readouts there are of each kind ("image", "noise", "navigator", ...).
        unverified: whether the reader of this format has only been tried on files made after its description.
        prepared: what was done to it before its reconstruction, see `mrirecon.reconstruction.preprocess`; None for a
            scan as it was read.

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
    doubts: list[str] = field(default_factory=list, repr=False)
    noise: np.ndarray | None = field(default=None, repr=False)
    geometry: Geometry | None = field(default=None, repr=False)
    acquisitions: dict[str, int] = field(default_factory=dict, repr=False)
    unverified: bool = False
    prepared: Prepared | None = field(default=None, repr=False)
    _masks: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _fingerprint: Fingerprint = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        self._fingerprint = self._stat()

    def __len__(self) -> int:
        return self.layout.count

    @property
    def shape(self) -> dict[str, int]:
        """Lengths by name, in order: loop axes, coil (1 where the file has none), space."""
        return self.layout.shape

    @property
    def space(self) -> tuple[str, ...]:
        """Names of the spatial axes, in the file's order."""
        return self.layout.space

    @property
    def space_shape(self) -> tuple[int, ...]:
        """Lengths of the spatial axes."""
        return self.layout.space_shape

    @property
    def coils(self) -> int:
        """Number of receiver channels."""
        return self.shape["coil"]

    @property
    def items(self) -> list[dict[str, int]]:
        """Loop indices of each item, for instance ``{"slice": 3}``."""
        return self.layout.items

    @property
    def has_mask(self) -> bool:
        """Whether a mask was in the file or given; otherwise the data themselves show what was sampled."""
        return self.given_mask is not None

    def where(self, item: int) -> str:
        """Return the file and item in words, for messages."""
        index = zip(self.layout.loops, self.layout.loop_index(item), strict=True)
        name = ", ".join(f"{axis} {i}" for axis, i in index)
        return f"{self.path}:{self.roles.kspace}" + (f", {name}" if name else "")

    def raw(self, item: int) -> np.ndarray:
        """Return k-space of an item as stored, (coil, *space) complex64, unmasked and unchecked."""
        block = self._read(self.roles.kspace, self.layout.index(item))
        values = block if block.dtype == np.complex64 else to_complex64(block, self.where(item))
        return np.array(self.layout.arrange(values), order="C")

    def block(self, item: int, coils: slice, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of an item's k-space as stored, (coil, *part) complex64, unmasked and unchecked.

        Args:
            item: which.
            coils: which coils.
            part: one slice for every spatial axis.

        """
        index = list(self.layout.index(item))
        cut = {"coil": coils, **dict(zip(self.space, part, strict=True))}
        index = [cut.get(axis, place) for axis, place in zip(self.layout.axes, index, strict=True)]
        values = to_complex64(self._read(self.roles.kspace, tuple(index)), self.where(item))
        return np.ascontiguousarray(self.layout.arrange(values))

    def kspace(self, item: int) -> np.ndarray:
        """Return k-space of an item, (coil, *space) complex64, zero where not sampled.

        Raises:
            SignalError: nothing but zeros, or values that are not numbers (the first is named).
            InputError: the mask marks none of the data, or the file changed since it was opened.

        """
        return self.samples(item)[0]

    def mask(self, item: int) -> np.ndarray:
        """Return which samples of an item may be used, (*space) booleans: marked by the mask, if any, and acquired."""
        if item not in self._masks:
            self.samples(item)
        return self._masks[item].copy()

    def maps(self, item: int) -> np.ndarray | None:
        """Return the coil maps of an item, (M, coil, *space) complex64, or None where there are none."""
        if self.roles.maps is None:
            return None
        store, where, index = self._stored_maps(item)
        found = to_complex64(store.read(self.roles.maps, index), where)
        if not np.isfinite(found).all():
            raise InputError("the coil maps hold values that are not numbers", where=where, fix="estimate them again")
        return found.reshape(-1, self.coils, *self.space_shape)

    def map_sets(self, item: int) -> int:
        """Return how many sets of coil maps are stored for an item."""
        store, _, index = self._stored_maps(item)
        return math.prod(store.arrays[str(self.roles.maps)][0][len(index) :]) // (
            self.coils * math.prod(self.space_shape)
        )

    def maps_block(self, item: int, number: int, part: tuple[slice, ...]) -> np.ndarray:
        """Return a part of one coil map of an item as stored, (*part) complex64, unchecked.

        Args:
            item: which.
            number: of the map: the coils of the first set, then those of the next.
            part: one slice for every spatial axis.

        """
        store, where, index = self._stored_maps(item)
        name = str(self.roles.maps)
        channels = store.arrays[name][0][len(index) : -len(self.space)]
        channel = tuple(int(i) for i in np.unravel_index(number, channels)) if channels else ()
        return to_complex64(store.read(name, (*index, *channel, *part)), where)

    def _stored_maps(self, item: int) -> tuple[Store, str, tuple[int, ...]]:
        """Return the store of the coil maps, file and array in words, and the leading index of an item's maps."""
        assert self.roles.maps is not None, "the caller looked"
        store = self.maps_store or self.store
        where = f"{store.path}:{self.roles.maps}"
        return store, where, maps_index(store.arrays[self.roles.maps][0], self.layout, item, where)

    @property
    def reference(self) -> np.ndarray | None:
        """Magnitude of the fully sampled image, (item, *image) float32, or None; fastMRI's is cropped in the plane."""
        if self.roles.reference is None:
            return None
        values = magnitude_of(self._read(self.roles.reference), f"{self.path}:{self.roles.reference}")
        return values.reshape(reference_shape(values.shape, self.layout) or values.shape)

    @property
    def calibration(self) -> np.ndarray | None:
        """Separate, fully sampled calibration k-space, (1 or item, coil, *box) complex64, or None."""
        if self.roles.calibration is None:
            return None
        values = self._read(self.roles.calibration)
        shape = calibration_shape(values.shape, self.layout)
        where = f"{self.path}:{self.roles.calibration}"
        found = to_complex64(values, where).reshape(shape or values.shape)
        for item in found:
            check_kspace(item, ("coil", *self.space), where)
        return found

    def blank(self, item: int) -> bool:
        """Whether an item is known to hold no signal, so that its image is zero; of a file, reading it tells."""
        return False

    def usable(self, items: Iterable[int] | None = None) -> list[int]:
        """Return which items (of some) can be read: there is signal, of numbers, and the mask marks some of it.

        Raises:
            BusyError: the file changed since it was opened.

        """
        found = []
        for item in range(len(self)) if items is None else items:
            try:
                self.mask(item)
            except BusyError:
                raise
            except InputError:
                continue
            found.append(item)
        return found

    def example(self) -> int:
        """Return the first item that can be read, for what is the same in all of them.

        Raises:
            InputError: there is none; what is wrong with the first.

        """
        found = next((item for item in range(len(self)) if self.usable([item])), None)
        if found is None:
            self.mask(0)  # which says what is wrong
        return found or 0

    def empty(self, item: int) -> bool:
        """Whether an item holds no signal, and another one does.

        Raises:
            InputError: no item can be read; what is wrong with the first.

        """
        return self.glance(item) is None and self.example() != item

    def glance(self, item: int) -> np.ndarray | None:
        """Return about what `mask` does, from one coil and unchecked, and so quickly; None without any signal."""
        if item in self._masks:
            return self._masks[item].copy()
        known = getattr(self.store, "sampled", None)  # raw data say so without being read
        index, seen = list(self.layout.index(item)), np.zeros(self.space_shape, bool) if known is None else known(item)
        for coil in dict.fromkeys((self.coils // 2, *range(self.coils))) if known is None else ():
            if "coil" in self.layout.axes:
                index[self.layout.axes.index("coil")] = slice(coil, coil + 1)
            values = self._read(self.roles.kspace, tuple(index))
            values = to_complex64(values, self.where(item)) if values.dtype.fields else values
            seen = support(self.layout.arrange(values))
            if seen.any():
                break
        if self.given_mask is not None:
            seen = reconcile(self.given_mask[item if len(self.given_mask) > 1 else 0], seen)[0]
        return seen if seen.any() else None

    def sha256(self) -> str:
        """Return the SHA-256 of the file (of the data file of a BART pair)."""
        return sha256(self.store.files[-1])

    def with_notes(self, notes: Iterable[str]) -> Self:
        """Return the same scan with further notes; this one keeps its own."""
        found = copy.copy(self)
        found.notes = [*self.notes, *notes]
        return found

    def _note(self, text: str) -> None:
        """Note once what reading showed."""
        if text not in self.notes:
            self.notes.append(text)

    def doubt(self, text: str, where: str) -> None:
        """Note something that data in order do not show.

        Raises:
            InputError: the scan is read with ``strict``.

        """
        if self.strict:
            raise InputError(
                "this is noted otherwise, and refused with --strict", where=where, why=text, fix="leave --strict out"
            )
        self._note(text)
        if text not in self.doubts:
            self.doubts.append(text)

    def samples(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return k-space and mask of an item, as `kspace` and `mask` do, by reading it once."""
        kspace, where = self.raw(item), self.where(item)
        lost = without_nan(kspace) if self.nan == "zero" else None
        check_kspace(kspace, ("coil", *self.space), where)
        acquired = support(kspace)
        if lost is not None and lost.any():
            acquired &= ~lost
            self._note(f"{int(lost.sum())} samples of {where} are NaN or infinite in some coil: taken as not measured")
        mask = acquired
        if self.given_mask is not None:
            marked = self.given_mask[item if len(self.given_mask) > 1 else 0]
            mask = self.reconciled(marked, acquired, where)
            kspace *= mask
            if not kspace.any():
                raise self._no_overlap(marked, acquired, where)
        if len(self._masks) >= _KEPT_MASKS:
            self._masks.pop(next(iter(self._masks)))
        self._masks[item] = mask
        return kspace, mask.copy()

    def reconciled(self, marked: np.ndarray, acquired: np.ndarray, where: str) -> np.ndarray:
        """Return which samples are both marked and acquired; what disagrees is noted, or refused.

        Args:
            marked: by the mask, booleans.
            acquired: by the data, booleans of the same shape.
            where: file and item, for the message.

        Raises:
            InputError: they have nothing in common, the mask is transposed, or ``strict`` refuses that they differ.

        """
        mask, missing, extra = reconcile(marked, acquired)
        if not mask.any():
            raise self._no_overlap(marked, acquired, where)
        disagree = missing or (extra and not self.retrospective)
        if disagree and marked.T.shape == acquired.shape and (acquired == marked.T).all():
            raise InputError(
                "the mask lies along the wrong axis",
                where=where,
                why="transposed, it marks exactly the samples that were acquired",
                fix="transpose the mask",
            )
        if missing:
            told = f"{missing:.1%} of the samples that the mask marks are zero in every coil"
            self.doubt(f"{told} (first seen in {where}): taken as not sampled", where)
        if extra and not self.retrospective:
            told = f"{extra:.1%} of the k-space samples lie outside the mask"
            self.doubt(f"{told} (first seen in {where}): set to zero", where)
        return mask

    def _no_overlap(self, marked: np.ndarray, acquired: np.ndarray, where: str) -> InputError:
        inverse = bool((marked != acquired).mean() > 0.99)
        return InputError(
            "the mask marks none of the samples that were acquired",
            where=where,
            why=f"it marks {marked.mean():.1%} of k-space, and {acquired.mean():.1%} is not zero",
            fix="the mask seems to be inverted: 1 must mean sampled" if inverse else "check that it is the right mask",
        )

    def _read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        if self._stat() != self._fingerprint:
            raise BusyError(f"{self.path} has changed since it was opened", fix="start again when it is complete")
        return self.store.read(name, index)

    def _stat(self) -> Fingerprint:
        try:
            return tuple((s.st_size, s.st_mtime_ns) for s in map(os.stat, self.store.files))
        except OSError:
            return ()
