"""Write images, k-space, coil maps and their JSON sidecars: whole or not at all, and never over an input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrirecon.errors import SignalError, UsageError
from mrirecon.io.axes import BART, make_layout
from mrirecon.io.geometry import Grid, as_volumes, encode_loops, stored_grid
from mrirecon.io.identify import cfl_pair
from mrirecon.io.safe.atomic import atomic_path, atomic_paths, sha256
from mrirecon.io.safe.scratch import pieces
from mrirecon.io.scan import SPACE
from mrirecon.io.writers.encode import (
    Attributes,
    Converted,
    Encode,
    Lazy,
    encode_cfl,
    encode_hdf5,
    encode_npz,
    encode_png,
    encode_text,
)
from mrirecon.io.writers.encode_dicom import Series, encode_dicom
from mrirecon.io.writers.encode_nifti import encode_nifti
from mrirecon.io.writers.folder import atomic_folder
from mrirecon.io.writers.formats import ArrayFormat, ImageFormat, image_format, page_names

_DIM = {name: number for number, name in enumerate(BART) if name} | {"item": BART.index("slice")}


def write_image(
    path: str | Path,
    images: np.ndarray,
    *,
    format: ImageFormat | None = None,
    sidecar: Mapping[str, object] | None = None,
    keep_complex: bool = False,
    inputs: Iterable[str | Path] = (),
    bits: Literal[8, 16] = 8,
    window: float | None = None,
    grid: Grid | None = None,
    loops: Mapping[str, int] | None = None,
    series: Series | None = None,
) -> list[Path]:
    """Write reconstructed images and, if given, their sidecar `path`.json.

    HDF5 and npz hold `reconstruction`, the magnitude in float32, and with `keep_complex` also
    `reconstruction_complex`, and where the images lie, if known (`affine_lps_mm`, see `mrirecon.io.geometry`, or
    `spacing_mm`); cfl holds complex values, items along BART's slice dimension. NIfTI holds magnitudes in float32,
    DICOM in 16 bits, a folder of slices. PNG is for looking at: one grey picture an item (and a plane, in 3D), black at
    0 and white at `window`; several are numbered `name_000.png`. `formats.kept` says what a format leaves out.

    Args:
        path: where to; a BART pair by either name or their common one; for DICOM, a folder. A folder that exists is
            replaced only where it holds nothing but such slices.
        images: (item, y, x) or (item, z, y, x), real or complex.
        format: by default from the extension of `path`.
        sidecar: plain data for the JSON; the outputs, their sizes and SHA-256 are added under "outputs".
        keep_complex: also keep the complex values.
        inputs: files that must not be overwritten.
        bits: 8 or 16 bits a pixel of a PNG.
        window: the magnitude shown white in a PNG; by default the largest of all items.
        grid: where the images lie.
        loops: lengths of the axes that the items run over, the last fastest; slices, if left out.
        series: what a DICOM series is called.

    Returns:
        The image files written, without the sidecar.

    Raises:
        SignalError: values that are not numbers; nothing is written.
        UsageError: an unknown format, a path that is an input or a folder.
        ResourceError: the disk is full, read-only, or may not be written to.

    """
    images = np.asarray(images)
    chosen = image_format(path, format)
    if images.ndim not in (3, 4) or not images.size:
        raise UsageError("images must be (item, y, x) or (item, z, y, x)", why=f"shape {images.shape}")
    _refuse_nan(images, str(path))
    axes = ("item", *SPACE[4 - images.ndim :])
    if chosen == "png":
        indices = list(np.ndindex(*images.shape[:-2]))
        white = max(float(np.abs(images[i]).max()) for i in indices) if window is None else window
        pages = [encode_png(images[i], bits, white) for i in indices]
        return _commit(dict(zip(page_names(Path(path), len(pages)), pages, strict=True)), path, sidecar, inputs)
    if chosen == "cfl":
        return _write_cfl(path, images, axes, sidecar, inputs)
    grid = grid or Grid()
    if chosen in ("nii", "dicom"):
        volumes = as_volumes(np.abs(images).astype(np.float32), loops)
        if chosen == "dicom":
            return _commit_folder(encode_dicom(volumes, grid, series or Series()), Path(path), sidecar, inputs)
        packed = not Path(path).name.lower().endswith(".nii")
        return _commit({Path(path): encode_nifti(volumes, grid, compressed=packed)}, path, sidecar, inputs)
    # The magnitude in the precision of the input: squares of 1e-30 would vanish in float32.
    arrays: dict[str, Lazy] = {"reconstruction": Converted(images, np.float32, np.abs)}
    if keep_complex:
        arrays["reconstruction_complex"] = Converted(images, np.complex64, np.asarray)
    arrays |= stored_grid(grid)
    items = encode_loops(loops)
    if chosen == "h5":
        encode = encode_hdf5(arrays, {}, {"reconstruction": {"items": items}} if items else {})
    else:
        encode = encode_npz({**arrays, "items": np.array(items)} if items else arrays)
    return _commit({Path(path): encode}, path, sidecar, inputs)


def write_kspace(
    path: str | Path,
    kspace: np.ndarray,
    *,
    format: ArrayFormat | None = None,
    axes: str = "slice,coil,y,x",
    mask: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    reference_name: str = "reconstruction_rss",
    maps: np.ndarray | None = None,
    attributes: Attributes | None = None,
    sidecar: Mapping[str, object] | None = None,
    inputs: Iterable[str | Path] = (),
    beside: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Write k-space so that `read` gives it back: fastMRI's HDF5 layout, npz, or a BART pair.

    The axes are stored in the file (HDF5: attribute of `kspace`; npz: entry `axes`). A BART pair holds one array:
    mask, reference and maps go to further pairs `name_mask`, `name_reference`, `name_maps`.

    Args:
        path: where to.
        kspace: complex, stored as complex64.
        format: by default from the extension.
        axes: one name per axis of `kspace`.
        mask: 0/1, along the last axis or (*space), stored as uint8.
        reference: (slice, y, x), of which the magnitude is stored as float32.
        reference_name: its name in HDF5, where `reconstruction_rss` promises a root sum of squares.
        maps: (slice, M, coil, y, x).
        attributes: scalar header values; HDF5 keeps them on the root, npz as JSON in the entry `meta`.
        sidecar: as in `write_image`.
        inputs: files that must not be overwritten.
        beside: further arrays of HDF5 and npz, by name.

    Returns:
        The files written, without the sidecar.

    Raises:
        UsageError, ResourceError, InputError: as in `write_image`; axes that do not fit.

    """
    chosen = image_format(path, format)
    if chosen not in get_args(ArrayFormat):
        raise UsageError(f"k-space cannot be written as {chosen}", fix="choose h5, npz or cfl")
    layout = make_layout(axes, kspace.shape, str(path), asked=True)
    data = np.ascontiguousarray(kspace, dtype=np.complex64)
    if chosen == "cfl":
        written = _write_cfl(path, data, layout.axes, sidecar, inputs)
        base = str(cfl_pair(path)[0])[: -len(".hdr")]
        lead = layout.loops or ("slice",)
        others = {
            "mask": (mask, (*lead, *layout.space)),
            "reference": (reference, (*lead, *layout.space)),
            "maps": (maps, (*lead, "maps", "coil", *layout.space)),
        }
        for name, (array, names) in others.items():
            if array is not None:
                value = np.asarray(array, dtype=np.complex64)
                if name == "mask" and value.ndim == 1:
                    value = np.broadcast_to(value, layout.space_shape)
                written += _write_cfl(f"{base}_{name}", value, names[-value.ndim :], None, inputs)
        return written
    arrays: dict[str, Lazy] = {"kspace": data, **(beside or {})}
    if mask is not None:
        arrays["mask"] = np.asarray(mask).astype(np.uint8)
    if reference is not None:
        arrays[reference_name if chosen == "h5" else "reference"] = np.abs(reference).astype(np.float32, copy=False)
    if maps is not None:
        arrays["maps"] = np.asarray(maps, dtype=np.complex64)
    if chosen == "h5":
        encode = encode_hdf5(arrays, attributes or {}, {"kspace": {"axes": ",".join(layout.axes)}})
    else:
        arrays["axes"] = np.array(layout.axes)
        if attributes:
            arrays["meta"] = np.array(json.dumps(dict(attributes)))
        encode = encode_npz(arrays)
    return _commit({Path(path): encode}, path, sidecar, inputs)


