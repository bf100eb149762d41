"""Train methods: one loop, states that resume it bit for bit, validation, and exported models with their cards."""

from mrirecon.training.loop import Progress, dry_run, train

__all__ = ["Progress", "dry_run", "train"]
