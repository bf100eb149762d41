"""Problems to learn from, with their solutions: one or several of a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.physics.problem import Problem


@dataclass(frozen=True)
class Batch:
    """Problems of one size, and what their solutions should be.

    Attributes:
        problem: y = M F S x + n.
        target: (B, 1, y, x), complex: coil images combined with the problem's maps; or real: their root sum of squares
            where no maps are used. None for scans that were never fully sampled.
        full: (B, C, y, x), the k-space to compare with, all of it or what was acquired; None where not asked for.
        held: (B, 1, y, x), 1 where ``full`` is to be compared.
        lesions: (B, 1, y, x) uint8, the inserted lesions by number; None for measured scans.
        names: file, slice and number of each item.
        about: mask, acceleration, coils and SNR of each item.

    """

    problem: Problem
    target: Tensor | None
    full: Tensor | None
    held: Tensor | None
    lesions: Tensor | None
    names: list[str]
    about: list[dict[str, object]]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        target, full, held = (None if v is None else v.to(device) for v in (self.target, self.full, self.held))
        return replace(self, problem=self.problem.to(device), target=target, full=full, held=held)

    def __len__(self) -> int:
        return len(self.names)


def part_of(batch: Batch, which: slice) -> Batch:
    """Return some items of a batch."""

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[which]

    if range(len(batch))[which] == range(len(batch)):
        return batch
    p = batch.problem
    problem = Problem(p.y[which], p.mask[which], p.maps[which], cut(p.initial_image), cut(p.noise))
    target, full, held, lesions = (cut(v) for v in (batch.target, batch.full, batch.held, batch.lesions))
    return Batch(problem, target, full, held, lesions, batch.names[which], batch.about[which])


def stack(items: Sequence[Batch]) -> Batch:
    """Return items of one size as one batch.

    Raises:
        InputError: sizes that differ.

    """
    if len(items) == 1:
        return items[0]
    require_one_size([tuple(i.problem.y.shape[1:]) for i in items])
    y, mask, maps = (torch.cat([getattr(i.problem, n) for i in items]) for n in ("y", "mask", "maps"))

    def joined(values: list[Tensor | None]) -> Tensor | None:
        there = [v for v in values if v is not None]
        return torch.cat(there) if len(there) == len(values) else None

    return Batch(
        Problem(
            y,
            mask,
            maps,
            joined([i.problem.initial_image for i in items]),
            joined([i.problem.noise for i in items]),
        ),
        joined([i.target for i in items]),
        joined([i.full for i in items]),
        joined([i.held for i in items]),
        joined([i.lesions for i in items]),
        [n for i in items for n in i.names],
        [a for i in items for a in i.about],
    )


def require_one_size(shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse items that cannot be stacked.

    Raises:
        InputError: sizes (C, y, x) that differ.

    """
    if len(set(shapes)) > 1:
        raise InputError(
            "items of different sizes cannot share a batch",
            why=", ".join("×".join(map(str, s)) for s in sorted(set(shapes))),
            fix="set data.crop, or train.batch to 1",
        )
