"""Undersample a fully sampled scan to compare reconstructions with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.sampling import format_items
from mrirecon.io.scan import Scan
from mrirecon.io.writers.write import write_kspace
from mrirecon.masks import MaskResult, achieved_acceleration


@dataclass(frozen=True)
class Undersampled:
    """Describe the written files.

    Attributes:
        paths: written files.
        acceleration: acceleration achieved over all items: samples in k-space / retained samples.
        mask: mask of the first item, as drawn or read.
        notes: notes for the user.

    """

    paths: list[Path]
    acceleration: float
    mask: MaskResult
    notes: tuple[str, ...]


def undersample(
    scan: Scan,
    path: str | Path,
    draw: Callable[[int], MaskResult],
    *,
    per_slice: bool = False,
    keep_reference: bool = False,
) -> Undersampled:
    """Write a scan with the samples of a mask; all other samples are 0.

    The written mask contains the samples that were acquired and are in the drawn mask. Coil maps in the file are not
    copied, because they were estimated from all samples.

    Args:
        scan: scan, fully sampled or nearly so.
        path: output file (.h5 in fastMRI's layout, .npz, .cfl).
        draw: function that returns the mask (*space) of a slice.
        per_slice: draw a mask for every slice; otherwise, the mask of slice 0 is used for all, as on a scanner.
        keep_reference: also copy the fully sampled image, if the file holds one.

    Raises:
        UsageError: `path` is the input.
        InputError: the mask has another shape, or there is no reference to copy.

    """
    scan.require_grid("a mask")
    reference = scan.reference if keep_reference else None
    if keep_reference and reference is None:
        raise InputError("no reference to copy", where=str(scan.path), fix="omit --keep-reference")
    first = draw(0)
    kspace, masks = [], []
    lost, empty = 0, list[int]()
    for item, position in enumerate(scan.items):
        result = draw(position.get("slice", 0)) if per_slice else first
        if result.mask.shape != scan.space_shape:
            raise InputError(
                "the mask does not match k-space",
                where=scan.where(item),
                why=f"mask {result.mask.shape}, k-space {scan.space_shape}",
                fix="draw the mask for the shape of k-space",
            )
        if scan.is_empty(item):  # an item without signal stays empty
            empty.append(item)
            masks.append(result.mask)
            kspace.append(np.zeros((scan.coils, *scan.space_shape), np.complex64))
            continue
        acquired = scan.mask(item)
        lost += int((result.mask & ~acquired).sum())
        masks.append(result.mask & acquired)
        kspace.append(scan.kspace(item) * masks[-1])
    retained = np.stack(masks)
    notes = list(first.notes)
    if empty:
        notes.append(f"no signal in {format_items(empty)}")
    if lost:
        notes.append(f"{lost} samples of the mask were not acquired, which increases the acceleration")
    if scan.roles.maps is not None:
        notes.append("coil maps in the file are not copied, because they were estimated from all samples")
    sizes = (*scan.layout.loop_shape, scan.coils, *scan.space_shape)
    written = write_kspace(
        path,
        np.stack(kspace).reshape(sizes),
        axes=",".join((*scan.layout.loops, "coil", *scan.space)),
        mask=_stored(retained, scan),
        reference=reference,
        reference_name=scan.roles.reference if scan.format == "hdf5" and scan.roles.reference else "reference",
        attributes=scan.attributes,
        sidecar={"input": str(scan.path), "sha256": scan.sha256(), "mask": first.as_dict(), "per_slice": per_slice},
        inputs=scan.store.files,
    )
    return Undersampled(written, achieved_acceleration(retained), first, tuple(notes))


def _stored(masks: np.ndarray, scan: Scan) -> np.ndarray:
    """Return the masks (item, *space) in the smallest form that ``read`` accepts, such as fastMRI's mask of lines."""
    if not (masks == masks[0]).all():
        return masks.reshape(*scan.layout.loop_shape, *scan.space_shape)
    mask = masks[0]
    line = mask.reshape(-1, mask.shape[-1])[0]
    return np.asarray(line if (mask == line).all() else mask)
