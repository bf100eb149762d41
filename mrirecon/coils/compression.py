"""Compress coils to fewer virtual coils that keep most of the signal energy.

Array compression by singular values: Buehrer et al., MRM 57:1131, 2007; Huang et al., MRI 26:133, 2008. With the
samples y of all coils as columns of Y = U S Vᴴ, the virtual coils are Uᴴ y, strongest first (Uᴴ, not Uᵀ, because
sensitivities are complex). Geometric coil compression (Zhang et al., MRM 69:571, 2013) does this at every position
along the fully sampled readout, where fewer virtual coils are sufficient, and aligns the matrices of neighbouring
positions, so that virtual sensitivities are smooth. In both cases rows are orthonormal, so white noise stays white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrirecon.coils.whitening import mix_coils
from mrirecon.errors import SignalError, UsageError
from mrirecon.physics.fourier import to_image, to_kspace


@dataclass(frozen=True)
class Compression:
    """Hold matrices that combine C coils to V virtual coils.

    Attributes:
        matrices: (1 or n, V, C) complex128, rows orthonormal: one for all positions, or one for each of the n positions
            along the readout.
        energy: share of the energy of the samples that V coils keep.
        axis: axis of the readout, counted from the end; 0 if there is one matrix.

    """

    matrices: np.ndarray
    energy: float
    axis: int = 0


def compression(
    kspace: np.ndarray, *, coils: int | None = None, energy: float | None = None, readout: int | None = None
) -> Compression:
    """Compute the virtual coils of one item.

    Args:
        kspace: (C, *space) complex, centred, zero where not sampled; noise should be white.
        coils: number of virtual coils, 1 to C.
        energy: share of the energy to keep, in (0, 1], instead of the number: as few coils as possible are used.
        readout: fully sampled axis, counted from the end, for geometric compression; None for one matrix.

    Raises:
        UsageError: neither or both of ``coils`` and ``energy``, or out of range.
        SignalError: k-space is zero.

    """
    total = len(kspace)
    if (coils is None) == (energy is None):
        raise UsageError("coils are compressed to a number, or by the energy to keep: give one of them")
    if coils is not None and not 1 <= coils <= total:
        raise UsageError(f"{total} coils cannot be compressed to {coils}", fix=f"give 1 to {total}, or do not compress")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"a share of energy cannot be {energy:g}", fix="give a number in (0, 1], such as 0.95")
    grams = _grams(kspace, readout)
    values, vectors = np.linalg.eigh(grams)  # in ascending order
    strongest = np.maximum(values[:, ::-1], 0)
    cumulative = np.cumsum(strongest.sum(0)) / max(float(strongest.sum()), np.finfo(float).tiny)
    if strongest.sum() == 0:
        raise SignalError("coils cannot be compressed without signal", fix="check the data with `mrirecon info FILE`")
    # The last of the sums is 1 up to rounding, and may be slightly below an energy of 1.
    number = coils if energy is None else min(total, int(np.searchsorted(cumulative, energy - 1e-12)) + 1)
    assert number is not None
    matrices = vectors[:, :, ::-1][:, :, :number].conj().swapaxes(1, 2)
    matrices = _aligned(matrices, int(strongest.sum(1).argmax()))
    return Compression(matrices, float(cumulative[number - 1]), 0 if readout is None else readout)


def compress(kspace: np.ndarray, how: Compression) -> np.ndarray:
    """Compute k-space of the virtual coils: (C, *space) ↦ (V, *space).

    If the data are shorter along the readout than those of the compression (separate calibration data), they are
    interpolated to the same positions.
    """
    if how.axis == 0:
        return mix_coils(kspace, how.matrices[0])
    positions, size = len(how.matrices), kspace.shape[how.axis]
    start = positions // 2 - size // 2
    lines = np.moveaxis(kspace, how.axis, 1)  # (C, readout, …)
    whole = np.zeros((len(lines), positions, *lines.shape[2:]), lines.dtype)
    whole[:, start : start + size] = lines
    mixed = to_kspace(_mix_places(to_image(whole, (1,)), how.matrices), (1,))[:, start : start + size]
    return np.ascontiguousarray(np.moveaxis(mixed, 1, how.axis))


def compress_maps(maps: np.ndarray, how: Compression) -> np.ndarray:
    """Compute the sensitivities of the virtual coils: (M, C, *space) ↦ (M, V, *space)."""
    if how.axis == 0:
        return mix_coils(maps, how.matrices[0], axis=1)
    mixed = [_mix_places(np.moveaxis(map_set, how.axis, 1), how.matrices) for map_set in maps]
    return np.stack([np.moveaxis(map_set, 1, how.axis) for map_set in mixed])


def _mix_places(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Combine coils, (C, n, …) ↦ (V, n, …), with one matrix (V, C) for each of the n positions."""
    coils, positions = images.shape[:2]
    flat = images.reshape(coils, positions, -1).swapaxes(0, 1)  # (n, C, …)
    mixed: np.ndarray = np.matmul(matrices.astype(images.dtype), flat).swapaxes(0, 1)
    return np.ascontiguousarray(mixed).reshape(matrices.shape[1], positions, *images.shape[2:])


def _grams(kspace: np.ndarray, readout: int | None) -> np.ndarray:
    """Return Y Yᴴ of samples scaled to maximum 1: one (1, C, C), or one for each position along the readout."""
    peak = float(np.abs(kspace).max()) or 1.0
    if readout is None:
        flat = (kspace / peak).reshape(1, len(kspace), -1)
    else:
        hybrid = np.moveaxis(to_image(kspace / peak, (readout,)), readout, 0)
        flat = hybrid.reshape(*hybrid.shape[:2], -1)
    return np.asarray(flat @ flat.conj().swapaxes(1, 2), dtype=np.complex128)


def _aligned(matrices: np.ndarray, first: int) -> np.ndarray:
    """Align every matrix (V, C) with its neighbour, from position ``first`` outwards.

    The unitary P that minimizes ‖P A − A'‖ is P = U Vᴴ with A' Aᴴ = U S Vᴴ (orthogonal Procrustes). P A and A span the
    same space.
    """
    out = matrices.copy()
    strongest = np.take_along_axis(out[first], np.abs(out[first]).argmax(1)[:, None], axis=1)
    out[first] *= strongest.conj() / np.abs(strongest)  # fix the arbitrary phase of the eigenvectors
    for positions, step in ((range(first + 1, len(out)), 1), (range(first - 1, -1, -1), -1)):
        for position in positions:
            u, _, v = np.linalg.svd(out[position - step] @ out[position].conj().T)
            out[position] = u @ v @ out[position]
    return out