def write_maps(
    path: str | Path,
    maps: np.ndarray,
    *,
    format: ArrayFormat | None = None,
    sidecar: Mapping[str, object] | None = None,
    inputs: Iterable[str | Path] = (),
) -> list[Path]:
    """Write coil maps so that ``read(..., maps=path)`` takes them: array `maps`, or a BART pair.

    Args:
        path: where to.
        maps: (item, M, coil, y, x) or (item, M, coil, z, y, x), stored as complex64.
        format: by default from the extension.
        sidecar: as in `write_image`.
        inputs: files that must not be overwritten.

    Returns:
        The files written, without the sidecar.

    Raises:
        SignalError, UsageError, ResourceError: as in `write_image`.

    """
    chosen = image_format(path, format)
    if maps.ndim not in (5, 6) or not maps.size or chosen not in get_args(ArrayFormat):
        raise UsageError("maps must be (item, M, coil, *space), written as h5, npz or cfl", why=f"shape {maps.shape}")
    _refuse_nan(maps, str(path))
    data = np.asarray(maps, dtype=np.complex64)
    if chosen == "cfl":
        return _write_cfl(path, data, ("item", "maps", "coil", *SPACE[6 - maps.ndim :]), sidecar, inputs)
    arrays = {"maps": data}
    encode = encode_hdf5(arrays, {}, {}) if chosen == "h5" else encode_npz(arrays)
    return _commit({Path(path): encode}, path, sidecar, inputs)


