"""Train methods: training loop, states for bit-exact resumption, validation, and export of models with cards."""

from mrirecon.training.loop import Progress, dry_run, train

__all__ = ["Progress", "dry_run", "train"]
