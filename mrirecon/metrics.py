"""Image quality: SSIM, PSNR and NMSE, and the one score that is used everywhere unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mrirecon.errors import InputError

_WINDOW, _K1, _K2 = 7, 0.01, 0.03


def ssim_map(image: Tensor, reference: Tensor, data_range: Tensor | float) -> Tensor:
    """Return the local SSIM, as scikit-image computes it by default.

    Wang et al., IEEE TIP 13:600, 2004; uniform 7×7 window, K = (0.01, 0.03), sample covariance.

    Args:
        image: (..., y, x) real.
        reference: the same shape.
        data_range: one value, or one for each image, shaped to broadcast with (..., 1, 1).

    Returns:
        (..., y − 6, x − 6): the places where the window fits.

    Raises:
        InputError: the shapes differ, or are smaller than the window.

    """
    _check(image, reference)
    lead = image.shape[:-2]
    a, b = image.flatten(0, -3) if lead else image[None], reference.flatten(0, -3) if lead else reference[None]
    # Moments about the local level of the reference: squares of large values would cost digits in their difference.
    level = b.mean((-2, -1), keepdim=True)
    a, b = a - level, b - level
    moments = torch.stack([a, b, a * a, b * b, a * b], 1)
    means = torch.nn.functional.avg_pool2d(moments, _WINDOW, stride=1)
    ma, mb, maa, mbb, mab = means.unbind(1)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    va, vb, cov = sample * (maa - ma * ma), sample * (mbb - mb * mb), sample * (mab - ma * mb)
    ma, mb = ma + level[..., 0], mb + level[..., 0]
    span = torch.as_tensor(data_range, dtype=image.dtype, device=image.device)
    if span.ndim:
        span = span.expand(*lead, 1, 1).reshape(-1, 1, 1)
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    local = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return local.reshape(*lead, *local.shape[-2:])


def ssim(image: Tensor, reference: Tensor, data_range: Tensor | float, region: Tensor | None = None) -> Tensor:
    """Return the mean SSIM of each image (...), over the pixels of ``region`` (..., y, x) or over all.

    Pixels closer than 3 to the edge do not count: the window does not fit there (scikit-image's convention).
    """
    local = ssim_map(image, reference, data_range)
    if region is None:
        return local.mean(dim=(-2, -1))
    edge = _WINDOW // 2
    inside = region[..., edge : region.shape[-2] - edge, edge : region.shape[-1] - edge].to(local.dtype)
    return (local * inside).sum((-2, -1)) / inside.sum((-2, -1))


def psnr(image: Tensor, reference: Tensor, data_range: Tensor | float, region: Tensor | None = None) -> Tensor:
    """Return 10 log₁₀(range² / mean squared error) in dB (...); infinite for equal images."""
    _check(image, reference)
    span = torch.as_tensor(data_range, dtype=image.dtype, device=image.device)
    span = span.reshape(span.shape[:-2]) if span.ndim else span
    return 10 * torch.log10(span**2 / _mean((image - reference) ** 2, region))


def nmse(image: Tensor, reference: Tensor, region: Tensor | None = None) -> Tensor:
    """Return ‖image − reference‖² / ‖reference‖² (...)."""
    _check(image, reference)
    return _mean((image - reference) ** 2, region) / _mean(reference**2, region)


def _mean(values: Tensor, region: Tensor | None) -> Tensor:
    if region is None:
        average: Tensor = values.mean(dim=(-2, -1))
        return average
    inside = region.to(values.dtype)
    return (values * inside).sum((-2, -1)) / inside.sum((-2, -1))


class Score(NamedTuple):
    """The score of one slice; None where it is undefined, and then ``note`` says why."""

    ssim: float | None
    psnr: float | None
    nmse: float | None
    scale: float | None
    note: str = ""


def object_region(reference: np.ndarray) -> np.ndarray:
    """Return where the object is (y, x): above 5 % of the 99.8th percentile, closed (2 pixels), holes filled."""
    above = reference > 0.05 * np.percentile(reference, 99.8)
    closed = ndimage.binary_closing(np.pad(above, 2), iterations=2)[2:-2, 2:-2]
    filled: np.ndarray = ndimage.binary_fill_holes(closed | above)
    return filled


def scores(image: np.ndarray, reference: np.ndarray) -> list[Score]:
    """Score magnitude images slice by slice: the definition that every table of this project uses.

    The image is scaled by the one factor that minimises ‖a·image − reference‖ inside the object (`object_region`).
    Inside the object then: the mean SSIM with the reference's maximum as data range (windows see the whole image; the
    3 pixels at the edge do not count), PSNR with the same range, NMSE. Computed in double precision.

    Args:
        image: (..., y, x), real or complex, of which the magnitude is taken.
        reference: the same shape.

    Returns:
        One score for each slice, in the order of the flattened leading axes.

    Raises:
        InputError: the shapes differ.

    """
    if image.shape != reference.shape:
        raise InputError(
            "image and reference differ in shape",
            why=f"{'×'.join(map(str, image.shape))} and {'×'.join(map(str, reference.shape))}",
            fix="compare images of the same slices and size",
        )
    size = reference.shape[-2:]
    pairs = zip(np.abs(image).reshape(-1, *size), np.abs(reference).reshape(-1, *size), strict=True)
    return [_score_slice(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]


def mean_score(found: Sequence[Score]) -> Score:
    """Return the mean over the slices of each metric, over those where it is defined; None where it never is."""

    def mean(name: str) -> float | None:
        values = [v for v in (getattr(one, name) for one in found) if v is not None]
        return float(np.mean(values)) if values else None

    undefined = sum(one.ssim is None or one.psnr is None or one.nmse is None for one in found)
    note = f"{undefined} of {len(found)} slices have an undefined metric" if undefined else ""
    return Score(mean("ssim"), mean("psnr"), mean("nmse"), mean("scale"), note)


def _score_slice(image: np.ndarray, reference: np.ndarray) -> Score:
    def undefined(why: str) -> Score:
        return Score(None, None, None, None, why)

    if not (np.isfinite(image).all() and np.isfinite(reference).all()):
        return undefined("values that are not numbers")
    if not reference.any():
        return undefined("the reference is zero")
    region = object_region(reference)
    if not region.any():
        return undefined("the reference shows no object")
    power = float((image[region] ** 2).sum())
    if power == 0:
        return undefined("the image is zero inside the object")
    scale = float((image[region] * reference[region]).sum()) / power
    a, b, where = torch.from_numpy(image * scale), torch.from_numpy(reference), torch.from_numpy(region)
    span = float(reference.max())
    edge = _WINDOW // 2
    fits = min(size for size in reference.shape) >= _WINDOW and bool(where[edge:-edge, edge:-edge].any())
    error = float(nmse(a, b, where))
    return Score(
        float(ssim(a, b, span, where)) if fits else None,
        float(psnr(a, b, span, where)) if error > 0 else None,
        error,
        scale,
        "" if fits and error > 0 else ("identical images: PSNR is infinite" if fits else "too small for SSIM"),
    )


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise InputError(
            "image and reference differ in shape", why=f"{tuple(image.shape)} and {tuple(reference.shape)}"
        )
    if min(image.shape[-2:]) < _WINDOW:
        raise InputError("the image is smaller than the SSIM window", why=f"{tuple(image.shape[-2:])} < {_WINDOW}")
