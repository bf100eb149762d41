"""What a run would take: `mrirecon train --dry-run`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mrirecon.models.costs import peak_allocation
from mrirecon.training.config import Config
from mrirecon.training.setup import make_fabric
from mrirecon.training.trainer import Trainer

STEPS = 2  # timed, after the first


def dry_run(config: Config, folder: str | Path, device: str = "auto") -> dict[str, Any]:
    """Take a few steps without keeping anything, and return what the whole run would need.

    Returns:
        Plain data: people, slices, steps, parameters, seconds a step and in all, share of them spent waiting for data,
        peak memory of a step in MiB beside the weights, and notes.

    Raises:
        MriReconError: whatever would stop the run at its beginning.

    """
    fabric = make_fabric(config.settings.train, device)
    t = Trainer(config, Path(folder), fabric)
    told: dict[str, Any] = {
        "method": config.settings.method,
        "people": t.sources.people,
        "slices": {"train": len(t.sources.train), "val": len(t.sources.val)},
        "steps": t.total,
        "device": str(t.device),
        "parameters": sum(w.numel() for w in t.weights.values()),
        "notes": [*t.sources.notes, t.precision_told],
        "folder": str(folder),
    }
    if not t.learnable:
        return told | {"steps": 0}
    batches = t.loader.batches(0)
    cuda = t.device.type == "cuda"
    if cuda:
        t.advance(batches)
        peak = torch.cuda.max_memory_allocated(t.device)
    else:
        peak = peak_allocation(lambda: t.advance(batches))
    start, waited = time.perf_counter(), t.loader.waited
    for _ in range(STEPS):
        t.advance(batches)
    spent = time.perf_counter() - start
    waited = (t.loader.waited - waited) / spent
    first = time.perf_counter()
    with t.averaged() as model, torch.no_grad():
        model.run(t.check.item(0, 0, 0, t.device).problem)
    one = time.perf_counter() - first
    check = one * len(t.check.slots)
    minutes = config.settings.train.minutes
    if minutes is not None:
        told["steps"] = max(1, round((60 * minutes - 2 * check) / (spent / STEPS)))  # two validations, at least
        whole = 60 * minutes
    else:
        whole = spent / STEPS * t.total + check * (t.total // t.every + 1)
    return told | {
        "seconds a step": spent / STEPS,
        "waited": waited,
        "seconds in all": whole,
        "memory (MiB)": peak / 2**20,
    }
