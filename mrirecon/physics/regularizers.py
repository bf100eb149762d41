"""Regularizers: the l1 norm of wavelet details, isotropic total variation.

A regularizer R knows its value, its proximal map and its splitting R(x) = φ(G x), so that FISTA, ADMM and primal-dual
solve the same objective through whichever of the three they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrirecon.physics.operators import Gradient, LinearOperator, per_item
from mrirecon.physics.precision import FullPrecision, full_precision
from mrirecon.physics.wavelets import Wavelet, check_wavelet, corner


@full_precision
def soft_threshold(x: Tensor, t: Tensor | float, dim: int | None = None) -> Tensor:
    """Shrink magnitudes by t and keep the phase; over ``dim``, shrink the joint Euclidean norm (isotropic)."""
    v = torch.view_as_real(x.resolve_conj())
    power = v.square().sum(-1)
    if dim is not None:
        power = power.sum(dim, keepdim=True)
    # rsqrt of a tiny positive number is large, so zero stays zero without a division by zero.
    tiny = torch.finfo(power.dtype).tiny
    return x * (1 - t * power.clamp_min(tiny).rsqrt()).clamp_min(0)


class Regularizer(FullPrecision, ABC):
    """R(x) = λ φ(G x), with λ one value for each item (B,) or for all."""

    @abstractmethod
    def operator(self) -> LinearOperator:
        """Return G."""

    @property
    @abstractmethod
    def norm2(self) -> float:
        """The largest eigenvalue of Gᴴ G, or a bound of it."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Return R(x) of each item (B,), without λ."""

    @abstractmethod
    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Return the proximal map of t φ at v, v in the range of G."""

    @abstractmethod
    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return argmin_u ½‖u − x‖² + t φ(G u), and what the next call may start from."""


@dataclass(frozen=True)
class WaveletL1(Regularizer):
    """φ = ℓ1 norm of the wavelet details; the approximation, which is not sparse, is not penalised.

    With ``shifts`` the grid is moved at random at every iteration, which removes the block artefacts of a decimated
    transform (random cycle spinning: Kamilov et al., IEEE TIP 21:3048, 2012; BART does the same). In the same way
    several wavelets, separated by commas, take turns at random: short filters keep edges, long ones smooth texture.
    Shift and turn are functions of (seed, iteration), equal for all items. Value and splitting use the first wavelet.
    """

    ndim: int = 2
    wavelet: str = "db4"
    coarsest: int = 16
    shifts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.wavelet.split(","):
            check_wavelet(name)

    def operator(self, turn: int = 0) -> Wavelet:
        """Return the wavelet transform, of the first wavelet or of another."""
        return Wavelet(self.ndim, self.wavelet.split(",")[turn], self.coarsest)

    @property
    def norm2(self) -> float:
        """Orthogonal: 1."""
        return 1.0

    def value(self, x: Tensor) -> Tensor:
        """Return Σ |details| (B,)."""
        w = self.operator()(x)
        return (w.abs() * self._details(w)).flatten(1).sum(1)

    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Soft-threshold the details (B, M, *space)."""
        out = soft_threshold(v, t)
        # The corner has the same place for every wavelet.
        where = corner(self.operator().shapes(tuple(v.shape[-self.ndim :]))[-1])
        out[where] = v[where]
        return out

    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return Wᴴ shrink(W x, t), on the grid of this iteration."""
        turn, shift = self._draw(tuple(x.shape[-self.ndim :]), iteration)
        w, axes = self.operator(turn), tuple(range(-self.ndim, 0))
        moved = x.roll(shift, axes) if any(shift) else x
        out = w.adjoint(self.shrink(w(moved), t))
        return out.roll(tuple(-s for s in shift), axes) if any(shift) else out, None

    def _draw(self, space: tuple[int, ...], iteration: int) -> tuple[int, tuple[int, ...]]:
        """Return whose turn it is, and the shift of the grid."""
        if not self.shifts:
            return 0, (0,) * self.ndim
        # One level doubles the period of the grid: beyond 2**levels a shift repeats.
        period = 2 ** (len(self.operator().shapes(space)) - 1)
        rng = np.random.default_rng([self.seed, iteration])
        return int(rng.integers(self.wavelet.count(",") + 1)), tuple(int(rng.integers(period)) for _ in space)

    def _details(self, w: Tensor) -> Tensor:
        keep = torch.ones(w.shape[-self.ndim :], dtype=w.real.dtype, device=w.device)
        keep[corner(self.operator().shapes(tuple(keep.shape))[-1])] = 0
        return keep


@dataclass(frozen=True)
class TotalVariation(Regularizer):
    """φ = Σ over voxels of the Euclidean norm of the complex gradient: isotropic TV, periodic at the edges.

    Rudin, Osher, Fatemi, Physica D 60:259, 1992. The proximal map has no closed form: it is solved on its dual by
    fast gradient projection (Beck, Teboulle, IEEE TIP 18:2419, 2009), started from the previous iteration's dual.
    Its iterations grow by one every fourth time: FISTA converges only where the error of an inexact proximal map falls
    (Schmidt et al., NIPS 2011).
    """

    ndim: int = 2
    inner: int = 3

    def operator(self) -> Gradient:
        """Return the periodic finite differences."""
        return Gradient(self.ndim)

    @property
    def norm2(self) -> float:
        """At most 4 an axis."""
        return self.operator().norm2

    def value(self, x: Tensor) -> Tensor:
        """Return Σ |∇x| (B,)."""
        g = torch.view_as_real(self.operator()(x).resolve_conj())
        return g.square().sum(-1).sum(-self.ndim - 1).sqrt().flatten(1).sum(1)

    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Shrink the gradient's length at every voxel (B, M, ndim, *space)."""
        return soft_threshold(v, t, dim=-self.ndim - 1)

    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x − Gᴴ u with u the dual solution, kept in the ball of radius t at every voxel."""
        g, axis = self.operator(), -self.ndim - 1
        u = torch.zeros_like(g(x)) if warm is None else warm
        radius = t if isinstance(t, float) else per_item(t.reshape(-1), u)
        v, k = u, 1.0
        for _ in range(self.inner + iteration // 4):
            new = project_ball(v + g(x - g.adjoint(v)) / self.norm2, radius, axis)
            k_next = (1 + (1 + 4 * k * k) ** 0.5) / 2
            v = new + (k - 1) / k_next * (new - u)
            u, k = new, k_next
        return x - g.adjoint(u), u


@full_precision
def project_ball(v: Tensor, radius: Tensor | float, dim: int) -> Tensor:
    """Project onto joint Euclidean length ≤ radius over ``dim``."""
    power = torch.view_as_real(v.resolve_conj()).square().sum(-1).sum(dim, keepdim=True)
    # rsqrt of a tiny positive number is large, so what is zero stays zero.
    scale = radius * power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()
    return v * scale.clamp_max(1)
