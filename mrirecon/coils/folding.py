"""Whether one set of coil maps explains the calibration data, or the object exceeds the field of view.

Where an object folds onto itself, two places share a voxel, and the coil images there span two directions instead of
one. ESPIRiT's operator H(r) (see `mrirecon.coils.espirit`) then has a second eigenvalue near one, and the calibration
images have energy along its eigenvector. Both are asked for: noise and the edges of a small region give the second
direction some energy, but no eigenvalue near one; noise that is taken for signal lifts all eigenvalues, but puts no
more energy into the second direction than into the third.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrirecon.coils.eigen import eigenvectors
from mrirecon.coils.espirit import PRIOR_POWER, fourier_series, kernel_taps
from mrirecon.coils.walsh import low_resolution

# Of the energy. Measured scans whose field of view is large enough reach 0.00005 (calibration regions of 12 to 24
# samples, as measured and with noise added down to SNR 5), and a simulated head as wide as its field of view 0.0003,
# where a second set does no harm; the same, with every second line left out, 0.0006 to 0.02 (SNR 15 or more, regions of
# 24 × 12 samples or more). 12 × 12 samples are too few for a kernel of 6 to tell.
SECOND_SET_SHARE = 0.0001
_MARGIN = (
    1.5  # between the largest power of noise and what is taken for signal: noise of neighbouring coils is correlated
)


def second_set_share(
    calibration: Tensor, *, noise: Tensor | None = None, kernel: int = 6, threshold: float = 0.02
) -> Tensor:
    """Return what share (B,) of the energy of the calibration images only a second set of maps explains.

    It is Σ λ₂⁸ |⟨v₂, m⟩|² − λ₃⁸ |⟨v₃, m⟩|² over Σ |m|², with eigenpairs λ, v of H and low-resolution coil images m, and
    weights as those of the sets in a reconstruction. Two coils span no third direction to compare with: 0.

    Args:
        calibration: (B, C, *box) complex, the fully sampled centre of k-space.
        noise: (B, C) standard deviation of the complex noise of each coil; None where it is not known.
        kernel: side of the k-space kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.

    """
    shares = torch.zeros(len(calibration))
    if calibration.shape[1] < 3:
        return shares
    for number, item in enumerate(calibration.unbind(0)):
        scale = float(item.abs().max())
        floor = 0.0 if noise is None else _MARGIN * noise_power(noise[number] / scale, tuple(item.shape[1:]), kernel)
        shares[number] = _second_set_share(item / scale, kernel, threshold, floor)
    return shares


def _second_set_share(calibration: Tensor, kernel: int, threshold: float, floor: float) -> float:
    box = tuple(calibration.shape[1:])
    h = fourier_series(kernel_taps(calibration, kernel, threshold, floor), box)
    values, vectors = eigenvectors(h, 3)
    images = low_resolution(calibration, box)
    along = (vectors.conj() * images).sum(1).abs().square() * values[:3].clamp(0, 1) ** PRIOR_POWER
    energy = along.flatten(1).sum(1) / images.abs().square().sum()
    return float(energy[1] - energy[2])


def noise_power(deviation: Tensor, box: tuple[int, ...], kernel: int) -> float:
    """Return the largest squared singular value that the calibration matrix of noise alone has.

    That of a matrix of P rows and Q columns of independent noise is σ² (√P + √Q)² (Marčenko and Pastur, Math. USSR Sb.
    1:457, 1967). The rows here are patches that overlap; measured, it is within 9 % of that (2 to 32 coils, regions of
    8 to 32 samples). Where one coil is louder than the others, the matrix of that coil alone is compared as well.

    Args:
        deviation: (C,) standard deviation of the complex noise of each coil.
        box: size of the calibration region.
        kernel: side of the kernel.

    """
    power = deviation.double().square()
    rows, columns = math.prod(n - kernel + 1 for n in box), kernel ** len(box)

    def largest(coils: int) -> float:
        return (math.sqrt(rows) + math.sqrt(coils * columns)) ** 2

    return max(largest(len(power)) * float(power.mean()), largest(1) * float(power.max()))
