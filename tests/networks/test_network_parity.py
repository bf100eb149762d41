"""Test that our networks with equal weights give the same output as those of fastMRI and ATOMMIC.

The outputs lie in goldens/networks.npz, which goldens/make_networks.py makes in an environment of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon.coils.sensitivity_net import SensitivityNet
from mrirecon.errors import UsageError
from mrirecon.methods.registry import build
from mrirecon.networks import NormUnet, Unet, to_complex, to_real
from mrirecon.physics.problem import Problem
from tests.goldens.make_networks import RIM, SIZES, VARNET, WIDE, draw_input, draw_scan, draw_weights

STORED = np.load(Path(__file__).parents[1] / "goldens" / "networks.npz")


def named(sizes):
    return [(size, "x".join(map(str, size))) for size in sizes]


# float64 to rounding; float32 to its own, over many layers
LIMITS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def weigh(model, renames=(), dtype=torch.float64):
    named = {}
    for name, parameter in model.double().named_parameters():
        for ours, theirs in renames:
            name = re.sub(ours, theirs, name)
        named[name] = parameter
    draw_weights(named)
    return model.to(dtype).eval()


def problem(size, dtype):
    kspace, mask, maps = draw_scan(size)
    kind = torch.complex128 if dtype == torch.float64 else torch.complex64
    y, s = torch.view_as_complex(kspace).to(kind), torch.view_as_complex(maps).to(kind)
    full = mask[..., 0].expand(1, 1, *size).contiguous().to(dtype)
    return Problem(y, full, s.unsqueeze(1))


def gap(ours, name):
    theirs = torch.from_numpy(STORED[name])
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize(("size", "name"), named(WIDE))
def test_fastmri_networks(size, name, dtype, limit):
    with torch.no_grad():
        unet = weigh(Unet(1, 1, 4, 3), dtype=dtype)
        assert gap(unet(draw_input(3, 2, 1, *size).to(dtype)), f"unet_{name}") < limit
        norm = weigh(NormUnet(2, 4), dtype=dtype)
        image = torch.view_as_complex(draw_input(4, 2, 1, *size, 2).to(dtype))
        assert gap(torch.view_as_real(to_complex(norm(to_real(image)), 1)), f"norm_unet_{name}") < limit
        p = problem(size, dtype)
        sensitivity = weigh(SensitivityNet(2, 4), dtype=dtype)
        assert gap(torch.view_as_real(sensitivity(p).maps[:, 0]), f"sensitivity_{name}") < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize(("size", "name"), named(WIDE))
def test_fastmri_varnet(size, name, dtype, limit):
    options = {"cascades": 3, "channels": 3, "pools": 4, "sensitivity_channels": 2, "sensitivity_pools": 4}
    model = weigh(build("e2evn", {**options, "scale": "none"}), VARNET, dtype)
    p = problem(size, dtype)
    with torch.no_grad():
        image = model(p)
        assert gap(image[:, 0], f"varnet_{name}") < limit
        # Against the network's own contribution, which a small last layer would hide in the image.
        zero = build("e2evn", {**options, "cascades": 1, "scale": "none"}).to(dtype)
        update = image[:, 0] - zero.engine.blocks[0].image(p.y, p)[:, 0]
        theirs = torch.from_numpy(STORED[f"varnet_{name}"])
        assert float((image[:, 0] - theirs).abs().max() / update.abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("cell", ["gru", "mgu", "indrnn"])
@pytest.mark.parametrize(("size", "name"), named(SIZES))
def test_atommic_cirim(size, name, cell, dtype, limit):
    options = {"cascades": 2, "steps": 3, "features": 6, "cell": cell, "carry_hidden": True, "scale": "none"}
    model = weigh(build("cirim", options), RIM, dtype)
    p = problem(size, dtype)
    with torch.no_grad():
        images = list(model.images(p))
        ends = torch.stack([images[0][:, 0], images[-1][:, 0]])
        assert gap(ends, f"cirim_{cell}_{name}") < limit
        theirs = torch.from_numpy(STORED[f"cirim_{cell}_{name}"])
        update = ends - p.adjoint[:, 0]
        assert float((ends - theirs).abs().max() / update.abs().max()) < limit


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize(("size", "name"), named(SIZES))
def test_released_explicit_consistency(size, name, dtype, limit):
    options = {"cascades": 2, "steps": 3, "features": 6, "dc": "soft", "compat": "mridc-0.0.1", "scale": "none"}
    model = weigh(build("cirim", options), RIM, dtype)
    with torch.no_grad():
        images = list(model.images(problem(size, dtype)))
    assert gap(torch.stack([images[0][:, 0], images[-1][:, 0]]), f"cirim_indrnn_explicit_{name}") < limit


def test_released_forms_of_the_cirim():
    """What each release does at a cascade's boundary, and to the number of steps."""
    for compat, detach, carry, steps in (
        ("none", False, False, 3),
        ("mridc-0.0.1", True, False, 3),
        ("mridc-0.2", True, False, 8),
        ("atommic-1.0", False, True, 8),
        ("direct-2.1", True, False, 3),
    ):
        model = build("cirim", {"cascades": 2, "steps": 3, "features": 4, "compat": compat})
        block = model.engine.blocks[1]
        assert (block.detach, block.carry, model.engine.repeats) == (detach, carry, steps)
    with pytest.raises(UsageError, match=r"atommic-1\.0 has no dc"):
        build("cirim", {"compat": "atommic-1.0", "dc": "soft"})


def test_directs_cascade_never_moves_its_image():
    """By hand, from the equations: the same gradient at every step, only the hidden states advance."""
    model = weigh(build("cirim", {"cascades": 2, "steps": 3, "features": 6, "compat": "direct-2.1", "scale": "none"}))
    p = problem(SIZES[0], torch.float64)
    with torch.no_grad():
        images = list(model.images(p))
        x = p.adjoint
        for number, block in enumerate(model.engine.blocks):
            seen = to_real(p.A.adjoint(p.A(x) - p.y), x)
            hidden = block.network.start(seen)
            for step in range(3):
                update, hidden = block.network(seen, hidden)
                assert (update >= 0).all()
                torch.testing.assert_close(images[3 * number + step], x + to_complex(update, 1))
            x = images[3 * number + 2]


def test_the_weights_matter():
    """Another weight gives another image: the comparison can fail."""
    model = weigh(Unet(1, 1, 4, 3))
    with torch.no_grad():
        model.up_conv[-1][1].bias += 0.01
        size, name = named(WIDE)[0]
        assert gap(model(draw_input(3, 2, 1, *size)), f"unet_{name}") > 1e-4
