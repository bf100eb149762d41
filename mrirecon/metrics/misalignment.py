"""Find images that are mirrored, transposed, shifted, zoomed or scaled relative to their reference.

A metric only says that such an image is bad. Here transformations are tried, and the one that explains it is named.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

_SIDE = 128  # pixels that are looked at along each axis
_LEAST = 0.5  # correlation that another position must reach to be believed,
_LEFT = 0.5  # and the share of what is missing to 1 that it may leave
_SCALE = 1.5  # from which on a scale is noted,
_SCALE_IF_UNSCALED = 1.1  # and from which on where the metric itself does not scale
_NUDGE = 0.001  # correlation that a shift at full resolution must bring
_ZOOMS = tuple(round(1.05**k, 4) for k in range(-8, 9) if k)
_FINER = (0.975, 0.9875, 1.0, 1.0125, 1.025)  # of the best zoom
_ZOOMED = 0.85  # correlation that a zoom must reach: a flat image that shrinks gets a border like any object's
_GOOD = 0.97  # correlation from which on no zoom is tried
Finding = tuple[str, str]  # what is wrong, and how that is known


def misalignments(
    image: np.ndarray, truth: np.ndarray, scale: float | None, *, placed: bool = False, scaled: bool = True
) -> list[Finding]:
    """Say what is wrong with the position or the scale of one volume, and how that is known.

    Args:
        image: (z, y, x) or (y, x) magnitudes.
        truth: of the same shape.
        scale: the factor that brings the image to the reference; None if there is none.
        placed: whether the coordinates of both files say that they lie alike.
        scaled: whether the metric applies that factor; where it does not, a smaller one is noted.

    """
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    middle = fullest_slice(r)
    one, reference = x[middle], r[middle]
    findings: list[Finding] = []
    if one.any() and reference.any():
        findings = _orientation(one, reference) or _small_shift(one, reference)
        findings = findings or _order(x, r) or _zoom(one, reference)
    if placed:
        findings = [(f"{what}, though the coordinates of both files agree", how) for what, how in findings]
    if findings and not scaled:
        return findings  # the factor of an image that lies elsewhere says little
    least, then = (_SCALE, "scaled first") if scaled else (_SCALE_IF_UNSCALED, "this definition does not scale them")
    if scale is not None and scale > 0 and not 1 / least < scale < least:
        findings.append(("its values are of another scale", f"{1 / scale:.3g} times the reference's; {then}"))
    return findings


def fullest_slice(r: np.ndarray) -> int:
    """Return the number of the slice with the most signal."""
    return int(np.argmax([float((v > 0.1 * r.max()).mean()) for v in r])) if r.any() else 0


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two images; 0 where one of them is constant."""
    return float((_standardized(a) * _standardized(b)).sum())


def _standardized(v: np.ndarray) -> np.ndarray:
    centred = v - v.mean()
    norm = float(np.sqrt((centred.astype(np.float64) ** 2).sum()))
    return np.asarray(centred / norm if norm > 0 else centred)


def _best_shift(x: np.ndarray, r: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the largest correlation of standardized images under cyclic shifts, and the shift (down, across) of x."""
    correlations = np.fft.irfft2(np.fft.rfft2(x) * np.fft.rfft2(r).conj(), x.shape)
    at = np.unravel_index(int(correlations.argmax()), x.shape)
    down, across = (int(a) - n if a > n // 2 else int(a) for a, n in zip(at, x.shape, strict=True))
    return float(correlations[at]), (down, across)


def _binned(v: np.ndarray, step: int) -> np.ndarray:
    ny, nx = (n // step * step for n in v.shape)
    return np.asarray(v[:ny, :nx].reshape(ny // step, step, nx // step, step).mean((1, 3)))


def _orientation(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Find an image that is transposed, mirrored, or shifted far."""
    step = max(1, -(-max(r.shape) // _SIDE))
    small, reference = (_standardized(_binned(v, step)) for v in (x, r))
    here = float((small * reference).sum())
    # the first must explain much more to be believed, another a little more than the one before
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
    how = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    # a mirror about the centre of an even number of pixels moves by one
    if not names or max(map(abs, moved)) > step:
        how = f"by {moved[0]} pixels down and {moved[1]} across; {how}"
        names = [*names, "shifted"]
    return [(f"it seems to be {' and '.join(names)}", how)]


def _small_shift(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Find a shift by a pixel or two, at full resolution."""
    one, reference = _standardized(x), _standardized(r)
    here = float((one * reference).sum())
    best, (down, across) = _best_shift(one, reference)
    if best < max(_LEAST, here + _NUDGE, 1 - _LEFT * (1 - here)) or not (down or across):
        return []
    how = f"by {down} pixels down and {across} across; its correlation with the reference would be {best:.3f}"
    return [("it seems to be shifted", f"{how}, not {here:.3f}")]


def _order(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Find slices in reverse order."""
    here, best = (float(np.mean([correlation(a, b) for a, b in zip(v, r, strict=True)])) for v in (x, x[::-1]))
    if len(r) == 1 or best <= max(_LEAST, here + 0.01, 1 - _LEFT * (1 - here)):
        return []
    how = f"their correlation with the reference's would be {best:.2f}, not {here:.2f}"
    return [("its slices seem to be in reverse order", how)]


def _zoom(x: np.ndarray, r: np.ndarray) -> list[Finding]:
    """Find an image of another field of view: zoomed about the centre, along both axes or one of them."""
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
    where = {(1, 1): "", (1, 0): " along y", (0, 1): " along x"}[axes]
    how = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    return [("it seems to be zoomed", f"by {zoom:.2f} about its centre{where}; {how}")]
