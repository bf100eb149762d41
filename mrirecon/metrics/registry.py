"""Register metrics, which score images, and losses, which training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrirecon.registries import Entry, Registry


@dataclass(frozen=True)
class Metric(Entry):
    """Describe a metric.

    The function takes ``(image, reference)``: magnitudes (..., y, x) of equal shape, with the image scaled by least
    squares. It returns one value per image (...), and raises an `InputError` if it is undefined. If it has an option
    ``region``, it gets the evaluated pixels, if the user sets them.

    Attributes:
        label: name in tables, with unit.
        higher: whether a higher value is better.
        digits: significant digits in reports.
        scope: how the metric is computed: ``slice`` calls the function for every slice; ``score`` is a part of our own
            score and of the presets; ``preset`` is a part of the presets only, because it depends on the scale of the
            images, which our own score changes.

    """

    label: str = ""
    higher: bool = False
    digits: int = 3
    scope: Literal["slice", "score", "preset"] = "slice"

    @property
    def title(self) -> str:
        """Return the label, or the name in capitals."""
        return self.label or self.name.upper()


@dataclass(frozen=True)
class LossTerm(Entry):
    """Describe a loss.

    The function takes ``(image, comparison)``: an image (B, M, y, x) and its reference; see
    `mrirecon.metrics.losses.Comparison`. It returns one differentiable number per item (B,), zero for equal images.

    Attributes:
        domain: ``image`` compares images, in units of the 99th percentile of |Aᴴy|; ``kspace`` compares samples, and
            gets the image in the scale of the data.
        supervised: whether the loss needs a fully sampled reference.

    """

    domain: Literal["image", "kspace"] = "image"
    supervised: bool = True


METRICS = Registry("metric", Metric, package="mrirecon.metrics", group="metrics")
LOSSES = Registry("loss", LossTerm, package="mrirecon.metrics", group="losses")
register_metric = METRICS.register
register_loss = LOSSES.register


def score_metrics() -> tuple[str, ...]:
    """Return the metrics of our own score, which are the default."""
    return tuple(name for name, metric in METRICS.items() if metric.scope == "score")
