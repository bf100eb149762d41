"""Define the non-uniform Fourier transform, and the inverse problem of k-space sampled along a trajectory.

Iterations use Aᴴ A only, which is a convolution here: two FFTs of twice the size with a precomputed kernel (Toeplitz
embedding: Fessler et al., IEEE Trans. Signal Process. 53:3393, 2005). The non-uniform FFT itself is that of finufft
(Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41:C479, 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mrirecon.errors import InputError, UsageError
from mrirecon.physics.operators import Coils, LinearOperator, Mask, combine, norm, weight
from mrirecon.physics.problem import Problem, Undersampling

Weighting = Literal["density", "none"]

_ACCURACY = {torch.complex64: 1e-6, torch.complex128: 1e-12}  # relative accuracy of a non-uniform FFT
_DENSITY_ACCURACY, _DENSITY_ITERATIONS = 1e-2, 12
_SMALL = 2**16  # coordinates up to which a transform uses one thread
_POWER_ITERATIONS, _POWER_MARGIN = 20, 1.1


def finufft() -> ModuleType:
    """Return the package finufft.

    Raises:
        UsageError: it is not installed.

    """
    try:
        import finufft
    except ImportError:
        raise UsageError(
            "k-space sampled along a trajectory needs the package finufft", fix="pip install 'mrirecon[nufft]'"
        ) from None
    module: ModuleType = finufft
    return module


@dataclass(frozen=True)
class NonUniformFourier(LinearOperator):
    """Sample the unitary Fourier transform of images along a trajectory.

    y(k) = n^(−½) Σ_r x(r) exp(−2πi Σ_a k_a r_a / N_a). r counts voxels from the centre N // 2 of each axis a, and n is
    the number of voxels, so that a Cartesian trajectory gives the same samples as
    `mrirecon.physics.operators.Fourier`. There are gradients for images and samples, none for the trajectory.

    Attributes:
        trajectory: k, (B or 1, readout, sample, ndim) real, in cycles per field of view (1/FOV), one component per
            spatial axis in their order; from −N/2 to N/2 at full resolution.
        shape: N, the spatial shape of the images.

    Raises:
        InputError: a trajectory that does not fit the shape.

    """

    trajectory: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.trajectory.ndim != 4 or self.trajectory.shape[-1] != len(self.shape) or len(self.shape) not in (2, 3):
            raise InputError(
                "the trajectory does not fit the image",
                why=f"trajectory {tuple(self.trajectory.shape)}, image {self.shape}",
                fix="give it as (B or 1, readout, sample, ndim), with one component for each of 2 or 3 spatial axes",
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return y (B, C, readout, sample) for x (B, C, *shape)."""
        y: Tensor = _Transform.apply(x, self, False)  # type: ignore[no-untyped-call]
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """Return x (B, C, *shape) for y (B, C, readout, sample)."""
        x: Tensor = _Transform.apply(y, self, True)  # type: ignore[no-untyped-call]
        return x

    @property
    def doubled(self) -> NonUniformFourier:
        """Return the transform of images of twice the field of view, whose distances reach from −N to N."""
        return NonUniformFourier(2 * self.trajectory, tuple(2 * n for n in self.shape))

    def points(self, item: int, dtype: np.dtype) -> list[np.ndarray]:
        """Return the coordinates of one item in radians per voxel, one array for each axis."""
        k = self.trajectory[item if len(self.trajectory) > 1 else 0].reshape(-1, len(self.shape))
        radians = (2 * math.pi * k.double().cpu() / torch.tensor(self.shape)).numpy()
        return [np.ascontiguousarray(radians[:, axis], dtype) for axis in range(len(self.shape))]


class _Transform(torch.autograd.Function):
    """Apply the transform or its adjoint, with gradients for its input; each is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, fourier: NonUniformFourier, adjoint: bool) -> Tensor:
        """Return the samples of images, or with ``adjoint`` the images of samples."""
        ctx.fourier, ctx.adjoint = fourier, adjoint
        return _transform(fourier, values, adjoint=adjoint)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient for the input."""
        return _transform(ctx.fourier, gradients[0], adjoint=not ctx.adjoint), None, None


