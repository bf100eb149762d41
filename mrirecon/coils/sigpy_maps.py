"""Estimate ESPIRiT maps with sigpy, for comparison. sigpy is imported only when it is used."""

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
        region: calibration region of one item.
        space: size of the maps.
        kernel: side of the kernel.
        threshold: threshold for singular values, relative to the largest.
        crop: eigenvalue below which sigpy sets maps to zero; the default is that of sigpy.

    Raises:
        CalibrationError: the maps of sigpy are not finite, or the region is too small.

    """
    import sigpy
    import sigpy.mri

    # sigpy extracts a box of equal sides from the centre of full-size k-space.
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
        raise CalibrationError("the maps of sigpy hold NaN or infinite values", fix="use --maps espirit")
    return torch.from_numpy(maps)[None, None]
