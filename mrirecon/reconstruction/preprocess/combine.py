"""Combine repetitions, averages and echoes of the same object: by their complex mean, or the root sum of squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrirecon.errors import InputError, UsageError

AVERAGED = ("average", "repetition", "repetition2")  # loop axes over which the object and its contrast stay the same


def mean_kspace(kspaces: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the complex mean of k-space over acquisitions, each sample over those that acquired it, and their union.

    N acquisitions lower the noise by √N where all were sampled; the mean of magnitudes would add up noise. Motion and
    drift between them blur the result.

    Args:
        kspaces: each (C, *space) complex, zero where not sampled.
        masks: each (*space) bool.

    Raises:
        UsageError: nothing to average.

    """
    if not kspaces:
        raise UsageError("there is nothing to average")
    count = np.sum(masks, axis=0)
    total = np.sum(kspaces, axis=0, dtype=np.complex128)
    return (total / np.maximum(count, 1)).astype(kspaces[0].dtype), np.asarray(count > 0)


def root_sum_of_squares_over(images: np.ndarray, loops: Sequence[int], axis: int) -> np.ndarray:
    """Return images whose items are combined over one loop axis by √Σ|x|²: (item, *space) ↦ (fewer items, *space).

    Echoes have different contrast and phase: their magnitudes can be combined, their complex values cannot. The result
    has no phase.

    Args:
        images: (item, *space), the last loop axis fastest.
        loops: lengths of the loop axes; their product is the number of items.
        axis: which of them.

    Raises:
        InputError: another number of items.

    """
    if int(np.prod(loops)) != len(images):
        raise InputError(
            "the items do not fill their loop axes", why=f"{len(images)} items for loops of {tuple(loops)}"
        )
    apart = np.abs(images).reshape(*loops, *images.shape[1:])
    combined = np.sqrt(np.square(apart, dtype=np.float64).sum(axis=axis))
    return np.asarray(combined.reshape(-1, *images.shape[1:]), dtype=images.dtype)
