"""The masks of items: what is drawn from the families that a configuration names, and what SSDU keeps back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mrirecon.data.settings import MaskDraw
from mrirecon.errors import UsageError
from mrirecon.masks import FAMILIES, MaskResult, make_mask
from mrirecon.masks.box import calibration_sides

_SHARED = 16  # masks of a slow family and a size, mirrored in four ways
KERNEL = 6  # of ESPIRiT, as `mrirecon reconstruct` estimates maps: no calibration region may be smaller


def draw_mask(
    draws: Sequence[MaskDraw], space: tuple[int, int], rng: np.random.Generator, calibrated: bool
) -> tuple[np.ndarray, dict[str, object]]:
    """Draw a family, an acceleration and a calibration region that fit together, and the mask.

    Args:
        draws: the families.
        space: (y, x).
        rng: of all draws.
        calibrated: whether coil maps have to be estimated from the calibration region.

    Raises:
        UsageError: nothing that is asked for fits.

    """
    weights = np.array([d.weight for d in draws])
    draw = draws[int(rng.choice(len(draws), p=weights / weights.sum()))]
    axis = int(rng.integers(2)) if draw.axis == "either" else ("y", "x").index(draw.axis)
    family = FAMILIES[draw.family]
    lines = family.over == "lines"
    sides = (space[axis],) if lines else space
    seed = int(rng.integers(2**31))
    least = KERNEL if calibrated else 0
    fitting: list[tuple[float, int | tuple[int, ...]]] = []
    regions: list[int | None] = [*draw.calibration] or [None]
    for rate in draw.acceleration:
        count = round(math.prod(sides) / rate)
        for wanted in regions:
            try:
                box = calibration_sides(sides, count, wanted)
            except UsageError:
                continue
            # At least a third of the samples is left for outside the region.
            if min(box) >= least and math.prod(box) <= 0.67 * count:
                fitting.append((rate, box if len(box) > 1 else box[0]))
    if not fitting:
        raise UsageError(
            f"no mask of {draw.family} fits",
            where="data.masks",
            why=f"{'×'.join(map(str, sides))} samples at acceleration {draw.acceleration} with calibration "
            f"{draw.calibration or '32 %'}; coil maps need {least} along each axis",
            fix="lower the acceleration, change the calibration, or enlarge data.crop",
        )
    rate, region = fitting[int(rng.integers(len(fitting)))]
    flips = rng.random(2) < 0.5
    if family.slow and not lines:
        made = _shared(draw.family, space, rate, region, seed % _SHARED)
        mask = made.mask[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
        # The calibration region, which need not lie symmetrically, goes back to where it belongs.
        shifts = [
            int(f) * (2 * (n // 2 - c // 2) + c - n) for f, n, c in zip(flips, space, made.calibration, strict=True)
        ]
        mask = np.roll(mask, shifts, (0, 1))
    else:
        made = make_mask(draw.family, space, rate, calibration=region, seed=seed, axis=axis)
        mask = made.mask
    told: dict[str, object] = {"mask": draw.family, "acceleration": round(made.acceleration, 2)}
    told["calibration"] = list(made.calibration)
    return mask, told


@lru_cache(maxsize=256)
def _shared(family: str, space: tuple[int, int], rate: float, region: int | tuple[int, ...], seed: int) -> MaskResult:
    """Return one of a few masks of a size: drawing a Poisson disc takes longer than all the rest of an item."""
    return make_mask(family, space, rate, calibration=region, seed=seed)


def split_samples(
    mask: np.ndarray, share: float, rng: np.random.Generator, keep: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Split the acquired samples into those that the network sees and those that the loss looks at (SSDU).

    Yaman et al., MRM 84:3172, 2020: the second are drawn with a Gaussian density around the centre, of which a small
    box stays with the first. Where whole lines are acquired, single samples of them are split.

    Args:
        mask: (y, x), what was acquired.
        share: of the samples, that the loss looks at.
        rng: of the draw.
        keep: side of the centre box that the network keeps.

    Returns:
        Two masks (y, x) without common samples, together ``mask``.

    """
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in mask.shape)
    weight = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2)) * mask
    centre = tuple(slice(n // 2 - keep // 2, n // 2 - keep // 2 + keep) for n in mask.shape)
    weight[centre] = 0
    candidates = np.flatnonzero(weight)
    count = min(len(candidates), round(share * int(mask.sum())))
    # the exponential race draws without replacement in one sort
    race = rng.exponential(size=len(candidates)) / weight.flat[candidates]
    held = np.zeros(mask.shape, dtype=bool)
    held.flat[candidates[np.argpartition(race, count - 1)[:count]] if count else candidates[:0]] = True
    return mask & ~held, held
