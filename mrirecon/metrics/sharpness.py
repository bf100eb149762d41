"""Compute HFEN and GMSD, metrics of edges and fine structure, with exact definitions.

Both use magnitudes in float64, slice by slice. The values depend on the kernels, their sizes and the borders.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import Array, magnitude
from mrirecon.metrics.registry import register_metric

LOG_SIDE, LOG_SIGMA = 15, 1.5
GMSD_CONSTANT = 170 / 255**2  # the paper's c for 8 bits, at unit range


@register_metric(
    rank=5,
    label="HFEN",
    about="relative error of edges and fine structure, after a Laplacian of Gaussian (Ravishankar and Bresler, 2011); "
    "0 for equal images",
)
def hfen(image: Array, reference: Array) -> Tensor:
    """Return the high-frequency error norm of each slice (...): ‖L x − L r‖ / ‖L r‖, 0 for equal images.

    L is the convolution with the Laplacian of a Gaussian of standard deviation 1.5 pixels, on 15 × 15 pixels and with
    zero sum; images are padded with zeros. Ravishankar and Bresler, IEEE TMI 30:1028, 2011, define the numerator; we
    divide it by the same norm of the reference.

    Args:
        image: (..., y, x).
        reference: (..., y, x).

    Raises:
        InputError: the shapes differ, or a slice of the reference has no edges.

    """
    x, r = _pair(image, reference)
    kernel = laplacian_of_gaussian()
    error, edges = (_filtered(v, kernel).square().sum((-2, -1)).sqrt() for v in (x - r, r))
    if not bool((edges > 0).all()):
        raise InputError("the HFEN against a reference without edges is undefined", fix="exclude empty slices")
    return error / edges


def laplacian_of_gaussian() -> Tensor:
    """Return the kernel (15, 15): h·(x² + y² − 2σ²)/σ⁴ minus its mean, with a Gaussian h of sum 1."""
    sigma, position = LOG_SIGMA, np.arange(LOG_SIDE) - (LOG_SIDE - 1) / 2
    square = position[:, None] ** 2 + position[None, :] ** 2
    h = np.exp(-square / (2 * sigma**2))
    kernel = h / h.sum() * (square - 2 * sigma**2) / sigma**4
    return torch.from_numpy(kernel - kernel.mean())


@register_metric(
    rank=6, label="GMSD", about="standard deviation of the gradient similarity (Xue et al., 2014); 0 for equal images"
)
def gmsd(image: Array, reference: Array) -> Tensor:
    """Return the gradient magnitude similarity deviation of each slice (...): 0 for equal images, larger is worse.

    Xue, Zhang, Mou and Bovik, IEEE TIP 23:684, 2014: both images are divided by the maximum of the reference and
    averaged over blocks of 2 × 2 pixels; g and h are the magnitudes of their Prewitt gradients (weights of 1/3). The
    result is the standard deviation of (2 g h + c) / (g² + h² + c) over the slice, with the paper's c.

    Args:
        image: (..., y, x).
        reference: (..., y, x).

    Raises:
        InputError: the shapes differ, or a slice of the reference is zero.

    """
    x, r = _pair(image, reference)
    peak = r.amax((-2, -1), keepdim=True)
    if not bool((peak > 0).all()):
        raise InputError("the GMSD against a zero reference is undefined", fix="exclude empty slices")
    g, h = (_gradient(v / peak) for v in (x, r))
    similarity = (2 * g * h + GMSD_CONSTANT) / (g.square() + h.square() + GMSD_CONSTANT)
    return similarity.flatten(-2).std(-1, correction=0)


def _gradient(values: Tensor) -> Tensor:
    flat = functional.avg_pool2d(values.reshape(-1, 1, *values.shape[-2:]), 2)
    across = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=values.dtype) / 3
    kernels = torch.stack([across, across.T])[:, None]
    gradient = functional.conv2d(flat, kernels, padding=1).square().sum(1).sqrt()
    return gradient.reshape(*values.shape[:-2], *gradient.shape[-2:])


def _filtered(values: Tensor, kernel: Tensor) -> Tensor:
    """Return the convolution of zero-padded images with a symmetric kernel of odd size, by FFT."""
    reach = kernel.shape[-1] // 2
    ny, nx = values.shape[-2:]
    size = (next_fast_len(ny + 2 * reach, real=True), next_fast_len(nx + 2 * reach, real=True))
    out = torch.fft.irfft2(torch.fft.rfft2(values, size) * torch.fft.rfft2(kernel, size), size)
    inner: Tensor = out[..., reach : reach + ny, reach : reach + nx]
    return inner


def _pair(image: Array, reference: Array) -> tuple[Tensor, Tensor]:
    x, r = magnitude(image), magnitude(reference)
    if x.shape != r.shape or x.ndim < 2 or min(x.shape[-2:]) < 4:
        raise InputError(
            "the image and the reference must have one shape (..., y, x) of at least 4×4 pixels",
            why=f"{tuple(x.shape)} and {tuple(r.shape)}",
            fix="compare images of the same scan, at the same size",
        )
    return x, r
