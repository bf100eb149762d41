"""Test `train`, `config` and `simulate` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.io import read, read_array
from mrirecon.physics.operators import Fourier
from tests.training.test_training import THREADS, TINY


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


def test_train_and_use(run, tmp_path):
    code, out, err = run("train", "tiny.yaml", "--set", "train.steps=2")
    assert code == 0, err
    assert "model: runs/tiny/best" in out
    assert "best so far" in err
    code, out, err = run("simulate", "phantom:3", "-o", "scan.h5", "--coils", "4", "--slices", "2:4", "--size", "96x96")
    assert code == 0, err
    run("masks", "make", "random", "--shape", "96x96", "-R", "3", "--calibration", "14", "-o", "mask.npy")
    code, out, err = run(
        *("reconstruct", "scan.h5", "-o", "image.h5", "--mask", "mask.npy", "--model", "runs/tiny/best"),
        *("--reference", "scan.h5", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["results"][0]["scores"]["mean"]["ssim"] > 0.1
    code, out, _ = run("train", "tiny.yaml", "--set", "train.steps=2", "--json")  # nothing is left to do
    assert json.loads(out)["steps"] == 2
    code, _, err = run("train", "tiny.yaml", "--set", "train.steps=2", "--set", "model.features=9")
    assert code == 2
    assert "model.features: 8 -> 9" in err
    code, _, err = run("train", "tiny.yaml", "--set", "train.steps=2", "--resume", "never")
    assert code == 2
    assert "the folder contains a run" in err


def test_dry_run(run, tmp_path):
    code, out, _ = run("train", "tiny.yaml", "--dry-run")
    assert code == 0
    for word in ("parameters", "12 slices", "MiB", "validation", "runs/tiny"):
        assert word in out
    assert not (tmp_path / "runs").exists()
    code, out, _ = run("train", "tiny.yaml", "--dry-run", "--json")
    assert json.loads(out)["steps"] == 8


def test_what_is_wrong_with_a_configuration_is_said(run, tmp_path):
    (tmp_path / "bad.yaml").write_text("method: cirim\nmodel:\n  cascads: 3\n")
    for verb in (("train", "bad.yaml"), ("config", "validate", "bad.yaml"), ("config", "show", "bad.yaml")):
        code, out, err = run(*verb)
        assert code == 2
        assert out == ""
        assert "bad.yaml:3" in err
        assert "did you mean 'cascades'" in err
    assert run("train", "no.yaml")[0] == 3
    assert run("train", "tiny.yaml", "--resume", "maybe")[0] == 2


def test_config_verbs(run, tmp_path):
    code, out, _ = run("config", "init", "cirim", "-o", "new.yaml")
    assert (code, out.strip()) == (0, "new.yaml")
    assert run("config", "init", "cirim", "-o", "new.yaml")[0] == 2
    code, out, _ = run("config", "validate", "new.yaml", "tiny.yaml")
    assert code == 0
    assert out.count("in order") == 2
    code, out, _ = run("config", "show", "tiny.yaml", "--set", "train.lr=0.5")
    assert "lr: 0.5" in out
    assert "--set train.lr=0.5" in out
    assert "tiny.yaml:3" in out
    code, out, _ = run("config", "schema", "cirim")
    assert json.loads(out)["properties"]["model"]["properties"]["cascades"]["default"] == 5


def test_a_method_without_weights_is_validated(run):
    code, out, err = run("train", "tiny.yaml", "--set", "method=sense", "-o", "sense")
    assert code == 0
    assert "ssim" in out
    assert "no trainable weights" in err


def test_progress_without_a_terminal_and_signals(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY.replace("steps: 8", "steps: 4000"))
    command = [sys.executable, "-m", "mrirecon", "train", "tiny.yaml", "-o", "run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | THREADS, **pipes) as process:
        while not any("loss" in line for line in _lines(tmp_path / "run" / "log.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "is saved; continue with --resume auto" in err
    assert " left" in err


def _lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_simulate(run, tmp_path):
    options = ("--coils", "5", "--snr", "25", "--slices", "1:4", "--seed", "3", "--lesions", "2", "--keep-maps")
    code, _, err = run("simulate", "phantom:4", "-o", "a.h5", *options)
    assert code == 0, err
    scan = read("a.h5")
    assert scan.shape == {"slice": 3, "coil": 5, "y": 232, "x": 192}
    assert scan.maps(0).shape == (1, 5, 232, 192)
    labels = read_array("a_lesions.npz", ["reconstruction"])
    told = json.loads((tmp_path / "a_lesions.npz.json").read_text())["lesions"]
    assert [len(x) for x in told] == [int(x.max()) for x in labels]
    assert sum(map(len, told)) >= 4
    # the reference is the root sum of squares without noise, and the coils see it
    images = (
        Fourier((-2, -1)).adjoint(__import__("torch").from_numpy(scan.kspace(1))).abs().square().sum(0).sqrt().numpy()
    )
    reference = scan.reference[1]
    bright = reference > 0.3 * reference.max()
    assert np.abs(images - reference)[bright].mean() < 0.12 * reference[bright].mean()
    run("simulate", "phantom:4", "-o", "b.h5", *options)
    again = read("b.h5")
    assert all(np.array_equal(scan.kspace(i), again.kspace(i)) for i in range(3))
    # with or without lesions, the scan is otherwise equal, as needed for detection
    run("simulate", "phantom:4", "-o", "c.h5", *[o for o in options if o not in ("--lesions", "2")])
    without = read("c.h5")
    changed = np.abs(without.reference[1] - reference) > 1e-3 * reference.max()
    assert 0 < changed.sum() < 20 * (labels[1] > 0).sum()
    sidecar = json.loads((tmp_path / "a.h5.json").read_text())
    assert sidecar["simulated"] is True
    assert sidecar["seed"] == 3


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--slices", "5:3"), "do not exist"),
        (("--slices", "x"), "--slices"),
        (("--snr", "0"), "positive SNR"),
        (("--resolution", "2"), "resolution"),
        (("--lesion-size", "big"), "--lesion-size"),
        (("--size", "96"), "--size"),
        (("--volume", "y"), "no volume 'y'"),
    ],
)
def test_simulations_that_cannot_be(run, more, word):
    code, _, err = run("simulate", "phantom:4", "-o", "a.h5", *more)
    assert code == 2
    assert word in err


def test_simulate_from_files(run, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).random((80, 64, 3)).astype(np.float32) + 1
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 4, 1.0])), tmp_path / "v.nii.gz")
    assert run("simulate", "v.nii.gz", "-o", "v.h5")[0] == 0
    assert read("v.h5").shape["slice"] == 3
    assert run("simulate", "v.nii.gz", "-o", "v.nii.gz")[0] == 2  # not over its input
    np.savez(tmp_path / "two.npz", a=values.T, b=values.T)
    code, _, err = run("simulate", "two.npz", "-o", "v2.h5")
    assert code == 2
    assert "--volume" in err
    assert run("simulate", "two.npz", "-o", "v2.h5", "--volume", "b")[0] == 0
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8bnothing")
    assert run("simulate", "bad.nii.gz", "-o", "v3.h5")[0] == 3
