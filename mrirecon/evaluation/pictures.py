"""Draw PNG pictures: images with their reference and errors, and masks with their point spread functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.io.writers.pictures import Panel, save_panels
from mrirecon.masks import MaskResult, point_spread

FLOOR = -60.0  # dB: black in the picture of a point spread function
GAIN = 5  # factor of error images


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
        below.append(Panel(f"error × {GAIN}", np.abs(image - truth), vmax=white / GAIN))
    save_panels(path, [*above, *below], columns=len(above), heading=heading)


def save_mask_picture(path: str | Path, result: MaskResult) -> float:
    """Draw a mask and its point spread function in decibels.

    Args:
        path: output file.
        result: mask with one, two or three axes. With three axes, the central plane that contains the undersampled axes
            is drawn. The function of a mask of lines is drawn as a graph.

    Returns:
        Height of the highest sidelobe, relative to the peak (see `point_spread`).

    """
    spread, highest = point_spread(result.mask)
    decibels = 20 * np.log10(np.maximum(spread, 10 ** (FLOOR / 20)))
    shape = "×".join(map(str, result.mask.shape))
    box = "×".join(map(str, result.calibration)) if all(result.calibration) else "none"
    requested = "" if result.requested is None else f", requested {result.requested:g}"
    lobe = f"{20 * math.log10(highest):.1f} dB ({highest:.3g} of the peak)" if highest > 1e-6 else "none"
    note = f"highest sidelobe {lobe}"
    if result.mask.ndim == 1 or len(result.axes) == 1:
        graph = _graph(decibels, result.axes)
        beside = Panel(f"point spread function, {FLOOR:g} (bottom) to 0 dB", graph, vmax=1, note=note)
    else:
        plane = _plane(decibels, result.axes)
        beside = Panel(f"point spread function, {FLOOR:g} to 0 dB", plane, vmin=FLOOR, vmax=0, note=note)
    name = result.name if result.family == "file" else result.family
    title = f"{name} {shape}, {result.acceleration:.4g}× achieved{requested}"
    drawn = _plane(result.mask, result.axes).astype(float)
    save_panels(path, [Panel(title, drawn, vmax=1, note=f"calibration region {box}"), beside])
    return highest


def _plane(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return a plane of an array with one, two or three axes that contains the undersampled axes."""
    if values.ndim == 1:
        return np.broadcast_to(values, (values.size, values.size))
    if values.ndim == 2:
        return values
    across = min((a for a in (0, 1, 2) if a not in axes), default=0)
    return np.asarray(values.take(values.shape[across] // 2, axis=across))


def _graph(decibels: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return a graph of the point spread function across the lines, white below the curve, one column per sample."""
    axis = axes[0] if axes else 0
    centre = tuple(slice(None) if a == axis else n // 2 for a, n in enumerate(decibels.shape))
    height = (decibels[centre] - FLOOR) / -FLOOR
    rows = (np.arange(height.size)[::-1, None] + 0.5) / height.size
    return np.asarray(rows < height, dtype=float)


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
