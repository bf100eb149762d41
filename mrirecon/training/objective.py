"""What training minimises: registered losses, weighed, of all iterates of a batch; one number an item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.metrics import LOSSES, object_mask
from mrirecon.metrics.comparison import Comparison
from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import FullPrecision
from mrirecon.physics.problem import Problem
from mrirecon.physics.scale import percentile_scale
from mrirecon.training.config.loss import LossSettings


def step_weights(settings: LossSettings, cascades: int, steps: int) -> list[float]:
    """Return the weight of every iterate, cascade by cascade; together 1.

    L = (1/K) Σ_k Σ_t w_t ℓ(x_t^k) / Σ_t w_t with w_t = 10^(−(T−t)/(T−1)), the logarithmic weights of arXiv 2111.15498.

    Args:
        settings: which iterates count.
        cascades: blocks of the engine, K.
        steps: repetitions of a block, T.

    """
    if settings.steps == "last" or steps == 1:
        within = [0.0] * (steps - 1) + [1.0]
    elif settings.steps == "mean":
        within = [1.0] * steps
    else:
        within = [10 ** (-(steps - t) / (steps - 1)) for t in range(1, steps + 1)]
    across = [0.0] * (cascades - 1) + [1.0] if settings.cascades == "last" else [1.0] * cascades
    total = sum(across) * sum(within)
    return [a * w / total for a in across for w in within]


class Loss(FullPrecision):
    """The loss of one batch, over iterates.

    Args:
        settings: terms and weights.
        problem: the batch, on its device.
        target: (B, M, y, x), complex or real; see `mrirecon.data.samples.Batch`. None for self-supervision.
        full: (B, C, y, x) k-space to compare with, where a term does.
        held: (B, 1, y, x), 1 where ``full`` counts.

    Raises:
        UsageError: a term that needs what the batch does not have.

    """

    def __init__(
        self, settings: LossSettings, problem: Problem, target: Tensor | None, full: Tensor | None, held: Tensor | None
    ) -> None:
        self.settings = settings
        terms = [(LOSSES[name], weight) for name, weight in settings.active.items()]
        self.of_images = [(loss, weight) for loss, weight in terms if loss.domain == "image"]
        self.of_kspace = [(loss, weight) for loss, weight in terms if loss.domain == "kspace"]
        if target is None and any(loss.supervised for loss, _ in self.of_images):
            raise UsageError(
                "there is no reference to compare with",
                where="loss",
                why="the scan was never fully sampled",
                fix="use the loss ssdu, or leave such scans out with data.exclude",
            )
        if self.of_kspace and (full is None or held is None):
            raise UsageError("there is no k-space to compare with", where="loss", fix="make items with their k-space")
        self.scale = percentile_scale(problem.adjoint)
        target = None if target is None else target / per_item(self.scale, target)
        about = Comparison(problem, self.scale, settings.compare, target, None, full, held)
        region: Tensor | None = None
        if target is not None and settings.region == "object":
            masks = [object_mask(m.double()) for m in about.reference.cpu()]
            region = torch.stack(masks).to(target.device)
        self.about = Comparison(problem, self.scale, settings.compare, target, region, full, held)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the loss (B,) of an image (B, M, y, x) in the data's own scale."""
        total = torch.zeros_like(self.scale)
        if self.of_images:
            x = image / per_item(self.scale, image)
            for loss, weight in self.of_images:
                total = total + self._weighed(weight, loss.build(x, self.about))
        for loss, weight in self.of_kspace:
            total = total + self._weighed(weight, loss.build(image, self.about))
        return total

    def _weighed(self, weight: float, term: Tensor) -> Tensor:
        """Return a term's part in the loss.

        Errors of 2-fold and 12-fold undersampled items differ tenfold, and the mean of errors is that of the worst. The
        mean of logarithms is what an average PSNR says.
        """
        return weight * (term.clamp_min(1e-12).log() if self.settings.log else term)

    def weighted_sum(self, images: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the weighted sum over iterates (B,); iterates of weight zero cost nothing.

        A single image (memory="invert" keeps only the last) carries all the weight.
        """
        total: Tensor | None = None
        last: Tensor | None = None
        for number, image in enumerate(images):
            last = image
            if number < len(weights) and weights[number]:
                part = weights[number] * self(image)
                total = part if total is None else total + part
            count = number + 1
        assert last is not None, "a schedule has at least one step"
        if count == 1 or total is None:
            return self(last)
        return total
