"""What a model says of its training: enough to do it again, and to tell what it may be used for."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from mrirecon import __version__
from mrirecon.data.sources import Sources
from mrirecon.training.config import Settings


def make_card(
    settings: Settings,
    sources: Sources,
    *,
    step: int,
    epoch: float,
    seconds: float,
    scores: dict[str, float | None],
    zero_filled: dict[str, float | None],
    items: int,
    ranks: int,
    device: str,
) -> dict[str, object]:
    """Return the card of a model as plain data."""
    data, train = settings.data, settings.train
    simulated = any("simulated" in str(f["kind"]) for f in sources.files)
    rates = [r for m in data.masks for r in m.acceleration]
    calibration = [c for m in data.masks for c in m.calibration]
    sides = sorted({s for f in sources.files for s in f["size"]})  # type: ignore[attr-defined]  # plain data
    covers: dict[str, object] = {
        "acceleration": [min(rates), max(rates)],
        "masks": sorted({m.family for m in data.masks}),
        "calibration": [min(calibration), max(calibration)] if calibration else "32 % of the samples",
        # a window shows a part of a slice, at the slice's own resolution
        "size": [min(*data.crop, *sides), max(sides)] if data.crop else sides,
    }
    if data.contrasts:
        covers["contrasts"] = list(data.contrasts)
    if simulated:
        covers |= {"coils": data.simulation.coils, "snr": data.simulation.snr}
    return {
        "data": data.source or ", ".join(data.train),
        "licence": data.licence,
        "measured or simulated": "simulated from magnitude volumes" if simulated else "measured k-space",
        "people": sources.people,
        "slices": {"train": len(sources.train), "val": len(sources.val)},
        "files": sources.files,
        "notes": sources.notes,
        "covers": covers,
        "maps": data.maps,
        "target": data.target if simulated else "coils combined",
        "loss": {k: v for k, v in settings.loss.model_dump().items() if v},
        "seed": train.seed,
        "steps": step,
        "epochs": round(epoch, 2),
        **({"budget (min)": train.minutes} if train.minutes is not None else {}),
        **({"started from": train.initial} if train.initial is not None else {}),
        "effective batch": train.batch * train.accumulate,
        "processes": ranks,
        "optimizer": f"{train.optimizer}, lr {train.lr:g}, {train.schedule}, warm-up {train.warmup}",
        "moving average": train.ema,
        "precision": train.precision,
        "device": device,
        "wall time (s)": round(seconds, 1),
        "validation": {"items": items, **_rounded(scores)},
        "zero-filled on the same": _rounded(zero_filled),
        "versions": {
            "mrirecon": __version__,
            "torch": torch.__version__,
            "lightning": metadata.version("lightning"),
            "python": platform.python_version(),
        },
    }


def _rounded(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {k: None if v is None else float(f"{v:.5g}") for k, v in scores.items()}
