"""What a loss compares an image with: the reference of a batch, its k-space, and how both are looked at.

Images are compared in units of the 99th percentile of |Aᴴy|, the scale that methods work at, so that every item weighs
the same whatever its scanner's gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.physics.problem import Problem


@dataclass(frozen=True)
class Comparison:
    """What one batch is compared with.

    Attributes:
        problem: the batch.
        scale: (B,), the 99th percentile of |Aᴴy|.
        on: what is compared of images: magnitudes, or complex values.
        target: (B, M, y, x) reference in units of ``scale``; None where there is none.
        region: (B, y, x) booleans, where images are compared; None for everywhere.
        full: (B, C, y, x) k-space to compare with; None where no loss does.
        held: (B, 1, y, x), 1 where ``full`` counts.

    """

    problem: Problem
    scale: Tensor
    on: Literal["magnitude", "complex"] = "magnitude"
    target: Tensor | None = None
    region: Tensor | None = None
    full: Tensor | None = None
    held: Tensor | None = None

    @cached_property
    def reference(self) -> Tensor:
        """The magnitude of the target (B, y, x)."""
        assert self.target is not None, "checked before a loss of images is computed"
        return magnitude_of_sets(self.target)

    @cached_property
    def peak(self) -> Tensor:
        """The largest magnitude of each target (B,), above zero."""
        reference = self.reference
        return reference.flatten(1).amax(1).clamp_min(torch.finfo(reference.dtype).tiny)

    def difference(self, image: Tensor) -> Tensor:
        """Return |x − r| (B, y, x).

        Raises:
            UsageError: complex values are compared, and the image has no phase.

        """
        assert self.target is not None, "checked before a loss of images is computed"
        if self.on == "magnitude":
            return (magnitude_of_sets(image) - self.reference).abs()
        if not (image.is_complex() and self.target.is_complex()):
            raise UsageError(
                "this method gives no phase to compare",
                where="loss.on",
                why="its image is a root sum of squares",
                fix="use loss.on: magnitude",
            )
        return magnitude_of_sets(image - self.target)

    def mean(self, values: Tensor, region: Tensor | None = None) -> Tensor:
        """Return the mean of (B, y, x) over the region of each item."""
        region = self.region if region is None else region
        if region is None:
            return values.flatten(1).mean(1)
        count = region.flatten(1).sum(1).clamp_min(1)
        return torch.where(region, values, 0.0).flatten(1).sum(1) / count

    def residual(self, image: Tensor) -> Tensor:
        """Return the error of an image in k-space, where it counts, (B, n) complex.

        Raises:
            UsageError: the image has no phase.

        """
        assert self.full is not None, "checked before a loss of k-space is computed"
        assert self.held is not None, "checked before a loss of k-space is computed"
        if not image.is_complex():
            raise UsageError(
                "this method's image has no k-space",
                where="loss",
                why="it is a root sum of squares",
                fix="use a method that combines coils by maps, or another loss",
            )
        return (self.held * (self.problem.encode(image) - self.full)).flatten(1)


def magnitude_of_sets(image: Tensor) -> Tensor:
    """Return the magnitude (B, y, x) of (B, M, y, x), sets of maps combined."""
    return root_sum_of_squares(image, 1)
