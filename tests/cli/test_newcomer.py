"""Test what a new user meets: explanations of options, refusals, hints, previews, several jobs and completion."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mrirecon import errors
from mrirecon.cli import console
from mrirecon.cli.options import complete, complete_files
from mrirecon.errors import ResourceError, UnsafeContentError
from mrirecon.io import read, read_image, write_kspace
from mrirecon.io.drawing import Curve, draw_curves
from mrirecon.io.readers.arrays import scan_of_arrays
from mrirecon.io.safe.text import counted
from mrirecon.methods.registry import METHODS
from mrirecon.models.checkpoints import load_model, shipped_models, with_options
from mrirecon.reconstruction.preprocess.prepare import MANY_COILS, Preprocess, prepare
from mrirecon.registries import allowed
from mrirecon.training.config import schema, template
from mrirecon.training.curve import draw_run, warn_if_useless

FULL = Path(__file__).parents[2] / "data_samples" / "brain_full.h5"
LEARNED = ("reconstruct", "scan.h5", "-m", "cirim", "-o", "image.h5", "--json")


@pytest.fixture
def scans(tmp_path):
    """Write two small undersampled scans, a.h5 and b.h5, into the folder of the command."""
    with h5py.File(FULL) as file:
        kspace = file["kspace"][:2, :3, 64:112, 48:96]
    mask = np.zeros(48)
    mask[::2] = mask[18:30] = 1
    for name, item in (("a.h5", slice(0, 2)), ("b.h5", slice(0, 1))):
        write_kspace(tmp_path / name, kspace[item] * mask, mask=mask)
    return tmp_path


# options


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_explained_by_one_text(name, run):
    method = METHODS[name]
    texts = {key: field["description"] for key, field in method.documented_schema["properties"].items()}
    assert set(texts) == set(method.fields)
    assert all(texts.values())
    assert {k: f["description"] for k, f in schema(name)["properties"]["model"]["properties"].items()} == texts
    code, out, _ = run("methods", name)
    assert code == 0
    for key, text in texts.items():
        assert text in template(name)
        assert text in " ".join(out.split())
        assert f"{key} = " in out


def test_every_key_of_a_configuration_is_explained():
    definition = schema()
    for name in ("Data", "Train", "LossSettings"):
        fields = definition["$defs"][name]["properties"].items()
        unexplained = [key for key, field in fields if not (field["description"] or "$ref" in json.dumps(field))]
        assert not unexplained, f"{name}: {unexplained}"


def test_ranges_are_put_into_words():
    assert allowed({"type": "integer", "minimum": 1}) == "whole number, at least 1"
    assert allowed({"type": "number", "exclusiveMinimum": 0, "maximum": 2.5}) == "number, above 0 and at most 2.5"
    assert allowed({"enum": ["gru", "mgu", "indrnn"]}) == "gru, mgu or indrnn"
    assert allowed({"anyOf": [{"type": "integer"}, {"type": "null"}]}) == "whole number or null"
    assert allowed({"$ref": "#/$defs/Data"}) == ""


def test_an_unknown_method_is_refused_with_the_nearest(run):
    code, _, err = run("methods", "cirm")
    assert code == 2
    assert "did you mean 'cirim'" in err


# trained models


def test_a_trained_model_takes_options_of_inference(scans, run):
    (scans / "b.h5").rename(scans / "scan.h5")
    code, out, _ = run(*LEARNED, "--set", "symmetries=1", "--set", "passes=2", "--set", "blend=none")
    assert code == 0
    record = json.loads(out)["results"][0]
    assert (record["options"]["symmetries"], record["options"]["passes"], record["options"]["blend"]) == (1, 2, "none")
    changed = read_image("image.h5")
    code, _, _ = run(*LEARNED, "--overwrite")
    assert code == 0
    default = read_image("image.h5")
    assert 1e-5 < np.abs(changed - default).max() / default.max() < 0.5


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("cascades=2", "trained with cascades=3"),
        ("start=zero-filled", "trained with start=cs"),
        ("passes=0", "greater than or equal to 1"),
        ("symetries=2", "did you mean 'symmetries'"),
    ],
)
def test_an_option_that_needs_other_weights_is_refused(option, reason, run):
    code, _, err = run("reconstruct", FULL, "-m", "cirim", "-o", "image.h5", "--set", option)
    assert code == 2
    assert reason in err


def test_options_of_inference_keep_the_weights():
    trained = load_model(shipped_models()["rim"])
    changed = with_options(trained, {"symmetries": 1, "blend": "none", "memory": "checkpoint", "segment": 2})
    assert changed.options["symmetries"] == 1
    weights = dict(trained.model.named_parameters())
    for name, weight in changed.model.named_parameters():
        assert torch.equal(weight, weights[name])
    assert with_options(trained, {}) is trained


# refusals and exit codes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--contrast", "T1w"], "--bids"),
        (["--strict-model"], "not trained"),
        (["--jobs", "2"], "one file"),
        (["-o", "x.nrrd"], "no format has the suffix .nrrd"),
        (["-o", "x.nrrd", "--format", "h5"], "mkdir x.nrrd"),
        (["-o", "x.png", "--preview"], "--preview has no effect"),
    ],
)
def test_options_without_effect_are_refused(scans, run, options, reason):
    code, _, err = run("reconstruct", "a.h5", "-m", "cs", *options)
    assert code == 2
    assert reason in err
    assert not (scans / "x.nrrd").exists()


def test_a_folder_with_a_suffix_may_exist(scans, run):
    (scans / "x.v").mkdir()
    assert run("reconstruct", "a.h5", "-m", "rss", "-o", "x.v")[0] == 0
    assert (scans / "x.v" / "a_rss.h5").exists()


def test_exit_codes(tmp_path):
    error = errors.as_known(OSError(errno.EROFS, "Read-only file system", "x"))
    assert isinstance(error, ResourceError)
    assert error.exit_code == 5
    np.savez(tmp_path / "scan.npz", kspace=np.array([{}], dtype=object))
    with pytest.raises(UnsafeContentError) as caught:
        read(tmp_path / "scan.npz")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["file"], "masks apply --mask FILE"),
        (["random", "-R", "4", "--center-fraction", "0.1"], "omit --center-fraction"),
        (["random", "-R", "4", "--center-fraction", "0.1"], "--compat fastmri"),
        (["random", "-R", "4", "--fwhm", "0.5"], "--fwhm is only valid with"),
    ],
)
def test_masks_name_options(run, arguments, hint):
    code, _, err = run("masks", "make", *arguments, "--shape", "32x32", "-o", "mask.npy")
    assert code == 2
    assert hint in err


def test_header_values_do_not_look_like_measured_ones(scans, run):
    with h5py.File(scans / "a.h5", "a") as file:
        file.attrs["sampling"] = "full"
    _, out, _ = run("info", "a.h5")
    assert sum(line.startswith("  sampling  ") for line in out.splitlines()) == 1
    assert "  sampling (header) full" in out


# notes and progress


def test_notes_that_repeat_are_counted():
    notes = [f"{n} samples of scan.h5, slice {n} are lost" for n in range(1, 6)]
    assert counted(["first", *notes, "first"]) == ["first", f"{notes[0]} (and 4 more such notes)"]
    assert counted(["scale 1.5", "scale 1e-3"]) == ["scale 1.5 (and 1 more such notes)"]


def test_progress_without_a_terminal_has_the_time_left(capfd, monkeypatch):
    now = iter([0.0, 5.0, 11.0, 20.0, 72.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    lines = console.ProgressLines("replica")
    for step in range(5):
        lines(step, 64, "cs")
    printed = capfd.readouterr().err.splitlines()
    assert printed == ["replica 2 of 64, cs, 5 min 41 s left", "replica 4 of 64, cs, 18 min 00 s left"]


def test_many_coils_are_compressed_with_a_note():
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((40, 24, 24)) + 1j * rng.standard_normal((40, 24, 24))
    scan = scan_of_arrays(kspace)
    few = prepare(scan, Preprocess(whiten="none"))
    assert few.coils == MANY_COILS
    assert any("--compress none keeps all" in note for note in few.notes)
    assert prepare(scan, Preprocess(whiten="none", many_coils="keep")).coils == 40
    assert prepare(scan_of_arrays(kspace[:32]), Preprocess(whiten="none")).notes == []


# pictures


def test_previews_and_montages(scans, run):
    assert run("reconstruct", "a.h5", "-m", "rss", "-o", "image.h5", "--preview")[0] == 0
    with Image.open("image_preview.png") as picture:
        size = picture.size
    Path("image_preview.png").unlink()
    assert run("reconstruct", "a.h5", "-m", "rss", "-o", "image.h5", "--preview")[0] == 0  # is done already
    with Image.open("image_preview.png") as picture:
        assert picture.size == size
    assert size[0] > 600
    assert run("reconstruct", "a.h5", "-m", "rss", "-o", "all.png", "--format", "montage")[0] == 0
    with Image.open("all.png") as picture:
        assert picture.size == size
    assert not list(scans.glob("all_0*.png"))


def test_a_preview_replaces_no_other_picture(scans, run):
    Path(scans / "image_preview.png").write_bytes(b"mine")
    code, _, err = run("reconstruct", "a.h5", "-m", "rss", "-o", "image.h5", "--preview")
    assert code == 2
    assert "image_preview.png" in err
    assert (scans / "image_preview.png").read_bytes() == b"mine"


def test_a_run_draws_its_curves(tmp_path):
    lines = [{"step": 10 * n, "loss": 1 / (n + 1)} for n in range(5)]
    lines += [{"step": 20, "validation": {"ssim": 0.5}}, {"step": 40, "validation": {"ssim": 0.6}}]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    draw_run(tmp_path, {"ssim": 0.7}, "cirim, step 40")
    with Image.open(tmp_path / "curve.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert (110, 190, 255) in colours
    assert (255, 170, 80) in colours
    assert "worse than zero filling" in (warn_if_useless(0.6, {"ssim": 0.7}, tmp_path) or "")
    assert warn_if_useless(0.8, {"ssim": 0.7}, tmp_path) is None
    assert draw_curves([Curve("nothing", [(0, float("nan"))])]).width > 600


# several jobs, completion


def test_jobs_give_the_same_images_and_failures(scans, run):
    (scans / "c.h5").write_bytes(b"not a scan")
    old = (scans / "c.h5").stat().st_mtime - 100
    os.utime(scans / "c.h5", (old, old))
    files = ["a.h5", "b.h5", "c.h5"]
    code, out, err = run("reconstruct", *files, "-m", "rss", "-o", "two", "--jobs", "2")
    assert code == 4
    assert out.split() == ["two/a_rss.h5", "two/b_rss.h5"]
    assert "1 of 3 files failed" in err
    assert json.loads(Path("two/failed.jsonl").read_text())["file"] == "c.h5"
    code, _, err = run("reconstruct", *files, "-m", "rss", "-o", "one")
    assert code == 4, err
    for name in ("a_rss.h5", "b_rss.h5"):
        np.testing.assert_array_equal(read_image(f"two/{name}"), read_image(f"one/{name}"))


def test_names_are_completed(tmp_path, monkeypatch):
    assert complete("methods", "auto")("c") == ["cascadenet", "cirim", "cs", "cs-tv"]
    assert complete("methods", "auto")("a") == ["auto"]
    assert "poisson" in complete("families")("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("my.yaml", "my.txt", "configs/cirim.yaml"):
        (tmp_path / name).touch()
    assert complete_files(".yaml")("") == ["configs/", "my.yaml"]
    assert complete_files(".yaml")("configs/c") == ["configs/cirim.yaml"]


def test_the_shell_completes_names():
    words = {"_MRIRECON_COMPLETE": "complete_bash", "COMP_WORDS": "mrirecon methods ci", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from mrirecon.cli import main; main()"]
    done = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cirim"]


def test_a_request_is_checked_before_any_file(scans, run):
    code, _, err = run("reconstruct", "a.h5", "b.h5", "-m", "cirim", "-o", "out", "--set", "features=8")
    assert code == 2
    assert "features cannot be changed" in err
    assert not (scans / "out").exists()
