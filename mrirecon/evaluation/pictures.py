"""Draw images beside their reference with their errors, and masks beside their point spread functions, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrirecon.io.writers.pictures import Panel, save_panels
from mrirecon.masks import MaskResult, point_spread

FLOOR = -60.0  # dB: black in the picture of a point spread function
GAIN = 5  # of errors


def save_comparison(
    path: str | Path,
    truth: np.ndarray,
    mask: np.ndarray,
    images: Sequence[tuple[str, np.ndarray, str]],
    heading: str,
) -> None:
    """Draw the reference and images in one row, and below them the mask and the errors, five times as bright.

    Args:
        path: where to.
        truth: magnitude of the reference (y, x).
        mask: of k-space (ky, kx).
        images: title, magnitude (y, x) in the scale of the reference, and scores in words.
        heading: above all.

    """
    white = float(np.percentile(truth, 99.8))
    above = [Panel("fully sampled", truth, vmax=white, note="the reference")]
    below = [Panel("samples of k-space", mask.astype(np.float64), vmax=1, note=f"{mask.size / mask.sum():.3g}x fewer")]
    for title, image, scores in images:
        above.append(Panel(title, image, vmax=white, note=scores))
        below.append(Panel(f"error × {GAIN}", np.abs(image - truth), vmax=white / GAIN))
    save_panels(path, [*above, *below], columns=len(above), heading=heading)


def save_mask_picture(path: str | Path, result: MaskResult) -> float:
    """Draw a mask and its point spread function, in decibels.

    Args:
        path: where to.
        result: a mask of one, two or three axes. Of three the plane that holds the undersampled ones is drawn, through
            the centre, and its point spread function likewise. Of lines the function is drawn as a graph.

    Returns:
        The highest sidelobe, as a share of the peak (see ``point_spread``).

    """
    spread, highest = point_spread(result.mask)
    decibels = 20 * np.log10(np.maximum(spread, 10 ** (FLOOR / 20)))
    shape = "×".join(map(str, result.mask.shape))
    box = "×".join(map(str, result.calibration)) if all(result.calibration) else "none"
    asked = "" if result.asked is None else f", asked {result.asked:g}"
    lobe = f"{20 * math.log10(highest):.1f} dB ({highest:.3g} of the peak)" if highest > 1e-6 else "none"
    note = f"highest sidelobe {lobe}"
    if result.mask.ndim == 1 or len(result.axes) == 1:
        graph = _graph(decibels, result.axes)
        beside = Panel(f"point spread function, {FLOOR:g} (bottom) to 0 dB", graph, vmax=1, note=note)
    else:
        plane = _plane(decibels, result.axes)
        beside = Panel(f"point spread function, {FLOOR:g} to 0 dB", plane, vmin=FLOOR, vmax=0, note=note)
    name = result.name if result.family == "file" else result.family
    title = f"{name} {shape}, {result.acceleration:.4g}× achieved{asked}"
    drawn = _plane(result.mask, result.axes).astype(float)
    save_panels(path, [Panel(title, drawn, vmax=1, note=f"calibration region {box}"), beside])
    return highest


def _plane(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return two axes of one, two or three, the undersampled ones among them."""
    if values.ndim == 1:
        return np.broadcast_to(values, (values.size, values.size))
    if values.ndim == 2:
        return values
    across = min((a for a in (0, 1, 2) if a not in axes), default=0)
    return np.asarray(values.take(values.shape[across] // 2, axis=across))


def _graph(decibels: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the function across the lines as a filled graph, white below the curve; as wide as the axis is long."""
    axis = axes[0] if axes else 0
    centre = tuple(slice(None) if a == axis else n // 2 for a, n in enumerate(decibels.shape))
    height = (decibels[centre] - FLOOR) / -FLOOR
    rows = (np.arange(height.size)[::-1, None] + 0.5) / height.size
    return np.asarray(rows < height, dtype=float)
