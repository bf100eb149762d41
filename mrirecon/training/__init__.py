"""Training: one loop, states that resume it bit for bit, validation, and the card that a model leaves with."""

from mrirecon.training.loop import Progress, train
from mrirecon.training.plan import dry_run

__all__ = ["Progress", "dry_run", "train"]
