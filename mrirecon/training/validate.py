"""Scores on people that are not learned from, and pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mrirecon.data.batch import Batch
from mrirecon.data.samples import SampleFactory
from mrirecon.engine import Reconstructor
from mrirecon.io.writers.pictures import Panel, save_panels
from mrirecon.metrics import score_metrics, scores
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.training.config.loss import LossSettings
from mrirecon.training.objective import Loss

ERROR_GAIN = 5


@dataclass(frozen=True)
class Validation:
    """Means over the validation items.

    Attributes:
        scores: ssim, psnr, nmse against references; held_error where there are none. None where undefined.
        items: how many were looked at.

    """

    scores: dict[str, float | None]
    items: int

    @property
    def selection_score(self) -> float:
        """What the best model has the largest of."""
        if self.scores.get("ssim") is not None:
            return float(self.scores["ssim"] or 0)
        return -float(self.scores.get("held_error") or np.inf)


def validate(
    model: Reconstructor,
    recipe: SampleFactory,
    device: torch.device,
    *,
    ranks: tuple[int, int] = (0, 1),
    total: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    stop: Callable[[], None] = lambda: None,
    panels: int = 0,
    picture: Path | None = None,
    heading: str = "",
) -> Validation:
    """Reconstruct and score the validation items; rank r of n takes every n-th.

    Args:
        model: in evaluation mode.
        recipe: of the items; each slot is one.
        device: where to compute.
        ranks: this process and how many there are.
        total: adds a tensor up over all ranks.
        stop: called before each item; may raise.
        panels: how many items to draw.
        picture: where to draw them to.
        heading: above the picture.

    """
    rank, count = ranks
    names = (*score_metrics(), "held_error")
    # sum and number of the values that are defined, by metric
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    drawn: list[Panel] = []
    for number in range(rank, len(recipe.slices), count):
        stop()
        batch = recipe.sample(0, number, number, device)
        with torch.no_grad():
            image = model.run(batch.problem).image
        values = _scores(batch, image)
        sums += torch.tensor([[values.get(n) or 0.0, values.get(n) is not None] for n in names], dtype=sums.dtype).T
        if rank == 0 and len(drawn) < 4 * panels:
            drawn += _panels(batch, image, values)
    if count > 1:
        sums = total(sums.to(device)).cpu()
    found: dict[str, float | None] = {}
    for name, value, defined in zip(names, *sums.tolist(), strict=True):
        if defined or name in score_metrics():
            found[name] = value / defined if defined else None
    if picture is not None and drawn:
        save_panels(picture, drawn, columns=4, heading=heading)
    return Validation(found, len(recipe.slices))


def _scores(batch: Batch, image: torch.Tensor) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    if batch.target is not None:
        found = scores(_magnitude(image), _magnitude(batch.target))[0]
        values = {name: getattr(found, name) for name in score_metrics()}
    if batch.loss_mask is not None and batch.kspace is not None and image.is_complex():
        error = Loss(LossSettings.model_validate({"ssdu": 1.0}), batch.problem, None, batch.kspace, batch.loss_mask)(
            image
        )
        values["held_error"] = float(error)
    return values


def _panels(batch: Batch, image: torch.Tensor, values: dict[str, float | None]) -> list[Panel]:
    zero_filled, shown = _magnitude(batch.problem.adjoint)[0], _magnitude(image)[0]
    truth = _magnitude(batch.target)[0] if batch.target is not None else shown
    white = float(torch.quantile(truth.flatten().float(), 0.998))
    about = batch.info[0]
    note = f"{about.get('mask', '')} {about.get('acceleration', '')}x, {about.get('coils', '')} coils"
    told = "   ".join(f"{k} {v:.3g}" for k, v in values.items() if v is not None)
    arrays = [x.cpu().float().numpy() for x in (zero_filled, shown, truth, (shown - truth).abs())]
    return [
        Panel("zero-filled", arrays[0], vmax=white, note=note),
        Panel("reconstruction", arrays[1], vmax=white, note=told),
        Panel("reference", arrays[2], vmax=white, note=batch.names[0].split(", epoch")[0]),
        Panel(f"error × {ERROR_GAIN}", arrays[3], vmax=white / ERROR_GAIN),
    ]


def _magnitude(x: torch.Tensor) -> torch.Tensor:
    return root_sum_of_squares(x, 1)
