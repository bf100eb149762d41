"""Coil maps for the items of a scan: from the file, by ESPIRiT, Walsh or sigpy, or trivially for one coil."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, SECOND_SET_SHARE, CoilMaps, crop_weights, second_set_share
from mrirecon.coils.noise import NoiseLevel, measure_noise, noise_deviation
from mrirecon.coils.registry import CALIBRATIONS
from mrirecon.errors import CalibrationError, InputError, UsageError
from mrirecon.io import Scan

MapSets = Literal[1, 2, "auto"]
MapsSource = str  # "auto", or the name of a registered calibration, see `mrirecon.coils.registry.CALIBRATIONS`


@dataclass(frozen=True)
class EspiritOptions:
    """How maps are estimated; see `mrirecon.coils.espirit.espirit`.

    ``sets``: 1, 2, or ``auto``: 2 where the calibration data say that the object exceeds the field of view, see
    `mrirecon.coils.espirit.second_set_share`.
    """

    sets: MapSets = "auto"
    size: int = 24  # the calibration region is limited to this many samples along each axis
    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.8


@dataclass(frozen=True)
class ItemMaps:
    """Maps of one item, as a batch of one.

    Attributes:
        maps: (1, M, C, *space), at most of unit length over the coils.
        source: where they come from, in words.
        gain: maps from a file were divided by it.
        values: (1, M, *space), ESPIRiT's eigenvalues; None where there are none.
        crop: eigenvalue around which a plain combination ends the object.
        note: where the field of view seems smaller than the object, in words for the user; else None.

    """

    maps: Tensor
    source: str
    gain: float = 1.0
    values: Tensor | None = None
    crop: float = 0.8
    note: str | None = None

    def cropped(self) -> Tensor:
        """Return maps for a plain combination: zero where no object is."""
        if self.values is None:
            return self.maps
        return self.maps * crop_weights(self.values, self.crop).unsqueeze(2)

    @property
    def is_empty(self) -> bool:
        """Whether a plain combination is zero everywhere: a slice beyond the object, where there is only noise."""
        return self.values is not None and not bool(crop_weights(self.values, self.crop).any())

    def prior(self, power: float = PRIOR_POWER) -> Tensor:
        """Return a weight w in [0, 1] for regularized reconstruction (1, M, *space): eigenvalue to the ``power``.

        An eigenvalue below one means that the calibration data do not say that there is an object in that voxel. With
        maps S·w, the penalty on u = x/w makes signal there costly, and still possible: a thin scalp that the
        calibration data hardly resolve survives, aliasing into empty space does not pay. A hard crop has to choose.
        """
        return torch.ones_like(self.maps[:, :, 0].real) if self.values is None else self.values**power


def calibration_data(scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray, limit: int) -> np.ndarray:
    """Return the calibration region (C, *box): the scan's separate one, or the fully sampled centre of k-space."""
    separate = scan.calibration
    if separate is not None:
        region: np.ndarray = separate[item if len(separate) > 1 else 0]
        return region[(slice(None), *find_calibration(np.ones(region.shape[1:], dtype=bool), limit))]
    return kspace[(slice(None), *find_calibration(mask, limit))]


def item_maps(
    scan: Scan,
    item: int,
    kspace: np.ndarray,
    mask: np.ndarray,
    *,
    source: MapsSource = "auto",
    options: EspiritOptions | None = None,
) -> ItemMaps:
    """Return the maps of one item.

    ``auto`` takes the file's maps where it has any, unit maps for a single coil, and ESPIRiT otherwise.

    Raises:
        CalibrationError: no region to estimate maps from, or one that is too small.
        InputError: ``file`` asked for and the file has none.
        UsageError: two sets asked for of a source that has one; no such source.

    """
    o, space = options or EspiritOptions(), tuple(mask.shape)
    stored = scan.maps(item) if source in ("auto", "file") else None
    if stored is not None:
        maps, gain = CALIBRATIONS["file"].build(torch.from_numpy(np.ascontiguousarray(stored))[None])
        if gain == 0:
            raise InputError("the coil maps are all zero", where=scan.where(item), fix="use --maps espirit")
        return ItemMaps(maps, f"file, divided by {gain:.4g}", gain)
    if source == "file":
        raise InputError("the file holds no coil maps", where=str(scan.path), fix="use --maps espirit, or --maps FILE")
    calibration = CALIBRATIONS.find("unit" if scan.coils == 1 else "espirit" if source == "auto" else source)
    label = calibration.label or calibration.name
    if calibration.reads == "nothing":
        return ItemMaps(calibration.build(scan.coils, space), "one coil" if scan.coils == 1 else label)
    if o.sets == 2 and "sets" not in calibration.options:
        raise UsageError(f"--maps {source} gives one set of maps", fix="leave --map-sets out, or use --maps espirit")
    region = calibration_data(scan, item, kspace, mask, o.size)
    size = "×".join(map(str, region.shape[1:]))
    try:
        sets, note = _number_of_sets(scan, item, region, kspace, mask, o, several="sets" in calibration.options)
        given: dict[str, object] = {"sets": sets, "kernel": o.kernel, "threshold": o.threshold}
        given = {name: value for name, value in given.items() if name in calibration.options}
        found = calibration.build(torch.from_numpy(region)[None], space, **given)
    except CalibrationError as error:
        error.where = error.where or scan.where(item)
        raise
    maps, values = (found.maps, found.values) if isinstance(found, CoilMaps) else (found, None)
    source_in_words = f"{label}, {size} calibration region" + (", two sets" if maps.shape[1] == 2 else "")
    return ItemMaps(maps, source_in_words, values=values, crop=o.crop, note=note)


