"""Test that the adjoint of every linear operator is correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mrirecon.physics.operators import (
    Coils,
    Compose,
    Fourier,
    Gradient,
    LinearOperator,
    Mask,
    inner,
    norm,
    root_sum_of_squares,
)
from mrirecon.physics.wavelets import Wavelet
from tests.problems import SHAPES, draw, random_problem


def examples(space, sets, dtype):
    """One or more of each operator on a space, with an input."""
    p = random_problem(space, sets=sets, dtype=dtype)
    image, coils = draw(2, sets, *space, dtype=dtype), draw(2, 3, *space, dtype=dtype)
    axes = tuple(range(-len(space), 0))
    return [
        (Fourier(axes), image),
        (Fourier((-1,)), coils),
        (Coils(p.maps), image),
        (Mask(p.mask), coils),
        (Gradient(len(space)), image),
        (Wavelet(len(space), "haar", coarsest=2), image),
        (Wavelet(len(space), "db4", coarsest=2), image),
        (Compose(Fourier(axes), Coils(p.maps)), image),
    ]


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_operator_has_an_example():
    shown = {type(a) for a, _ in examples((8, 8), 1, torch.complex128)}
    ours = {c for c in subclasses(LinearOperator) if c.__module__.startswith("mrirecon.")}
    ours = {c for c in ours if c.__module__ != "mrirecon.physics.nonuniform"}  # tested in test_nonuniform.py
    assert ours == shown, "a new operator needs an example above"


def adjoint_gap(a, x):
    ax = a(x)
    y = draw(*ax.shape, dtype=ax.dtype, seed=7)
    back = a.adjoint(y)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    left, right = (ax.conj() * y).sum(), (x.conj() * back).sum()
    return float(abs(left - right) / (norm(ax) * norm(y)).sum())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("space", SHAPES, ids=str)
def test_adjoint_normal_and_linearity(space, sets, dtype):
    limit = 1e-5 if dtype == torch.complex64 else 1e-12
    for a, x in examples(space, sets, dtype):
        assert adjoint_gap(a, x) < limit, a
        torch.testing.assert_close(a.normal(x), a.adjoint(a(x)), rtol=limit, atol=10 * limit)
        z = draw(*x.shape, dtype=dtype, seed=3)
        torch.testing.assert_close(a(x + (2 - 1j) * z), a(x) + (2 - 1j) * a(z), rtol=limit, atol=10 * limit)


def test_a_wrong_adjoint_is_caught():
    @dataclass(frozen=True)
    class Unconjugated(LinearOperator):
        maps: torch.Tensor

        def __call__(self, x):
            return self.maps[:, 0] * x

        def adjoint(self, y):
            return (self.maps[:, 0] * y).sum(1, keepdim=True)

    p = random_problem()
    assert adjoint_gap(Unconjugated(p.maps), draw(2, 1, 9, 8)) > 1e-2
    assert adjoint_gap(Coils(p.maps), draw(2, 1, 9, 8)) < 1e-12


@pytest.mark.parametrize("space", [(8, 8), (7, 9), (4, 5, 6)], ids=str)
def test_fourier_is_centred_and_unitary(space):
    axes = tuple(range(-len(space), 0))
    f = Fourier(axes)
    x = draw(1, 1, *space)
    np_axes = tuple(range(2, 2 + len(space)))
    by_hand = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x.numpy(), np_axes), axes=np_axes, norm="ortho"), np_axes)
    np.testing.assert_allclose(f(x).numpy(), by_hand, atol=1e-12)
    torch.testing.assert_close(f.adjoint(f(x)), x)
    torch.testing.assert_close(norm(f(x)), norm(x))
    # A constant image is one sample at the centre n // 2, also for odd n.
    centre = f(torch.ones(1, 1, *space, dtype=torch.complex128))[0, 0]
    assert int(centre.abs().argmax()) == np.ravel_multi_index([n // 2 for n in space], space)


def test_fourier_agrees_with_sigpy_and_bart(bart):
    import sigpy

    x = draw(16, 15, dtype=torch.complex64)
    ours = Fourier((-2, -1))(x).numpy()
    for theirs in (sigpy.fft(x.numpy(), axes=(-2, -1)), bart("fft -u 3 x out", x=x.numpy()).reshape(16, 15)):
        assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs)


def test_operators_are_differentiable():
    for a, x in examples((3, 4), 1, torch.complex128):
        one = x[:1].clone().requires_grad_() if not isinstance(a, Coils | Compose) else x.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda v, a=a: torch.view_as_real(a(v).resolve_conj()), one), a
        y = a(one.detach()).requires_grad_()
        assert torch.autograd.gradcheck(lambda v, a=a: torch.view_as_real(a.adjoint(v).resolve_conj()), y), a
    p, x = random_problem((3, 4), batch=1, coils=2), draw(1, 1, 3, 4)
    maps = p.maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: torch.view_as_real(Coils(m)(x)), maps)


def test_products_and_lengths():
    a, b = draw(2, 3, 4), draw(2, 3, 4, seed=5)
    torch.testing.assert_close(inner(a, b), (a.conj() * b).sum((1, 2)).real)
    torch.testing.assert_close(norm(a), torch.linalg.vector_norm(a, dim=(1, 2)))
    torch.testing.assert_close(root_sum_of_squares(a, 1), torch.linalg.vector_norm(a, dim=1))
    with pytest.raises(ValueError, match="shapes"):
        inner(a, b[:1])
    with pytest.raises(ValueError, match="shapes"):
        Coils(random_problem().maps)(draw(2, 1, 5, 8))
