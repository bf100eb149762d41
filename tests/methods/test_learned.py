"""Test the properties of all registered learned methods."""

from __future__ import annotations

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.methods.registry import build, find_method
from mrirecon.models.costs import costs, parameters, peak_allocation
from mrirecon.physics.operators import Fourier, norm, root_sum_of_squares
from mrirecon.physics.problem import Problem
from tests.methods.test_methods import LEARNED, make
from tests.problems import known_problem, random_problem

# No data have been mixed with anything yet where the first consistency is applied: k = y.
DEAD = {("e2evn", "engine.blocks.0.part.consistency.weight")}
PUBLISHED = [
    ("rim", {}, 94_080),
    ("rim", {"cell": "mgu"}, 77_568),
    ("irim", {}, 52_992),
    ("cirim", {}, 264_960),
    ("cirim", {"cascades": 8}, 423_936),
    ("cirim", {"features": 128}, 980_480),
    ("e2evn", {}, 29_936_966),
    ("e2evn", {"cascades": 8, "sensitivity": False}, 19_634_712),
    # and ten weights of consistency, and four PReLU in each cascade, none shared
    ("cascadenet", {}, 1_131_540 + 10 + 40),
    ("cascadenet", {"shared_prelu": True, "dc_order": "parallel"}, 1_131_540 + 10 + 1),
    ("lpdnet", {}, 1_182_660),
    ("lpdnet", {"share_weights": True}, 236_532),
    ("unet", {}, 1_860_866),
    ("unet", {"domain": "magnitude", "channels": 32, "pools": 4}, 7_756_097),
]
KINDS = ["none", "gradient", "soft", "hard", "proximal"]
WITH_DC = [name for name in LEARNED if "dc" in find_method(name).schema.model_fields]


@pytest.mark.parametrize(("name", "options", "count"), PUBLISHED)
def test_published_sizes(name, options, count):
    assert parameters(name, options) == count, "distinct parameters, laid out"
    if count < 1e6:
        assert sum(p.numel() for p in build(name, options).parameters()) == count, "and built"


@pytest.mark.parametrize("name", LEARNED)
def test_gradients_are_finite_and_no_parameter_is_dead(name):
    p, model = random_problem((17, 19)), make(name).train()
    model(p).abs().square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert bool(parameter.grad.any()) != ((name, key) in DEAD), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WITH_DC)
