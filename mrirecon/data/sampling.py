"""Draw the sampling of training samples: masks, trajectories, and the split for self-supervision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mrirecon.data.settings import MaskFamily, Trajectory
from mrirecon.errors import UsageError
from mrirecon.masks import FAMILIES, MaskResult, make_mask
from mrirecon.masks.result import calibration_sides
from mrirecon.masks.trajectories import make_trajectory

KERNEL = 6  # of ESPIRiT: a calibration region of this size or more is drawn where maps are estimated
_CENTRE = 4  # samples, side of the centre box that is never held out
_SHARED_MASKS = 16  # masks drawn for each size of a slow family; each is mirrored in four ways
SampleInfo = dict[str, object]


def draw_mask(
    families: Sequence[MaskFamily], space: tuple[int, int], rng: np.random.Generator, calibrated: bool
) -> tuple[np.ndarray, SampleInfo]:
    """Draw a compatible family, acceleration and calibration region, and a mask with them.

    Args:
        families: families with their choices.
        space: (y, x) size of the mask.
        rng: random generator.
        calibrated: whether coil maps are estimated from the calibration region.

    Returns:
        The mask (y, x), with its family, acceleration and calibration region.

    Raises:
        UsageError: no combination fits.

    """
    weights = np.array([f.weight for f in families])
    choice = families[int(rng.choice(len(families), p=weights / weights.sum()))]
    axis = int(rng.integers(2)) if choice.axis == "either" else ("y", "x").index(choice.axis)
    seed = int(rng.integers(2**31))
    least = KERNEL if calibrated else 0
    draw = _own_mask if choice.compat == "none" else _compatible_mask
    result = draw(choice, space, axis, least, seed, rng)
    if result is None:
        size = space if FAMILIES[choice.family].over == "plane" else (space[axis],)
        raise UsageError(
            f"no mask of {choice.family} fits",
            where="data.masks",
            why=f"{'×'.join(map(str, size))} samples at acceleration {choice.acceleration} with calibration "
            f"{choice.calibration or ('2 %' if choice.compat == 'mridc' else '32 %')}; coil maps need {least} along "
            "each axis",
            fix="lower the acceleration, change the calibration, or enlarge data.crop",
        )
    achieved = round(result.acceleration, 2)
    info: SampleInfo = {
        "mask": choice.family,
        "acceleration": achieved,
        "calibration": list(result.calibration),
    }
    return result.mask, info


def draw_trajectory(
    kinds: Sequence[Trajectory], space: tuple[int, int], rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Draw a kind and a number of readouts; return the kind and its trajectory (readout, sample, 2) in 1/FOV."""
    weights = np.array([k.weight for k in kinds])
    choice = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    return choice.kind, make_trajectory(choice.kind, space, int(rng.choice(choice.readouts)))


