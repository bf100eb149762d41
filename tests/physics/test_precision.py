"""Test that autocast applies to networks, but not to physics."""

from __future__ import annotations

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import TotalVariation, WaveletL1
from mrirecon.physics.scale import percentile_scale, smooth_phase
from mrirecon.physics.solvers import conjugate_gradient
from mrirecon.training.config.settings import LossSettings
from mrirecon.training.objective import Loss
from tests.methods.test_methods import ALL, CLASSICAL, LEARNED, make
from tests.physics.test_operators import examples
from tests.problems import draw, known_problem, random_problem


def half():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_autocast_would_reach_into_a_product():
    """What the others are about: a plain product of real matrices comes out in half precision."""
    with half():
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("space", [(16, 15), (6, 7, 8)], ids=str)
def test_operators_compute_the_same(space):
    for a, x in examples(space, 2, torch.complex64):
        y = a(x)
        full = [y, a.adjoint(y), a.normal(x)]
        with half():
            found = [a(x), a.adjoint(y), a.normal(x)]
        for f, g in zip(found, full, strict=True):
            assert torch.equal(f, g), a


def test_problems_solvers_and_regularizers_compute_the_same():
    p = random_problem((96, 32), dtype=torch.complex64)
    x = draw(2, 1, 96, 32, dtype=torch.complex64)

    def everything():
        q = p.prepared()
        yield from (q.adjoint, q.lipschitz, q.normal(x), q.gradient(x), q.residual(x), q.data_term(x))
        yield conjugate_gradient(lambda v: q.normal(v) + 0.1 * v, q.adjoint, None, 4)
        yield from (percentile_scale(x), smooth_phase(x, p.axes))
        for r in (WaveletL1(2, "haar,db4"), TotalVariation(2)):
            yield from (r.value(x), r.prox(x, 0.1, 3, None)[0], r.operator()(x))

    full = list(everything())
    with half():
        found = list(everything())
    assert all(torch.equal(a, b) for a, b in zip(found, full, strict=True))


@pytest.mark.parametrize("terms", [{"l1": 1.0, "ssim": 1.0}, {"kspace_l1": 1.0}, {"l2": 1.0, "region": "object"}])
def test_losses_compute_the_same(terms):
    p, whole = known_problem((32, 30))
    target = Problem(whole, torch.ones_like(p.mask), p.maps).adjoint
    values = []
    for context in (torch.enable_grad(), half()):
        with context:
            loss = Loss(LossSettings(**terms), p, target, whole, torch.ones_like(p.mask))
            values.append(loss(p.adjoint))
    assert torch.equal(*values)


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_methods_give_the_same_image(name):
    p = random_problem((33, 32), dtype=torch.complex64)
    model = make(name).float()
    with torch.no_grad():
        full = model(p)
        with half():
            assert torch.equal(model(p), full)


@pytest.mark.parametrize("name", [n for n in LEARNED if n != "invertible-rim"])
def test_learned_methods_train_in_half_precision(name):
    """The invertible RIM computes its states back, which rounding forbids: it asks for memory=checkpoint."""
    p = random_problem((33, 32), dtype=torch.complex64)
    model = make(name).float().train()
    with half():
        image = model(p)
        loss = image.abs().square().sum()
    loss.backward()
    assert image.dtype in (torch.complex64, torch.float32)
    assert torch.isfinite(image.abs()).all()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters())


@pytest.mark.parametrize("name", ["rim", "irim", "cirim", "e2evn", "unet"])
def test_a_start_by_compressed_sensing_is_the_same(name):
    """`train.precision=bfloat16` with `model.start=cs` ended in an internal error."""
    p = random_problem((33, 32), dtype=torch.complex64)
    model = make(name, start="cs", **({"sensitivity": False} if name == "e2evn" else {})).float()
    with torch.no_grad():
        full = model.normalize(p).problem.initial_image
        with half():
            q = model.normalize(p).problem
            assert norm(model(p)).min() > 0
    assert torch.equal(q.initial_image, full)


def test_every_method_is_tried_here():
    assert set(CLASSICAL) | set(LEARNED) == set(ALL)


def test_memory_by_inversion_still_refuses():
    p = random_problem((16, 16), dtype=torch.complex64)
    with half(), pytest.raises(UsageError, match="full precision"):
        make("invertible-rim").float()(p)
