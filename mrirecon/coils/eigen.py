"""The largest eigenpairs of a Hermitian matrix H(r) at every voxel, from those on a coarse grid.

Where H turns slowly, its eigenvectors are interpolated and improved by power iterations. That fails where the order of
two eigenvalues changes between two points of the coarse grid, where a reference phase jumps, and where eigenvalues lie
so close that power iterations do not separate them. Such voxels are found by the angle between neighbours on the coarse
grid, and by the residual of the eigenvalue equation; there the matrix is diagonalized.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrirecon.physics.operators import root_sum_of_squares

_SINE = 0.02  # of the angle between an eigenvector and what is returned for it, at most
_COSINE = 0.5  # of the angle between neighbours on the coarse grid, at least, for a vector between them to be trusted
_OBJECT = 0.6  # eigenvalue below which there is no object, and any vector will do
_GAP = 1e-3  # between eigenvalues: what separates them better than float32 can tell


def eigenvectors(h: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Diagonalize H at every voxel.

    Args:
        h: (C, C, *space) Hermitian.
        count: of eigenvectors to return.

    Returns:
        All eigenvalues (C, *space), largest first, and the first eigenvectors (count, C, *space).

    """
    values, vectors = torch.linalg.eigh(h.flatten(2).permute(2, 0, 1))
    chosen = vectors[..., -count:].flip(-1).permute(2, 1, 0)
    return values.flip(-1).T.unflatten(-1, h.shape[2:]), chosen.unflatten(-1, h.shape[2:])


class Coarse:
    """Eigenpairs on a coarse grid, and what they become on the full one.

    Both grids are centred on n // 2, and periodic, as the Fourier series H(r) is.

    Args:
        vectors: (M, C, *coarse) eigenvectors of the largest eigenvalues, of a phase that is continuous where it can be.
        spectrum: (C, *coarse) all eigenvalues, largest first.
        space: the full grid.

    """

    def __init__(self, vectors: Tensor, spectrum: Tensor, space: tuple[int, ...]) -> None:
        # Along all axes but the first, of which rows are taken later.
        self.vectors = interpolate(vectors, (vectors.shape[2], *space[1:]), slice(None))
        self.space = space
        sets = len(vectors)
        unsafe = _far_apart(vectors, spectrum)
        following = spectrum[sets] if sets < len(spectrum) else torch.zeros_like(spectrum[0])
        for axis, n in enumerate(space):
            low, high, _ = _between(n, unsafe.shape[axis], vectors.device)
            unsafe = unsafe.index_select(axis, low)
            following = torch.maximum(following.index_select(axis, low), following.index_select(axis, high))
        self.unsafe = unsafe  # (*space): interpolation is not to be trusted
        self.following = following  # (*space): the first eigenvalue of no set, the larger one of the points around

    def refined(self, h: Tensor, rows: slice, steps: int) -> tuple[Tensor, Tensor]:
        """Return eigenvectors (M, C, rows, …) and eigenvalues (M, rows, …) on some rows of the full grid.

        Args:
            h: (C, C, rows, …), H there.
            rows: which, along the first axis.
            steps: power iterations.

        """
        v = interpolate(self.vectors, self.space, rows)
        for _ in range(steps):
            v = _orthonormal(_multiply(h, v))
        v, value, hv = _ritz(v, _multiply(h, v))
        # ‖H v − λ v‖ over the distance to the other eigenvalues bounds the sine of the angle that is left. More power
        # iterations would not help: they leave what belongs to a close eigenvalue, which has a small residual.
        wrong = root_sum_of_squares(hv - value.unsqueeze(1) * v, 1)
        allowed = _SINE * (value - self.following[rows]).clamp_min(_GAP)
        failed = self.unsafe[rows] | ((value > _OBJECT) & (wrong > allowed)).any(0)
        if bool(failed.any()):
            exact, vectors = eigenvectors(h[:, :, failed], len(v))
            v[:, :, failed], value[:, failed] = vectors, exact[: len(v)]
        return v, value


