"""An item that is seen again is seen turned: mirrored, by a quarter, in another phase.

All of it is exact: samples, mask, maps, reference and first image turn together, and belong together as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mrirecon.data.batch import Batch
from mrirecon.data.fields import generator


def turned(made: Batch, keys: Sequence[tuple[int, int, int]], use: int, cavities: tuple[int, int]) -> Batch:
    """Return a batch as it is seen when it is drawn for the ``use``-th time, counted from 0.

    The first time it is as it was made. Later it is mirrored along each axis and turned by a quarter, or not, all items
    alike, and each has another phase. Each time, ``cavities`` places where the phase turns fast move from the maps into
    the object, which leaves the samples as they are.

    Args:
        made: the batch.
        keys: (seed, epoch, number) of each item, which with ``use`` decide over all draws.
        use: how often it was drawn before.
        cavities: least and most of such places; (0, 0) for none.

    """
    owns = [generator(*key, 3, use) if use else generator(*key, 3) for key in keys]
    if use:
        rows, columns, quarter = generator(*keys[0], 4, use).random(3) < 0.5
        made = _mapped(made, lambda v: _moved(v, bool(rows), bool(columns), bool(quarter)))
    space = (made.problem.y.shape[-2], made.problem.y.shape[-1])
    phases = []
    for own in owns:
        phase = cavity_phase(space, int(own.integers(cavities[0], cavities[1] + 1)), own) if cavities[1] else None
        phases.append(np.zeros(space) if phase is None else phase)
    if cavities[1]:
        made = _phase_moved(made, torch.from_numpy(np.stack(phases)).float()[:, None].to(made.problem.y.device))
    if use:
        angle = torch.tensor([own.uniform(0, 2 * math.pi) for own in owns], dtype=torch.float32)
        made = _phase_added(made, torch.polar(torch.ones_like(angle), angle).to(made.problem.y.device))
    return made


def _mapped(batch: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function to every array (…, y, x) of a batch."""

    def to(value: Tensor | None) -> Tensor | None:
        return None if value is None else move(value)

    p = batch.problem
    problem = replace(p, y=move(p.y), mask=move(p.mask), maps=move(p.maps), initial_image=to(p.initial_image))
    return replace(
        batch,
        problem=problem,
        target=to(batch.target),
        full=to(batch.full),
        held=to(batch.held),
        lesions=to(batch.lesions),
    )


def _moved(v: Tensor, rows: bool, columns: bool, quarter: bool) -> Tensor:
    """Mirror (…, y, x) about the centre pixel n // 2, and exchange its axes: images and k-space in the same way."""
    for axis, wanted in ((-2, rows), (-1, columns)):
        if wanted:
            v = v.flip(axis)
            # Of an even number, pixel 0 has no partner on the other side and is its own.
            v = v.roll(1, axis) if v.shape[axis] % 2 == 0 else v
    return (v.mT if quarter else v).contiguous()


def _phase_moved(batch: Batch, phase: Tensor) -> Batch:
    """Multiply the object by a phase (B, 1, y, x) in radians, and the maps by its opposite."""
    turn = torch.polar(torch.ones_like(phase), phase)
    p, target = batch.problem, batch.target
    initial = None if p.initial_image is None else p.initial_image * turn
    problem = replace(p, maps=p.maps * turn.conj().unsqueeze(2), initial_image=initial)
    complex_target = target is not None and target.is_complex()
    return replace(batch, problem=problem, target=target * turn if complex_target else target)  # type: ignore[operator]


def _phase_added(batch: Batch, turn: Tensor) -> Batch:
    """Multiply samples and object by one phase factor an item (B,)."""
    turn = turn[:, None, None, None]
    p, target = batch.problem, batch.target
    initial = None if p.initial_image is None else p.initial_image * turn
    problem = replace(p, y=p.y * turn, initial_image=initial)
    complex_target = target is not None and target.is_complex()
    return replace(
        batch,
        problem=problem,
        target=target * turn if complex_target else target,  # type: ignore[operator]
        full=None if batch.full is None else batch.full * turn,
    )


def cavity_phase(space: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a phase (y, x) in radians that turns fast at ``count`` places: bells 1.5 to 12 pixels wide."""
    bells = [np.empty((count, n)) for n in space]  # a bell is a product of one along y and one along x
    for number in range(count):
        at = rng.uniform(0.1, 0.9, 2) * space
        width = math.exp(rng.uniform(math.log(1.5), math.log(12)))
        height = rng.choice((-1, 1)) * math.exp(rng.uniform(math.log(0.3), math.log(4)))
        for along, middle, factor in zip(bells, at, (height, 1.0), strict=True):
            along[number] = factor * np.exp(-((np.arange(along.shape[1]) - middle) ** 2) / (2 * width**2))
    phase: np.ndarray = bells[0].T @ bells[1]
    return phase
