"""Draw PNG pictures of images with their reference and errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.io.drawing import Panel
from mrirecon.io.writers.pictures import save_panels
from mrirecon.metrics.evaluation import ERROR_GAIN


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


def save_trajectory_picture(path: str | Path, points: np.ndarray, size: int = 384) -> None:
    """Draw the samples of a trajectory in the plane of its last two components, and their density.

    Args:
        path: output file.
        points: (readout, sample, ndim) in any unit.
        size: number of pixels of a side.

    """
    plane = points.reshape(-1, points.shape[-1])[:, -2:]
    reach = max(float(np.abs(plane).max()), 1e-12)
    pixels = ((plane / reach * 0.98 + 1) / 2 * (size - 1)).round().astype(int)
    count = np.zeros((size, size))
    np.add.at(count, (pixels[:, 0], pixels[:, 1]), 1)
    title = f"{points.shape[0]} readouts of {points.shape[1]} samples"
    save_panels(
        path,
        [
            Panel(title, np.minimum(count, 1), vmax=1, note=f"to {reach:.4g} along each axis"),
            Panel("number of samples, logarithmic", np.log1p(count), colours="heat"),
        ],
    )
