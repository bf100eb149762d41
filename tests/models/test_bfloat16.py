"""Test networks in bfloat16: requested or chosen by the hardware, fixed per run, close to float32 in image and
training.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mrirecon import training
from mrirecon.cli import app
from mrirecon.errors import UsageError
from mrirecon.io import read_image, sidecar_path, write_kspace
from mrirecon.methods.registry import build
from mrirecon.models import hardware
from mrirecon.models.checkpoints import save_model
from mrirecon.physics.operators import norm
from mrirecon.training.config import load_config
from tests.methods.test_methods import LEARNED, make
from tests.problems import random_problem
from tests.training.test_training import TINY


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("validation_images: 1", "validation_images: 0").replace("cosine", "constant"))
    return path


@pytest.fixture
def no_unit(monkeypatch):
    monkeypatch.setattr(hardware, "bfloat16_unit", lambda device: None)


@pytest.fixture
def amx(monkeypatch):
    monkeypatch.setattr(hardware, "bfloat16_unit", lambda device: "AMX")


CPU = torch.device("cpu")


def test_auto_takes_what_the_hardware_makes_faster(amx):
    assert hardware.pick_precision("auto", CPU)[0] == "bfloat16"
    assert "AMX" in hardware.pick_precision("auto", CPU)[1]
    assert hardware.pick_precision("float32", CPU)[0] == "float32"
    assert hardware.pick_precision("auto", CPU, exact=True)[0] == "float32"
    assert "slower" not in hardware.pick_precision("bfloat16", CPU)[1]


def test_without_such_hardware_auto_is_float32(no_unit):
    assert hardware.pick_precision("auto", CPU)[0] == "float32"
    precision, told = hardware.pick_precision("bfloat16", CPU)
    assert precision == "bfloat16"
    assert "slower" in told


@pytest.mark.parametrize("name", LEARNED)
def test_every_network_runs_in_bfloat16_and_physics_does_not(name):
    p = random_problem((32, 32), dtype=torch.complex64)
    model, images = make(name).float(), {}
    weights = {k: w.clone() for k, w in model.state_dict().items()}
    for precision in ("float32", "bfloat16"):
        model.precision = precision
        with torch.no_grad():
            images[precision] = model(p)
    full, half = images.values()
    assert half.dtype == full.dtype
    assert 0 < (norm(half - full) / norm(full)).max() < 0.1
    for k, w in model.state_dict().items():
        assert torch.equal(w, weights[k]), "weights stay as they are"


def test_only_the_network_is_given_bfloat16():
    """What networks see and give is bfloat16; the state of the iteration and the gradient of the data are complex64."""
    p, seen = random_problem((32, 32), dtype=torch.complex64), []
    model = build("cirim", {"cascades": 1, "steps": 2, "features": 4})
    model.precision = "bfloat16"
    step = model.engine.blocks[0]
    step.network.register_forward_pre_hook(lambda module, args: seen.append((args[0].dtype, args[1][0].dtype)))
    states = [outcome.state for _, outcome in model.engine.iterates(model.normalize(p).problem)]
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 2
    assert {s.x.dtype for s in states} == {torch.complex64}
    assert {s.hidden[0].dtype for s in states} == {torch.bfloat16}


def test_steps_that_are_undone_need_float32():
    model = make("invertible-rim").float()
    model.precision = "bfloat16"
    with pytest.raises(UsageError, match="full precision"):
        model(random_problem((24, 21), dtype=torch.complex64))


def test_checkpointing_computes_again_in_bfloat16():
    p, gradients = random_problem((24, 21), dtype=torch.complex64), []
    for memory in ("store", "checkpoint"):
        torch.manual_seed(0)
        model = build("cirim", {"cascades": 2, "steps": 3, "features": 8, "memory": memory})
        model.precision = "bfloat16"
        model(p).abs().sum().backward()
        gradients.append([w.grad for w in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def run(*arguments):
    result = CliRunner().invoke(app, ["reconstruct", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_reconstruction_says_what_its_network_computed_in(tmp_path, amx):
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((1, 3, 32, 30)) + 1j * rng.standard_normal((1, 3, 32, 30))
    write_kspace(tmp_path / "k.h5", kspace.astype(np.complex64))
    options = {"cascades": 1, "steps": 2, "features": 8}
    model = save_model(tmp_path / "model", "cirim", options, build("cirim", options), {})
    images, sidecars = {}, {}
    for precision in ("float32", "auto"):
        out = tmp_path / f"{precision}.h5"
        told = run(tmp_path / "k.h5", "-o", out, "--model", model, "--maps", "unit", "--precision", precision)
        assert ("bfloat16" in told) == (precision == "auto")
        images[precision] = read_image(out)
        sidecars[precision] = json.loads(sidecar_path(out).read_text())
    assert [s["precision"] for s in sidecars.values()] == ["float32", "bfloat16"]
    assert sidecars["float32"]["request"] != sidecars["auto"]["request"]
    assert any("AMX" in note for note in sidecars["auto"]["notes"])
    gap = np.linalg.norm(images["auto"] - images["float32"]) / np.linalg.norm(images["float32"])
    assert 0 < gap < 1e-2
    told = run(tmp_path / "k.h5", "-o", tmp_path / "z.h5", "--method", "rss", "--precision", "bfloat16")
    assert "no network" in told


def test_a_run_keeps_its_precision(config, tmp_path, monkeypatch):
    """`auto` is decided once: what is saved is what was decided, and going on elsewhere changes nothing."""
    folder, told = tmp_path / "run", []
    monkeypatch.setattr(hardware, "bfloat16_unit", lambda device: "AMX")
    training.train(load_config(config, ["train.steps=2"]), folder, on_message=told.append)
    assert any("bfloat16" in t and "AMX" in t for t in told)
    saved = load_config(folder / "config.yaml").settings.train
    assert saved.precision == "bfloat16"
    card = json.loads((folder / "last" / "config.json").read_text())["card"]
    assert card["precision"] == "bfloat16"
    monkeypatch.setattr(hardware, "bfloat16_unit", lambda device: None)
    training.train(load_config(config, ["train.steps=3"]), folder)
    assert load_config(folder / "config.yaml").settings.train.precision == "bfloat16"
    with pytest.raises(UsageError, match="configuration differs from that"):
        training.train(load_config(config, ["train.steps=4", "train.precision=float32"]), folder)


def test_training_in_bfloat16_learns_as_in_float32():
    """A small CIRIM on one problem: the loss falls, and along the same curve."""
    p = random_problem((32, 30), batch=1, dtype=torch.complex64)
    target = p.adjoint * 1.5 + 0.1
    curves = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = build("cirim", {"cascades": 1, "steps": 4, "features": 16})
        model.precision = precision
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = (model(p) - target).abs().mean() / target.abs().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        curves[precision] = torch.tensor(losses)
    exact, half = curves.values()
    assert exact[-5:].mean() < 0.4 * exact[0]
    assert abs(half[-5:].mean() - exact[-5:].mean()) < 0.1 * exact[-5:].mean()
    assert not torch.equal(half, exact)
