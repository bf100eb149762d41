"""One file in another format: k-space to k-space, images to images, with all that both can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.geometry import GEOMETRY_NAMES, stored_geometry
from mrirecon.io.identify import cfl_pair
from mrirecon.io.readers.dicom import dicom_files
from mrirecon.io.readers.images import (
    IMAGE_NAMES,
    Images,
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
from mrirecon.io.scan import Layout, Scan, complex_dtype, to_complex64
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
    """What was done.

    Attributes:
        kind: "k-space" or "images".
        outputs: files written, without the sidecar.
        shape: of the array, as stored.
        notes: what was concluded, and what the new format does not hold.

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
    """Write k-space or images in another format, with a sidecar that says from what.

    k-space goes to HDF5, npz and BART's cfl, with its axes, mask, coil maps, reference, calibration data, noise scan
    and place as far as the format holds them; to a BART pair `name` belong `name_mask`, `name_maps` and
    `name_reference`, in and out. Images go to these, NIfTI, DICOM and PNG. Values are those of the source in single
    precision; where a format holds less, a note says so.

    Args:
        source: any file that `read` or `read_images` reads.
        target: where to; its name tells the format unless `format` does.
        format: see `write_image`; "mrd" (also by the name, `.mrd`) is ISMRMRD, see `mrirecon.io.writers.encode_mrd`.
        kind: what the source holds; "auto" takes k-space where there is some.
        axes: names of the axes of k-space, where its file leaves them open.
        dataset: name of the array, where there are several.
        items: which of them, such as "3-17"; None for all.
        overwrite: replace an output that exists.
        command: the command line, for the sidecar.

    Raises:
        UsageError: an output that exists, or is the input; k-space to an image format; axes that BART does not have.
        InputError, UnsafeContentError, ResourceError: see `read` and `write_image`.

    """
    source, target = Path(source), Path(target)
    raw = format == "mrd" or (format is None and target.suffix.lower() == ".mrd")
    chosen = "h5" if raw else image_format(target, format)
    require(chosen)
    _refuse_existing(target, chosen, overwrite)
    inputs = _inputs(source)
    told: dict[str, object] = {"input": {"file": str(source), "sha256": _digest(source, inputs)}}
    told["command"] = None if command is None else list(command)
    if kind == "images" or (not raw and kind == "auto" and axes is None and _is_image(source, dataset)):
        return _images(source, target, chosen, dataset, items, inputs, told)
    scan = select(read_with_siblings(source, axes, dataset), items)
    if raw:
        return _raw(scan, target, inputs, told)
    for known in get_args(ArrayFormat):
        if chosen == known:
            return _kspace(scan, target, known, inputs, told)
    also = f"; or take its reference: --dataset {scan.roles.reference}" if scan.roles.reference else ""
    raise UsageError(
        f"{source} holds k-space, which cannot be written as {chosen}",
        fix=f"mrirecon reconstruct {source} -o {target}{also}",
    )


def _refuse_existing(target: Path, format: ImageFormat, overwrite: bool) -> None:
    header, data = cfl_pair(target)
    places = [header, data, sidecar_path(data)] if format == "cfl" else [target, sidecar_path(target)]
    refuse_existing(places, overwrite)
    for name in ("mask", "maps", "reference") if format == "cfl" else ():
        old = _sibling(data, name)
        if old is not None:
            why = f"it would be taken for the {name} of {data.name}"
            raise UsageError("a file of that name lies there", where=str(old), why=why, fix="remove it, or rename")


def read_with_siblings(source: Path, axes: str | None = None, dataset: str | None = None) -> Scan:
    """Read k-space; of a BART pair with the mask, maps and reference that `write_kspace` puts beside it."""
    if sniff(source) != "cfl":
        return read(source, axes=axes, dataset=dataset)
    mask, maps = (_sibling(source, name) for name in ("mask", "maps"))
    scan = read(source, axes=axes, dataset=dataset, mask=mask, maps=maps)
    for found in (mask, maps):
        if found is not None:
            scan.notes.append(f"with {found.name}, which lies beside it")
    return scan


def _is_image(source: Path, dataset: str | None) -> bool:
    if is_volumes(source):
        return True
    if dataset is not None:
        arrays = open_store(source).arrays
        return dataset in arrays and (
            not complex_dtype(arrays[dataset][1]) or dataset.lower() in (*IMAGE_NAMES, COMPLEX)
        )
    return holds_images(source)


def _images(
    source: Path,
    target: Path,
    format: ImageFormat,
    dataset: str | None,
    items: str | None,
    inputs: list[Path],
    told: dict[str, object],
) -> Conversion:
    found = read_images(source, dataset=dataset)
    values, notes = _whole(source, found, dataset)
    values, grid = select_images(values, found.grid, items, source)
    found = replace(found, grid=grid, loops=found.loops if items is None else None)
    notes += [f"items {items}"] if items is not None else []
    if complex_dtype(values.dtype):
        values = to_complex64(values, found.where)
    elif values.dtype.kind not in "biuf":
        raise InputError("images must hold numbers", where=found.where, why=f"the array is {values.dtype}")
    if np.iscomplexobj(values) is False and bool((values < 0).any()):
        notes.append("negative values become positive: images are written as magnitudes")
    if values.dtype.kind in "iuf" and values.dtype.itemsize > 4 and not np.array_equal(values, values.astype("f4")):
        notes.append(f"{values.dtype} is rounded to single precision")
    notes += format_losses(format, values, found.grid, found.loops)
    outputs = write_image(
        target,
        values,
        format=format,
        sidecar={**told, "notes": notes},
        keep_complex=np.iscomplexobj(values),
        inputs=inputs,
        grid=found.grid,
        loops=found.loops,
        series=Series("converted", _digest(source, inputs)),
    )
    return Conversion("images", outputs, values.shape, notes)


