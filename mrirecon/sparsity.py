"""Sparsifying transforms and the regularizers built on them: orthogonal wavelets, isotropic total variation.

A regularizer R knows its value, its proximal map and its splitting R(x) = φ(G x), so that FISTA, ADMM and primal-dual
solve the same objective through whichever of the three they need.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.operators import Gradient, LinearOperator, per_item


def check_wavelet(name: str) -> pywt.Wavelet:
    """Return an orthogonal wavelet by name.

    Raises:
        UsageError: there is none of that name.

    """
    if name not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(name).orthogonal:
        choices = ", ".join(w for family in ("haar", "db", "sym", "coif") for w in pywt.wavelist(family)[:4])
        raise UsageError(f"{name!r} is not an orthogonal wavelet", fix=f"choose one of {choices}, …")
    return pywt.Wavelet(name)


@lru_cache(maxsize=64)
def _dwt_matrix(n: int, wavelet: str) -> np.ndarray:
    """One level of the orthogonal periodic wavelet transform of length n, as an n×n matrix: low-pass rows, then high.

    Daubechies, Ten Lectures on Wavelets, 1992; filters from PyWavelets. An even length gives the usual periodised
    transform. On a circle of odd length the rows that meet at the seam overlap, so they are orthogonalised there
    (Löwdin, which moves every row as little as possible): the transform stays orthogonal and no sample is set aside.
    """
    filters = check_wavelet(wavelet)
    lo, hi = np.array(filters.rec_lo), np.array(filters.rec_hi)

    def rows(taps: np.ndarray, count: int) -> np.ndarray:
        out = np.zeros((count, n))
        for i in range(count):
            np.add.at(out[i], (2 * i + np.arange(len(taps)) - len(taps) // 2 + 1) % n, taps)
        return out

    def orthonormal(a: np.ndarray) -> np.ndarray:
        u, _, vh = np.linalg.svd(a, full_matrices=False)
        return np.asarray(u @ vh)

    low, high = rows(lo, (n + 1) // 2), rows(hi, n // 2)
    if n % 2:
        low = orthonormal(low)
        high = orthonormal(high - high @ low.T @ low)
    return np.concatenate([low, high])


class _Banded(NamedTuple):
    """A banded matrix as one small matrix that acts on overlapping windows of its input, all alike."""

    block: Tensor  # (rows of a block, inputs of a block)
    taken: Tensor | None  # which inputs the blocks read, block after block; None: one block reads all, in order
    order: Tensor | None  # where to find each output among the blocks' rows


@lru_cache(maxsize=64)
def _banded(n: int, wavelet: str, inverse: bool, dtype: torch.dtype, device: torch.device) -> _Banded:
    """Return the one-level transform of length n, or its inverse, cut into blocks where the length allows it.

    A product with the whole n×n matrix spends most of its time on zeros.
    """
    whole = _dwt_matrix(n, wavelet)
    half, pairs = n // 2, _block_pairs(n)
    matrix = whole.T if inverse else whole
    if pairs == 0:
        return _Banded(torch.from_numpy(matrix.copy()).to(device, dtype), None, None)
    count = half // pairs
    # Samples run 2·pairs to a block; coefficients pairs low-pass ones and pairs high-pass ones.
    samples = np.arange(n).reshape(count, 2 * pairs)
    low = np.arange(half).reshape(count, pairs)
    rows = samples if inverse else np.concatenate([low, low + half], 1)
    reads = np.flatnonzero(np.abs(matrix[rows[0]]).max(0))
    shift = np.arange(count)[:, None]
    if inverse:
        moved = np.where(reads < half, (reads + shift * pairs) % half, half + (reads - half + shift * pairs) % half)
    else:
        moved = (reads + shift * 2 * pairs) % n
    block = matrix[np.ix_(rows[0], reads)]
    return _Banded(
        torch.from_numpy(block.copy()).to(device, dtype),
        torch.from_numpy(moved.ravel()).to(device),
        None if inverse else torch.from_numpy(np.argsort(rows.ravel())).to(device),
    )


def _block_pairs(n: int) -> int:
    """Return how many low-pass rows a block has: 16 to 32 where that divides the length, 0 to take it whole."""
    if n % 2 or n < 96:
        return 0
    return next((pairs for pairs in range(32, 15, -1) if (n // 2) % pairs == 0), 0)


@dataclass(frozen=True)
class Wavelet(LinearOperator):
    """Orthogonal discrete wavelet transform over the last ``ndim`` axes, any size; coefficients have the image's shape.

    Mallat layout: the approximation in the leading corner. Each level is a product with a banded matrix along every
    axis: exact at any length, and on images faster than the convolution that it stands for.

    Attributes:
        ndim: number of spatial axes.
        wavelet: name of an orthogonal wavelet of PyWavelets.
        coarsest: levels are added while every axis keeps at least this many approximation coefficients.

    """

    ndim: int = 2
    wavelet: str = "db4"
    coarsest: int = 16

    def shapes(self, space: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the block that each level transforms, finest first, and last the approximation that remains.

        One level at least, so that an image smaller than ``coarsest`` is regularized too.
        """
        out = [tuple(space)]
        while True:
            halved = tuple((n + 1) // 2 for n in out[-1])
            if halved == out[-1] or (len(out) > 1 and min(halved) < self.coarsest):
                return out
            out.append(halved)

    def __call__(self, x: Tensor) -> Tensor:
        planes = self._planes(x)
        for shape in self.shapes(tuple(x.shape[-self.ndim :]))[:-1]:
            planes = self._replace(planes, shape, inverse=False)
        return self._complex(planes)

    def adjoint(self, y: Tensor) -> Tensor:
        planes = self._planes(y)
        for shape in reversed(self.shapes(tuple(y.shape[-self.ndim :]))[:-1]):
            planes = self._replace(planes, shape, inverse=True)
        return self._complex(planes)

    def _replace(self, planes: Tensor, shape: tuple[int, ...], inverse: bool) -> Tensor:
        """Transform the leading block of ``shape`` and leave the rest."""
        corner = _corner(shape)
        block = planes[corner]
        for axis in range(-self.ndim, 0):
            w = _banded(shape[axis], self.wavelet, inverse, planes.dtype, planes.device)
            block = _apply(w, block, axis)
        if block.shape == planes.shape:
            return block
        planes = planes.clone() if planes.requires_grad else planes
        planes[corner] = block
        return planes

    @staticmethod
    def _planes(x: Tensor) -> Tensor:
        # Real matrices act on the real and the imaginary plane: half the arithmetic of a complex product.
        return torch.view_as_real(x.resolve_conj()).movedim(-1, 0).contiguous()

    @staticmethod
    def _complex(planes: Tensor) -> Tensor:
        return torch.complex(planes[0], planes[1])


def _corner(shape: tuple[int, ...]) -> tuple[EllipsisType | slice, ...]:
    """Index the leading block of that shape on the last axes."""
    return (..., *(slice(n) for n in shape))


def _apply(w: _Banded, x: Tensor, axis: int) -> Tensor:
    """Multiply along one axis by a banded matrix."""
    if axis == -1:
        return x @ w.block.T if w.taken is None else _apply(w, x.mT.contiguous(), -2).mT.contiguous()
    shape = x.shape
    if w.taken is None:
        return (w.block @ x.flatten(axis + 1)).reshape(shape) if axis < -2 else w.block @ x
    windows = x.index_select(axis, w.taken).reshape(*shape[:axis], -1, w.block.shape[1], math.prod(shape[axis + 1 :]))
    out = (w.block @ windows).reshape(shape)
    return out if w.order is None else out.index_select(axis, w.order)


def soft_threshold(x: Tensor, t: Tensor | float, dim: int | None = None) -> Tensor:
    """Shrink magnitudes by t and keep the phase; over ``dim``, shrink the joint Euclidean norm (isotropic)."""
    v = torch.view_as_real(x.resolve_conj())
    power = v.square().sum(-1)
    if dim is not None:
        power = power.sum(dim, keepdim=True)
    # rsqrt of a tiny positive number is large, so zero stays zero without a division by zero.
    tiny = torch.finfo(power.dtype).tiny
    return x * (1 - t * power.clamp_min(tiny).rsqrt()).clamp_min(0)


class Regularizer(ABC):
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
        corner = _corner(self.operator().shapes(tuple(v.shape[-self.ndim :]))[-1])
        out[corner] = v[corner]
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
        keep[_corner(self.operator().shapes(tuple(keep.shape))[-1])] = 0
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


def project_ball(v: Tensor, radius: Tensor | float, dim: int) -> Tensor:
    """Project onto joint Euclidean length ≤ radius over ``dim``."""
    power = torch.view_as_real(v.resolve_conj()).square().sum(-1).sum(dim, keepdim=True)
    # rsqrt of a tiny positive number is large, so what is zero stays zero.
    scale = radius * power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()
    return v * scale.clamp_max(1)
