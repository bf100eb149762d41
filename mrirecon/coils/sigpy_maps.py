"""ESPIRiT maps by sigpy, to compare with our own. sigpy is imported only when they are asked for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.espirit import require_region
from mrirecon.coils.registry import register_calibration
from mrirecon.errors import CalibrationError


@register_calibration("sigpy", rank=3)
def sigpy_maps(
    region: Tensor, space: tuple[int, ...], *, kernel: int = 6, threshold: float = 0.02, crop: float = 0.95
) -> Tensor:
    """Estimate ESPIRiT maps (1, 1, C, *space) with sigpy from a calibration region (1, C, *box).

    Args:
        region: of one item.
        space: size of the maps.
        kernel: side of the kernel.
        threshold: of singular values, relative to the largest.
        crop: eigenvalue below which sigpy sets maps to zero; its own default.

    Raises:
        CalibrationError: sigpy's maps are not finite, or the region is too small for it.

    """
    import sigpy
    import sigpy.mri

    # sigpy takes a box of equal sides out of the centre of k-space of the full size.
    calibration = region[0].numpy()
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
    return torch.from_numpy(maps)[None, None]
