"""Test invalid states: nothing in them is executed, and the error names the cause."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch

from mrirecon.cli import main
from mrirecon.errors import InputError, MriReconError, UnsafeContentError
from mrirecon.training.state import load_state, save_state


class Trap:
    """Create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def plant(folder: Path, content: bytes, step: int = 9) -> Path:
    """Write a file with the name and hash of a state."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def zipped(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["plain", "in torch's archive", "inside a state"])
def test_a_malicious_pickle_runs_nothing(tmp_path, form):
    trap = Trap(tmp_path / "ran")
    content = pickle.dumps(trap) if form == "plain" else zipped({"format": 1, "x": trap} if "state" in form else trap)
    path = plant(tmp_path / "states", content)
    with pytest.raises(UnsafeContentError, match="not a state of a run") as caught:
        load_state(tmp_path / "states")
    assert caught.value.exit_code == 6
    assert caught.value.where == str(path)
    assert not (tmp_path / "ran").exists()


def test_the_command_line_says_so_too(tmp_path, capfd):
    config = tmp_path / "run.yaml"
    config.write_text(
        "method: cirim\nmodel: {cascades: 1, steps: 1, features: 4}\n"
        "data: {crop: [64, 72], val_items: 1, masks: [{family: random, acceleration: [2], calibration: [12]}]}\n"
        "train: {steps: 1}\n"
    )
    for code in (0, 6):
        with pytest.raises(SystemExit) as ended:
            main(["train", str(config), "-o", str(tmp_path / "run")])
        assert ended.value.code == code
        assert ("MRI-E-UNSAFE" in capfd.readouterr().err) == (code == 6)
        plant(tmp_path / "run" / "states", pickle.dumps(Trap(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"PK\x03\x04",
        zipped([1, 2]),
        zipped(torch.ones(2)),
        zipped({"format": 1})[:-40],
        b"\x80\x02.",
        b"\x80\x02K\x01.",
    ],
)
def test_what_is_no_state_is_refused_as_an_error_of_ours(tmp_path, content):
    plant(tmp_path, content)
    with pytest.raises(MriReconError, match="not a state of a run") as caught:
        load_state(tmp_path)
    assert isinstance(caught.value, InputError | UnsafeContentError)


def test_a_state_is_still_read(tmp_path):
    save_state(tmp_path, 3, {"step": 3, "w": torch.ones(2)})
    loaded, notes = load_state(tmp_path)
    assert (loaded["step"], notes) == (3, [])
