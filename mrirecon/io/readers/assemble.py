"""Build a scan from a store of arrays, for all formats."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, MriReconError
from mrirecon.io.geometry import GEOMETRY_NAMES, Geometry, restored_geometry
from mrirecon.io.readers.registry import Source
from mrirecon.io.safe.hdf5 import ArrayTypes
from mrirecon.io.scan import Layout, Roles, Scalar, Scan, Store, complex_dtype, real_kspace, to_complex64
from mrirecon.io.trajectory import (
    MATRIX_NAMES,
    TRAJECTORY_NAMES,
    TrajectoryScan,
    arrange_points,
    fitting_points,
    image_layout,
    in_cycles_per_fov,
)

KSPACE_NAMES = ("kspace", "ksp")
MAPS_NAMES = ("maps", "sens", "sensitivities", "coil_maps")
REFERENCE_NAMES = ("reference", "reconstruction_rss", "reconstruction_esc")
CALIBRATION_NAMES = ("calibration", "acs", "ref")
# An array of these names that cannot be read is an error; any other is ignored with a note.
NEEDED_NAMES = frozenset((*KSPACE_NAMES, *MAPS_NAMES, "mask"))

# Header values about the measurement, which cannot identify a person. All others are not read.
ATTRIBUTES = frozenset(
    (
        *("acquisition", "acceleration", "num_low_frequency", "max", "norm", "axes", "padding_left", "padding_right"),
        *("source", "src", "licence", "license", "lic", "anatomy", "sampling", "simulated", "seed", "noise", "snr"),
        *("mask", "mask_family", "mask_seed", "calibration", "b0", "b0_t", "field_strength", "field_strength_t"),
        *("contrast", "sequence", "te", "tr", "ti", "te_ms", "tr_ms", "ti_ms", "flip_angle", "flip_angle_deg"),
        *("voxel_size", "voxel_size_mm", "resolution_mm", "fov", "fov_mm", "slice_thickness_mm", "scale", "format"),
        *("version", "generator", "reference_kind", "coils", "vendor", "model", "dwell_us", "noise_dwell_us"),
    )
)


def leaf(name: str) -> str:
    """Return the last part of the path of an array."""
    return name.rpartition("/")[2]


def list_arrays(arrays: ArrayTypes) -> str:
    """List names, shapes and types of at most twelve arrays."""
    return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in list(arrays.items())[:12]) or "no arrays"


def note_unusable(errors: Mapping[str, MriReconError], dataset: str | None, notes: list[str]) -> None:
    """Note arrays that cannot be used; raise the error of `dataset`, or of an array in `NEEDED_NAMES`."""
    for name, error in errors.items():
        if name == dataset or name.lower() in NEEDED_NAMES:
            raise error
        if "/" not in name:
            notes.append(f"not used: {error.what}")


def select_kspace(arrays: ArrayTypes, path: Path, dataset: str | None, named: Sequence[str] = ()) -> str:
    """Find the array that holds k-space; return its name.

    It is `dataset` if given, else `named`, else `kspace` or `ksp`, else the only complex array. Arrays inside groups
    are considered only if the root holds no complex array.

    Raises:
        InputError: none, or several that could be meant (the arrays are listed), or one that is not complex.

    """
    listed = list_arrays(arrays)
    if dataset is not None and dataset not in arrays:
        raise InputError(f"{path} has no array {dataset!r}", why=f"it holds {listed}", fix="name one of these")
    usable = [name for name, (shape, dtype) in arrays.items() if complex_dtype(dtype) and len(shape) >= 2]
    likely = [dataset] if dataset is not None else list(named) or [n for n in arrays if n.lower() in KSPACE_NAMES]
    if not likely and all("/" in name for name in usable):
        likely = [name for name in usable if leaf(name).lower() in KSPACE_NAMES]
    beside = (*MAPS_NAMES, *REFERENCE_NAMES, *CALIBRATION_NAMES, *TRAJECTORY_NAMES, "mask", "noise")
    likely = likely or [name for name in usable if leaf(name).lower() not in beside]
    if len(likely) > 1:
        raise InputError(
            f"{path} holds several arrays that could be k-space",
            why=", ".join(f"{name} {arrays[name][0]}" for name in likely[:12]),
            fix=f"name one of them, for example --dataset {likely[0]}",
        )
    if not likely and len(arrays) != 1:
        raise InputError(f"{path} holds no k-space", why=f"it holds {listed}", fix="name the complex array 'kspace'")
    name = next(iter(likely or arrays))
    if not complex_dtype(arrays[name][1]):
        raise real_kspace(arrays[name][1], arrays[name][0], f"{path}:{name}")
    return name


def assemble(
    source: Source,
    store: Store,
    file_format: str,
    kspace: str,
    layout: Layout,
    *,
    notes: Sequence[str] = (),
    attributes: Mapping[str, Scalar] | None = None,
    header: str | None = None,
    noise: np.ndarray | None = None,
    geometry: Geometry | None = None,
    acquisitions: Mapping[str, int] | None = None,
    unverified: bool = False,
) -> Scan:
    """Build the scan of a store; find mask, maps and other arrays by name, and check their shapes.

    Args:
        source: the file. A mask and maps that the user gives replace those in the store.
        store: the arrays.
        file_format: see `Scan.format`.
        kspace: name of the k-space array.
        layout: its axes.
        notes: conclusions and corrections of the reader, for the user.
        attributes: header values; only those in `ATTRIBUTES` are kept.
        header: the reduced ISMRMRD header.
        noise: see `Scan`.
        geometry: see `Scan`.
        acquisitions: see `Scan`.
        unverified: see `Scan`.

    Raises:
        InputError: a mask or maps that do not fit.

    """
    path, arrays = store.path, store.arrays
    remarks = list(notes)
    if unverified:
        remarks.append("unverified: the reader was not tested with a real file of this format: check the image first")
    others = {leaf(name).lower(): name for name in arrays if name != kspace}

    def find(names: Sequence[str]) -> str | None:
        return next((others.pop(n) for n in names if n in others), None)

    trajectory, matrix_name = find(TRAJECTORY_NAMES), find(MATRIX_NAMES)
    points, stored = source.points, layout
    values = np.zeros(0)
    if points is None and trajectory is not None:
        points = store.read(trajectory), f"{path}:{trajectory}"
        if fitting_points(points[0], stored) is None:
            remarks.append(f"{trajectory} {points[0].shape} does not fit k-space and is not used")
            points = trajectory = None
    if points is not None:
        matrix = None if matrix_name is None else tuple(int(n) for n in np.ravel(store.read(matrix_name)))
        values = arrange_points(*points[:1], stored, points[1])
        values, size = in_cycles_per_fov(values, source.trajectory, matrix, points[1], remarks)
        layout = image_layout(stored, size)
    mask_name, maps_name, reference = find(("mask",)), find(MAPS_NAMES), find(REFERENCE_NAMES)
    calibration = find(CALIBRATION_NAMES)
    if reference is not None and layout.reference_shape(arrays[reference][0]) is None:
        remarks.append(f"{reference} {arrays[reference][0]} does not fit k-space and is not used")
        reference = None
    if calibration is not None:
        box, kind = arrays[calibration]
        if complex_dtype(kind) and layout.calibration_shape(box) is not None:
            remarks.append(f"{calibration} {box} taken as separate calibration data")
        else:
            remarks.append(f"{calibration} {box} {kind} is not used: calibration data are complex, (coil, *space)")
            calibration = None
    maps_store = store
    if source.maps is not None:
        if maps_name is not None:
            remarks.append(f"the maps of {source.maps[0].path} replace those in the file")
        maps_store, maps_name = source.maps
    if maps_name is not None:
        layout.maps_index(maps_store.arrays[maps_name][0], 0, f"{maps_store.path}:{maps_name}")
    given_mask, origin = None, "the mask in the file"
    if source.mask is not None:
        given_mask, origin = fit_mask(source.mask[0], stored, source.mask[1]), f"the mask of {source.mask[1]}"
        if mask_name is not None:
            remarks.append(f"{origin} replaces the mask in the file")
    elif mask_name is not None:
        given_mask = fit_mask(store.read(mask_name), stored, f"{path}:{mask_name}")
    if given_mask is not None and given_mask.all():
        remarks.append(f"{origin} samples everything (acceleration 1)")
    noise_name = others.pop("noise", None)
    if noise_name is not None and noise is None:
        box, kind = arrays[noise_name]
        if complex_dtype(kind) and len(box) == 2 and box[0] == layout.shape["coil"]:
            noise = to_complex64(store.read(noise_name), f"{path}:{noise_name}")
        else:
            remarks.append(f"{noise_name} {box} {kind} is not used: a noise scan is complex, (coil, samples)")
    position = {name: others.pop(name) for name in GEOMETRY_NAMES if name in others}
    if geometry is None and position:
        geometry = restored_geometry({role: store.read(name) for role, name in position.items()})
    for name in others.values():
        if complex_dtype(arrays[name][1]):
            remarks.append(f"also in the file, not used: {name} {arrays[name][0]}")
    make: Callable[..., Scan] = Scan
    if points is not None:
        make = partial(TrajectoryScan, stored=stored, points=values, weighting=source.trajectory.weighting)
    return make(
        path=path,
        format=file_format,
        layout=layout,
        dtype=arrays[kspace][1],
        store=store,
        roles=Roles(kspace, mask_name, maps_name, reference, calibration, trajectory),
        attributes=public_attributes(attributes or {}, remarks),
        header=header,
        notes=remarks,
        given_mask=given_mask,
        maps_store=maps_store if source.maps is not None else None,
        retrospective=source.mask is not None,
        noise=noise,
        geometry=geometry,
        acquisitions=dict(acquisitions or {}),
        unverified=unverified,
    )


def fit_mask(values: np.ndarray, layout: Layout, where: str) -> np.ndarray:
    """Return a mask as (1 or item, *space) booleans.

    Accepted: one axis along the last spatial axis; one axis per spatial axis, each of full length or 1; the same with
    the loop axes (or one item axis) in front; any of these with further axes of length 1.

    Raises:
        InputError: another shape (both are named), values other than 0 and 1, no samples.

    """
    space, count = layout.space_shape, layout.count
    mask = _binary(values, where)
    for candidate in (mask, mask.squeeze()):
        shape = candidate.shape
        if shape == space[-1:] or (len(shape) == len(space) and _covers(shape, space)):
            return np.broadcast_to(candidate, (1, *space))
        lead = shape[: -len(space)] if len(shape) > len(space) else ()
        if lead and lead in ((count,), layout.loop_shape, (1,)) and _covers(shape[-len(space) :], space):
            folded = candidate.reshape(math.prod(lead), *shape[-len(space) :])
            empty = np.flatnonzero(~folded.reshape(len(folded), -1).any(axis=1))
            if empty.size:
                raise InputError("the mask has no samples", where=f"{where}, item {empty[0]}")
            return np.broadcast_to(folded, (len(folded), *space))
    fix = f"give a mask of shape {space}, or of length {space[-1]} for lines along {layout.space[-2]}"
    if values.shape == space[::-1]:
        fix = "its axes seem to be swapped: transpose it"
    elif values.size == space[-2] and values.ndim == 1:
        fix = f"it fits the other axis: give it the shape {(*space[:-1], 1)[-2:]}"
    raise InputError("the mask does not match k-space", where=where, why=layout.compare("mask", values.shape), fix=fix)


def _binary(values: np.ndarray, where: str) -> np.ndarray:
    """Convert a mask to booleans; refuse values other than 0 and 1, and a mask without samples."""
    if values.dtype.kind not in "biufc" or not values.size:
        raise InputError("a mask must hold 0 and 1", where=where, why=f"{values.dtype} of shape {values.shape}")
    mask = np.asarray(values == 1)
    wrong = values[~(mask | (values == 0))]
    if wrong.size:
        raise InputError(
            "a mask must hold 0 and 1",
            where=where,
            why=f"{wrong.size} of {mask.size} values are neither, such as {', '.join(map(str, wrong[:3]))}",
            fix="threshold it, and check that it is the mask",
        )
    if not mask.any():
        raise InputError("the mask has no samples", where=where, why=f"all {mask.size} values are 0")
    return mask


def _covers(shape: tuple[int, ...], space: tuple[int, ...]) -> bool:
    return all(n in (1, full) for n, full in zip(shape, space, strict=True))


def is_public(name: str) -> bool:
    """Return whether a header value of this name cannot identify a person."""
    return _key(name) in ATTRIBUTES


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def public_attributes(values: Mapping[str, object], notes: list[str]) -> dict[str, Scalar]:
    """Keep the header values that cannot identify a person, and note the number of the others."""
    public: dict[str, Scalar] = {}
    for name, value in values.items():
        key = _key(name)
        if is_public(name) and isinstance(value, (str, int, float, bool)):
            public[key] = "".join(c for c in value if c.isprintable())[:300] if isinstance(value, str) else value
    if len(public) < len(values):
        notes.append(f"{len(values) - len(public)} header values are not shown: they could identify a person")
    return public
