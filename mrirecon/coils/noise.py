"""Noise level of each coil, measured from the k-space itself."""

from __future__ import annotations

import numpy as np

from mrirecon.coils.calibration import find_calibration

_SMALLEST = 12  # a calibration region narrower than this along every axis shows no background


def noise_deviation(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Estimate the standard deviation of the complex noise of each coil, the smaller of two upper bounds.

    Far from the k-space centre little signal is left, and in the background of an image there is none. High resolution
    favours the first, an object that leaves room in the field of view the second.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    Returns:
        (C,) σ with E|n|² = σ²; zero where the data are free of noise.

    """
    outer = _outer_samples(kspace, mask)
    box = find_calibration(mask)
    if len(kspace) == 1 or max(s.stop - s.start for s in box) < _SMALLEST:
        return outer
    smaller: np.ndarray = np.minimum(outer, _background(kspace[(slice(None), *box)]))
    return smaller


def outer_samples(mask: np.ndarray, fraction: float) -> np.ndarray:
    """Return which samples (*space) are the ``fraction`` of those of a mask that lie farthest from the centre."""
    axes = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in mask.shape]
    radius = sum(a.reshape([-1 if i == axis else 1 for i in range(mask.ndim)]) for axis, a in enumerate(axes))
    outside: np.ndarray = mask & (radius >= np.quantile(np.broadcast_to(radius, mask.shape)[mask], 1 - fraction))
    return outside


def _outer_samples(kspace: np.ndarray, mask: np.ndarray, fraction: float = 0.1) -> np.ndarray:
    """Return σ (C,) of the samples farthest out: the median of |y|² is σ² ln 2, and stray signal hardly moves it."""
    outside = outer_samples(mask, fraction)
    deviation: np.ndarray = np.sqrt(np.median(np.abs(kspace[:, outside]) ** 2, axis=1) / np.log(2))
    return deviation


def _background(calibration: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Return σ (C,) of the calibration images where they are darkest, under a window without side lobes.

    Where that is, the other coils tell: a coil's own darkest pixels are those where its noise happens to be small.
    """
    image = calibration
    for axis, n in enumerate(calibration.shape[1:], start=1):
        phase = 2 * np.pi * (np.arange(n) + 0.5) / n
        # Blackman–Harris: side lobes at −92 dB, below the noise of any scan (Harris, Proc. IEEE 66:51, 1978).
        window = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
        window /= np.sqrt((window**2).sum())
        image = np.fft.fft(image * window.reshape([-1 if a == axis else 1 for a in range(image.ndim)]), axis=axis)
    # Receivers filter along the readout: towards the ends of the field of view even noise fades.
    inner = [slice(0, n) if n < _SMALLEST else _without_ends(n) for n in image.shape[1:]]
    image = np.fft.fftshift(image, axes=tuple(range(1, image.ndim)))[(slice(None), *inner)]
    power = (np.abs(image) ** 2).reshape(len(image), -1)
    # As loud as each other, so that every coil has its say.
    shares = power / np.maximum(np.median(power, axis=1, keepdims=True), np.finfo(power.dtype).tiny)
    others = shares.sum(0) - shares
    deviation = [np.sqrt(p[o <= np.quantile(o, fraction)].mean()) for p, o in zip(power, others, strict=True)]
    return np.asarray(deviation)


def _without_ends(n: int) -> slice:
    """Return all but the outer tenth at each end."""
    return slice(n // 10, n - n // 10)
