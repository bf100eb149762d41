"""Write images, k-space, coil maps and their JSON sidecars, complete or not at all, and never over an input."""

from __future__ import annotations

import errno
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrirecon.errors import SignalError, UsageError
from mrirecon.io.axes import BART, make_layout
from mrirecon.io.geometry import Grid, as_volumes, encode_loops, stored_grid
from mrirecon.io.identify import cfl_pair
from mrirecon.io.safe import scratch
from mrirecon.io.safe.atomic import atomic_folder, atomic_path, atomic_paths, sha256
from mrirecon.io.safe.text import json_text, utf8
from mrirecon.io.scan import SPACE
from mrirecon.io.writers.encode_dicom import INSTALL, Series, encode_dicom, rounding
from mrirecon.io.writers.encode_nifti import encode_nifti

ImageFormat = Literal["h5", "npz", "cfl", "nii", "dicom", "png", "montage"]
ArrayFormat = Literal["h5", "npz", "cfl"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
ARRAY_FORMATS: tuple[ArrayFormat, ...] = get_args(ArrayFormat)
# Suffix of output names that are built for a folder; a DICOM series is itself a folder.
EXTENSION: dict[ImageFormat, str] = {f: f".{f}" for f in FORMATS} | {"nii": ".nii.gz", "montage": "_montage.png"}
_ENDINGS: dict[str, ImageFormat] = {
    **{".h5": "h5", ".hdf5": "h5", ".npz": "npz", ".cfl": "cfl", ".hdr": "cfl"},
    **{".nii": "nii", ".nii.gz": "nii", ".dicom": "dicom", ".png": "png"},
}
_NAMES = {"cfl": "BART's format", "nii": "NIfTI", "dicom": "DICOM", "mrd": "ISMRMRD", "png": "PNG", "montage": "PNG"}
_PICTURES = ("png", "montage")
_DIMENSION = {name: number for number, name in enumerate(BART) if name} | {"item": BART.index("slice")}
_HDF5_OVERHEAD = 64 << 10  # bytes of a file in addition to its arrays

Encode = Callable[[Path], object]  # function that writes a file
Attributes = Mapping[str, str | int | float | bool]


def named_format(path: str | Path) -> ImageFormat | None:
    """Return the format of a suffix, or None."""
    name = Path(path).name.lower()
    return next((format for ending, format in _ENDINGS.items() if name.endswith(ending) and name != ending), None)


def image_format(path: str | Path, format: str | None = None) -> ImageFormat:
    """Return the format to write: `format` if given, else that of the suffix.

    Raises:
        UsageError: an unknown format, or a name without a known suffix.

    """
    chosen = format or named_format(path)
    for known in FORMATS:
        if chosen == known:
            return known
    fix = f"choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if Path(path).suffix.lower() == ".dcm":
        fix = f"a DICOM series is a folder: name it {Path(path).stem}.dicom"
    raise UsageError(f"the format of {path} is not known", why=f"{format or Path(path).suffix!r}", fix=fix)


def require(format: ImageFormat | Literal["mrd"]) -> None:
    """Refuse a format whose library is not installed, before anything is computed.

    Raises:
        UsageError: the library is not installed; the message has the command that installs it.

    """
    library = {"nii": "nibabel", "dicom": "pydicom", "mrd": "ismrmrd"}.get(format)
    if library is not None and find_spec(library) is None:
        raise UsageError(f"{_NAMES[format]} is written by {library}, which is not installed", fix=INSTALL)


def format_losses(
    format: ImageFormat, images: np.ndarray, grid: Grid | None = None, loops: Mapping[str, int] | None = None
) -> list[str]:
    """Return notes on the data of images that a format cannot hold.

    Args:
        format: format to write.
        images: (item, *space), real or complex.
        grid: position of the voxels.
        loops: lengths of the axes that items run over.

    """
    name, placed = _NAMES.get(format), grid is not None and grid.affine is not None
    magnitude = format in ("nii", "dicom", *_PICTURES) and np.iscomplexobj(images) and bool(images.imag.any())
    unnamed = format in ("cfl", *_PICTURES) and loops is not None and bool(set(loops) - {"slice"})
    losses = (
        (magnitude, f"{name} is written with magnitudes only: the phase is lost"),
        (format == "dicom", rounding(float(np.abs(images).max())) if format == "dicom" else ""),
        (format in _PICTURES, "PNG holds grey levels for display, not values"),
        (placed and format in ("cfl", *_PICTURES), f"{name} does not hold the position of the images"),
        (not placed and format == "nii", "NIfTI states no position: sform and qform have code 0"),
        (not placed and format == "dicom", "DICOM states no position: written as secondary captures"),
        (unnamed, f"{name} does not name the loops {', '.join(loops or ())}: items are numbered"),
    )
    return [note for applies, note in losses if applies]


def image_files(path: Path, format: ImageFormat, pages: int) -> list[Path]:
    """Return all files of the images: both of a BART pair, the pages of a PNG; for DICOM, the folder.

    Args:
        path: output path.
        format: format to write.
        pages: number of planes of all items.

    """
    if format == "cfl":
        return list(cfl_pair(path))
    if format != "png" or pages == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{page:03d}{path.suffix or '.png'}") for page in range(pages)]


def sidecar_path(path: str | Path) -> Path:
    """Return the path of an output's sidecar: `out.h5.json`; for a BART pair, that of its data file.

    The sidecar of `out.nii.gz` is `out.json`, as in BIDS and dcm2niix.
    """
    path = Path(path)
    for ending in (".nii.gz", ".nii"):
        if path.name.lower().endswith(ending):
            return path.with_name(path.name[: -len(ending)] + ".json")
    return Path(f"{cfl_pair(path)[1] if path.suffix == '.hdr' else path}.json")


def write_image(
    path: str | Path,
    images: np.ndarray,
    *,
    format: ImageFormat | None = None,
    sidecar: Mapping[str, object] | None = None,
    keep_complex: bool = False,
    inputs: Iterable[str | Path] = (),
    grid: Grid | None = None,
    loops: Mapping[str, int] | None = None,
    series: Series | None = None,
) -> list[Path]:
    """Write reconstructed images and, if given, their sidecar `path`.json.

    HDF5 and npz hold `reconstruction`, the magnitude in float32, with `keep_complex` also `reconstruction_complex`, and
    the position of the images, if known (`affine_lps_mm`, see `mrirecon.io.geometry`, or `spacing_mm`). cfl holds
    complex values, with items along BART's slice dimension. NIfTI holds magnitudes in float32. DICOM holds magnitudes
    in 16 bits, in a folder of slices. PNG is for display: one 8-bit grey-scale image per item (and plane, in 3D), black
    at 0 and white at the largest magnitude of all; several are numbered `name_000.png`. A montage is one labelled PNG
    of at most 64 slices. `format_losses` lists the data
    that a format cannot hold.

    Args:
        path: output path; for a BART pair, either file or their common name; for DICOM, a folder. An existing folder
            is replaced only if it holds nothing but such slices.
        images: (item, y, x) or (item, z, y, x), real or complex.
        format: output format; by default from the suffix of `path`.
        sidecar: plain data for the JSON; the outputs, their sizes and SHA-256 are added under "outputs".
        keep_complex: also keep the complex values.
        inputs: files that must not be overwritten.
        grid: position of the images.
        loops: lengths of the loop axes of the items, the last fastest; by default items are slices.
        series: description of a DICOM series.

    Returns:
        The image files written, without the sidecar.

    Raises:
        SignalError: NaN or infinite values; nothing is written.
        UsageError: an unknown format, or one whose library is not installed; a path that is an input or a folder.
        ResourceError: the disk is full or read-only, or permission is missing.

    """
    images, path = np.asarray(images), Path(path)
    chosen = image_format(path, format)
    if images.ndim not in (3, 4) or not images.size:
        raise UsageError("images must be (item, y, x) or (item, z, y, x)", why=f"shape {images.shape}")
    require(chosen)
    _refuse_nan(images, str(path))
    if chosen == "cfl":
        return _write_cfl(path, images, ("item", *SPACE[4 - images.ndim :]), sidecar, inputs)
    if chosen == "png":
        planes = list(np.ndindex(*images.shape[:-2]))
        white = max(float(np.abs(images[i]).max()) for i in planes)
        pages = zip(image_files(path, chosen, len(planes)), planes, strict=True)
        return _commit({file: partial(_png, page=images[i], white=white) for file, i in pages}, path, sidecar, inputs)
    if chosen == "montage":
        return _commit({path: partial(_montage, images=images)}, path, sidecar, inputs)
    grid = grid or Grid()
    if chosen == "nii":
        volumes = as_volumes(np.abs(images).astype(np.float32), loops)
        packed = not path.name.lower().endswith(".nii")
        return _commit({path: encode_nifti(volumes, grid, compressed=packed)}, path, sidecar, inputs)
    if chosen == "dicom":
        volumes = as_volumes(np.abs(images).astype(np.float32), loops)
        return _commit_folder(encode_dicom(volumes, grid, series or Series()), path, sidecar, inputs)
    # Compute the magnitude in the precision of the input: squares of 1e-30 would vanish in float32.
    arrays: dict[str, np.ndarray | Converted] = {"reconstruction": Converted(images, np.float32, np.abs)}
    if keep_complex:
        arrays["reconstruction_complex"] = Converted(images, np.complex64, np.asarray)
    arrays |= stored_grid(grid)
    items = encode_loops(loops)
    if chosen == "h5":
        encode = partial(_hdf5, arrays=arrays, attributes={"reconstruction": {"items": items}} if items else {})
    else:
        encode = partial(_npz, arrays={**arrays, "items": np.array(items)} if items else arrays)
    return _commit({path: encode}, path, sidecar, inputs)


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
    """Write k-space so that `read` can read it: fastMRI's HDF5 layout, npz, or a BART pair.

    The names of the axes are stored in the file (HDF5: attribute of `kspace`; npz: entry `axes`). A BART pair holds one
    array: mask, reference and maps are written as further pairs `name_mask`, `name_reference`, `name_maps`.

    Args:
        path: where to.
        kspace: complex, stored as complex64.
        format: by default from the extension.
        axes: one name per axis of `kspace`.
        mask: 0/1, along the last axis or (*space), stored as uint8.
        reference: (slice, y, x); its magnitude is stored as float32.
        reference_name: name of the reference in HDF5; `reconstruction_rss` is by convention a root sum of squares.
        maps: (slice, M, coil, y, x).
        attributes: scalar header values; HDF5 stores them as attributes of the root, npz as JSON in the entry `meta`.
        sidecar: as in `write_image`.
        inputs: files that must not be overwritten.
        beside: further arrays of HDF5 and npz, by name.

    Returns:
        The files written, without the sidecar.

    Raises:
        UsageError, ResourceError, InputError: as in `write_image`; axes that do not fit.

    """
    chosen = image_format(path, format)
    if chosen not in ARRAY_FORMATS:
        raise UsageError(f"k-space cannot be written as {chosen}", fix="choose h5, npz or cfl")
    layout = make_layout(axes, kspace.shape, str(path), from_user=True)
    data = np.ascontiguousarray(kspace, dtype=np.complex64)
    if chosen == "cfl":
        written = _write_cfl(path, data, layout.axes, sidecar, inputs)
        base = str(cfl_pair(path)[0])[: -len(".hdr")]
        lead = layout.loops or ("slice",)
        if mask is not None and np.ndim(mask) == 1:
            mask = np.broadcast_to(mask, layout.space_shape)
        others = {"mask": (mask, lead), "reference": (reference, lead), "maps": (maps, (*lead, "maps", "coil"))}
        for name, (array, leading) in others.items():
            if array is not None:
                value = np.asarray(array, dtype=np.complex64)
                names = (*leading, *layout.space)[-value.ndim :]
                written += _write_cfl(f"{base}_{name}", value, names, None, inputs)
        return written
    arrays: dict[str, np.ndarray | Converted] = {"kspace": data, **(beside or {})}
    if mask is not None:
        arrays["mask"] = np.asarray(mask).astype(np.uint8)
    if reference is not None:
        arrays[reference_name if chosen == "h5" else "reference"] = np.abs(reference).astype(np.float32, copy=False)
    if maps is not None:
        arrays["maps"] = np.asarray(maps, dtype=np.complex64)
    if chosen == "h5":
        stated: dict[str, Attributes] = {"kspace": {"axes": ",".join(layout.axes)}}
        encode = partial(_hdf5, arrays=arrays, root=attributes, attributes=stated)
    else:
        arrays["axes"] = np.array(layout.axes)
        if attributes:
            arrays["meta"] = np.array(json.dumps(dict(attributes)))
        encode = partial(_npz, arrays=arrays)
    return _commit({Path(path): encode}, path, sidecar, inputs)


def write_maps(
    path: str | Path,
    maps: np.ndarray,
    *,
    format: ArrayFormat | None = None,
    sidecar: Mapping[str, object] | None = None,
    inputs: Iterable[str | Path] = (),
) -> list[Path]:
    """Write coil maps so that ``read(..., maps=path)`` can read them: array `maps`, or a BART pair.

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
    if maps.ndim not in (5, 6) or not maps.size or chosen not in ARRAY_FORMATS:
        raise UsageError("maps must be (item, M, coil, *space), written as h5, npz or cfl", why=f"shape {maps.shape}")
    _refuse_nan(maps, str(path))
    data = np.asarray(maps, dtype=np.complex64)
    if chosen == "cfl":
        return _write_cfl(path, data, ("item", "maps", "coil", *SPACE[6 - maps.ndim :]), sidecar, inputs)
    encode = partial(_hdf5 if chosen == "h5" else _npz, arrays={"maps": data})
    return _commit({Path(path): encode}, path, sidecar, inputs)


def write_json(path: str | Path, content: object, *, inputs: Iterable[str | Path] = ()) -> Path:
    """Write plain data as indented JSON in UTF-8; convert numpy numbers and arrays, paths and tuples.

    Raises:
        UsageError: NaN or infinity, which JSON cannot hold, or data that are not plain.
        ResourceError: see `write_image`.

    """
    text = utf8(json_text(content))
    with atomic_path(path, inputs=inputs) as temporary:
        temporary.write_bytes(text)
    return Path(path)


def _commit(
    files: Mapping[Path, Encode],
    path: str | Path,
    sidecar: Mapping[str, object] | None,
    inputs: Iterable[str | Path],
    never_mixed: bool = False,
) -> list[Path]:
    """Write files and a sidecar with their hashes, then move all to their targets.

    The sidecar is moved first: after a kill between two moves, files that it lists are missing, so it is not trusted.
    """
    sidecars = [] if sidecar is None else [sidecar_path(path)]
    with atomic_paths([*sidecars, *files], inputs=inputs, never_mixed=never_mixed) as temporaries:
        targets = zip(files, temporaries[len(sidecars) :], strict=True)
        _encode({file.name: (temporary, files[file]) for file, temporary in targets}, sidecar, temporaries[0])
    return list(files)


def _commit_folder(
    files: Mapping[str, Encode], path: Path, sidecar: Mapping[str, object] | None, inputs: Iterable[str | Path]
) -> list[Path]:
    """Write the files of a folder and its sidecar; see `_commit`."""
    sidecars = [] if sidecar is None else [sidecar_path(path)]
    with atomic_folder(path, beside=sidecars, inputs=inputs, ours=r"slice-\d{4,}\.dcm") as (folder, temporaries):
        named = {f"{path.name}/{name}": (folder / name, encode) for name, encode in files.items()}
        _encode(named, sidecar, temporaries[0] if temporaries else folder)
    return [path / name for name in files]


def _encode(files: Mapping[str, tuple[Path, Encode]], sidecar: Mapping[str, object] | None, sidecar_file: Path) -> None:
    """Write all files and, if given, the sidecar with size, time and hash of each."""
    outputs = []
    for name, (file, encode) in files.items():
        encode(file)
        if sidecar is not None:
            status = file.stat()
            facts = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(file)}
            outputs.append({"file": name, **facts})
    if sidecar is not None:
        sidecar_file.write_bytes(utf8(json_text({**sidecar, "outputs": outputs})))


def _refuse_nan(values: np.ndarray, where: str) -> None:
    wrong = sum(int(np.count_nonzero(~np.isfinite(values[i]))) for i in _pieces(values.shape, values.itemsize))
    if wrong:
        raise SignalError(
            "the result holds NaN or infinite values and was not written",
            where=where,
            why=f"{wrong} of {values.size}",
            fix="check the input with `mrirecon info`; try another method or another lambda",
        )


def _pieces(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, ...]]:
    """Return the leading indices that divide an array into pieces of at most `IN_MEMORY` bytes (or single rows)."""
    lead = 0
    while lead < len(shape) - 1 and math.prod(shape[lead:]) * itemsize > scratch.IN_MEMORY:
        lead += 1
    return np.ndindex(*shape[:lead])


class Converted:
    """Convert an array to another type piece by piece while it is written.

    Args:
        array: the values to convert.
        dtype: type of the result.
        convert: function that converts a part of the array and keeps its shape.

    """

    def __init__(self, array: np.ndarray, dtype: type, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.dtype, self._array, self._convert = array.shape, np.dtype(dtype), array, convert

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        return self._convert(self._array[index]).astype(self.dtype, copy=False)


def _hdf5(
    path: Path,
    arrays: Mapping[str, np.ndarray | Converted],
    root: Attributes | None = None,
    attributes: Mapping[str, Attributes] | None = None,
) -> None:
    """Write arrays as contiguous HDF5 datasets without times, so that bytes are reproducible.

    Args:
        path: the file.
        arrays: datasets by name.
        root: attributes of the root.
        attributes: attributes of each dataset.

    """
    import h5py

    def fixed(values: Attributes | None) -> dict[str, object]:
        # Strings of fixed length need no heap, which is fragile in damaged files.
        return {k: np.bytes_(v.encode("utf-8")) if isinstance(v, str) and v else v for k, v in (values or {}).items()}

    size = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values()) + _HDF5_OVERHEAD
    _reserve(path, size)
    with h5py.File(path, "w") as file:
        _reserve(path, size)  # opening the file for writing has freed the reserved space
        for name, array in arrays.items():
            dataset = file.create_dataset(name, array.shape, array.dtype, track_times=False)
            for index in _pieces(array.shape, array.dtype.itemsize):
                dataset[index] = array[index]
            dataset.attrs.update(fixed((attributes or {}).get(name)))
        file.attrs.update(fixed(root))
        file.flush()
        end = file.id.get_filesize()
    os.truncate(path, end)  # libhdf5 does not free space that it did not allocate


def _reserve(path: Path, size: int) -> None:
    """Reserve disk space, so that a full disk fails here and not inside libhdf5, which crashes (version 2.0).

    Raises:
        OSError: the disk is full.

    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot reserve space
                raise


def _npz(path: Path, arrays: Mapping[str, np.ndarray | Converted]) -> None:
    """Write arrays as an uncompressed .npz (noise does not compress)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for index in _pieces(array.shape, array.dtype.itemsize):
                    file.write(np.ascontiguousarray(array[index]).data)


def _montage(path: Path, images: np.ndarray) -> None:
    """Write the slices of images (item, *space) side by side in one picture."""
    from mrirecon.io.drawing import draw_panels, slice_panels

    draw_panels(slice_panels(images, limit=64)).save(path, format="PNG", optimize=True)


def _png(path: Path, page: np.ndarray, white: float) -> None:
    """Write the magnitude of a page (y, x) as a grey picture."""
    from PIL import Image

    from mrirecon.io.drawing import to_gray

    Image.fromarray(to_gray(np.abs(page).astype(np.float32), white)).save(path, format="PNG")


def _write_cfl(
    path: str | Path,
    array: np.ndarray,
    axes: Sequence[str],
    sidecar: Mapping[str, object] | None,
    inputs: Iterable[str | Path],
) -> list[Path]:
    """Write an array with named axes as a BART pair (header and data)."""
    space = [axis for axis in axes if axis in SPACE]
    dimensions = [space.index(axis) if axis in SPACE else _DIMENSION.get(axis, -1) for axis in axes]
    if min(dimensions) < 0:
        axis = axes[dimensions.index(-1)]
        raise UsageError(f"BART has no dimension for the axis {axis!r}", fix="write h5 or npz")
    lengths = dict(zip(dimensions, array.shape, strict=True))
    text = "# Dimensions\n" + " ".join(str(lengths.get(d, 1)) for d in range(len(BART))) + "\n"
    # BART's first dimension is the fastest; in C order, it is the last.
    transposed = array.transpose(np.argsort(dimensions)[::-1].tolist())

    def encode(path: Path) -> None:
        with path.open("wb") as file:
            for index in _pieces(transposed.shape, 8):
                file.write(np.ascontiguousarray(transposed[index], "<c8").data)

    header, data = cfl_pair(path)
    files: dict[Path, Encode] = {data: encode, header: lambda file: file.write_bytes(utf8(text))}
    return _commit(files, data, sidecar, inputs, never_mixed=True)
