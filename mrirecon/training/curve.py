"""Draw the curves of a run from its log: the loss, and the validation score beside that of zero filling."""

from __future__ import annotations

import math
from pathlib import Path

from mrirecon.io.drawing import Curve, draw_curves
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.text import parse_json
from mrirecon.training.log import NAME
from mrirecon.training.validate import Scores, selection_score

PICTURE = "curve.png"


def warn_if_useless(best: float | None, zero_filled: Scores, folder: Path) -> str | None:
    """Return a warning if the best score of a run is below that of the zero-filled images; else None."""
    level = selection_score(zero_filled)
    if best is None or best >= level:
        return None
    return (
        f"warning: the best model ({best:.4g}) is worse than zero filling ({level:.4g}): do not use it; "
        f"see {folder / PICTURE}"
    )


def draw_run(folder: Path, zero_filled: Scores, heading: str) -> None:
    """Write the curves of a run to ``curve.png`` in its folder.

    Args:
        folder: folder of the run, with its log.
        zero_filled: scores of the zero-filled images.
        heading: heading of the picture.

    """
    lines = [parse_json(text) for text in (folder / NAME).read_text(encoding="utf-8").splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    scores = [(line["step"], selection_score(line["validation"])) for line in lines if "validation" in line]
    name = "SSIM" if zero_filled.get("ssim") is not None else "minus the error of held-out samples"
    level = selection_score(zero_filled)
    picture = draw_curves(
        [
            Curve("training loss", losses),
            Curve(f"validation: {name}", scores, level if math.isfinite(level) else None, "zero-filled"),
        ],
        heading,
    )
    with atomic_path(folder / PICTURE) as temporary:
        picture.save(temporary, format="PNG")
