"""What training minimises: one number an item, so that means over batches, ranks and accumulated steps agree.

Images are compared in units of the 99th percentile of |Aᴴy|, the scale that methods work at, so that every item weighs
the same whatever its scanner's gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.metrics import object_mask, ssim_map
from mrirecon.operators import per_item, root_sum_of_squares
from mrirecon.precision import FullPrecision
from mrirecon.problem import Problem
from mrirecon.scale import percentile_scale

TERMS = ("l1", "l2", "ssim", "kspace_l1", "ssdu")
Weight = Annotated[float, Field(ge=0, lt=float("inf"))]


class LossSettings(BaseModel):
    """The section ``loss`` of a configuration: weights of the terms, and what they look at."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    l1: Weight = Field(0.0, description="mean |x - r|")
    l2: Weight = Field(0.0, description="mean |x - r|^2")
    ssim: Weight = Field(0.0, description="1 - SSIM of the magnitudes")
    kspace_l1: Weight = Field(0.0, description="mean |F S x - k| over all samples")
    ssdu: Weight = Field(0.0, description="self-supervised: error at acquired samples that the network did not see")
    log: bool = Field(
        False, description="the logarithm of each term: an item that is good already counts like a bad one"
    )
    on: Literal["magnitude", "complex"] = Field("magnitude", description="what l1 and l2 compare")
    region: Literal["field", "object"] = Field("field", description="where images are compared")
    steps: Literal["last", "mean", "log"] = Field(
        "log", description="steps of a recurrence: the last, all alike, or 10^(-(T-t)/(T-1)) as in the CIRIM paper"
    )
    cascades: Literal["last", "mean"] = Field("mean", description="cascades: the last, or all alike")
    split: float = Field(0.4, gt=0, lt=1, description="of the samples, that ssdu keeps from the network")

    @model_validator(mode="after")
    def _something(self) -> LossSettings:
        if not any(getattr(self, name) for name in TERMS):
            raise ValueError(f"give at least one of {', '.join(TERMS)} a weight")
        if self.ssdu and any(getattr(self, name) for name in TERMS[:4]):
            raise ValueError("ssdu needs no reference, and mixes with no term that has one")
        return self

    @property
    def supervised(self) -> bool:
        """Whether an image is compared with."""
        return not self.ssdu


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
        target: (B, M, y, x), complex or real; see `mrirecon.data.items.Batch`. None for self-supervision.
        full: (B, C, y, x) k-space to compare with, where a term does.
        held: (B, 1, y, x), 1 where ``full`` counts.

    Raises:
        UsageError: a term that needs what the batch does not have.

    """

    def __init__(
        self, settings: LossSettings, problem: Problem, target: Tensor | None, full: Tensor | None, held: Tensor | None
    ) -> None:
        self.settings, self.problem = settings, problem
        if settings.supervised and target is None and (settings.l1 or settings.l2 or settings.ssim):
            raise UsageError(
                "there is no reference to compare with",
                where="loss",
                why="the scan was never fully sampled",
                fix="use the loss ssdu, or leave such scans out with data.exclude",
            )
        if (settings.kspace_l1 or settings.ssdu) and (full is None or held is None):
            raise UsageError("there is no k-space to compare with", where="loss", fix="make items with their k-space")
        self.scale = percentile_scale(problem.adjoint)
        self.full, self.held = full, held
        self.target = None if target is None else target / per_item(self.scale, target)
        self.region: Tensor | None = None
        if self.target is not None:
            magnitude = _magnitude(self.target)
            self.peak = magnitude.flatten(1).amax(1).clamp_min(torch.finfo(magnitude.dtype).tiny)
            if settings.region == "object":
                masks = [object_mask(m.double()) for m in magnitude.cpu()]
                self.region = torch.stack(masks).to(magnitude.device)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the loss (B,) of an image (B, M, y, x) in the data's own scale."""
        s = self.settings
        total = torch.zeros_like(self.scale)
        if self.target is not None and s.supervised:
            x = image / per_item(self.scale, image)
            if s.l1 or s.l2:
                difference = self._difference(x)
                if s.l1:
                    total = total + self._weighed(s.l1, self._mean(difference))
                if s.l2:
                    total = total + self._weighed(s.l2, self._mean(difference.square()))
            if s.ssim:
                total = total + self._weighed(s.ssim, 1 - self._ssim(_magnitude(x)))
        if s.kspace_l1 or s.ssdu:
            total = total + self._weighed(s.kspace_l1 or s.ssdu, self._kspace(image))
        return total

    def _weighed(self, weight: float, term: Tensor) -> Tensor:
        """Return a term's part in the loss.

        Errors of 2-fold and 12-fold undersampled items differ tenfold, and the mean of errors is that of the worst. The
        mean of logarithms is what an average PSNR says.
        """
        return weight * (term.clamp_min(1e-12).log() if self.settings.log else term)

    def over(self, images: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
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

    def _difference(self, x: Tensor) -> Tensor:
        """Return |x − r| (B, y, x)."""
        assert self.target is not None, "checked at construction"
        if self.settings.on == "magnitude":
            return (_magnitude(x) - _magnitude(self.target)).abs()
        if not (x.is_complex() and self.target.is_complex()):
            raise UsageError(
                "this method gives no phase to compare",
                where="loss.on",
                why="its image is a root sum of squares",
                fix="use loss.on: magnitude",
            )
        return _magnitude(x - self.target)

    def _ssim(self, x: Tensor) -> Tensor:
        assert self.target is not None, "checked at construction"
        values = ssim_map(x, _magnitude(self.target), self.peak)
        edge = (x.shape[-1] - values.shape[-1]) // 2
        return self._mean(values, None if self.region is None else self.region[:, edge:-edge, edge:-edge])

    def _kspace(self, image: Tensor) -> Tensor:
        """Return the error in k-space, everywhere or where the network did not see it (Yaman et al., MRM 84:3172)."""
        assert self.full is not None, "checked at construction"
        assert self.held is not None, "checked at construction"
        if not image.is_complex():
            raise UsageError(
                "this method's image has no k-space",
                where="loss",
                why="it is a root sum of squares",
                fix="use a method that combines coils by maps, or another loss",
            )
        held = self.held
        wrong = (held * (self.problem.encode(image) - self.full)).flatten(1)
        if self.settings.kspace_l1:
            count = held.flatten(1).sum(1) * self.full.shape[1]
            return _l1(wrong) / (count * self.scale)
        measured = (held * self.full).flatten(1)
        tiny = torch.finfo(self.scale.dtype).tiny
        l1 = _l1(wrong) / _l1(measured).clamp_min(tiny)
        l2 = root_sum_of_squares(wrong, 1) / root_sum_of_squares(measured, 1).clamp_min(tiny)
        return 0.5 * (l1 + l2)

    def _mean(self, values: Tensor, region: Tensor | None = None) -> Tensor:
        """Return the mean of (B, y, x) over the region of each item."""
        region = self.region if region is None else region
        if region is None:
            return values.flatten(1).mean(1)
        count = region.flatten(1).sum(1).clamp_min(1)
        return torch.where(region, values, 0.0).flatten(1).sum(1) / count


def _l1(x: Tensor) -> Tensor:
    """Return Σ |x| (B,) of complex (B, n)."""
    return root_sum_of_squares(x.unsqueeze(1), 1).sum(1)


def _magnitude(x: Tensor) -> Tensor:
    """Return the magnitude (B, y, x), sets of maps combined."""
    return root_sum_of_squares(x, 1)
