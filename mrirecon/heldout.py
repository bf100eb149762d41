"""Samples that are hidden from a method and then predicted: what measured data without a reference can say of it.

A network is trained on simulations, and on a scanner unlike them its refinement may do harm where its start was good
already. Hidden samples tell. Let x₀ be the start, x₁ what the network makes of it, both from the samples that are not
hidden, d = E(x₁ − x₀) and e = y − E x₀ at the hidden ones: then g = Re⟨d, e⟩ / ⟨d, d⟩ minimizes ‖e − g d‖² there. This
is the least-squares weight of a model by cross-validation (Stone, J. R. Stat. Soc. B 36:111, 1974; "stacking": Breiman,
Machine Learning 24:49, 1996).

What is hidden must resemble what was never sampled. Of a mask that is scattered in all its axes, scattered samples do.
Of lines, neither choice does: samples scattered in them are easier to predict than lines are, whole lines leave gaps
wider than the mask's own. The first errs for the start, the second for the network: their geometric mean is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.problem import Problem

SHARE = 0.1  # of the samples outside the calibration region
_FEWEST = 8  # lines or samples outside the calibration region, below which none can be spared

Refine = Callable[[Problem, Tensor | None], tuple[Tensor, Tensor]]


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


def held_out_weight(refine: Refine, p: Problem) -> Tensor:
    """Return the weight (B,) in [0, 1] that what a network makes of its start deserves; see the head of this file.

    It is 1 where no samples can be spared, and where the network changes nothing. Scattered samples and lines are
    hidden together, so that one reconstruction predicts both.

    Args:
        refine: a problem, and an image near its start or None, to its start and what becomes of it, both
            (B, M, *space) complex.
        p: as measured; its ``start``, if it has one, spares solving the problem with hidden samples from nothing.

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
    seen = Problem(p.y * kept, kept, p.maps, p.prior, noise=p.noise)
    first, image = refine(seen, None if p.start is None else _without(p, p.start, every))
    moved, missing = seen.encode(image - first), p.y - seen.encode(first)
    weights = torch.stack([_weight(moved, missing, places) for places in held])
    return weights[0] if len(weights) == 1 else weights.prod(0).sqrt()


def _without(p: Problem, image: Tensor, hidden: Tensor) -> Tensor:
    """Return an image without what some samples say of it: blind to them, and near the solution without them.

    Of a regularized problem with a prior w, it is u = x / w from which that is taken.
    """
    told = p.encode.adjoint(hidden * p.encode(image))
    return image - (told if p.prior is None else told * p.prior.square())


def _has_lines(mask: np.ndarray) -> bool:
    return any(bool((mask == mask.take([0], a)).all()) for a in range(mask.ndim)) and not mask.all()


def _weight(moved: Tensor, missing: Tensor, places: Tensor) -> Tensor:
    d, e = (moved * places).flatten(1), (missing * places).flatten(1)
    along, power = (d.conj() * e).sum(1).real, d.abs().square().sum(1)
    return torch.where(power > 0, along / power.clamp_min(torch.finfo(power.dtype).tiny), 1.0).clamp(0, 1)
