"""Orthogonal wavelets of any length: exact, banded, and differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from mrirecon.errors import UsageError
from mrirecon.physics.operators import LinearOperator


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
        where = corner(shape)
        block = planes[where]
        for axis in range(-self.ndim, 0):
            w = _banded(shape[axis], self.wavelet, inverse, planes.dtype, planes.device)
            block = _apply(w, block, axis)
        if block.shape == planes.shape:
            return block
        planes = planes.clone() if planes.requires_grad else planes
        planes[where] = block
        return planes

    @staticmethod
    def _planes(x: Tensor) -> Tensor:
        # Real matrices act on the real and the imaginary plane: half the arithmetic of a complex product.
        return torch.view_as_real(x.resolve_conj()).movedim(-1, 0).contiguous()

    @staticmethod
    def _complex(planes: Tensor) -> Tensor:
        return torch.complex(planes[0], planes[1])


def corner(shape: tuple[int, ...]) -> tuple[EllipsisType | slice, ...]:
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
