"""Test that a model is chosen, noted or rejected by the training data in its card (M06)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrirecon.cli import main
from mrirecon.errors import ModelMismatchError, UsageError
from mrirecon.io import read
from mrirecon.methods.registry import build
from mrirecon.models.checkpoints import load_model, save_model, shipped_models
from mrirecon.reconstruction import choose, plan
from mrirecon.reconstruction.choose import choose_method, contrast_of, domain_measures, out_of_domain_reasons
from mrirecon.reconstruction.file import reconstruct_file

TWIN = Path(__file__).parents[2] / "data_samples" / "brain_4x.h5"
SMALL = {"cascades": 1, "steps": 1, "features": 4}
COVERS = {"acceleration": [2, 8], "calibration": [10, 24], "size": [128, 192], "coils": [4, 16], "snr": [10, 100]}


def folder(tmp_path, covers=COVERS, name="cirim"):
    card = {} if covers is None else {"covers": covers}
    return save_model(tmp_path / name, "cirim", SMALL, build("cirim", SMALL), card)


def test_facts_of_a_scan():
    facts = domain_measures(*read(TWIN).samples(0))
    assert facts["acceleration"] == pytest.approx(4.0, abs=0.1)
    assert facts["calibration"] >= 20
    assert (facts["smallest side"], facts["largest side"], facts["coils"]) == (144, 176, 8)
    assert 15 < facts["snr"] < 80  # simulated at 35


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"acceleration": [2, 3]}, "acceleration 4"),
        ({"calibration": [30, 40]}, "calibration"),
        ({"size": [32, 64]}, "largest side 176"),
        ({"size": [300, 400]}, "smallest side 144"),
        ({"coils": [16, 32]}, "coils 8"),
        ({"snr": [200, 300]}, "snr"),
        ({"snr": [1, 5]}, None),  # less noise than in training does no harm
        ({"contrasts": ["t2w"]}, "contrast t1w"),
        ({"contrasts": ["t1w"]}, None),
    ],
)
def test_what_lies_outside(change, word):
    scan = read(TWIN)
    found = out_of_domain_reasons({"covers": COVERS | change}, scan, *scan.samples(0))
    assert (found == []) if word is None else any(word in text for text in found), found


def test_a_card_that_says_nothing():
    scan = read(TWIN)
    assert out_of_domain_reasons({}, scan, *scan.samples(0)) == ["its card does not state its training data"]


@pytest.mark.parametrize(
    ("text", "name"), [("AXT1POST", "t1w"), ("AXFLAIR", "flair"), ("AXT2", "t2w"), ("CORPD_FBK", "pdw"), ("x", None)]
)
def test_contrasts_by_the_names_of_protocols(text, name):
    assert contrast_of(text) == name


def test_choice_by_the_card(tmp_path, monkeypatch):
    model = folder(tmp_path)
    for place in (choose, plan):
        monkeypatch.setattr(place, "shipped_models", lambda: {"cirim": model})
    scan = read(TWIN)
    method, why = choose_method(scan)
    assert method == "cirim"
    assert "for which it was trained" in why
    done = reconstruct_file(TWIN, tmp_path / "a.h5")
    assert done["method"] == "cirim"
    assert done["model"]["sha256"] == load_model(model).sha256
    assert reconstruct_file(TWIN, tmp_path / "b.h5", method="cs")["method"] == "cs"
    with pytest.raises(UsageError, match="in a trained model"):
        reconstruct_file(TWIN, tmp_path / "c.h5", method="cirim", options={"cascades": 2})
    folder(tmp_path, COVERS | {"coils": [16, 32]})
    method, why = choose_method(scan)
    assert method == "cs"
    assert "not cirim: coils 8" in why


def test_a_model_outside_its_card_warns_or_refuses(tmp_path, capfd):
    model = folder(tmp_path, COVERS | {"acceleration": [2, 3]})
    done = reconstruct_file(TWIN, tmp_path / "a.h5", model=model)
    assert any("outside the training range of the model: acceleration" in note for note in done["notes"])
    with pytest.raises(ModelMismatchError, match="not trained for these data"):
        reconstruct_file(TWIN, tmp_path / "b.h5", model=model, strict_model=True)
    assert not (tmp_path / "b.h5").exists()
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", str(TWIN), "-o", str(tmp_path / "c.h5"), "--model", str(model), "--strict-model"])
    assert ended.value.code == 7
    assert "acceleration" in capfd.readouterr().err


def test_models_are_verified(tmp_path, capfd):
    good, bad = folder(tmp_path, name="good"), folder(tmp_path, name="bad")
    with pytest.raises(SystemExit) as ended:
        main(["models", "verify", str(good)])
    assert ended.value.code == 0
    assert "True" in capfd.readouterr().out
    content = bytearray((bad / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (bad / "weights.safetensors").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["models", "verify", str(bad)])
    assert ended.value.code == 7
    assert "changed" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["models", "verify", str(good), str(bad), "--json"])
    assert ended.value.code == 4
    assert [m["in order"] for m in json.loads(capfd.readouterr().out)["models"]] == [True, False]


def test_what_comes_along_is_in_order():
    for name, path in shipped_models().items():
        found = load_model(path)
        assert found.method == name
        assert found.card["covers"]
        assert found.card["licence"]