def turn(points: np.ndarray, space: tuple[int, int], angle: float) -> np.ndarray:
    """Return a trajectory (..., 2) turned about the centre, within the same extent along each axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    return np.asarray((points / space) @ matrix.T * space, np.float32)


def coloured_noise(covariance: Tensor, generators: Sequence[np.random.Generator], shape: tuple[int, ...]) -> Tensor:
    """Return noise (B, C, *shape) with the covariances (B, C, C)."""
    coils = covariance.shape[1]
    white = np.stack([rng.standard_normal((coils, *shape, 2), np.float32) for rng in generators]) / math.sqrt(2)
    noise = torch.view_as_complex(torch.from_numpy(white.astype(np.float32)))
    root = torch.linalg.cholesky(covariance.cpu())
    return torch.einsum("bcd,bd...->bc...", root, noise)


def _own_mask(
    choice: MaskFamily, space: tuple[int, int], axis: int, least: int, seed: int, rng: np.random.Generator
) -> MaskResult | None:
    """Draw an acceleration and a calibration region of at least ``least`` lines that fit, and a mask; None if none."""
    family = FAMILIES[choice.family]
    lines = family.over == "lines"
    sides = (space[axis],) if lines else space
    fitting: list[tuple[float, int | tuple[int, ...]]] = []
    regions: list[int | None] = [*choice.calibration] or [None]
    for acceleration in choice.acceleration:
        count = round(math.prod(sides) / acceleration)
        for wanted in regions:
            try:
                box = calibration_sides(sides, count, wanted)
            except UsageError:
                continue
            # At least a third of the samples must lie outside the region.
            if min(box) >= least and math.prod(box) <= 0.67 * count:
                fitting.append((acceleration, box if len(box) > 1 else box[0]))
    if not fitting:
        return None
    acceleration, region = fitting[int(rng.integers(len(fitting)))]
    flips = rng.random(2) < 0.5
    if not family.slow or lines:
        return make_mask(choice.family, space, acceleration, calibration=region, seed=seed, axis=axis, fwhm=choice.fwhm)
    result = _shared_mask(choice.family, space, acceleration, region, seed % _SHARED_MASKS, choice.fwhm)
    mask = result.mask[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    # The calibration region may be asymmetric, so it is restored after mirroring.
    shifts = [
        int(f) * (2 * (n // 2 - c // 2) + c - n) for f, n, c in zip(flips, space, result.calibration, strict=True)
    ]
    return replace(result, mask=np.roll(mask, shifts, (0, 1)))


def _compatible_mask(
    choice: MaskFamily, space: tuple[int, int], axis: int, least: int, seed: int, rng: np.random.Generator
) -> MaskResult | None:
    """Draw another toolkit's mask whose calibration region has at least ``least`` lines; None if there is none.

    The size of the region follows the toolkit's rule.
    """
    regions: list[int | None] = [*choice.calibration] or [None]
    settings = [(rate, region) for rate in choice.acceleration for region in regions]
    for number in rng.permutation(len(settings)):
        acceleration, region = settings[number]
        try:
            result = make_mask(
                choice.family,
                space,
                acceleration,
                calibration=region,
                seed=seed,
                axis=axis,
                compat=choice.compat,
                fwhm=choice.fwhm,
            )
        except UsageError:
            continue
        if min(result.calibration[a] for a in result.axes) >= least:
            return result
    return None


@lru_cache(maxsize=256)
def _shared_mask(
    family: str,
    space: tuple[int, int],
    acceleration: float,
    region: int | tuple[int, ...],
    seed: int,
    fwhm: float | None,
) -> MaskResult:
    """Return one of a few stored masks of a size, because drawing a Poisson-disc mask takes longest."""
    return make_mask(family, space, acceleration, calibration=region, seed=seed, fwhm=fwhm)


def split_samples(mask: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split the acquired samples into network input and samples for the loss (SSDU).

    Yaman et al., MRM 84:3172, 2020: the samples for the loss are drawn with a Gaussian density around the centre,
    except for a box of 4 × 4 at the centre, which stays in the input. If whole lines are acquired, their single samples
    are split.

    Args:
        mask: (y, x), acquired samples.
        share: fraction of the samples for the loss.
        rng: random generator.

    Returns:
        Two disjoint masks (y, x) whose union is ``mask``.

    """
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in mask.shape)
    weight = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2)) * mask
    weight[tuple(slice(n // 2 - _CENTRE // 2, n // 2 - _CENTRE // 2 + _CENTRE) for n in mask.shape)] = 0
    candidates = np.flatnonzero(weight)
    count = min(len(candidates), round(share * int(mask.sum())))
    # Sorting E / w, with E exponentially distributed, draws without replacement.
    race = rng.exponential(size=len(candidates)) / weight.flat[candidates]
    held = np.zeros(mask.shape, dtype=bool)
    held.flat[candidates[np.argpartition(race, count - 1)[:count]] if count else candidates[:0]] = True
    return mask & ~held, held