def _far_apart(vectors: Tensor, spectrum: Tensor) -> Tensor:
    """Return the cells (*coarse), each named by its lowest corner, in which vectors cannot be interpolated.

    Those with an edge along which a vector of the object turns by more than 60°. Of two, the plane that they span has
    to be kept: the frame at one end, projected onto that at the other, must not come near a reflection of itself.
    """
    unsafe = torch.zeros(spectrum.shape[1:], dtype=torch.bool, device=vectors.device)
    axes = range(unsafe.ndim)
    for axis in axes:
        following = vectors.roll(-1, 2 + axis)
        present = torch.maximum(spectrum, spectrum.roll(-1, 1 + axis)) > _OBJECT
        first = _dot(vectors[0], following[0]).real
        far = present[0] & (first < _COSINE)
        if len(vectors) == 2:
            second = _dot(vectors[1], following[1]).real
            across = (_dot(vectors[0], following[1]) + _dot(vectors[1], following[0]).conj()).abs() / 2
            smallest = (first + second) / 2 - torch.sqrt(((first - second) / 2).square() + across.square())
            far |= present[1] & (smallest < _COSINE)
        for other in axes:
            if other != axis:
                far = far | far.roll(-1, other)
        unsafe |= far
    return unsafe


def interpolate(vectors: Tensor, space: tuple[int, ...], rows: slice) -> Tensor:
    """Interpolate (M, C, *coarse) linearly onto some rows of the full grid; both are periodic, centred on n // 2."""
    for axis, n in enumerate(space, start=2):
        chosen = rows if axis == 2 else slice(None)
        if n == vectors.shape[axis]:  # the grids are the same
            vectors = vectors if chosen == slice(None) else vectors[:, :, chosen]
            continue
        low, high, part = (t[chosen] for t in _between(n, vectors.shape[axis], vectors.device))
        part = part.to(vectors.real.dtype).reshape(-1, *[1] * (vectors.ndim - 1 - axis))
        a, b = vectors.index_select(axis, low), vectors.index_select(axis, high)
        vectors = a + part * (b - a)
    return vectors


def _between(n: int, small: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each of n places, its two neighbours on a coarse grid of ``small``, and how far the first is."""
    place = (torch.arange(n, device=device) - n // 2) * (small / n) + small // 2
    low = place.floor()
    return low.long() % small, (low.long() + 1) % small, place - low


def _multiply(h: Tensor, v: Tensor) -> Tensor:
    """Return H v at every voxel: (C, C, …), (M, C, …) ↦ (M, C, …)."""
    out = []
    for one in v:
        total = h[:, 0] * one[0]
        for c in range(1, h.shape[1]):
            total.addcmul_(h[:, c], one[c])
        out.append(total)
    return torch.stack(out)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ over the coils (axis 0) at every voxel."""
    return (a.conj() * b).sum(0)


def _unit(v: Tensor) -> Tensor:
    unit: Tensor = v * root_sum_of_squares(v, 0).clamp_min(torch.finfo(v.real.dtype).tiny).reciprocal()
    return unit


def _orthonormal(v: Tensor) -> Tensor:
    """Return one or two orthonormal coil vectors at every voxel (Gram–Schmidt)."""
    first = _unit(v[0])
    if v.shape[0] == 1:
        return first.unsqueeze(0)
    return torch.stack([first, _unit(v[1] - first * _dot(first, v[1]))])


def _ritz(v: Tensor, hv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best eigenpairs within the span of orthonormal v, largest first (Rayleigh–Ritz), and H times them."""
    if v.shape[0] == 1:
        return v, _dot(v[0], hv[0]).real.unsqueeze(0), hv
    a, d, b = _dot(v[0], hv[0]).real, _dot(v[1], hv[1]).real, _dot(v[0], hv[1])
    # Eigenpairs of the Hermitian [[a, b], [b*, d]] in closed form.
    gap = torch.sqrt(((a - d) / 2).square() + b.abs().square())
    angle = 0.5 * torch.atan2(b.abs(), (a - d) / 2)
    phase = torch.where(b.abs() > 0, b / b.abs().clamp_min(torch.finfo(a.dtype).tiny), torch.ones_like(b))
    cos, sin = angle.cos(), angle.sin() * phase

    def turned(x: Tensor) -> Tensor:
        return torch.stack([cos * x[0] + sin.conj() * x[1], cos * x[1] - sin * x[0]])

    return turned(v), torch.stack([(a + d) / 2 + gap, (a + d) / 2 - gap]), turned(hv)


def reference_phase(vectors: Tensor, principal: Tensor) -> Tensor:
    """Turn the phase of every set (M, C, …) to that of the first principal coil; leave it where that coil is blind."""
    seen = torch.tensordot(principal.conj(), vectors, dims=([0], [1]))  # (M, …)
    size = seen.abs()
    turn = torch.where(size > 1e-6, seen.conj() / size.clamp_min(1e-6), torch.ones_like(seen))
    return vectors * turn.unsqueeze(1)
