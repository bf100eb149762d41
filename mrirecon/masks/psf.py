"""Compute the point spread function of a mask: the aliasing of a single bright point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrirecon.masks.result import achieved_acceleration


def point_spread(mask: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], float]:
    """Return the point spread function of a mask, and the height of its highest sidelobe.

    Args:
        mask: (*space), True where sampled, centred.

    Returns:
        |F^-1 mask| (*space) with its peak of 1 at index n // 2; and the largest value outside the main lobe, or 0 if
        nothing is outside. The lobe is the ellipsoid that extends along each axis to the first point where the function
        stops decreasing. (Lustig et al., MRM 58:1182, 2007, eq. 4, exclude only the peak, which measures the width of
        the main lobe for a variable density.)

    """
    sampled = np.asarray(mask, dtype=np.float64)
    spread = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(sampled)))) * achieved_acceleration(sampled)
    centre = tuple(n // 2 for n in spread.shape)
    lobe = np.zeros(spread.shape)
    for axis, n in enumerate(spread.shape):
        along = spread[tuple(slice(None) if a == axis else c for a, c in enumerate(centre))]
        away = np.abs(np.arange(n) - n // 2)
        # The mask is real, so the function is symmetric and one side is sufficient; on even axes, the negative side is
        # longer.
        side = along[n // 2 :: -1]
        falls = np.append(side[1:] < side[:-1], False)
        end = int(np.argmin(falls))
        lobe += np.expand_dims((away / max(end, 0.5)) ** 2, [a for a in range(spread.ndim) if a != axis])
    outside = spread[lobe >= 1]
    return spread, float(outside.max()) if outside.size else 0.0
