"""Test conjugate gradients: solutions, and gradients after the solution is reached."""

from __future__ import annotations

import pytest
import torch

from mrirecon.physics.solvers import conjugate_gradient


@pytest.mark.parametrize("values", [(1.0,), (1.0, 0.0833), (1.0, 0.5, 0.25)])
@pytest.mark.parametrize("seed", range(8))
def test_iterations_after_the_solution_keep_it_and_its_gradient(values, seed):
    """With as many iterations as eigenvalues the system is solved; the gradient of the sum of H⁻¹ b is H⁻¹ 1."""
    generator = torch.Generator().manual_seed(seed)
    diagonal = torch.tensor(values).repeat(60)[None]
    b = 0.05 * torch.randn(diagonal.shape, generator=generator)
    weight, b = diagonal.clone().requires_grad_(), b.requires_grad_()
    x = conjugate_gradient(lambda v: weight * v, b, None, 12)
    torch.testing.assert_close(x, b / diagonal, rtol=1e-4, atol=1e-5)
    x.sum().backward()
    torch.testing.assert_close(b.grad, 1 / diagonal, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(weight.grad, -(b / diagonal**2).detach(), rtol=1e-2, atol=1e-2)


def test_an_item_without_a_right_side_stays_zero():
    b = torch.stack([torch.zeros(5), torch.ones(5)]).requires_grad_()
    x = conjugate_gradient(lambda v: 2 * v, b, None, 4)
    torch.testing.assert_close(x, b / 2)
    x.sum().backward()
    assert torch.isfinite(b.grad).all()
