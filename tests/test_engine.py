"""Test the engine: stopping per item, memory, block boundaries, scale."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from mrirecon.engine import Reconstructor, Step, Unrolled
from mrirecon.errors import SignalError
from mrirecon.methods.registry import build, find_method, methods
from mrirecon.methods.steps import Fista
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import WaveletL1
from mrirecon.physics.scale import percentile_scale
from tests.problems import random_problem


class Counting(NamedTuple):
    x: torch.Tensor
    entered: torch.Tensor  # (B,) how often a block was entered


class Halve(Step[Counting]):
    """x ← x / 2 times a parameter; an item's change is its size."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def init(self, p):
        return Counting(p.adjoint.abs() + 0j, torch.zeros(p.y.shape[0]))

    def enter(self, previous, p):
        return Counting(previous.x, previous.entered + 1)

    def forward(self, s, p):
        return Counting(s.x * self.weight, s.entered)

    def image(self, s, p):
        return s.x

    def change(self, old, new, p):
        return norm(new.x)


def test_blocks_times_repeats_and_enter_at_each_boundary():
    p = random_problem()
    engine = Unrolled([Halve(), Halve(), Halve()], repeats=4)
    states = [outcome.state for _, outcome in engine.iterates(p)]
    assert len(states) == 12
    assert [int(s.entered[0]) for s in states] == [0] * 4 + [1] * 4 + [2] * 4
    torch.testing.assert_close(engine(p), (p.adjoint.abs() + 0j) / 2**12)


def test_items_stop_alone_and_say_why():
    p = random_problem()
    loud = Problem(p.y * torch.tensor([1.0, 1000.0]).reshape(2, 1, 1, 1), p.mask, p.maps)
    engine = Unrolled([Halve()], repeats=40, tolerance=1e-3)
    with torch.no_grad():
        both = engine.solve(loud)
        alone = [engine.solve(Problem(loud.y[i : i + 1], p.mask, p.maps[i : i + 1])) for i in range(2)]
    assert both.converged.all()
    assert both.iterations[1] > both.iterations[0]
    for i in range(2):
        assert both.iterations[i] == alone[i].iterations[0]
        torch.testing.assert_close(both.state.x[i : i + 1], alone[i].state.x)
    assert all(r.startswith("converged") for r in both.reasons(1e-3))
    short = Unrolled([Halve()], repeats=2, tolerance=1e-9)
    with torch.no_grad():
        assert all("limit of 2" in r for r in short.solve(p).reasons(1e-9))


def test_recording_gradients_runs_to_the_end():
    p = random_problem()
    engine = Unrolled([Halve()], repeats=30, tolerance=1e-3)
    assert int(engine.solve(p).iterations[0]) == 30
    with torch.no_grad():
        assert int(engine.solve(p).iterations[0]) < 30


def test_checkpoint_equals_store():
    p, gradients, calls = random_problem(), [], []

    class Counted(Fista):
        def forward(self, s, p):
            calls.append(1)
            return super().forward(s, p)

    for memory, count in (("store", 6), ("checkpoint", 12)):
        calls.clear()
        engine = Unrolled([Counted(WaveletL1(2, "haar", 2), lam) for lam in (0.05, 0.1)], 3, memory=memory)
        y = p.y.clone().requires_grad_()
        engine(Problem(y, p.mask, p.maps)).abs().sum().backward()
        assert len(calls) == count, "each step once, and once more where it is recomputed"
        gradients.append(y.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


def test_images_come_out_in_the_datas_own_scale():
    p = random_problem()
    model = Reconstructor(Unrolled([Fista(WaveletL1(2, "haar", 2), 0.05)], repeats=5))
    with torch.no_grad():
        images, last = list(model.images(p)), model(p)
        louder = model(Problem(p.y * 1e6, p.mask, p.maps))
    assert len(images) == 5
    torch.testing.assert_close(images[-1], last)
    torch.testing.assert_close(louder, last * 1e6)


def test_consuming_gives_the_same_image_and_uses_the_data_up():
    p = random_problem()
    model = build("cs", {"wavelet": "haar", "iterations": 5}).double()
    with torch.inference_mode():
        kept = model.run(p)
        before = p.y.clone()
        assert torch.equal(p.y, before)
        used = model.run(p, consume=True)
    torch.testing.assert_close(used.image, kept.image)
    assert not torch.equal(p.y, before)


def test_prepare_sees_the_scaled_problem():
    seen = []

    def prepare(p):
        seen.append(float(percentile_scale(p.adjoint)[0]))
        return Problem(p.y, p.mask, p.maps * 1j)

    p = random_problem()
    model = Reconstructor(Unrolled([Halve()]), prepare)
    model(p)
    assert seen == [pytest.approx(1)]


@pytest.mark.parametrize(("value", "words"), [(0.0, "no signal"), (float("nan"), "NaN"), (float("inf"), "NaN")])
def test_data_without_a_scale_are_refused(value, words):
    p = random_problem()
    y = p.y.clone()
    y[1] = value
    with pytest.raises(SignalError, match=words) as caught:
        build("cs", {"wavelet": "haar"})(Problem(y, p.mask, p.maps))
    assert "item 1" in caught.value.where


def test_scale_is_the_percentile_or_the_peak_of_an_almost_empty_image():
    x = torch.arange(1, 101, dtype=torch.float64).reshape(1, 1, 10, 10) + 0j
    assert float(percentile_scale(x)) == 99
    point = torch.zeros(1, 1, 40, 40, dtype=torch.complex128)
    point[..., 3, 3] = 7j
    assert float(percentile_scale(point)) == 7


@pytest.mark.parametrize("name", [n for n in sorted(methods()) if not find_method(n).learned])
def test_the_last_iterate_is_the_image(name):
    """Iterates went on to the end of the schedule where the image had stopped at the tolerance."""
    p = random_problem((32, 31), batch=2, per_item=True)
    p = Problem(p.y * torch.tensor([1.0, 30.0]).reshape(2, 1, 1, 1), p.mask, p.maps)
    options = {} if "tolerance" not in find_method(name).schema.model_fields else {"tolerance": 0.02, "iterations": 60}
    model = build(name, options).double()
    with torch.inference_mode():
        result, images = model.run(p), list(model.images(p))
    assert torch.equal(images[-1], result.image)
    assert len(images) == int(result.iterations.max())
    assert not options or len(images) < 60 or name.startswith("cs-tv"), "it stops before the end of its schedule"
