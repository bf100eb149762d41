"""Losses, one registered function each: one number an item, so that means over batches and ranks agree."""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.metrics.comparison import Comparison, magnitude_of_sets
from mrirecon.metrics.registry import register_loss
from mrirecon.metrics.similarity import ssim_map
from mrirecon.physics.operators import root_sum_of_squares


@register_loss(rank=1, about="mean |x - r|")
def l1(image: Tensor, about: Comparison) -> Tensor:
    """Return the mean absolute error of each item (B,)."""
    return about.mean(about.difference(image))


@register_loss(rank=2, about="mean |x - r|^2")
def l2(image: Tensor, about: Comparison) -> Tensor:
    """Return the mean squared error of each item (B,)."""
    return about.mean(about.difference(image).square())


@register_loss("ssim", rank=3, about="1 - SSIM of the magnitudes")
def ssim_loss(image: Tensor, about: Comparison) -> Tensor:
    """Return one minus the structural similarity of each item (B,)."""
    values = ssim_map(magnitude_of_sets(image), about.reference, about.peak)
    edge = (image.shape[-1] - values.shape[-1]) // 2
    return 1 - about.mean(values, None if about.region is None else about.region[:, edge:-edge, edge:-edge])


@register_loss(rank=4, domain="kspace", about="mean |F S x - k| over all samples")
def kspace_l1(image: Tensor, about: Comparison) -> Tensor:
    """Return the mean absolute error of the samples of each item (B,)."""
    assert about.held is not None, "checked before a loss of k-space is computed"
    assert about.full is not None, "checked before a loss of k-space is computed"
    count = about.held.flatten(1).sum(1) * about.full.shape[1]
    return _sum_of_magnitudes(about.residual(image)) / (count * about.scale)


@register_loss(
    rank=5,
    domain="kspace",
    supervised=False,
    about="self-supervised: error at acquired samples that the network did not see",
)
def ssdu(image: Tensor, about: Comparison) -> Tensor:
    """Return the error at acquired samples that the network did not see (Yaman et al., MRM 84:3172, 2020), (B,)."""
    assert about.held is not None, "checked before a loss of k-space is computed"
    assert about.full is not None, "checked before a loss of k-space is computed"
    wrong, measured = about.residual(image), (about.held * about.full).flatten(1)
    tiny = torch.finfo(about.scale.dtype).tiny
    first = _sum_of_magnitudes(wrong) / _sum_of_magnitudes(measured).clamp_min(tiny)
    second = root_sum_of_squares(wrong, 1) / root_sum_of_squares(measured, 1).clamp_min(tiny)
    return 0.5 * (first + second)


def _sum_of_magnitudes(x: Tensor) -> Tensor:
    """Return Σ |x| (B,) of complex (B, n)."""
    return root_sum_of_squares(x.unsqueeze(1), 1).sum(1)
