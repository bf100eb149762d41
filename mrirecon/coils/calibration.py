"""Find the autocalibration region: the fully sampled box around the centre of k-space (numpy only)."""

from __future__ import annotations

import numpy as np


def find_calibration(mask: np.ndarray, limit: int | None = None) -> tuple[slice, ...]:
    """Return the fully sampled box that grows from the k-space centre, as one slice per spatial axis.

    The box starts at the centre sample (index n // 2). It grows by one line or plane on a fully sampled side, for each
    axis in turn: it becomes a square inside a disc, and a band with the full readout inside line masks. ESPIRiT (Uecker
    et al., MRM 71:990, 2014) moves its kernel over this region.

    Args:
        mask: (*space), true where k-space was sampled.
        limit: the largest number of samples along an axis; ``None`` for no limit.

    Returns:
        One slice per axis; all slices are empty if the centre sample was not acquired.

    """
    sampled = np.asarray(mask, dtype=bool)
    centre = tuple(n // 2 for n in sampled.shape)
    if not sampled.size or not sampled[centre]:
        return tuple(slice(c, c) for c in centre)
    start, stop = list(centre), [c + 1 for c in centre]
    growing = True
    while growing:
        growing = False
        for axis, length in enumerate(sampled.shape):
            # Lower side first: an even box then extends from n//2 - size/2 to n//2 + size/2 - 1, as on scanners.
            for side in (-1, 1):
                if limit is not None and stop[axis] - start[axis] >= limit:
                    break
                edge = start[axis] - 1 if side < 0 else stop[axis]
                if not 0 <= edge < length:
                    continue
                face = tuple(
                    slice(edge, edge + 1) if a == axis else slice(start[a], stop[a]) for a in range(sampled.ndim)
                )
                if sampled[face].all():
                    start[axis], stop[axis] = min(start[axis], edge), max(stop[axis], edge + 1)
                    growing = True
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
