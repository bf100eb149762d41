"""Test the non-uniform Fourier transform, its Toeplitz kernel, density compensation and the problem on a trajectory."""

from __future__ import annotations

import math

import pytest
import torch

from mrirecon.errors import InputError, UsageError
from mrirecon.methods.registry import build
from mrirecon.physics.nonuniform import Gram, NonUniformFourier, NonUniformProblem, pipe_menon, radial_density
from mrirecon.physics.operators import Fourier, inner, norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior, Scale, SmoothPhase
from tests.problems import draw, known_problem

SHAPES = [(8, 9), (7, 6), (1, 5), (6, 5, 4)]


def scattered(shape, batch=2, readouts=5, samples=7, dtype=torch.float64):
    drawn = torch.rand(batch, readouts, samples, len(shape), generator=torch.Generator().manual_seed(1), dtype=dtype)
    return NonUniformFourier((drawn - 0.5) * torch.tensor(shape), shape)


def spokes(count, n, step=0.5):
    angle = torch.arange(count) * math.pi / count
    radius = torch.arange(-n / 2, n / 2, step)
    points = torch.stack([angle.sin()[:, None] * radius, angle.cos()[:, None] * radius], -1)
    return NonUniformFourier(points[None].float(), (n, n))


def cartesian(shape, batch=1):
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return NonUniformFourier(grid.reshape(1, shape[0], -1, len(shape)).expand(batch, -1, -1, -1), shape)


