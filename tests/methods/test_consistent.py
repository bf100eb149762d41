"""Test data consistency after networks, with the weight that follows from noise and acceleration."""

from __future__ import annotations

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.methods.registry import build
from mrirecon.methods.steps import Consistent
from mrirecon.physics.problem import Problem
from tests.problems import random_problem

SMALL = {"cascades": 3, "steps": 2, "features": 4}


def consistent(iterations=60, **parameters):
    step = Consistent(lambda state, p: state, iterations).double()
    with torch.no_grad():
        for number, name in enumerate(("level", "exponent", "power")):
            step.exponents[number] = parameters.get(name, 0.0) / 10
    return step


def dense(p):
    """Return Aᴴ A of the first item as a matrix."""
    n = p.adjoint[0].numel()
    basis = torch.eye(n, dtype=p.y.dtype).reshape(n, *p.adjoint.shape[1:])
    return torch.stack([p.normal(e[None])[0].flatten() for e in basis], 1)


def test_solution_is_that_of_the_normal_equations():
    p = random_problem((6, 5), batch=1).prepared()
    x = torch.randn(p.adjoint.shape, dtype=p.y.dtype, generator=torch.Generator().manual_seed(3))
    mu = 0.3
    z = consistent(level=float(torch.tensor(mu).log()))(x, p)
    matrix = dense(p) + mu * torch.eye(x.numel(), dtype=p.y.dtype)
    expected = torch.linalg.solve(matrix, (p.adjoint + mu * x).flatten())
    torch.testing.assert_close(z.flatten(), expected, rtol=1e-6, atol=1e-8)


def test_weight_follows_noise_and_acceleration_for_each_item():
    p = random_problem((8, 8), batch=2)
    coils = p.y.shape[1]
    noise = torch.stack([s * torch.eye(coils, dtype=p.y.dtype) for s in (1e-3, 4e-3)])
    q = Problem(p.y, p.mask, p.maps, noise=noise)
    mu = consistent(level=0.5, exponent=0.5, power=2.0).weight(q)
    share = p.mask.mean()
    expected = torch.exp(torch.tensor(0.5)) * torch.tensor([1.0, 2.0]) * share**2
    torch.testing.assert_close(mu, expected.to(mu.dtype), rtol=1e-6, atol=0)
    unknown = consistent(level=0.5, exponent=0.5, power=2.0).weight(p)
    torch.testing.assert_close(unknown, mu[:1].expand(2), rtol=1e-6, atol=0)


def test_noise_of_a_coil_that_sees_nothing_does_not_count():
    p = random_problem((8, 8), batch=1)
    maps = p.maps.clone()
    maps[:, :, 0] = 0
    variances = torch.full((p.y.shape[1],), 2e-3, dtype=p.y.real.dtype)
    variances[0] = 5.0
    q = Problem(p.y, p.mask, maps, noise=torch.diag(variances).to(p.y.dtype)[None])
    assert float(q.noise_variance(1.0)) == pytest.approx(2e-3)


def test_blocks_after_every_cascade_or_the_last():
    kinds = {
        value: [type(step) is Consistent for step in build("cirim", SMALL | {"proximal": value}).engine.steps]
        for value in ("none", "last", "cascades")
    }
    assert kinds == {"none": [False] * 3, "last": [False] * 3 + [True], "cascades": [False, True] * 3}
    repeated = build("cirim", SMALL | {"proximal": "cascades", "passes": 2})
    once = build("cirim", SMALL | {"proximal": "cascades"})
    assert {n for n, _ in repeated.named_parameters()} == {n for n, _ in once.named_parameters()}


def test_consistency_is_applied_once_and_is_the_last_iterate():
    p = random_problem((16, 15), batch=1, dtype=torch.complex64)
    model = build("cirim", SMALL | {"proximal": "cascades"}).eval()
    with torch.no_grad():
        images, result = list(model.images(p)), model.run(p)
    assert len(images) == 3 * (2 + 1)
    torch.testing.assert_close(images[-1], result.image, rtol=0, atol=0)
    before, after = (float(p.data_term(x)) for x in images[-2:])
    assert after < before


@pytest.mark.parametrize("memory", ["store", "checkpoint"])
def test_gradients_do_not_depend_on_memory(memory):
    p = random_problem((12, 12), batch=1, dtype=torch.complex64)
    torch.manual_seed(0)
    model = build("cirim", SMALL | {"proximal": "cascades", "memory": memory, "segment": 2})
    reference = build("cirim", SMALL | {"proximal": "cascades"})
    reference.load_state_dict(model.state_dict())
    for m in (model, reference):
        m(p).abs().square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert a.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


REFUSED = [
    ("e2evn", {"proximal": "cascades"}),
    ("cirim", {"proximal": "last", "memory": "invert"}),
    ("e2evn", {"combine": "rss", "proximal": "last"}),
]


@pytest.mark.parametrize(("method", "options"), REFUSED)
def test_impossible_combinations_are_refused(method, options):
    with pytest.raises(UsageError) as caught:
        build(method, options)
    assert caught.value.where in ("proximal", "memory")
