"""Draw a mask beside its point spread function."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.io.drawing import Panel
from mrirecon.masks.psf import point_spread
from mrirecon.masks.result import MaskResult

FLOOR = -60.0  # dB: black in the picture of a point spread function


def mask_panels(result: MaskResult) -> tuple[list[Panel], float]:
    """Return panels with a mask and its point spread function in decibels, and the height of the highest sidelobe.

    Args:
        result: mask with one, two or three axes. With three axes, the central plane that contains the undersampled axes
            is drawn. The function of a mask of lines is drawn as a graph.

    Returns:
        The panels; the height of the highest sidelobe, relative to the peak (see `point_spread`).

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
    return [Panel(title, drawn, vmax=1, note=f"calibration region {box}"), beside], highest


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
