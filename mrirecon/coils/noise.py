"""Noise level of each coil, measured from the k-space itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.null_space import NullSpace, null_space_noise

_SMALLEST = 12  # a calibration region narrower than this along every axis shows no background
_NARROWEST = 6  # along each axis that is undersampled: fewer lines are all signal, and show no null space
_LONGEST = (64, 24, 16)  # samples of the calibration region along its axes, the longest first: more cost more
_ROUNDING = 5e-7  # of the largest sample: noise below it is that of single precision
_MARGIN = 2.0  # of the bound by the dimensions that hold least, whose coils may not be white
_DARKEST = 100.0  # by what the background may be darker than samples far out; less is no noise
_TINY = 1e-30
LOUD_COIL = 5.0  # a coil whose noise exceeds that of the others by this factor
_NO_SIGNAL = 1.3  # over the deviation far out, at most, in a coil that receives nothing
_TWICE = 2.0  # the interval: standard errors to each side, 95 %
_SIGNAL = 0.05  # share of the deviation that weak signal in the null space may add


@dataclass(frozen=True)
class NoiseLevel:
    """Noise of the samples of k-space.

    Attributes:
        covariance: (C, C) complex128, Σ = E[n nᴴ].
        low: the true deviations may be smaller, down to this factor.
        high: the true deviations may be larger, up to this factor.
        source: how it was measured, in words.

    """

    covariance: np.ndarray
    low: float
    high: float
    source: str

    @property
    def deviation(self) -> np.ndarray:
        """(C,) σ with E|n|² = σ²; zero where the data are free of noise."""
        found: np.ndarray = np.sqrt(np.real(np.diagonal(self.covariance)).clip(min=0))
        return found


def measure_noise(kspace: np.ndarray, mask: np.ndarray) -> NoiseLevel:
    """Measure the noise covariance of the coils.

    The null space of the calibration matrix shows it without signal (`mrirecon.coils.null_space`). Where there is none,
    two upper bounds remain, of which the smaller is taken: far from the k-space centre little signal is left, and in
    the background of an image there is none. The interval then reaches down to zero.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    """
    mask = np.asarray(mask, dtype=bool)
    coils, box = len(kspace), find_calibration(mask)
    far = kspace[:, outer_samples(mask, 0.1)]
    outer = _median_deviation(far)
    region = kspace[(slice(None), *box)]
    found = None
    if region.size and all(s.stop - s.start >= min(n, _NARROWEST) for s, n in zip(box, mask.shape, strict=True)):
        largest = np.abs(region).reshape(coils, -1).max(1)
        floor = _ROUNDING * float(largest.max())
        heard = np.flatnonzero(largest > 0)
        rough = np.maximum(outer[heard], max(floor, _TINY))
        found = _by_null_space(region[heard], far[heard], rough)
        if found is not None and np.isfinite(found.error):
            covariance = np.zeros((coils, coils), dtype=np.complex128)
            covariance[np.ix_(heard, heard)] = found.covariance
            quiet = np.real(np.diagonal(covariance)) <= floor**2
            covariance[quiet], covariance[:, quiet] = 0, 0
            margin = _TWICE * found.error
            source = "the null space of the calibration matrix"
            low, high = max(0.0, 1 - margin - _SIGNAL), 1 + margin + (0 if found.reliable else _SIGNAL)
            return NoiseLevel(covariance, found.low * low, found.high * high, source)
    deviation = outer
    if found is not None:
        bound = np.sqrt(np.real(np.diagonal(found.covariance)))
        deviation[heard] = np.minimum(outer[heard], np.where(bound > floor, _MARGIN * bound, 0))
    if coils > 1 and max(s.stop - s.start for s in box) >= _SMALLEST:
        deviation = np.minimum(deviation, _background(region))
    source = "samples far out and the background: signal there adds to it"
    return NoiseLevel(np.diag(deviation**2).astype(np.complex128), 0.0, 1.1, source)


def noise_deviation(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the standard deviation (C,) of the complex noise of each coil; see `measure_noise`."""
    return measure_noise(kspace, mask).deviation


