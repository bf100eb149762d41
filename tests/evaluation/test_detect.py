"""Test lesion detectability, and the commands that assess the reliability of an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrirecon.cli import main
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation.detect import FULL, Setting, detect

SAMPLE = Path(__file__).parents[2] / "data_samples/brain_4x.h5"
FEW = Setting(pairs=12, lesions=4, size=(6.0, 14.0), coils=4)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def results():
    calls = []
    rows = detect("phantom:2", ["zero-filled", "cs"], setting=FEW, progress=lambda *call: calls.append(call))
    return rows, calls


def test_fully_sampled_lesions_are_all_there(results):
    rows, _ = results
    assert list(rows) == [FULL, "zero-filled", "cs"]
    full = rows[FULL]
    assert full.pairs == 12
    assert full.recovered == pytest.approx(1, abs=0.05)
    assert full.missed == full.hallucinated == 0
    assert full.d_prime > 10


def test_better_reconstructions_detect_more(results):
    rows, _ = results
    assert rows["zero-filled"].d_prime < rows["cs"].d_prime < rows[FULL].d_prime
    assert rows["zero-filled"].recovered < rows["cs"].recovered < 1


def test_progress_counts_pairs(results):
    _, calls = results
    assert calls[0] == (0, 12, "zero-filled")
    assert calls[-1][:2] == (12, 12)


def test_it_is_a_function_of_its_seed():
    first, again, other = (
        detect("phantom:2", ["zero-filled"], setting=Setting(pairs=4, lesions=2, size=(6.0, 14.0), coils=2, seed=seed))
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_fainter_lesions_are_harder_to_tell():
    faint, bright = (
        detect("phantom:2", ["zero-filled"], setting=Setting(pairs=12, contrast=c, coils=4, snr=10.0))[FULL]
        for c in ((0.04, 0.05), (0.4, 0.5))
    )
    assert faint.d_prime < bright.d_prime / 3


def test_what_cannot_be_asked(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        detect("phantom:2")
    with pytest.raises(UsageError, match="once"):
        detect("phantom:2", ["cs", "cs"])
    with pytest.raises(UsageError, match="at least two pairs"):
        Setting(pairs=1)
    noise = np.random.default_rng(0).uniform(0, 1, (1, 64, 64)).astype(np.float32)  # nowhere homogeneous
    np.save(tmp_path / "noise.npy", noise)
    with pytest.raises(InputError, match="can be placed"):
        detect(
            tmp_path / "noise.npy",
            ["zero-filled"],
            setting=Setting(pairs=4, lesions=1, coils=2, acceleration=2.0, calibration=8),
        )


def test_the_verb_prints_a_table(capfd):
    arguments = ("--pairs", 4, "--coils", 2, "--acceleration", 2, "--lesion-size", "8-14")
    assert run("detect", "phantom:2", "-m", "zero-filled", *arguments) == 0
    assert "false positives" in capfd.readouterr().out
    assert run("detect", "phantom:2", "-m", "zero-filled", *arguments, "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert [row["method"] for row in printed["methods"]] == [FULL, "zero-filled"]
    assert printed["setting"]["acceleration"] == 2
    assert run("detect", "phantom:2", "--lesion-size", "8") == 2


def test_the_verb_trust_says_what_measured_data_tell(tmp_path, capfd):
    assert run("trust", SAMPLE, "-m", "sense", "--replicas", 3, "-o", tmp_path / "maps.npz", "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["noise_share"] < printed["held_out"] < printed["held_out_zero_filled"]
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(maps) == {"null_space", "noise", "g"}
        assert maps["g"].shape == (176, 144)
    assert run("trust", SAMPLE, "-m", "sense", "--replicas", 2, "-o", tmp_path / "maps.png", "--item", 1) == 0
    out = capfd.readouterr().out
    assert "g-factor" in out
    assert "hidden samples" in out
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.size[0] > 3 * 144
    assert run("trust", SAMPLE, "-o", tmp_path / "maps.png") == 2  # there already
    assert run("trust", SAMPLE, "-o", tmp_path / "maps.tiff") == 2
    assert run("trust", SAMPLE, "--item", 9) == 2
    assert run("trust", SAMPLE, "--held-out-share", 2) == 2
