"""The metrics of others, digit by digit, so that a figure here can be held against a figure there.

SSIM and PSNR are one formula each with several unspoken choices: over which pixels, with which data range, of images
scaled how. A preset is one set of these choices. All compute in float64; where others compute in the files' float32,
figures agree to its precision. Real values count as they are, negative ones included, except for mridc, which takes
magnitudes; of complex images, all take magnitudes. What is undefined is None, with the reason.

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

Of fastmri and atommic, values that belong to a volume as a whole (PSNR, NMSE) are given once; their SSIM slice by slice
is what the mean over the volume is made of. mridc can mask the background, which is then zero in both images, and so
counts as equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.metrics.arrays import Array, magnitude
from mrirecon.metrics.similarity import WINDOW, ssim

Preset = Literal["mrirecon", "fastmri", "calgary", "atommic", "mridc", "skimage"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
SIGNED = frozenset({"fastmri", "calgary", "atommic", "skimage"})  # presets that take real values as they are
Values = dict[str, float | None]


@dataclass(frozen=True)
class VolumeScore:
    """What a preset says of one volume.

    Attributes:
        volume: ssim, psnr, nmse, mse of the volume; None where undefined.
        slices: the same of each slice, as far as the preset defines them slice by slice.
        reasons: by name, why a value of the volume is None, or in how many slices one is.

    """

    volume: Values
    slices: list[Values]
    reasons: dict[str, str]


def score_volume(prediction: Array, reference: Array, preset: Preset, *, mask: Array | None = None) -> VolumeScore:
    """Score one volume as others do.

    Args:
        prediction: (z, y, x); real values as they are where the preset is one of `SIGNED`, else magnitudes.
        reference: (z, y, x), likewise.
        preset: whose choices; not ``mrirecon``, for which see `mrirecon.metrics.scores`.
        mask: (z, y, x), for ``mridc`` alone: what lies outside becomes zero in both.

    Raises:
        InputError: shapes that differ, slices smaller than SSIM's window, no such preset, a mask for another preset.

    """
    if preset not in _SCORERS:
        raise InputError(f"there is no preset {preset!r} for volumes", fix=f"choose one of {', '.join(_SCORERS)}")
    shape = tuple(reference.shape)
    if tuple(prediction.shape) != shape or len(shape) != 3 or min(shape[-2:]) < WINDOW:
        raise InputError(
            "two volumes (z, y, x) of one size are compared",
            why=f"{tuple(prediction.shape)} and {shape}; SSIM looks at {WINDOW}×{WINDOW} pixels",
        )
    if mask is not None and preset != "mridc":
        raise InputError(f"the preset {preset} has no mask", fix="leave --mask out, or use the preset mridc")
    x, r = (_Slices(v, mask, signed=preset in SIGNED) for v in (prediction, reference))
    for name, values in (("prediction", x), ("reference", r)):
        if not all(bool(torch.isfinite(v).all()) for v in values):
            return _undefined(f"the {name} holds values that are not numbers", len(x))
    return _SCORERS[preset](x, r)


@dataclass(frozen=True)
class _Slices:
    """Slices of a volume in float64, one at a time: a volume of any size takes no more memory."""

    values: Array
    mask: Array | None = None
    signed: bool = False  # real values as they are; else their magnitudes
    first: int = 0  # of the rows that count
    last: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self.values)):
            rows = self.values[i][self.first : self.last]
            one = (_real if self.signed else magnitude)(rows).cpu()
            yield one if self.mask is None else one * (magnitude(self.mask[i][self.first : self.last]).cpu() > 0)

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest value of the volume."""
        ends = [(float(v.min()), float(v.max())) for v in self]
        return min(low for low, _ in ends), max(high for _, high in ends)


def otsu_hull(reference: Array) -> np.ndarray:
    """Return mridc's --mask_background (z, y, x): the convex hull of what exceeds Otsu's threshold, slice by slice."""
    from skimage.filters import threshold_otsu
    from skimage.morphology import convex_hull_image

    volume = magnitude(reference).numpy()
    out = np.zeros(volume.shape, dtype=bool)
    for i, r in enumerate(volume):
        if r.max() > r.min():
            out[i] = convex_hull_image(r > threshold_otsu(r))  # type: ignore[no-untyped-call]
    return out


def _fastmri(x: _Slices, r: _Slices) -> VolumeScore:
    height, side = r.values.shape[-2:]
    if height < side:
        # their crop refuses it too
        return _undefined(f"slices of {height}×{side} are not as high as wide, which this preset needs", len(x))
    top = (height - side) // 2
    x, r = (replace(v, first=top, last=top + side) for v in (x, r))
    return _of_volume(x, r, r.span[1])


