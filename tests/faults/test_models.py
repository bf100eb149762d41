"""Test faults of trained models (rows M)."""

from __future__ import annotations

import io as stdio
import json
import pickle
from pathlib import Path

import pytest
import torch

from mrirecon.methods.registry import build
from mrirecon.models.checkpoints import CONFIG, WEIGHTS, save_model
from tests.faults.conftest import scan_file
from tests.faults.rows import row
from tests.io import test_io_hostile as hostile
from tests.models import test_checkpoints as checkpoints

SMALL = {"cascades": 1, "steps": 1, "features": 4}
COVERS = {"acceleration": [2, 3], "calibration": [10, 24], "size": [128, 192], "coils": [4, 16], "snr": [10, 100]}


@pytest.fixture
def model(tmp_path) -> Path:
    """The folder of a small CIRIM that nobody has trained."""
    torch.manual_seed(3)
    return save_model(tmp_path / "model", "cirim", SMALL, build("cirim", SMALL), {"covers": COVERS})


@pytest.fixture
def told(cli, good):
    """Reconstruct with a model; check exit code and words, and that nothing was written."""

    def call(model: Path, code: int, *words: str, options: tuple[str, ...] = ()) -> str:
        found, out, err = cli("reconstruct", good, "--model", model, "-o", "x.h5", *options)
        assert found == code, err
        assert out == ""
        for word in words:
            assert word in err, err
        assert list(Path().iterdir()) == []
        return err

    return call


@row("M01", ["pickle", "zip", "as weights", "as k-space"])
def test_malicious_pickle(cli, told, model, tmp_path, case):
    trap = tmp_path / "trap"
    code = hostile.Runs(trap)
    content = pickle.dumps({"state_dict": code})
    if case == "zip":
        buffer = stdio.BytesIO()
        torch.save({"state_dict": code}, buffer)
        content = buffer.getvalue()
    if case == "as weights":
        (model / WEIGHTS).write_bytes(content)
        told(model, 7, "changed")
        checkpoints.rewrite(model, sha256=checkpoints.sha256(model / WEIGHTS))
        told(model, 3, "cannot be read")
    elif case == "as k-space":
        (tmp_path / "evil.h5").write_bytes(content)
        found, _, err = cli("reconstruct", tmp_path / "evil.h5", "-o", "x.h5")
        assert found == 3
        assert "pickle" in err
    else:
        (tmp_path / "evil.pt").write_bytes(content)
        told(tmp_path / "evil.pt", 3, "a model is a folder", "never opened")
    assert not trap.exists()
    pickle.loads(content) if case != "zip" else torch.load(stdio.BytesIO(content), weights_only=False)
    assert trap.exists(), "it would have run"


@row("M02", ["empty", "40 bytes", "half", "one byte less"])
def test_truncated_weights(told, model, case):
    size = (model / WEIGHTS).stat().st_size
    kept = {"empty": 0, "40 bytes": 40, "half": size // 2}.get(case, size - 1)
    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(whole[:kept])
    told(model, 7, "changed", "models verify")
    checkpoints.cut(model, kept)  # and a checksum of what is left
    told(model, 3, "cannot be read", "corrupt", "models verify")


@row("M03")
def test_flipped_bit_in_weights(cli, told, model, case):
    checkpoints.flip(model)
    told(model, 7, "SHA-256")
    assert cli("models", "verify", model)[0] == 7


@row("M04", ["length", "json", "deep", "overlap"])
def test_safetensors_header(told, model, case):
    header = {
        "length": (1 << 60).to_bytes(8, "little") + b"{}",
        "json": (8).to_bytes(8, "little") + b"{" * 8,
        "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    }.get(case)
    if header is None:
        text = json.dumps(
            {n: {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]} for n in ("a", "b")}
        ).encode()
        header = len(text).to_bytes(8, "little") + text
    (model / WEIGHTS).write_bytes(header)
    checkpoints.rewrite(model, sha256=checkpoints.sha256(model / WEIGHTS))
    told(model, 3, "cannot be read")


@row("M05", ["missing", "unexpected", "shape", "many"])
def test_weights_that_do_not_fit(told, model, case):
    first = "engine.blocks.0.network.layers.0.rnn.hh"
    if case == "missing":
        checkpoints.reweigh(model, lambda w: w.pop(first))
    elif case == "unexpected":
        checkpoints.reweigh(model, lambda w: w.update(extra=torch.ones(2)))
    elif case == "shape":
        checkpoints.reweigh(model, lambda w: w.update({first: torch.ones(3)}))
    else:
        checkpoints.reweigh(model, lambda w: [w.pop(n) for n in list(w)[:-1]])
    words = {"missing": "is missing", "unexpected": "not part of the model", "shape": "is (3,), not"}.get(case, "more")
    err = told(model, 7, words)
    assert err.count("is missing") <= 5


@row("M06", ["noted", "refused"])
def test_data_that_a_model_was_not_trained_for(cli, told, model, good, case):
    if case == "refused":
        told(model, 7, "not trained for", "coils 2, trained for 4 to 16", options=("--strict-model",))
        return
    code, _, err = cli("reconstruct", good, "--model", model, "-o", "x.h5")
    assert code == 0
    assert "outside the training range of the model" in err
    assert "trained for 4 to 16" in json.dumps(json.loads(Path("x.h5.json").read_text())["notes"])


@row("M07", ["0", "2", "99", "none", "text"])
def test_other_formats(told, model, case):
    if case == "none":
        about = json.loads((model / CONFIG).read_text())
        del about["format"]
        (model / CONFIG).write_text(json.dumps(about))
        told(model, 3, "lacks format")
        return
    checkpoints.rewrite(model, format=case if case == "text" else int(case))
    told(model, 7, f"format {case}", "reads 1", "use the version")


@row("M08", ["weights", "output"])
def test_not_a_number_in_a_model(told, model, case):
    if case == "weights":
        checkpoints.reweigh(model, lambda w: next(iter(w.values())).fill_(torch.nan))
        told(model, 7, "NaN")
        return
    checkpoints.reweigh(model, lambda w: [v.fill_(3e38) for v in w.values()])
    told(model, 3, "NaN or infinite")


def test_the_model_of_these_tests_works(cli, model, tmp_path):
    """What is refused above is refused for its fault alone."""
    scan = scan_file(tmp_path / "k.h5", 1, 4, 32, 32)
    assert cli("reconstruct", scan, "--model", model, "-o", "x.h5")[0] == 0
