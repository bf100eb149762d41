"""Compute the training loss: a weighted sum of registered losses over all iterates, one number per sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.metrics import LOSSES, object_mask
from mrirecon.metrics.losses import Comparison
from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import FullPrecision
from mrirecon.physics.problem import Problem
from mrirecon.physics.scale import percentile_scale
from mrirecon.training.config.settings import LossSettings


def step_weights(settings: LossSettings, repeats: Sequence[int]) -> list[float]:
    """Return the weight of every iterate, ordered by cascade; the weights sum to 1.

    L = (1/K) Σ_k Σ_t w_t ℓ(x_t^k) / Σ_t w_t with w_t = 10^(−(T−t)/(T−1)), the weights of arXiv 2111.15498.

    Args:
        settings: selection of the iterates.
        repeats: number of repetitions T of each of the K blocks of the engine.

    """
    cascades = len(repeats)
    across = [0.0] * (cascades - 1) + [1.0] if settings.cascades == "last" else [1.0] * cascades
    weights = [(a, _within(settings, steps)) for a, steps in zip(across, repeats, strict=True)]
    return [a * w / (sum(across) * sum(within)) for a, within in weights for w in within]


def _within(settings: LossSettings, steps: int) -> list[float]:
    """Return the weight of every iterate of a block, before normalization."""
    if settings.steps == "last" or steps == 1:
        return [0.0] * (steps - 1) + [1.0]
    if settings.steps == "mean":
        return [1.0] * steps
    return [10 ** (-(steps - t) / (steps - 1)) for t in range(1, steps + 1)]


class Loss(FullPrecision):
    """Compute the loss of one batch.

    Args:
        settings: terms and weights.
        problem: problems of the batch.
        target: (B, M, y, x), complex or real; see `mrirecon.data.batch.Batch`. None for self-supervision.
        full: (B, C, y, x) reference k-space, if a term needs it.
        held: (B, 1, y, x), 1 for the samples of ``full`` that are compared.

    Raises:
        UsageError: the batch lacks the data that a term needs.

    """

    def __init__(
        self, settings: LossSettings, problem: Problem, target: Tensor | None, full: Tensor | None, held: Tensor | None
    ) -> None:
        self.settings = settings
        terms = [(LOSSES[name], weight) for name, weight in settings.active.items()]
        self.image_terms = [(loss, weight) for loss, weight in terms if loss.domain == "image"]
        self.kspace_terms = [(loss, weight) for loss, weight in terms if loss.domain == "kspace"]
        if target is None and any(loss.supervised for loss, _ in self.image_terms):
            raise UsageError(
                "no reference for the loss",
                where="loss",
                why="the scan is not fully sampled",
                fix="use the loss ssdu, or exclude such scans with data.exclude",
            )
        if self.kspace_terms and (full is None or held is None):
            raise UsageError(
                "no reference k-space for the loss", where="loss", fix="create the samples with with_kspace"
            )
        self.scale = percentile_scale(problem.zero_filled)
        target = None if target is None else target / per_item(self.scale, target)
        self.comparison = Comparison(problem, self.scale, settings.compare, target, None, full, held)
        if target is not None and settings.region == "object":
            region = object_mask(self.comparison.reference.cpu()).to(target.device)
            self.comparison = replace(self.comparison, region=region)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the loss (B,) of an image (B, M, y, x) in the data's own scale."""
        total = torch.zeros_like(self.scale)
        if self.image_terms:
            scaled = image / per_item(self.scale, image)
            for loss, weight in self.image_terms:
                total = total + self._weighted(weight, loss.build(scaled, self.comparison))
        for loss, weight in self.kspace_terms:
            total = total + self._weighted(weight, loss.build(image, self.comparison))
        return total

    def _weighted(self, weight: float, term: Tensor) -> Tensor:
        """Return the weighted term or its weighted logarithm.

        Errors of samples with 2-fold and 12-fold undersampling differ by a factor of ten, so that the largest errors
        dominate the mean. The mean of the logarithms corresponds to the mean PSNR.
        """
        return weight * (term.clamp_min(1e-12).log() if self.settings.log else term)

    def weighted_sum(self, images: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the weighted sum over iterates (B,), skipping iterates of weight zero.

        A single image (memory="invert" stores only the last) has weight 1.
        """
        total: Tensor | None = None
        for number, image in enumerate(images):
            if number < len(weights) and weights[number]:
                part = weights[number] * self(image)
                total = part if total is None else total + part
        if number == 0 or total is None:
            return self(image)
        return total
