"""Test that a network averaged over symmetries commutes with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrirecon.data.simulate import coil_maps
from mrirecon.errors import UsageError
from mrirecon.methods.registry import build
from mrirecon.networks.symmetry import symmetric_copies, symmetric_mean
from mrirecon.physics.problem import Problem

SPACE = (17, 15)  # odd, so that mirroring leaves the centre in place


def problem():
    """Return a problem with a symmetric mask."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.complex(*torch.randn(2, 1, 1, *SPACE, generator=generator))
    maps = torch.from_numpy(coil_maps(SPACE, 3, seed=0)).to(torch.complex64)[None, None]
    mask = torch.ones(1, 1, *SPACE)
    mask[..., [1, 3, 5, 9, 11, 13]] = 0
    return Problem(Problem(torch.zeros(1, 3, *SPACE) + 0j, mask, maps).A(truth), mask, maps)


def conjugated(p):
    """Return the problem of the complex conjugate image: k-space is mirrored, too."""
    return Problem(p.y.conj().flip(-2, -1).resolve_conj(), p.mask, p.maps.conj().resolve_conj())


def mirrored(p, axis):
    return Problem(p.y.flip(axis), p.mask, p.maps.flip(axis))


def model(name, symmetries, **options):
    torch.manual_seed(0)
    return build(name, {"steps": 3, "features": 8, "symmetries": symmetries, **options}).eval()


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_mean_undoes_the_copies(count):
    x = torch.randn(3, 4, 5, 6)
    copies = symmetric_copies(x, count)
    assert copies.shape == (3 * count, 4, 5, 6)
    assert len({tuple(c.flatten().tolist()) for c in copies.chunk(count)}) == count
    assert torch.allclose(symmetric_mean(copies, count), x)


@pytest.mark.parametrize(
    ("name", "options"), [("cirim", {"cascades": 2, "carry_hidden": True}), ("rim", {}), ("irim", {})]
)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_model_commutes_with_the_symmetries(name, options, count):
    p = problem()
    with torch.inference_mode():
        network = model(name, count, **options)
        image, conjugate = network(p), network(conjugated(p)).conj()
        up, left = network(mirrored(p, -2)).flip(-2), network(mirrored(p, -1)).flip(-1)
        both = network(mirrored(mirrored(p, -1), -2)).flip(-2, -1)
    commutes = [
        torch.allclose(image, other, atol=1e-4 * float(image.abs().max())) for other in (conjugate, both, up, left)
    ]
    assert commutes == [count >= 2, count >= 4, count == 8, count == 8]


def test_one_copy_is_the_network_itself():
    p, several = problem(), model("cirim", 2, cascades=2)
    plain = model("cirim", 1, cascades=2)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in several.named_parameters()]
    assert not torch.allclose(plain(p), several(p), atol=1e-4)


@pytest.mark.parametrize("option", ["symmetries", "passes"])
def test_released_variants_are_applied_as_released(option):
    with pytest.raises(UsageError, match=r"mridc-0\.2 has no symmetries and one pass") as error:
        build("cirim", {"compat": "mridc-0.2", option: 2})
    assert error.value.where == option


def test_a_second_pass_is_the_network_applied_to_the_image_of_the_first():
    p, once, twice = problem(), model("cirim", 1, cascades=2), model("cirim", 1, cascades=2, passes=2)
    assert [n for n, _ in once.named_parameters()] == [n for n, _ in twice.named_parameters()]
    q = replace(p, initial_image=once(p))
    assert torch.allclose(twice(p), once(q), atol=1e-5)
    assert not torch.allclose(twice(p), once(p), atol=1e-2)
