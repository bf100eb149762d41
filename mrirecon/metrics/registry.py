"""Register metrics, which score images, and losses, which training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrirecon.registries import Entry, Registry


@dataclass(frozen=True)
class Metric(Entry):
    """A metric.

    The function takes ``(image, reference)``: magnitudes (..., y, x) of one shape, the image after the least-squares
    scale. It returns one value an image (...), and raises an `InputError` where it is undefined. One that has the
    option ``region`` is given the pixels that count, where the user names them.

    Attributes:
        label: its name in tables, with its unit.
        higher: whether more is better.
        digits: significant digits in reports.
        given: how it is computed: ``slice`` calls the function for every slice; ``score`` is a part of our own score
            and of the presets; ``preset`` is a part of the presets alone, because it is in units of the images, which
            our own score scales first.

    """

    label: str = ""
    higher: bool = False
    digits: int = 3
    given: Literal["slice", "score", "preset"] = "slice"

    @property
    def title(self) -> str:
        """The label, or the name in capitals."""
        return self.label or self.name.upper()


@dataclass(frozen=True)
class LossTerm(Entry):
    """A loss.

    The function takes ``(image, about)``: an image (B, M, y, x) and its reference, see
    `mrirecon.metrics.losses.Comparison`. It returns one number an item (B,), zero at equality, with a gradient.

    Attributes:
        domain: ``image`` compares images, in units of the 99th percentile of |Aᴴy|; ``kspace`` compares samples, and is
            given the image in the data's own scale.
        supervised: whether it needs a fully sampled reference.

    """

    domain: Literal["image", "kspace"] = "image"
    supervised: bool = True


METRICS = Registry("metric", Metric, package="mrirecon.metrics", group="metrics")
LOSSES = Registry("loss", LossTerm, package="mrirecon.metrics", group="losses")
register_metric = METRICS.register
register_loss = LOSSES.register


def score_metrics() -> tuple[str, ...]:
    """Return the metrics of our own score, the default where none are named."""
    return tuple(name for name, metric in METRICS.items() if metric.given == "score")