def _atommic(x: _Slices, r: _Slices) -> VolumeScore:
    spans = [high - low for low, high in (x.span, r.span)]
    return _of_volume(x, r, max(spans), least=1.0)


def _of_volume(x: _Slices, r: _Slices, peak: float, least: float = 0.0) -> VolumeScore:
    if peak <= 0:
        return _undefined("the data range is not positive", len(x))
    reasons: dict[str, str] = {}
    slices: list[Values] = []
    errors, powers, pixels = [], [], 0
    for a, b in zip(x, r, strict=True):
        slices.append({"ssim": float(ssim(a, b, max(peak, least)))})
        errors.append(float((a - b).square().sum()))
        powers.append(float(b.square().sum()))
        pixels += b.numel()
    found = _errors(math.fsum(errors), math.fsum(powers), pixels, peak, reasons)
    return VolumeScore({"ssim": _mean([s["ssim"] for s in slices]), **found}, slices, reasons)


def _calgary(x: _Slices, r: _Slices) -> VolumeScore:
    def scaled(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, float]:
        a, b = a / b.max(), b / b.max()
        return a, b, max(float(a.max()), float(b.max())) - min(float(a.min()), float(b.min()))

    return _of_slices(x, r, scaled)


def _mridc(x: _Slices, r: _Slices) -> VolumeScore:
    return _of_slices(x, r, lambda a, b: (a / a.max(), b / b.max(), 1.0))


def _skimage(x: _Slices, r: _Slices) -> VolumeScore:
    return _of_slices(x, r, lambda a, b: (a, b, _span(b)))


def _of_slices(x: _Slices, r: _Slices, scaled: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]]) -> VolumeScore:
    slices: list[Values] = []
    why: dict[str, list[str]] = {}
    for one, reference in zip(x, r, strict=True):
        reasons: dict[str, str] = {}
        a, b, peak = scaled(one, reference)
        if not bool(reference.any()):
            values, reasons = _nothing("the reference is zero")
        elif not bool(torch.isfinite(b).all()):
            values, reasons = _nothing("the largest value of the reference is zero")
        elif not bool(torch.isfinite(a).all()):
            values, reasons = _nothing("the prediction is zero")
        elif peak <= 0:
            values, reasons = _nothing("the reference is constant")
        else:
            values = {"ssim": float(ssim(a, b, peak))}
            errors, power = (float(v.square().sum()) for v in (a - b, b))
            values |= _errors(errors, power, b.numel(), peak, reasons)
        slices.append(values)
        for name, text in reasons.items():
            why.setdefault(name, []).append(text)
    volume = {name: _mean([s[name] for s in slices]) for name in ("ssim", "psnr", "nmse", "mse")}
    told = {name: f"undefined in {len(texts)} of {len(slices)} slices: {texts[0]}" for name, texts in why.items()}
    return VolumeScore(volume, slices, told)


def _errors(error: float, power: float, pixels: int, peak: float, reasons: dict[str, str]) -> Values:
    """Return what follows from the sums of squares of the difference and of the reference."""
    mse = error / pixels
    out: Values = {"psnr": None, "nmse": None, "mse": mse}
    if mse > 0:
        out["psnr"] = 10 * math.log10(peak**2 / mse)
    else:
        reasons["psnr"] = "the images are equal: the PSNR is infinite"
    if power > 0:
        out["nmse"] = error / power
    else:
        reasons["nmse"] = "the reference is zero"
    return out


def _undefined(reason: str, count: int) -> VolumeScore:
    values, reasons = _nothing(reason)
    return VolumeScore(values, [dict(values) for _ in range(count)], reasons)


def _nothing(reason: str) -> tuple[Values, dict[str, str]]:
    names = ("ssim", "psnr", "nmse", "mse")
    return dict.fromkeys(names), dict.fromkeys(names, reason)


def _real(values: Array) -> Tensor:
    """Return real values as they are in float64, and the magnitude of complex ones."""
    if np.iscomplexobj(values) if isinstance(values, np.ndarray) else values.is_complex():
        return magnitude(values)
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values.astype(np.float64))
    return values.detach().to(torch.float64)


def _span(values: Tensor) -> float:
    return float(values.max() - values.min())


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return math.fsum(defined) / len(defined) if defined else None


_SCORERS: dict[str, Callable[[_Slices, _Slices], VolumeScore]] = {
    "fastmri": _fastmri,
    "calgary": _calgary,
    "atommic": _atommic,
    "mridc": _mridc,
    "skimage": _skimage,
}
