"""sigpy's compressed sensing, as a second opinion on ours. sigpy is imported only when asked for."""

from __future__ import annotations

import numpy as np


def sigpy_cs(kspace: np.ndarray, maps: np.ndarray, lam: float, iterations: int) -> np.ndarray:
    """Return sigpy's l1-wavelet reconstruction (*space) of k-space (C, *space) with maps (C, *space)."""
    import sigpy.mri

    app = sigpy.mri.app.L1WaveletRecon(kspace, maps, lam, max_iter=iterations, show_pbar=False)
    return np.asarray(app.run(), dtype=np.complex64)