def _whole(source: Path, found: Images, dataset: str | None) -> tuple[np.ndarray, list[str]]:
    """Return complex images where magnitudes were found and complex ones lie beside them."""
    if dataset is not None or is_volumes(source) or sniff(source) == "cfl" or np.iscomplexobj(found.values):
        return found.values, []
    store = open_store(source)
    if COMPLEX in store.arrays and store.arrays[COMPLEX][0] == found.values.shape:
        return store.read(COMPLEX), []
    others = [n for n in store.arrays if n.lower() in IMAGE_NAMES and f"{source}:{n}" != found.where]
    return found.values, [f"also in the file, not converted: {', '.join(others)}"] if others else []


def _kspace(scan: Scan, target: Path, format: ArrayFormat, inputs: list[Path], told: dict[str, object]) -> Conversion:
    kspace, layout = _stored(scan), scan.layout
    maps = [scan.maps(item) for item in range(len(scan))] if scan.roles.maps is not None else []
    sets = np.stack([m for m in maps if m is not None]) if maps else None
    notes = list(scan.notes)
    if scan.dtype.itemsize > 8:
        notes.append(f"{scan.dtype} is rounded to single precision")
    beside: dict[str, np.ndarray] = {}
    if scan.calibration is not None:
        beside["calibration"] = scan.calibration
    if scan.noise is not None:
        beside["noise"] = scan.noise
    if scan.geometry is not None:
        beside |= stored_geometry(scan.geometry)
    reference = _reference(scan, notes)
    if format == "cfl":
        left = [name for name in beside if name not in GEOMETRY_NAMES]
        left += ["where it lies"] if scan.geometry is not None else []
        left += [f"{len(scan.attributes)} header values"] if scan.attributes else []
        notes += [f"BART's format does not hold {', '.join(left)}"] if left else []
        notes.append("axes are in BART's order")
        beside = {}
    if scan.header:
        notes.append("the ISMRMRD header is not kept, but for the values that are shown by `mrirecon info`")
    name = scan.roles.reference or "reference"
    outputs = write_kspace(
        target,
        kspace,
        format=format,
        axes=",".join(layout.axes),
        mask=_mask(scan, layout),
        reference=reference,
        reference_name=name if name.startswith("reconstruction") else "reference",
        maps=sets,
        attributes=scan.attributes,
        sidecar={**told, "notes": notes},
        inputs=inputs,
        beside=beside,
    )
    return Conversion("k-space", outputs, kspace.shape, notes)


def _raw(scan: Scan, target: Path, inputs: list[Path], told: dict[str, object]) -> Conversion:
    notes: list[str] = []
    encode = encode_mrd(scan, notes)
    with atomic_paths([target, sidecar_path(target)], inputs=inputs) as (file, beside):
        encode(file)
        notes = [*scan.notes, *notes]
        output = {"file": target.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
        write_json(beside, {**told, "notes": notes, "outputs": [output]})
    return Conversion("k-space", [target], tuple(scan.shape.values()), notes)


def _stored(scan: Scan) -> np.ndarray:
    """Return k-space with its axes in the file's order, complex64."""
    layout = scan.layout
    kspace = np.empty(layout.sizes, np.complex64)
    inner = [axis for axis in layout.axes if axis not in layout.loops]
    for item in range(len(scan)):
        block = scan.unmasked_kspace(item)
        kspace[layout.index(item)] = np.moveaxis(block, 0, inner.index("coil")) if "coil" in inner else block[0]
    return kspace


def _mask(scan: Scan, layout: Layout) -> np.ndarray | None:
    """Return the mask in its smallest form: along the last axis, (*space), or (*loops, *space)."""
    if scan.given_mask is None:
        return None
    if len(scan.given_mask) > 1:
        return scan.given_mask.reshape(*layout.loop_shape, *layout.space_shape)
    mask = scan.given_mask[0]
    line: np.ndarray = mask.reshape(-1, mask.shape[-1])[0]
    return line if bool((mask == line).all()) else mask


def _reference(scan: Scan, notes: list[str]) -> np.ndarray | None:
    if scan.roles.reference is not None and complex_dtype(scan.store.arrays[scan.roles.reference][1]):
        notes.append("of the complex reference, the magnitude is kept")
    if scan.reference is None and scan.format == "cfl":
        beside = _sibling(scan.path, "reference")
        if beside is not None:
            notes.append(f"with {beside.name}, which lies beside it")
            return read_image(beside)
    return scan.reference


def _sibling(source: Path, name: str) -> Path | None:
    base = str(cfl_pair(source)[0])[: -len(".hdr")]
    header, data = cfl_pair(f"{base}_{name}.cfl")
    return data if header.is_file() and data.is_file() else None


def _inputs(source: Path) -> list[Path]:
    """Return the files that must not be written over."""
    if source.is_dir():
        return [source]
    if source.suffix.lower() in PAIR and is_nifti(source):
        return [source.with_suffix(".img"), source.with_suffix(".hdr")]
    if not source.exists() and cfl_pair(source)[1].exists():
        return [cfl_pair(source)[1]]
    return [source]


def _digest(source: Path, inputs: list[Path]) -> str:
    """Return the SHA-256 of the input: of a series, that of its slices' hashes, a line each, in the order of names."""
    if not source.is_dir():
        return sha256(inputs[0])
    return hashlib.sha256("".join(f"{sha256(file)}\n" for file in dicom_files(source)).encode()).hexdigest()
