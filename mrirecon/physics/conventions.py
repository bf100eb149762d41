"""Define the scales and Fourier transforms of other toolkits, in whose units weights were trained there.

A network is not homogeneous in general: it must see an image in the unit and with the phase of its training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mrirecon.physics.operators import Fourier, per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.scale import percentile_scale
from mrirecon.physics.transforms import Scale, Transform

ScaleRule = Literal[
    "percentile",
    "none",
    "none-backward",
    "none-forward",
    "max",
    "minmax",
    "max-parts",
    "kspace-percentile",
    "kspace-percentile-backward",
    "kspace-max",
    "kspace-max-backward",
]
FourierRule = Literal["centred", "unshifted"]
_COIL_RULES = ("max", "minmax", "max-parts")  # normalize coil images and maps (`CoilScale`)


def is_multiple(scale: ScaleRule, fourier: FourierRule) -> bool:
    """Return whether the image in the unit of the weights is a multiple of the image of the scan."""
    return scale not in _COIL_RULES and fourier == "centred"


def reads_samples(scale: ScaleRule, fourier: FourierRule) -> bool:
    """Return whether the change of unit uses the samples of k-space, and so requires Cartesian k-space."""
    return not is_multiple(scale, fourier) or scale.startswith("kspace")


@dataclass(frozen=True)
class CoilScale(Transform):
    """Scale coil images and maps as mridc 0.2 and ATOMMIC 1.0: c ↦ (c − a) / s,  S ↦ (S − b) / t.

    ``undo`` does not undo the shifts, which are the smallest magnitudes and nearly zero.

    Attributes:
        shift, factor: (B,) real, a and s.
        maps_shift, maps_factor: (B,) real, b and t.

    """

    shift: Tensor
    factor: Tensor
    maps_shift: Tensor
    maps_factor: Tensor

    def apply(self, p: Problem) -> Problem:
        """Return the problem of the scaled coil images and maps."""
        centre: tuple[Any, ...] = (..., *(n // 2 for n in p.y.shape[2:]))
        y = p.y.clone()
        # A constant in the coil images is the centre sample of k-space, times √n for n samples.
        y[centre] -= self.shift[:, None] * math.sqrt(math.prod(p.y.shape[2:]))
        maps = (p.maps - per_item(self.maps_shift, p.maps)) / per_item(self.maps_factor, p.maps)
        initial = p.initial_image
        if initial is not None:
            initial = initial * per_item(self.maps_factor / self.factor, initial)
        noise = None if p.noise is None else p.noise / per_item(self.factor, p.noise).square()
        return replace(p, y=y / per_item(self.factor, y), maps=maps, initial_image=initial, noise=noise, cache=None)

    def undo(self, u: Tensor) -> Tensor:
        """Return u s / t, or u s for a magnitude of the coil images, which the maps do not change."""
        return u * per_item(self.factor / self.maps_factor if u.is_complex() else self.factor, u)


@dataclass(frozen=True)
class Unshifted(Transform):
    """Change to the image of the inverse transform without shifts, u(m) = exp(2πi h m / n) x(m) with h = n // 2.

    Data such as Calgary-Campinas have the centre of k-space in the middle, and are transformed without shifts by
    ATOMMIC and DIRECT. Their images have alternating signs, because the transform takes index 0 as the centre. In the
    centred transform this is k-space rolled by h; the maps stay as they are.

    Attributes:
        shape: spatial shape of the image.

    """

    shape: tuple[int, ...]

    def apply(self, p: Problem) -> Problem:
        """Return the problem for u."""
        halves, axes = tuple(n // 2 for n in self.shape), p.axes
        turn = sum(h * h / n for h, n in zip(halves, self.shape, strict=True))
        phase = complex(math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn))
        initial = None if p.initial_image is None else p.initial_image * self._signs(p.initial_image)
        y, mask = phase * p.y.roll(halves, axes), p.mask.roll(halves, axes)
        return replace(p, y=y, mask=mask, initial_image=initial, cache=None)

    def undo(self, u: Tensor) -> Tensor:
        """Return the image x; a real image, a magnitude, unchanged."""
        return u * self._signs(u).conj() if u.is_complex() else u

    def _signs(self, like: Tensor) -> Tensor:
        signs = torch.ones((), dtype=like.dtype, device=like.device)
        for axis, n in enumerate(self.shape, -len(self.shape)):
            index = torch.arange(n, device=like.device, dtype=torch.float64)
            turns = 2 * math.pi * ((n // 2) * index % n) / n
            along = torch.polar(torch.ones_like(turns), turns).to(like.dtype)
            signs = signs * along.reshape(-1, *[1] * (-axis - 1))
        return signs


def scale_by_rule(rule: ScaleRule, p: Problem, *, scale_maps: bool, consume: bool = False) -> Transform:
    """Return the transform from a problem to the unit of the weights.

    Args:
        rule: ``percentile`` divides by the 99th percentile of the zero-filled image, ``none`` by nothing. ``max`` and
            ``minmax`` normalize coil images and maps as ATOMMIC (`CoilScale`), ``max-parts`` by their largest real or
            imaginary part as mridc. ``kspace-percentile`` and ``kspace-max`` divide by the 99th percentile or the
            maximum of |y|, as DIRECT. With ``-backward`` and ``-forward``, the unit of the image is that of a Fourier
            transform with this normalization; otherwise it is unitary.
        p: problem.
        scale_maps: whether the rules for coil images also apply to the maps; not to maps that a network estimates.
        consume: see `mrirecon.physics.transforms.Scale`.

    Raises:
        SignalError: the zero-filled image of an item is zero or not a number.

    """
    percentile = percentile_scale(p.zero_filled)
    if rule in _COIL_RULES:
        return _coil_scale(p, rule, scale_maps)
    name, _, norm = rule.removeprefix("kspace-").partition("-")
    if rule.startswith("kspace"):
        magnitudes = [_sampled_coils(y).abs().flatten() for y in p.y]
        values = [m.amax() if name == "max" else m.kthvalue(_rank(m.numel())).values for m in magnitudes]
        factor = torch.stack(values).to(percentile.dtype)
        factor = torch.where(factor > 0, factor, percentile)  # mostly unsampled k-space
    else:
        factor = percentile if name == "percentile" else torch.ones_like(percentile)
    samples = math.prod(p.adjoint.shape[2:])
    unit = {"backward": samples**0.5, "forward": samples**-0.5}.get(norm, 1.0)
    return Scale(factor * unit if unit != 1 else factor, consume)


def _rank(count: int) -> int:
    """Return the rank of DIRECT's 99th percentile, counted from the smallest."""
    return count - int((1 - 0.99) * count)


def _sampled_coils(y: Tensor) -> Tensor:
    """Return the coils of one item whose k-space does not sum to zero, as DIRECT."""
    used = y.flatten(1).sum(1) != 0
    return y[used] if bool(used.any()) else y


def _coil_scale(p: Problem, rule: ScaleRule, scale_maps: bool) -> CoilScale:
    low, high = _range(Fourier(p.axes).adjoint(p.y), rule)
    maps_low, maps_high = _range(p.maps, rule) if scale_maps else (torch.zeros_like(low), torch.ones_like(low))
    return CoilScale(low, high - low, maps_low, _positive(maps_high - maps_low))


def _range(values: Tensor, rule: ScaleRule) -> tuple[Tensor, Tensor]:
    """Return the values (B,) that a rule maps to 0 and to 1."""
    sizes = torch.view_as_real(values.resolve_conj()).abs() if rule == "max-parts" else values.abs()
    high = sizes.flatten(1).amax(1)
    return (sizes.flatten(1).amin(1) if rule == "minmax" else torch.zeros_like(high)), high


def _positive(values: Tensor) -> Tensor:
    """Replace zeros by 1: maps of one constant magnitude have no range."""
    return torch.where(values > 0, values, 1)
