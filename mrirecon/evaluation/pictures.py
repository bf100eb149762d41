"""Draw PNG pictures of images with their reference and errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.io.writers.pictures import save_panels
from mrirecon.metrics.evaluation import ERROR_GAIN
from mrirecon.pictures import Panel


def save_comparison(
    path: str | Path,
    truth: np.ndarray,
    mask: np.ndarray,
    images: Sequence[tuple[str, np.ndarray, str]],
    heading: str,
) -> None:
    """Draw the reference and images in one row, and the mask and the errors, five times as bright, below them.

    Args:
        path: output file.
        truth: (y, x) magnitude of the reference.
        mask: (ky, kx) mask of k-space.
        images: title, magnitude (y, x) in the scale of the reference, and scores as text.
        heading: heading of the picture.

    """
    white = float(np.percentile(truth, 99.8))
    above = [Panel("fully sampled", truth, vmax=white, note="reference")]
    below = [
        Panel("samples of k-space", mask.astype(np.float64), vmax=1, note=f"{mask.size / mask.sum():.3g}x undersampled")
    ]
    for title, image, scores in images:
        above.append(Panel(title, image, vmax=white, note=scores))
        below.append(Panel(f"error × {ERROR_GAIN}", np.abs(image - truth), vmax=white / ERROR_GAIN))
    save_panels(path, [*above, *below], columns=len(above), heading=heading)
