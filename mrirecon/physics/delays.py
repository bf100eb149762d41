"""Estimate the gradient delays of radial readouts from their intersections, and correct the trajectory (RING).

Rosenzweig, Holme, Uecker, MRM 81:1898, 2019. A delay of the gradients shifts a readout of direction n by S n in
k-space, with a symmetric matrix S. Two readouts cross where their samples agree in all coils: k_i(a) = k_j(b) gives two
equations for S.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import resample

from mrirecon.errors import InputError

_REACH = 3.0  # largest distance of an intersection from the centre, in 1/FOV
_FINE = 8  # interpolated samples per sample
_SINE = 0.5  # smallest sine of the angle between readouts of a pair
_PAIRS = 400


def gradient_delays(kspace: np.ndarray, trajectory: np.ndarray) -> np.ndarray:
    """Return S (2, 2), the shift of readouts by gradient delays, in 1/FOV.

    Args:
        kspace: (C, readout, sample) complex.
        trajectory: (readout, sample, 2) in 1/FOV, straight readouts through the centre.

    Raises:
        InputError: readouts that are not straight, or do not cross.

    """
    directions, steps, centres = _lines(trajectory)
    pairs = _pairs(directions)
    reach = int(np.ceil(_REACH / steps.min()))
    middle = round(float(centres.mean()))
    low, high = middle - reach, middle + reach + 1
    if low < 0 or high > kspace.shape[2]:
        raise InputError("the readouts are too short to estimate delays", why=f"{kspace.shape[2]} samples")
    # Interpolate with a margin, because the interpolation is periodic.
    start, stop = max(0, low - 2 * reach), min(kspace.shape[2], high + 2 * reach)
    window = np.hanning(stop - start + 2)[1:-1]
    fine = resample(kspace[:, :, start:stop] * window, (stop - start) * _FINE, axis=2)
    positions = start + np.arange(fine.shape[2]) / _FINE
    fine = fine / np.maximum(np.interp(positions, np.arange(start, stop), window), 1e-6)
    near = (positions >= low) & (positions <= high - 1)
    fine, positions = fine[:, :, near], positions[near]
    rows, values = [], []
    for i, j in pairs:
        first, second = fine[:, i], fine[:, j]
        difference = (
            (np.abs(first) ** 2).sum(0)[:, None] + (np.abs(second) ** 2).sum(0) - 2 * (first.conj().T @ second).real
        )
        a, b = np.unravel_index(int(difference.argmin()), difference.shape)
        x, y = (positions[a] - centres[i]) * steps[i], (positions[b] - centres[j]) * steps[j]
        dx, dy = directions[i] - directions[j]
        shift = directions[j] * y - directions[i] * x
        rows += [[dx, 0.0, dy], [0.0, dy, dx]]
        values += shift.tolist()
    a_matrix, b_vector = np.array(rows), np.array(values)
    solution = np.linalg.lstsq(a_matrix, b_vector, rcond=None)[0]
    for _ in range(5):  # without pairs that agree elsewhere by chance
        error = np.abs(a_matrix @ solution - b_vector)
        keep = error <= 3 * max(float(np.median(error)), 0.5 * float(steps.min()) / _FINE)
        solution = np.linalg.lstsq(a_matrix[keep], b_vector[keep], rcond=None)[0]
    sx, sy, sxy = solution
    return np.array([[sx, sxy], [sxy, sy]])


def shifted(trajectory: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """Return the trajectory (readout, sample, 2) with readouts shifted by S n."""
    directions, _, _ = _lines(trajectory)
    return np.asarray(trajectory + (directions @ delays.T)[:, None], trajectory.dtype)


def _lines(trajectory: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return direction (readout, 2), step (readout,) and sample of the centre (readout,) of straight readouts."""
    step = np.diff(trajectory, axis=1)
    mean = step.mean(1)
    length = np.linalg.norm(mean, axis=1)
    straight = trajectory.shape[1] > 8 and float(np.abs(step - mean[:, None]).max()) < 1e-2 * float(length.max())
    if not straight or length.min() == 0:
        raise InputError("delays are estimated from straight radial readouts", fix="omit --delays")
    directions = mean / length[:, None]
    centres = -(trajectory[:, 0] * directions).sum(1) / length
    across = np.abs(trajectory[:, 0] - (trajectory[:, 0] * directions).sum(1)[:, None] * directions).max()
    if across > 0.1 or centres.min() < 0 or centres.max() > trajectory.shape[1] - 1:
        raise InputError("delays are estimated from readouts through the centre of k-space", fix="omit --delays")
    return directions, length, centres


def _pairs(directions: np.ndarray) -> list[tuple[int, int]]:
    """Return up to 400 pairs of readouts that cross at a sufficient angle, evenly spread."""
    sines = np.abs(directions[:, None, 0] * directions[None, :, 1] - directions[:, None, 1] * directions[None, :, 0])
    i, j = np.nonzero(np.triu(sines >= _SINE, 1))
    if len(i) < 3:
        raise InputError("too few readouts cross to estimate delays", why=f"{len(i)} pairs", fix="omit --delays")
    chosen = np.unique(np.linspace(0, len(i) - 1, min(_PAIRS, len(i))).round().astype(int))
    return list(zip(i[chosen].tolist(), j[chosen].tolist(), strict=True))
