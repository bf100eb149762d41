"""Fill in the unmeasured side of partial Fourier k-space, using the symmetry of images with smooth phase.

k-space of a real image is Hermitian, K(-k) = K(k)*, so that half of it defines the image. Images are not real, but
their phase φ is mostly smooth, and can be estimated from the symmetric part of the measured k-space:

- POCS (Haacke, Lindskog and Lin, JMR 92:126, 1991; McGibbon et al., MRM 30:51, 1993) projects alternately onto images
  with this phase and onto images with the measured samples;
- homodyne (Noll, Nishimura and Macovski, IEEE TMI 10:154, 1991) weights k-space so that both halves count once, removes
  φ, and takes the real part.

Both work on the image of one coil, or better on the combined image after parallel imaging.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.masks.extent import Extent
from mrirecon.physics.fourier import along, spatial, to_image, to_kspace

_FEWEST = 4  # fewest samples on each side of the centre from which a phase can be estimated


def symmetry_error(image: np.ndarray, extents: Mapping[int, Extent], mask: np.ndarray) -> float:
    """Return the relative error of measured samples predicted by symmetry: ‖filled − measured‖ / ‖measured‖.

    The outermost third of the shorter side is hidden and filled in by POCS. Zeros have an error of 1. With a larger
    error, symmetry is harmful, because the phase varies fast (fat next to water, air next to tissue, flow) or is noise.

    Args:
        image: (*space) complex, as reconstructed.
        extents: sampled extent along every partial axis, by axis counted from the end.
        mask: (*space) bool, true where measured.

    """
    axes = spatial(mask.ndim)
    shorter = {axis: _shorter(e) for axis, e in extents.items()}
    hidden = mask.copy()
    hidden[_box(mask.ndim, {axis: slice(e.start, e.stop) for axis, e in shorter.items()})] = False
    truth = to_kspace(image, axes)[hidden]
    predicted = to_kspace(pocs(image, shorter), axes)[hidden]
    size = float(np.linalg.norm(truth))
    return float(np.linalg.norm(predicted - truth)) / size if size else 1.0


def measured_part(kspace: np.ndarray, extents: Mapping[int, Extent]) -> np.ndarray:
    """Set k-space (…, *space) to zero outside the sampled extent."""
    out = np.zeros_like(kspace)
    inside = _box(kspace.ndim, {axis: slice(e.start, e.stop) for axis, e in extents.items()})
    out[inside] = kspace[inside]
    return out


def smooth_phase(kspace: np.ndarray, extents: Mapping[int, Extent]) -> np.ndarray:
    """Return exp(iφ) of the symmetric part of k-space, (…, *space), with a Hann window along the partial axes.

    Raises:
        InputError: too few samples on one side of the centre.

    """
    window = np.ones([1] * kspace.ndim)
    for axis, extent in extents.items():
        if extent.reach < _FEWEST:
            raise InputError(
                "k-space is sampled on only one side of its centre: the phase is unknown",
                why=f"{extent.reach} samples on the shorter side, {_FEWEST} are needed",
                fix="use --partial-fourier zero",
            )
        away = np.abs(np.arange(extent.size) - extent.size // 2) / (extent.reach + 1)
        window = window * along(np.cos(np.pi / 2 * np.clip(away, 0, 1)) ** 2, axis, kspace.ndim)
    low = to_image((kspace * window).astype(kspace.dtype), tuple(extents))
    size = np.abs(low)
    tiny = np.finfo(size.dtype).tiny
    phase: np.ndarray = np.where(size > tiny, low / np.maximum(size, tiny), 1).astype(kspace.dtype)
    return phase


def pocs(
    image: np.ndarray, extents: Mapping[int, Extent], *, iterations: int = 30, tolerance: float = 1e-4
) -> np.ndarray:
    """Fill in k-space by projections onto convex sets: non-negative images with phase φ, images with measured samples.

    The result contains the measured samples. A smooth transition to the filled-in samples, often used against ringing,
    did not help on measured data (PSNR lower by 0.1 dB).

    Args:
        image: (…, *space) complex, of the measured part; samples outside the extent are ignored.
        extents: sampled extent along every partial axis, by axis counted from the end.
        iterations: largest number of iterations.
        tolerance: relative change of the image at which the iterations stop.

    Raises:
        UsageError: fewer than one iteration.
        InputError: see `smooth_phase`.

    """
    if iterations < 1:
        raise UsageError(f"POCS needs at least one iteration, not {iterations}")
    axes = tuple(extents)
    measured = measured_part(to_kspace(image, axes), extents)
    phase = smooth_phase(measured, extents)
    inside = _box(image.ndim, {axis: slice(e.start, e.stop) for axis, e in extents.items()})
    x = to_image(measured, axes)
    for _ in range(iterations):
        k = to_kspace(_of_phase(x, phase), axes)
        k[inside] = measured[inside]
        nearer = to_image(k, axes)
        change, size = np.linalg.norm(nearer - x), np.linalg.norm(nearer)
        x = nearer
        if change <= tolerance * size:
            break
    return x


def homodyne(image: np.ndarray, extents: Mapping[int, Extent]) -> np.ndarray:
    """Fill in k-space by homodyne detection: Re(F⁻¹(W K) e^{-iφ}) e^{iφ}.

    W is a ramp across the symmetric part: 1 at the centre, 2 at the measured side, 0 at the other side, so that
    W(k) + W(-k) = 2 everywhere. It needs one transform. If φ is wrong or noisy, the real part loses signal.

    Args:
        image: (…, *space) complex, of the measured part.
        extents: sampled extent along the only partial axis, by axis counted from the end.

    Raises:
        UsageError: two axes are partial; homodyne fills in only one.
        InputError: see `smooth_phase`.

    """
    if len(extents) != 1:
        raise UsageError(
            f"homodyne fills in only one axis, but {len(extents)} are partial", fix="use --partial-fourier pocs"
        )
    ((axis, extent),) = extents.items()
    measured = measured_part(to_kspace(image, (axis,)), extents)
    phase = smooth_phase(measured, extents)
    offset = (np.arange(extent.size) - extent.size // 2) / (extent.reach + 0.5)
    long_side = 1 if extent.stop - 1 - extent.size // 2 > extent.size // 2 - extent.start else -1
    ramp = along(1 + np.clip(long_side * offset, -1, 1), axis, image.ndim)
    if extent.size % 2 == 0 and extent.start == 0:
        # The first sample of an even matrix is its own partner.
        edge = [slice(None) if n > 1 else slice(0, 1) for n in ramp.shape]
        edge[axis] = slice(0, 1)
        ramp[tuple(edge)] = 1
    return _of_phase(to_image((measured * ramp).astype(image.dtype), (axis,)), phase, signed=True)


def _of_phase(x: np.ndarray, phase: np.ndarray, signed: bool = False) -> np.ndarray:
    """Project x onto images with the given phase; negative values are kept only if ``signed``."""
    real = (x * phase.conj()).real
    out: np.ndarray = (real if signed else np.maximum(real, 0)) * phase
    return out


def _shorter(extent: Extent) -> Extent:
    """Return the extent without the outermost third of its shorter side."""
    hide = max(1, extent.reach // 3)
    if extent.size // 2 - extent.start == extent.reach:
        return replace(extent, start=extent.start + hide)
    return replace(extent, stop=extent.stop - hide)


def _box(ndim: int, cuts: Mapping[int, slice]) -> tuple[slice, ...]:
    return tuple(cuts.get(axis - ndim, slice(None)) for axis in range(ndim))
