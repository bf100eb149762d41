"""Test cross-validated blending: choice of samples, closed form, and a bad network that does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.data.simulate import coil_maps
from mrirecon.engine import Reconstructor, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.masks import make_mask
from mrirecon.methods.cross_validation import (
    Blended,
    _importance,
    _remove_samples,
    choose_hidden_samples,
    cross_validated_weight,
    withhold,
)
from mrirecon.methods.registry import build, methods
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

NY, NX, COILS = 48, 96, 4


def mask_of(family, rate=3.0, seed=0):
    return make_mask(family, (NY, NX), rate, calibration=8, seed=seed).mask


def problem(family="poisson", noise=0.0, seeds=(0,)):
    """Return a problem and its true image, which is far from any start."""
    maps = torch.from_numpy(np.asarray(coil_maps((NY, NX), COILS, seed=0))).to(torch.complex64)
    maps = (maps / maps.abs().square().sum(0).sqrt())[None, None].expand(len(seeds), -1, -1, -1, -1).contiguous()
    mask = torch.from_numpy(np.stack([mask_of(family, seed=s) for s in seeds])).float()[:, None]
    generator = torch.Generator().manual_seed(1)
    truth = torch.complex(*(torch.randn(1, 1, NY, NX, generator=generator) for _ in range(2)))
    truth = truth.expand(len(seeds), -1, -1, -1)
    p = Problem(torch.zeros(len(seeds), COILS, NY, NX, dtype=torch.complex64), mask, maps)
    error = torch.complex(*(torch.randn(p.y.shape, generator=generator) for _ in range(2)))
    return Problem((p.encode(truth) + noise * error) * mask, mask, maps), truth


class Towards(Step[torch.Tensor]):
    """Go from the start to a given image, whatever the samples say."""

    def __init__(self, goal):
        super().__init__()
        self.goal = goal

    def init(self, p):
        return p.starting_image

    def forward(self, s, p):
        return self.goal

    def image(self, s, p):
        return s


def network(goal):
    """Return a model whose network outputs one given image, in the scale of the data."""
    start = torch.zeros_like(goal)
    model = Reconstructor(Unrolled([Towards(goal)]), scale="none", start=lambda p, prior: start)
    return Blended(model).eval()


@pytest.mark.parametrize("family", ["poisson", "gaussian2d", "random", "equispaced"])
@pytest.mark.parametrize("lines", [False, True])
def test_what_is_hidden_was_sampled_and_is_not_the_calibration_region(family, lines):
    mask = mask_of(family)
    hidden = choose_hidden_samples(mask, 0.2, lines=lines)
    assert not hidden[~mask].any()
    assert not hidden[find_calibration(mask)].any()
    outer = mask.sum() - mask[find_calibration(mask)].sum()
    assert hidden.sum() == pytest.approx(0.2 * outer, rel=0.35)
    columns = hidden.all(0)
    assert (columns.sum() * NY == hidden.sum()) == (lines and family in ("random", "equispaced"))
    np.testing.assert_array_equal(hidden, choose_hidden_samples(mask, 0.2, lines=lines))
    assert (hidden != choose_hidden_samples(mask, 0.2, seed=1, lines=lines)).any()


def test_nothing_is_hidden_where_none_can_be_spared():
    assert choose_hidden_samples(np.zeros((NY, NX), bool)) is None
    middle = np.zeros((NY, NX), bool)
    middle[16:32, 40:56] = True
    assert choose_hidden_samples(middle) is None


@pytest.mark.parametrize("family", ["poisson", "random"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, -1.0])
def test_the_weight_undoes_a_network_s_wrong_gain(family, factor):
    p, truth = problem(family)
    model = network(truth * factor)
    wanted = min(max(1 / factor, 0), 1)
    assert float(cross_validated_weight(model.parts, p)) == pytest.approx(wanted, abs=1e-4)
    result = model.run(p)
    assert torch.allclose(result.image, truth * factor * wanted, atol=1e-3)
    assert f"blended with weight {wanted:.0%}" in result.reasons[0]
    assert torch.allclose(list(model.images(p))[-1], result.image)


def test_lines_that_are_too_few_to_spare_any_leave_it_to_scattered_samples():
    p, truth = problem()
    mask = torch.zeros_like(p.mask)
    mask[..., 44:52] = 1
    mask[..., [4, 20, 70, 90]] = 1
    p = Problem(p.encode(truth) * mask, mask, p.maps)
    assert choose_hidden_samples(mask[0, 0].numpy() > 0, lines=True) is None
    assert float(cross_validated_weight(network(2 * truth).parts, p)) == pytest.approx(0.5, abs=1e-4)


def test_a_network_that_is_half_wrong_is_taken_by_half():
    """An error of its own, as large as what it brings and independent of it: g = 1/2."""
    p, truth = problem(noise=0.01)
    generator = torch.Generator().manual_seed(5)
    wrong = torch.complex(*(torch.randn(truth.shape, generator=generator) for _ in range(2)))
    wrong = wrong * (truth.norm() / wrong.norm())
    assert float(cross_validated_weight(network(truth + wrong).parts, p)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("family", ["poisson", "gaussian2d"])
def test_withheld_samples_stand_for_those_that_were_not_acquired(family):
    mask = mask_of(family)
    outside = np.ones_like(mask)
    outside[find_calibration(mask)] = False
    importance = _importance(mask)
    assert importance[mask & outside].sum() == pytest.approx((~mask).sum(), rel=0.3)
    y, x = np.indices(mask.shape)
    far = np.hypot(y / NY - 0.5, x / NX - 0.5) > 0.3
    assert importance[mask & far].mean() > 2 * importance[mask & outside & ~far].mean()


def test_lines_and_scattered_samples_both_decide_for_a_mask_of_lines():
    maps = torch.ones(1, 1, 1, NY, NX, dtype=torch.complex64)
    mask = torch.from_numpy(mask_of("random")).float()[None, None]
    generator = torch.Generator().manual_seed(1)
    full = torch.complex(*(torch.randn(1, 1, NY, NX, generator=generator) for _ in range(2)))
    p = Problem(full * mask, mask, maps)
    scattered, lines = (torch.from_numpy(kind) > 0 for kind in withhold(mask[0, 0].numpy() > 0))
    assert (scattered & ~lines).any()
    assert (lines.all(0) == lines.any(0)).all()
    goal = p.encode.adjoint(torch.where(scattered & ~lines, 8 * full, 2 * full))
    # g is 1/2 for lines, about 1/8 for scattered samples, and about 1/4 for both
    assert float(cross_validated_weight(network(goal).parts, p)) == pytest.approx(1 / 4, abs=0.05)


def test_each_item_of_a_batch_has_its_own_weight():
    p, truth = problem(seeds=(0, 1))
    goal = torch.stack([truth[0], 2 * truth[1]])
    assert cross_validated_weight(network(goal).parts, p).tolist() == pytest.approx([1.0, 0.5], abs=1e-4)


def test_without_samples_to_spare_the_network_is_taken_as_it_is():
    p, truth = problem()
    middle = torch.zeros_like(p.mask)
    middle[..., 16:32, 40:56] = 1
    p = Problem(p.y * middle, middle, p.maps)
    assert torch.allclose(network(3 * truth).run(p).image, 3 * truth)


def test_it_is_not_for_training():
    p, truth = problem()
    model = network(2 * truth)
    assert torch.allclose(model.train()(p), 2 * truth)
    assert torch.allclose(model.eval()(p), truth, atol=1e-3)


@pytest.mark.parametrize("name", [n for n, m in methods().items() if m.learned])
def test_every_method_that_can_be_blended_is(name):
    small = {
        "cascades": 1,
        "steps": 1,
        "features": 8,
        "channels": 4,
        "pools": 1,
        "start": "cs",
        "blend": "cross_validated",
    }
    small |= {"sensitivity": False, "combine": "sense"} if name == "e2evn" else {}
    known = methods()[name].schema.model_fields
    torch.manual_seed(0)
    model = build(name, {k: v for k, v in small.items() if k in known}).eval()
    p, _ = problem()
    with torch.inference_mode():
        first, image = model.parts(p)
        result = model.run(p, consume=True)
    weight = float(result.reasons[0].split("blended with weight ")[1].rstrip("%")) / 100
    assert torch.allclose(result.image, first + weight * (image - first), atol=0.02 * float(image.abs().max()))


def test_compressed_sensing_is_solved_once():
    """The problem without the hidden samples starts near the solution, and the weight hardly changes."""
    p, _ = problem("random", noise=0.02)
    smooth = torch.linspace(-1, 1, NY)[:, None].square() + torch.linspace(-1, 1, NX).square() < 0.7
    truth = smooth.to(torch.complex64)[None, None]
    p = Problem(p.y * 0.02 + p.encode(truth) * p.mask, p.mask, p.maps)
    torch.manual_seed(0)
    options = {"steps": 2, "features": 8, "start": "cs", "blend": "cross_validated"}
    model = build("rim", options).eval()
    for weight in model.parameters():  # it begins by adding nothing
        weight.data += 0.02 * torch.randn_like(weight)
    calls = []
    begin = model.start

    def counted(q, prior):
        calls.append((q.initial_image is not None, q.mask.sum().item()))
        return begin(q, prior)

    model.start = counted
    with torch.inference_mode():
        result = model.run(p)
        cold = float(cross_validated_weight(model.parts, p))
    assert [near for near, _ in calls] == [False, True, False], "once for the image, and from there for what is hidden"
    assert calls[1][1] < calls[0][1]
    weight = float(result.reasons[0].split("blended with weight ")[1].rstrip("%")) / 100
    assert weight == pytest.approx(cold, abs=0.15)


def test_a_start_without_the_hidden_samples_does_not_know_them():
    """What is predicted at hidden samples must not depend on what was measured there, but for what others say of it."""
    p, truth = problem("poisson")
    held = torch.from_numpy(choose_hidden_samples(p.mask[0, 0].numpy() > 0))[None, None]
    for prior in (None, torch.full_like(truth.real, 0.5)):
        q = Problem(p.y, p.mask, p.maps)
        x = truth if prior is None else truth * prior
        left = _remove_samples(q, x, held, None if prior is None else Prior(prior))
        contribution = p.encode.adjoint(held * p.encode(x)) * (1 if prior is None else 0.25)
        assert torch.allclose(left, x - contribution, atol=1e-6)


def test_a_magnitude_cannot_be_blended():
    with pytest.raises(UsageError, match="cannot predict samples"):
        build("e2evn", {"blend": "cross_validated"})
