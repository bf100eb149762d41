"""HDF5 k-space in fastMRI's layout: `kspace` (slice, coil, y, x), or (slice, y, x) for one coil."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import ask_axes, guess_axes, make_layout
from mrirecon.io.identify import has_hdf5_signature
from mrirecon.io.readers.assemble import (
    NEEDED_NAMES,
    Given,
    MapsSource,
    assemble,
    is_public,
    kspace_in_groups,
    leaf,
    select_kspace,
)
from mrirecon.io.readers.header import padding, read_header, sequence_values, write_header
from mrirecon.io.readers.registry import Candidate, register_reader
from mrirecon.io.safe.hdf5 import GuardedFile, open_hdf5
from mrirecon.io.scan import Layout, Scalar, Scan

_HEADER = "ismrmrd_header"
# Any of these says that a file is fastMRI's or was written in its manner.
_FASTMRI = ("reconstruction_rss", "reconstruction_esc", _HEADER)
_FASTMRI_ATTRIBUTES = ("acquisition", "patient_id", "norm", "max")
_MANY_COILS = 32
# Subject, contrast, and the number of the repetition.
_M4RAW = re.compile(r"(\d{10}_(?:T1|T2|FLAIR))\d\d\.h5")


class Hdf5Store:
    """The datasets of an HDF5 file, opened for each access through `open_hdf5`."""

    def __init__(self, path: Path, arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        self.path, self.arrays = path, arrays
        self.files: tuple[Path, ...] = (path,)

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Return a part of a dataset."""
        with open_hdf5(self.path) as file:
            try:
                return file[name][index]
            except KeyError:
                raise InputError(f"{self.path}:{name} cannot be found any more", fix="the file is damaged") from None


def is_hdf5(candidate: Candidate) -> bool:
    """Whether a file has the signature of HDF5."""
    return bool(candidate.head) and has_hdf5_signature(candidate.path)


@register_reader(
    "fastmri",
    rank=90,
    signature=is_hdf5,
    container="hdf5",
    suffixes=(".h5", ".hdf5"),
    holds=("kspace", "images"),
)
def read_hdf5(
    path: Path, *, axes: str | None = None, dataset: str | None = None, mask: Given = None, maps: MapsSource = None
) -> Scan:
    """Read fastMRI HDF5, which is also our own, and whatever only `axes` can tell; see `mrirecon.io.read`.

    Beside `kspace` it may hold `mask` (along the last axis, or 2D), a reference (`reference`, `reconstruction_rss`,
    `reconstruction_esc`), `maps` (slice, M, coil, y, x), `calibration` and `ismrmrd_header`. An attribute `axes` of
    the k-space dataset names its axes; without it, and without anything that marks a fastMRI file, three axes are
    asked for.

    Raises:
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    notes: list[str] = []
    with open_hdf5(path) as file:
        arrays, header_text = _survey(file, dataset, notes)
        inside = kspace_in_groups(arrays, path, dataset)
        name = inside or select_kspace(arrays, path, dataset)
        group = name[: -len(leaf(name))]
        if inside is not None and dataset is None:
            notes.append(f"k-space is {name}: the only array in the file that can be")
        # What belongs to k-space lies beside it, in the same group.
        arrays = {n: found for n, found in arrays.items() if n[: -len(leaf(n))] == group}
        kspace = file[name]
        named = file.attribute_names
        beside = kspace.attribute_names
        found = {key: file.attribute(key) for key in named if is_public(key)}
        stated = kspace.attribute("axes") if "axes" in beside else None
        unwritten = kspace.unwritten_chunks
    known = header_text is not None or any(n in arrays for n in _FASTMRI)
    known = known or any(a in named for a in _FASTMRI_ATTRIBUTES)
    attributes = {key: value for key, value in found.items() if value is not None}
    if len(attributes) < len(named):
        notes.append(f"{len(named) - len(attributes)} header values were not read: they could identify a person")
    where = f"{path}:{name}"
    if axes is None and stated is None and "axes" in beside:
        raise ask_axes(kspace.shape, where, "its attribute 'axes' cannot be read: write it as numpy.bytes_")
    layout = _layout(kspace.shape, where, axes, None if stated is None else str(stated), known, notes)
    header = None
    if header_text is not None:
        values = read_header(header_text, path)
        if values is None:
            notes.append(f"{_HEADER} is not well-formed XML and was not used")
        else:
            header = write_header(values)
            attributes |= _from_header(values, layout.space_shape[-1])
    repetitions = _other_repetitions(path)
    if repetitions:
        notes.append(
            f"named as one repetition of M4Raw; beside it lie {', '.join(repetitions)}: each is a scan of its own, and "
            "the mean of their images has less noise"
        )
    scan = assemble(
        Hdf5Store(path, arrays),
        "m4raw" if repetitions is not None else "hdf5",
        name,
        layout,
        notes=notes,
        attributes=attributes,
        header=header,
        mask=mask,
        maps=maps,
        unverified=repetitions is not None,
    )
    if unwritten:
        scan.warn_or_refuse(f"{unwritten} chunks of {name} were never written and read as zeros", where)
    return scan


def _other_repetitions(path: Path) -> list[str] | None:
    """Return the names of the other repetitions beside a file of M4Raw (Lyu et al., 2023); None for any other name."""
    found = _M4RAW.fullmatch(path.name)
    if found is None:
        return None
    return [one.name for one in sorted(path.parent.glob(f"{found[1]}*.h5")) if one.name != path.name]


def _survey(
    file: GuardedFile, dataset: str | None, notes: list[str]
) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype]], str | None]:
    """Return shape and type of every dataset (groups included, and the one asked for), and the header's text."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    header: str | None = None
    names = file.datasets()
    for name in names if dataset is None or dataset in names else [*names, dataset]:
        try:
            found = file[name]
            if name == _HEADER:
                header = found.text()
                continue
        except KeyError:
            raise InputError(f"{file.path} has no dataset {name!r}", why=f"it holds {', '.join(names[:12])}") from None
        except InputError as error:
            if name == dataset or name.lower() in NEEDED_NAMES:
                raise
            if "/" not in name:
                notes.append(f"not used: {error.what}")
            continue
        arrays[name] = (found.shape, found.dtype)
    return arrays, header


def _from_header(values: dict[str, str], width: int) -> dict[str, Scalar]:
    found: dict[str, Scalar] = dict(sequence_values(values))
    edges = padding(values, width)
    if edges is not None and edges != (0, width):
        found["padding_left"], found["padding_right"] = edges
    return found


def _layout(
    shape: tuple[int, ...], where: str, axes: str | None, stated: str | None, known: bool, notes: list[str]
) -> Layout:
    if axes is not None:
        return make_layout(axes, shape, where, asked=True)
    if stated is not None:
        return make_layout(stated, shape, f"{where}, attribute axes")
    if len(shape) == 4:
        # More coils than any scanner has, and fewer columns than coils: the coil axis is probably the last.
        if shape[1] > max(_MANY_COILS, shape[3]):
            raise ask_axes(
                shape, where, f"read as slice,coil,y,x it would have {shape[1]} coils and {shape[3]} columns"
            )
        return make_layout("slice,coil,y,x", shape, where)
    if len(shape) == 3 and known:
        return make_layout("slice,y,x", shape, where)
    if len(shape) == 2:
        guessed = guess_axes(shape)
        if guessed is not None:
            notes.append(guessed[1])
            return make_layout(guessed[0], shape, where)
    raise ask_axes(shape, where)
