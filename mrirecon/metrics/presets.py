"""Score volumes exactly as other toolkits, so that the numbers can be compared.

SSIM and PSNR depend on choices that are often not stated: the pixels, the data range, and the scale of the images. A
preset is one set of these choices. All presets compute in float64; if a toolkit computes in float32, the numbers agree
to that precision. Real values keep their sign, except for mridc, which uses magnitudes; complex images are always
converted to magnitudes. Undefined values are None, with the reason.

=========  =======================  ===========================  ===============================  ===================
preset     images                   data range                   SSIM, PSNR, NMSE of              source
=========  =======================  ===========================  ===============================  ===================
fastmri    centre square, unscaled  maximum of the reference     the volume (SSIM: mean of        fastmri/evaluate.py
                                    volume                       slices)
calgary    divided by the maximum   largest − smallest value of  every slice                      Calgary-Campinas
           of the reference slice   both                                                          challenge (DIRECT)
atommic    unscaled                 the larger of both volumes'  the volume (SSIM: mean of        ATOMMIC 1.0
                                    spans; for SSIM at least 1   slices)
mridc      each slice's magnitude   1                            every slice                      mridc 0.2,
           by its maximum, both                                                                   --type all_slices
skimage    unscaled                 span of the reference slice  every slice                      scikit-image's
                                                                                                  defaults
=========  =======================  ===========================  ===============================  ===================

fastmri and atommic compute PSNR and NMSE of the whole volume, and SSIM as the mean over its slices. mridc can mask the
background, which is then zero and therefore equal in both images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import Array, magnitude, mean
from mrirecon.metrics.similarity import WINDOW, ssim

Preset = Literal["mrirecon", "fastmri", "calgary", "atommic", "mridc", "skimage"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
SIGNED = frozenset({"fastmri", "calgary", "atommic", "skimage"})  # presets in which real values keep their sign
Values = dict[str, float | None]
_METRICS = ("ssim", "psnr", "nmse", "mse")


Slices = Callable[[int], tuple[Tensor, Tensor]]  # returns a slice of the prediction and of the reference
Scale = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]]


@dataclass(frozen=True)
class VolumeScore:
    """Hold the scores of one volume with a preset.

    Attributes:
        volume: ssim, psnr, nmse and mse of the volume; None if undefined.
        slices: the same for each slice, if the preset defines them per slice.
        reasons: keys: metrics; values: why the volume's value is None, or in how many slices it is undefined.

    """

    volume: Values
    slices: list[Values]
    reasons: dict[str, str]


def score_volume(prediction: Array, reference: Array, preset: Preset, *, mask: Array | None = None) -> VolumeScore:
    """Score one volume with a preset, slice by slice to limit the memory.

    Args:
        prediction: (z, y, x); real values keep their sign if the preset is in `SIGNED`, else magnitudes are used.
        reference: (z, y, x), likewise.
        preset: name of the preset; not ``mrirecon``, for which see `mrirecon.metrics.scores`.
        mask: (z, y, x), for ``mridc`` only: both images are set to zero outside.

    Raises:
        InputError: the shapes differ, slices are smaller than SSIM's window, the preset is unknown, or does not support
            a mask.

    """
    if preset not in PRESETS[1:]:
        raise InputError(f"no preset {preset!r} for volumes", fix=f"choose one of {', '.join(PRESETS[1:])}")
    shape = tuple(reference.shape)
    if tuple(prediction.shape) != shape or len(shape) != 3 or min(shape[-2:]) < WINDOW:
        raise InputError(
            "the comparison needs two volumes (z, y, x) of one size",
            why=f"{tuple(prediction.shape)} and {shape}; SSIM needs {WINDOW}×{WINDOW} pixels",
        )
    if mask is not None and preset != "mridc":
        raise InputError(f"the preset {preset} does not support a mask", fix="omit --mask, or use the preset mridc")
    count, height, width = shape
    if preset == "fastmri" and height < width:  # their crop also fails
        return _undefined(f"slices of {height}×{width} are not square, as this preset requires", count)
    top = (height - width) // 2
    rows = slice(top, top + width) if preset == "fastmri" else slice(None)

    def slices(i: int) -> tuple[Tensor, Tensor]:
        x, r = (magnitude(v[i][rows], signed=preset in SIGNED).cpu() for v in (prediction, reference))
        if mask is None:
            return x, r
        inside = magnitude(mask[i]).cpu() > 0
        return x * inside, r * inside

    ranges = []
    for i in range(count):
        x, r = slices(i)
        for name, values in (("prediction", x), ("reference", r)):
            if not bool(torch.isfinite(values).all()):
                return _undefined(f"the {name} contains NaN or infinite values", count)
        ranges.append([[float(v.min()), float(v.max())] for v in (x, r)])
    if preset in _SCALES:
        return _score_slices(slices, count, _SCALES[preset])
    low, high = np.min(ranges, 0)[:, 0], np.max(ranges, 0)[:, 1]  # of the prediction and of the reference
    peak = float(high[1]) if preset == "fastmri" else float((high - low).max())
    return _score_whole(slices, count, peak, 1.0 if preset == "atommic" else 0.0)


def _score_whole(slices: Slices, count: int, peak: float, least: float) -> VolumeScore:
    """Score a volume as a whole, SSIM with a data range of at least ``least``."""
    if peak <= 0:
        return _undefined("the data range is not positive", count)
    rows: list[Values] = []
    errors, powers, pixels = [], [], 0
    for x, r in map(slices, range(count)):
        rows.append({"ssim": float(ssim(x, r, max(peak, least)))})
        errors.append(float((x - r).square().sum()))
        powers.append(float(r.square().sum()))
        pixels += r.numel()
    values, reasons = _errors(math.fsum(errors), math.fsum(powers), pixels, peak)
    return VolumeScore({"ssim": mean(row["ssim"] for row in rows), **values}, rows, reasons)


def _score_slices(slices: Slices, count: int, scale: Scale) -> VolumeScore:
    """Score every slice separately after scaling; the volume's scores are means."""
    rows: list[Values] = []
    all_reasons: dict[str, list[str]] = {}
    for one, reference in map(slices, range(count)):
        x, r, peak = scale(one, reference)
        faults = {
            "the reference is zero": not bool(reference.any()),
            "the largest value of the reference is zero": not bool(torch.isfinite(r).all()),
            "the prediction is zero": not bool(torch.isfinite(x).all()),
            "the reference is constant": peak <= 0,
        }
        fault = next((text for text, holds in faults.items() if holds), None)
        if fault is not None:
            values, reasons = dict.fromkeys(_METRICS), dict.fromkeys(_METRICS, fault)
        else:
            error, power = (float(v.square().sum()) for v in (x - r, r))
            values, reasons = _errors(error, power, r.numel(), peak)
            values["ssim"] = float(ssim(x, r, peak))
        rows.append(values)
        for name, text in reasons.items():
            all_reasons.setdefault(name, []).append(text)
    volume = {name: mean(row[name] for row in rows) for name in _METRICS}
    summary = {name: f"undefined in {len(texts)} of {count} slices: {texts[0]}" for name, texts in all_reasons.items()}
    return VolumeScore(volume, rows, summary)


