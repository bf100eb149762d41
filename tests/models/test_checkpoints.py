"""Test model folders: saving, loading, and rejection of inconsistent content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mrirecon.cli import main
from mrirecon.errors import InputError, ModelMismatchError, UsageError
from mrirecon.io import read, read_image, sha256
from mrirecon.methods.registry import build, find_method
from mrirecon.models.checkpoints import (
    CONFIG,
    WEIGHTS,
    compute_seal,
    describe_model,
    load_model,
    save_model,
    seal_model,
    shipped_models,
    verify_model,
)
from mrirecon.reconstruction.plan import Request
from mrirecon.reconstruction.run import reconstruct
from tests.methods.test_methods import LEARNED, SMALL
from tests.problems import random_problem

TWIN = Path(__file__).parents[2] / "data_samples" / "brain_4x.h5"


def small(name):
    return {k: v for k, v in SMALL.items() if k in find_method(name).schema.model_fields}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(3)
    options = small("cirim")
    return save_model(tmp_path / "model", "cirim", options, build("cirim", options), {"data": "a phantom"})


@pytest.mark.parametrize("name", LEARNED)
def test_save_and_load_is_identical(name, tmp_path):
    torch.manual_seed(0)
    options = small(name)
    model = build(name, options).eval()
    save_model(tmp_path, name, options, model)
    p = random_problem((16, 18), dtype=torch.complex64)
    with torch.no_grad():
        assert torch.equal(model(p), load_model(tmp_path).model(p))


def test_shared_weights_are_stored_once(tmp_path):
    options = {**small("cirim"), "share_weights": True}
    save_model(tmp_path, "cirim", options, build("cirim", options))
    assert all("blocks.0" in name for name in load_file(tmp_path / WEIGHTS))
    blocks = load_model(tmp_path).model.engine.blocks
    assert blocks[0] is blocks[1]


def test_all_options_are_written_and_the_card_is_told(saved):
    about = describe_model(saved)
    assert set(about["options"]) == set(find_method("cirim").schema.model_fields)
    assert load_model(saved).card == {"data": "a phantom"}
    assert "a phantom" in (saved / "card.md").read_text()


def rewrite(folder, **changes):
    """Change the configuration, and seal it as it is then."""
    about = {**json.loads((folder / CONFIG).read_text()), **changes}
    (folder / CONFIG).write_text(json.dumps({**about, "seal": compute_seal(about)}))


def tamper(folder, change):
    """Change the configuration behind the seal's back."""
    about = json.loads((folder / CONFIG).read_text())
    change(about)
    (folder / CONFIG).write_text(json.dumps(about))


def reweigh(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


def flip(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def cut(folder, to):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:to])
    rewrite(folder, sha256=sha256(folder / WEIGHTS))


FIRST = "engine.blocks.0.network.layers.0.rnn.hh"


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (flip, ModelMismatchError, "changed"),
        (lambda f: cut(f, 40), InputError, "cannot be read"),
        (lambda f: cut(f, 0), InputError, "cannot be read"),
        (lambda f: (f / WEIGHTS).unlink(), InputError, "no weights.safetensors"),
        (lambda f: (f / CONFIG).write_text("{"), InputError, "configuration"),
        (lambda f: (f / CONFIG).write_text("[]"), InputError, "configuration"),
        (lambda f: (f / CONFIG).write_text("{}"), InputError, "lacks card"),
        (lambda f: rewrite(f, options=3), InputError, "mappings"),
        (lambda f: rewrite(f, format=99), ModelMismatchError, "format 99"),
        (lambda f: rewrite(f, method="cirm"), ModelMismatchError, "cirim"),
        (lambda f: rewrite(f, options={"cascades": "many"}), ModelMismatchError, "cascades"),
        (lambda f: rewrite(f, options={"cascades": 3, "features": 6}), ModelMismatchError, "is missing"),
        (lambda f: tamper(f, lambda a: a["options"].update(steps=1)), ModelMismatchError, "changed"),
        (
            lambda f: tamper(f, lambda a: a["options"].update(dc="hard")),
            ModelMismatchError,
            "changed",
        ),
        (
            lambda f: tamper(f, lambda a: a["card"].update(data="brains")),
            ModelMismatchError,
            "changed",
        ),
        (lambda f: tamper(f, lambda a: a.update(licence="none")), ModelMismatchError, "changed"),
        (lambda f: tamper(f, lambda a: a.update(seal=None)), ModelMismatchError, "changed"),
        (lambda f: (f / CONFIG).write_text('{"a":' * 5000 + "1" + "}" * 5000), InputError, "nested"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff{}"), InputError, "cannot be read"),
        (lambda f: (f / CONFIG).write_text('{"sha256": NaN}'), InputError, "lacks card"),
        (lambda f: reweigh(f, lambda w: w.pop(FIRST)), ModelMismatchError, FIRST),
        (lambda f: reweigh(f, lambda w: w.update(extra=torch.ones(2))), ModelMismatchError, "extra is not part"),
        (lambda f: reweigh(f, lambda w: w.update({FIRST: torch.ones(3)})), ModelMismatchError, "not (1, 6, 1, 1)"),
        (lambda f: reweigh(f, lambda w: w[FIRST].fill_(torch.nan)), ModelMismatchError, "NaN"),
    ],
)
def test_damage_is_refused(saved, damage, error, words):
    damage(saved)
    with pytest.raises(error) as caught:
        load_model(saved)
    assert words in str(caught.value)
    assert str(saved) in caught.value.where


