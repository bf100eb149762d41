"""Test losses: their definition, one value per item, and their weights."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mrirecon.errors import UsageError
from mrirecon.methods.registry import build
from mrirecon.metrics import object_mask, ssim
from mrirecon.physics.scale import percentile_scale
from mrirecon.training.config.settings import LossSettings
from mrirecon.training.objective import Loss, step_weights
from tests.problems import random_problem


def settings(**terms):
    return LossSettings(**terms)


@pytest.fixture
def batch():
    p = random_problem((24, 28), batch=2).prepared()
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(p.adjoint.shape, dtype=p.y.dtype, generator=generator) + 2
    return p, target


def test_terms_are_what_they_are_called(batch):
    p, target = batch
    x = target + 0.3 * p.adjoint
    scale = percentile_scale(p.adjoint)[:, None, None, None]
    a, b = x / scale, target / scale
    loss = Loss(settings(l1=1.0), p, target, None, None)(x)
    assert torch.allclose(loss, (a.abs() - b.abs()).abs().mean((1, 2, 3)))
    loss = Loss(settings(l1=2.0, compare="complex"), p, target, None, None)(x)
    assert torch.allclose(loss, 2 * (a - b).abs().mean((1, 2, 3)))
    loss = Loss(settings(l2=1.0, compare="complex"), p, target, None, None)(x)
    assert torch.allclose(loss, (a - b).abs().square().mean((1, 2, 3)))
    loss = Loss(settings(ssim=1.0), p, target, None, None)(x)
    magnitudes = a.abs()[:, 0], b.abs()[:, 0]
    assert torch.allclose(loss, 1 - ssim(*magnitudes, magnitudes[1].amax((1, 2))), rtol=1e-6)
    mixed = Loss(settings(l1=0.5, ssim=0.25), p, target, None, None)(x)
    parts = [Loss(settings(**{k: 1.0}), p, target, None, None)(x) for k in ("l1", "ssim")]
    assert torch.allclose(mixed, 0.5 * parts[0] + 0.25 * parts[1])
    logs = Loss(settings(l1=0.5, ssim=0.25, log=True), p, target, None, None)(x)
    assert torch.allclose(logs, 0.5 * parts[0].log() + 0.25 * parts[1].log())


def test_only_the_object_counts_where_asked(batch):
    p, target = batch
    target = target.clone()
    target[..., :8] = 0
    x = target.clone()
    x[..., :8] = 5  # wrong outside the object alone
    assert (Loss(settings(l1=1.0), p, target, None, None)(x) > 0.1).all()
    inside = Loss(settings(l1=1.0, region="object"), p, target, None, None)(x)
    region = object_mask(target[:, 0].abs())
    assert not region[..., :5].any()
    assert (inside < 0.5 * Loss(settings(l1=1.0), p, target, None, None)(x)).all()


def test_kspace_terms(batch):
    p, target = batch
    full = p.encode(target)
    everywhere = torch.ones_like(p.mask).expand(2, -1, -1, -1)
    loss = Loss(settings(kspace_l1=1.0), p, target, full, everywhere)
    assert torch.allclose(loss(target), torch.zeros(2, dtype=full.real.dtype), atol=1e-12)
    wanted = (p.encode(2 * target) - full).abs().mean((1, 2, 3)) / percentile_scale(p.adjoint)
    assert torch.allclose(loss(2 * target), wanted)
    # self-supervision looks at the samples that were held back, and nowhere else
    held = torch.zeros_like(everywhere)
    held[..., 3:6] = 1
    ssdu = Loss(settings(ssdu=1.0), p, None, full, held)
    assert torch.allclose(ssdu(target), torch.zeros(2, dtype=full.real.dtype), atol=1e-9)
    assert torch.allclose(ssdu(0 * target), torch.ones(2, dtype=full.real.dtype))
    other = full.clone()
    other[..., 10:] += 100
    assert torch.allclose(Loss(settings(ssdu=1.0), p, None, other, held)(2 * target), ssdu(2 * target))


def test_logarithmic_weights_are_applied(batch):
    """Check weights per term; the released code multiplies every term by all weights (methods.md 1.1)."""
    p, target = batch
    weights = step_weights(settings(l1=1.0), [4, 4])
    assert sum(weights) == pytest.approx(1)
    assert weights[:4] == weights[4:]
    assert [w / weights[3] for w in weights[:4]] == pytest.approx([10 ** (-(4 - t) / 3) for t in (1, 2, 3, 4)])
    images = [target * (1 + 0.1 * n) for n in range(8)]
    loss = Loss(settings(l1=1.0), p, target, None, None)
    single = [loss(x) for x in images]
    assert torch.allclose(loss.weighted_sum(images, weights), sum(w * v for w, v in zip(weights, single, strict=True)))
    # moving the error from the last step to the first makes it a tenth
    worse = [target * 2 if n == 0 else target for n in range(4)], [target * 2 if n == 3 else target for n in range(4)]
    first, last = (loss.weighted_sum(x, step_weights(settings(l1=1.0), [4])) for x in worse)
    assert torch.allclose(first, 0.1 * last)


@pytest.mark.parametrize(
    ("steps", "cascades", "wanted"),
    [
        ("last", "last", [0, 0, 0, 1]),
        ("last", "mean", [0, 0.5, 0, 0.5]),
        ("mean", "mean", [0.25] * 4),
        ("mean", "last", [0, 0, 0.5, 0.5]),
    ],
)
def test_which_iterates_count(steps, cascades, wanted):
    assert step_weights(settings(l1=1.0, steps=steps, cascades=cascades), [2, 2]) == pytest.approx(wanted)


def test_a_schedule_of_one_step():
    assert step_weights(settings(l1=1.0), [1]) == [1.0]


@pytest.mark.parametrize("name", ["cirim", "e2evn", "unet", "invertible-rim"])
@pytest.mark.parametrize("terms", [{"l1": 1.0}, {"l2": 1.0, "region": "object"}, {"ssim": 1.0}])
def test_gradients_are_finite_at_zeros(name, terms):
    """Check a background of exact zeros in the target and in the image (D17)."""
    small = {"cirim": {"cascades": 2, "steps": 2, "features": 8}, "unet": {"channels": 4}}
    small |= {"e2evn": {"cascades": 1, "channels": 4, "pools": 1, "sensitivity": False}}
    small |= {"invertible-rim": {"steps": 2, "features": 8, "width": 4}}
    p = random_problem((32, 32), batch=1)
    p = type(p)(p.y.to(torch.complex64), p.mask.float(), (p.maps * (torch.arange(32) > 9)).to(torch.complex64))
    target = p.prepared().adjoint.clone()
    target[..., 20:] = 0
    model = build(name, small[name])
    loss = Loss(settings(**terms), p, target, None, None)
    loss.weighted_sum(
        model.images(p), step_weights(settings(**terms), [model.engine.repeats] * len(model.engine.blocks))
    ).sum().backward()
    for weight in model.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


def test_what_cannot_be_compared_is_refused(batch):
    p, target = batch
    with pytest.raises(UsageError, match="no reference"):
        Loss(settings(l1=1.0), p, None, None, None)
    with pytest.raises(UsageError, match="no reference k-space"):
        Loss(settings(ssdu=1.0), p, None, None, None)
    with pytest.raises(UsageError, match="no phase"):
        Loss(settings(l1=1.0, compare="complex"), p, target, None, None)(target.abs())
    with pytest.raises(ValidationError, match="cannot be mixed"):
        settings(ssdu=1.0, l1=1.0)
    with pytest.raises(ValidationError, match="at least one"):
        settings()
