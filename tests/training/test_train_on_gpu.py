"""Test `scripts/train_on_gpu.sh`: several methods within a time budget, and limits on the output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mrirecon.data.phantom import phantom

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import train_methods as script  # noqa: E402 - a script, not a package


@pytest.fixture
def packed(tmp_path):
    """Write data of two subjects that the configurations name."""
    image = (phantom((64, 64), 2, 1) * 1000).astype(np.uint16)
    np.savez(tmp_path / "volumes.npz", patient01_T1W=image, patient03_T1W=image)
    return tmp_path / "volumes.npz"


@pytest.fixture
def fake(monkeypatch):
    """Replace the training by a fast stub that writes the same files and resumes."""
    calls = []
    clock = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(script.time, "monotonic", lambda: clock.seconds)

    def train(method, run, seconds, environment, device, more):
        before = [int(p.stem) for p in (run / "states").glob("*.pt")]
        calls.append(SimpleNamespace(name=method.name, seconds=seconds, before=before, more=list(more)))
        if method.name == "rim":
            raise RuntimeError("it did not learn")
        clock.seconds += seconds
        for name in ("best", "last", "states", "panels"):
            (run / name).mkdir(parents=True, exist_ok=True)
        state = run / "states" / f"{(before[0] if before else 0) + 10}.pt"
        rng = np.random.default_rng(0)
        state.write_bytes(rng.bytes(40_000 if method.name == "cirim" else 90_000))
        (run / "best" / "weights.safetensors").write_bytes(rng.bytes(5_000))
        (run / "last" / "card.md").write_text("# card\n")
        (run / "last" / "weights.safetensors").write_bytes(rng.bytes(5_000))
        (run / "log.jsonl").write_text(
            '{"step": 0, "started": "now"}\n{"step": 5, "loss": 0.5}\n{"step": 10, "loss": 0.25}\n'
            '{"step": 10, "validation": {"ssim": 0.9, "psnr": null}}\n{"step": 11, "lo'
        )
        return {"steps": 10}

    monkeypatch.setattr(script, "_train", train)
    return calls


def test_shares_of_the_time_and_one_that_fails(packed, tmp_path, fake):
    out = tmp_path / "out"
    code = script.main(
        [str(packed), "-o", str(out), "--methods", "cirim:2,rim:1,unet", "--elapsed", "40", "--minutes", "9"]
    )
    assert code == 4
    content = json.loads((out / "summary.json").read_text())["methods"]
    assert content["rim"]["error"] == "it did not learn"
    assert content["cirim"]["files"] == ["cirim.tar.gz"]
    first, second, third = (c.seconds for c in fake)
    assert first == pytest.approx(500 / 2 - script.FINISH)
    assert second == pytest.approx((500 - first) / 2 - script.FINISH)
    assert third == pytest.approx(500 - first - script.FINISH), "unused time is left to the next method"
    with tarfile.open(out / "cirim.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"best/weights.safetensors", "log.jsonl", "last/card.md", "states/10.pt"} <= names
    assert "last/weights.safetensors" not in names, "the values are in the state"


def test_it_goes_on_from_its_own_archives_in_parts(packed, tmp_path, fake):
    more = ["--methods", "cirim,unet", "--largest", "0.03"]
    assert script.main([str(packed), "-o", str(tmp_path / "one"), *more]) == 0
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == [
        *(f"cirim.tar.gz.part-0{i}" for i in range(2)),
        "summary.json",
        *(f"unet.tar.gz.part-0{i}" for i in range(4)),
    ]
    assert all(p.stat().st_size <= 30_000 for p in (tmp_path / "one").iterdir())
    assert script.main([str(packed), "-o", str(tmp_path / "two"), *more, "--resume", str(tmp_path / "one")]) == 0
    assert [c.before for c in fake] == [[], [], [10], [10]]


def test_states_give_way_where_there_is_no_room(packed, tmp_path, fake, capsys):
    out = tmp_path / "out"
    assert script.main([str(packed), "-o", str(out), "--methods", "cirim,unet", "--total", "0.1"]) == 0
    assert "its state is left out" in capsys.readouterr().err
    with tarfile.open(out / "unet.tar.gz") as archive:
        assert not [n for n in archive.getnames() if n.startswith("states")]
    assert sum(p.stat().st_size for p in out.iterdir()) < 100_000
    assert script.main([str(packed), "-o", str(out), "--methods", "unet", "--resume", str(out), "--files", "2"]) == 0
    assert fake[-1].before == [], "without a state, the run starts again"


def test_no_time_is_left(packed, tmp_path, fake):
    assert script.main([str(packed), "-o", str(tmp_path / "o"), "--minutes", "0.5", "--methods", "cirim,unet:9"]) == 4
    content = json.loads((tmp_path / "o" / "summary.json").read_text())["methods"]
    assert "no time is left" in content["cirim"]["error"]
    assert [c.name for c in fake] == ["unet"]


def test_volumes_of_ones_own(tmp_path, fake, packed):
    image = phantom((64, 64), 2, 1)
    for name in ("anna", "bert"):
        np.savez(tmp_path / f"{name}.npz", vol=image)
    files = [str(tmp_path / "anna.npz"), str(tmp_path / "bert.npz")]
    assert script.main([*files, "-o", str(tmp_path / "out"), "--methods", "unet", "--set", "train.batch=2"]) == 0
    assert fake[0].more[:2] == ['data.train=["$PACKED"]', "data.val=0.2"]
    assert fake[0].more[-1] == "train.batch=2"
    assert script.main([str(packed), "-o", str(tmp_path / "out"), "--methods", "unet"]) == 0
    assert fake[1].more == [], "listed volumes are split as in the configuration"


def test_volumes_that_are_packed_again_keep_their_names(packed, tmp_path):
    np.savez(tmp_path / "anna.npz", vol=np.load(packed)["patient01_T1W"])
    out = tmp_path / "again.npz"
    command = [sys.executable, ROOT / "scripts/pack_volumes.py", packed, tmp_path / "anna.npz", "-o", out]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    with np.load(out) as archive:
        listed = sorted(n for n in archive.files if not n.endswith("_spacing"))
    assert listed == ["anna", "patient01_T1W", "patient03_T1W"]


@pytest.mark.parametrize("text", ["cirm:2", "cirim:0", "cirim:much"])
def test_methods_that_are_none(text):
    with pytest.raises(SystemExit, match=r"cirim, e2evn, rim, unet"):
        script._method(text)


def test_missing_packages_are_named(tmp_path):
    """Run on a machine with torch, without pydantic and without a network."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'pydantic' else found(name, package)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(blocked), "PYTHON": sys.executable, "WHEELS": str(tmp_path)}
    done = subprocess.run(
        ["bash", ROOT / "scripts/train_on_gpu.sh", "volumes.npz"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "could not be installed: pydantic" in done.stderr
    assert "pip download -d wheels" in done.stderr


@pytest.mark.slow
def test_from_volumes_to_weights_and_on(packed, tmp_path):
    """Train for a minute from the shell: the model loads, and the state resumes."""
    from mrirecon.models.checkpoints import load_model

    small = [
        "data.crop=[64,64]",
        "data.val_items=2",
        "train.batch=1",
        "model.features=8",
        "model.cascades=2",
        "model.steps=2",
    ]
    command = ["bash", str(ROOT / "scripts/train_on_gpu.sh"), str(packed), "--minutes", "1", "--methods", "cirim"]
    command += [word for one in small for word in ("--set", one)]
    environment = os.environ | {"PYTHON": sys.executable}
    steps = []
    for name, more in (("one", []), ("two", ["--resume", str(tmp_path / "one")])):
        out = tmp_path / name
        done = subprocess.run(
            [*command, "-o", str(out), *more], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        content = json.loads((out / "summary.json").read_text())
        assert content["seconds"] < 60
        steps.append(content["methods"]["cirim"]["steps"])
        with tarfile.open(out / "cirim.tar.gz") as archive:
            archive.extractall(out / "run", filter="data")
        assert load_model(out / "run" / "best").method == "cirim"
    assert 0 < steps[0] < steps[1]
