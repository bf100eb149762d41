"""Score images by SSIM, PSNR and NMSE inside the object after a least-squares scale (mrirecon's own definition).

The score of a slice, for a reference r and an image x, both as magnitudes in float64:

1. object: r > 5 % of its 99.8th percentile, closed by 2 pixels, holes filled (`object_mask`);
2. scale: one factor s = ⟨x, r⟩ / ⟨x, x⟩ over the object, then x ← s·x (`least_squares_scale`);
3. SSIM: the map as scikit-image computes it (7×7 uniform window, K₁ = 0.01, K₂ = 0.03, sample covariance, data range
   the maximum of r) of the whole images, without zeroing, averaged over the object without the 3 pixels at the border;
4. PSNR (dB, the same range) and NMSE = ‖x − r‖² / ‖r‖² over the object.

A volume (z, y, x) is scored slice by slice along z. Undefined values are None, with the reason; never NaN or infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import Array, average, magnitude, mean, require_same_shape
from mrirecon.metrics.error import nmse
from mrirecon.metrics.registry import score_metrics
from mrirecon.metrics.similarity import WINDOW, ssim


def object_mask(reference: Array) -> Tensor:
    """Return the mask (..., y, x) of the object: pixels whose magnitude exceeds 5 % of the 99.8th percentile.

    Computed slice by slice, then closed by 2 pixels (a cross, twice), with holes filled. All false if the reference is
    zero.
    """
    values = magnitude(reference)
    slices = values.reshape(-1, *values.shape[-2:]).cpu().numpy()
    masks = np.empty(slices.shape, dtype=bool)
    for i, r in enumerate(slices):
        inside = r > 0.05 * np.percentile(r, 99.8)
        # Closing extends 2 pixels outside; without padding, it would erode an object at the edge of the image.
        closed = ndimage.binary_closing(np.pad(inside, 2), iterations=2)[2:-2, 2:-2]
        masks[i] = ndimage.binary_fill_holes(inside | closed)
    return torch.from_numpy(masks).reshape(values.shape).to(values.device)


def least_squares_scale(image: Array, reference: Array, region: Array) -> Tensor:
    """Return the s that minimizes ‖s·image − reference‖ over the region, for each image (...); 0 for a zero image.

    Args:
        image: (..., y, x), of which the magnitude is used.
        reference: (..., y, x), of which the magnitude is used.
        region: (..., y, x) booleans.

    """
    x, r = magnitude(image), magnitude(reference)
    require_same_shape(x, r)
    inside = (region if isinstance(region, Tensor) else torch.from_numpy(region.copy())).to(x.device)
    # Divide by the maximum first, because squares of tiny values would underflow.
    peak = (x * inside).amax((-2, -1))
    unit = x / torch.where(peak > 0, peak, 1.0)[..., None, None] * inside
    power = unit.square().sum((-2, -1))
    return torch.where(power > 0, (unit * r).sum((-2, -1)) / (power * peak), 0.0)


@dataclass(frozen=True)
class Score:
    """Hold the score of a slice or a volume; see the module's docstring.

    Attributes:
        ssim: mean structural similarity inside the object.
        psnr: peak signal-to-noise ratio in dB.
        nmse: normalized squared error.
        scale: factor by which the image was multiplied.
        reasons: keys: metrics; values: why the value is None, or how many slices the mean excludes.

    """

    ssim: float | None
    psnr: float | None
    nmse: float | None
    scale: float | None
    reasons: dict[str, str] = field(default_factory=dict)


def score(image: Array, reference: Array) -> Score:
    """Score one image, or a volume by the mean over its slices; see the module's docstring.

    Args:
        image: (y, x) or (z, y, x), real or complex.
        reference: the same shape.

    Raises:
        InputError: the shapes differ, or an axis has fewer than 7 pixels.

    """
    slices = scores(image, reference)
    return slices[0] if image.ndim == 2 else mean_score(slices)


def scores(images: Array, reference: Array, *, region: Array | None = None) -> list[Score]:
    """Score every slice of (..., y, x), in the order of the leading axes.

    Args:
        images: (..., y, x), real or complex.
        reference: the same shape.
        region: the same shape, booleans: evaluated pixels instead of the object.

    Raises:
        InputError: see `score`.

    """
    require_same_shape(images, reference)
    if len(images.shape) < 2 or min(images.shape[-2:]) < WINDOW:
        raise InputError(
            f"images of shape {tuple(images.shape)} cannot be scored",
            why=f"SSIM needs {WINDOW}×{WINDOW} pixels",
            fix=f"give (..., y, x) with at least {WINDOW} pixels along y and x",
        )
    if region is not None:
        require_same_shape(region, reference)
    results = []
    # Slice by slice, to limit the memory of float64.
    for index in np.ndindex(*images.shape[:-2]):
        # On the CPU, because not every accelerator supports float64.
        x, r = (magnitude(a[index].cpu() if isinstance(a, Tensor) else a[index]) for a in (images, reference))
        inside = None if region is None else magnitude(region[index]).cpu() > 0
        results.append(_score(x, r, inside))
    return results


def _score(x: Tensor, r: Tensor, region: Tensor | None = None) -> Score:
    for name, values in (("image", x), ("reference", r)):
        if not bool(torch.isfinite(values).all()):
            return _undefined(f"the {name} contains NaN or infinite values")
    peak = float(r.amax())
    if peak == 0:
        return _undefined("the reference is zero")
    # At unit range, so that squares do not underflow or overflow.
    r = r / peak
    region = object_mask(r) if region is None else region
    if not bool((region & (r > 0)).any()):
        return _undefined("the reference is zero in the region")
    scale = float(least_squares_scale(x, r, region))
    if not math.isfinite(scale):
        return _undefined("the image is too faint to be scaled")
    x = x * scale
    reasons = {}
    similarity = noise = None
    edge = WINDOW // 2
    if bool(region[edge:-edge, edge:-edge].any()):
        similarity = float(ssim(x, r, 1.0, region=region))
    else:
        reasons["ssim"] = f"the region lies within {edge} pixels of the border"
    error = float(average((x - r).square(), region))
    if error > (4 * torch.finfo(torch.float64).eps) ** 2:
        noise = -10 * math.log10(error)
    else:
        reasons["psnr"] = "the images are equal: the PSNR is infinite"
    return Score(similarity, noise, float(nmse(x, r, region=region)), scale * peak, reasons)


def _undefined(reason: str) -> Score:
    return Score(None, None, None, None, dict.fromkeys((*score_metrics(), "scale"), reason))


def mean_score(slices: Sequence[Score]) -> Score:
    """Return the mean of each metric over the slices in which it is defined; `reasons` counts the others."""
    means, reasons = {}, {}
    for name in (*score_metrics(), "scale"):
        values = [getattr(s, name) for s in slices]
        means[name] = mean(values)
        lost = values.count(None)
        if lost:
            first = slices[values.index(None)].reasons[name]
            reasons[name] = f"undefined in {lost} of {len(values)} slices: {first}"
    return Score(**means, reasons=reasons)