def test_every_consistency_for_every_method(name, kind):
    p, model = random_problem((17, 19)), make(name, dc=kind).train()
    x = model(p)
    assert torch.isfinite(x.abs()).all()
    x.abs().sum().backward()
    for key, w in model.named_parameters():
        assert w.grad is not None, key
        assert torch.isfinite(w.grad).all(), key
        assert bool(w.grad.any()) != ((name, key) in DEAD), key
    different = make(name, dc="none" if kind != "none" else "hard")(p)
    assert norm(different - x).max() > 1e-9


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_measured_samples_stay_where_consistency_is_exact(kind):
    """One coil, unit maps: F x holds the samples, whatever the network did."""
    p = random_problem((16, 18), coils=1)
    p = Problem(p.y, p.mask, torch.ones_like(p.maps))
    for name in ("cascadenet", "kikinet", "rim", "unet"):
        x = make(name, dc=kind)(p)
        gap = norm(p.mask * Fourier((-2, -1))(x) - p.y) / norm(p.y)
        assert (gap < 1e-9).all(), name


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("segment", [1, 3])
def test_checkpoint_equals_store(name, segment):
    p, gradients, images = random_problem(), [], []
    repeated = make(name).engine.repeats > 1
    if segment > 1 and not repeated:
        with pytest.raises(UsageError, match="applied once"):
            make(name, segment=segment)
        return
    options = {"segment": segment, "steps": 4} if repeated else {}
    for memory in ("store", "checkpoint"):
        model = make(name, memory=memory, **options)
        x = model(p)
        x.abs().sum().backward()
        images.append(x.detach())
        gradients.append([w.grad for w in model.parameters()])
    assert torch.equal(*images)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_inverting_equals_storing_and_takes_less():
    p, gradients, peaks = random_problem((24, 21)), {}, {}
    for memory in ("store", "invert"):
        model = make("invertible-rim", memory=memory, steps=6)
        x = model(p)
        x.abs().sum().backward()
        gradients[memory] = [x.detach(), *(w.grad for w in model.parameters())]
        peaks[memory] = peak_allocation(lambda model=model: model(p).abs().sum().backward())
    for a, b in zip(gradients["store"], gradients["invert"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert peaks["invert"] <= 0.4 * peaks["store"], peaks


def test_a_step_of_the_invertible_rim_is_undone():
    p, step = random_problem((24, 21)), make("invertible-rim").engine.blocks[0]
    s = step.init(p) + torch.randn(2, 6, 24, 21, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(step.inverse(step(s, p), p), s)
    with pytest.raises(UsageError, match="full precision"), torch.autocast("cpu", dtype=torch.bfloat16):
        make("invertible-rim")(p)
    with pytest.raises(NotImplementedError, match="Rim"):
        make("rim").engine.blocks[0].inverse(s, p)


def test_checkpointing_takes_a_fraction_of_the_memory():
    p = random_problem((64, 64), batch=1, dtype=torch.complex64)
    peaks = {}
    for memory in ("store", "checkpoint"):
        model = build("cirim", {"features": 32, "memory": memory, "segment": 2})
        peaks[memory] = peak_allocation(lambda model=model: model(p).abs().sum().backward())
    assert peaks["checkpoint"] <= 0.4 * peaks["store"], peaks


@pytest.mark.parametrize("name", LEARNED)
def test_networks_run_in_half_precision_and_physics_does_not(name):
    p = random_problem((32, 32), dtype=torch.complex64)
    model = make(name).float()
    with torch.no_grad():
        full = model(p)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(p)
    assert half.dtype == full.dtype
    gap = (norm(half - full) / norm(full)).max()
    assert 0 < gap < 0.1


def test_volumes_are_refused():
    with pytest.raises(UsageError, match="two-dimensional"):
        make("cirim")(random_problem((6, 9, 8)))


@pytest.mark.parametrize(("carry", "detach"), [(False, False), (True, False), (False, True), (True, True)])
def test_cascade_boundaries_of_a_cirim(carry, detach):
    p = random_problem()
    model = make("cirim", carry_hidden=carry, detach=detach)
    model(p).abs().sum().backward()
    first = next(iter(model.engine.blocks[0].parameters()))
    assert (first.grad is None) == detach
    states = [outcome.state for _, outcome in model.engine.iterates(p)]
    assert len(states) == 4
    block = model.engine.blocks[1]
    entered = block.enter(states[1], p)
    assert bool(entered.hidden[0].any()) == carry
    torch.testing.assert_close(entered.x, states[1].x)


def test_sharing_is_asked_for_and_never_an_accident():
    for name in LEARNED:
        if "share_weights" not in find_method(name).schema.model_fields:
            continue
        own, shared = make(name), make(name, share_weights=True)
        first, second = ({id(w) for w in block.parameters()} for block in own.engine.blocks)
        assert not first & second
        assert shared.engine.blocks[0] is shared.engine.blocks[1]


def test_scale_is_an_option():
    p = random_problem()
    for factor in (1.0, 7.0):
        # Not an IndRNN, which at first is homogeneous itself: ReLU, and biases of zero.
        x = make("rim", scale="none")(Problem(p.y * factor, p.mask, p.maps))
        y = make("rim")(Problem(p.y * factor, p.mask, p.maps))
        assert norm(x - y).min() > 1e-9


def test_maps_of_the_sensitivity_network_have_unit_length():
    p = random_problem((32, 30))
    p.mask[..., 12:18, 11:19] = 1
    model = make("e2evn")
    maps = model.prepare(p).maps
    torch.testing.assert_close(root_sum_of_squares(maps, 2), torch.ones(2, 1, 32, 30, dtype=torch.float64))
    centre = model.prepare.centre(p.mask)
    assert (centre <= p.mask).all()


@pytest.mark.parametrize("name", LEARNED)
def test_it_learns_one_slice(name):
    """At most 300 steps of Adam bring the error below a tenth of the zero-filled image's."""
    torch.manual_seed(0)
    p, full = known_problem((32, 32), coils=4, rate=3, snr=200.0)
    zero = p.adjoint
    truth = Problem(full, torch.ones_like(p.mask), p.maps).adjoint
    options = {"steps": 4, "features": 16, "cascades": 3, "channels": 12, "pools": 2, "width": 4, "buffers": 3}
    options |= {"layers": 4, "memory": "store", "sensitivity": False, "combine": "sense"}
    options = {k: v for k, v in options.items() if k in find_method(name).schema.model_fields}
    model = build(name, options)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scale = float(norm(truth))

    def error(x):
        return (x - truth).abs().square().sum() / scale**2

    goal = 0.1 * error(zero).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = error(model(p))
        if loss.item() < goal:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < goal


def test_costs_are_counted():
    """The convolutions of an IRIM by hand: two operations a weight and pixel, eight steps."""
    found = costs("irim", size=64)
    weights = 4 * 64 * 25 + 64 * 64 + 64 * 64 * 9 + 64 * 64 + 64 * 2 * 9
    # Maps carry a halo of two pixels all around, which is computed as well.
    assert found.operations == pytest.approx(8 * 2 * weights * 68 * 68 / 1e9, rel=1e-6)
    assert found.parameters == 52_992
    assert costs("irim", size=128).operations == pytest.approx(4 * found.operations)
    assert 0 < found.memory < 100
