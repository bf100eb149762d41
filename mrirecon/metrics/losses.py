"""Define the registered losses; each returns one number per item, so that means over batches and ranks agree.

Images are compared in units of the 99th percentile of |Aᴴy|, the scale of the methods, so that all items have the same
weight, whatever the scanner's gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.metrics.registry import register_loss
from mrirecon.metrics.similarity import ssim_map
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.physics.problem import Problem


@dataclass(frozen=True)
class Comparison:
    """Hold the reference and k-space with which the images of one batch are compared.

    Attributes:
        problem: problems of the batch.
        scale: (B,), the 99th percentile of |Aᴴy|.
        values: values of the images that are compared: magnitudes or complex values.
        target: (B, M, y, x) reference in units of ``scale``, or None.
        region: (B, y, x) booleans, region of the comparison; None for the whole image.
        full: (B, C, y, x) reference k-space; None if no loss needs it.
        held: (B, 1, y, x), 1 for the samples of ``full`` that are compared.

    """

    problem: Problem
    scale: Tensor
    values: Literal["magnitude", "complex"] = "magnitude"
    target: Tensor | None = None
    region: Tensor | None = None
    full: Tensor | None = None
    held: Tensor | None = None

    @cached_property
    def reference(self) -> Tensor:
        """Return the magnitude of the target (B, y, x)."""
        assert self.target is not None, "checked before a loss of images is computed"
        return magnitude_of_sets(self.target)

    @cached_property
    def peak(self) -> Tensor:
        """Return the largest magnitude of each target (B,), above zero."""
        reference = self.reference
        return reference.flatten(1).amax(1).clamp_min(torch.finfo(reference.dtype).tiny)

    def difference(self, image: Tensor) -> Tensor:
        """Return |x − r| (B, y, x).

        Raises:
            UsageError: complex values are compared, but the image has no phase.

        """
        assert self.target is not None, "checked before a loss of images is computed"
        if self.values == "magnitude":
            return (magnitude_of_sets(image) - self.reference).abs()
        if not (image.is_complex() and self.target.is_complex()):
            raise UsageError(
                "the image of this method has no phase",
                where="loss.compare",
                why="it is a root sum of squares",
                fix="use loss.compare: magnitude",
            )
        return magnitude_of_sets(image - self.target)

    def mean(self, values: Tensor, region: Tensor | None = None) -> Tensor:
        """Return the mean of (B, y, x) over the region of each item."""
        region = self.region if region is None else region
        if region is None:
            return values.flatten(1).mean(1)
        count = region.flatten(1).sum(1).clamp_min(1)
        return torch.where(region, values, 0.0).flatten(1).sum(1) / count

    @property
    def samples(self) -> tuple[Tensor, Tensor]:
        """Return the reference k-space, and the mask of the compared samples."""
        assert self.full is not None, "checked before a loss of k-space is computed"
        assert self.held is not None, "checked before a loss of k-space is computed"
        return self.full, self.held

    def residual(self, image: Tensor) -> Tensor:
        """Return the error of an image at the compared k-space samples, (B, n) complex.

        Raises:
            UsageError: the image has no phase.

        """
        full, held = self.samples
        if not image.is_complex():
            raise UsageError(
                "the image of this method has no k-space",
                where="loss",
                why="it is a root sum of squares",
                fix="use a method that combines coils with maps, or another loss",
            )
        return (held * (self.problem.encode(image) - full)).flatten(1)


def magnitude_of_sets(image: Tensor) -> Tensor:
    """Return the magnitude (B, y, x) of (B, M, y, x), with the sets of maps combined."""
    return root_sum_of_squares(image, 1)


@register_loss(rank=1, about="mean |x - r|")
def l1(image: Tensor, comparison: Comparison) -> Tensor:
    """Return the mean absolute error of each item (B,)."""
    return comparison.mean(comparison.difference(image))


@register_loss(rank=2, about="mean |x - r|^2")
def l2(image: Tensor, comparison: Comparison) -> Tensor:
    """Return the mean squared error of each item (B,)."""
    return comparison.mean(comparison.difference(image).square())


@register_loss("ssim", rank=3, about="1 - SSIM of the magnitudes")
def ssim_loss(image: Tensor, comparison: Comparison) -> Tensor:
    """Return one minus the structural similarity of each item (B,)."""
    values = ssim_map(magnitude_of_sets(image), comparison.reference, comparison.peak)
    edge = (image.shape[-1] - values.shape[-1]) // 2
    return 1 - comparison.mean(
        values, None if comparison.region is None else comparison.region[:, edge:-edge, edge:-edge]
    )


@register_loss(rank=4, domain="kspace", about="mean |F S x - k| over all samples")
def kspace_l1(image: Tensor, comparison: Comparison) -> Tensor:
    """Return the mean absolute error of the samples of each item (B,)."""
    full, held = comparison.samples
    count = held.flatten(1).sum(1) * full.shape[1]
    return _sum_of_magnitudes(comparison.residual(image)) / (count * comparison.scale)


@register_loss(
    rank=5,
    domain="kspace",
    supervised=False,
    about="self-supervised: error at acquired samples that were withheld from the network",
)
def ssdu(image: Tensor, comparison: Comparison) -> Tensor:
    """Return the error at withheld acquired samples (Yaman et al., MRM 84:3172, 2020), (B,)."""
    full, held = comparison.samples
    wrong, measured = comparison.residual(image), (held * full).flatten(1)
    tiny = torch.finfo(comparison.scale.dtype).tiny
    first = _sum_of_magnitudes(wrong) / _sum_of_magnitudes(measured).clamp_min(tiny)
    second = root_sum_of_squares(wrong, 1) / root_sum_of_squares(measured, 1).clamp_min(tiny)
    return 0.5 * (first + second)


def _sum_of_magnitudes(x: Tensor) -> Tensor:
    """Return Σ |x| (B,) of complex (B, n)."""
    return root_sum_of_squares(x.unsqueeze(1), 1).sum(1)
