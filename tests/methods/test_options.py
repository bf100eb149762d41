"""Test every value of every choice option of all methods: it runs, and every weight gets a gradient.

The registry enrols them: a new option or value is tested here without anyone writing a test.
"""

from __future__ import annotations

from itertools import product
from typing import Literal, get_args, get_origin

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.methods.conventions import OwnMaps
from mrirecon.methods.registry import build, find_method
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.registries.renames import MOVED_OPTIONS, OPTION_VALUES, OPTIONS
from tests.methods.test_methods import ALL, LEARNED, make
from tests.problems import random_problem


def choices(name):
    """Return the values of each option of a method that is one of several words, numbers, or yes and no."""
    values = {}
    for key, field in find_method(name).schema.model_fields.items():
        if get_origin(field.annotation) is Literal:
            values[key] = list(get_args(field.annotation))
        elif field.annotation is bool:
            values[key] = [True, False]
    return values


CASES = [(n, k, v) for n in ALL for k, values in choices(n).items() for v in values]
LEARNED_CASES = [case for case in CASES if case[0] in LEARNED]
TOGETHER = ("start", "phase", "memory")
# Other options that a value requires.
WITH = {("e2evn", "blend", "cross_validated"): {"combine": "sense", "sensitivity": False}}
WITH |= {("e2evn", "proximal", value): {"combine": "sense", "sensitivity": False} for value in ("last", "cascades")}
WITH |= {("cascadenet", "combine", "rss"): {"dc_order": "parallel"}}
OWN_MAPS = get_args(OwnMaps)[1:]
WITH |= {("e2evn", "own_maps", kind): {"sensitivity": False} for kind in OWN_MAPS}
# The first consistency on k-space has nothing to do where no network's part comes before it: its k holds the samples.
IDLE = {"engine.blocks.0.part.consistency.weight"}
# Without shared steps, the reset gates of DIRECT's first step reset hidden states of zeros.
IDLE |= {f"engine.blocks.0.network.reset_gates.{n}.{w}" for n in range(3) for w in ("weight", "bias")}
# Images in the unit of a transform that is not unitary are so small that the random biases decide the sign.
SIGN_OF_BIAS = {"engine.blocks.0.part.parts.0.part.network.conv.1.weight"}
# Changes the computation, but not the result.
SAME = {"memory"}
# Options of these are the same code for all methods.
CONVENTIONS = ("scale", "fourier", "own_maps", "start", "proximal")
# Rejected by a rule of `mrirecon.methods.shared`.
REFUSED = {(name, "memory", "invert") for name in LEARNED} - {("invertible-rim", "memory", "invert")}
REFUSED |= {(name, "proximal", "cascades") for name in ("e2evn", "invertible-rim", "kikinet", "lpdnet")}
REFUSED |= {("invertible-rim", "proximal", "last")}  # its default is memory=invert


def is_slow(precision, name, option, value):
    """Return whether a case is in half precision and for another method than the RIM and CIRIM, or a convention."""
    default = find_method(name).schema.model_fields[option].default
    convention = option in CONVENTIONS and value not in (default, "cs")
    return precision != "float32" and (name not in ("rim", "cirim") or (name != "rim" and convention))


def problem(seed=0):
    p = random_problem((33, 32), batch=1, dtype=torch.complex64, seed=seed)
    mask = p.mask.clone()
    mask[..., 11:22, 11:22] = 1  # a calibration region, for maps by a network
    y = torch.randn(p.y.shape, dtype=p.y.dtype, generator=torch.Generator().manual_seed(seed + 1))
    return Problem(3 * y * mask, mask, p.maps)


def with_random_weights(name, **options):
    """Return a small model whose weights are all non-zero, also those that start at zero."""
    model = make(name, **options).float()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def learn(model, p):
    """Return the images of all steps, after gradients of them all: with detached cascades each has its own."""
    images = list(model.train().images(p))
    sum(image.abs().square().mean() for image in images).backward()
    return images


def without_gradient(model):
    """Return the names of weights without a gradient, or with one that is zero or not a number."""
    return {k for k, w in model.named_parameters() if w.grad is None or not (w.grad.isfinite().all() and w.grad.any())}


@pytest.mark.parametrize(
    ("precision", "name", "option", "value"),
    [
        pytest.param(precision, *case, marks=[pytest.mark.slow] * is_slow(precision, *case))
        for precision in ("float32", "bfloat16", "autocast")
        for case in LEARNED_CASES
    ],
)
def test_every_weight_learns(precision, name, option, value):
    options = {option: value, **WITH.get((name, option, value), {})}
    if (name, option, value) in REFUSED:
        with pytest.raises(UsageError) as caught:
            make(name, **options)
        assert caught.value.where == option
        assert caught.value.why
        return
    model = with_random_weights(name, **options)
    model.precision = "bfloat16" if precision == "bfloat16" else "float32"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        if precision != "float32" and model.engine.memory == "invert":
            with pytest.raises(UsageError, match="full precision"):
                learn(model, problem())
            return
        images = learn(model, problem())
    assert all(x.dtype in (torch.complex64, torch.float32) and torch.isfinite(x.abs()).all() for x in images)
    small = option == "scale" and value in ("kspace-percentile-backward", "kspace-max-backward")
    assert without_gradient(model) <= (IDLE | SIGN_OF_BIAS if small else IDLE)


