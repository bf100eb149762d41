"""Convert k-space or images to another format, with all data that both formats can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.geometry import stored_geometry
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.dicom import dicom_files
from mrirecon.io.readers.images import (
    IMAGE_NAMES,
    holds_images,
    is_volumes,
    open_store,
    read_image,
    read_images,
)
from mrirecon.io.readers.nifti import PAIR, is_nifti
from mrirecon.io.readers.reader import read
from mrirecon.io.readers.registry import sniff
from mrirecon.io.safe.atomic import atomic_paths, refuse_existing, sha256
from mrirecon.io.scan import Scan, complex_dtype, to_complex64
from mrirecon.io.select import select, select_images
from mrirecon.io.writers.encode_dicom import Series
from mrirecon.io.writers.encode_mrd import encode_mrd
from mrirecon.io.writers.write import (
    ArrayFormat,
    ImageFormat,
    format_losses,
    image_format,
    require,
    sidecar_path,
    write_image,
    write_json,
    write_kspace,
)

Kind = Literal["auto", "kspace", "images"]
Format = Literal[ImageFormat, "mrd"]
COMPLEX = "reconstruction_complex"


@dataclass(frozen=True)
class Conversion:
    """Hold the result of a conversion.

    Attributes:
        kind: "k-space" or "images".
        outputs: files written, without the sidecar.
        shape: shape of the array, as stored.
        notes: conclusions, and data that the new format cannot hold.

    """

    kind: str
    outputs: list[Path]
    shape: tuple[int, ...]
    notes: list[str]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    format: Format | None = None,
    kind: Kind = "auto",
    axes: str | None = None,
    dataset: str | None = None,
    items: str | None = None,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
) -> Conversion:
    """Write k-space or images in another format, with a sidecar that names the source.

    k-space is written as HDF5, npz or BART's cfl, with axes, mask, coil maps, reference, calibration data, noise scan
    and position as far as the format can hold them. A BART pair `name` is read and written with the pairs `name_mask`,
    `name_maps` and `name_reference`. Images can also be written as NIfTI, DICOM and PNG. Values are those of the source
    in single precision; a note states what a format cannot hold.

    Args:
        source: any file that `read` or `read_images` reads.
        target: output path; its suffix states the format unless `format` is given.
        format: see `write_image`; "mrd" (or the suffix `.mrd`) is ISMRMRD, see `mrirecon.io.writers.encode_mrd`.
        kind: content of the source; "auto" takes k-space if there is any.
        axes: names of the axes of k-space, if the file does not state them.
        dataset: name of the array, if there are several.
        items: items to convert, such as "3-17"; None for all.
        overwrite: replace an output that exists.
        command: the command line, for the sidecar.

    Raises:
        UsageError: an output that exists or is the input; k-space to an image format; axes that BART does not have.
        InputError, UnsafeContentError, ResourceError: see `read` and `write_image`.

    """
    source, target = Path(source), Path(target)
    raw = format == "mrd" or (format is None and target.suffix.lower() == ".mrd")
    chosen = "h5" if raw else image_format(target, format)
    require("mrd" if raw else chosen)
    _refuse_existing(target, chosen, overwrite)
    inputs = _inputs(source)
    if source.is_dir():  # for a series: hash of the hashes of its slices, one per line, sorted by name
        digest = hashlib.sha256("".join(f"{sha256(file)}\n" for file in dicom_files(source)).encode()).hexdigest()
    else:
        digest = sha256(inputs[0])
    sidecar: dict[str, object] = {"input": {"file": str(source), "sha256": digest}}
    sidecar["command"] = None if command is None else list(command)
    if kind == "images" or (not raw and kind == "auto" and axes is None and _is_image(source, dataset)):
        return _convert_images(source, target, chosen, dataset, items, inputs, sidecar, digest)
    scan = read_with_siblings(source, axes, dataset)
    scan.require_grid("a conversion")
    if items is not None:
        scan = select(scan, items)
    if raw:
        return _convert_raw(scan, target, inputs, sidecar)
    if chosen == "nii" or chosen == "dicom" or chosen == "png" or chosen == "montage":
        also = f"; or convert its reference: --dataset {scan.roles.reference}" if scan.roles.reference else ""
        what, fix = f"{source} holds k-space, which cannot be written as {chosen}", f"mrirecon reconstruct {source}"
        raise UsageError(what, fix=f"{fix} -o {target}{also}")
    return _convert_kspace(scan, target, chosen, inputs, sidecar)


def _refuse_existing(target: Path, format: ImageFormat, overwrite: bool) -> None:
    header, data = cfl_pair(target)
    outputs = [header, data, sidecar_path(data)] if format == "cfl" else [target, sidecar_path(target)]
    refuse_existing(outputs, overwrite)
    for name in ("mask", "maps", "reference") if format == "cfl" else ():
        old = _sibling(data, name)
        if old is not None:
            why = f"it would be read as the {name} of {data.name}"
            raise UsageError(
                "a file with this name exists", where=str(old), why=why, fix="remove it, or choose another output name"
            )


def _inputs(source: Path) -> list[Path]:
    """Return the files that must not be overwritten."""
    if source.suffix.lower() in PAIR and source.is_file() and is_nifti(source):
        return [source.with_suffix(".img"), source.with_suffix(".hdr")]
    data = cfl_pair(source)[1]
    return [data if not source.exists() and data.exists() else source]


def read_with_siblings(source: Path, axes: str | None = None, dataset: str | None = None) -> Scan:
    """Read k-space; for a BART pair, also the pairs of mask, maps and reference that `write_kspace` writes."""
    if sniff(source) != "cfl":
        return read(source, axes=axes, dataset=dataset)
    mask, maps = (_sibling(source, name) for name in ("mask", "maps"))
    scan = read(source, axes=axes, dataset=dataset, mask=mask, maps=maps)
    scan.notes += [f"with {file.name}, from the same folder" for file in (mask, maps) if file is not None]
    return scan


def _sibling(source: Path, name: str) -> Path | None:
    base = str(cfl_pair(source)[0])[: -len(".hdr")]
    header, data = cfl_pair(f"{base}_{name}.cfl")
    return data if header.is_file() and data.is_file() else None


def _is_image(source: Path, dataset: str | None) -> bool:
    if dataset is None or is_volumes(source):
        return is_volumes(source) or holds_images(source)
    arrays = open_store(source).arrays
    return dataset in arrays and (not complex_dtype(arrays[dataset][1]) or dataset.lower() in (*IMAGE_NAMES, COMPLEX))


def _convert_images(
    source: Path,
    target: Path,
    format: ImageFormat,
    dataset: str | None,
    items: str | None,
    inputs: list[Path],
    sidecar: dict[str, object],
    digest: str,
) -> Conversion:
    images = read_images(source, dataset=dataset)
    values, notes, loops = images.values, [], images.loops
    if not (dataset is not None or is_volumes(source) or sniff(source) == "cfl" or np.iscomplexobj(values)):
        store = open_store(source)
        others = [n for n in store.arrays if n.lower() in IMAGE_NAMES and f"{source}:{n}" != images.where]
        if COMPLEX in store.arrays and store.arrays[COMPLEX][0] == values.shape:
            values = store.read(COMPLEX)
        elif others:
            notes.append(f"also in the file, not converted: {', '.join(others)}")
    values, grid = select_images(values, images.grid, items, source)
    if items is not None:
        loops = None
        notes.append(f"items {items}")
    if complex_dtype(values.dtype):
        values = to_complex64(values, images.where)
    elif values.dtype.kind not in "biuf":
        raise InputError("images must hold numbers", where=images.where, why=f"the array is {values.dtype}")
    elif bool((values < 0).any()):
        notes.append("negative values become positive: images are written as magnitudes")
    if values.dtype.kind in "iuf" and values.dtype.itemsize > 4 and not np.array_equal(values, values.astype("f4")):
        notes.append(f"{values.dtype} is rounded to single precision")
    notes += format_losses(format, values, grid, loops)
    outputs = write_image(
        target,
        values,
        format=format,
        sidecar={**sidecar, "notes": notes},
        keep_complex=np.iscomplexobj(values),
        inputs=inputs,
        grid=grid,
        loops=loops,
        series=Series("converted", digest),
    )
    return Conversion("images", outputs, values.shape, notes)


def _convert_kspace(
    scan: Scan, target: Path, format: ArrayFormat, inputs: list[Path], sidecar: dict[str, object]
) -> Conversion:
    layout, notes = scan.layout, list(scan.notes)
    kspace = np.empty(layout.sizes, np.complex64)  # with its axes in the order of the file
    inner = [axis for axis in layout.axes if axis not in layout.loops]
    for item in range(len(scan)):
        block = scan.unmasked_kspace(item)
        kspace[layout.index(item)] = np.moveaxis(block, 0, inner.index("coil")) if "coil" in inner else block[0]
    if scan.dtype.itemsize > 8:
        notes.append(f"{scan.dtype} is rounded to single precision")
    maps = [m for m in map(scan.maps, range(len(scan))) if m is not None]
    reference = scan.reference
    if reference is not None and complex_dtype(scan.store.arrays[str(scan.roles.reference)][1]):
        notes.append("the reference is complex: its magnitude is written")
    sibling = _sibling(scan.path, "reference") if reference is None and scan.format == "cfl" else None
    if sibling is not None:
        notes.append(f"with {sibling.name}, from the same folder")
        reference = read_image(sibling)
    signals = {"calibration": scan.calibration, "noise": scan.noise}
    beside = {name: array for name, array in signals.items() if array is not None}
    if format == "cfl":
        missing = [*beside, *(["its position"] if scan.geometry is not None else [])]
        missing += [f"{len(scan.attributes)} header values"] if scan.attributes else []
        notes += [f"BART's format does not hold {', '.join(missing)}"] if missing else []
        notes.append("axes are in BART's order")
        beside = {}
    elif scan.geometry is not None:
        beside |= stored_geometry(scan.geometry)
    if scan.header:
        notes.append("the ISMRMRD header is not written, except for the values that `mrirecon info` shows")
    name = scan.roles.reference or "reference"
    outputs = write_kspace(
        target,
        kspace,
        format=format,
        axes=",".join(layout.axes),
        mask=_smallest_mask(scan),
        reference=reference,
        reference_name=name if name.startswith("reconstruction") else "reference",
        maps=np.stack(maps) if maps else None,
        attributes=scan.attributes,
        sidecar={**sidecar, "notes": notes},
        inputs=inputs,
        beside=beside,
    )
    return Conversion("k-space", outputs, kspace.shape, notes)


def _smallest_mask(scan: Scan) -> np.ndarray | None:
    """Return the mask in its smallest form: along the last axis, (*space), or (*loops, *space)."""
    if scan.given_mask is None:
        return None
    if len(scan.given_mask) > 1:
        return scan.given_mask.reshape(*scan.layout.loop_shape, *scan.space_shape)
    mask = scan.given_mask[0]
    line: np.ndarray = mask.reshape(-1, mask.shape[-1])[0]
    return line if bool((mask == line).all()) else mask


def _convert_raw(scan: Scan, target: Path, inputs: list[Path], sidecar: dict[str, object]) -> Conversion:
    losses: list[str] = []
    encode = encode_mrd(scan, losses)
    with atomic_paths([target, sidecar_path(target)], inputs=inputs) as (file, sidecar_file):
        encode(file)  # reading adds notes to the scan
        notes = [*scan.notes, *losses]
        output = {"file": target.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
        write_json(sidecar_file, {**sidecar, "notes": notes, "outputs": [output]})
    return Conversion("k-space", [target], tuple(scan.shape.values()), notes)
