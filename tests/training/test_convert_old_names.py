"""Test `scripts/convert_old_names.py`: old files load after conversion, and an old run resumes bit for bit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mrirecon import training
from mrirecon.errors import UsageError
from mrirecon.models.checkpoints import SEAL, compute_seal, load_model, verify_model
from mrirecon.registries.renames import KEYS, OPTIONS
from mrirecon.training.config import load_config
from tests.training.test_training import TINY, last_state, same

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import convert_old_names as script

OLD = """\
# a comment
method: cirim
model: {weigh: held-out, share: false}  # options
data:
  epoch: 12
  buffer: {uses: 2, samples: 8}
  simulation: {distance: [1.1, 1.2]}
loss: {l1: 1.0, on: complex, region: field}
train: {steps: 2, clip: 1.0, panels: 0}
"""


def convert(*paths, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert_old_names.py", *map(str, paths)])
    script.main()


def test_a_configuration_keeps_its_layout(tmp_path, monkeypatch):
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.raises(UsageError, match="unknown key") as caught:
        load_config(path)
    assert "the new name is" in caught.value.fix
    convert(path, monkeypatch=monkeypatch)
    text = path.read_text()
    assert "# a comment" in text
    assert "blend: cross_validated, share_weights: false}  # options" in text
    settings = load_config(path).settings
    assert (settings.data.items_per_epoch, settings.data.buffer.draws_per_sample) == (12, 2)
    assert (settings.loss.compare, settings.loss.region) == ("complex", "field_of_view")
    assert (settings.train.gradient_clip, settings.train.validation_images) == (1.0, 0)
    convert(path, monkeypatch=monkeypatch)
    assert path.read_text() == text, "converted files are not changed again"


def with_old_names(run):
    """Rewrite a run as an earlier version wrote it."""
    config = (run / "config.yaml").read_text()
    for old, new in KEYS.items():
        config = config.replace(f" {new.rpartition('.')[2]}:", f" {old.rpartition('.')[2]}:")
    (run / "config.yaml").write_text(config.replace(" blend:", " weigh:").replace("field_of_view", "field"))
    for name in ("best", "last"):
        about = json.loads((run / name / "config.json").read_text())
        present = {new: old for old, new in OPTIONS.items()}
        about["options"] = {present.get(k, k): v for k, v in about["options"].items()}
        (run / name / "config.json").write_text(json.dumps(about | {SEAL: compute_seal(about)}))


def test_a_run_resumes(tmp_path, monkeypatch):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    constant = ["train.schedule=constant", "train.validate_every=2"]
    training.train(load_config(config, [*constant, "train.steps=2"]), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    with_old_names(tmp_path / "old")
    with pytest.raises(UsageError, match="unknown"):
        training.train(load_config(config, [*constant, "train.steps=3"]), tmp_path / "old")
    convert(tmp_path / "old", monkeypatch=monkeypatch)
    assert load_model(tmp_path / "old" / "best").method == "cirim"
    assert verify_model(tmp_path / "old" / "best").seal is not None
    for name in ("run", "old"):
        training.train(load_config(config, [*constant, "train.steps=3"]), tmp_path / name)
    same(last_state(tmp_path / "run"), last_state(tmp_path / "old"))