@pytest.mark.parametrize(
    ("name", "start", "phase", "memory"),
    [
        pytest.param(n, *v, marks=[pytest.mark.slow] * (v[0] not in ("zero-filled", "cs")))
        for n in LEARNED
        for v in product(*(choices(n)[k] for k in TOGETHER))
        if (n, "memory", v[2]) not in REFUSED and v[:2] != ("zero-filled", "kept")
    ],
)
def test_every_weight_learns_with_shared_options_together(name, start, phase, memory):
    model = with_random_weights(name, start=start, phase=phase, memory=memory)
    learn(model, problem())
    assert without_gradient(model) <= IDLE


@pytest.mark.parametrize(("name", "option"), sorted({(n, k) for n, k, _ in CASES}))
def test_every_value_gives_an_image(name, option):
    p, images = problem(), []
    for value in choices(name)[option]:
        if (name, option, value) in REFUSED:
            continue
        more = WITH.get((name, option, value), {})
        new = with_random_weights if name in LEARNED else make
        model = new(name, **{option: value}, **more).float()
        with torch.no_grad():
            images.append(model.eval()(p))
        assert torch.isfinite(images[-1].abs()).all(), value
        assert norm(images[-1]).min() > 0, value
        assert option not in SAME or torch.equal(images[-1], images[0]), value


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_described_in_one_sentence(name):
    for key, field in find_method(name).schema.model_fields.items():
        assert field.description, key
        assert field.description.endswith("."), key


def test_all_learned_methods_share_their_options():
    shared = {"start", "start_iterations", "phase", "blend", "proximal", "scale", "memory", "segment"}
    shared |= {"fourier", "own_maps", "own_maps_channels", "own_maps_pools"}
    for name in LEARNED:
        assert shared <= set(find_method(name).schema.model_fields), name


MAGNITUDE = {"domain": "magnitude"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unet", {**MAGNITUDE, "start": "cs"}, "does not refine an initial image"),
        ("unet", {**MAGNITUDE, "phase": "removed"}, "no phase"),
        ("unet", {**MAGNITUDE, "blend": "cross_validated"}, "cannot predict samples"),
        ("unet", {**MAGNITUDE, "dc": "soft"}, "no data consistency"),
        ("e2evn", {"blend": "cross_validated", "sensitivity": False}, "cannot predict samples"),
        ("e2evn", {"blend": "cross_validated", "combine": "sense"}, "estimates its own"),
        ("rim", {"start_iterations": 3}, "has no effect"),
        ("rim", {"start": "rss", "start_iterations": 3}, "has no effect"),
        ("rim", {"scale": "max", "blend": "cross_validated"}, "conventions of another toolkit"),
        ("rim", {"own_maps": "direct", "blend": "cross_validated"}, "estimates its own"),
        ("e2evn", {"own_maps": "fastmri"}, "already estimates"),
        ("cascadenet", {"combine": "rss"}, "needs k-space"),
        ("rim", {"memory": "invert"}, "not invertible"),
        ("e2evn", {"segment": 2}, "applied once"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, words):
    with pytest.raises(UsageError) as caught:
        build(name, options)
    assert words in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "options", "fix"),
    [
        ("rim", {"weigh": "held-out"}, "blend: cross_validated"),
        ("rim", {"weigh": "none"}, "blend: none"),
        ("e2evn", {"plus": True}, "sign: 1"),
        ("e2evn", {"plus": False}, "sign: -1"),
        ("lpdnet", {"start": "zero"}, "dual_start: zero"),
        ("cirim", {"carry": True}, "carry_hidden: True"),
        ("e2evn", {"share": False}, "share_weights: False"),
        ("cascadenet", {"order": "together"}, "dc_order: parallel"),
    ],
)
def test_options_of_before_are_refused_with_their_new_names(name, options, fix):
    with pytest.raises(UsageError, match="was renamed") as caught:
        build(name, options)
    assert caught.value.where == next(iter(options))
    assert fix in caught.value.fix


def test_new_names_exist():
    fields = {key for name in ALL for key in find_method(name).schema.model_fields}
    assert set(OPTIONS.values()) | set(OPTION_VALUES) <= fields
    assert not set(OPTIONS) & fields
    assert all(new in find_method(name).schema.model_fields for (name, _), (new, _) in MOVED_OPTIONS.items())
