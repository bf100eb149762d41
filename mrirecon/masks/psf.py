"""The point spread function of a mask: what aliasing a single bright point would suffer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrirecon.masks.result import achieved_acceleration


def point_spread(mask: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], float]:
    """Return the point spread function of a mask, and the height of its highest sidelobe.

    Args:
        mask: (*space), sampled or not, centred.

    Returns:
        (*space) |F^-1 mask| with its peak, 1, at index n // 2; and the largest value outside the main lobe, which is
        taken as the ellipsoid that ends, along each axis, where the function first stops falling. (Lustig et al., MRM
        58:1182, 2007, eq. 4, take every sample but the peak itself; that measures the width of the main lobe where
        the density varies.) 0 where nothing lies outside.

    """
    sampled = np.asarray(mask, dtype=np.float64)
    spread = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(sampled)))) * achieved_acceleration(sampled)
    centre = tuple(n // 2 for n in spread.shape)
    lobe = np.zeros(spread.shape)
    for axis, n in enumerate(spread.shape):
        along = spread[tuple(slice(None) if a == axis else c for a, c in enumerate(centre))]
        away = np.abs(np.arange(n) - n // 2)
        # The function is even, as the mask is real: one side tells; on even axes the negative side is the longer one.
        side = along[n // 2 :: -1]
        falls = np.append(side[1:] < side[:-1], False)
        end = int(np.argmin(falls))
        lobe += np.expand_dims((away / max(end, 0.5)) ** 2, [a for a in range(spread.ndim) if a != axis])
    outside = spread[lobe >= 1]
    return spread, float(outside.max()) if outside.size else 0.0
