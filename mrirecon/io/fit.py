"""Fit what lies beside k-space (mask, maps, reference, calibration data) to its layout, by shape alone."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.axes import Layout
from mrirecon.io.values import binary_mask


def fit_mask(values: np.ndarray, layout: Layout, where: str) -> np.ndarray:
    """Return a mask as (1 or item, *space) booleans.

    Accepted: one axis along the last spatial axis; one axis per spatial axis, each of full length or 1; the same with
    the loop axes (or one item axis) in front; any of these with further axes of length 1.

    Raises:
        InputError: another shape (both are named), values other than 0 and 1, nothing sampled.

    """
    space, count = layout.space_shape, layout.count
    mask = binary_mask(values, where)
    for candidate in (mask, mask.squeeze()):
        shape = candidate.shape
        if shape == space[-1:]:
            return np.broadcast_to(candidate, (1, *space))
        if len(shape) == len(space) and _covers(shape, space):
            return np.broadcast_to(candidate, (1, *space))
        lead = shape[: -len(space)] if len(shape) > len(space) else ()
        if lead and lead in ((count,), layout.loop_shape, (1,)) and _covers(shape[-len(space) :], space):
            folded = candidate.reshape(math.prod(lead), *shape[-len(space) :])
            empty = np.flatnonzero(~folded.reshape(len(folded), -1).any(axis=1))
            if empty.size:
                raise InputError("the mask samples nothing", where=f"{where}, item {empty[0]}")
            return np.broadcast_to(folded, (len(folded), *space))
    fix = f"give a mask of shape {space}, or of length {space[-1]} for lines along {layout.space[-2]}"
    if values.shape == space[::-1]:
        fix = "its axes seem to be swapped: transpose it"
    elif values.size == space[-2] and values.ndim == 1:
        fix = f"it fits the other axis: give it the shape {(*space[:-1], 1)[-2:]}"
    raise InputError("the mask does not fit k-space", where=where, why=_shapes("mask", values.shape, layout), fix=fix)


def _covers(shape: tuple[int, ...], space: tuple[int, ...]) -> bool:
    return all(n in (1, full) for n, full in zip(shape, space, strict=True))


def maps_index(shape: tuple[int, ...], layout: Layout, item: int, where: str) -> tuple[int, ...]:
    """Return the leading index that cuts the maps of an item, ([M,] coil, *space), out of an array of `shape`.

    Accepted: (coil, *space); (M, coil, *space); (item, M, coil, *space); and (item, coil, *space) where the first
    length is the number of items and there are more than two of them, for M is 1 or 2.

    Raises:
        InputError: another shape, or one that can be read in two ways.

    """
    inner = (layout.shape["coil"], *layout.space_shape)
    lead = shape[: len(shape) - len(inner)]
    if len(shape) >= len(inner) and shape[len(lead) :] == inner:
        if lead in ((), (1,)) or (lead == (2,) and layout.count == 1):
            return ()
        if len(lead) == 1 and lead[0] == layout.count and layout.count > 2:
            return (item,)
        if len(lead) >= 2 and lead[:-1] == layout.loop_shape and lead[-1] in (1, 2):
            return layout.loop_index(item)
        if len(lead) == 2 and lead[0] == layout.count and lead[1] in (1, 2):
            return (item,)
        if len(lead) == 2 and lead[0] == 1 and lead[1] in (1, 2):
            return (0,)
    raise InputError(
        "the coil maps do not fit k-space",
        where=where,
        why=_shapes("maps", shape, layout),
        fix="store them as (slice, M, coil, y, x) with M = 1 or 2 sets",
    )


def reference_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...] | None:
    """Return the shape (item, *image) that a reference is to be given, or None where it cannot belong to the items.

    Its image may be smaller than k-space: fastMRI crops its references.
    """
    depth = len(layout.space_shape)
    lead, image = shape[: len(shape) - depth], shape[-depth:]
    if len(shape) >= depth and min(image, default=0) >= 1 and math.prod(lead) == layout.count:
        return (layout.count, *image)
    return None


def calibration_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...] | None:
    """Return the shape (1 or item, coil, *box) of separate calibration data, or None where they do not fit."""
    coils, depth = layout.shape["coil"], len(layout.space_shape)
    box = shape[-depth:]
    if len(shape) < depth or not all(1 <= n <= full for n, full in zip(box, layout.space_shape, strict=True)):
        return None
    lead = shape[:-depth]
    if coils == 1 and (not lead or lead[-1] != 1):
        lead = (*lead, 1)
    if not lead or lead[-1] != coils or lead[:-1] not in ((), (1,), (layout.count,), layout.loop_shape):
        return None
    return (max(1, math.prod(lead[:-1])), coils, *box)


def _shapes(name: str, shape: tuple[int, ...], layout: Layout) -> str:
    kspace = ", ".join(f"{axis} {n}" for axis, n in layout.shape.items())
    return f"{name} {tuple(shape)}, k-space {kspace}"
