"""Register coil calibrations, the sources of coil maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrirecon.registries import Entry, Registry


@dataclass(frozen=True)
class Calibration(Entry):
    """Hold a coil calibration.

    The arguments of its function depend on ``reads``:

    - ``calibration``: ``(region, space)``, the fully sampled centre of k-space (B, C, *box) complex, and the size of
      the maps. It may take any of the options ``sets`` (of maps), ``kernel`` and ``threshold`` by these names. It
      returns maps (B, M, C, *space) complex, at most of unit length over the coils, or
      `mrirecon.coils.espirit.CoilMaps`, and raises a `CalibrationError` if the region is not sufficient.
    - ``file``: ``(stored)``, maps (B, M, C, *space) in the file of the scan. It returns maps and their gain.
    - ``nothing``: ``(coils, space)``. It returns maps.

    Attributes:
        reads: source of the maps.
        label: name in notes and sidecars; by default the name of the entry.

    """

    reads: Literal["calibration", "file", "nothing"] = "calibration"
    label: str = ""


CALIBRATIONS = Registry("coil calibration", Calibration, package="mrirecon.coils", group="calibrations")
register_calibration = CALIBRATIONS.register
