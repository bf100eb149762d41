"""Every value of every option that is a choice, of every method: it runs, and every weight learns.

The registry enrols them: a new option or value is tried here without anyone writing a test.
"""

from __future__ import annotations

from itertools import product
from typing import Literal, get_args, get_origin

import pytest
import torch

from mrirecon.errors import UsageError
from mrirecon.operators import norm
from mrirecon.problem import Problem
from mrirecon.registry import find
from tests.problems import random_problem
from tests.test_methods import ALL, LEARNED, make


def choices(name):
    """The values of each option of a method that is one of several words, numbers, or yes and no."""
    found = {}
    for key, field in find(name).schema.model_fields.items():
        if get_origin(field.annotation) is Literal:
            found[key] = list(get_args(field.annotation))
        elif field.annotation is bool:
            found[key] = [True, False]
    return found


CASES = [(n, k, v) for n in ALL for k, values in choices(n).items() for v in values]
LEARNED_CASES = [case for case in CASES if case[0] in LEARNED]
TOGETHER = ("start", "phase", "memory")
# What another value asks of the other options.
WITH = {("e2evn", "weigh", "held-out"): {"combine": "sense"}}
# No data have been mixed with anything yet where the first consistency is applied: k = y. It learns from a start of
# its own, or with the network's part before it.
IDLE = {"engine.blocks.0.part.consistency.weight"}
# Changes how a result is computed, and not the result.
SAME = {"memory"}


def problem(seed=0):
    p = random_problem((33, 32), batch=1, dtype=torch.complex64, seed=seed)
    mask = p.mask.clone()
    mask[..., 11:22, 11:22] = 1  # a calibration region, for maps by a network
    y = torch.randn(p.y.shape, dtype=p.y.dtype, generator=torch.Generator().manual_seed(seed + 1))
    return Problem(3 * y * mask, mask, p.maps)


def stirred(name, **options):
    """Return a small model whose weights are none of them zero, as those of a network that adds nothing at first."""
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


def silent(model):
    """Names of the weights that a loss left without a gradient, or with one that is zero or not a number."""
    return {k for k, w in model.named_parameters() if w.grad is None or not (w.grad.isfinite().all() and w.grad.any())}


@pytest.mark.parametrize(("name", "option", "value"), LEARNED_CASES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_every_weight_learns(name, option, value, precision):
    model = stirred(name, **{option: value}, **WITH.get((name, option, value), {}))
    model.precision = "bfloat16" if precision == "bfloat16" else "float32"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        if precision != "float32" and model.engine.memory == "invert":
            with pytest.raises(UsageError, match="full precision"):
                learn(model, problem())
            return
        images = learn(model, problem())
    assert all(x.dtype in (torch.complex64, torch.float32) and torch.isfinite(x.abs()).all() for x in images)
    assert silent(model) <= IDLE


COMBINED = [n for n in LEARNED if set(TOGETHER) <= set(choices(n))]


@pytest.mark.parametrize(
    ("name", "start", "phase", "memory"),
    [(n, *v) for n in COMBINED for v in product(*(choices(n)[k] for k in TOGETHER))],
)
def test_every_weight_learns_with_shared_options_together(name, start, phase, memory):
    model = stirred(name, start=start, phase=phase, memory=memory)
    learn(model, problem())
    assert silent(model) <= IDLE


@pytest.mark.parametrize(("name", "option"), sorted({(n, k) for n, k, _ in CASES}))
def test_every_value_gives_an_image(name, option):
    p, images = problem(), []
    for value in choices(name)[option]:
        more = WITH.get((name, option, value), {})
        model = stirred(name, **{option: value}, **more) if name in LEARNED else make(name, **{option: value}).float()
        with torch.no_grad():
            images.append(model.eval()(p))
        assert torch.isfinite(images[-1].abs()).all(), value
        assert norm(images[-1]).min() > 0, value
        assert option not in SAME or torch.equal(images[-1], images[0]), value
