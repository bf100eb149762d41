"""Test that the commands of the README work as written."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.data.phantom import phantom
from mrirecon.errors import UsageError
from mrirecon.io import read_image
from tests.problems import random_problem

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    mrirecon ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the sample scans, also under the names that the README uses for a user's own."""
    shutil.copytree(ROOT / "data_samples", tmp_path / "data_samples")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "data_samples" / "brain_4x.h5", tmp_path / "scan.h5")
    shutil.copy(ROOT / "data_samples" / "brain_full.h5", tmp_path / "full.h5")
    shutil.copytree(tmp_path / "data_samples", tmp_path / "scans", ignore=shutil.ignore_patterns("[!b]*"))
    head = phantom((72, 64), 2, 1).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(head, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "volume.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_runs(here):
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    assert read_image(here / "image.h5").shape == (3, 176, 144)


def test_the_method_that_it_adds_works(monkeypatch):
    import mrirecon.methods.registry

    methods = mrirecon.methods.registry.METHODS
    monkeypatch.setattr(methods, "_entries", dict(methods.loaded))
    exec(compile(PYTHON[1], "README.md", "exec"), {"__name__": "gradient_net"})
    p = random_problem((16, 18))
    model = mrirecon.methods.registry.build("gradient-net", {"cascades": 3}).double()
    model(p).abs().sum().backward()
    assert all(bool(w.grad.any()) for w in model.parameters())
    with pytest.raises(UsageError, match="unknown option"):
        mrirecon.methods.registry.build("gradient-net", {"cascade": 3})


def test_the_mask_family_that_it_adds_works(monkeypatch):
    from mrirecon.masks import FAMILIES, make_mask

    assert "cosine" not in FAMILIES
    monkeypatch.setattr(FAMILIES, "_entries", dict(FAMILIES._entries))
    exec(compile(PYTHON[2], "README.md", "exec"), {"__name__": "cosine"})
    made = make_mask("cosine", (64, 60), 4.0, calibration=8, seed=1, options={"power": 3.0})
    assert made.mask.sum() == 64 * 15


def test_commands_run_in_their_order(here):
    assert len(COMMANDS) >= 9
    for command in COMMANDS:
        long = "mrirecon train" in command or "mrirecon study" in command
        if "benchmark" in command or "models adapt" in command or (long and "--dry-run" not in command):
            continue  # minutes; tests/cli, test_study.py and test_adaptation.py run them small
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command)[1:])
        assert ended.value.code == 0, command
