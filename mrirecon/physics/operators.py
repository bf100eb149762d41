"""Define the linear operators of y = M F S x on complex tensors, as frozen dataclasses.

Shapes: images x (B, M, *space), coil images and k-space y (B, C, *space), coil maps S (B, M, C, *space), with batch B,
sets of maps M, coils C, and two or three spatial axes. An operator belongs to one batch and has no trainable
parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.physics.precision import FullPrecision, full_precision


class LinearOperator(FullPrecision, ABC):
    """Define y = A x and its adjoint. ``outer @ inner`` composes two. Autocast does not apply inside."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return Aᴴ y, so that ⟨A x, y⟩ = ⟨x, Aᴴ y⟩."""

    def normal(self, x: Tensor) -> Tensor:
        """Return Aᴴ A x."""
        return self.adjoint(self(x))

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        return Compose(self, inner)


@dataclass(frozen=True)
class Compose(LinearOperator):
    """Apply two operators: x ↦ outer(inner(x))."""

    outer: LinearOperator
    inner: LinearOperator

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


@dataclass(frozen=True)
class Fourier(LinearOperator):
    """Apply the centred, unitary Fourier transform over ``axes``; the centre is sample n // 2, also for odd n."""

    axes: tuple[int, ...] = (-2, -1)

    def __call__(self, x: Tensor) -> Tensor:
        return _shifted(torch.fft.fftn, x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        return _shifted(torch.fft.ifftn, y, self.axes)


def _shifted(transform: Callable[..., Tensor], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    # ifftshift before and fftshift after, because the other order is wrong for odd sizes.
    shifted: Tensor = torch.fft.fftshift(transform(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)
    return shifted


@dataclass(frozen=True)
class Coils(LinearOperator):
    """Multiply images by coil sensitivities, and add up the sets of maps: (B, M, *space) ↦ (B, C, *space).

    Pruessmann et al., SENSE, MRM 42:952, 1999; several sets: Uecker et al., ESPIRiT, MRM 71:990, 2014.
    """

    maps: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        _require(x.shape[1:2] + x.shape[2:] == self.maps.shape[1:2] + self.maps.shape[3:], x, self.maps)
        return weight(self.maps, x)

    def adjoint(self, y: Tensor) -> Tensor:
        _require(y.shape[1:] == self.maps.shape[2:], y, self.maps)
        return combine(self.maps, y)


@full_precision
def weight(maps: Tensor, x: Tensor) -> Tensor:
    """Return Σₘ Sₘ xₘ: (B, M, C, *space), (B, M, *space) ↦ (B, C, *space)."""
    if maps.shape[1] == 1:
        return maps[:, 0] * x
    return (maps * x.unsqueeze(2)).sum(1)


@full_precision
def combine(maps: Tensor, y: Tensor) -> Tensor:
    """Return Σ_c conj(S_c) y_c for every set: (B, M, C, *space), (B, C, *space) ↦ (B, M, *space)."""
    if maps.shape[1] == 1:
        return (maps[:, 0].conj() * y).sum(1, keepdim=True)
    return (maps.conj() * y.unsqueeze(1)).sum(2)


@dataclass(frozen=True)
class Mask(LinearOperator):
    """Multiply by a real sampling mask (B or 1, 1, *space) of 0 and 1; self-adjoint and idempotent."""

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y


@dataclass(frozen=True)
class Gradient(LinearOperator):
    """Take periodic backward differences, as BART: (B, M, *space) ↦ (B, M, ndim, *space)."""

    ndim: int = 2

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([x - x.roll(1, -a) for a in range(self.ndim, 0, -1)], -self.ndim - 1)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = y.unbind(-self.ndim - 1)
        out = torch.zeros_like(parts[0])
        for a, d in zip(range(self.ndim, 0, -1), parts, strict=True):
            out = out + (d - d.roll(-1, -a))
        return out

    @property
    def norm2(self) -> float:
        """Return an upper bound of the largest eigenvalue of Gᴴ G: 4 for each axis."""
        return 4.0 * self.ndim


@full_precision
def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the real part of the inner product of each item: (B, ...), (B, ...) ↦ (B,).

    Shapes must be equal: broadcasting would hide an operator that returns the wrong shape.
    """
    _require(a.shape == b.shape, a, b)
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a * b).flatten(1).sum(1)


@full_precision
def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each item: (B, ...) ↦ (B,)."""
    # Use the real view, because torch's norm of complex numbers is fifty times slower.
    real = torch.view_as_real(a.resolve_conj()) if a.is_complex() else a
    out: Tensor = torch.linalg.vector_norm(real.flatten(1), dim=1)
    return out


@full_precision
def root_sum_of_squares(a: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Return the Euclidean length along one axis, such as the coils; its gradient at zero is zero."""
    power = torch.view_as_real(a.resolve_conj()).square().sum(-1) if a.is_complex() else a.square()
    power = power.sum(dim % a.ndim, keepdim=keepdim)
    if power.requires_grad:  # the gradient of the root is infinite at zero, and would make all weights NaN
        power = power.clamp_min(torch.finfo(power.dtype).tiny)
    return power.sqrt()


def per_item(value: Tensor, like: Tensor) -> Tensor:
    """Reshape one value for each item (B,) such that it broadcasts over ``like`` (B, ...)."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _require(fits: bool, a: Tensor, b: Tensor) -> None:
    if not fits:
        raise ValueError(f"shapes do not match: {tuple(a.shape)} and {tuple(b.shape)}")