def item_noise(scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray) -> NoiseLevel:
    """Measure the noise of one item from its own k-space, or from a separate calibration scan where that shows more.

    Where the k-space has no calibration region, only upper bounds can be measured from it (`measure_noise`); signal
    raises them, and with them every weight that follows the noise. A calibration region acquired separately has a null
    space. Its bandwidth may differ, so its covariance is scaled down to those bounds where it exceeds them.

    Args:
        scan: the item's scan.
        item: which.
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.

    """
    own = measure_noise(kspace, mask)
    if own.low > 0 or scan.calibration is None:
        return own
    region = calibration_data(scan, item, kspace, mask, max(scan.calibration.shape))
    separate = measure_noise(region, np.ones(region.shape[1:], dtype=bool))
    total, bound = float((separate.deviation**2).sum()), float((own.deviation**2).sum())
    if separate.low == 0 or total == 0:
        return own
    covariance = separate.covariance * min(1.0, bound / total)
    return replace(separate, covariance=covariance, source=f"{separate.source}, acquired separately")


def small_field_of_view(scan: Scan, item: int = 0) -> str | None:
    """Return a note where the field of view seems smaller than the object, as far as calibration data tell."""
    if scan.coils == 1:
        return None
    (kspace, mask), o = scan.samples(item), EspiritOptions()
    region = calibration_data(scan, item, kspace, mask, o.size)
    return _number_of_sets(scan, item, region, kspace, mask, o)[1]


def _number_of_sets(
    scan: Scan,
    item: int,
    region: np.ndarray,
    kspace: np.ndarray,
    mask: np.ndarray,
    options: EspiritOptions,
    several: bool = True,
) -> tuple[int, str | None]:
    """Return how many sets of maps to estimate, and a note where the object exceeds the field of view."""
    kernel = options.kernel
    if options.sets == 2:
        return 2, None
    if min(region.shape[1:]) < kernel or not np.isfinite(region).all() or not region.any():
        return 1, None  # whoever estimates the maps says what is amiss
    separate = scan.calibration is not None
    sampled = np.ones(region.shape[1:], dtype=bool) if separate else mask
    noise = torch.from_numpy(noise_deviation(region if separate else kspace, sampled))[None]
    share = float(
        second_set_share(torch.from_numpy(region)[None], noise=noise, kernel=kernel, threshold=options.threshold)[0]
    )
    if share <= SECOND_SET_SHARE:
        return 1, None
    two = options.sets == "auto" and several
    note = (
        "the field of view seems smaller than the object: a second set of coil maps explains "
        f"{share:.2%} of the energy of the calibration data more than noise does (first seen in {scan.where(item)}). "
        + ("Two sets are taken; --map-sets 1 takes one" if two else "--maps espirit --map-sets 2 shows both parts")
    )
    return (2 if two else 1), note


def calibrate(scan: Scan, *, options: EspiritOptions | None = None) -> np.ndarray:
    """Estimate ESPIRiT maps of every item: (item, M, C, *space) complex64.

    With ``sets="auto"``, all items have two sets where one needs them.
    """

    def estimated(options: EspiritOptions | None) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = []
        for item in range(len(scan)):
            if scan.is_empty(item):
                found.append(None)
                continue
            kspace = scan.kspace(item)
            maps = item_maps(scan, item, kspace, scan.mask(item), source="espirit", options=options)
            found.append(maps.cropped()[0].numpy())
        return found

    found = estimated(options)
    if len({len(maps) for maps in found if maps is not None}) > 1:
        found = estimated(replace(options or EspiritOptions(), sets=2))
    some = next(maps for maps in found if maps is not None)
    return np.stack([np.zeros_like(some) if maps is None else maps for maps in found])
