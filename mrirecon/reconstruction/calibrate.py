"""Estimate what one item's own data show before it is solved: coil maps, how many sets of them, and noise."""

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
MapsSource = str  # "auto", or the name of a registered calibration, see `mrirecon.coils.registry.CALIBRATIONS`


@dataclass(frozen=True)
class EspiritOptions:
    """Options of the estimate of coil maps; see `mrirecon.coils.espirit.espirit`.

    ``sets``: 1, 2, or ``auto``: 2 where the calibration data show that the object exceeds the field of view, see
    `mrirecon.coils.espirit.second_set_share`.
    """

    sets: MapSets = "auto"
    size: int = 24  # the calibration region is limited to this many samples along each axis
    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.8


@dataclass(frozen=True)
class ItemMaps:
    """The coil maps of one item, as a batch of one.

    Attributes:
        maps: (1, M, C, *space), at most of unit length over the coils.
        source: where they come from, in words.
        gain: the number that maps from a file were divided by.
        values: (1, M, *space), ESPIRiT's eigenvalues; None where there are none.
        crop: eigenvalue around which a plain combination ends the object.
        note: a note for the user where the field of view seems smaller than the object; else None.
        noise: noise of the item's k-space, where it was measured on the way.

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
        """Weights (1, M, *space) for a plain combination: one inside the object, zero outside; None for one."""
        return None if self.values is None else crop_weights(self.values, self.crop)

    def cropped(self) -> Tensor:
        """Return maps for a plain combination: zero outside the object."""
        return self.maps if self.object_weights is None else self.maps * self.object_weights.unsqueeze(2)

    @property
    def is_empty(self) -> bool:
        """Whether a plain combination is zero everywhere, as in a slice beyond the object."""
        return self.object_weights is not None and not bool(self.object_weights.any())

    def prior(self, power: float = PRIOR_POWER) -> Tensor:
        """Return a weight w in [0, 1] for regularized reconstruction (1, M, *space): eigenvalue to the ``power``.

        An eigenvalue below one means that the calibration data show no clear signal in that voxel. With maps S·w, the
        penalty on u = x/w makes signal there costly, but possible: a thin scalp that the calibration data hardly
        resolve survives, and aliasing into empty space does not. A hard crop loses one or keeps the other.
        """
        return torch.ones_like(self.maps[:, :, 0].real) if self.values is None else self.values**power


def map_option(text: str) -> dict[str, object]:
    """Return the fields of a `Request` for a text that names a source of coil maps, or a file of maps."""
    known = text == "auto" or text in CALIBRATIONS
    return {"maps": text} if known else {"maps": "file", "maps_file": Path(text)}


def find_source(scan: Scan, source: MapsSource = "auto", options: EspiritOptions | None = None) -> Calibration:
    """Return where the coil maps of a scan's items come from.

    ``auto`` takes the file's maps where it has any, unit maps for a single coil, and ESPIRiT otherwise.

    Raises:
        InputError: ``file`` asked for and the file has none.
        UsageError: two sets asked for of a source that has one; no such source.

    """
    if scan.roles.maps is not None and source in ("auto", "file"):
        return CALIBRATIONS["file"]
    if source == "file":
        raise InputError("the file holds no coil maps", where=str(scan.path), fix="use --maps espirit, or --maps FILE")
    calibration = CALIBRATIONS.find("unit" if scan.coils == 1 else "espirit" if source == "auto" else source)
    several = calibration.reads != "calibration" or "sets" in calibration.options
    if options is not None and options.sets == 2 and not several:
        raise UsageError(f"--maps {source} gives one set of maps", fix="leave --map-sets out, or use --maps espirit")
    return calibration


def calibration_data(
    scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray, limit: int
) -> tuple[np.ndarray, bool]:
    """Return the calibration region (C, *box), and whether it was acquired separately.

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
        scan: the item's scan.
        item: which.
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        source: where maps come from; a name is looked up by `find_source`.
        options: of the estimate.

    Raises:
        CalibrationError: no region to estimate maps from, or one that is too small.
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
    given = {"sets": 2 if two else 1, "kernel": o.kernel, "threshold": o.threshold}
    given = {name: value for name, value in given.items() if name in calibration.options}
    try:
        built = calibration.build(torch.from_numpy(region)[None], tuple(mask.shape), **given)
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
    """Return the share of energy that needs a second set of maps (`second_set_share`), and the noise it is judged by.

    The share is 0 for a region from which no maps can be estimated; the calibration raises the error.
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
    advice = "Two sets are taken; --map-sets 1 takes one" if two else "--maps espirit --map-sets 2 shows both parts"
    return (
        "the field of view seems smaller than the object: a second set of coil maps explains "
        f"{share:.2%} of the energy of the calibration data more than noise does (first seen in {scan.where(item)}). "
        + advice
    )


def small_field_of_view(scan: Scan, item: int = 0) -> str | None:
    """Return a note where the calibration data show that the object exceeds the field of view; else None."""
    if scan.coils == 1:
        return None
    (kspace, mask), options = scan.samples(item), EspiritOptions()
    region, separate = calibration_data(scan, item, kspace, mask, options.size)
    return _field_of_view_note(scan, item, _folded_share(region, separate, kspace, mask, options)[0], two=True)


def item_noise(
    scan: Scan, item: int, kspace: np.ndarray, mask: np.ndarray, own: NoiseLevel | None = None
) -> NoiseLevel:
    """Measure the noise of one item from its own k-space, or from a separate calibration scan where that shows more.

    Without a calibration region in the k-space, only upper bounds can be measured from it (`measure_noise`); signal
    raises them, and with them every weight that follows the noise. A calibration region acquired separately has a null
    space. Its bandwidth may differ, so its covariance is scaled down to those bounds where it exceeds them.

    Args:
        scan: the item's scan.
        item: which.
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        own: the noise of that k-space, where it was measured before.

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

    With ``sets="auto"``, all items have two sets where one needs them.
    """

    def estimate(options: EspiritOptions | None) -> dict[int, np.ndarray]:
        items = (item for item in range(len(scan)) if not scan.is_empty(item))
        return {
            item: item_maps(scan, item, *scan.samples(item), source="espirit", options=options).cropped()[0].numpy()
            for item in items
        }

    found = estimate(options)
    if len({len(maps) for maps in found.values()}) > 1:
        found = estimate(replace(options or EspiritOptions(), sets=2))
    nothing = np.zeros_like(next(iter(found.values())))
    return np.stack([found.get(item, nothing) for item in range(len(scan))])
