"""Test learned methods with the compressed-sensing image as initial image instead of the zero-filled one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.methods.cross_validation import Blended
from mrirecon.methods.cs import compressed_sensing_start
from mrirecon.methods.registry import build, find_method
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.scale import smooth_phase
from mrirecon.physics.transforms import Scale, SmoothPhase
from mrirecon.reconstruction.calibrate import ItemMaps, build_problem
from tests.methods.test_methods import LEARNED
from tests.problems import known_problem

STARTING = LEARNED
SMALL = {"steps": 2, "features": 8, "cascades": 2, "channels": 4, "pools": 2, "sensitivity": False, "combine": "sense"}


def _small(name, **more):
    options = {**SMALL, "skip": True, **more}
    torch.manual_seed(1)
    return build(name, {k: v for k, v in options.items() if k in find_method(name).schema.model_fields}).eval()


def _cs(p):
    return build("cs", {"lam": float(weight_by_noise("cs", p)[0])})(p)


@pytest.mark.parametrize("name", ["rim", "irim", "cirim"])
def test_before_training_the_image_is_that_of_compressed_sensing(name):
    p, _ = known_problem()
    with torch.no_grad():
        gap = norm(_small(name, start="cs")(p) - _cs(p)) / norm(_cs(p))
        assert gap.max() < 1e-5
        assert norm(_small(name)(p) - _cs(p)).max() > 1e-2 * norm(_cs(p)).max(), "and without, it is not"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "invertible-rim")) for name in STARTING]
)
def test_gradients_flow_through_the_networks_and_not_through_the_start(name):
    p, full = known_problem()
    model = _small(name, start="cs").train()
    assert not model.normalize(p).problem.initial_image.requires_grad
    truth = Problem(full, torch.ones_like(p.mask), p.maps).adjoint
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (model(p) - truth).abs().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in model.parameters())


def test_each_item_of_a_batch_has_its_own_weight():
    """Of items with other masks, other λ: together as alone."""
    (a, _), (b, _) = known_problem(rate=2), known_problem(rate=4, seed=3)
    assert weight_by_noise("cs", a) != weight_by_noise("cs", b)
    both = Problem(*(torch.cat([getattr(p, n) for p in (a, b)]) for n in ("y", "mask", "maps")))
    model = _small("cirim", start="cs")
    with torch.no_grad():
        alone = torch.cat([model(a), model(b)])
        assert (norm(model(both) - alone) / norm(alone)).max() < 1e-5


def test_a_prior_acts_as_it_does_on_compressed_sensing_alone():
    """Maps with the prior beside them are the maps of `cs`, and so is the image."""
    p, _ = known_problem()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 40), indexing="ij")
    maps = ItemMaps(p.maps, "test", values=(1.05 - 0.3 * (x**2 + y**2)).clamp(0, 1)[None, None])
    kspace, mask = p.y[0].numpy(), p.mask[0, 0].numpy()
    informed, transform, prior = build_problem(kspace, mask, maps, "informed")
    weighted, weigh, _ = build_problem(kspace, mask, maps, "weighted")
    assert torch.equal(informed.maps, maps.maps)
    assert torch.equal(transform.undo(informed.adjoint), informed.adjoint)
    assert prior.weight.min() < 0.5, "or there is nothing to test"
    with torch.no_grad():
        alone, start = weigh.undo(_cs(weighted)), _small("cirim", start="cs")(informed, prior=prior)
    assert norm(start - alone) < 1e-4 * norm(alone)


def test_measured_samples_stay_where_a_network_on_k_space_starts():
    p, _ = known_problem()
    model = _small("e2evn", start="cs")
    q = model.normalize(p).problem
    first = model.engine.blocks[0].init(q)
    assert torch.equal(first[:, :, :, ::3], q.y[:, :, :, ::3])
    assert bool(first[:, :, :, 1].abs().any()), "and what was not measured is filled in"


def test_problems_keep_their_initial_image():
    p, _ = known_problem()
    q = replace(p, initial_image=p.maps[:, :, 0])
    for r in (q.to("cpu"), q.prepared(), Scale(torch.tensor([2.0])).apply(q)):
        factor = r.y.abs().amax() / q.y.abs().amax()
        assert torch.equal(r.initial_image, q.initial_image * factor), "in the scale of its samples"
    assert torch.equal(p.starting_image, p.adjoint)
    assert torch.equal(q.starting_image, q.initial_image)


# the smooth phase of the first image, moved into the maps


# Networks on k-space of the coils see the receiver's phase, whatever the maps hold.
ON_IMAGES = [name for name in STARTING if name not in ("kikinet", "lpdnet")]


@pytest.mark.parametrize("start", ["cs", "zero-filled"])
@pytest.mark.parametrize("name", ON_IMAGES)
def test_with_its_phase_removed_an_image_is_the_same_at_every_phase(name, start):
    """A network sees x · e^(−iφ): another receiver phase changes nothing but that of the result."""
    p, _ = known_problem()
    turned = replace(p, y=p.y * torch.exp(torch.tensor(2.1j)))

    def gap(phase):
        # the output is not initialized to zero, so the networks have an effect
        torch.manual_seed(3)
        model = _small(name, start=start, phase=phase)
        for weight in model.parameters():
            weight.data += 0.05 * torch.randn_like(weight)
        with torch.no_grad():
            a, b = model(p).abs(), model(turned).abs()
        return float(norm(a - b).max() / norm(a).max())

    assert gap("removed") < 1e-4
    if name != "unet":
        assert gap("kept") > 1e-3, "or it proves nothing"


def test_the_image_has_its_phase_again():
    p, _ = known_problem()
    with torch.no_grad():
        model = _small("cirim", start="cs", phase="removed")
        plain = _cs(p)
        assert norm(model(p) - plain).max() < 1e-5 * norm(plain).max()
        assert norm(list(model.images(p))[-1] - plain).max() < 1e-5 * norm(plain).max()


def test_moving_a_phase_into_the_maps_keeps_the_samples():
    p, _ = known_problem()
    x = p.adjoint
    phase = smooth_phase(x, p.axes)
    assert torch.allclose(phase.abs(), torch.ones_like(phase.abs()), atol=1e-5)
    transform = SmoothPhase(phase)
    for q in (transform.apply(p), transform.apply(p.prepared())):
        assert norm(q.A(x * phase.conj()) - p.A(x)).max() < 1e-5 * norm(p.A(x)).max()
        assert norm(q.adjoint - x * phase.conj()).max() < 1e-5 * norm(x).max()
        assert torch.allclose(transform.inverse().apply(q).maps, p.maps, atol=1e-5)
    # the smooth phase is removed, up to the resolution of the window
    rows = torch.linspace(-2, 2, 48)[:, None].expand(48, 40)
    bent = torch.complex(rows.cos(), rows.sin())[None, None]
    left = (bent * smooth_phase(bent, (-2, -1)).conj())[..., 8:-8, 8:-8]
    assert left.angle().abs().max() < 0.05


# a start of few iterations


def _few(p, count):
    with torch.no_grad():
        return compressed_sensing_start(p.prepared(), iterations=count)


@pytest.mark.parametrize("name", ["rim", "irim", "cirim"])
def test_a_start_of_few_iterations_is_that_in_training_and_in_use(name):
    p, _ = known_problem()
    model = _small(name, start="cs", start_iterations=3)
    few, whole = _few(p, 3), _cs(p)
    assert norm(few - whole) > 1e-2 * norm(whole), "or there is nothing to test"
    for mode in (True, False):
        with torch.no_grad():
            assert norm(model.train(mode)(p) - few).max() < 1e-5 * norm(few).max()
            n = model.normalize(p)
            assert norm(n.undo(n.problem.initial_image) - few).max() < 1e-5 * norm(few).max()


def test_more_iterations_come_nearer_to_compressed_sensing():
    p, _ = known_problem()
    gaps = [float(norm(_few(p, n) - _cs(p)) / norm(_cs(p))) for n in (2, 8, 40)]
    assert gaps[0] > gaps[1] > gaps[2]


def test_models_that_do_not_say_start_at_the_converged_image():
    model = build("cirim", {"start": "cs", "cascades": 1, "features": 8})
    assert model.start is compressed_sensing_start
    blended = build("cirim", {"start": "cs", "cascades": 1, "features": 8, "blend": "cross_validated"})
    assert blended.fallback is None
    with pytest.raises(UsageError, match="has no effect"):
        build("cirim", {"start_iterations": 4})


@pytest.mark.parametrize("phase", ["kept", "removed"])
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_what_is_not_taken_of_the_network_is_compressed_sensing(weight, phase):
    """Where the blend takes less than all of a refinement, the rest is the converged image, not the rough start."""
    p, _ = known_problem()
    model = _small("cirim", start="cs", start_iterations=3, phase=phase)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    with torch.no_grad():
        model = Blended(model, lambda refine, problem, prior: torch.full((1,), weight), compressed_sensing_start).eval()
        rest, network = model.parts(p)
        image, last = model(p), list(model.images(p))[-1]
    assert norm(rest - _cs(p)) < 1e-4 * norm(rest)
    assert norm(network - rest) > 1e-2 * norm(rest), "or there is nothing to test"
    for found in (image, last):
        assert norm(found - (rest + weight * (network - rest))) < 1e-4 * norm(rest)