def _settings(accuracy: float, size: int) -> dict[str, Any]:
    """Return the options of finufft; a small transform uses one thread, because several would wait for each other."""
    return {"eps": accuracy, "nthreads": torch.get_num_threads() if size > _SMALL else 1, "showwarn": 0}


def _transform(fourier: NonUniformFourier, values: Tensor, *, adjoint: bool) -> Tensor:
    """Apply the transform or its adjoint to all items, on the CPU.

    This is fast enough on a CPU: iterations use `Gram` instead.
    """
    coils = values.shape[1]
    settings = _settings(_ACCURACY[values.dtype], coils * fourier.trajectory[0].numel())
    call = getattr(finufft(), f"nufft{len(fourier.shape)}d{1 if adjoint else 2}")
    shape = fourier.shape if adjoint else tuple(fourier.trajectory.shape[1:3])
    arrays = values.detach().resolve_conj().cpu().numpy()
    out = np.empty((len(arrays), coils, *shape), arrays.dtype)
    for item, array in enumerate(arrays):
        points = fourier.points(item, array.real.dtype)
        if adjoint:
            result = call(*points, np.ascontiguousarray(array.reshape(coils, -1)), shape, isign=1, **settings)
        else:
            result = call(*points, np.ascontiguousarray(array), isign=-1, **settings)
        out[item] = result.reshape(coils, *shape)
    gridded: Tensor = torch.from_numpy(out).to(values.device) * math.prod(fourier.shape) ** -0.5
    return gridded


