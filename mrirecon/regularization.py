"""The weight λ of a regularized method: a default for the mask, or by the discrepancy principle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mrirecon.problem import Problem
from mrirecon.registry import build, find


def default_weight(method: str, mask: np.ndarray | Tensor) -> float:
    """Return λ for a mask (*space): the method's default is meant for 4-fold undersampled lines.

    The data term of fewer samples weighs less, and the best λ, found on measured scans between 2- and 12-fold, falls
    with it, though more slowly, as there is more aliasing to remove: as R^(−1/3) for lines. Where samples lie scattered
    over a plane, aliasing is as incoherent as noise, and a larger weight removes it: 1.6 times that at 4-fold, falling
    as R^(−1/2).
    """
    sampled = (mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)).astype(bool)
    rate = sampled.size / max(1, int(sampled.sum()))
    at_4 = _number(find(method).schema.model_fields["lam"].default)
    varying = sum(bool((sampled != sampled.take([0], axis)).any()) for axis in range(sampled.ndim))
    return at_4 * float((4 / rate) ** (1 / 3) if varying < 2 else 1.6 * (4 / rate) ** 0.5)


def discrepancy_weight(
    method: str,
    settings: Mapping[str, object],
    problem: Problem,
    deviation: np.ndarray,
    *,
    bounds: tuple[float, float] | None = None,
    rounds: int = 6,
) -> tuple[float, str]:
    """Return λ such that ‖A x_λ − y‖² is what the noise explains, and how it was found.

    Args:
        method: a method with an option ``lam``.
        settings: its other options.
        problem: a batch of one.
        deviation: (C,) standard deviation of the complex noise of each coil.
        bounds: smallest and largest λ considered; ``None`` for half and twice the default. The misfit hardly depends
            on λ (a few percent within these bounds), so a noise level that is a little wrong would say anything.
        rounds: reconstructions spent on it, by bisection of log λ, along which the misfit grows.

    """
    default = default_weight(method, problem.mask[0, 0].cpu())
    expected = float((deviation.astype(np.float64) ** 2).sum()) * float(problem.mask[0].sum())

    def misfit(lam: float) -> float:
        with torch.inference_mode():
            x = build(method, {**settings, "lam": lam}).to(problem.y.device)(problem)
            return 2 * float(problem.data_term(x)[0])

    least, most = bounds or (default / 2, default * 2)
    if (floor := misfit(least)) >= expected:
        kept = min(max(default, least), most)
        share = f"the misfit is {floor / expected:.2f} of the measured noise at λ = {least:.3g} already"
        return kept, f"λ = {kept:.3g}, the default: {share}, so the coil maps' errors limit it, which λ cannot mend"
    if misfit(most) <= expected:
        return most, f"λ = {most:.3g}, the most allowed: the measured noise explains the misfit even there"
    low, high = math.log(least), math.log(most)
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if misfit(math.exp(middle)) < expected else (low, middle)
    found = math.exp(low)
    return found, f"λ = {found:.3g} by the discrepancy principle: misfit {misfit(found) / expected:.2f} of the noise"


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
