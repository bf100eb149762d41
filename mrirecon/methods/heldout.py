"""Cross-validated blending: how much of a network's refinement the data support, by samples hidden from it.

A network is trained on simulations. On a scanner unlike them its refinement may harm a start that is good already.
Hidden samples measure it. Let x₀ be the start and x₁ what the network makes of it, both from the samples that are not
hidden, d = E(x₁ − x₀) and e = y − E x₀ at the hidden samples: then g = Re⟨d, e⟩ / ⟨d, d⟩ minimizes ‖e − g d‖² there,
and the blend is x₀ + g (x₁ − x₀). This is the least-squares weight of a model by cross-validation (Stone, J. R. Stat.
Soc. B 36:111, 1974; "stacking": Breiman, Machine Learning 24:49, 1996).

Hidden samples must resemble those that were never sampled. For a mask that is scattered along all its axes, scattered
samples do. For a mask of lines, neither choice does: scattered samples are easier to predict than lines are, and
hidden lines leave wider gaps than the mask itself. The first errs in favour of the start, the second in favour of the
network: the geometric mean of both weights is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.engine import Normalized, Reconstructor, Result, StartImage
from mrirecon.physics.operators import per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

SHARE = 0.1  # of the samples outside the calibration region
_FEWEST = 8  # lines or samples outside the calibration region, below which none can be spared

# From a problem, whose `initial_image` may be near its start: the start, and what a network makes of it.
Refine = Callable[[Problem], tuple[Tensor, Tensor]]
BlendWeight = Callable[[Refine, Problem, Prior | None], Tensor]


def hide(mask: np.ndarray, share: float = SHARE, seed: int = 0, *, lines: bool = False) -> np.ndarray | None:
    """Return which samples of a mask to hide, none of them in the calibration region; None where none can be spared.

    Args:
        mask: (*space) bool.
        share: of the samples outside the calibration region.
        seed: of the choice.
        lines: hide whole lines, along the axes in which the mask is constant, rather than scattered samples.

    Returns:
        (*space) bool.

    """
    mask = np.asarray(mask, dtype=bool)
    free = mask.copy()
    free[find_calibration(mask)] = False
    along = tuple(a for a in range(mask.ndim) if bool((mask == mask.take([0], a)).all())) if lines else ()
    for axis in along:
        free = free.take([0], axis)
    places = np.flatnonzero(free)
    if len(places) < _FEWEST:
        return None
    count = max(2, round(share * len(places)))
    chosen = np.zeros(free.size, dtype=bool)
    chosen[np.random.default_rng(seed).choice(places, count, replace=False)] = True
    hidden: np.ndarray = chosen.reshape(free.shape) & mask
    return hidden


def cross_validated_weight(refine: Refine, p: Problem, prior: Prior | None = None) -> Tensor:
    """Return the weight (B,) in [0, 1] of what a network makes of its start; see the head of this file.

    It is 1 where no samples can be spared, and where the network changes nothing. Scattered samples and lines are
    hidden together, so that one reconstruction predicts both.

    Args:
        refine: returns the start of a problem and what the network makes of it, both (B, M, *space) complex.
        p: as measured; its ``initial_image``, if it has one, spares solving for the start without the hidden samples
            from nothing.
        prior: of a start that is regularized.

    """
    masks = p.mask.expand(p.y.shape[0], *p.mask.shape[1:])[:, 0].cpu().numpy() > 0
    kinds = [[hide(m) for m in masks]]
    if any(_has_lines(m) for m in masks):
        # too few lines to spare any: scattered samples have to do
        pairs = [(hide(m, lines=_has_lines(m)), m) for m in masks]
        kinds.append([hide(m) if h is None else h for h, m in pairs])
    none = np.zeros(tuple(p.mask.shape[2:]), dtype=bool)
    held = [
        torch.from_numpy(np.stack([none if h is None else h for h in hidden]))[:, None].to(p.y.device)
        for hidden in kinds
    ]
    every = torch.stack(held).any(0)
    if not bool(every.any()):
        return torch.ones(p.y.shape[0], dtype=p.mask.dtype, device=p.y.device)
    kept = p.mask * ~every
    near = None if p.initial_image is None else _without(p, p.initial_image, every, prior)
    seen = Problem(p.y * kept, kept, p.maps, near, noise=p.noise)
    first, image = refine(seen)
    moved, missing = seen.encode(image - first), p.y - seen.encode(first)
    weights = torch.stack([_weight(moved, missing, places) for places in held])
    return weights[0] if len(weights) == 1 else weights.prod(0).sqrt()


def _without(p: Problem, image: Tensor, hidden: Tensor, prior: Prior | None) -> Tensor:
    """Return an image without what the hidden samples add to it: it does not know them, and is near the new solution.

    Where the image was solved for as u = x / w, their contribution is that to u.
    """
    added = p.encode.adjoint(hidden * p.encode(image))
    return image - (added if prior is None else added * prior.weight.square())


def _has_lines(mask: np.ndarray) -> bool:
    return any(bool((mask == mask.take([0], a)).all()) for a in range(mask.ndim)) and not mask.all()


def _weight(moved: Tensor, missing: Tensor, places: Tensor) -> Tensor:
    d, e = (moved * places).flatten(1), (missing * places).flatten(1)
    along, power = (d.conj() * e).sum(1).real, d.abs().square().sum(1)
    return torch.where(power > 0, along / power.clamp_min(torch.finfo(power.dtype).tiny), 1.0).clamp(0, 1)


class Blended(Reconstructor):
    """Wrap a reconstructor: blend what its network makes of the start with the start, by a weight for each item.

    Its modules are those of the reconstructor, under the same names, so that weights fit both. It is for use: in
    training mode it is the reconstructor itself.

    Args:
        reconstructor: a learned method.
        weight: gives the weight (B,) of the network's part.
        fallback: makes the rest of the image, where the reconstructor starts from a rough one.

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
    def needs_cartesian(self) -> bool:
        """Whether it reads the samples or the mask: it hides samples."""
        return True

    @property
    def unblended(self) -> Reconstructor:
        """The reconstructor, with the same modules."""
        whole = Reconstructor(self.engine, self.prepare, scale=self.scale, start=self.start, phase=self.phase)
        whole.precision = self.precision
        return whole.train(self.training)

    def run(self, p: Problem, *, prior: Prior | None = None, consume: bool = False) -> Result:
        """Reconstruct and blend; the reasons state the weights."""
        if self.training:
            return super().run(p, prior=prior, consume=consume)
        p, weight = self._weighted(p, prior)
        n = self.normalize(p, prior=prior, consume=consume)
        outcome = self.engine.solve(n.problem)
        image = _blend(self._rest(n, weight, prior), self.engine.image(outcome.state, n.problem), weight)
        reasons = outcome.reasons(self.engine.tolerance)
        reasons = [f"{r}, taken at {w:.0%}" for r, w in zip(reasons, weight.tolist(), strict=True)]
        return Result(n.undo(image), n.scale.factor, outcome.iterations, reasons)

    def images(self, p: Problem, *, prior: Prior | None = None) -> Iterator[Tensor]:
        """Yield the blended image after every step, in the data's own scale; the last is that of `run`."""
        if self.training:
            yield from super().images(p, prior=prior)
            return
        p, weight = self._weighted(p, prior)
        n = self.normalize(p, prior=prior)
        rest = self._rest(n, weight, prior)
        for step, outcome in self.engine.outcomes(n.problem):
            yield n.undo(_blend(rest, step.image(outcome.state, n.problem), weight))

    def parts(self, p: Problem, *, prior: Prior | None = None) -> tuple[Tensor, Tensor]:
        """Return the image without the network, and what the network makes of its start: (B, M, *space) both.

        From an ``initial_image`` near the start, a short start has come as far as the image without the network.
        """
        warm = p.initial_image is not None
        n = self.normalize(p, prior=prior, warm=warm)
        image = self.engine.image(self.engine.solve(n.problem).state, n.problem)
        rest = n.problem.starting_image if warm else self._rest(n, torch.zeros_like(n.scale.factor), prior)
        return n.undo(rest), n.undo(image)

    @torch.no_grad()
    def _weighted(self, p: Problem, prior: Prior | None) -> tuple[Problem, Tensor]:
        """Return the problem, with its first image where that takes a solver, and the weight of the network's part."""
        if self.start is not None and p.initial_image is None:
            n = self.normalize(p, prior=prior)
            p = replace(p, initial_image=n.undo(n.problem.starting_image))
        return p, self.weight(lambda q: self.parts(q, prior=prior), p, prior)

    @torch.no_grad()
    def _rest(self, n: Normalized, weight: Tensor, prior: Prior | None) -> Tensor:
        """Return the image of the normalized problem that is blended with the network's."""
        if self.fallback is None or bool((weight >= 1).all()):
            return n.problem.starting_image
        q = n.problem if n.phase is None else n.phase.inverse().apply(n.problem)
        u = self.fallback(replace(q, initial_image=None), None if self.prepare is not None else prior)
        return u if n.phase is None else u * n.phase.phase.conj()


def _blend(rest: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    return rest + per_item(weight, image) * (image - rest)