def test_a_changed_folder_is_not_called_in_order(saved, capfd):
    assert run("models", "verify", saved) == 0
    assert "weights, options, card" in capfd.readouterr().out
    tamper(saved, lambda about: about["options"].update(steps=3))
    assert run("models", "verify", saved) == 7
    assert run("models", "show", saved, "--size", 64) == 7
    assert run("reconstruct", TWIN, "--model", saved, "-o", saved / "x.h5") == 7
    assert "MRI-E-MODEL" in capfd.readouterr().err
    seal_model(saved)
    assert run("models", "verify", saved) == 0
    assert load_model(saved).options["steps"] == 3
    (saved / "card.md").write_text("Learned from everything.")
    assert run("models", "verify", saved) == 7
    assert "card.md" in capfd.readouterr().err
    (saved / "card.md").unlink()
    assert run("models", "verify", saved) == 7
    seal_model(saved)
    assert "a phantom" in (saved / "card.md").read_text()


def test_a_folder_of_an_earlier_version_is_read_and_told(saved, tmp_path, capfd):
    tamper(saved, lambda about: [about.pop(key) for key in ("seal", "card_sha256")])
    assert load_model(saved).seal is None
    assert run("models", "verify", saved) == 0
    out, err = capfd.readouterr()
    assert "only weights" in out
    assert "no seal" in err
    assert run("reconstruct", TWIN, "--model", saved, "-o", tmp_path / "x.h5") == 0
    assert "no seal" in capfd.readouterr().err
    seal_model(saved)
    assert load_model(saved).seal is not None
    flip(saved)
    with pytest.raises(ModelMismatchError, match="weights"):
        seal_model(saved)


def test_another_card_or_option_is_another_request(saved):
    """What is finished by a model is not finished by one of other options that has the same weights."""
    digests = {Request(model=saved).digest}
    for change in ({"options": {"cascades": 3}}, {"card": {"covers": {}}}):
        rewrite(saved, **change)
        digests.add(Request(model=saved).digest)
    assert len(digests) == 3


def test_shipped_models_are_sealed():
    for folder in shipped_models().values():
        assert verify_model(folder).seal is not None, f"python scripts/seal_model.py {folder}"


def test_what_does_not_fit_is_not_saved(tmp_path):
    model = build("cirim", small("cirim"))
    with pytest.raises(ModelMismatchError, match="do not match"):
        save_model(tmp_path, "cirim", {}, model)
    with pytest.raises(UsageError, match="unknown option"):
        save_model(tmp_path, "cirim", {"cascade": 2}, model)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(ModelMismatchError, match="NaN or infinite"):
        save_model(tmp_path, "cirim", small("cirim"), model)
    assert not (tmp_path / CONFIG).exists()


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


def test_reconstruct_with_a_model(saved, tmp_path, capfd):
    out = tmp_path / "image.h5"
    assert run("reconstruct", TWIN, "--model", saved, "-o", out, "--save-iterates") == 0
    assert "cirim" in capfd.readouterr().err
    assert read_image(out).shape == (3, 176, 144)
    told = json.loads((tmp_path / "image.h5.json").read_text())
    assert told["model"]["sha256"] == load_model(saved).sha256
    assert told["options"]["cascades"] == 2
    steps = read_image(tmp_path / "image_iterates.h5")
    assert steps.shape == (3 * 4, 176, 144)
    torch.testing.assert_close(torch.from_numpy(steps[3::4]), torch.from_numpy(read_image(out)), rtol=1e-4, atol=1e-9)


def test_batches_change_nothing_and_shrink_when_memory_is_short(saved, monkeypatch):
    scan, trained = read(TWIN), load_model(saved)
    one = reconstruct(scan, model=trained)
    two = reconstruct(scan, model=trained, batch=2)
    np.testing.assert_allclose(two.images, one.images, rtol=1e-4, atol=1e-7 * np.abs(one.images).max())
    assert len(two.seconds) == len(two.reasons) == 3
    whole = trained.model.run

    def short(problem, **more):
        if len(problem.y) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(problem, **more)

    monkeypatch.setattr(trained.model, "run", short)
    halved = reconstruct(scan, model=trained, batch=3)
    np.testing.assert_array_equal(halved.images, one.images)
    assert any("halved" in note for note in halved.notes)


def test_a_model_with_its_own_sensitivities_needs_no_maps(tmp_path):
    options = small("e2evn")
    save_model(tmp_path, "e2evn", options, build("e2evn", options))
    found = reconstruct(read(TWIN), model=load_model(tmp_path))
    assert found.maps == "a network's"
    assert found.images.shape == (3, 176, 144)


def test_the_command_line_says_what_does_not_go_together(saved, tmp_path, capfd):
    assert run("reconstruct", TWIN, "-m", "cs", "--model", saved) == 2
    assert run("reconstruct", TWIN, "-m", "lpdnet") == 2
    assert "--model" in capfd.readouterr().err
    flip(saved)
    assert run("reconstruct", TWIN, "--model", saved, "-o", tmp_path / "x.h5") == 7
    assert "MRI-E-MODEL" in capfd.readouterr().err
    assert run("reconstruct", TWIN, "--model", tmp_path / "none") == 3


def test_models_list_and_show(saved, capfd):
    assert run("models", "list") == 0
    out = capfd.readouterr().out
    assert "264960" in out
    assert all(name in out for name in LEARNED)
    assert run("models", "show", "irim", "--size", 64, "--json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["parameters"] == 52_992
    assert run("models", "show", saved, "--size", 64) == 0
    out, err = capfd.readouterr()
    assert "cascades = 2" in out
    assert "USDT" not in err
    assert run("models", "show", "cirm") == 2
