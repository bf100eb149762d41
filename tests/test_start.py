"""A learned method may refine the image of compressed sensing in place of the zero-filled one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrirecon.calibrate import ItemMaps
from mrirecon.inference import pose
from mrirecon.operators import norm
from mrirecon.problem import Problem
from mrirecon.registry import build, find
from mrirecon.regularization import default_weight
from tests.problems import known_problem
from tests.test_methods import LEARNED

STARTING = [name for name in LEARNED if "cs" in str(find(name).schema.model_fields.get("start", ""))]
SMALL = {"steps": 2, "features": 8, "cascades": 2, "channels": 4, "pools": 2, "sensitivity": False, "combine": "sense"}


def _small(name, **more):
    options = {**SMALL, "skip": True, **more}
    torch.manual_seed(1)
    return build(name, {k: v for k, v in options.items() if k in find(name).schema.model_fields}).eval()


def _cs(p):
    return build("cs", {"lam": default_weight("cs", p.mask[0])})(p)


def test_which_methods_have_it():
    assert set(STARTING) == {"rim", "irim", "cirim", "e2evn", "unet"}


@pytest.mark.parametrize("name", ["rim", "irim", "cirim"])
def test_before_training_the_image_is_that_of_compressed_sensing(name):
    p, _ = known_problem()
    with torch.no_grad():
        gap = norm(_small(name, start="cs")(p) - _cs(p)) / norm(_cs(p))
        assert gap.max() < 1e-5
        assert norm(_small(name)(p) - _cs(p)).max() > 1e-2 * norm(_cs(p)).max(), "and without, it is not"


@pytest.mark.parametrize("name", STARTING)
def test_gradients_flow_through_the_networks_and_not_through_the_start(name):
    p, full = known_problem()
    model = _small(name, start="cs").train()
    q, _ = model.scaled(p)
    assert not q.start.requires_grad
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
    assert default_weight("cs", a.mask[0]) != default_weight("cs", b.mask[0])
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
    informed, one = pose(kspace, mask, maps, "informed")
    weighted, prior = pose(kspace, mask, maps, "weighted")
    assert torch.equal(informed.maps, maps.maps)
    assert one.min() == one.max() == 1
    assert prior.min() < 0.5, "or there is nothing to test"
    with torch.no_grad():
        alone, start = _cs(weighted) * prior, _small("cirim", start="cs")(informed)
    assert norm(start - alone) < 1e-4 * norm(alone)


def test_measured_samples_stay_where_a_network_on_k_space_starts():
    p, _ = known_problem()
    model = _small("e2evn", start="cs")
    q, _ = model.scaled(p)
    first = model.engine.blocks[0].init(q)
    assert torch.equal(first[:, :, :, ::3], q.y[:, :, :, ::3])
    assert bool(first[:, :, :, 1].abs().any()), "and what was not measured is filled in"


def test_problems_keep_prior_and_start_on_their_way():
    p, _ = known_problem()
    q = replace(p, prior=torch.ones_like(p.maps[:, :, 0].real), start=p.maps[:, :, 0])
    for r in (q.to("cpu"), q.prepared(), q.scaled(torch.tensor([2.0]))):
        assert torch.equal(r.prior, q.prior)
        assert torch.equal(r.start, q.start)
    assert torch.equal(p.first, p.adjoint)
    assert torch.equal(q.first, q.start)
