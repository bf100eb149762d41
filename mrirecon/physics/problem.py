"""Define the inverse problem y = M F S x + n of one batch, with fast paths for repeated operations.

Methods use this interface only. A test checks that every fast path equals the composed operators up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.physics.operators import Coils, Fourier, LinearOperator, Mask, combine, root_sum_of_squares, weight
from mrirecon.physics.precision import FullPrecision

_GROUP_SIZE = 2**18  # complex numbers of k-space (2 MiB): small enough for the cache, large enough to use all threads


@dataclass(frozen=True)
class _Prepared:
    """Hold values that every iteration uses, computed once before the first step."""

    adjoint: Tensor  # Aᴴ y (B, M, *space)
    mask: Tensor  # M / n for n transformed samples, with the centre at index 0; of length 1 along constant axes
    axes: tuple[int, ...]  # axes along which the mask varies; along the others Fᴴ F cancels
    lipschitz: Tensor  # (B,) upper bound of the largest eigenvalue of Aᴴ A


class Undersampling(NamedTuple):
    """Describe the undersampling of one item, for the choice of regularization weights."""

    acceleration: float
    averaging: float  # noise of a sample over the noise of a voxel of Aᴴ y, for one coil of sensitivity 1
    scattered: bool  # whether aliasing spreads over more than one axis


@dataclass(frozen=True)
class Problem(FullPrecision):
    """Hold one batch of y = M F S x + n.

    A method uses `adjoint`, `normal`, `gradient`, `lipschitz`, `zero_filled`, `coil_images` and `initial_image` only,
    and so also runs for samples on a trajectory (`mrirecon.physics.nonuniform.NonUniformProblem`), unless one of its
    parts declares ``needs_cartesian``. Changes of variable x = T u are in `mrirecon.physics.transforms`.

    Attributes:
        y: (B, C, *space) complex, centred k-space. Samples outside the mask are set to zero.
        mask: (B or 1, 1, *space) real, 1 where sampled and 0 elsewhere. A bool mask is converted.
        maps: S, (B, M, C, *space) complex, M sets of coil sensitivities.
        initial_image: (B, M, *space) complex, start of the iterations; None for the zero-filled image Aᴴ y.
        noise: (B, C, C) complex, noise covariance of the coils for one sample; None if unknown.

    Raises:
        InputError: shapes or types that do not match, or a mask with values other than 0 and 1.

    """

    y: Tensor
    mask: Tensor
    maps: Tensor
    initial_image: Tensor | None = None
    noise: Tensor | None = None
    cache: _Prepared | None = field(default=None, repr=False, compare=False)
    # The last checked pair of y and mask: copies of a problem with both are not checked again.
    verified: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        y, mask, maps = self.y, self.mask, self.maps
        self._check_shapes()
        if not (y.is_complex() and maps.is_complex()) or mask.is_complex():
            raise InputError(
                "k-space and coil maps must be complex, the mask real",
                why=f"y {y.dtype}, mask {mask.dtype}, maps {maps.dtype}",
                fix="convert them",
            )
        if self.verified is None or self.verified[0] is not y or self.verified[1] is not mask:
            self._apply_mask()

    def _check_shapes(self) -> None:
        y, mask, maps = self.y, self.mask, self.maps
        fits = (
            y.ndim in (4, 5)
            and (maps.ndim, mask.ndim) == (y.ndim + 1, y.ndim)
            and (maps.shape[0], *maps.shape[2:]) == y.shape
            and mask.shape[0] in (1, y.shape[0])
            and mask.shape[1:] == (1, *y.shape[2:])
        )
        if not fits:
            raise InputError(
                "the shapes of k-space, mask and coil maps do not match",
                why=f"y {tuple(y.shape)}, mask {tuple(mask.shape)}, maps {tuple(maps.shape)}",
                fix="give y (B, C, *space), mask (B or 1, 1, *space), maps (B, M, C, *space), *space of 2 or 3 axes",
            )

    def _apply_mask(self) -> None:
        """Reject a mask with values other than 0 and 1, and set k-space to zero outside the mask.

        A method may use y without the mask, such as the first step of E2EVN, k − η M(k − y) with k = y.
        """
        y = self.y
        mask = self.mask if self.mask.is_floating_point() else self.mask.to(y.real.dtype)
        unsampled = mask == 0
        wrong = ~unsampled & (mask != 1)
        if bool(wrong.any()):
            raise InputError(
                "a mask has values other than 0 and 1",
                where="the mask of a problem",
                why=f"{int(wrong.sum())} of its {mask.numel()} values, the first is {mask[wrong][0].item():g}",
                fix="use 1 for measured samples and 0 elsewhere; divide sums of averages by their number first",
            )
        # One coil at a time, because k-space may be large.
        outside = [((y[:, c : c + 1] != 0) & unsampled).any() for c in range(y.shape[1])]
        if bool(torch.stack(outside).any()):
            y = torch.where(unsampled, torch.zeros((), dtype=y.dtype, device=y.device), y)
        for name, value in (("y", y), ("mask", mask), ("verified", (y, mask))):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    @property
    def axes(self) -> tuple[int, ...]:
        """Return the spatial axes, counted from the end."""
        return tuple(range(3 - self.maps.ndim, 0))

    @property
    def encode(self) -> LinearOperator:
        """Return F S, which maps images to the fully sampled k-space of every coil."""
        return Fourier(self.axes) @ Coils(self.maps)

    @property
    def A(self) -> LinearOperator:
        """Return M F S, which maps images to the measured k-space."""
        return Mask(self.mask) @ self.encode

    def prepared(self) -> Problem:
        """Return the problem with precomputed values for the iterations; itself if they are computed."""
        if self.cache is not None:
            return self
        mask, varying = self.mask, []
        for axis in self.axes:
            if bool((mask == mask.narrow(axis, 0, 1)).all()):
                mask = mask.narrow(axis, 0, 1)
            else:
                varying.append(axis)
        adjoint = torch.zeros_like(self.maps[:, :, 0])
        for c in self._coil_groups():
            images = Fourier(self.axes).adjoint(self.mask * self.y[:, c])
            adjoint = adjoint + combine(self.maps[:, :, c], images)
        mask = torch.fft.ifftshift(mask, self.axes) / math.prod(mask.shape[2:])
        return replace(self, cache=_Prepared(adjoint, mask, tuple(varying), self._largest_eigenvalue()))

    def _largest_eigenvalue(self) -> Tensor:
        """Return an upper bound (B,) of the largest eigenvalue of Aᴴ A.

        Gershgorin: the row sums of the M×M Gram matrix of a voxel bound its largest eigenvalue. The bound is exact for
        one set of maps and for orthogonal sets, as ESPIRiT's.
        """
        maps = self.maps.detach()  # no gradients through a step size
        if maps.shape[1] > 1:
            rows = (maps.conj().unsqueeze(2) * maps.unsqueeze(1)).sum(3).abs().sum(2)
        else:
            rows = torch.zeros_like(maps[:, :, 0].real)
            for c in self._coil_groups():
                rows = rows + root_sum_of_squares(maps[:, :, c], 2).square()
        return rows.flatten(1).amax(1)

    @property
    def adjoint(self) -> Tensor:
        """Return Aᴴ y, the zero-filled image (B, M, *space)."""
        return self.A.adjoint(self.y) if self.cache is None else self.cache.adjoint

    @property
    def zero_filled(self) -> Tensor:
        """Return the image (B, M, *space) with zero for all samples that were not measured: Aᴴ y."""
        return self.adjoint

    @property
    def coil_images(self) -> Tensor:
        """Return the zero-filled images of the coils (B, C, *space), Fᴴ y."""
        return Fourier(self.axes).adjoint(self.y)

    @property
    def starting_image(self) -> Tensor:
        """Return the initial image (B, M, *space) of iterations: `initial_image`, or else the zero-filled image."""
        return self.zero_filled if self.initial_image is None else self.initial_image

    @property
    def lipschitz(self) -> Tensor:
        """Return an upper bound (B,) of the largest eigenvalue of Aᴴ A: gradient steps of 1/lipschitz converge."""
        cache = self.prepared().cache
        assert cache is not None
        return cache.lipschitz

    @property
    def sampled_share(self) -> Tensor:
        """Return the fraction of k-space that is sampled (B,)."""
        return self.mask.flatten(1).mean(1).expand(self.y.shape[0])

    def noise_variance(self, unknown: float) -> Tensor:
        """Return the mean noise variance of a sample (B,), with the energy of the maps as weights of the coils.

        Args:
            unknown: value if the noise is not known.

        """
        energy = self.maps.detach().abs().square().flatten(3).mean(3).sum(1)
        if self.noise is None:
            return torch.full_like(energy[:, 0], unknown)
        variances = self.noise.diagonal(dim1=-2, dim2=-1).real
        floor = torch.finfo(energy.dtype).tiny
        return ((variances * energy).sum(1) / energy.sum(1)).clamp_min(floor)

    def normal(self, x: Tensor) -> Tensor:
        """Return Aᴴ A x for x (B, M, *space)."""
        if self.cache is None:
            return self.A.normal(x)
        # No shifts: moving the image's origin multiplies k-space by a phase, which commutes with the mask and cancels.
        mask, axes = self.cache.mask, self.cache.axes
        out = None
        for c in self._coil_groups():
            maps = self.maps[:, :, c]
            k = weight(maps, x)
            k = torch.fft.fftn(k, dim=axes).mul_(mask) if axes else k * mask
            # The transforms are not normalized: the mask contains the factor 1/n.
            part = combine(maps, torch.fft.ifftn(k, dim=axes, norm="forward") if axes else k)
            out = part if out is None else out.add_(part)
        assert out is not None, "a problem has at least one coil"
        return out

    def _coil_groups(self) -> list[slice]:
        """Return the groups of coils to process together; on a CPU without gradients, they fit the cache."""
        group = coils = self.y.shape[1]
        if self.y.device.type == "cpu" and not torch.is_grad_enabled():
            group = max(1, min(coils, _GROUP_SIZE * coils // max(1, self.y.numel())))
        return [slice(c, c + group) for c in range(0, coils, group)]

    def gradient(self, x: Tensor) -> Tensor:
        """Return Aᴴ (A x − y), the gradient of ½‖A x − y‖² (B, M, *space)."""
        return self.normal(x) - self.adjoint

    @property
    def weights(self) -> Tensor:
        """Return the weights of the samples in the data term, the mask."""
        return self.mask

    @property
    def data(self) -> Tensor:
        """Return what A x is compared with: y (B, C, *space)."""
        return self.y

    def residual(self, x: Tensor) -> Tensor:
        """Return A x − y (B, C, *space)."""
        return self.A(x) - self.data

    @property
    def undersampling(self) -> list[Undersampling]:
        """Return the undersampling of each item."""
        items = []
        for mask in self.mask.expand(self.y.shape[0], *self.mask.shape[1:])[:, 0].cpu().numpy():
            rate, scattered = describe_mask(mask)
            items.append(Undersampling(rate, rate**0.5, scattered))
        return items

    def only(self, used: Tensor, **fields: Any) -> Problem:
        """Return the problem of a part of the samples, without the initial image.

        Args:
            used: (B or 1, 1, *space), 1 for the samples to keep.
            fields: further fields to replace.

        """
        visible = self.mask * used
        return Problem(self.y * visible, visible, self.maps, noise=self.noise, **fields)

    def contribution(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the part of Aᴴ A x that comes from some samples, (B, M, *space).

        Args:
            hidden: (B or 1, 1, *space), 1 for these samples, which are among those of the mask.
            x: (B, M, *space).

        """
        return self.encode.adjoint(hidden * self.encode(x))

    def with_samples(self, y: Tensor) -> Problem:
        """Return the problem for other samples at the same positions, without initial image and noise."""
        return Problem(y, self.mask, self.maps)

    def require_cartesian(self, why: str) -> None:
        """Refuse a method that needs Cartesian k-space, for the reason ``why``, if this is no Cartesian k-space."""

    def data_term(self, x: Tensor) -> Tensor:
        """Return ½‖A x − y‖² of each item (B,)."""
        return 0.5 * self.residual(x).abs().square().flatten(1).sum(1)

    def to(self, device: torch.device | str) -> Problem:
        """Return the problem on another device, unprepared."""
        initial, noise = (None if v is None else v.to(device) for v in (self.initial_image, self.noise))
        y, mask, maps = self.y.to(device), self.mask.to(device), self.maps.to(device)
        return Problem(y, mask, maps, initial, noise, verified=(y, mask))


def describe_mask(mask: np.ndarray) -> tuple[float, bool]:
    """Return the acceleration of a mask (*space), and whether it varies along more than one axis."""
    sampled = mask.astype(bool)
    varying = sum(bool((sampled != sampled.take([0], axis)).any()) for axis in range(sampled.ndim))
    return sampled.size / max(1, int(sampled.sum())), varying > 1
