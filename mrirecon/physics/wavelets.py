"""Compute orthogonal wavelet transforms of arrays of any size, by products with banded matrices."""

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
    """Return an orthogonal wavelet of PyWavelets by name.

    Raises:
        UsageError: PyWavelets has no orthogonal wavelet of that name.

    """
    if name not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(name).orthogonal:
        choices = ", ".join(w for family in ("haar", "db", "sym", "coif") for w in pywt.wavelist(family)[:4])
        raise UsageError(f"{name!r} is not an orthogonal wavelet", fix=f"choose one of {choices}, …")
    return pywt.Wavelet(name)


@lru_cache(maxsize=64)
def _dwt_matrix(n: int, wavelet: str) -> np.ndarray:
    """Return one level of the orthogonal periodic wavelet transform of length n: an n×n matrix, low-pass rows first.

    Daubechies, Ten Lectures on Wavelets, 1992; filters from PyWavelets. An even length gives the usual periodized
    transform. For an odd length, rows overlap where the ends meet. They are orthogonalized (Löwdin's method, which
    changes the rows as little as possible).
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
    """Hold a banded matrix as one small matrix that is applied to overlapping windows of the input."""

    block: Tensor  # (outputs of a window, inputs of a window)
    inputs: Tensor | None  # indices of the inputs of all windows; None for one window with the whole input
    outputs: Tensor | None  # position of each output among those of the windows; None if they are in order


@lru_cache(maxsize=64)
def _banded(n: int, wavelet: str, inverse: bool, dtype: torch.dtype, device: torch.device) -> _Banded:
    """Return the one-level transform of length n, or its inverse, in windows if the length allows it.

    A product with the full n×n matrix would spend most of its time on zeros.
    """
    whole = _dwt_matrix(n, wavelet)
    half, pairs = n // 2, _window_pairs(n)
    matrix = whole.T if inverse else whole
    if pairs == 0:
        return _Banded(torch.from_numpy(matrix.copy()).to(device, dtype), None, None)
    count = half // pairs
    # A window has 2·pairs samples, or pairs low-pass and pairs high-pass coefficients.
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


def _window_pairs(n: int) -> int:
    """Return the number of low-pass rows of a window: 16 to 32, a divisor of n / 2; 0 for one window."""
    if n % 2 or n < 96:
        return 0
    return next((pairs for pairs in range(32, 15, -1) if (n // 2) % pairs == 0), 0)


@dataclass(frozen=True)
class Wavelet(LinearOperator):
    """Transform the last ``ndim`` axes by an orthogonal discrete wavelet transform; the shape stays the same.

    The approximation lies in the leading corner (Mallat's layout). Each level is a product with a banded matrix along
    every axis, which is faster on images than a convolution.

    Attributes:
        ndim: number of spatial axes.
        wavelet: name of an orthogonal wavelet of PyWavelets.
        coarsest: levels are added while every axis keeps at least this many approximation coefficients.

    """

    ndim: int = 2
    wavelet: str = "db4"
    coarsest: int = 16

    def shapes(self, space: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shape that each level transforms, finest first, and finally that of the approximation.

        There is at least one level, so that an image smaller than ``coarsest`` is also regularized.
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
        """Transform the leading block of ``shape`` and leave the rest unchanged."""
        index = corner(shape)
        block = planes[index]
        for axis in range(-self.ndim, 0):
            w = _banded(shape[axis], self.wavelet, inverse, planes.dtype, planes.device)
            block = _apply(w, block, axis)
        if block.shape == planes.shape:
            return block
        planes = planes.clone() if planes.requires_grad else planes
        planes[index] = block
        return planes

    @staticmethod
    def _planes(x: Tensor) -> Tensor:
        # The matrices are real: applying them to real and imaginary parts takes half the arithmetic of a complex
        # product.
        return torch.view_as_real(x.resolve_conj()).movedim(-1, 0).contiguous()

    @staticmethod
    def _complex(planes: Tensor) -> Tensor:
        return torch.complex(planes[0], planes[1])


def corner(shape: tuple[int, ...]) -> tuple[EllipsisType | slice, ...]:
    """Return the index of the leading block of a shape on the last axes."""
    return (..., *(slice(n) for n in shape))


def _apply(w: _Banded, x: Tensor, axis: int) -> Tensor:
    """Multiply along one axis by a banded matrix."""
    if axis == -1:
        return x @ w.block.T if w.inputs is None else _apply(w, x.mT.contiguous(), -2).mT.contiguous()
    shape = x.shape
    if w.inputs is None:
        return (w.block @ x.flatten(axis + 1)).reshape(shape) if axis < -2 else w.block @ x
    windows = x.index_select(axis, w.inputs).reshape(*shape[:axis], -1, w.block.shape[1], math.prod(shape[axis + 1 :]))
    out = (w.block @ windows).reshape(shape)
    return out if w.outputs is None else out.index_select(axis, w.outputs)
