"""Test that a method uses only the operators of a problem, unless a part declares that it needs Cartesian k-space."""

from __future__ import annotations

import sys

import pytest
import torch

from mrirecon.methods.updates import data_consistency
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from tests.methods.test_methods import ALL, make
from tests.problems import random_problem

# Samples and mask, and what is computed from them except Aᴴ A and Aᴴ y.
HIDDEN = {"y", "mask", "A", "data", "residual", "data_term"}
# Modules that may read them: the problem itself, and what changes its variable.
PHYSICS = {"problem", "nonuniform", "transforms", "precision", "sampling"}  # the last parts of their names


class Seen(AssertionError):
    """A method read what it has not declared."""


class WithoutCartesian(Problem):
    """A problem whose samples and mask only the physics may read."""

    def __getattribute__(self, name):
        if name in HIDDEN:
            reader = sys._getframe(1).f_globals["__name__"]
            if reader.startswith("mrirecon") and reader.split(".")[-1] not in PHYSICS:
                raise Seen(f"{reader} reads p.{name}")
        return super().__getattribute__(name)


def hidden(p):
    return WithoutCartesian(p.y, p.mask, p.maps, noise=torch.eye(p.y.shape[1], dtype=p.y.dtype)[None]).prepared()


def reads_samples(model, p):
    try:
        with torch.no_grad():
            assert norm(model(hidden(p))).min() > 0
    except Seen:
        return True
    return False


def problem():
    p = random_problem((32, 30))
    p.mask[..., 11:21, 10:20] = 1  # a calibration region, for maps by a network
    return p


DECLARED = {"sigpy-cs", "e2evn", "kikinet", "lpdnet"}
REPLACING = {"cascadenet"}  # soft data consistency replaces samples of a grid
OPTIONS = [
    ("cs", {"solver": "admm"}, False),
    ("cs", {"solver": "primal-dual"}, True),
    ("rim", {"dc": "gradient"}, False),
    ("rim", {"dc": "proximal"}, False),
    ("rim", {"phase": "removed"}, False),
    ("rim", {"start": "cs"}, False),
    ("cirim", {"compat": "direct-2.1"}, False),
    ("cirim", {"compat": "mridc-0.2", "dc": "soft"}, True),
    ("cascadenet", {"dc_order": "parallel"}, True),
    ("direct-rim", {"first_image": "sum"}, False),
    ("rim", {"scale": "none-backward"}, False),
    ("rim", {"scale": "max"}, True),
    ("rim", {"scale": "kspace-percentile"}, True),
    ("rim", {"fourier": "unshifted"}, True),
    ("rim", {"own_maps": "direct-calibration"}, True),
    ("unet", {"domain": "magnitude"}, False),
]


@pytest.mark.parametrize("name", ALL)
def test_a_method_declares_whether_it_reads_samples(name):
    model = make(name)
    assert bool(model.needs_cartesian) == (name in DECLARED or name in REPLACING)
    assert reads_samples(model, problem()) == (name in DECLARED)


@pytest.mark.parametrize(("name", "options", "declared"), OPTIONS)
def test_so_do_its_parts(name, options, declared):
    model = make(name, **options)
    assert bool(model.needs_cartesian) == declared
    assert reads_samples(model, problem()) == declared


@pytest.mark.parametrize("kind", ["gradient", "soft", "hard", "proximal"])
@pytest.mark.parametrize("domain", ["image", "kspace"])
def test_so_does_every_consistency(kind, domain):
    p = problem()
    part = data_consistency(kind, domain).double()
    state = p.adjoint if domain == "image" else p.encode(p.adjoint)
    try:
        with torch.no_grad():
            part(state, hidden(p))
        read = False
    except Seen:
        read = True
    assert bool(part.needs_cartesian) == (read or kind in ("soft", "hard"))
