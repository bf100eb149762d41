"""Test items excluded from training: listed in the configuration, or containing only zeros."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from mrirecon import training
from mrirecon.data.phantom import phantom
from mrirecon.data.settings import Data
from mrirecon.data.simulate import simulate_kspace
from mrirecon.data.sources import empty_items, excluded_items, open_sources
from mrirecon.errors import UsageError
from mrirecon.io import read, write_kspace
from mrirecon.models.checkpoints import load_model
from mrirecon.training.config import load_config
from tests.training.test_training import TINY


@pytest.fixture
def files(tmp_path):
    """Write two subjects with five slices each; two slices of the first are zero."""
    for name, empty in (("case1", (1, 4)), ("case2", ())):
        simulated = simulate_kspace(phantom((64, 72), 5, 1), 3, 40.0, 1).kspace.astype(np.complex64)
        simulated[list(empty)] = 0
        simulated[0, :, 32] = 0  # a line of zeros is not an empty item
        write_kspace(tmp_path / f"{name}.h5", simulated)
    return tmp_path


def test_items_of_zeros_are_left_out_before_the_first_step(files, tmp_path):
    config = files / "tiny.yaml"
    config.write_text(TINY)
    data = [f"data.train=[{files}/case1.h5]", f"data.val=[{files}/case2.h5]", "data.crop=null"]
    messages = []
    training.train(load_config(config, [*data, "train.steps=4"]), tmp_path / "run", on_message=messages.append)
    assert any("items 1, 4 contain only zeros" in t for t in messages)
    card = load_model(tmp_path / "run" / "last").card
    assert card["slices"]["train"] == 3
    assert card["files"][0]["empty items, left out"] == [1, 4]
    assert any("are excluded" in n for n in card["notes"])


def test_items_are_excluded_by_name(files):
    data = Data(train=[f"{files}/case1.h5"], val=[f"{files}/case2.h5"], exclude=["case*.h5:0-1,3", "other.h5:99"])
    opened = open_sources(data)
    assert [s.index for s in opened.train] == [2]
    assert [s.index for s in opened.val] == [2, 4]
    assert opened.files[1]["excluded items"] == [0, 1, 3]
    assert opened.files[0]["empty items, left out"] == [4]
    assert any(note.endswith("item 4 contains only zeros and is excluded") for note in opened.notes)


def test_slices_of_volumes_are_excluded_by_name(tmp_path):
    image = phantom((64, 64), 4, 1)
    np.savez(tmp_path / "pack.npz", patient01_T1=image, patient02_T1=image)
    pack = str(tmp_path / "pack.npz")
    data = Data(train=[f"{pack}#patient01*"], val=[f"{pack}#patient02*"], exclude=["patient01*:1-2", "pack.npz:0"])
    opened = open_sources(data)
    assert [s.index for s in opened.train] == [3]
    assert [s.index for s in opened.val] == [1, 2, 3]
    assert opened.files[0]["excluded slices"] == [0, 1, 2]
    with pytest.raises(UsageError, match="no training data"):
        open_sources(Data(train=[f"{pack}#patient01*"], val=[f"{pack}#patient02*"], exclude=["patient01*:0-3"]))


@pytest.mark.parametrize("entry", ["case.h5:5", "case.h5:0,3-9", "case.h5:3-1"])
def test_items_that_are_not_there_are_named(entry):
    with pytest.raises(UsageError, match="do not exist") as caught:
        excluded_items(["case.h5"], 5, [entry])
    assert entry in caught.value.where
    assert "from 0 to 4" in caught.value.why


def test_one_line_tells_most_and_the_rest_is_looked_at(files):
    scan = read(files / "case1.h5")
    seen, glance = [], type(scan).quick_mask

    def counted(self, item):
        seen.append(item)
        return glance(self, item)

    type(scan).quick_mask = counted
    try:
        assert empty_items(scan, range(5)) == {1, 4}
    finally:
        type(scan).quick_mask = glance
    assert seen == [0, 1, 4]


def test_scripts_need_no_test_tools(monkeypatch):
    """Check the exclusion in `compare_networks.py`, which runs in an environment without pytest."""
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    for name in ("compare_networks", "tests.goldens.make_networks"):
        sys.modules.pop(name, None)
        importlib.import_module(name)