@dataclass(frozen=True)
class Gram(LinearOperator):
    """Apply Fᴴ W F by a Toeplitz kernel, for weights W of the samples; self-adjoint.

    Attributes:
        fourier: F.
        weights: W, (B or 1, 1, readout, sample) real, at least 0.

    """

    fourier: NonUniformFourier
    weights: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return Fᴴ W F x for x (B, C, *shape)."""
        kernel, shape, k = self.kernel, self.fourier.shape, x
        for axis in range(-1, -len(shape) - 1, -1):  # axis by axis: half of the padding is never transformed
            k = torch.fft.fft(k, n=kernel.shape[axis], dim=axis)
        k = k * kernel
        for axis, n in zip(range(-len(shape), 0), shape, strict=True):
            k = torch.fft.ifft(k, dim=axis).narrow(axis, 0, n)
        return k

    def adjoint(self, y: Tensor) -> Tensor:
        """Return Fᴴ W F y."""
        return self(y)

    @cached_property
    def kernel(self) -> Tensor:
        """Return the transfer function (B or 1, 1, *size), real, with the centre at index 0.

        The size is at least twice the shape along each axis, and a product of small primes.
        """
        wide, axes = self.fourier.doubled, tuple(range(-len(self.fourier.shape), 0))
        batch = max(len(self.weights), len(wide.trajectory))
        weights = self.weights.expand(batch, -1, -1, -1)
        spread = wide.adjoint(torch.complex(weights, torch.zeros_like(weights)))
        for axis in axes:  # no two voxels have the distance −N
            spread.narrow(axis, 0, 1).zero_()
        margins: list[int] = []
        for n in reversed(self.fourier.shape):
            size = next_fast_len(2 * n)
            margins += [size // 2 - n, size - size // 2 - n]
        spread = torch.nn.functional.pad(spread, margins)
        # The kernel is n⁻¹ Σ w exp(2πi k·r/N); the doubled transform has the factor (2ᵈ n)^(−½).
        factor = (2 ** len(axes) / math.prod(self.fourier.shape)) ** 0.5
        kernel: Tensor = torch.fft.fftn(torch.fft.ifftshift(spread * factor, axes), dim=axes).real
        return kernel

    @cached_property
    def largest_eigenvalue(self) -> Tensor:
        """Return an upper bound (B or 1,) of the largest eigenvalue: by power iteration, with a margin."""
        generator = torch.Generator().manual_seed(0)
        kernel = self.kernel
        x = torch.randn(len(kernel), 1, *self.fourier.shape, generator=generator, dtype=torch.complex64).to(
            kernel.device
        )
        x = x.to(kernel.dtype.to_complex())
        for _ in range(_POWER_ITERATIONS):
            x = self(x)
            size = norm(x).clamp_min(torch.finfo(kernel.dtype).tiny)
            x = x / size.reshape(-1, *[1] * (x.ndim - 1))
        # The operator is a part of a circulant matrix, whose largest eigenvalue is a second bound.
        return torch.minimum(_POWER_MARGIN * size, kernel.flatten(1).amax(1))


def pipe_menon(fourier: NonUniformFourier, used: Tensor | None = None) -> Tensor:
    """Return the density compensation of a trajectory: the area of k-space that each sample represents.

    Iterates w ← w / (w ∗ ψ) (Pipe and Menon, MRM 41:179, 1999), where ψ = sinc² is the kernel of the field of view
    (Johnson and Pipe, MRM 61:439, 2009). With ψ(0) = 1, the weights are 1 for Cartesian samples, less where samples are
    closer, and at most 1 where they are farther apart than 1/FOV: a sample never stands for those that were not
    measured, as in a zero-filled Cartesian image.

    Args:
        fourier: transform with the trajectory.
        used: (B or 1, 1, readout, sample), 0 for samples to leave out; None for none.

    Returns:
        (B or 1, 1, readout, sample), float32.

    """
    wide, shape = fourier.doubled, fourier.shape
    triangle: np.ndarray = np.ones((), np.float32)
    for n in shape:
        triangle = triangle[..., None] * (1 - np.abs(np.arange(2 * n, dtype=np.float32) - n) / n)
    triangle = triangle / math.prod(shape)
    items = max(len(fourier.trajectory), 1 if used is None else len(used))
    out = np.empty((items, 1, *fourier.trajectory.shape[1:3]), np.float32)
    settings = _settings(_DENSITY_ACCURACY, fourier.trajectory[0].numel()) | {"dtype": "complex64"}
    grid = finufft().Plan(1, wide.shape, isign=1, **settings)
    sample = finufft().Plan(2, wide.shape, isign=-1, **settings)
    for item in range(items):
        points = wide.points(item, np.dtype(np.float32))
        grid.setpts(*points)
        sample.setpts(*points)
        keep = np.ones(points[0].size, np.float32)
        if used is not None:
            keep = (used[item if len(used) > 1 else 0, 0] > 0).cpu().numpy().reshape(-1).astype(np.float32)
        w = keep
        for _ in range(_DENSITY_ITERATIONS):
            spread = sample.execute(grid.execute(w.astype(np.complex64)) * triangle).real
            w = w / np.maximum(spread, 0.5 * w + 1e-6)  # ψ(0) = 1: only inaccuracy makes the sum smaller than w
        out[item, 0] = w.reshape(out.shape[2:])
    return torch.from_numpy(out).to(fourier.trajectory.device)


def radial_density(fourier: NonUniformFourier) -> Tensor:
    """Return the analytic density compensation of evenly distributed straight readouts through the centre.

    The samples of all readouts between two radii share the area (in 3D, the volume) of this ring. Weights are limited
    as in `pipe_menon`.

    Returns:
        (B or 1, 1, readout, sample), float32.

    """
    k = fourier.trajectory.float()
    ndim, readouts = k.shape[-1], k.shape[1]
    step = k.diff(dim=2).norm(dim=-1).median()
    radius = k.norm(dim=-1)
    ball = math.pi if ndim == 2 else 4 / 3 * math.pi
    ring = ball * ((radius + step / 2) ** ndim - (radius - step / 2).clamp_min(0) ** ndim)
    # A readout through the centre crosses each ring twice.
    sides = 1 + (radius > step / 2)
    return torch.minimum(ring / (readouts * sides), step)[:, None]


@dataclass(frozen=True)
class _Prepared:
    """Hold values that every iteration uses, computed once before the first step."""

    adjoint: Tensor  # Aᴴ y (B, M, *space)
    gram: Gram
    coils: Tensor  # (B,) upper bound of the largest eigenvalue of Sᴴ S

    @cached_property
    def lipschitz(self) -> Tensor:
        """Return an upper bound (B,) of the largest eigenvalue of Aᴴ A; not all methods need it."""
        return self.gram.largest_eigenvalue * self.coils


@dataclass(frozen=True)
class NonUniformProblem(Problem):
    """Hold one batch of y = F S x + n, sampled along a trajectory, with A = (M W)^½ F S and the data (M W)^½ y.

    Methods read the same properties as those of a Cartesian `Problem`. With the density compensation as weights W, Aᴴ A
    is nearly a projection, as for Cartesian samples. So iterations converge as fast (Pruessmann et al., MRM 46:638,
    2001), and weights of penalties and networks have the same meaning. Without weights, the problem is that of
    BART's ``pics -t``: the best for white noise, but iterations converge slowly.

    Attributes:
        y: (B, C, readout, sample) complex, without weights.
        mask: M, (B or 1, 1, readout, sample) real, 1 for samples that are used and 0 for others.
        maps: S, (B, M, C, *space) complex.
        fourier: F, with the trajectory.
        density: (B or 1, 1, readout, sample) real, the density compensation of the samples that are used.
        weighting: W: the ``density``, or ``none``.

    Raises:
        InputError: shapes or types that do not match, or a mask with values other than 0 and 1.

    """

    fourier: NonUniformFourier = field(kw_only=True)
    density: Tensor = field(kw_only=True)
    weighting: Weighting = field(default="density", kw_only=True)
    gram: Gram = field(default=None, kw_only=True, repr=False, compare=False)  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gram is None or self.gram.fourier is not self.fourier:
            object.__setattr__(self, "gram", Gram(self.fourier, self.weights))

    @classmethod
    def measured(
        cls,
        y: Tensor,
        maps: Tensor,
        fourier: NonUniformFourier,
        used: Tensor | None = None,
        *,
        weighting: Weighting = "density",
        noise: Tensor | None = None,
        initial_image: Tensor | None = None,
    ) -> NonUniformProblem:
        """Return the problem of measured samples, with their density compensation.

        Args:
            y: see the class.
            maps: see the class.
            fourier: see the class.
            used: (B or 1, 1, readout, sample), 1 for the samples to use; None for all.
            weighting: see the class.
            noise: see the class.
            initial_image: see the class.

        """
        mask = torch.ones_like(y[:1, :1].real) if used is None else used.to(y.real.dtype)
        density = pipe_menon(fourier, None if used is None else mask).to(mask)
        return cls(y, mask, maps, initial_image, noise, fourier=fourier, density=density, weighting=weighting)

    def _check_shapes(self) -> None:
        y, mask, maps, points = self.y, self.mask, self.maps, self.fourier.trajectory
        fits = (
            y.ndim == mask.ndim == 4
            and (maps.shape[0], *maps.shape[2:]) == (*y.shape[:2], *self.fourier.shape)
            and mask.shape[0] in (1, y.shape[0])
            and points.shape[0] in (1, y.shape[0])
            and mask.shape[1:] == self.density.shape[1:] == (1, *points.shape[1:3]) == (1, *y.shape[2:])
        )
        if not fits:
            raise InputError(
                "the shapes of samples, mask, coil maps and trajectory do not match",
                why=f"y {tuple(y.shape)}, mask {tuple(mask.shape)}, density {tuple(self.density.shape)}, maps "
                f"{tuple(maps.shape)}, trajectory {tuple(points.shape)} for images {self.fourier.shape}",
                fix="give y (B, C, readout, sample), mask and density (B or 1, 1, readout, sample), maps "
                "(B, M, C, *space) and trajectory (B or 1, readout, sample, ndim)",
            )

    @property
    def weights(self) -> Tensor:
        """Return M W (B or 1, 1, readout, sample)."""
        return self.mask * self.density if self.weighting == "density" else self.mask

    @property
    def encode(self) -> LinearOperator:
        """Return F S, which maps images to the samples of every coil."""
        return self.fourier @ Coils(self.maps)

    @property
    def A(self) -> LinearOperator:
        """Return (M W)^½ F S."""
        return Mask(self.weights.sqrt()) @ self.encode

    @property
    def data(self) -> Tensor:
        """Return (M W)^½ y."""
        return self.weights.sqrt() * self.y

    @property
    def coil_images(self) -> Tensor:
        """Return the images of the coils by gridding (B, C, *space), Fᴴ D y with the density compensation D."""
        return self.fourier.adjoint(self.density * self.y)

    @property
    def zero_filled(self) -> Tensor:
        """Return the image by gridding (B, M, *space), Sᴴ Fᴴ D y with the density compensation D."""
        return self.adjoint if self.weighting == "density" else combine(self.maps, self.coil_images)

    @property
    def undersampling(self) -> list[Undersampling]:
        """Return the undersampling of each item."""
        voxels = math.prod(self.fourier.shape)
        areas, weights = (v.expand(len(self.y), -1, -1, -1).flatten(1).double() for v in (self.density, self.weights))
        return [
            Undersampling(max(1.0, voxels / float(area.sum())), float(voxels / w.square().sum()) ** 0.5, True)
            for area, w in zip(areas, weights, strict=True)
        ]

    @property
    def sampled_share(self) -> Tensor:
        """Return the area of the samples as a fraction of k-space (B,), at most 1."""
        area = self.density.flatten(1).sum(1).expand(self.y.shape[0])
        return (area / math.prod(self.fourier.shape)).clamp_max(1)

    def prepared(self) -> NonUniformProblem:
        """Return the problem with precomputed values for the iterations; unchanged if it has them."""
        if self.cache is not None:
            return self
        cache = _Prepared(self.adjoint, self.gram, self._largest_eigenvalue())
        return replace(self, cache=cache)  # type: ignore[arg-type]  # that of this class

    @property
    def adjoint(self) -> Tensor:
        """Return Sᴴ Fᴴ M W y (B, M, *space)."""
        if self.cache is not None:
            return self.cache.adjoint
        return combine(self.maps, self.fourier.adjoint(self.weights * self.y))

    def normal(self, x: Tensor) -> Tensor:
        """Return Aᴴ A x for x (B, M, *space), by FFTs."""
        out = None
        for c in self._coil_groups():
            maps = self.maps[:, :, c]
            part = combine(maps, self.gram(weight(maps, x)))
            out = part if out is None else out.add_(part)
        assert out is not None, "a problem has at least one coil"
        return out

    def contribution(self, hidden: Tensor, x: Tensor) -> Tensor:
        """Return the part of Aᴴ A x that comes from some samples, (B, M, *space)."""
        return self.encode.adjoint(self.weights * hidden * self.encode(x))

    def only(self, used: Tensor, **fields: Any) -> NonUniformProblem:
        """Return the problem of a part of the samples, with their own density, without the initial image."""
        visible = self.mask * used
        density = pipe_menon(self.fourier, visible).to(self.density)
        return NonUniformProblem(
            self.y * visible,
            visible,
            self.maps,
            noise=self.noise,
            fourier=self.fourier,
            density=density,
            weighting=self.weighting,
            **fields,
        )

    def with_samples(self, y: Tensor) -> NonUniformProblem:
        """Return the problem for other samples at the same positions, without initial image and noise."""
        return replace(self, y=y, initial_image=None, noise=None, cache=None)

    def require_cartesian(self, why: str) -> None:
        """Refuse a method that needs Cartesian k-space.

        Raises:
            UsageError: always.

        """
        raise UsageError(
            "the method needs Cartesian k-space, and these samples lie on a trajectory",
            why=why,
            fix="use a method on images, such as sense, cs, cs-tv, rim, cirim or unet",
        )

    def to(self, device: torch.device | str) -> NonUniformProblem:
        """Return the problem on another device, unprepared."""
        initial, noise = (None if v is None else v.to(device) for v in (self.initial_image, self.noise))
        y, mask, maps, density = (v.to(device) for v in (self.y, self.mask, self.maps, self.density))
        fourier = replace(self.fourier, trajectory=self.fourier.trajectory.to(device))
        return NonUniformProblem(
            y,
            mask,
            maps,
            initial,
            noise,
            fourier=fourier,
            density=density,
            weighting=self.weighting,
            verified=(y, mask),
        )
