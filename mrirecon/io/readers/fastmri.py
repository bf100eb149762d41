"""Read HDF5 k-space in fastMRI's layout: `kspace` (slice, coil, y, x), or (slice, y, x) for one coil."""

from __future__ import annotations

import re
from pathlib import Path

from mrirecon.errors import InputError
from mrirecon.io.axes import guess_axes, make_layout, unknown_axes
from mrirecon.io.readers.assemble import assemble, is_public, leaf, note_unusable, select_kspace
from mrirecon.io.readers.header import padding, read_header, sequence_values, write_header
from mrirecon.io.readers.registry import Source, register_reader
from mrirecon.io.safe.hdf5 import Hdf5Store
from mrirecon.io.scan import Layout, Scan

_HEADER = "ismrmrd_header"
# Any of these names marks a file in fastMRI's layout.
_FASTMRI = ("reconstruction_rss", "reconstruction_esc", _HEADER)
_FASTMRI_ATTRIBUTES = ("acquisition", "patient_id", "norm", "max")
_MANY_COILS = 32
# Name of an M4Raw file: subject and contrast, then the number of the repetition.
_M4RAW = re.compile(r"(\d{10}_(?:T1|T2|FLAIR))\d\d\.h5")


@register_reader("fastmri", rank=90, hdf5=True, suffixes=(".h5", ".hdf5"), holds=("kspace", "images"))
def read_hdf5(source: Source, *, axes: str | None = None, dataset: str | None = None) -> Scan:
    """Read HDF5 in fastMRI's layout, which mrirecon also writes, or in any other layout if `axes` names its axes.

    Besides `kspace`, the file may hold `mask` (along the last axis, or 2D), a reference (`reference`,
    `reconstruction_rss`, `reconstruction_esc`), `maps` (slice, M, coil, y, x), `calibration` and `ismrmrd_header`. The
    attribute `axes` of the k-space dataset names its axes. Without it, three axes are ambiguous, unless the file has
    the marks of fastMRI, and the user must name them.

    Raises:
        InputError, UnsafeContentError: see `open_hdf5`.

    """
    path, file = source.path, source.hdf5
    notes: list[str] = []
    arrays, unusable = file.survey(dataset)
    named = file.attribute_names
    note_unusable(unusable, dataset, notes)
    header_text = None
    if arrays.pop(_HEADER, None) is not None:
        try:
            header_text = file[_HEADER].text()
        except InputError as error:
            notes.append(f"not used: {error.what}")
    name = select_kspace(arrays, path, dataset)
    if "/" in name and dataset is None:
        notes.append(f"{name} is taken as k-space: no other array in the file can be")
    # Arrays that belong to k-space are in the same group.
    group = name[: -len(leaf(name))]
    arrays = {n: array for n, array in arrays.items() if n[: -len(leaf(n))] == group}
    public = [name for name in named if is_public(name)]
    attributes, kspace = file.attributes(public), file[name]
    stated = kspace.attributes(["axes"]).get("axes")
    known = header_text is not None or any(n in arrays for n in _FASTMRI)
    known = known or any(a in named for a in _FASTMRI_ATTRIBUTES)
    if len(attributes) < len(named):
        notes.append(f"{len(named) - len(attributes)} header values were not read: they could identify a person")
    where = f"{path}:{name}"
    if axes is None and stated is None and "axes" in kspace.attribute_names:
        raise unknown_axes(kspace.shape, where, "its attribute 'axes' cannot be read: write it as numpy.bytes_")
    layout = _layout(kspace.shape, where, axes, None if stated is None else str(stated), known, notes)
    header = None
    if header_text is not None:
        values = read_header(header_text, path)
        if values is None:
            notes.append(f"{_HEADER} is not well-formed XML and was not used")
        else:
            header = write_header(values)
            attributes |= sequence_values(values)
            width = layout.space_shape[-1]
            edges = padding(values, width)
            if edges is not None and edges != (0, width):
                attributes["padding_left"], attributes["padding_right"] = edges
    repetitions = _other_repetitions(path)
    if repetitions:
        notes.append(
            f"M4Raw repetition by its name, like {', '.join(repetitions)}: each file is a separate scan, and "
            "the mean of their images has less noise"
        )
    scan = assemble(
        source,
        Hdf5Store(path, arrays),
        "m4raw" if repetitions is not None else "hdf5",
        name,
        layout,
        notes=notes,
        attributes=attributes,
        header=header,
        unverified=repetitions is not None,
    )
    if kspace.unwritten_chunks:
        text = f"{kspace.unwritten_chunks} chunks of {name} were never written and read as zeros"
        scan.warn_or_refuse(text, where)
    return scan


def _other_repetitions(path: Path) -> list[str] | None:
    """Return the names of the other repetitions of an M4Raw file (Lyu et al., 2023); none for other names."""
    match = _M4RAW.fullmatch(path.name)
    if match is None:
        return None
    return [other.name for other in sorted(path.parent.glob(f"{match[1]}*.h5")) if other.name != path.name]


def _layout(
    shape: tuple[int, ...], where: str, axes: str | None, stated: str | None, known: bool, notes: list[str]
) -> Layout:
    if axes is not None:
        return make_layout(axes, shape, where, from_user=True)
    if stated is not None:
        return make_layout(stated, shape, f"{where}, attribute axes")
    if len(shape) == 4:
        # More coils than any scanner has, and more coils than columns: the coil axis is probably the last.
        if shape[1] > max(_MANY_COILS, shape[3]):
            raise unknown_axes(
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
    raise unknown_axes(shape, where)