def radial_problem(weighting="density", dtype=torch.complex128, **fields):
    p, full = known_problem((24, 24), coils=3)
    fourier = spokes(12, 24)
    fourier = NonUniformFourier(fourier.trajectory.to(dtype.to_real()), fourier.shape)
    y = fourier(Fourier().adjoint(full).to(dtype))
    return NonUniformProblem.measured(y, p.maps.to(dtype), fourier, weighting=weighting, **fields)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_the_sum_of_its_definition(shape):
    f, x = scattered(shape), draw(2, 3, *shape)
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    cycles = (f.trajectory.flatten(1, 2)[:, :, None] * positions / torch.tensor(shape)).sum(-1)
    direct = torch.exp(-2j * math.pi * cycles) @ x.flatten(2).mT / math.prod(shape) ** 0.5
    torch.testing.assert_close(f(x).flatten(2), direct.mT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("real", [torch.float32, torch.float64])
def test_forward_and_adjoint_agree(shape, real):
    f = scattered(shape, dtype=real)
    dtype = torch.complex64 if real == torch.float32 else torch.complex128
    x, y = draw(2, 3, *shape, dtype=dtype), draw(2, 3, 5, 7, dtype=dtype)
    difference = (inner(f(x), y) - inner(x, f.adjoint(y))).abs()
    assert float((difference / (norm(f(x)) * norm(y))).max()) < (1e-5 if real == torch.float32 else 1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_applies_the_normal_operator(shape):
    f, x = scattered(shape), draw(2, 3, *shape)
    weights = draw(2, 1, 5, 7).abs()
    torch.testing.assert_close(Gram(f, weights)(x), f.adjoint(weights * f(x)), rtol=1e-9, atol=1e-9)


def test_the_bound_of_the_eigenvalues_holds():
    gram = Gram(scattered((6, 5)), torch.ones(1, 1, 5, 7, dtype=torch.float64))
    columns = gram(torch.eye(30, dtype=torch.complex128).reshape(30, 1, 6, 5).movedim(0, 1).expand(2, -1, -1, -1))
    largest = torch.linalg.eigvalsh(columns.flatten(2)).amax(-1)
    assert bool((gram.largest_eigenvalue >= largest).all())
    assert bool((gram.largest_eigenvalue < 1.3 * largest).all())


def test_gradients_pass_through_the_transform_and_the_kernel():
    f = scattered((4, 5), batch=1, readouts=2, samples=3)
    gram = Gram(f, torch.rand(1, 1, 2, 3, dtype=torch.float64))
    x, y = draw(1, 2, 4, 5).requires_grad_(), draw(1, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradcheck(f.adjoint, y)
    assert torch.autograd.gradcheck(gram, x)


def test_cartesian_samples_have_density_one():
    torch.testing.assert_close(pipe_menon(cartesian((12, 15))), torch.ones(1, 1, 12, 15), rtol=0.01, atol=0.01)


def test_the_density_of_spokes_is_that_of_their_rings():
    f = spokes(100, 64)
    iterated, analytic = pipe_menon(f), radial_density(f)
    inside = (..., slice(8, -8))  # the ends of readouts represent what lies beyond them
    assert float(norm(iterated[inside] - analytic[inside]) / norm(analytic[inside])) < 0.05
    assert float(iterated.max()) < 0.9
    # the disc that the spokes cover
    assert float(iterated.sum()) / 64**2 == pytest.approx(math.pi / 4, rel=0.05)


def test_the_density_of_undersampled_spokes_is_limited():
    iterated, analytic = pipe_menon(spokes(8, 64)), radial_density(spokes(8, 64))
    assert float(analytic.max()) == 0.5  # two samples in 1/FOV
    assert float(norm(iterated - analytic) / norm(analytic)) < 0.1


def test_samples_that_are_left_out_have_no_density():
    f, used = spokes(16, 32), torch.ones(1, 1, 16, 64)
    used[:, :, 3] = 0
    density = pipe_menon(f, used)
    assert not density[:, :, 3].any()
    assert bool((density[:, :, 2] > pipe_menon(f)[:, :, 2] - 0.01).all())


@pytest.mark.parametrize("weighting", ["density", "none"])
def test_fast_paths_equal_the_composed_operators(weighting):
    p = radial_problem(weighting)
    x = draw(1, 1, 24, 24)
    torch.testing.assert_close(p.normal(x), p.A.adjoint(p.A(x)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.prepared().gradient(x), p.A.adjoint(p.residual(x)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.adjoint, p.A.adjoint(p.data), rtol=1e-6, atol=1e-6)
    assert float(p.lipschitz) >= float(norm(p.normal(x)) / norm(x))


def test_parts_of_the_samples_add_up():
    p, hidden = radial_problem("none"), torch.zeros(1, 1, 12, 48)
    hidden[:, :, ::3] = 1
    x = draw(1, 1, 24, 24)
    rest = p.only(1 - hidden)
    torch.testing.assert_close(rest.normal(x) + p.contribution(hidden, x), p.normal(x), rtol=1e-6, atol=1e-6)
    assert not rest.y[:, :, ::3].any()


@pytest.mark.parametrize("method", ["zero-filled", "rss", "sense", "cs", "cs-tv"])
def test_cartesian_samples_give_the_cartesian_image(method):
    grid, _ = known_problem((24, 20), coils=4)
    f = NonUniformFourier(cartesian((24, 20)).trajectory.float(), (24, 20))
    options = {} if method in ("zero-filled", "rss") else {"iterations": 100, "tolerance": 0.0}
    options |= {"shifts": False, "iterations": 400} if method == "cs" else {}  # until both have converged
    p = NonUniformProblem(grid.y, grid.mask, grid.maps, fourier=f, density=torch.ones(1, 1, 24, 20))
    model = build(method, options)
    with torch.no_grad():
        ours, theirs = model(p), model(grid)
    assert float(norm(ours - theirs) / norm(theirs)) < 1e-3


def test_transforms_keep_the_kernel():
    p = radial_problem(dtype=torch.complex64).prepared()
    for t in (Scale(torch.tensor([2.0])), SmoothPhase(torch.ones(1, 1, 24, 24, dtype=torch.complex64))):
        assert t.apply(p).gram is p.gram
    assert Prior(torch.ones(1, 1, 24, 24)).apply(p).gram is p.gram
    assert p.with_samples(2 * p.y).gram is p.gram


@pytest.mark.parametrize(
    ("method", "options"),
    [("e2evn", {}), ("kikinet", {}), ("lpdnet", {}), ("cascadenet", {"dc": "hard"}), ("cs", {"solver": "primal-dual"})],
)
def test_methods_on_a_grid_refuse_with_a_reason(method, options):
    with pytest.raises(UsageError) as refused:
        build(method, options).eval()(radial_problem(dtype=torch.complex64))
    assert refused.value.why
    assert "cirim" in refused.value.fix


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rim", {"features": 8, "steps": 2, "phase": "removed"}),
        ("cirim", {"features": 8, "steps": 2, "cascades": 2}),
        ("unet", {"channels": 4, "dc": "proximal"}),
        ("rim", {"features": 8, "steps": 2, "start": "cs", "blend": "cross_validated"}),
        ("cascadenet", {"cascades": 2, "channels": 4, "dc": "gradient"}),
    ],
)
def test_networks_run_on_a_trajectory(method, options):
    p = radial_problem(dtype=torch.complex64)
    model = build(method, options)
    image = model.train()(p)
    assert image.shape == (1, 1, 24, 24)
    image.abs().square().sum().backward()
    assert all(q.grad is not None and torch.isfinite(q.grad).all() for q in model.parameters() if q.requires_grad)
    with torch.no_grad():
        scaled = model.eval()(p.with_samples(3 * p.y))
        torch.testing.assert_close(scaled, 3 * model(p.with_samples(p.y)), rtol=1e-3, atol=1e-4)


def test_shapes_that_do_not_match_are_refused():
    p = radial_problem()
    with pytest.raises(InputError, match="do not match"):
        NonUniformProblem(p.y[..., :5], p.mask, p.maps, fourier=p.fourier, density=p.density)
    with pytest.raises(InputError, match="trajectory does not fit"):
        NonUniformFourier(p.fourier.trajectory, (24, 24, 3))


def test_a_cartesian_problem_has_the_same_properties():
    p, _ = known_problem()
    assert isinstance(p, Problem)
    assert p.zero_filled is not None
    assert [s.scattered for s in p.undersampling] == [False]
