"""Score a model on the validation samples, whose subjects are not in the training data, and draw some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mrirecon.data.batch import Batch
from mrirecon.data.samples import SampleFactory
from mrirecon.engine import Reconstructor
from mrirecon.io.drawing import Panel
from mrirecon.io.writers.pictures import save_panels
from mrirecon.metrics import score_metrics, scores
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.training.config.settings import LossSettings
from mrirecon.training.objective import Loss

if TYPE_CHECKING:
    from lightning.fabric import Fabric

ERROR_GAIN = 5
COLUMNS = 4  # number of panels per sample
Scores = dict[str, float | None]


def selection_score(scores: Scores) -> float:
    """Return the score by which the best model is selected; higher is better."""
    ssim = scores.get("ssim")
    return -float(scores.get("held_error") or np.inf) if ssim is None else ssim


def validate(
    model: Reconstructor,
    factory: SampleFactory,
    fabric: Fabric,
    *,
    stop: Callable[[], None],
    panels: int,
    picture: Path | None,
    heading: str,
) -> Scores:
    """Reconstruct and score the validation samples; each rank takes every n-th sample.

    Args:
        model: model in evaluation mode.
        factory: factory of the samples, one per slice.
        fabric: device and ranks.
        stop: called before each sample; may raise.
        panels: number of samples to draw.
        picture: file of the picture; None draws none.
        heading: heading of the picture.

    Returns:
        The means over the samples: ssim, psnr and nmse with references, else held_error; None if undefined.

    """
    rank, count, device = fabric.global_rank, fabric.world_size, fabric.device
    names = (*score_metrics(), "held_error")
    # keys: metrics; values: sum and number of the defined values
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    drawn: list[Panel] = []
    for number in range(rank, len(factory.slices), count):
        stop()
        batch = factory.sample(0, number, number, device)
        with torch.no_grad():
            image = model.run(batch.problem).image
        values = _scores(batch, image)
        sums += torch.tensor([[values.get(n) or 0.0, values.get(n) is not None] for n in names], dtype=sums.dtype).T
        if rank == 0 and len(drawn) < COLUMNS * panels:
            drawn += _panels(batch, image, values)
    if count > 1:
        sums = fabric.all_reduce(sums.to(device), reduce_op="sum").cpu()  # type: ignore[union-attr]  # a tensor
    means = {
        name: value / defined if defined else None
        for name, value, defined in zip(names, *sums.tolist(), strict=True)
        if defined or name in score_metrics()
    }
    if picture is not None and drawn:
        save_panels(picture, drawn, columns=COLUMNS, heading=heading)
    return means


def _scores(batch: Batch, image: torch.Tensor) -> Scores:
    values: Scores = {}
    if batch.target is not None:
        score = scores(root_sum_of_squares(image, 1), root_sum_of_squares(batch.target, 1))[0]
        values = {name: getattr(score, name) for name in score_metrics()}
    if batch.loss_mask is not None and batch.kspace is not None and image.is_complex():
        ssdu = LossSettings.model_validate({"ssdu": 1.0})
        values["held_error"] = float(Loss(ssdu, batch.problem, None, batch.kspace, batch.loss_mask)(image))
    return values


def _panels(batch: Batch, image: torch.Tensor, values: Scores) -> list[Panel]:
    """Return the panels of a sample: zero-filled, reconstruction, reference and error."""
    reference = image if batch.target is None else batch.target
    zero_filled, shown, truth = (root_sum_of_squares(x, 1)[0] for x in (batch.problem.zero_filled, image, reference))
    white = float(torch.quantile(truth.flatten().float(), 0.998))
    info = batch.info[0]
    note = f"{info.get('mask', '')} {info.get('acceleration', '')}x, {info.get('coils', '')} coils"
    score = "   ".join(f"{k} {v:.3g}" for k, v in values.items() if v is not None)
    arrays = [x.cpu().float().numpy() for x in (zero_filled, shown, truth, (shown - truth).abs())]
    return [
        Panel("zero-filled", arrays[0], vmax=white, note=note),
        Panel("reconstruction", arrays[1], vmax=white, note=score),
        Panel("reference", arrays[2], vmax=white, note=batch.names[0].split(", epoch")[0]),
        Panel(f"error × {ERROR_GAIN}", arrays[3], vmax=white / ERROR_GAIN),
    ]
