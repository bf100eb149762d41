"""Coil compression: fewer virtual coils that keep most of the signal's energy.

Array compression by singular values: Buehrer et al., MRM 57:1131, 2007; Huang et al., MRI 26:133, 2008. With the
samples y of all coils as columns of Y = U S Vᴴ, the virtual coils are Uᴴ y, strongest first: Uᴴ, not Uᵀ, for
sensitivities are complex. Geometric coil compression (Zhang et al., MRM 69:571, 2013) does so at every place along the
fully sampled readout, where fewer suffice, and aligns the matrices of neighbouring places, so that virtual
sensitivities stay smooth. Rows are orthonormal either way: white noise stays white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrirecon.coils.whitening import mix_coils
from mrirecon.errors import SignalError, UsageError
from mrirecon.physics.fourier import to_image, to_kspace


@dataclass(frozen=True)
class Compression:
    """Matrices that combine C coils into V virtual ones.

    Attributes:
        matrices: (1 or n, V, C) complex128, rows orthonormal: one for all places, or one for each of the n places along
            the readout.
        energy: share of the samples' energy that V coils keep.
        axis: of the readout, counted from the end; 0 where there is one matrix.

    """

    matrices: np.ndarray
    energy: float
    axis: int = 0


def compression(
    kspace: np.ndarray, *, coils: int | None = None, energy: float | None = None, readout: int | None = None
) -> Compression:
    """Find the virtual coils of one item.

    Args:
        kspace: (C, *space) complex, centred, zero where not sampled; noise should be white.
        coils: how many virtual coils, 1 to C.
        energy: or the share of the energy to keep, in (0, 1]: as few coils as keep at least that much.
        readout: axis along which every line was sampled whole, counted from the end, for geometric compression; None
            for one matrix.

    Raises:
        UsageError: neither or both of ``coils`` and ``energy``, or out of range.
        SignalError: k-space holds nothing.

    """
    total = len(kspace)
    if (coils is None) == (energy is None):
        raise UsageError("coils are compressed to a number, or by the energy to keep: give one of them")
    if coils is not None and not 1 <= coils <= total:
        raise UsageError(
            f"{total} coils cannot become {coils}", fix=f"give 1 to {total}, or leave the coils as they are"
        )
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"a share of energy cannot be {energy:g}", fix="give a number in (0, 1], such as 0.95")
    grams = _grams(kspace, readout)
    values, vectors = np.linalg.eigh(grams)  # ascending
    strongest = np.maximum(values[:, ::-1], 0)
    kept = np.cumsum(strongest.sum(0)) / max(float(strongest.sum()), np.finfo(float).tiny)
    if strongest.sum() == 0:
        raise SignalError("there is no signal to compress coils by", fix="look with `mrirecon info FILE`")
    # The last of the sums is 1 but for rounding, and may miss an energy of 1 by that.
    wanted = coils if energy is None else min(total, int(np.searchsorted(kept, energy - 1e-12)) + 1)
    assert wanted is not None
    matrices = vectors[:, :, ::-1][:, :, :wanted].conj().swapaxes(1, 2)
    matrices = _aligned(matrices, int(strongest.sum(1).argmax()))
    return Compression(matrices, float(kept[wanted - 1]), 0 if readout is None else readout)


def compress(kspace: np.ndarray, how: Compression) -> np.ndarray:
    """Return k-space of the virtual coils: (C, *space) ↦ (V, *space).

    A region that is shorter along the readout than the data of the compression (separate calibration data) is
    interpolated to the same places.
    """
    if how.axis == 0:
        return mix_coils(kspace, how.matrices[0])
    places, size = len(how.matrices), kspace.shape[how.axis]
    start = places // 2 - size // 2
    lines = np.moveaxis(kspace, how.axis, 1)  # (C, readout, …)
    whole = np.zeros((len(lines), places, *lines.shape[2:]), lines.dtype)
    whole[:, start : start + size] = lines
    mixed = to_kspace(_mix_places(to_image(whole, (1,)), how.matrices), (1,))[:, start : start + size]
    return np.ascontiguousarray(np.moveaxis(mixed, 1, how.axis))


def compress_maps(maps: np.ndarray, how: Compression) -> np.ndarray:
    """Return the virtual coils' sensitivities: (M, C, *space) ↦ (M, V, *space)."""
    if how.axis == 0:
        return mix_coils(maps, how.matrices[0], axis=1)
    mixed = [_mix_places(np.moveaxis(one, how.axis, 1), how.matrices) for one in maps]
    return np.stack([np.moveaxis(one, 1, how.axis) for one in mixed])


def _mix_places(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return (V, n, …) from (C, n, …) with a matrix (V, C) of each of the n places."""
    coils, places = images.shape[:2]
    flat = images.reshape(coils, places, -1).swapaxes(0, 1)  # (n, C, …)
    mixed: np.ndarray = np.matmul(matrices.astype(images.dtype), flat).swapaxes(0, 1)
    return np.ascontiguousarray(mixed).reshape(matrices.shape[1], places, *images.shape[2:])


def _grams(kspace: np.ndarray, readout: int | None) -> np.ndarray:
    """Return Y Yᴴ (1, C, C) of samples scaled to a largest one of 1, or those of each place along the readout."""
    peak = float(np.abs(kspace).max()) or 1.0
    if readout is None:
        flat = (kspace / peak).reshape(1, len(kspace), -1)
    else:
        hybrid = np.moveaxis(to_image(kspace / peak, (readout,)), readout, 0)
        flat = hybrid.reshape(*hybrid.shape[:2], -1)
    return np.asarray(flat @ flat.conj().swapaxes(1, 2), dtype=np.complex128)


def _aligned(matrices: np.ndarray, first: int) -> np.ndarray:
    """Turn every matrix (V, C) to its neighbour, from place ``first`` outwards; the first has a phase of its own.

    min ‖P A − A'‖ over unitary P is P = U Vᴴ of A' Aᴴ = U S Vᴴ (orthogonal Procrustes): P A spans what A does.
    """
    out = matrices.copy()
    strongest = np.take_along_axis(out[first], np.abs(out[first]).argmax(1)[:, None], axis=1)
    out[first] *= strongest.conj() / np.abs(strongest)  # an eigenvector's own phase is arbitrary
    for places, step in ((range(first + 1, len(out)), 1), (range(first - 1, -1, -1), -1)):
        for place in places:
            u, _, v = np.linalg.svd(out[place - step] @ out[place].conj().T)
            out[place] = u @ v @ out[place]
    return out
