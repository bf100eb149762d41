"""Gaussian masks as the RIM and CIRIM papers drew them with mridc: written from what its code does, not its text."""

from __future__ import annotations

import math

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import UsageError
from mrirecon.masks.result import Bools, legacy_generator, seed_from

FWHM = 0.7
CENTRE = 0.02


def mridc(
    family: str,
    space: tuple[int, ...],
    rate: float,
    calibration: int | tuple[int, ...] | None,
    fwhm: float,
    seed: int,
    name: str,
    slice: int,
) -> tuple[Bools, tuple[int, ...], str]:
    """Return mridc's lines or plane, the sides of its sampled box, and a note; see ``make_mask`` for the arguments."""
    if calibration is not None:
        raise UsageError(
            "mridc's masks have a centre of their own, 2 % of each axis.",
            why=f"calibration is {calibration}",
            fix="leave calibration away, or compat",
        )
    rng = legacy_generator(seed_from(seed, name, slice) if name or slice else seed)
    if family == "gaussian1d":
        drawn = mridc_lines(rng, space[0], rate, fwhm)
    else:
        drawn = mridc_plane(rng, (space[0], space[1]), rate, fwhm)
    box = tuple(side.stop - side.start for side in find_calibration(drawn))
    return drawn, box, "mridc's rule: the centre comes on top of the samples that the acceleration asked leaves"


def mridc_lines(rng: np.random.RandomState, n: int, acceleration: float, fwhm: float = FWHM) -> Bools:
    """Return (n,) Gaussian 1D lines as the RIM and CIRIM papers drew them (mridc, Gaussian1DMaskFunc).

    int(n / R) lines without replacement by exp(-x^2 / (2 s^2)), s = fwhm / 2.3548, x from -1 to 1 inclusive; the
    central int(0.02 n) lines come on top, so that the acceleration achieved is at most about R. mridc's own class
    shifts this out of the centre afterwards and then reads it along the wrong axis; here it stays where it belongs.
    """
    lines = np.zeros(n, dtype=bool)
    band = int(n * CENTRE)
    lines[(n - band) // 2 : (n - band) // 2 + band] = True
    lines[_draw(rng, _bell(n, fwhm), acceleration)] = True
    return lines


def mridc_plane(rng: np.random.RandomState, shape: tuple[int, int], acceleration: float, fwhm: float = FWHM) -> Bools:
    """Return a Gaussian 2D mask as the RIM and CIRIM papers drew it (mridc, Gaussian2DMaskFunc).

    int(N / R) samples without replacement by sqrt(outer(g, g)), g as in ``mridc_lines``: the root widens the Gaussian,
    to a full width at half maximum of 0.99. United with the filled ellipse of half-axes 2 % of each axis around n / 2,
    which comes on top, so that the acceleration achieved is at most R.
    """
    density = np.sqrt(np.outer(_bell(shape[0], fwhm), _bell(shape[1], fwhm)))
    mask = np.zeros(shape, dtype=bool)
    mask.flat[_draw(rng, density, acceleration)] = True
    y, x = (np.power((np.arange(n) - n / 2) / (CENTRE * n), 2) for n in shape)
    return np.asarray(mask | (np.add.outer(y, x) < 1))


def _bell(n: int, fwhm: float) -> np.ndarray:
    sigma = fwhm / math.sqrt(8 * math.log(2))
    return np.asarray(np.exp(-(np.linspace(-1, 1, n) ** 2 / (2 * sigma**2))))


def _draw(rng: np.random.RandomState, density: np.ndarray, acceleration: float) -> np.ndarray:
    size, possible = int(density.size / acceleration), int(np.count_nonzero(density))
    if possible < size:
        raise UsageError(
            "The Gaussian is too narrow for the number of samples.",
            why=f"{size} samples are to be drawn, and the density is above 0 at {possible}",
            fix="ask for a larger fwhm (the papers took 0.7) or a higher acceleration",
        )
    return np.asarray(rng.choice(density.size, size=size, replace=False, p=(density / density.sum()).ravel()))
