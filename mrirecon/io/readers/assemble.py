"""Put a scan together from a store of arrays: the part that all formats share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import fit_mask
from mrirecon.io.geometry import GEOMETRY_NAMES, Geometry, restored_geometry
from mrirecon.io.scan import Layout, Roles, Scalar, Scan, Store, complex_dtype, real_kspace, to_complex64

# From another file: a mask with the name of that file; the store and name of coil maps.
Given = tuple[np.ndarray, str] | None
MapsSource = tuple[Store, str] | None

KSPACE_NAMES = ("kspace", "ksp")
MAPS_NAMES = ("maps", "sens", "sensitivities", "coil_maps")
REFERENCE_NAMES = ("reference", "reconstruction_rss", "reconstruction_esc")
CALIBRATION_NAMES = ("calibration", "acs", "ref")
# An array of these names that cannot be read is an error; any other is left aside with a note.
NEEDED_NAMES = frozenset((*KSPACE_NAMES, *MAPS_NAMES, "mask"))

# Header values that say how the data were made and not whose they are. Everything else stays in the file.
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
    """Return the last part of the path of an array in a group."""
    return name.rpartition("/")[2]


def kspace_in_groups(
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: Path, dataset: str | None
) -> str | None:
    """Return the name of k-space that lies inside of a group; None where the root holds what may be k-space.

    Raises:
        InputError: several that could be meant; they are listed.

    """
    if dataset is not None:
        return dataset if "/" in dataset and dataset in arrays else None
    able = [name for name, (shape, dtype) in arrays.items() if complex_dtype(dtype) and len(shape) >= 2]
    if any("/" not in name for name in able) or any(name.lower() in KSPACE_NAMES for name in arrays):
        return None
    beside = (*MAPS_NAMES, *REFERENCE_NAMES, *CALIBRATION_NAMES, "mask", "noise")
    likely = [name for name in able if leaf(name).lower() in KSPACE_NAMES]
    likely = likely or [name for name in able if leaf(name).lower() not in beside]
    if len(likely) > 1:
        raise InputError(
            f"{path} holds several arrays that could be k-space",
            why=", ".join(f"{name} {arrays[name][0]}" for name in likely[:12]),
            fix=f"name one of them, for example --dataset {likely[0]}",
        )
    return likely[0] if likely else None


def select_kspace(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: Path, dataset: str | None) -> str:
    """Return the name of the array that is k-space: the one asked for, `kspace` or `ksp`, or the only complex one.

    Raises:
        InputError: none, or several that could be meant (what there is is listed), or one that is not complex.

    """
    listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in list(arrays.items())[:12]) or "no arrays"
    if dataset is not None and dataset not in arrays:
        raise InputError(f"{path} has no array {dataset!r}", why=f"it holds {listed}", fix="name one of these")
    named = [dataset] if dataset is not None else [n for n in arrays if n.lower() in KSPACE_NAMES]
    beside = (*MAPS_NAMES, *REFERENCE_NAMES, *CALIBRATION_NAMES, "mask")
    likely = named or [
        name
        for name, (shape, dtype) in arrays.items()
        if complex_dtype(dtype) and len(shape) >= 2 and name.lower() not in beside
    ]
    if len(likely) == 1:
        shape, dtype = arrays[likely[0]]
        if not complex_dtype(dtype):
            raise real_kspace(dtype, shape, f"{path}:{likely[0]}")
        return likely[0]
    if likely:
        raise InputError(
            f"{path} holds several arrays that could be k-space",
            why=f"{', '.join(likely)}",
            fix=f"name one of them, for example dataset={likely[0]!r}, or keep one named 'kspace'",
        )
    if len(arrays) == 1 and dataset is None:
        name, (shape, dtype) = next(iter(arrays.items()))
        raise real_kspace(dtype, shape, f"{path}:{name}")
    raise InputError(f"{path} holds no k-space", why=f"it holds {listed}", fix="name the complex array 'kspace'")


def assemble(
    store: Store,
    file_format: str,
    kspace: str,
    layout: Layout,
    *,
    notes: Sequence[str] = (),
    attributes: Mapping[str, Scalar] | None = None,
    header: str | None = None,
    mask: Given = None,
    maps: MapsSource = None,
    noise: np.ndarray | None = None,
    geometry: Geometry | None = None,
    acquisitions: Mapping[str, int] | None = None,
    unverified: bool = False,
) -> Scan:
    """Return the scan over a store, with what lies beside k-space found by name and fitted by shape.

    Args:
        store: the arrays.
        file_format: see `Scan.format`.
        kspace: name of the k-space array.
        layout: its axes.
        notes: what the reader has to tell.
        attributes: header values; only those in `ATTRIBUTES` are kept.
        header: the reduced ISMRMRD header.
        mask: a mask from another file, with the name of that file; it takes the place of the one in this file.
        maps: the store and name of coil maps in another file; they take the place of those in this one.
        noise: see `Scan`.
        geometry: see `Scan`.
        acquisitions: see `Scan`.
        unverified: see `Scan`.

    Raises:
        InputError: a mask or maps that do not fit.

    """
    path, arrays = store.path, store.arrays
    said = list(notes)
    if unverified:
        said.append("unverified: no file of this format was at hand to try the reader: look at the image first")
    others = {leaf(name).lower(): name for name in arrays if name != kspace}

    def find(names: Sequence[str]) -> str | None:
        return next((others.pop(n) for n in names if n in others), None)

    mask_name, maps_name, reference = find(("mask",)), find(MAPS_NAMES), find(REFERENCE_NAMES)
    calibration = find(CALIBRATION_NAMES)
    if reference is not None and layout.reference_shape(arrays[reference][0]) is None:
        said.append(f"{reference} {arrays[reference][0]} does not fit k-space and is not used")
        reference = None
    if calibration is not None:
        box, kind = arrays[calibration]
        if complex_dtype(kind) and layout.calibration_shape(box) is not None:
            said.append(f"{calibration} {box} taken as separate calibration data")
        else:
            said.append(f"{calibration} {box} {kind} is not used: calibration data are complex, (coil, *space)")
            calibration = None
    maps_store = store
    if maps is not None:
        if maps_name is not None:
            said.append(f"the maps of {maps[0].path} are used in place of those in the file")
        maps_store, maps_name = maps
    if maps_name is not None:
        layout.maps_index(maps_store.arrays[maps_name][0], 0, f"{maps_store.path}:{maps_name}")
    given, origin = None, ""
    if mask is not None:
        given, origin = fit_mask(mask[0], layout, mask[1]), f"the mask of {mask[1]}"
        if mask_name is not None:
            said.append(f"{origin} is used in place of the one in the file")
    elif mask_name is not None:
        given, origin = fit_mask(store.read(mask_name), layout, f"{path}:{mask_name}"), "the mask in the file"
    if given is not None and given.all():
        said.append(f"{origin} samples everything (acceleration 1)")
    noise_name, *places = (others.pop(n, None) for n in ("noise", *GEOMETRY_NAMES))
    if noise_name is not None and noise is None:
        box, kind = arrays[noise_name]
        if complex_dtype(kind) and len(box) == 2 and box[0] == layout.shape["coil"]:
            noise = to_complex64(store.read(noise_name), f"{path}:{noise_name}")
        else:
            said.append(f"{noise_name} {box} {kind} is not used: a noise scan is complex, (coil, samples)")
    geometry = geometry or restored_geometry({leaf(n).lower(): store.read(n) for n in places if n is not None})
    for name in others.values():
        if complex_dtype(arrays[name][1]):
            said.append(f"also in the file, not used: {name} {arrays[name][0]}")
    return Scan(
        path=path,
        format=file_format,
        layout=layout,
        dtype=arrays[kspace][1],
        store=store,
        roles=Roles(kspace, mask_name, maps_name, reference, calibration),
        attributes=public_attributes(attributes or {}, said),
        header=header,
        notes=said,
        given_mask=given,
        maps_store=maps_store if maps is not None else None,
        retrospective=mask is not None,
        noise=noise,
        geometry=geometry,
        acquisitions=dict(acquisitions or {}),
        unverified=unverified,
    )


def is_public(name: str) -> bool:
    """Whether a header value of this name is known to identify nobody."""
    return _key(name) in ATTRIBUTES


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def public_attributes(found: Mapping[str, object], notes: list[str]) -> dict[str, Scalar]:
    """Keep the header values that are known to identify nobody; a note counts the others, without naming them."""
    kept: dict[str, Scalar] = {}
    for name, value in found.items():
        key = _key(name)
        if is_public(name) and isinstance(value, (str, int, float, bool)):
            kept[key] = "".join(c for c in value if c.isprintable())[:300] if isinstance(value, str) else value
    if len(kept) < len(found):
        notes.append(f"{len(found) - len(kept)} header values are not shown: they could identify a person")
    return kept
