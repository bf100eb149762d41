"""Images that lie otherwise than their reference: mirrored, turned, shifted, zoomed, or of another scale.

A metric only says that such an image is bad. Here it is found out by what it would take to make it good.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

_SIDE = 128  # pixels that are looked at along each axis
_LEAST = 0.5  # correlation that another position must reach to be believed,
_LEFT = 0.5  # and the share of what is missing to 1 that it may leave
_FACTOR = 1.5  # from which on a scale is told,
_UNSCALED = 1.1  # and from which on where the metric itself does not scale
_CLEAR = 0.001  # correlation that a small shift must bring
_ZOOMS = tuple(round(1.05**k, 4) for k in range(-8, 9) if k)
_FINER = (0.975, 0.9875, 1.0, 1.0125, 1.025)  # of the zoom found first
_ALIKE = 0.85  # correlation that a zoom must reach: a flat image that shrinks gets a border like any object's
_GOOD = 0.97  # correlation from which on nobody asks for a zoom


def misfits(
    image: np.ndarray, truth: np.ndarray, scale: float | None, *, placed: bool = False, scaled: bool = True
) -> list[tuple[str, str]]:
    """Say what is wrong with the position or the scale of one volume, and how that is known; nothing if all is well.

    Args:
        image: (z, y, x) or (y, x) magnitudes.
        truth: of the same shape.
        scale: the factor that brings the image to the reference; None if there is none.
        placed: whether the coordinates of both files say that they lie alike.
        scaled: whether the metric applies that factor; where it does not, a smaller one is told.

    """
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    found = []
    middle = _fullest(r)
    if x[middle].any() and r[middle].any():
        found += _placed(x[middle], r[middle]) or _nudged(x[middle], r[middle])
        if len(r) > 1 and not found:
            found += _ordered(x, r)
        found = found or _zoomed(x[middle], r[middle])
    if placed:
        found = [(f"{what}, though the coordinates of both files agree", how) for what, how in found]
    if found and not scaled:
        return found  # the factor of an image that lies elsewhere says little
    least, then = (_FACTOR, "scaled first") if scaled else (_UNSCALED, "this definition does not scale them")
    if scale is not None and scale > 0 and not 1 / least < scale < least:
        found.append(("its values are of another scale", f"{1 / scale:.3g} times the reference's; {then}"))
    return found


def resized(image: np.ndarray, truth: np.ndarray) -> str:
    """Say how images (item, *space) of unlike sizes come from each other: cropped or resized; nothing if neither does.

    The centre of the larger one, and the image resampled to the other's size, are correlated with the reference.
    """
    if len(image) != len(truth) or image.ndim != truth.ndim:
        return ""
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    middle = _fullest(r)
    if middle >= len(x) or not x[middle].any() or not r[middle].any():
        return ""
    x, r = x[middle], r[middle]
    common = tuple(min(a, b) for a, b in zip(x.shape, r.shape, strict=True))
    crop = float((_unit(_centre(x, common)) * _unit(_centre(r, common))).sum())
    zoom = [b / a for a, b in zip(x.shape, r.shape, strict=True)]
    again = ndimage.zoom(x, zoom, order=1, grid_mode=True, mode="nearest")
    whole = float((_unit(again) * _unit(r)).sum()) if again.shape == r.shape else 0.0
    if max(crop, whole) < _LEAST or abs(crop - whole) < 0.02:
        return ""
    if crop > whole:
        return f"one seems to be cropped: their centres correlate by {crop:.2f}"
    return f"one seems to be resized: resampled to one size they correlate by {whole:.2f}"


def _fullest(r: np.ndarray) -> int:
    """Return the slice with the most signal in it."""
    return int(np.argmax([float((v > 0.1 * r.max()).mean()) for v in r])) if r.any() else 0


def _placed(x: np.ndarray, r: np.ndarray) -> list[tuple[str, str]]:
    step = max(1, -(-max(r.shape) // _SIDE))
    small, reference = (_unit(_binned(v, step)) for v in (x, r))
    spectrum = np.fft.fft2(reference).conj()
    here = float((small * reference).sum())
    best, words, moved = here, "", (0, 0)
    turns = (False, True) if x.shape[0] == x.shape[1] else (False,)
    for turned, down, across in itertools.product(turns, (False, True), (False, True)):
        candidate = small.T if turned else small
        candidate = candidate[:: -1 if down else 1, :: -1 if across else 1]
        fits = np.fft.ifft2(np.fft.fft2(candidate) * spectrum).real
        at = np.unravel_index(int(fits.argmax()), fits.shape)
        # the first must explain much more to be believed, another a little more than the one before
        if float(fits[at]) > (max(here + 0.01, 1 - _LEFT * (1 - here)) if not words else best + 0.02):
            best = float(fits[at])
            words = " and ".join(
                w for w, b in (("transposed", turned), ("mirrored up-down", down), ("mirrored left-right", across)) if b
            )
            moved = _signed(at, fits.shape, step)
            words = words or "shifted"
    if not words or best < _LEAST:
        return []
    gain = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    # a mirror about the centre of an even number of pixels moves by one
    if words == "shifted" or max(map(abs, moved)) > step:
        gain = f"by {moved[0]} pixels down and {moved[1]} across; {gain}"
        words = "shifted" if words == "shifted" else f"{words} and shifted"
    return [(f"it seems to be {words}", gain)]


def _nudged(x: np.ndarray, r: np.ndarray) -> list[tuple[str, str]]:
    """Notice a shift by a pixel or two, at full resolution."""
    one, two = _unit(x), _unit(r)
    here = float((one * two).sum())
    fits = np.fft.irfft2(np.fft.rfft2(one) * np.fft.rfft2(two).conj(), one.shape)
    at = np.unravel_index(int(fits.argmax()), fits.shape)
    best = float(fits[at])
    if best < max(_LEAST, here + _CLEAR, 1 - _LEFT * (1 - here)) or not any(at):
        return []
    down, across = _signed(at, fits.shape, 1)
    how = f"by {down} pixels down and {across} across; its correlation with the reference would be {best:.3f}"
    return [("it seems to be shifted", f"{how}, not {here:.3f}")]


def _zoomed(x: np.ndarray, r: np.ndarray) -> list[tuple[str, str]]:
    """Notice an image of another field of view: zoomed about the centre, along both axes or one of them."""
    step = max(1, -(-max(r.shape) // (_SIDE // 2)))
    small, reference = (_binned(v, step) for v in (x, r))
    unit = _unit(reference)
    here = float((_unit(small) * unit).sum())
    if here > _GOOD:
        return []
    middle = (np.array(small.shape) - 1) / 2

    def undone(zoom: float, axes: tuple[int, int]) -> float:
        factors = np.array([zoom if axis else 1.0 for axis in axes])
        back = ndimage.affine_transform(small, factors, middle - factors * middle, order=1)
        return float((_unit(back) * unit).sum())

    found = max((undone(z, axes), z, axes) for z in _ZOOMS for axes in ((1, 1), (1, 0), (0, 1)))
    best, zoom, axes = max((undone(found[1] * f, found[2]), found[1] * f, found[2]) for f in _FINER)
    if best < max(_ALIKE, here + 0.01, 1 - _LEFT * (1 - here)):
        return []
    where = {(1, 1): "", (1, 0): " along y", (0, 1): " along x"}[axes]
    gain = f"its correlation with the reference would be {best:.2f}, not {here:.2f}"
    return [("it seems to be zoomed", f"by {zoom:.2f} about its centre{where}; {gain}")]


def _centre(v: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    starts = [(n - m) // 2 for n, m in zip(v.shape, size, strict=True)]
    return v[tuple(slice(a, a + m) for a, m in zip(starts, size, strict=True))]


def _ordered(x: np.ndarray, r: np.ndarray) -> list[tuple[str, str]]:
    """Notice slices in reverse order."""
    straight, reverse = (
        float(np.mean([(_unit(a) * _unit(b)).sum() for a, b in zip(v, r, strict=True)])) for v in (x, x[::-1])
    )
    if reverse > max(_LEAST, 1 - _LEFT * (1 - straight)):
        how = f"their correlation with the reference's would be {reverse:.2f}, not {straight:.2f}"
        return [("its slices seem to be in reverse order", how)]
    return []


def _binned(v: np.ndarray, step: int) -> np.ndarray:
    ny, nx = (n // step * step for n in v.shape)
    return np.asarray(v[:ny, :nx].reshape(ny // step, step, nx // step, step).mean((1, 3)))


def _unit(v: np.ndarray) -> np.ndarray:
    centred = v - v.mean()
    norm = float(np.sqrt((centred.astype(np.float64) ** 2).sum()))
    return np.asarray(centred / norm if norm > 0 else centred)


def _signed(at: tuple[np.intp, ...], shape: tuple[int, ...], step: int) -> tuple[int, int]:
    down, across = (step * (int(a) - n if a > n // 2 else int(a)) for a, n in zip(at, shape, strict=True))
    return down, across
