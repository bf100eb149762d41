"""Measure the sampled extent of k-space on both sides of its centre, to detect partial Fourier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MIN_SHORTFALL = 0.05  # minimum asymmetry relative to the matrix size,
_MIN_GAPS = 3.0  # and in units of the widest gap between samples, to exclude chance


@dataclass(frozen=True)
class Extent:
    """Hold the sampled extent along one axis of n samples with centre n // 2.

    Attributes:
        start: first acquired sample.
        stop: last acquired sample + 1.
        size: n.

    """

    start: int
    stop: int
    size: int

    @property
    def reach(self) -> int:
        """Return the number of samples between the centre and the nearer end of the extent."""
        centre = self.size // 2
        return max(0, min(centre - self.start, self.stop - 1 - centre))

    @property
    def fraction(self) -> float:
        """Return the fraction of the matrix that the extent covers, such as 6/8."""
        return (self.stop - self.start) / self.size

    @property
    def asymmetry(self) -> int:
        """Return the number of samples by which one side is shorter than the other."""
        centre = self.size // 2
        # An even matrix has one more sample on the lower side, which does not count as asymmetry.
        low, high = centre - self.start, self.stop - 1 - centre
        return max(0, abs(low - high) - (1 - self.size % 2))


def extents(mask: np.ndarray) -> list[Extent]:
    """Return the sampled extent along every axis of a mask (*space)."""
    return [
        Extent(int(sampled[0]), int(sampled[-1]) + 1, n)
        for sampled, n in zip(_sampled_positions(mask), mask.shape, strict=True)
    ]


def partial_axes(mask: np.ndarray) -> dict[int, Extent]:
    """Return the axes (counted from the end) with partial Fourier or an asymmetric echo in a mask.

    One side must be shorter than the other by 5 % of the matrix and by three times the widest gap within the extent.
    Otherwise, random patterns whose outermost line is missing by chance would be detected; with this rule, 5 of 14 700
    axes of our own 2- to 8-fold masks are. In return, partial patterns with wide gaps are missed.
    """
    partial = {}
    for axis, (extent, sampled) in enumerate(zip(extents(mask), _sampled_positions(mask), strict=True)):
        gap = int(np.diff(sampled).max(initial=1))
        if extent.asymmetry >= max(_MIN_SHORTFALL * extent.size, _MIN_GAPS * gap, 2):
            partial[axis - mask.ndim] = extent
    return partial


def _sampled_positions(mask: np.ndarray) -> list[np.ndarray]:
    """Return the sampled positions along each axis."""
    axes = range(mask.ndim)
    return [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
