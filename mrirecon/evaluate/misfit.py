"""Images that lie otherwise than their reference: mirrored, turned, shifted, or of another scale.

A metric only says that such an image is bad. Here it is found out by what it would take to make it good.
"""

from __future__ import annotations

import itertools

import numpy as np

_SIDE = 128  # pixels that are looked at along each axis
_LEAST = 0.5  # correlation that another position must reach to be believed,
_LEFT = 0.5  # and the share of what is missing to 1 that it may leave
_FACTOR = 1.5  # from which on a scale is told


def misfits(
    image: np.ndarray, truth: np.ndarray, scale: float | None, *, placed: bool = False
) -> list[tuple[str, str]]:
    """Say what is wrong with the position or the scale of one volume, and how that is known; nothing if all is well.

    Args:
        image: (z, y, x) or (y, x) magnitudes.
        truth: of the same shape.
        scale: the factor that brings the image to the reference; None if there is none.
        placed: whether the coordinates of both files say that they lie alike.

    """
    x, r = (np.asarray(v, np.float32).reshape(-1, *v.shape[-2:]) for v in (image, truth))
    found = []
    middle = _fullest(r)
    if x[middle].any() and r[middle].any():
        found += _placed(x[middle], r[middle])
        if len(r) > 1 and not found:
            found += _ordered(x, r)
    if placed:
        found = [(f"{what}, though the coordinates of both files agree", how) for what, how in found]
    if scale is not None and scale > 0 and not 1 / _FACTOR < scale < _FACTOR:
        found.append(("its values are of another scale", f"{1 / scale:.3g} times the reference's; scaled first"))
    return found


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
