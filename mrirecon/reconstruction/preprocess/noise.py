"""Extract noise samples from k-space: from its rim, or from the background of its images."""

from __future__ import annotations

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import outer_samples
from mrirecon.errors import InputError
from mrirecon.physics.fourier import along, spatial, to_image

SAMPLES = 10  # fewest noise samples per coil: a covariance of C coils from N samples has an error of about √(C / N)
SMALLEST = 48  # fewest samples along each axis: in images of a smaller box, side lobes cover the background
_LOW = 0.4  # share of the half width of k-space: the inner part finds the background, the outer part gives its noise
_TAPER = 0.3  # share of the half width, at the rim: reduces the side lobes of bright edges in the background


def rim_noise(kspace: np.ndarray, mask: np.ndarray, fraction: float | None = None) -> np.ndarray:
    """Return the samples (C, N) farthest from the centre of k-space, which hold little signal.

    Signal in these samples counts as noise: at high SNR or low resolution, `background_noise` is more accurate.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space) bool, true where sampled.
        fraction: share of the samples; by default 5 %, and up to 15 % if these are too few.

    Raises:
        InputError: fewer than ten samples for every coil.

    """
    if fraction is None:
        fraction = min(0.15, max(0.05, 1.1 * SAMPLES * len(kspace) / max(1, int(mask.sum()))))
    samples: np.ndarray = kspace[:, outer_samples(mask, fraction)]
    return _enough(samples, "the rim of k-space")


def background_noise(kspace: np.ndarray, mask: np.ndarray, fraction: float = 0.1) -> np.ndarray:
    """Return the pixels (C, N) of the background of the fully sampled part of k-space.

    The darkest pixels of an image have little noise by chance, so it would be underestimated. Therefore the pixels are
    selected in an image of the centre of k-space, and the noise is taken from the rest of k-space, which is independent
    of the selection. A taper at the rim reduces side lobes. The energy of both weights is divided out, so that E[n nᴴ]
    is that of a sample. This is more accurate than the rim if at least three quarters of every axis are fully sampled.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space) bool, true where sampled; the fully sampled box around the centre is used.
        fraction: share of the pixels, those that are darkest in all coils together.

    Raises:
        InputError: fewer than 48 fully sampled positions along an axis, or fewer than ten pixels for every coil.

    """
    box = full_centre(mask)
    if min(s.stop - s.start for s in box) < SMALLEST:
        raise InputError(
            "the fully sampled part of k-space is too small to show a background",
            why=f"{'×'.join(str(s.stop - s.start) for s in box)} samples, {SMALLEST} are needed along each axis",
            fix="use a noise scan, or --whiten rim",
        )
    region = kspace[(slice(None), *box)].astype(np.complex128)
    space = region.shape[1:]
    axes = spatial(len(space))
    distances = [np.abs(np.arange(n) - n // 2) / (n / 2) for n in space]
    ndim = len(space)
    radius = np.sqrt(sum(along(p**2, a, ndim) for a, p in enumerate(distances)))
    low = np.cos(np.pi / 2 * np.clip(radius / _LOW, 0, 1)) ** 2
    high = np.sin(np.pi / 2 * np.clip((radius - _LOW) / 0.2, 0, 1)) ** 2
    for a, p in enumerate(distances):
        high = high * along(np.sin(np.pi / 2 * np.clip((1 - p) / _TAPER, 0, 1)) ** 2, a, ndim)
    power = (np.abs(to_image(region * low, axes)) ** 2).sum(0)
    inner = np.zeros(space, dtype=bool)
    # The receiver filter attenuates noise towards the ends of the field of view along the readout.
    inner[tuple(slice(n // 10, n - n // 10) for n in space)] = True
    chosen = inner & (power <= np.quantile(power[inner], fraction))
    return _enough(to_image(region * high, axes)[:, chosen] / np.sqrt((high**2).mean()), "the background")


def full_centre(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the part of the fully sampled box (`find_calibration`) that is symmetric about the centre of k-space."""
    box = []
    for side, n in zip(find_calibration(mask), mask.shape, strict=True):
        reach = min(n // 2 - side.start, side.stop - n // 2)
        box.append(slice(n // 2 - reach, n // 2 + reach))
    return tuple(box)


def _enough(samples: np.ndarray, source: str) -> np.ndarray:
    coils, count = samples.shape
    if count < SAMPLES * coils:
        raise InputError(
            f"{source} has too few samples for the noise covariance of {coils} coils",
            why=f"it has {count}, and {SAMPLES * coils} are needed",
            fix="give a noise scan, or do not whiten (--whiten none)",
        )
    return samples
