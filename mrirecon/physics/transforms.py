"""Define changes of variable x = T u for a problem y = A x + n: scale, smooth phase, prior and gain.

``apply`` converts the problem for x to the problem for u, and ``undo`` converts the image u to x. ``t1 @ t2`` is x = T₁
T₂ u.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import FullPrecision
from mrirecon.physics.problem import Problem

_NO_SIGNAL = 1e-12  # minimum of a prior; below it, u is zero


class Transform(FullPrecision, ABC):
    """Change the variable of a problem: x = T u."""

    @abstractmethod
    def apply(self, p: Problem) -> Problem:
        """Return the problem for u."""

    @abstractmethod
    def undo(self, u: Tensor) -> Tensor:
        """Return the image x (B, M, *space) of an image u."""

    def __matmul__(self, inner: Transform) -> Transform:
        return Composed(self, inner)


def _change_images(p: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """Return the problem with its initial image, and the zero-filled image if it is computed, as images of u."""
    initial = None if p.initial_image is None else change(p.initial_image)
    cache = None if p.cache is None else replace(p.cache, adjoint=change(p.cache.adjoint))
    return replace(p, initial_image=initial, cache=cache)


@dataclass(frozen=True)
class Composed(Transform):
    """Apply two transforms: x = outer(inner(u))."""

    outer: Transform
    inner: Transform

    def apply(self, p: Problem) -> Problem:
        """Return the problem for the inner variable."""
        return self.inner.apply(self.outer.apply(p))

    def undo(self, u: Tensor) -> Tensor:
        """Return the image of the outer variable."""
        return self.outer.undo(self.inner.undo(u))


@dataclass(frozen=True)
class Identity(Transform):
    """Leave the variable unchanged: x = u."""

    def apply(self, p: Problem) -> Problem:
        """Return the problem unchanged."""
        return p

    def undo(self, u: Tensor) -> Tensor:
        """Return the image unchanged."""
        return u


@dataclass(frozen=True)
class Scale(Transform):
    """Divide the data by one number per item: x = s u, with the data y / s.

    Attributes:
        factor: (B,) real, s.
        consume: divide y in place to save memory; this overwrites the caller's problem.

    """

    factor: Tensor
    consume: bool = False

    def apply(self, p: Problem) -> Problem:
        """Return the problem of y / s."""
        divisor = per_item(self.factor, p.y)
        y = p.y.div_(divisor) if self.consume else p.y / divisor
        noise = None if p.noise is None else p.noise / per_item(self.factor, p.noise).square()
        q = replace(p, y=y, noise=noise, verified=(y, p.mask))
        return _change_images(q, lambda x: x / per_item(self.factor, x))

    def undo(self, u: Tensor) -> Tensor:
        """Return s u."""
        return u * per_item(self.factor, u)


@dataclass(frozen=True)
class SmoothPhase(Transform):
    """Move a phase from the image into the maps: x = φ u with |φ| = 1, with the maps S φ.

    u is nearly real if φ is the smooth phase of the image (`mrirecon.physics.scale.smooth_phase`), as in homodyne
    detection (Noll, Nishimura, Macovski, IEEE TMI 10:154, 1991). ``undo`` returns a real image, a magnitude, unchanged.

    Attributes:
        phase: φ, (B, M, *space) complex of magnitude 1.

    """

    phase: Tensor

    def apply(self, p: Problem) -> Problem:
        """Return the problem with the maps S φ and the same samples."""
        q = replace(p, maps=p.maps * self.phase.unsqueeze(2))
        return _change_images(q, lambda x: x * self.phase.conj())

    def undo(self, u: Tensor) -> Tensor:
        """Return φ u."""
        return u * self.phase if u.is_complex() else u

    def inverse(self) -> SmoothPhase:
        """Return the transform that moves the phase back."""
        return SmoothPhase(self.phase.conj())


@dataclass(frozen=True)
class Prior(Transform):
    """Weight the image by the expected signal: x = w u, with the maps S w.

    A penalty on u = x / w penalizes signal more where w is small (`mrirecon.reconstruction.calibrate.ItemMaps.prior`).

    Attributes:
        weight: w, (B, M, *space) real in [0, 1].

    """

    weight: Tensor

    def apply(self, p: Problem) -> Problem:
        """Return the problem with the maps S w."""
        w = self.weight
        q = replace(p, maps=p.maps * w.unsqueeze(2), cache=None)
        return _change_images(q, lambda x: torch.where(w > _NO_SIGNAL, x / w, 0))

    def undo(self, u: Tensor) -> Tensor:
        """Return w u."""
        return u * self.weight


@dataclass(frozen=True)
class Gain(Transform):
    """Divide coil maps by their gain: x = u / g, with the maps S / g.

    Attributes:
        factor: g, the largest root sum of squares of the maps over the coils.

    """

    factor: float

    def apply(self, p: Problem) -> Problem:
        """Return the problem with the maps S / g."""
        return _change_images(replace(p, maps=p.maps / self.factor, cache=None), lambda x: x * self.factor)

    def undo(self, u: Tensor) -> Tensor:
        """Return u / g."""
        return u / self.factor
