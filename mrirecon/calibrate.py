"""Coil maps for the items of a scan: from the file, by ESPIRiT, Walsh or sigpy, or trivially for one coil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, crop_weights, espirit
from mrirecon.coils.walsh import walsh
from mrirecon.errors import CalibrationError, InputError
from mrirecon.io import Scan
from mrirecon.operators import root_sum_of_squares

# Of the object: scans whose field of view is large enough have at most 0.3 % (measured) or 4 % (simulated, SNR 12); the
# same, halved, have at least 8 %.
FOLDED = 0.05
Source = Literal["auto", "file", "espirit", "walsh", "sigpy", "unit"]


@dataclass(frozen=True)
class EspiritOptions:
    """How maps are estimated; see `mrirecon.coils.espirit.espirit`."""

    sets: int = 1
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

    """

    maps: Tensor
    source: str
    gain: float = 1.0
    values: Tensor | None = None
    crop: float = 0.8

    def cropped(self) -> Tensor:
        """Return maps for a plain combination: zero where no object is."""
        if self.values is None:
            return self.maps
        return self.maps * crop_weights(self.values, self.crop).unsqueeze(2)

    @property
    def sees_nothing(self) -> bool:
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
    source: Source = "auto",
    options: EspiritOptions | None = None,
) -> ItemMaps:
    """Return the maps of one item.

    ``auto`` takes the file's maps where it has any, unit maps for a single coil, and ESPIRiT otherwise.

    Raises:
        CalibrationError: no region to estimate maps from, or one that is too small.
        InputError: ``file`` asked for and the file has none.

    """
    o, space = options or EspiritOptions(), tuple(mask.shape)
    stored = scan.maps(item) if source in ("auto", "file") else None
    if stored is not None:
        maps = torch.from_numpy(np.ascontiguousarray(stored))[None]
        gain = float(root_sum_of_squares(maps, 2).amax())
        if gain == 0:
            raise InputError("the coil maps are all zero", where=scan.where(item), fix="use --maps espirit")
        return ItemMaps(maps / gain, f"file, divided by {gain:.4g}", gain)
    if source == "file":
        raise InputError("the file holds no coil maps", where=str(scan.path), fix="use --maps espirit, or --maps FILE")
    if source == "unit" or scan.coils == 1:
        maps = torch.full((1, 1, scan.coils, *space), scan.coils**-0.5, dtype=torch.complex64)
        return ItemMaps(maps, "one coil" if scan.coils == 1 else "unit")
    region = calibration_data(scan, item, kspace, mask, o.size)
    size = "×".join(map(str, region.shape[1:]))
    try:
        if source == "sigpy":
            from mrirecon.second_opinion import sigpy_maps

            found = sigpy_maps(region, space, kernel=o.kernel, threshold=o.threshold)
            return ItemMaps(torch.from_numpy(found)[None, None], f"sigpy, {size} calibration region")
        if source == "walsh":
            return ItemMaps(
                walsh(torch.from_numpy(region)[None], space), f"adaptive (Walsh), {size} calibration region"
            )
        ours = espirit(
            torch.from_numpy(region)[None],
            space,
            sets=o.sets,
            kernel=o.kernel,
            threshold=o.threshold,
            crop=0,
        )
    except CalibrationError as error:
        error.where = error.where or scan.where(item)
        raise
    if o.sets == 1:
        _advise_two(scan, item, ours.folded())
    return ItemMaps(ours.maps, f"ESPIRiT, {size} calibration region", values=ours.values, crop=o.crop)


def look_at_field_of_view(scan: Scan, item: int = 0) -> None:
    """Note where the field of view seems smaller than the object; quickly, on a coarse grid. Else do nothing."""
    kspace, mask, o = scan.kspace(item), scan.mask(item), EspiritOptions()
    region = calibration_data(scan, item, kspace, mask, o.size)
    if scan.coils > 2 and min(region.shape[1:]) >= o.kernel:
        coarse = tuple(-(-n // 4) for n in mask.shape)
        found = espirit(torch.from_numpy(region)[None], coarse, kernel=o.kernel, crop=0, coarse=1, power_steps=0)
        _advise_two(scan, item, found.folded())


def _advise_two(scan: Scan, item: int, folded: Tensor) -> None:
    """Note that two sets of maps are needed, where that is of more than `FOLDED` of the object."""
    if float(folded[0]) > FOLDED:
        scan.note(
            f"in {float(folded[0]):.0%} of the object two sensitivities explain the calibration data (first seen in "
            f"{scan.where(item)}): the field of view seems smaller than the object. --map-sets 2 shows both parts"
        )


def calibrate(scan: Scan, *, options: EspiritOptions | None = None) -> np.ndarray:
    """Estimate ESPIRiT maps of every item: (item, M, C, *space) complex64."""
    found: list[np.ndarray | None] = []
    for item in range(len(scan)):
        if scan.empty(item):
            scan.note(f"{scan.where(item)}: no signal, and maps of zeros")
            found.append(None)
            continue
        kspace = scan.kspace(item)
        maps = item_maps(scan, item, kspace, scan.mask(item), source="espirit", options=options)
        found.append(maps.cropped()[0].numpy())
    some = next(maps for maps in found if maps is not None)
    return np.stack([np.zeros_like(some) if maps is None else maps for maps in found])
