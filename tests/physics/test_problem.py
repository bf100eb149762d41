"""Test that the fast paths of the problem equal the composed operators."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mrirecon.physics.problem
from mrirecon.errors import InputError
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Scale
from tests.problems import SHAPES, draw, random_problem

AXES = [(), (-1,), (-2,), (-2, -1)]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("space", SHAPES, ids=str)
@pytest.mark.parametrize("sets", [1, 2])
def test_fast_paths_equal_the_composition(space, axes, sets, per_item, grad, monkeypatch):
    # Groups of one and two coils, so that the sum over groups is tried.
    monkeypatch.setattr(mrirecon.physics.problem, "_GROUP_SIZE", 2 * 2 * int(torch.tensor(space).prod()))
    p = random_problem(space, sets=sets, axes=axes, per_item=per_item)
    x = draw(2, sets, *space)
    with torch.set_grad_enabled(grad):
        fast = p.prepared()
        torch.testing.assert_close(fast.adjoint, p.A.adjoint(p.y))
        torch.testing.assert_close(fast.normal(x), p.A.adjoint(p.A(x)))
        torch.testing.assert_close(fast.gradient(x), p.A.adjoint(p.A(x) - p.y))
        torch.testing.assert_close(fast.residual(x), p.A(x) - p.y)
        torch.testing.assert_close(fast.data_term(x), 0.5 * norm(p.A(x) - p.y).square())


@pytest.mark.parametrize("axes", [(-3,), (-2,), (-3, -1), (-3, -2), (-3, -2, -1)], ids=str)
def test_volumes_undersampled_along_some_axes(axes):
    p, x = random_problem((4, 5, 6), axes=axes), draw(2, 1, 4, 5, 6)
    torch.testing.assert_close(p.prepared().normal(x), p.A.adjoint(p.A(x)))


def test_nothing_sampled_along_constant_axes():
    p = random_problem(axes=())
    empty = Problem(p.y * 0, p.mask * 0, p.maps).prepared()
    assert not empty.normal(draw(2, 1, 9, 8)).any()


@pytest.mark.parametrize("sets", [1, 2])
def test_the_bound_bounds(sets):
    p = random_problem((12, 10), sets=sets, seed=4).prepared()
    v = draw(2, sets, 12, 10)
    for _ in range(100):
        v = p.normal(v / norm(v).reshape(-1, 1, 1, 1))
    assert (norm(v) <= p.lipschitz * (1 + 1e-9)).all()
    assert (p.lipschitz <= 1 + 1e-9).all() or sets == 2


def test_prepared_twice_is_prepared_once_and_scaling_keeps_it():
    p = random_problem().prepared()
    assert p.prepared() is p
    factor = torch.tensor([2.0, 5.0], dtype=torch.float64)
    q = Scale(factor).apply(p)
    torch.testing.assert_close(q.adjoint, q.A.adjoint(q.y))
    torch.testing.assert_close(q.y[1], p.y[1] / 5)


def test_gradient_is_autograds():
    p = random_problem()
    x = draw(2, 1, 9, 8).requires_grad_()
    (g,) = torch.autograd.grad(p.data_term(x).sum(), x)
    torch.testing.assert_close(p.prepared().gradient(x.detach()), g)


def test_maps_get_gradients_through_the_fast_path():
    p = random_problem()
    maps = p.maps.clone().requires_grad_()
    fast = Problem(p.y, p.mask, maps).prepared()
    (a,) = torch.autograd.grad(fast.gradient(draw(2, 1, 9, 8)).abs().sum(), maps)
    slow = Problem(p.y, p.mask, maps)
    x = draw(2, 1, 9, 8)
    (b,) = torch.autograd.grad(slow.A.adjoint(slow.A(x) - slow.y).abs().sum(), maps)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("part", ["y", "mask", "maps"])
def test_what_does_not_belong_together_is_refused(part):
    p = random_problem()
    parts = {"y": p.y, "mask": p.mask, "maps": p.maps}
    with pytest.raises(InputError, match="do not match"):
        Problem(**{**parts, part: parts[part][..., :-1]})
    with pytest.raises(InputError, match="must be complex, the mask real"):
        Problem(**{**parts, part: parts[part].real if parts[part].is_complex() else parts[part] * 1j})


def test_what_lies_outside_the_mask_counts_for_nothing():
    """E2EVN starts at y itself: samples that the mask denies moved its image by 39 %."""
    from mrirecon.methods.registry import methods
    from tests.methods.test_methods import make

    p = random_problem((33, 32))
    p.mask[..., 11:22, 11:22] = 1
    p = Problem(draw(2, 3, 33, 32) * p.mask, p.mask, p.maps)
    for value in (draw(2, 3, 33, 32, seed=5), torch.full_like(p.y, float("nan"))):
        spoilt = Problem(torch.where(p.mask > 0, p.y, value), p.mask, p.maps)
        assert torch.equal(spoilt.y, p.y)
        for name in methods():
            model = make(name)
            with torch.no_grad():
                assert torch.equal(model(spoilt), model(p)), name
    given = p.y + (1 - p.mask)
    before = given.clone()
    Problem(given, p.mask, p.maps)
    assert torch.equal(given, before), "what the caller gave stays as it is"


def test_a_copy_with_other_samples_is_masked_too():
    p = random_problem()
    q = replace(p, y=torch.ones_like(p.y))
    assert torch.equal(q.y, p.mask.expand_as(p.y) + 0j)
    r = replace(p, mask=torch.zeros_like(p.mask))
    assert not r.y.any()
    assert Scale(torch.ones(2)).apply(p).verified[0] is not p.y


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, float("nan")])
def test_a_mask_of_other_values_is_refused(value):
    p = random_problem()
    mask = p.mask.clone()
    mask[..., 4, 4] = value
    with pytest.raises(InputError, match="values other than 0 and 1") as caught:
        Problem(p.y, mask, p.maps)
    assert f"{value:g}" in caught.value.why
    assert caught.value.fix


def test_a_mask_of_truth_values_is_one_of_numbers():
    p = random_problem()
    q = Problem(p.y, p.mask > 0, p.maps)
    assert torch.equal(q.mask, p.mask)
