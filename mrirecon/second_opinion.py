"""sigpy's maps and compressed sensing, as a second opinion on ours. sigpy is imported only when asked for."""

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


def sigpy_cs(kspace: np.ndarray, maps: np.ndarray, lam: float, iterations: int) -> np.ndarray:
    """Return sigpy's l1-wavelet reconstruction (*space) of k-space (C, *space) with maps (C, *space)."""
    import sigpy.mri

    app = sigpy.mri.app.L1WaveletRecon(kspace, maps, lam, max_iter=iterations, show_pbar=False)
    return np.asarray(app.run(), dtype=np.complex64)
