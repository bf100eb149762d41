"""Say what a trained model is for: data, licence, size, what its card covers, and where it does not apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {"snr": "SNR", "size": "pixels", "calibration": "calibration lines"}


def describe_use(config: Mapping[str, Any]) -> dict[str, str]:
    """Return data, licence, size, coverage and limits of a model in words.

    Args:
        config: configuration of the model's folder (`mrirecon.models.checkpoints.describe_model`).

    """
    card = config["card"]
    covers = card.get("covers")
    covers = covers if isinstance(covers, dict) else {}
    ranges = [f"{_NAMES.get(key, key)} {_words(value)}" for key, value in covers.items()]
    outside = card.get("does not apply") or ("outside of these ranges" if ranges else "unknown: the card has no ranges")
    other = "other anatomy than its data; data without a calibration region" if ranges else ""
    return {
        "method": str(config["method"]),
        "data": str(card.get("data", "not recorded")),
        "licence": str(card.get("licence", "not recorded")),
        "size": f"{config.get('parameters', 'unknown')} parameters",
        "covers": "; ".join(ranges) or "not recorded",
        "does not apply": f"{outside}; {other}" if other else str(outside),
    }


def _words(value: object) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return f"{value[0]:g} to {value[1]:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
