"""Define regularizers: the l1 norm of wavelet details, and isotropic total variation.

A regularizer R(x) = φ(G x) has a value, a proximal map, and the operator G with the proximal map of φ, so that FISTA,
ADMM and primal-dual minimize the same objective.
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
    """Shrink magnitudes by t and keep the phase; with ``dim``, shrink the Euclidean norm over that axis."""
    v = torch.view_as_real(x.resolve_conj())
    power = v.square().sum(-1)
    if dim is not None:
        power = power.sum(dim, keepdim=True)
    # No division by zero: rsqrt of a tiny number is large, and zero stays zero.
    tiny = torch.finfo(power.dtype).tiny
    return x * (1 - t * power.clamp_min(tiny).rsqrt()).clamp_min(0)


class Regularizer(FullPrecision, ABC):
    """Define R(x) = φ(G x)."""

    @abstractmethod
    def operator(self) -> LinearOperator:
        """Return G."""

    @property
    @abstractmethod
    def norm2(self) -> float:
        """Return an upper bound of the largest eigenvalue of Gᴴ G."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Return R(x) of each item (B,)."""

    @abstractmethod
    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Return argmin_w ½‖w − v‖² + t φ(w), for v in the range of G."""

    @abstractmethod
    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return argmin_u ½‖u − x‖² + t φ(G u), and the warm start of the next call.

        Args:
            x: (B, M, *space).
            t: one value for all items, or a tensor that broadcasts over x.
            iteration: number of the call, for random shifts and increasing accuracy.
            warm: state that the previous call returned; None at first.

        """


@dataclass(frozen=True)
class WaveletL1(Regularizer):
    """Take the ℓ1 norm of the wavelet details; the approximation is not sparse and not penalized.

    Attributes:
        ndim: number of spatial axes.
        wavelet: names of orthogonal wavelets of PyWavelets, separated by commas. With ``shifts``, `prox` draws one of
            them in every call: short filters preserve edges, long filters smooth texture. Other functions use the
            first.
        coarsest: see `mrirecon.physics.wavelets.Wavelet`.
        shifts: shift the grid at random in every call of `prox`, which removes the block artefacts of a decimated
            transform (random cycle spinning: Kamilov et al., IEEE TIP 21:3048, 2012; as in BART).
        seed: seed of the draws, which depend on (seed, iteration) and are equal for all items.

    """

    ndim: int = 2
    wavelet: str = "db4"
    coarsest: int = 16
    shifts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.wavelet.split(","):
            check_wavelet(name)

    def operator(self, index: int = 0) -> Wavelet:
        """Return the transform with the wavelet of that index."""
        return Wavelet(self.ndim, self.wavelet.split(",")[index], self.coarsest)

    @property
    def norm2(self) -> float:
        """Return 1: G is orthogonal."""
        return 1.0

    def value(self, x: Tensor) -> Tensor:
        """Return Σ|details| (B,)."""
        w = self.operator()(x)
        return (w.abs() * self._details(w)).flatten(1).sum(1)

    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Soft-threshold the details (B, M, *space)."""
        out = soft_threshold(v, t)
        # The approximation lies in the same corner for every wavelet.
        approximation = corner(self.operator().shapes(tuple(v.shape[-self.ndim :]))[-1])
        out[approximation] = v[approximation]
        return out

    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return Wᴴ shrink(W x, t), on the grid of this iteration."""
        index, shift = self._draw(tuple(x.shape[-self.ndim :]), iteration)
        w, axes = self.operator(index), tuple(range(-self.ndim, 0))
        shifted = x.roll(shift, axes) if any(shift) else x
        out = w.adjoint(self.shrink(w(shifted), t))
        return out.roll(tuple(-s for s in shift), axes) if any(shift) else out, None

    def _draw(self, space: tuple[int, ...], iteration: int) -> tuple[int, tuple[int, ...]]:
        """Return the index of the wavelet and the shift of the grid."""
        if not self.shifts:
            return 0, (0,) * self.ndim
        # Shifts by 2**levels give the same grid.
        period = 2 ** (len(self.operator().shapes(space)) - 1)
        rng = np.random.default_rng([self.seed, iteration])
        return int(rng.integers(self.wavelet.count(",") + 1)), tuple(int(rng.integers(period)) for _ in space)

    def _details(self, w: Tensor) -> Tensor:
        """Return a mask (*space) of the details."""
        keep = torch.ones(w.shape[-self.ndim :], dtype=w.real.dtype, device=w.device)
        keep[corner(self.operator().shapes(tuple(keep.shape))[-1])] = 0
        return keep


@dataclass(frozen=True)
class TotalVariation(Regularizer):
    """Sum the Euclidean norm of the complex gradient over the voxels: isotropic total variation, periodic at the edges.

    Rudin, Osher, Fatemi, Physica D 60:259, 1992. The proximal map has no closed form. It is solved in its dual by fast
    gradient projection (Beck, Teboulle, IEEE TIP 18:2419, 2009), starting from the dual of the last call. FISTA only
    converges if the error of an inexact proximal map falls (Schmidt et al., NIPS 2011): every fourth call uses one more
    iteration.

    Attributes:
        ndim: number of spatial axes.
        inner: number of iterations of the first call.

    """

    ndim: int = 2
    inner: int = 3

    def operator(self) -> Gradient:
        """Return the periodic finite differences."""
        return Gradient(self.ndim)

    @property
    def norm2(self) -> float:
        """Return 4 for each axis."""
        return self.operator().norm2

    def value(self, x: Tensor) -> Tensor:
        """Return Σ|∇x| (B,)."""
        g = torch.view_as_real(self.operator()(x).resolve_conj())
        return g.square().sum(-1).sum(-self.ndim - 1).sqrt().flatten(1).sum(1)

    def shrink(self, v: Tensor, t: Tensor | float) -> Tensor:
        """Shrink the length of the gradient at every voxel; v is (B, M, ndim, *space)."""
        return soft_threshold(v, t, dim=-self.ndim - 1)

    def prox(self, x: Tensor, t: Tensor | float, iteration: int, warm: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x − Gᴴ u and u, the dual solution, of length ≤ t at every voxel."""
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
    """Project onto Euclidean length ≤ radius over the axis ``dim``."""
    power = torch.view_as_real(v.resolve_conj()).square().sum(-1).sum(dim, keepdim=True)
    # No division by zero: rsqrt of a tiny number is large, and zero stays zero.
    scale = radius * power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()
    return v * scale.clamp_max(1)
