"""Estimate coil maps and noise of an item from its own data, and build its problem: `item_maps`, `build_problem`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, SECOND_SET_SHARE, CoilMaps, crop_weights, second_set_share
from mrirecon.coils.noise import NoiseLevel, measure_noise
from mrirecon.coils.registry import CALIBRATIONS, Calibration
from mrirecon.coils.sampling import Sampling, as_sampling
from mrirecon.errors import CalibrationError, InputError, UsageError
from mrirecon.io.scan import Scan
from mrirecon.methods.registry import Use
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Identity, Prior, Transform

MapSets = Literal["auto", 1, 2]
MapsSource = str  # "auto", or the name of a registered calibration; see `mrirecon.coils.registry.CALIBRATIONS`


@dataclass(frozen=True)
class EspiritOptions:
    """Hold options of the estimate of coil maps; see `mrirecon.coils.espirit.espirit`.

    ``sets``: 1, 2, or ``auto``: 2 if the calibration data show that the object exceeds the field of view (see
    `mrirecon.coils.espirit.second_set_share`).
    """

    sets: MapSets = "auto"
    size: int = 24  # largest number of samples of the calibration region along each axis
    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.8


@dataclass(frozen=True)
class ItemMaps:
    """Hold the coil maps of one item, as a batch of one.

    Attributes:
        maps: (1, M, C, *space), at most of unit length over the coils.
        source: description of the source of the maps.
        gain: number by which maps from a file were divided.
        values: (1, M, *space), eigenvalues of ESPIRiT; None for other maps.
        object_weights: (1, M, *space), weights for a plain combination: 1 in the object, else 0; None for 1 everywhere.
        note: note for the user if the field of view seems smaller than the object; else None.
        noise: noise of the item's k-space, if it was measured for the maps.

    """

    maps: Tensor
    source: str
    gain: float = 1.0
    values: Tensor | None = None
    object_weights: Tensor | None = None
    note: str | None = None
    noise: NoiseLevel | None = None

    def cropped(self) -> Tensor:
        """Return maps for a plain combination: zero outside the object."""
        return self.maps if self.object_weights is None else self.maps * self.object_weights.unsqueeze(2)

    @property
    def is_empty(self) -> bool:
        """Return whether a plain combination is zero everywhere, as in a slice outside the object."""
        return self.object_weights is not None and not bool(self.object_weights.any())

    def prior(self, power: float = PRIOR_POWER) -> Tensor:
        """Return weights w in [0, 1] for regularized reconstruction, (1, M, *space): eigenvalue to the ``power``.

        An eigenvalue below one means that the calibration data show no clear signal in a voxel. With maps S·w, the
        penalty on u = x/w makes signal in this voxel costly, but possible: a thin scalp, which the calibration data
        hardly resolve, is kept, and aliasing in empty space is suppressed. A hard crop cannot do both.
        """
        return torch.ones_like(self.maps[:, :, 0].real) if self.values is None else self.values**power


def find_source(scan: Scan, source: MapsSource = "auto", options: EspiritOptions | None = None) -> Calibration:
    """Return the source of the coil maps of a scan.

    ``auto`` takes the maps of the file if it has any, unit maps for a single coil, and ESPIRiT otherwise.

    Raises:
        InputError: ``file`` is requested, but the file has no maps.
        UsageError: two sets are requested of a source with one set; no such source.

    """
    if scan.roles.maps is not None and source in ("auto", "file"):
        return CALIBRATIONS["file"]
    if source == "file":
        raise InputError("the file holds no coil maps", where=str(scan.path), fix="use --maps espirit, or --maps FILE")
    calibration = CALIBRATIONS.find("unit" if scan.coils == 1 else "espirit" if source == "auto" else source)
    several = calibration.reads != "calibration" or "sets" in calibration.options
    if options is not None and options.sets == 2 and not several:
        raise UsageError(f"--maps {source} gives one set of maps", fix="omit --map-sets, or use --maps espirit")
    return calibration


def calibration_data(
    scan: Scan, item: int, kspace: np.ndarray, sampling: Sampling, limit: int
) -> tuple[np.ndarray, bool]:
    """Return the calibration region (C, *box), and whether it is from a separate scan.

    Without separate calibration data, it is the fully sampled centre of k-space.
    """
    if scan.roles.calibration is None or (separate := scan.calibration) is None:
        return sampling.calibration(kspace, limit), False
    region = separate[item if len(separate) > 1 else 0]
    return region[(slice(None), *find_calibration(np.ones(region.shape[1:], dtype=bool), limit))], True


def item_maps(
    scan: Scan,
    item: int,
    kspace: np.ndarray,
    sampling: Sampling | np.ndarray,
    *,
    source: MapsSource | Calibration = "auto",
    options: EspiritOptions | None = None,
) -> ItemMaps:
    """Return the coil maps of one item.

    Args:
        scan: scan of the item.
        item: number of the item.
        kspace: samples of all coils, as `mrirecon.io.scan.Scan.measured` returns them.
        sampling: where they were taken; or a mask (*space), true where sampled.
        source: source of the maps; a name is resolved by `find_source`.
        options: options of the estimate.

    Raises:
        CalibrationError: the calibration region is missing or too small.
        InputError, UsageError: see `find_source`.

    """
    o, sampling = options or EspiritOptions(), as_sampling(sampling)
    calibration = source if isinstance(source, Calibration) else find_source(scan, source, o)
    label = calibration.label or calibration.name
    if calibration.reads == "nothing":
        return ItemMaps(calibration.build(len(kspace), sampling.shape), "one coil" if len(kspace) == 1 else label)
    if calibration.reads == "file":
        maps, gain = calibration.build(torch.from_numpy(np.ascontiguousarray(scan.maps(item)))[None])
        if gain == 0:
            raise InputError("the coil maps are all zero", where=scan.where(item), fix="use --maps espirit")
        return ItemMaps(maps, f"file, divided by {gain:.4g}", gain)
    region, separate = calibration_data(scan, item, kspace, sampling, o.size)
    share, noise = (0.0, None) if o.sets == 2 else _folded_share(region, kspace, None if separate else sampling, o)
    two = o.sets == 2 or (o.sets == "auto" and "sets" in calibration.options and share > SECOND_SET_SHARE)
    available = {"sets": 2 if two else 1, "kernel": o.kernel, "threshold": o.threshold}
    available = {name: value for name, value in available.items() if name in calibration.options}
    try:
        built = calibration.build(torch.from_numpy(region)[None], tuple(sampling.shape), **available)
    except CalibrationError as error:
        error.where = error.where or scan.where(item)
        raise
    maps, values = (built.maps, built.values) if isinstance(built, CoilMaps) else (built, None)
    size = "×".join(map(str, region.shape[1:]))
    return ItemMaps(
        maps,
        f"{label}, {size} calibration region" + (", two sets" if maps.shape[1] == 2 else ""),
        values=values,
        object_weights=None if values is None else crop_weights(values, o.crop),
        note=_field_of_view_note(scan, item, share, two) if share > SECOND_SET_SHARE else None,
        noise=None if separate else noise,
    )


def _folded_share(
    region: np.ndarray, kspace: np.ndarray, sampling: Sampling | None, options: EspiritOptions
) -> tuple[float, NoiseLevel | None]:
    """Return the share of energy that needs a second set of maps (`second_set_share`), and the noise used.

    The share is 0 if no maps can be estimated from the region; the calibration raises the error later.

    Args:
        region: calibration region (C, *box).
        kspace: samples of the item.
        sampling: where they were taken; None if the region is from a separate scan, whose noise is then used.
        options: options of the estimate.

    """
    if min(region.shape[1:]) < options.kernel or not np.isfinite(region).all() or not region.any():
        return 0.0, None
    level = _noise_of_region(region) if sampling is None else sampling.noise(kspace)
    noise = torch.from_numpy(level.deviation)[None]
    share = second_set_share(
        torch.from_numpy(region)[None], noise=noise, kernel=options.kernel, threshold=options.threshold
    )
    return float(share[0]), level


def _noise_of_region(region: np.ndarray) -> NoiseLevel:
    return measure_noise(region, np.ones(region.shape[1:], dtype=bool))


def _field_of_view_note(scan: Scan, item: int, share: float, two: bool) -> str:
    advice = "Two sets are used; --map-sets 1 uses one" if two else "use --maps espirit --map-sets 2"
    return (
        "the field of view seems smaller than the object: a second set of coil maps explains "
        f"{share:.2%} of the energy of the calibration data more than noise does (first in {scan.where(item)}). "
        + advice
    )


def small_field_of_view(scan: Scan, item: int = 0) -> str | None:
    """Return a note if the calibration data show that the object exceeds the field of view; else None."""
    if scan.coils == 1:
        return None
    (kspace, sampling), options = scan.measured(item), EspiritOptions()
    region, separate = calibration_data(scan, item, kspace, sampling, options.size)
    share, _ = _folded_share(region, kspace, None if separate else sampling, options)
    return _field_of_view_note(scan, item, share, two=True) if share > SECOND_SET_SHARE else None


def item_noise(
    scan: Scan, item: int, kspace: np.ndarray, sampling: Sampling | np.ndarray, level: NoiseLevel | None = None
) -> NoiseLevel:
    """Measure the noise of one item from its own k-space, or from a separate calibration scan if that is better.

    k-space without a calibration region gives only upper bounds (`measure_noise`). Signal raises these bounds, and so
    every weight that depends on the noise. A separate calibration region has a null space, which gives the noise. Its
    bandwidth may differ, so its covariance is scaled down to the upper bounds if it exceeds them.

    Args:
        scan: scan of the item.
        item: number of the item.
        kspace: samples of all coils.
        sampling: where they were taken; or a mask (*space), true where sampled.
        level: noise of this k-space, if it was measured before.

    """
    sampling = as_sampling(sampling)
    level = level or sampling.noise(kspace)
    if level.low > 0 or scan.calibration is None:
        return level
    region, _ = calibration_data(scan, item, kspace, sampling, max(scan.calibration.shape))
    separate = _noise_of_region(region)
    total, bound = float((separate.deviation**2).sum()), float((level.deviation**2).sum())
    if separate.low == 0 or total == 0:
        return level
    covariance = separate.covariance * min(1.0, bound / total)
    return replace(separate, covariance=covariance, source=f"{separate.source}, acquired separately")


class ItemProblem(NamedTuple):
    """Hold the problem of one item, and the transform from its image to that of the scan.

    Attributes:
        problem: problem for the image u.
        transform: x = T u, where x is the image of the scan.
        prior: prior for `mrirecon.engine.Reconstructor.run` of an informed method; None for others.

    """

    problem: Problem
    transform: Transform
    prior: Prior | None


def build_problem(
    kspace: np.ndarray,
    sampling: Sampling | np.ndarray,
    maps: ItemMaps,
    use: Use,
    *,
    device: torch.device | str = "cpu",
    noise: np.ndarray | None = None,
) -> ItemProblem:
    """Build the problem of one item as a batch of one, and the transform to the image of the item.

    Maps show the extent of the object, and methods use it in three ways (see `ItemMaps.prior`). A plain combination is
    ``cropped`` to the object. A regularized method is ``weighted``: it solves for u with the maps S·w, and its image is
    x = w·u. A network is ``informed``: it gets S everywhere, so that its image can explain all data, and separately w.
    With cropped maps it could not explain the signal of a scalp at the edge of the crop.

    Args:
        kspace: samples of all coils.
        sampling: where they were taken; or a mask (*space), true where sampled.
        maps: maps of the item.
        use: how the method uses the maps.
        device: device of the problem.
        noise: (C, C) covariance of the samples; if None, it is measured from k-space for an informed method.

    """
    sampling = as_sampling(sampling)
    sensitivities = maps.cropped() if use == "cropped" else maps.maps
    if noise is None and use == "informed":  # measured once for all parts of the method that need it
        noise = sampling.noise(kspace).covariance
    covariance = None if noise is None else torch.from_numpy(noise).to(sensitivities.dtype)[None]
    problem = sampling.problem(kspace, sensitivities, covariance).to(device)
    if use == "cropped":
        return ItemProblem(problem, Identity(), None)
    prior = Prior(maps.prior().to(device))
    if use == "weighted":
        return ItemProblem(prior.apply(problem), prior, None)
    return ItemProblem(problem, Identity(), prior)


def stack_problems(items: list[ItemProblem]) -> tuple[Problem, Prior | None]:
    """Stack problems of the same size and number of map sets to one batch, with their priors."""
    if len(items) == 1:
        return items[0].problem, items[0].prior
    problems = [item.problem for item in items]
    y, mask, maps = (torch.cat(part) for part in zip(*((p.y, p.mask, p.maps) for p in problems), strict=True))
    noise = [p.noise for p in problems if p.noise is not None]
    weights = [item.prior.weight for item in items if item.prior is not None]
    prior = Prior(torch.cat(weights)) if len(weights) == len(items) else None
    return Problem(y, mask, maps, noise=torch.cat(noise) if len(noise) == len(problems) else None), prior


def join_map_sets(image: Tensor) -> np.ndarray:
    """Combine the images of map sets (M, *space): root sum of squares, with the phase of the first."""
    if image.shape[0] == 1:
        return np.asarray(image[0].cpu().numpy(), dtype=np.complex64)
    magnitude = root_sum_of_squares(image, 0)
    phase = torch.exp(1j * image[0].angle())
    return np.asarray((magnitude * phase).cpu().numpy(), dtype=np.complex64)


def calibrate(
    scan: Scan, *, options: EspiritOptions | None = None, progress: Callable[[int, int, str], None] | None = None
) -> np.ndarray:
    """Estimate ESPIRiT maps of every item: (item, M, C, *space) complex64; zero for items without signal.

    With ``sets="auto"``, all items have two sets if one item needs them. ``progress`` is called with (items done,
    items, "coil maps").
    """

    def estimate(options: EspiritOptions | None) -> dict[int, np.ndarray]:
        maps: dict[int, np.ndarray] = {}
        for item in range(len(scan)):
            if progress is not None:
                progress(item, len(scan), "coil maps")
            if not scan.is_empty(item):
                found = item_maps(scan, item, *scan.measured(item), source="espirit", options=options)
                maps[item] = found.cropped()[0].numpy()
        return maps

    estimates = estimate(options)
    if len({len(maps) for maps in estimates.values()}) > 1:
        estimates = estimate(replace(options or EspiritOptions(), sets=2))
    nothing = np.zeros_like(next(iter(estimates.values())))
    return np.stack([estimates.get(item, nothing) for item in range(len(scan))])
