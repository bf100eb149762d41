"""Blend a network's output with its initial image by cross-validation on withheld samples.

A network trained on simulations may degrade a good initial image on a scanner that the simulations do not cover.
Withheld samples measure this. Let x₀ be the initial image and x₁ the output of the network, both computed without the
withheld samples, and let d = E(x₁ − x₀) and e = y − E x₀ at the withheld samples. Then g = Re⟨d, e⟩ / ⟨d, d⟩ minimizes
‖e − g d‖². This is the least-squares weight of a model by cross-validation (Stone, J. R. Stat. Soc. B 36:111, 1974;
"stacking": Breiman, Machine Learning 24:49, 1996).

The blend is x₀ + g (x₁ − x₀). If g is exact, it is not worse than x₀.

Withheld samples should resemble those that were not acquired. For a mask scattered along all its axes, scattered
samples are withheld. Most masks are denser near the centre of k-space, where the initial image is better: a sample in a
region of density ρ stands for (1 − ρ) / ρ samples that were not acquired, and has this weight in the products
(importance sampling). For a mask of lines, scattered samples are easier to predict than missing lines. So whole lines
are withheld as well, and g is the geometric mean of the weights for both: lines alone are few and favour a network that
harms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.sampling import GridSampling, Sampling, TrajectorySampling
from mrirecon.engine import Normalized, Reconstructor, StartImage
from mrirecon.physics.nonuniform import NonUniformProblem
from mrirecon.physics.operators import per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

HELD_OUT_SHARE = 0.1  # fraction of the samples outside the calibration region to withhold
_DENSITY_WIDTH = 0.04  # standard deviation of the window for the density, as a fraction of k-space
_LOWEST_DENSITY = 0.01
_MIN_CANDIDATES = 8  # with fewer lines or samples outside the calibration region, none are withheld

# Maps a problem to a network's initial image and output, both (B, M, *space) complex.
Refine = Callable[[Problem], tuple[Tensor, Tensor]]
BlendWeight = Callable[[Refine, Problem, Prior | None], Tensor]


def choose_hidden_samples(
    mask: np.ndarray, share: float = HELD_OUT_SHARE, seed: int = 0, *, lines: bool = False
) -> np.ndarray | None:
    """Choose samples of a mask to withhold, outside the calibration region; return None if there are too few.

    Args:
        mask: (*space) bool.
        share: fraction of the samples outside the calibration region to withhold.
        seed: seed of the choice.
        lines: withhold whole lines along the axes in which the mask is constant, instead of scattered samples.

    Returns:
        (*space) bool.

    """
    mask = np.asarray(mask, dtype=bool)
    free = mask.copy()
    free[find_calibration(mask)] = False
    for axis in _line_axes(mask) if lines else []:
        free = free.take([0], axis)
    candidates = np.flatnonzero(free)
    if len(candidates) < _MIN_CANDIDATES:
        return None
    count = max(2, round(share * len(candidates)))
    chosen = np.zeros(free.size, dtype=bool)
    chosen[np.random.default_rng(seed).choice(candidates, count, replace=False)] = True
    hidden: np.ndarray = chosen.reshape(free.shape) & mask
    return hidden


@singledispatch
def choose_hidden(sampling: Sampling, share: float = HELD_OUT_SHARE, seed: int = 0) -> np.ndarray | None:
    """Choose samples to withhold, (*samples) bool; return None if there are too few; see `choose_hidden_samples`."""
    raise NotImplementedError(type(sampling).__name__)


@choose_hidden.register
def _(sampling: GridSampling, share: float = HELD_OUT_SHARE, seed: int = 0) -> np.ndarray | None:
    return choose_hidden_samples(sampling.mask, share, seed)


@choose_hidden.register
def _(sampling: TrajectorySampling, share: float = HELD_OUT_SHARE, seed: int = 0) -> np.ndarray | None:
    """Choose whole readouts."""
    return _choose_readouts(sampling.used, share, seed)


def _choose_readouts(used: np.ndarray, share: float, seed: int) -> np.ndarray | None:
    """Choose whole readouts of a mask (readout, sample) of samples that are used; None if there are too few."""
    readouts = np.flatnonzero(used.any(1))
    if len(readouts) < _MIN_CANDIDATES:
        return None
    hidden = np.zeros_like(used, dtype=bool)
    hidden[np.random.default_rng(seed).choice(readouts, max(2, round(share * len(readouts))), replace=False)] = True
    return np.asarray(hidden & used)


def _line_axes(mask: np.ndarray) -> list[int]:
    """Return the axes along which a mask is constant."""
    return [axis for axis in range(mask.ndim) if bool((mask == mask.take([0], axis)).all())]


def cross_validated_weight(refine: Refine, p: Problem, prior: Prior | None = None) -> Tensor:
    """Return the weight g (B,) in [0, 1] of a network's output; see the docstring of this module.

    The weight is 1 if too few samples can be withheld, or if the network changes nothing.

    Args:
        refine: maps a problem to the initial image and the network's output.
        p: the measured problem. If it has an ``initial_image``, the iteration without the withheld samples starts
            there.
        prior: prior of a regularized initial image.

    """
    arrays = withhold_samples(p)
    importance = [torch.from_numpy(arrays[:, kind])[:, None].to(p.y.device) for kind in range(arrays.shape[1])]
    hidden = torch.stack(importance).any(0)
    if not bool(hidden.any()):
        return torch.ones(p.y.shape[0], dtype=p.mask.dtype, device=p.y.device)
    initial = None if p.initial_image is None else _remove_samples(p, p.initial_image, hidden, prior)
    start, output = refine(p.only(~hidden, initial_image=initial))
    return blend_weight(p.encode(output - start), p.y - p.encode(start), importance)


def blend_weight(d: Tensor, e: Tensor, importance: Sequence[Tensor]) -> Tensor:
    """Return the weight g (B,) in [0, 1] for withheld samples; see the docstring of this module.

    Args:
        d: change of the predicted samples by the network, (B, C, *space).
        e: error of the samples that the initial image predicts, (B, C, *space).
        importance: of the withheld samples of each kind, (B or 1, 1, *space); 0 for all others.

    """
    roots = [weights.sqrt() for weights in importance]
    g = torch.stack([_least_squares(root * d, root * e) for root in roots])
    return g.prod(0) ** (1 / len(roots))


def withhold(mask: np.ndarray) -> np.ndarray:
    """Return the importance of the samples to withhold from a mask, (2, *space) float32; 0 for all others.

    The two kinds are scattered samples and lines; they are the same for a mask without lines, or with too few of them.
    If too few samples can be withheld, none are.
    """
    scattered = choose_hidden_samples(mask)
    if scattered is None:
        return np.zeros((2, *mask.shape), np.float32)
    lines = choose_hidden_samples(mask, lines=True) if _line_axes(mask) and not mask.all() else None
    kinds = [scattered * _importance(mask)] * 2 if lines is None else [scattered, lines]
    return np.stack(kinds).astype(np.float32)


@singledispatch
def withhold_samples(p: Problem) -> np.ndarray:
    """Return the importance of the samples to withhold of each item, (B, 2, *samples) float32; 0 for all others."""
    masks = p.mask.expand(p.y.shape[0], *p.mask.shape[1:])[:, 0].cpu().numpy() > 0
    return np.stack([withhold(mask) for mask in masks])


@withhold_samples.register
def _(p: NonUniformProblem) -> np.ndarray:
    """Withhold whole readouts, as whole lines; the importance of a sample is the area of k-space that it represents."""
    out = np.zeros((len(p.y), 2, *p.y.shape[2:]), np.float32)
    items = ((v.expand(len(p.y), -1, -1, -1)[:, 0].cpu().numpy()) for v in (p.mask, p.density))
    for item, (mask, density) in enumerate(zip(*items, strict=True)):
        hidden = _choose_readouts(mask > 0, HELD_OUT_SHARE, 0)
        if hidden is not None:
            out[item] = hidden * density
    return out


def _importance(mask: np.ndarray) -> np.ndarray:
    """Return (1 − ρ) / ρ (*space), with the local density ρ of the samples outside the calibration region."""
    outside = np.ones(mask.shape)
    outside[find_calibration(mask)] = 0
    width = [_DENSITY_WIDTH * n for n in mask.shape]
    sampled, possible = (ndimage.gaussian_filter(v, width, mode="nearest") for v in (mask * outside, outside))
    density = np.clip(sampled / np.maximum(possible, _LOWEST_DENSITY), _LOWEST_DENSITY, 1)
    return np.asarray((1 - density) / density)


def _remove_samples(p: Problem, image: Tensor, hidden: Tensor, prior: Prior | None) -> Tensor:
    """Subtract the contribution of the withheld samples from an image, to start near the solution without them.

    With a prior, the unknown is u = x / w, and the contribution to u is subtracted.
    """
    contribution = p.contribution(hidden, image)
    return image - (contribution if prior is None else contribution * prior.weight.square())


def _least_squares(d: Tensor, e: Tensor) -> Tensor:
    """Return argmin_g ‖e − g d‖² of each item (B,), clamped to [0, 1]; 1 if d is zero."""
    d, e = d.flatten(1), e.flatten(1)
    product, power = (d.conj() * e).sum(1).real, d.abs().square().sum(1)
    return torch.where(power > 0, product / power.clamp_min(torch.finfo(power.dtype).tiny), 1.0).clamp(0, 1)


class Blended(Reconstructor):
    """Wrap a reconstructor to blend its image with its initial image, with one weight per item.

    It has the modules of the reconstructor with the same names, so that the same weights fit. In training mode, it acts
    as the reconstructor itself.

    Args:
        reconstructor: learned method.
        weight: function that returns the weight (B,) of the network's output.
        fallback: function that computes the image to blend with, if the initial image is too rough.

    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        weight: BlendWeight = cross_validated_weight,
        fallback: StartImage | None = None,
    ) -> None:
        r = reconstructor
        super().__init__(r.engine, r.prepare, scale=r.scale, start=r.start, phase=r.phase)
        self.precision, self.weight, self.fallback = r.precision, weight, fallback

    @property
    def unblended(self) -> Reconstructor:
        """Return the reconstructor without blending, with the same modules."""
        plain = Reconstructor(self.engine, self.prepare, scale=self.scale, start=self.start, phase=self.phase)
        plain.precision = self.precision
        return plain.train(self.training)

    def normalize(
        self, p: Problem, *, prior: Prior | None = None, consume: bool = False, warm: bool = False
    ) -> Normalized:
        """Return the problem for the engine, whose image is then blended."""
        if self.training:
            return super().normalize(p, prior=prior, consume=consume, warm=warm)
        with torch.no_grad():
            if self.start is not None and p.initial_image is None:  # compute the initial image once
                n = super().normalize(p, prior=prior)
                p = replace(p, initial_image=n.undo(n.problem.starting_image))
            weight = self.weight(lambda q: self.parts(q, prior=prior), p, prior)
        n = super().normalize(p, prior=prior, consume=consume)
        rest = n.problem.starting_image if bool((weight >= 1).all()) else self._rest(n, prior)
        return _BlendedProblem(n.problem, n.scale, n.phase, rest, weight)

    def parts(self, p: Problem, *, prior: Prior | None = None) -> tuple[Tensor, Tensor]:
        """Return the image to blend with and the network's output, both (B, M, *space).

        If the problem has an ``initial_image``, a few iterations give the image without the network.
        """
        warm = p.initial_image is not None
        n = super().normalize(p, prior=prior, warm=warm)
        image = self.engine.image(self.engine.solve(n.problem).state, n.problem)
        rest = n.problem.starting_image if warm else self._rest(n, prior)
        return n.undo(rest), n.undo(image)

    @torch.no_grad()
    def _rest(self, n: Normalized, prior: Prior | None) -> Tensor:
        """Return the image (B, M, *space), at unit scale, to blend with the network's output."""
        if self.fallback is None:
            return n.problem.starting_image
        q = n.problem if n.phase is None else n.phase.inverse().apply(n.problem)
        u = self.fallback(replace(q, initial_image=None), None if self.prepare is not None else prior)
        return u if n.phase is None else u * n.phase.phase.conj()


@dataclass(frozen=True)
class _BlendedProblem(Normalized):
    """Blend the engine's image u with the image r: x = s φ (r + w (u − r))."""

    rest: Tensor  # r, (B, M, *space)
    weight: Tensor  # w, (B,)

    def undo(self, u: Tensor) -> Tensor:
        """Return the blended image x (B, M, *space)."""
        return super().undo(self.rest + per_item(self.weight, u) * (u - self.rest))

    def explain(self, reasons: list[str]) -> list[str]:
        """Add the weight to each reason."""
        return [f"{r}, blended with weight {w:.0%}" for r, w in zip(reasons, self.weight.tolist(), strict=True)]