def write_json(path: str | Path, content: object, *, inputs: Iterable[str | Path] = ()) -> Path:
    """Write plain data as JSON, indented, in UTF-8; numpy numbers and arrays, paths and tuples are converted.

    Raises:
        UsageError: NaN or infinity (no JSON), or something that is not plain data.
        ResourceError: see `write_image`.

    """
    encode = encode_text(json_text(content))
    with atomic_path(path, inputs=inputs) as temporary:
        encode(temporary)
    return Path(path)


def _commit(
    files: Mapping[Path, Encode],
    path: str | Path,
    sidecar: Mapping[str, object] | None,
    inputs: Iterable[str | Path],
    never_mixed: bool = False,
) -> list[Path]:
    """Write files, and a sidecar that names them with their hashes, and only then move them to their places.

    The sidecar goes first: after a kill between two moves, it tells of files that are not there, and is not believed.
    """
    targets = list(files)
    beside = [] if sidecar is None else [sidecar_path(path)]
    with atomic_paths([*beside, *targets], inputs=inputs, never_mixed=never_mixed) as temporaries:
        outputs = []
        for target, temporary in zip(targets, temporaries[len(beside) :], strict=True):
            files[target](temporary)
            if sidecar is not None:
                facts = temporary.stat()
                told = {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": sha256(temporary)}
                outputs.append({"file": target.name, **told})
        if sidecar is not None:
            encode_text(json_text({**sidecar, "outputs": outputs}))(temporaries[0])
    return targets


def _commit_folder(
    files: Mapping[str, Encode], path: Path, sidecar: Mapping[str, object] | None, inputs: Iterable[str | Path]
) -> list[Path]:
    """Do as `_commit` for files of a folder of their own."""
    beside = [] if sidecar is None else [sidecar_path(path)]
    with atomic_folder(path, beside=beside, inputs=inputs, ours=r"slice-\d{4,}\.dcm") as (folder, temporaries):
        outputs = []
        for name, encode in files.items():
            encode(folder / name)
            if sidecar is not None:
                facts = (folder / name).stat()
                told = {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": sha256(folder / name)}
                outputs.append({"file": f"{path.name}/{name}", **told})
        if sidecar is not None:
            encode_text(json_text({**sidecar, "outputs": outputs}))(temporaries[-1])
    return [path / name for name in files]


def sidecar_path(path: str | Path) -> Path:
    """Return where the sidecar of an output lies: `out.h5.json`; for a BART pair, by its data file.

    That of `out.nii.gz` is `out.json`, as BIDS has it, and dcm2niix.
    """
    path = Path(path)
    for ending in (".nii.gz", ".nii"):
        if path.name.lower().endswith(ending):
            return path.with_name(path.name[: -len(ending)] + ".json")
    return Path(f"{cfl_pair(path)[1] if path.suffix == '.hdr' else path}.json")


def _write_cfl(
    path: str | Path,
    array: np.ndarray,
    axes: Sequence[str],
    sidecar: Mapping[str, object] | None,
    inputs: Iterable[str | Path],
) -> list[Path]:
    space = [axis for axis in axes if axis in SPACE]
    dims = tuple(space.index(axis) if axis in SPACE else _DIM.get(axis, -1) for axis in axes)
    if min(dims) < 0:
        raise UsageError(f"BART has no dimension for the axis {axes[dims.index(-1)]!r}", fix="write h5 or npz")
    header, data = cfl_pair(path)
    encode_header, encode_data = encode_cfl(array, dims)
    return _commit({data: encode_data, header: encode_header}, data, sidecar, inputs, never_mixed=True)


def _refuse_nan(values: np.ndarray, where: str) -> None:
    wrong = sum(int(np.count_nonzero(~np.isfinite(values[i]))) for i in pieces(values.shape, values.itemsize))
    if wrong:
        raise SignalError(
            "the result holds values that are not numbers, and was not written",
            where=where,
            why=f"{wrong} of {values.size}",
            fix="look at the input with `mrirecon info`; try another method or another lambda",
        )


def json_text(content: object) -> str:
    """Return plain data as JSON, as `write_json` writes it.

    Raises:
        UsageError: see `write_json`.

    """
    try:
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError("this cannot be written as JSON", why=str(error)) from None


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")
