"""Check the physics on the user's machine and device: adjoints, unitarity, gradients, solvers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.methods.registry import build
from mrirecon.models.hardware import pick_device
from mrirecon.physics.operators import Coils, Fourier, Gradient, LinearOperator, Mask, inner, norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Scale
from mrirecon.physics.wavelets import Wavelet


@dataclass(frozen=True)
class Check:
    """Hold one property, with its error and its tolerance.

    Attributes:
        name: checked property.
        error: relative error.
        limit: largest error that rounding can cause.

    """

    name: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Return whether the property holds; False if the error is NaN."""
        return self.error <= self.limit


def selftest(device: str = "auto", *, operators: dict[str, tuple[LinearOperator, Tensor]] | None = None) -> list[Check]:
    """Check operators, problem and methods.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, …
        operators: additional operators by name, each with an input of the right shape.

    Returns:
        All checks, passed or not.

    Raises:
        UsageError: the device does not exist.

    """
    chosen = pick_device(device)
    cpu = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # Drawn on the CPU, for the same numbers on every device.
        return torch.randn(*shape, dtype=torch.complex64, generator=cpu).to(chosen)

    problem = _problem(draw)
    all_operators = _operators(problem, draw) | (operators or {})
    checks = [check for name, (a, x) in all_operators.items() for check in _adjoint(name, a, x, draw)]
    checks += [
        _unitary("Fourier", Fourier((-2, -1)), draw(2, 3, 17, 20)),
        _unitary("Wavelet", Wavelet(), draw(2, 1, 97, 96)),
    ]
    return [*checks, *_problem_checks(problem, draw), *_methods(problem, draw)]


def _problem(draw: Callable[..., Tensor]) -> Problem:
    mask = (draw(1, 1, 21, 18).real > 0.3).float()
    mask[..., 7:14, 6:12] = 1
    maps = draw(2, 2, 3, 21, 18)
    return Problem(mask * draw(2, 3, 21, 18), mask, maps / maps.abs().square().sum((1, 2), keepdim=True).sqrt())


def _operators(p: Problem, draw: Callable[..., Tensor]) -> dict[str, tuple[LinearOperator, Tensor]]:
    image, volume = draw(2, 2, 21, 18), draw(1, 1, 7, 9, 10)
    return {
        "Fourier 2D": (Fourier((-2, -1)), image),
        "Fourier 3D": (Fourier((-3, -2, -1)), volume),
        "Coils, two sets": (Coils(p.maps), image),
        "Mask": (Mask(p.mask), draw(2, 3, 21, 18)),
        "Gradient 2D": (Gradient(2), image),
        "Gradient 3D": (Gradient(3), volume),
        "Wavelet 2D": (Wavelet(2), image),
        "Wavelet 3D": (Wavelet(3, "db2"), volume),
        "A = M F S": (p.A, image),
    }


def _adjoint(name: str, a: LinearOperator, x: Tensor, draw: Callable[..., Tensor]) -> Iterator[Check]:
    ax = a(x)
    y = draw(*ax.shape)
    back = a.adjoint(y)
    # Both parts of the inner product: the real part of ⟨·, i·⟩ is the imaginary one.
    size = norm(ax) * norm(y)
    gap = (inner(ax, y) - inner(x, back)).abs() + (inner(ax, 1j * y) - inner(x, a.adjoint(1j * y))).abs()
    yield Check(f"{name}: <Ax, y> = <x, A'y>", float((gap / size).max()), 1e-5)
    yield Check(f"{name}: A'A", _gap(a.normal(x), a.adjoint(ax)), 1e-5)


def _unitary(name: str, a: LinearOperator, x: Tensor) -> Check:
    return Check(f"{name}: inverse of A is A'", _gap(a.adjoint(a(x)), x), 1e-5)


def _problem_checks(p: Problem, draw: Callable[..., Tensor]) -> Iterator[Check]:
    x = draw(2, 2, 21, 18).requires_grad_()
    fast = p.prepared()
    gradient = p.A.adjoint(p.A(x.detach()) - p.y)
    yield Check("Problem: fast gradient = composed", _gap(fast.gradient(x.detach()), gradient), 1e-5)
    (by_autograd,) = torch.autograd.grad(p.data_term(x).sum(), x)
    yield Check("Problem: gradient = autograd's", _gap(gradient, by_autograd), 1e-5)
    v = draw(2, 2, 21, 18)
    for _ in range(20):
        v = p.A.normal(v / norm(v).reshape(-1, 1, 1, 1))
    yield Check("Problem: bound >= largest eigenvalue", float((norm(v) / fast.lipschitz).max()) - 1, 1e-5)


def _methods(p: Problem, draw: Callable[..., Tensor]) -> Iterator[Check]:
    truth = draw(2, 2, 21, 18)
    full = Problem(Fourier((-2, -1))(Coils(p.maps)(truth)), torch.ones_like(p.mask), p.maps)
    with torch.no_grad():
        image = build("sense", {"lam": 0.0, "iterations": 400, "tolerance": 1e-6})(full)
        yield Check("CG-SENSE: full data give the image back", _gap(full.A(image), full.y), 1e-4)
        one = build("cs", {"lam": 0.01, "shifts": False, "wavelet": "haar", "iterations": 20, "tolerance": 0.0})
        yield Check(
            "CS: twice the data, twice the image", _gap(one(Scale(torch.full((2,), 0.5)).apply(p)), 2 * one(p)), 1e-4
        )


def _gap(a: Tensor, b: Tensor) -> float:
    return float((norm(a - b) / norm(b)).max())
