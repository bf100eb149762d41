"""Prewhiten coils: make their noise equal and independent.

Roemer et al., MRM 16:192, 1990; Pruessmann et al., MRM 46:638, 2001. Noise n of covariance Σ = E[n nᴴ] = L Lᴴ becomes
white as L⁻¹ n. Least squares then weights the coils correctly, and images are in units of the noise: with maps of unit
length, a fully sampled combination has E|n|² = 1 in every pixel (SNR units: Kellman and McVeigh, MRM 54:1439, 2005, who
set the variance of the real part to 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrirecon.errors import InputError, UsageError

LARGEST_CONDITION = 1e4  # largest condition of the correlations; above it, the covariance is loaded
_SINGULAR = 1e-9  # smallest ratio of eigenvalues of the correlations; below it, a channel repeats others


@dataclass(frozen=True)
class Whitening:
    """Hold a whitening matrix.

    Attributes:
        matrix: (C, C) complex128, lower triangular: the matrix W with W Σ Wᴴ = I.
        condition: condition of the measured correlation matrix.
        loading: share of the identity that was added to the correlations; 0 if they are well conditioned.

    """

    matrix: np.ndarray
    condition: float
    loading: float = 0.0


def noise_covariance(noise: np.ndarray, bandwidth: float = 1.0) -> np.ndarray:
    """Return Σ = (n − n̄)(n − n̄)ᴴ / (N − 1) of complex noise: (C, N) ↦ (C, C) complex128, Hermitian.

    Real and imaginary parts are not separate samples: this would lose the imaginary part of the correlations.

    Args:
        noise: (C, N) complex, without signal.
        bandwidth: receiver bandwidth of k-space over that of the noise (dwell time of the noise over that of k-space),
            by which the variance grows.

    Raises:
        InputError: not two axes, not complex, fewer than C + 1 samples, or NaN or infinite values.
        UsageError: a bandwidth that is not positive.

    """
    if noise.ndim != 2 or noise.dtype.kind != "c" or noise.shape[1] <= noise.shape[0]:
        raise InputError(
            "noise must be complex, (coil, samples), with more samples than coils",
            why=f"it is {noise.dtype} of shape {noise.shape}",
            fix="swap its axes, or do not whiten (--whiten none)",
        )
    if not np.isfinite(noise).all():
        raise InputError("the noise holds NaN or infinite values", fix="do not whiten (--whiten none)")
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise UsageError(f"a ratio of bandwidths cannot be {bandwidth:g}", fix="give a positive number")
    n = noise.astype(np.complex128)
    n = n - n.mean(axis=1, keepdims=True)
    return np.asarray(n @ n.conj().T / (n.shape[1] - 1) * bandwidth)


def whitening(covariance: np.ndarray, largest_condition: float = LARGEST_CONDITION) -> Whitening:
    """Return the matrix that whitens noise of a covariance (C, C): L⁻¹ of its Cholesky factor.

    The condition is that of the correlations, D^(-1/2) Σ D^(-1/2) with D the diagonal of Σ, so that one loud channel
    does not count as ill-conditioned. Above ``largest_condition``, the identity is added to the correlations until this
    condition is reached; see `Whitening.loading`.

    Raises:
        InputError: not Hermitian, a channel without noise, or channels that repeat each other.

    """
    variance = np.real(np.diagonal(covariance))
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or not np.isfinite(covariance).all():
        raise InputError("a noise covariance is a square matrix of numbers", why=f"its shape is {covariance.shape}")
    if np.abs(covariance - covariance.conj().T).max() > 1e-6 * np.abs(covariance).max():
        raise InputError("a noise covariance must be Hermitian", fix="compute it as n nᴴ / (N - 1) of complex noise")
    dead = np.flatnonzero(variance <= 1e-12 * variance.max()).tolist()
    if dead:
        raise InputError(
            f"coil {', '.join(map(str, dead))} has no noise and cannot be whitened",
            why="a channel without noise was not connected",
            fix="remove it from the data, or do not whiten (--whiten none)",
        )
    deviation = np.sqrt(variance)
    correlation = covariance / np.outer(deviation, deviation)
    values = np.linalg.eigvalsh(correlation)
    if values[0] <= _SINGULAR * values[-1]:
        raise InputError(
            "the noise covariance is singular: channels repeat each other",
            why=f"the smallest eigenvalue of the correlations is {values[0]:.2g}, the largest {values[-1]:.2g}",
            fix="remove the channels that repeat others, or do not whiten (--whiten none)",
        )
    condition = float(values[-1] / values[0])
    loading = 0.0
    if condition > largest_condition:
        # Solve (v_max + a) / (v_min + a) = largest_condition, then scale the diagonal to 1.
        added = float(values[-1] - largest_condition * values[0]) / (largest_condition - 1)
        loading = added / (1 + added)
        correlation = (correlation + added * np.eye(len(correlation))) / (1 + added)
    factor = np.linalg.cholesky(correlation) * deviation[:, None]
    return Whitening(np.linalg.inv(factor), condition, loading)


def mix_coils(data: np.ndarray, matrix: np.ndarray, axis: int = 0) -> np.ndarray:
    """Combine channels linearly to new channels, in the type of the data.

    Args:
        data: complex, C coils along ``axis``: k-space (C, *space), or with axis 1 maps (M, C, *space).
        matrix: (V, C).
        axis: axis of the coils.

    Returns:
        The same with V channels along ``axis``.

    Raises:
        InputError: another number of coils.

    """
    if data.shape[axis] != matrix.shape[1]:
        raise InputError(
            "the number of coils differs between data and matrix",
            why=f"{data.shape[axis]} of the data, {matrix.shape[1]} of the matrix",
        )
    mixed = np.tensordot(matrix.astype(data.dtype), data, axes=([1], [axis]))
    return np.ascontiguousarray(np.moveaxis(mixed, 0, axis))
