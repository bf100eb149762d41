"""Detect images that are mirrored, transposed, shifted, zoomed or scaled relative to their reference.

A metric only shows that such an image is bad. This module tests transformations and reports the one that explains it.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

_SIDE = 128  # number of evaluated pixels along each axis
_LEAST = 0.5  # minimum correlation of another position to be accepted,
_LEFT = 0.5  # and maximum remaining fraction of the deviation from 1
_SCALE = 1.5  # minimum scale factor to report,
_SCALE_IF_UNSCALED = 1.1  # and minimum factor if the metric does not scale images
_NUDGE = 0.001  # minimum gain of correlation by a shift at full resolution
_ZOOMS = tuple(round(1.05**k, 4) for k in range(-8, 9) if k)
_FINER = (0.975, 0.9875, 1.0, 1.0125, 1.025)  # step of the search for the best zoom
_ZOOMED = 0.85  # minimum correlation of a zoom, because a shrunk flat image gets a border like that of any object
_GOOD = 0.97  # above this correlation, no zoom is tested
Finding = tuple[str, str]  # message and reason


def misalignments(
    image: np.ndarray, truth: np.ndarray, scale: float | None, *, placed: bool = False, scaled: bool = True
) -> list[Finding]:
    """Return messages on a wrong position or scale of one volume, with reasons.

    Args:
        image: (z, y, x) or (y, x) magnitudes.
        truth: reference of the same shape.
        scale: factor that scales the image to the reference, or None.
        placed: whether both positions agree by the coordinates of the files.
        scaled: whether the metric applies this factor; otherwise, smaller factors are also reported.

    """
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    middle = fullest_slice(r)
    one, reference = x[middle], r[middle]
    findings: list[Finding] = []
    if one.any() and reference.any():
        findings = _orientation(one, reference) or _small_shift(one, reference)
        findings = findings or _order(x, r) or _zoom(one, reference)
    if placed:
        findings = [(f"{message}, though the coordinates of both files agree", reason) for message, reason in findings]
    if findings and not scaled:
        return findings  # the factor of a misaligned image has little meaning
    least, then = (_SCALE, "scaled first") if scaled else (_SCALE_IF_UNSCALED, "this preset does not scale them")
    if scale is not None and scale > 0 and not 1 / least < scale < least:
        findings.append(("the values have another scale", f"{1 / scale:.3g} times the reference's; {then}"))
    return findings


def fullest_slice(r: np.ndarray) -> int:
    """Return the index of the slice with the most signal."""
    return int(np.argmax([float((v > 0.1 * r.max()).mean()) for v in r])) if r.any() else 0


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two images; 0 if one of them is constant."""
    return float((_standardized(a) * _standardized(b)).sum())


def _standardized(v: np.ndarray) -> np.ndarray:
    centred = v - v.mean()
    norm = float(np.sqrt((centred.astype(np.float64) ** 2).sum()))
    return np.asarray(centred / norm if norm > 0 else centred)


def _best_shift(x: np.ndarray, r: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the largest correlation of standardized images over cyclic shifts, and the shift (down, across) of x."""
    correlations = np.fft.irfft2(np.fft.rfft2(x) * np.fft.rfft2(r).conj(), x.shape)
    at = np.unravel_index(int(correlations.argmax()), x.shape)
    down, across = (int(a) - n if a > n // 2 else int(a) for a, n in zip(at, x.shape, strict=True))
    return float(correlations[at]), (down, across)


def _binned(v: np.ndarray, step: int) -> np.ndarray:
    ny, nx = (n // step * step for n in v.shape)
    return np.asarray(v[:ny, :nx].reshape(ny // step, step, nx // step, step).mean((1, 3)))


def _orientation(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Detect an image that is transposed, mirrored, or shifted far."""
    step = max(1, -(-max(r.shape) // _SIDE))
    small, reference = (_standardized(_binned(v, step)) for v in (x, r))
    here = float((small * reference).sum())
    # the first candidate must explain much more, each further one slightly more than the one before
    needed = max(here + 0.01, 1 - _LEFT * (1 - here))
    best, names, moved = 0.0, [""], (0, 0)
    turns = (False, True) if x.shape[0] == x.shape[1] else (False,)
    for turned, down, across in itertools.product(turns, (False, True), (False, True)):
        candidate = (small.T if turned else small)[:: -1 if down else 1, :: -1 if across else 1]
        fit, shift = _best_shift(candidate, reference)
        if fit > needed:
            best, needed, moved = fit, fit + 0.02, (step * shift[0], step * shift[1])
            flags = {"transposed": turned, "mirrored up-down": down, "mirrored left-right": across}
            names = [name for name, flag in flags.items() if flag]
    if best < _LEAST:
        return []
    reason = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    # mirroring about the centre of an even number of pixels shifts by one pixel
    if not names or max(map(abs, moved)) > step:
        reason = f"by {moved[0]} pixels down and {moved[1]} across; {reason}"
        names = [*names, "shifted"]
    return [(f"the image seems to be {' and '.join(names)}", reason)]


def _small_shift(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Detect a shift by one or two pixels at full resolution."""
    one, reference = _standardized(x), _standardized(r)
    here = float((one * reference).sum())
    best, (down, across) = _best_shift(one, reference)
    if best < max(_LEAST, here + _NUDGE, 1 - _LEFT * (1 - here)) or not (down or across):
        return []
    reason = f"by {down} pixels down and {across} across; its correlation with the reference would be {best:.3f}"
    return [("the image seems to be shifted", f"{reason}, not {here:.3f}")]


def _order(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Detect slices in reverse order."""
    here, best = (float(np.mean([correlation(a, b) for a, b in zip(v, r, strict=True)])) for v in (x, x[::-1]))
    if len(r) == 1 or best <= max(_LEAST, here + 0.01, 1 - _LEFT * (1 - here)):
        return []
    reason = f"their correlation with the reference's would be {best:.2f}, not {here:.2f}"
    return [("the slices seem to be in reverse order", reason)]


def _zoom(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Detect an image with another field of view: zoomed about the centre along one or both axes."""
    step = max(1, -(-max(r.shape) // (_SIDE // 2)))
    small, reference = (_binned(v, step) for v in (x, r))
    here = correlation(small, reference)
    if here > _GOOD:
        return []
    middle = (np.array(small.shape) - 1) / 2

    def undone(zoom: float, axes: tuple[int, int]) -> float:
        factors = np.array([zoom if axis else 1.0 for axis in axes])
        return correlation(ndimage.affine_transform(small, factors, middle - factors * middle, order=1), reference)

    _, zoom, axes = max((undone(z, axes), z, axes) for z in _ZOOMS for axes in ((1, 1), (1, 0), (0, 1)))
    best, zoom = max((undone(zoom * f, axes), zoom * f) for f in _FINER)
    if best < max(_ZOOMED, here + 0.01, 1 - _LEFT * (1 - here)):
        return []
    direction = {(1, 1): "", (1, 0): " along y", (0, 1): " along x"}[axes]
    reason = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    return [("the image seems to be zoomed", f"by {zoom:.2f} about its centre{direction}; {reason}")]
