"""Measures of one item's k-space that hint at how it was stored: where its object lies, which coils receive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation

# Power over that of the noise: of an inner half that tells, and what averages of noise alone stay below.
_CLEAR, _NOISE = 25.0, 1.25


@dataclass(frozen=True)
class ItemKspace:
    """One item.

    Attributes:
        kspace: (coil, *space) complex64, at most 1, zero where not used.
        used: (*space) booleans, the samples.
        space: names of the axes.

    """

    kspace: np.ndarray
    used: np.ndarray
    space: tuple[str, ...]

    @cached_property
    def power(self) -> np.ndarray:
        """(*space) energy of the zero-filled image, summed over coils."""
        axes = tuple(range(1, self.kspace.ndim))
        image = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(self.kspace, axes), axes=axes, norm="ortho"), axes)
        power: np.ndarray = (np.abs(image) ** 2).sum(0)
        return power


def peakedness(profile: np.ndarray) -> float:
    """Return the share of a profile's energy in the tenth of its axis that holds most of it."""
    width = max(1, round(len(profile) / 10))
    sums = np.convolve(np.r_[profile, profile[: width - 1]], np.ones(width), "valid")
    return float(sums.max() / profile.sum())


def centre_offset(look: ItemKspace) -> list[tuple[float, float]]:
    """Return, for each axis, where the object's centre lies, and how well that is defined.

    Neighbouring samples of k-space differ in phase by the position of what they see: the sum of conj(k_j) k_(j+1) is
    that of |x_r|² exp(-2 pi i r / n), whose angle is the circular mean of r. Nothing but pairs of samples is needed.

    Returns:
        Offset as a share of the field of view, -0.5 to 0.5, and the length of the mean vector, 0 to 1.

    """
    found = []
    for axis in range(1, look.kspace.ndim):
        if look.kspace.shape[axis] < 2:
            found.append((0.0, 0.0))
            continue
        low = [slice(None)] * look.kspace.ndim
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        first, second = look.kspace[tuple(low)], look.kspace[tuple(high)]
        total = complex((first.conj() * second).sum())
        whole = float((np.abs(first) * np.abs(second)).sum())
        found.append((float(-np.angle(total) / (2 * np.pi)), abs(total) / whole if whole else 0.0))
    return found


def coil_reception(look: ItemKspace) -> list[float]:
    """Return, for each coil, the mean power of its samples near the peak of k-space over that of the others.

    White noise has 1; anything that a coil receives has more there.
    """
    near = np.ones(look.used.shape, dtype=bool)
    together = (np.abs(look.kspace) ** 2).sum(0)
    peak = np.unravel_index(int(together.argmax()), together.shape)
    for axis, n in enumerate(look.used.shape):
        away = np.abs(np.arange(n) - peak[axis])
        inside = np.minimum(away, n - away) <= max(1, n // 16)  # k-space may lie around its corner
        near &= inside.reshape([-1 if a == axis else 1 for a in range(near.ndim)])
    inner, outer = near & look.used, ~near & look.used
    if not inner.any() or not outer.any():
        return [np.inf] * len(look.kspace)
    power = np.abs(look.kspace) ** 2
    there = power[:, outer].mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return [float(r) if t > 0 else np.inf for r, t in zip(power[:, inner].mean(1) / there, there, strict=True)]


def signal_to_noise(look: ItemKspace, noise: np.ndarray) -> float:
    """Return the mean of the root sum of squares where there is an object, over the noise of an average coil.

    Args:
        look: the item.
        noise: (coil,) deviations.

    """
    magnitude = np.sqrt(look.power)
    inside = magnitude > 0.15 * np.quantile(magnitude, 0.99)
    return float(magnitude[inside].mean() / np.sqrt((noise**2).mean())) if inside.any() else 0.0


def empty_fraction(look: ItemKspace) -> list[bool | None]:
    """Return, for each axis, whether the outer half of the field of view holds noise alone; None if not to be told.

    Told along axes without gaps in the sampling, for aliasing would fill the outer half; and only where the inner half
    stands out of the noise so far that noise cannot hide an object in the outer one: what is hidden there has at most
    a hundredth of the inner half's power (one part in 500 where there is hardly any noise).
    """
    found: list[bool | None] = []
    noise = noise_deviation(look.kspace, look.used)
    box = find_calibration(look.used)
    level = float((noise**2).sum()) * look.used.mean()
    for axis, n in enumerate(look.used.shape):
        if n < 64 or box[axis].stop - box[axis].start < 0.9 * n:
            found.append(None)
            continue
        profile = look.power.mean(axis=tuple(a for a in range(look.used.ndim) if a != axis))
        # Without the samples beside the edge, where a filter has not yet closed.
        outer = np.r_[profile[: n * 7 // 32], profile[n - n * 7 // 32 :]]
        inner = profile[n // 4 : n - n // 4]
        clear = inner.mean() > _CLEAR * level
        found.append(bool(outer.max() < max(_NOISE * level, 2e-3 * inner.mean())) if clear else None)
    return found


def orientation(look: ItemKspace, reference: np.ndarray) -> str | None:
    """Return how the image would have to be turned to look like its reference, or None where it lies right.

    Args:
        look: the item.
        reference: (*image) magnitude, cropped around the centre where it is smaller.

    """
    image = np.sqrt(look.power)
    if image.ndim != reference.ndim or any(r > n for r, n in zip(reference.shape, image.shape, strict=True)):
        return None
    cut = tuple(slice((n - r) // 2, (n - r) // 2 + r) for r, n in zip(reference.shape, image.shape, strict=True))
    ways: dict[str, np.ndarray] = {}
    for axis, name in enumerate(look.space):
        ways[f"mirrored along {name}"] = np.flip(image, axis)
        ways[f"shifted by half the field of view along {name}"] = np.roll(image, image.shape[axis] // 2, axis)
    both = tuple(range(image.ndim))
    ways["mirrored along every axis"] = np.flip(image, both)
    ways["shifted by half the field of view"] = np.fft.fftshift(image)
    scores = {name: _correlation(way[cut], reference) for name, way in ways.items()}
    best = max(scores, key=scores.__getitem__)
    plain = _correlation(image[cut], reference)
    return best if scores[best] > plain + 0.1 and scores[best] > 0.5 else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / length if length else 0.0
