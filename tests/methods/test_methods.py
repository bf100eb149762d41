"""Test the properties of all registered methods; new methods are included automatically."""

from __future__ import annotations

import pytest
import torch

from mrirecon.engine import Schedule
from mrirecon.errors import MriReconError, UsageError
from mrirecon.methods.registry import build, find_method, methods, register
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import TotalVariation, WaveletL1
from tests.problems import known_problem, random_problem

ALL = sorted(methods())
CLASSICAL = [name for name in ALL if not find_method(name).learned]
MAPPED = [name for name in ALL if find_method(name).maps]
LEARNED = [name for name in ALL if find_method(name).learned]
SPACES = [(16, 16), (17, 19), (11, 24), (23, 8)]


# Sizes by the names of options, so that new methods are small without further settings.
SMALL = {"channels": 4, "features": 6, "cascades": 2, "steps": 2, "pools": 2, "buffers": 2, "layers": 3}
SMALL |= {"width": 2, "sensitivity_channels": 3, "sensitivity_pools": 2, "own_maps_channels": 3, "own_maps_pools": 2}


def make(name, ndim=2, **options):
    torch.manual_seed(0)
    schema = find_method(name).schema.model_fields
    small = {**SMALL, "ndim": ndim} if find_method(name).learned else {"ndim": ndim}
    return build(name, {**{k: v for k, v in small.items() if k in schema}, **options}).double().eval()


def solve(model, p):
    with torch.no_grad():
        return model(p)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(("coils", "sets"), [(3, 1), (1, 1), (4, 2)])
def test_any_size_any_coils(name, space, coils, sets):
    if sets == 2 and not find_method(name).maps:
        pytest.skip("this method reads no maps")
    p = random_problem(space, sets=sets, coils=coils)
    if sets > (find_method(name).map_sets or sets):
        with pytest.raises(UsageError, match="one set of maps"):
            solve(make(name), p)
        return
    x = solve(make(name), p)
    assert x.shape in ((2, sets, *space), (2, 1, *space))
    assert torch.isfinite(x.abs()).all()
    assert norm(x).min() > 0


@pytest.mark.parametrize("name", CLASSICAL)
def test_three_dimensions(name):
    p = random_problem((6, 9, 8))
    assert solve(make(name, ndim=3), p).shape == (2, 1, 6, 9, 8)


@pytest.mark.parametrize("name", ALL)
def test_twice_the_data_twice_the_image(name):
    p, model = random_problem(), make(name)
    for factor in (1e-6, 3.0, 1e5):
        x, scaled = solve(model, p), solve(model, Problem(p.y * factor, p.mask, p.maps))
        torch.testing.assert_close(scaled, x * factor, rtol=1e-6, atol=1e-9 * factor)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_two_is_two_batches_of_one(name):
    p, model = random_problem(per_item=True), make(name)
    both = solve(model, p)
    for i in range(2):
        one = Problem(p.y[i : i + 1], p.mask[i : i + 1], p.maps[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], solve(model, one), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_no_signal_and_not_a_number_are_refused(name, value):
    p = random_problem()
    with pytest.raises(MriReconError) as caught:
        solve(make(name), Problem(p.y * value, p.mask, p.maps))
    assert caught.value.fix


@pytest.mark.parametrize("name", MAPPED)
def test_the_same_image_from_the_same_seed(name):
    p = random_problem()
    assert torch.equal(solve(make(name), p), solve(make(name), p))


@pytest.mark.parametrize("name", ["zero-filled", "sense", "cs", "cs-tv"])
def test_full_noiseless_data_give_the_image_back(name):
    p, _ = known_problem(snr=1e6)
    truth = torch.randn(1, 1, 48, 40, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    whole = Problem(p.encode(truth), torch.ones_like(p.mask), p.maps)
    options = {} if name == "zero-filled" else {"lam": 0.0, "iterations": 300, "tolerance": 0.0}
    x = build(name, options)(whole)
    if name == "zero-filled":
        weight = whole.maps.abs().square().sum(2)
        torch.testing.assert_close(x, weight * truth, rtol=1e-4, atol=1e-4)
    else:
        assert float(norm(whole.A(x - truth)) / norm(whole.y)) < 1e-3


@pytest.mark.parametrize("weight", ["wavelet", "tv"])
def test_three_solvers_one_objective(weight):
    p, _ = known_problem((32, 31))
    name, lam = ("cs", 0.02) if weight == "wavelet" else ("cs-tv", 0.01)
    regularizer = WaveletL1(2, "db2", shifts=False) if weight == "wavelet" else TotalVariation(2)
    found = {}
    for solver, count in (("fista", 400), ("admm", 300), ("primal-dual", 3000)):
        options = {"lam": lam, "solver": solver, "iterations": count, "tolerance": 0.0}
        if weight == "wavelet":
            options |= {"wavelet": "db2", "shifts": False}
        model = build(name, options).double()
        double = Problem(p.y.to(torch.complex128), p.mask.double(), p.maps.to(torch.complex128))
        q = model.normalize(double).problem
        with torch.no_grad():
            x = model.engine(q)
            found[solver] = float(q.data_term(x)[0] + lam * regularizer.value(x)[0])
    best = min(found.values())
    assert all(value <= best * (1 + 1e-4) for value in found.values()), found


def test_better_methods_are_better():
    p, full = known_problem((96, 80), coils=6, rate=4)
    truth = Problem(full, torch.ones_like(p.mask), p.maps).adjoint
    length = p.maps.abs().square().sum(2)

    def error(name):
        x = solve(build(name), p)
        # The truth is Σ|S|² times the image, as zero filling gives it; the others divide by that.
        x = x if name == "zero-filled" else x * length
        return float(norm(x - truth) / norm(truth))

    errors = {name: error(name) for name in ("zero-filled", "sense", "cs")}
    assert errors["cs"] < errors["sense"] < errors["zero-filled"], errors


def test_reasons_say_why_an_iteration_stopped():
    p, _ = known_problem()
    with torch.inference_mode():
        done = build("cs", {"tolerance": 0.01}).run(p)
        cut = build("cs", {"iterations": 2}).run(p)
        direct = build("zero-filled").run(p)
    assert "converged" in done.reasons[0]
    assert int(done.iterations[0]) < 100
    assert "limit of 2" in cut.reasons[0]
    assert direct.reasons == ["completed 1 step"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("css", {}, "did you mean 'cs'"),
        ("cs", {"lamda": 1.0}, "did you mean 'lam'"),
        ("cs", {"lam": -1.0}, "lam"),
        ("cs", {"lam": "much"}, "lam"),
        ("cs", {"solver": "newton"}, "fista"),
        ("cs", {"iterations": 0}, "iterations"),
        ("cs", {"wavelet": "bior2.2"}, "orthogonal"),
        ("zero-filled", {"lam": 1.0}, "none"),
    ],
)
def test_impossible_configurations_name_key_and_choices(name, options, words):
    with pytest.raises(UsageError) as caught:
        build(name, options)
    assert words in str(caught.value)


def test_registration_asks_for_keywords_and_new_names():
    def positional(lam: float) -> Schedule:
        raise NotImplementedError

    def cs() -> Schedule:
        """Return nothing."""
        raise NotImplementedError

    with pytest.raises(ValueError, match="keyword-only"):
        register()(positional)
    with pytest.raises(ValueError, match="there is a method 'cs' already"):
        register()(cs)
