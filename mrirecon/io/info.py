"""What `mrirecon info` tells about a file: shape by name, sampling, calibration region, sanity of the values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.io.check import check as findings
from mrirecon.io.readers.images import is_volumes, open_store, read_images
from mrirecon.io.readers.reader import read
from mrirecon.io.sampling import group_by_sampling
from mrirecon.io.scan import Layout, Scan, complex_dtype, reconcile, support
from mrirecon.masks.extent import partial_axes

# Values looked at without `check`: enough to see a damaged file, and still at once.
_BUDGET = 64 << 20
_FAR_FROM_CENTRE = 0.1


def describe(
    path: str | Path,
    *,
    axes: str | None = None,
    mask: str | Path | None = None,
    dataset: str | None = None,
    check: bool = False,
    items: str | None = None,
) -> dict[str, object]:
    """Describe a k-space file as plain data that JSON can hold. It does not fail on bad values: it counts them.

    Args:
        path: see `read`.
        axes: see `read`.
        mask: see `read`.
        dataset: see `read`.
        items: see `read`.
        check: look at the values of every item, and not of a few.

    Returns:
        path, format, unverified (see `Scan`), bytes, dtype, layout (axes as stored), shape (by name), items, coils,
        space, notes, attributes;
        sampling: source of the mask, whether it is full, lines or 2D, acceleration (samples over sampled ones), by axis
        the share of an extent that was measured to one side (partial Fourier), of one item (its number is ``item``);
        alike: the groups of items that are sampled alike, each with items, pattern, acceleration and calibration;
        calibration: start and size of the fully sampled box by axis; peak: index of the strongest sample by axis, its
        offset from the centre n // 2, and whether it is near; values: items looked at, NaN or infinite ones, items
        that are zero, largest magnitude; reference, maps, calibration_scan: name and shape, or None; checks (with
        `check`): name, verdict and words of each `mrirecon.io.check.Finding`. Of raw data also acquisitions (readouts
        by kind), noise (shape, or None), geometry (field of view, position and directions in LPS mm, or None).

    Raises:
        InputError, UnsafeContentError, UsageError: as `read`.

    """
    scan = read(path, axes=axes, mask=mask, dataset=dataset, items=items)
    notes = list(scan.notes)
    looked = _items(scan, check)
    strange = empty = 0
    largest = 0.0
    middle: np.ndarray | None = None
    for item in looked:
        kspace = scan.unmasked_kspace(item)
        bad = ~np.isfinite(kspace)
        strange += int(np.count_nonzero(bad))
        kspace[bad] = 0
        peak = float(np.abs(kspace).max())
        largest, empty = max(largest, peak), empty + (peak == 0)
        if middle is None and peak > 0:
            middle, first = kspace, item
    result: dict[str, object] = {
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
        "sampling": None,
        "alike": _alike(scan),
        "calibration": None,
        "peak": None,
        "values": {"items_checked": len(looked), "not_finite": strange, "zero_items": empty, "largest": largest},
        **{name: _beside(scan, name) for name in ("reference", "maps")},
        "calibration_scan": _beside(scan, "calibration"),
        "acquisitions": scan.acquisitions,
        "noise": None if scan.noise is None else list(scan.noise.shape),
        "geometry": None if scan.geometry is None else asdict(scan.geometry),
        "attributes": scan.attributes,
        "notes": notes,
    }
    if strange:
        notes.append(f"{strange} values are NaN or infinite")
    if empty:
        notes.append(f"{empty} of the {len(looked)} items looked at are zero everywhere")
    if middle is not None:
        result |= _sampling(scan, middle, first, notes)
    if check:
        result["checks"] = [vars(finding) for finding in findings(scan)]
    return result


def describe_images(path: str | Path) -> dict[str, object]:
    """Describe a file of images (`mrirecon.io.readers.images.holds_images`) as plain data that JSON can hold.

    Returns:
        path, kind ("images"), bytes, array (its name in the file, where it has one), shape (item, *space), complex,
        loops (lengths by name, or None), spacing_mm (slice, y, x; None where unknown), placed (whether the file states
        a position), arrays: all that the file holds, by name.

    Raises:
        InputError, UnsafeContentError: as `mrirecon.io.readers.images.read_images`.

    """
    path = Path(path)
    found = read_images(path)
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    store = None if is_volumes(path) else open_store(path)
    return {
        "path": str(path),
        "kind": "images",
        "bytes": sum(file.stat().st_size for file in files),
        "array": found.where.removeprefix(f"{path}:") if store is not None else None,
        "shape": list(found.values.shape),
        "complex": bool(complex_dtype(found.values.dtype)),
        "loops": found.loops,
        "spacing_mm": list(found.grid.spacing),
        "placed": found.grid.affine is not None,
        "arrays": {} if store is None else {n: [list(shape), str(kind)] for n, (shape, kind) in store.arrays.items()},
    }


def _items(scan: Scan, check: bool) -> list[int]:
    """Return which items to look at: the middle one first, then as many, evenly spread, as the budget allows."""
    size = 8 * scan.coils * int(np.prod(scan.space_shape))
    count = len(scan) if check else max(1, min(len(scan), _BUDGET // max(1, size)))
    centre = len(scan) // 2
    spread = np.linspace(0, len(scan) - 1, count).round().astype(int).tolist()
    return [centre, *(item for item in spread if item != centre)][:count]


def _sampling(scan: Scan, kspace: np.ndarray, item: int, notes: list[str]) -> dict[str, object]:
    used = support(kspace)
    source = "data"
    if scan.given_mask is not None:
        marked = scan.given_mask[item if len(scan.given_mask) > 1 else 0]
        source = "other file" if scan.retrospective else "file"
        used, missing, extra = reconcile(marked, used)
        if missing:
            notes.append(f"{missing:.1%} of the samples that the mask marks are zero in every coil: not sampled")
        if extra and not scan.retrospective:
            notes.append(f"{extra:.1%} of the k-space samples lie outside the mask: they will be set to zero")
        if not used.any():
            notes.append("the mask marks none of the samples that were acquired")
            return {}
    box = find_calibration(used)
    partial = partial_axes(used)
    for axis, extent in partial.items():
        notes.append(
            f"partial Fourier: {extent.fraction:.0%} of the extent along {scan.space[axis]} was measured, "
            "to one side of the centre (--partial-fourier)"
        )
    # Scaled first: squares of extreme values would overflow.
    energy = np.square(np.abs(kspace) / np.abs(kspace).max()).sum(axis=0)
    peak = [int(i) for i in np.unravel_index(int(energy.argmax()), energy.shape)]
    offset = [p - n // 2 for p, n in zip(peak, used.shape, strict=True)]
    centred = all(abs(o) <= max(1, _FAR_FROM_CENTRE * n) for o, n in zip(offset, used.shape, strict=True))
    if not centred:
        corner = all(min(p, n - 1 - p) <= 1 for p, n in zip(peak, used.shape, strict=True))
        where = "in a corner: k-space seems to need an fftshift" if corner else "far from the centre"
        notes.append(f"the strongest sample lies {where} (index {peak} of {list(used.shape)})")
    return {
        "sampling": {
            "item": item,
            "source": source,
            "pattern": _pattern(used, scan.layout),
            "sampled": int(np.count_nonzero(used)),
            "of": used.size,
            "acceleration": used.size / int(np.count_nonzero(used)),
            "partial_fourier": {scan.space[axis]: extent.fraction for axis, extent in partial.items()},
        },
        "calibration": {
            axis: {"start": s.start, "size": s.stop - s.start} for axis, s in zip(scan.space, box, strict=True)
        },
        "peak": {
            "index": dict(zip(scan.space, peak, strict=True)),
            "offset": dict(zip(scan.space, offset, strict=True)),
            "centred": centred,
        },
    }


def _alike(scan: Scan) -> list[dict[str, object]]:
    """Describe the groups of items that are sampled alike, by the item in the middle of each."""
    found: list[dict[str, object]] = []
    for group in group_by_sampling(scan) if len(scan) > 1 else []:
        box = zip(scan.space, find_calibration(group.mask), strict=True)
        found.append(
            {
                "items": list(group.items),
                "pattern": _pattern(group.mask, scan.layout),
                "acceleration": group.mask.size / int(np.count_nonzero(group.mask)),
                "calibration": {axis: s.stop - s.start for axis, s in box},
            }
        )
    return found


def _pattern(mask: np.ndarray, layout: Layout) -> str:
    """Say in words what a mask is: full, lines with gaps along an axis, a smaller box, or a pattern in the plane."""
    if mask.all():
        return "full"
    others = [tuple(b for b in range(mask.ndim) if b != a) for a in range(mask.ndim)]
    lines = [np.asarray(mask.any(axis=axes)) for axes in others]
    product = np.ones_like(mask)
    for line, axes in zip(lines, others, strict=True):
        product &= np.expand_dims(line, axes)
    if (mask != product).any():
        return f"{mask.ndim}D pattern"
    gaps: list[str] = []
    parts: list[str] = []
    for axis, line in zip(layout.space, lines, strict=True):
        inside = line[line.argmax() : line.size - line[::-1].argmax()]
        if not inside.all():
            gaps.append(axis)
        elif not line.all():
            parts.append(axis)
    words = [f"lines, undersampled along {' and '.join(gaps)}"] if gaps else []
    return "; ".join(words + ([f"only a part measured along {' and '.join(parts)}"] if parts else []))


def _beside(scan: Scan, role: str) -> dict[str, object] | None:
    name: str | None = getattr(scan.roles, role)
    if name is None:
        return None
    store = scan.maps_store if role == "maps" and scan.maps_store is not None else scan.store
    return {"name": name, "shape": list(store.arrays[name][0])}
