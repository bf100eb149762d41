"""Describe a file for `mrirecon info`: shape by name, sampling, calibration region, and a check of the values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.io.check import check as check_values
from mrirecon.io.check import measure
from mrirecon.io.readers.images import is_volumes, open_store, read_images
from mrirecon.io.readers.reader import read
from mrirecon.io.sampling import group_by_sampling
from mrirecon.io.scan import Scan, complex_dtype, reconcile, support
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.masks.extent import partial_axes

_BUDGET = 64 << 20  # bytes of values to read without `check`: enough to detect a damaged file, and fast
_FAR_FROM_CENTRE = 0.1


def describe(
    path: str | Path,
    *,
    axes: str | None = None,
    mask: str | Path | None = None,
    dataset: str | None = None,
    check: bool = False,
    items: str | None = None,
    trajectory: TrajectoryOptions | None = None,
) -> dict[str, object]:
    """Describe a k-space file as plain data for JSON. Bad values are counted, not refused.

    Args:
        path: see `read`.
        axes: see `read`.
        mask: see `read`.
        dataset: see `read`.
        items: see `read`.
        check: examine the values of all items, not only of a few.
        trajectory: see `read`.

    Returns:
        path, format, unverified (see `Scan`), bytes, dtype, layout (axes as stored), shape (by name), items, coils,
        space, notes, attributes;
        sampling (of the item ``item``): source of the mask; full, lines or 2D; acceleration (all samples over measured
        samples); for partial Fourier, the measured share of the extent by axis;
        sampling_groups: groups of items with the same sampling, each with items, pattern, acceleration and
        calibration; calibration: start and size of the fully sampled box by axis; peak: index of the strongest sample
        by axis, its offset from the centre n // 2, and whether it is near; values: number of items examined, of NaN or
        infinite values and of zero items, and the largest magnitude; reference, maps, calibration_scan: name and
        shape, or None; checks (with `check`): name, verdict and message of each `mrirecon.io.check.Finding`. For raw
        data also acquisitions (readouts by kind), noise (shape, or None), geometry (field of view, position and
        directions in LPS mm, or None).

    Raises:
        InputError, UnsafeContentError, UsageError: as `read`.

    """
    scan = read(path, axes=axes, mask=mask, dataset=dataset, items=items, trajectory=trajectory)
    notes = list(scan.notes)
    # Take the middle item, then as many evenly spread items as the budget allows.
    size = 8 * scan.coils * int(np.prod(scan.space_shape))
    count = len(scan) if check else max(1, min(len(scan), _BUDGET // max(1, size)))
    middle, spread = len(scan) // 2, np.linspace(0, len(scan) - 1, count).round().astype(int).tolist()
    examined = [middle, *(item for item in spread if item != middle)][:count]
    if not scan.on_grid:
        return _describe_readouts(scan, path, sorted(examined), check)
    total = measure(scan, sorted(examined))
    if total.not_finite:
        notes.append(f"{total.not_finite} values are NaN or infinite")
    if total.empty:
        notes.append(f"{len(total.empty)} of the {count} items examined are zero everywhere")
    values = {"items_checked": count, "not_finite": total.not_finite, "zero_items": len(total.empty)}
    description: dict[str, object] = {
        "path": str(path),
        "format": scan.format,
        "unverified": scan.unverified,
        "bytes": sum(file.stat().st_size for file in scan.store.files),
        "dtype": str(scan.dtype),
        "layout": ",".join(scan.layout.axes),
        "shape": scan.shape,
        "items": len(scan),
        "coils": scan.coils,
        "space": list(scan.space),
        **{"sampling": None, "calibration": None, "peak": None},
        "sampling_groups": _describe_groups(scan),
        "values": {**values, "largest": total.largest},
        **{name: _describe_array(scan, name) for name in ("reference", "maps")},
        "calibration_scan": _describe_array(scan, "calibration"),
        "acquisitions": scan.acquisitions,
        "noise": None if scan.noise is None else list(scan.noise.shape),
        "geometry": None if scan.geometry is None else asdict(scan.geometry),
        "attributes": scan.attributes,
        "notes": notes,
    }
    item = next((item for item in examined if item in total.energy), None)
    if item is not None:
        description |= _describe_sampling(scan, item, notes)
    if check:
        description["checks"] = [vars(finding) for finding in check_values(scan, total)]
    return description


def _describe_readouts(scan: Scan, path: str | Path, items: list[int], check: bool) -> dict[str, object]:
    """Describe samples along a trajectory; with the keys of `describe`, and ``trajectory`` in addition.

    Sampling and noise are those of the middle item among the examined ones with finite values and signal.
    """
    kspaces = [scan.unmasked_kspace(item) for item in items]
    not_finite = sum(int(np.count_nonzero(~np.isfinite(k))) for k in kspaces)
    empty = sum(not k.any() for k in kspaces)
    readable = [item for item, k in zip(items, kspaces, strict=True) if np.isfinite(k).all() and k.any()] or items
    item = readable[len(readable) // 2]
    kspace, sampling = scan.measured(item)
    level = sampling.noise(kspace)
    readouts, samples = kspace.shape[1:]
    share = float(np.sqrt((level.deviation**2).sum() * readouts * samples) / np.linalg.norm(kspace))
    findings = [
        {
            "name": "values",
            "verdict": "bad" if not_finite else "look" if empty else "ok",
            "message": f"{not_finite} NaN or infinite, {empty} of {len(items)} items zero",
        },
        {"name": "noise", "verdict": "ok", "message": f"{share:.2%} of the signal, from {level.source}"},
    ]
    pattern = f"{readouts} readouts of {samples} samples along a trajectory"
    return {
        "path": str(path),
        "format": scan.format,
        "unverified": scan.unverified,
        "bytes": sum(file.stat().st_size for file in scan.store.files),
        "dtype": str(scan.dtype),
        "layout": ",".join(scan.layout.axes),
        "shape": scan.shape,
        "items": len(scan),
        "coils": scan.coils,
        "space": list(scan.space),
        "sampling": {
            "item": item,
            "source": "trajectory",
            "pattern": pattern,
            "sampled": readouts * samples,
            "of": int(np.prod(scan.space_shape)),
            "acceleration": sampling.acceleration,
            "partial_fourier": {},
        },
        "trajectory": {"readouts": readouts, "samples": samples, "noise": share},
        "calibration": {
            axis: {"start": s.start, "size": s.stop - s.start} for axis, s in zip(scan.space, sampling.box, strict=True)
        },
        "peak": None,
        "sampling_groups": [],
        "values": {
            "items_checked": len(items),
            "not_finite": not_finite,
            "zero_items": empty,
            "largest": max(float(np.abs(np.nan_to_num(k)).max()) for k in kspaces),
        },
        **{name: _describe_array(scan, name) for name in ("reference", "maps")},
        "calibration_scan": _describe_array(scan, "calibration"),
        "acquisitions": scan.acquisitions,
        "noise": None if scan.noise is None else list(scan.noise.shape),
        "geometry": None if scan.geometry is None else asdict(scan.geometry),
        "attributes": scan.attributes,
        "notes": list(scan.notes),
        **({"checks": findings} if check else {}),
    }


def describe_images(path: str | Path) -> dict[str, object]:
    """Describe a file of images (`mrirecon.io.readers.images.holds_images`) as plain data for JSON.

    Returns:
        path, kind ("images"), bytes, array (its name in the file, or None), shape (item, *space), complex,
        loops (lengths by name, or None), spacing_mm (slice, y, x; None if unknown), placed (whether the file states
        a position), arrays: all that the file holds, by name.

    Raises:
        InputError, UnsafeContentError: as `mrirecon.io.readers.images.read_images`.

    """
    path = Path(path)
    images = read_images(path)
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    store = None if is_volumes(path) else open_store(path)
    return {
        "path": str(path),
        "kind": "images",
        "bytes": sum(file.stat().st_size for file in files),
        "array": images.where.removeprefix(f"{path}:") if store is not None else None,
        "shape": list(images.values.shape),
        "complex": bool(complex_dtype(images.values.dtype)),
        "loops": images.loops,
        "spacing_mm": list(images.grid.spacing),
        "placed": images.grid.affine is not None,
        "arrays": {} if store is None else {n: [list(shape), str(kind)] for n, (shape, kind) in store.arrays.items()},
    }


def _describe_sampling(scan: Scan, item: int, notes: list[str]) -> dict[str, object]:
    """Describe sampling, calibration region and peak of an item, with notes on unusual values."""
    kspace = scan.unmasked_kspace(item)
    kspace[~np.isfinite(kspace)] = 0
    used, source, marked = support(kspace), "data", scan.marked(item)
    if marked is not None:
        source = "other file" if scan.retrospective else "file"
        used, missing, extra = reconcile(marked, used)
        if missing:
            notes.append(f"{missing:.1%} of the samples that the mask marks are zero in every coil: not sampled")
        if extra and not scan.retrospective:
            notes.append(f"{extra:.1%} of the k-space samples are outside the mask: they will be set to zero")
        if not used.any():
            notes.append("the mask marks none of the samples that were acquired")
            return {}
    partial = {scan.space[axis]: extent.fraction for axis, extent in partial_axes(used).items()}
    for name, fraction in partial.items():
        words = f"partial Fourier: {fraction:.0%} of the extent along {name} was measured"
        notes.append(f"{words}, to one side of the centre (--partial-fourier)")
    # Scale first: squares of extreme values would overflow.
    energy = np.square(np.abs(kspace) / np.abs(kspace).max()).sum(axis=0)
    peak = [int(i) for i in np.unravel_index(int(energy.argmax()), energy.shape)]
    offset = [p - n // 2 for p, n in zip(peak, used.shape, strict=True)]
    centred = all(abs(o) <= max(1, _FAR_FROM_CENTRE * n) for o, n in zip(offset, used.shape, strict=True))
    if not centred:
        corner = all(min(p, n - 1 - p) <= 1 for p, n in zip(peak, used.shape, strict=True))
        where = "in a corner: k-space seems to need an fftshift" if corner else "far from the centre"
        notes.append(f"the strongest sample is {where} (index {peak} of {list(used.shape)})")
    box = zip(scan.space, find_calibration(used), strict=True)
    index, offsets = (dict(zip(scan.space, numbers, strict=True)) for numbers in (peak, offset))
    return {
        "sampling": {
            "item": item,
            "source": source,
            "pattern": _pattern(used, scan.space),
            "sampled": int(np.count_nonzero(used)),
            "of": used.size,
            "acceleration": used.size / int(np.count_nonzero(used)),
            "partial_fourier": partial,
        },
        "calibration": {axis: {"start": s.start, "size": s.stop - s.start} for axis, s in box},
        "peak": {"index": index, "offset": offsets, "centred": centred},
    }


def _describe_groups(scan: Scan) -> list[dict[str, object]]:
    """Describe each group of items with the same sampling by its middle item."""
    return [
        {
            "items": list(group.items),
            "pattern": _pattern(group.mask, scan.space),
            "acceleration": group.mask.size / int(np.count_nonzero(group.mask)),
            "calibration": {
                axis: s.stop - s.start for axis, s in zip(scan.space, find_calibration(group.mask), strict=True)
            },
        }
        for group in (group_by_sampling(scan) if len(scan) > 1 else ())
    ]


def _pattern(mask: np.ndarray, space: tuple[str, ...]) -> str:
    """Describe a mask: full, lines with gaps along an axis, a smaller box, or a 2D or 3D pattern."""
    if mask.all():
        return "full"
    others = [tuple(b for b in range(mask.ndim) if b != a) for a in range(mask.ndim)]
    lines = [np.asarray(mask.any(axis=axes)) for axes in others]
    product = np.ones_like(mask)
    for line, axes in zip(lines, others, strict=True):
        product &= np.expand_dims(line, axes)
    if (mask != product).any():
        return f"{mask.ndim}D pattern"
    gaps = [a for a, line in zip(space, lines, strict=True) if not np.trim_zeros(line).all()]
    parts = [a for a, line in zip(space, lines, strict=True) if a not in gaps and not line.all()]
    words = [f"lines, undersampled along {' and '.join(gaps)}"] if gaps else []
    return "; ".join(words + ([f"only a part measured along {' and '.join(parts)}"] if parts else []))


def _describe_array(scan: Scan, role: str) -> dict[str, object] | None:
    name: str | None = getattr(scan.roles, role)
    if name is None:
        return None
    store = scan.maps_store if role == "maps" and scan.maps_store is not None else scan.store
    return {"name": name, "shape": list(store.arrays[name][0])}