def relative_noise(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return by what factor (C,) the noise of each coil exceeds that of the others: 1 up to `LOUD_COIL`.

    Samples far out tell first. Where signal may be what is loud there, the null space has to agree; of a coil that
    receives nothing else its noise is plain.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    """
    far = _median_deviation(kspace[:, outer_samples(mask, 0.1)])
    factor = _ratio_to_other_coils(far)
    suspects = np.flatnonzero(factor > LOUD_COIL)
    if not suspects.size:
        return np.ones(len(kspace))
    whole = np.sqrt((np.abs(kspace[:, mask]) ** 2).mean(1))
    # Far out signal adds to the noise of the others.
    measured = measure_noise(kspace, mask).deviation
    loud = _ratio_to_other_coils(np.where((factor > LOUD_COIL) & (whole < _NO_SIGNAL * far), far, measured))
    return np.where((factor > LOUD_COIL) & (loud > LOUD_COIL), loud, 1.0)


def _ratio_to_other_coils(deviation: np.ndarray) -> np.ndarray:
    """Return deviations (C,) over the median of those that are not zero."""
    heard = deviation[deviation > 0]
    above: np.ndarray = deviation / np.median(heard) if heard.size else np.zeros(len(deviation))
    return above


def _by_null_space(region: np.ndarray, far: np.ndarray, rough: np.ndarray) -> NullSpace | None:
    """Return the noise that the null space of a fully sampled box (C, *box) shows.

    Args:
        region: with the k-space centre in it.
        far: (C, N) samples far from the centre, where noise is most of what there is.
        rough: (C,) their deviations.

    """
    # Signal adds to all coils' samples far out, and not by the same factor; a loud coil is louder than that.
    usual = float(np.median(rough))
    even = np.where(rough > LOUD_COIL * usual, rough, usual)
    guesses = [np.diag(even**2), _correlated(far, even), np.diag(rough**2), _correlated(far, rough)]
    if len(region) > 1 and max(region.shape[1:]) >= _SMALLEST:
        dark = np.clip(_background(region), rough / _DARKEST, rough)
        guesses += [np.diag(dark**2), _correlated(far, dark)]
    axis = int(np.argmax(region.shape[1:])) + 1
    found = null_space_noise(_middle(region), guesses)
    if region.shape[axis] >= 2 * _LONGEST[0] and (found is None or not found.reliable):
        # Lines: at the end of the readout there is less signal to be told from noise, and so a better guess.
        end = region.take(np.arange(region.shape[axis] - _LONGEST[0], region.shape[axis]), axis)
        there = null_space_noise(_middle(end), guesses)
        if there is not None and np.isfinite(there.error):
            again = null_space_noise(_middle(region), [there.covariance, *guesses])
            found = found if again is None or (found is not None and found.error <= again.error) else again
    return found


def _middle(region: np.ndarray) -> np.ndarray:
    """Return the middle of a calibration region, as large as its analysis may cost."""
    order = np.argsort([-n for n in region.shape[1:]], kind="stable")
    most = _LONGEST[-1:] * 3 if region.ndim > 3 else _LONGEST
    cut: list[slice] = [slice(None)] * region.ndim
    for place, axis in enumerate(order.tolist()):
        n = region.shape[axis + 1]
        kept = min(n, most[place])
        cut[axis + 1] = slice((n - kept) // 2, (n - kept) // 2 + kept)
    middle: np.ndarray = region[tuple(cut)]
    return middle


def outer_samples(mask: np.ndarray, fraction: float) -> np.ndarray:
    """Return which samples (*space) are the ``fraction`` of those of a mask that lie farthest from the centre."""
    axes = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in mask.shape]
    radius = sum(a.reshape([-1 if i == axis else 1 for i in range(mask.ndim)]) for axis, a in enumerate(axes))
    outside: np.ndarray = mask & (radius >= np.quantile(np.broadcast_to(radius, mask.shape)[mask], 1 - fraction))
    return outside


def _median_deviation(samples: np.ndarray) -> np.ndarray:
    """Return σ (C,) of samples (C, N): the median of |y|² is σ² ln 2, and stray signal hardly moves it."""
    deviation: np.ndarray = np.sqrt(np.median(np.abs(samples) ** 2, axis=1) / np.log(2))
    return deviation


def _correlated(samples: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return a covariance (C, C): correlations of samples (C, N), some signal among them, and given deviations."""
    products = samples.astype(np.complex128) @ samples.conj().T
    power = np.sqrt(np.real(np.diagonal(products)).clip(min=_TINY))
    share = 0.9 if samples.shape[1] > 4 * len(samples) else 0.0
    correlation = share * products / np.outer(power, power) + (1 - share) * np.eye(len(samples))
    np.fill_diagonal(correlation, 1)
    covariance: np.ndarray = correlation * np.outer(deviation, deviation)
    return covariance


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