def _calgary(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor, float]:
    x, r = x / r.max(), r / r.max()
    return x, r, max(float(x.max()), float(r.max())) - min(float(x.min()), float(r.min()))


# For presets that score every slice separately: both images as compared, and the data range.
_SCALES: dict[str, Scale] = {
    "calgary": _calgary,
    "mridc": lambda x, r: (x / x.max(), r / r.max(), 1.0),
    "skimage": lambda x, r: (x, r, float(r.max() - r.min())),
}


def _errors(error: float, power: float, pixels: int, peak: float) -> tuple[Values, dict[str, str]]:
    """Return PSNR, NMSE and MSE from sums of squares of difference and reference, with reasons if undefined."""
    mse, reasons = error / pixels, {}
    if not mse:
        reasons["psnr"] = "the images are equal: the PSNR is infinite"
    if not power:
        reasons["nmse"] = "the reference is zero"
    psnr = None if "psnr" in reasons else 10 * math.log10(peak**2 / mse)
    return {"psnr": psnr, "nmse": None if "nmse" in reasons else error / power, "mse": mse}, reasons


def _undefined(reason: str, count: int) -> VolumeScore:
    return VolumeScore(
        dict.fromkeys(_METRICS), [dict.fromkeys(_METRICS) for _ in range(count)], dict.fromkeys(_METRICS, reason)
    )
