"""sigpy's coil maps, to compare with. sigpy is imported only when it is used."""

from __future__ import annotations

import numpy as np

from mrirecon.coils.espirit import require_region
from mrirecon.errors import CalibrationError


def sigpy_maps(
    calibration: np.ndarray, space: tuple[int, ...], *, kernel: int, threshold: float, crop: float = 0.95
) -> np.ndarray:
    """Return ESPIRiT maps (C, *space) by sigpy from a calibration region (C, *box); its own ``crop`` by default.

    Raises:
        CalibrationError: sigpy's maps are not finite, or the region is too small for it.

    """
    import sigpy
    import sigpy.mri

    # sigpy takes a box of equal sides out of the centre of k-space of the full size.
    require_region(calibration.shape[1:], kernel)
    width = min(calibration.shape[1:])
    try:
        app = sigpy.mri.app.EspiritCalib(
            sigpy.resize(calibration, (calibration.shape[0], *space)),
            calib_width=width,
            kernel_width=kernel,
            thresh=threshold,
            crop=crop,
            show_pbar=False,
        )
        maps = np.asarray(app.run(), dtype=np.complex64)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise CalibrationError("sigpy cannot estimate maps", why=str(error), fix="use --maps espirit") from error
    if not np.isfinite(maps).all():
        raise CalibrationError("sigpy's maps hold values that are not numbers", fix="use --maps espirit")
    return maps
