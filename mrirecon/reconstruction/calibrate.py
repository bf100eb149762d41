"""Estimate coil maps, their number of sets, and the noise of an item from its own data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, SECOND_SET_SHARE, CoilMaps, crop_weights, second_set_share
from mrirecon.coils.noise import NoiseLevel, measure_noise
from mrirecon.coils.registry import CALIBRATIONS, Calibration
from mrirecon.errors import CalibrationError, InputError, UsageError
from mrirecon.io.scan import Scan

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
        crop: eigenvalue at which a plain combination crops the object.
        note: note for the user if the field of view seems smaller than the object; else None.
        noise: noise of the item's k-space, if it was measured for the maps.

    """

    maps: Tensor
    source: str
    gain: float = 1.0
    values: Tensor | None = None
    crop: float = 0.8
    note: str | None = None
    noise: NoiseLevel | None = None

    @cached_property
    def object_weights(self) -> Tensor | None:
        """Return weights (1, M, *space) for a plain combination: 1 in the object, else 0; None for 1 everywhere."""
        return None if self.values is None else crop_weights(self.values, self.crop)

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


def map_option(text: str) -> dict[str, object]:
    """Convert the name of a source of coil maps, or of a file, to fields of a `Request`."""
    known = text == "auto" or text in CALIBRATIONS
    return {"maps": text} if known else {"maps": "file", "maps_file": Path(text)}


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
    scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray, limit: int
) -> tuple[np.ndarray, bool]:
    """Return the calibration region (C, *box), and whether it is from a separate scan.

    Without separate calibration data, it is the fully sampled centre of k-space.
    """
    separate = scan.calibration
    if separate is None:
        return kspace[(slice(None), *find_calibration(mask, limit))], False
    region = separate[item if len(separate) > 1 else 0]
    return region[(slice(None), *find_calibration(np.ones(region.shape[1:], dtype=bool), limit))], True


def item_maps(
    scan: Scan,
    item: int,
    kspace: np.ndarray,
    mask: np.ndarray,
    *,
    source: MapsSource | Calibration = "auto",
    options: EspiritOptions | None = None,
) -> ItemMaps:
    """Return the coil maps of one item.

    Args:
        scan: scan of the item.
        item: number of the item.
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        source: source of the maps; a name is resolved by `find_source`.
        options: options of the estimate.

    Raises:
        CalibrationError: the calibration region is missing or too small.
        InputError, UsageError: see `find_source`.

    """
    o = options or EspiritOptions()
    calibration = source if isinstance(source, Calibration) else find_source(scan, source, o)
    label = calibration.label or calibration.name
    if calibration.reads == "nothing":
        return ItemMaps(calibration.build(len(kspace), mask.shape), "one coil" if len(kspace) == 1 else label)
    if calibration.reads == "file":
        maps, gain = calibration.build(torch.from_numpy(np.ascontiguousarray(scan.maps(item)))[None])
        if gain == 0:
            raise InputError("the coil maps are all zero", where=scan.where(item), fix="use --maps espirit")
        return ItemMaps(maps, f"file, divided by {gain:.4g}", gain)
    region, separate = calibration_data(scan, item, kspace, mask, o.size)
    share, noise = (0.0, None) if o.sets == 2 else _folded_share(region, separate, kspace, mask, o)
    two = o.sets == 2 or (o.sets == "auto" and "sets" in calibration.options and share > SECOND_SET_SHARE)
    available = {"sets": 2 if two else 1, "kernel": o.kernel, "threshold": o.threshold}
    available = {name: value for name, value in available.items() if name in calibration.options}
    try:
        built = calibration.build(torch.from_numpy(region)[None], tuple(mask.shape), **available)
    except CalibrationError as error:
        error.where = error.where or scan.where(item)
        raise
    maps, values = (built.maps, built.values) if isinstance(built, CoilMaps) else (built, None)
    size = "×".join(map(str, region.shape[1:]))
    return ItemMaps(
        maps,
        f"{label}, {size} calibration region" + (", two sets" if maps.shape[1] == 2 else ""),
        values=values,
        crop=o.crop,
        note=_field_of_view_note(scan, item, share, two),
        noise=None if separate else noise,
    )


def _folded_share(
    region: np.ndarray, separate: bool, kspace: np.ndarray, mask: np.ndarray, options: EspiritOptions
) -> tuple[float, NoiseLevel | None]:
    """Return the share of energy that needs a second set of maps (`second_set_share`), and the noise used.

    The share is 0 if no maps can be estimated from the region; the calibration raises the error later.
    """
    if min(region.shape[1:]) < options.kernel or not np.isfinite(region).all() or not region.any():
        return 0.0, None
    level = measure_noise(region, np.ones(region.shape[1:], dtype=bool)) if separate else measure_noise(kspace, mask)
    noise = torch.from_numpy(level.deviation)[None]
    share = second_set_share(
        torch.from_numpy(region)[None], noise=noise, kernel=options.kernel, threshold=options.threshold
    )
    return float(share[0]), level


def _field_of_view_note(scan: Scan, item: int, share: float, two: bool) -> str | None:
    if share <= SECOND_SET_SHARE:
        return None
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
    (kspace, mask), options = scan.samples(item), EspiritOptions()
    region, separate = calibration_data(scan, item, kspace, mask, options.size)
    return _field_of_view_note(scan, item, _folded_share(region, separate, kspace, mask, options)[0], two=True)


def item_noise(
    scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray, own: NoiseLevel | None = None
) -> NoiseLevel:
    """Measure the noise of one item from its own k-space, or from a separate calibration scan if that is better.

    k-space without a calibration region gives only upper bounds (`measure_noise`). Signal raises these bounds, and so
    every weight that depends on the noise. A separate calibration region has a null space, which gives the noise. Its
    bandwidth may differ, so its covariance is scaled down to the upper bounds if it exceeds them.

    Args:
        scan: scan of the item.
        item: number of the item.
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        own: noise of this k-space, if it was measured before.

    """
    own = own or measure_noise(kspace, mask)
    if own.low > 0 or scan.calibration is None:
        return own
    region, _ = calibration_data(scan, item, kspace, mask, max(scan.calibration.shape))
    separate = measure_noise(region, np.ones(region.shape[1:], dtype=bool))
    total, bound = float((separate.deviation**2).sum()), float((own.deviation**2).sum())
    if separate.low == 0 or total == 0:
        return own
    covariance = separate.covariance * min(1.0, bound / total)
    return replace(separate, covariance=covariance, source=f"{separate.source}, acquired separately")


def calibrate(scan: Scan, *, options: EspiritOptions | None = None) -> np.ndarray:
    """Estimate ESPIRiT maps of every item: (item, M, C, *space) complex64; zero for items without signal.

    With ``sets="auto"``, all items have two sets if one item needs them.
    """

    def estimate(options: EspiritOptions | None) -> dict[int, np.ndarray]:
        items = (item for item in range(len(scan)) if not scan.is_empty(item))
        return {
            item: item_maps(scan, item, *scan.samples(item), source="espirit", options=options).cropped()[0].numpy()
            for item in items
        }

    estimates = estimate(options)
    if len({len(maps) for maps in estimates.values()}) > 1:
        estimates = estimate(replace(options or EspiritOptions(), sets=2))
    nothing = np.zeros_like(next(iter(estimates.values())))
    return np.stack([estimates.get(item, nothing) for item in range(len(scan))])
