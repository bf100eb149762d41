"""Test studies: combinations, shared inputs, resumption after a kill, recomputation, and failures."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon.cli import main
from mrirecon.data.phantom import phantom
from mrirecon.errors import BusyError, InputError, UsageError
from mrirecon.evaluation.study import dry_run, load_study, run_study
from mrirecon.io import read_image
from mrirecon.io.safe.lock import output_lock
from tests.training.test_training import THREADS, TINY

LEARN = TINY.replace("{steps: 8,", "{steps: 8, workers: 0,").replace("val_items: 2", "val_items: 1")
CONFIGS = Path(__file__).parents[2] / "configs" / "studies"
SMALL = """
title: Tiny
data:
  phantoms: {volumes: ["phantom:100", "phantom:101"], slices: [2, 3], coils: 3, resolution: 0.4}
masks:
  lines: {family: random, acceleration: 3, calibration: 16}
  plane: {family: gaussian2d, acceleration: 4, calibration: 14}
methods:
  zero: {method: zero-filled}
  cs: {method: cs, options: {iterations: 5}}
"""


@pytest.fixture
def write(tmp_path):
    def put(text, name="study.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return put


@pytest.fixture
def one_thread():
    """Use one thread, because the number of threads affects the last bit of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def times(folder):
    return {p.relative_to(folder / "images"): p.stat().st_mtime_ns for p in folder.glob("images/*/*/*.h5")}


def rows(folder, name="cells.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_is_crossed_and_the_samples_are_the_same_for_all(write, tmp_path):
    done = run_study(load_study(write(SMALL)), tmp_path / "out")
    out = tmp_path / "out"
    assert len(rows(out)) == 8
    assert [(r["mask"], r["method"], r["scans"], r["failed"]) for r in done["rows"]] == [
        ("lines-3x", "zero", 2, 0),
        ("lines-3x", "cs", 2, 0),
        ("plane-4x", "zero", 2, 0),
        ("plane-4x", "cs", 2, 0),
    ]
    assert all(0.2 < float(r["ssim"]) < 1 for r in rows(out))
    for mask in ("lines-3x", "plane-4x"):
        score = {m: next(r for r in done["rows"] if (r["mask"], r["method"]) == (mask, m)) for m in ("zero", "cs")}
        assert score["cs"]["scores"]["psnr"]["mean"] > score["zero"]["scores"]["psnr"]["mean"]
        sidecars = [json.loads((out / f"images/{mask}/{m}/phantom-100.h5.json").read_text()) for m in ("zero", "cs")]
        assert sidecars[0]["mask"] == sidecars[1]["mask"]
        assert sidecars[0]["input"] == sidecars[1]["input"]
        assert {s["maps"]["source"].split(",")[0] for s in sidecars} == {"ESPIRiT"}
    masks = [np.load(out / f"masks/lines-3x/phantom-10{i}.npy") for i in (0, 1)]
    assert masks[0].shape == read_image(out / "references/phantom-100.h5").shape[1:]
    assert (masks[0] != masks[1]).any(), "each scan has its own mask"
    assert float(rows(out)[0]["acceleration"]) == pytest.approx(masks[0].size / masks[0].sum())
    table = (out / "table.md").read_text()
    assert table.count("\n") == 6
    report = (out / "report.md").read_text()
    assert table.strip() in report
    assert "no verdict: 2 subjects" in report
    for picture in ("lines-3x", "plane-4x"):
        assert (out / f"pictures/{picture}-phantom-100.png").stat().st_size > 10_000


def test_its_folders_are_what_evaluate_and_compare_read(write, tmp_path, capfd):
    out = tmp_path / "out"
    run_study(load_study(write(SMALL), ["pictures=false"]), out)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(out / "images/lines-3x/cs"), str(out / "references"), "--json"])
    printed = json.loads(capfd.readouterr().out)
    assert ended.value.code == 0
    mine = [float(r["ssim"]) for r in rows(out) if (r["mask"], r["method"]) == ("lines-3x", "cs")]
    assert [v["ssim"] for v in printed["volumes"]] == pytest.approx(mine)


def test_a_killed_study_goes_on_and_ends_alike(write, tmp_path, one_thread):
    """Kill a study after the second image: the resumed study keeps finished images and gives equal results."""
    path = write(SMALL.replace("iterations: 5", "iterations: 60, tolerance: 0"))
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run_study(load_study(path), whole)
    process = subprocess.Popen(
        [sys.executable, "-m", "mrirecon", "study", str(path), "-o", str(out)],
        env={**os.environ, **THREADS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while len(list(out.glob("images/*/*/*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = times(out)
    retained = [Path(c["cell"]).with_suffix(".h5") for c in dry_run(load_study(path), out)["cells"] if c["done"]]
    assert 2 <= len(retained) < 8
    run_study(load_study(path), out)
    assert all(times(out)[cell] == before[cell] for cell in retained), "finished cells are not computed again"
    # a temporary file of the killed process is removed after ten minutes
    assert [f for f in files(out) if not f.endswith(".tmp")] == files(whole)
    assert (out / "study.yaml").read_bytes() == (whole / "study.yaml").read_bytes()
    for name in files(whole):
        if name.startswith(("images", "references", "scans", "masks", "pictures")) and not name.endswith(".json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    plain = [[{k: v for k, v in r.items() if "seconds" not in k} for r in rows(f)] for f in (out, whole)]
    assert plain[0] == plain[1]


def test_what_changed_is_made_again_and_nothing_else(write, tmp_path):
    out = tmp_path / "out"
    run_study(load_study(write(SMALL)), out)
    first = times(out)

    def again(*sets):
        before = times(out)
        done = run_study(load_study(tmp_path / "study.yaml", sets), out)
        return {p for p, at in times(out).items() if before.get(p) != at}, done

    before = {f: (out / f).stat().st_mtime_ns for f in files(out)}
    messages = []
    content = run_study(load_study(tmp_path / "study.yaml"), out, on_message=messages.append)
    assert content == json.loads((out / "table.json").read_text())
    assert messages == ["the study is complete: all 8 cells are done and unchanged"]
    after = {f: (out / f).stat().st_mtime_ns for f in files(out)}
    assert {f for f in after if before.get(f) != after[f]} == {"study.yaml"}
    for lost in ("report.md", "references/phantom-100.h5"):
        (out / lost).unlink()
        changed, done = again()
        assert changed == set(), "images are kept"
        assert (out / lost).is_file()
        assert done["rows"] == content["rows"]
    changed, _ = again("methods.cs.options.iterations=6")
    assert {p.parts[1] for p in changed} == {"cs"}
    assert len(changed) == 4
    changed, done = again("methods.cs.options.iterations=6", "metrics=[nmse, hfen]", "preset=fastmri")
    assert changed == set(), "scores are recomputed, images are not"
    assert set(done["rows"][0]["scores"]) == {"nmse", "hfen"}
    changed, _ = again("methods.cs.options.iterations=6", "masks.plane.calibration=16")
    assert {p.parts[0] for p in changed} == {"plane-4x"}
    changed, done = again(
        "methods.cs.options.iterations=6", "masks.plane.calibration=16", "methods.sense={method: sense}"
    )
    assert {p.parts[1] for p in changed} == {"sense"}
    changed, _ = again("data.phantoms.snr=60", "methods.cs.options.iterations=6", "masks.plane.calibration=16")
    assert len(changed) == 8, "another scan changes all its images"
    assert len(first) == 8


def test_a_cell_that_fails_is_shown_and_the_others_go_on(write, tmp_path, capfd):
    path = write(SMALL.replace("plane:", "bare: {family: random, acceleration: 3, calibration: 0}\n  plane:"))
    with pytest.raises(SystemExit) as ended:
        main(["study", str(path), "-o", str(tmp_path / "out")])
    out, err = capfd.readouterr()
    assert ended.value.code == 4
    assert "of 12 cells failed" in err
    failed = [r for r in rows(tmp_path / "out") if r["status"] == "failed"]
    assert {r["mask"] for r in failed} == {"bare-3x"}
    assert all(r["ssim"] == "" and "calibration" in r["reason"] for r in failed)
    assert len([r for r in rows(tmp_path / "out") if r["status"] == "done"]) == 12 - len(failed)
    assert "| bare-3x | cs | - | - | - | 0 | **2** | - |" in out
    report = (tmp_path / "out/report.md").read_text()
    assert "## Failed" in report
    written = json.loads((tmp_path / "out/table.json").read_text())
    assert len(written["failed"]) == len(failed)
    with pytest.raises(SystemExit) as ended:
        main(["study", str(path), "-o", str(tmp_path / "out"), "--json"])
    assert ended.value.code == 4
    assert json.loads(capfd.readouterr().out)["failed"] == written["failed"]
    row = next(r for r in written["rows"] if (r["mask"], r["method"]) == ("bare-3x", "cs"))
    assert row["scores"]["ssim"]["mean"] is None
    assert row["scores"]["ssim"]["undefined"] == 2


def test_a_scan_that_is_not_whole_fails_in_all_its_cells_and_is_read_once(write, tmp_path):
    twin = Path(__file__).parents[2] / "data_samples" / "brain_4x.h5"
    text = SMALL.replace("masks:", f"  twin: {{files: {twin}}}\nmasks:", 1)
    lines = []
    plan = load_study(write(text), ["data.phantoms.volumes=phantom:100", "pictures=false"])
    done = run_study(plan, tmp_path / "out", on_message=lines.append)
    assert {f["scan"] for f in done["failed"]} == {"brain_4x"}
    assert len(done["failed"]) == 4
    assert {f["error"]["what"] for f in done["failed"]} == {"an undersampled scan cannot be the reference"}
    assert [r["acceleration"] is None for r in done["rows"]] == [False] * 4 + [True] * 4
    assert sum(t.startswith("scan brain_4x failed") for t in lines) == 1


def test_what_is_missing_is_trained_within_the_budget_and_once(write, tmp_path):
    write(LEARN, "tiny.yaml")
    text = SMALL.replace(', "phantom:101"', "")
    text = text.replace("\n  plane: {family: gaussian2d, acceleration: 4, calibration: 14}", "")
    text += "  own: {train: tiny.yaml}\n  other: {train: tiny.yaml, overrides: model.features=6, steps: 1}\n"
    text += "  wild: {train: tiny.yaml, overrides: train.lr=1e30}\nbudget: {steps: 2}\ncompare: [[own, other]]\n"
    plan = load_study(write(text))
    assert [n for n in plan.notes if "for different lengths: 1 steps, 2 steps" in n]
    assert dry_run(plan, tmp_path / "out")["to be trained"] == ["own", "other", "wild"]
    assert not (tmp_path / "out").exists()
    lines = []
    done = run_study(plan, tmp_path / "out", on_message=lines.append)
    by = {m["name"]: m for m in done["methods"]}
    assert (by["own"]["steps"], by["other"]["steps"]) == (2, 1)
    assert {f["method"] for f in done["failed"]} == {"wild"}
    assert "NaN or infinite" in done["failed"][0]["error"]["what"]
    assert [(d["a"], d["b"]) for d in done["differences"]] == [("own", "other")]
    assert sum(t.startswith("training ") for t in lines) == 3
    model = json.loads((tmp_path / "out/images/lines-3x/own/phantom-100.h5.json").read_text())["model"]
    assert model["folder"] == by["own"]["model"]
    lines.clear()
    before = times(tmp_path / "out")
    again = load_study(tmp_path / "study.yaml", ["methods.own.overrides=model.steps=1"])
    run_study(again, tmp_path / "out", on_message=lines.append)
    assert [t.split(":")[0] for t in lines if t.startswith("training ")] == ["training own", "training wild"]
    changed = {p.parts[1] for p, at in times(tmp_path / "out").items() if before.get(p) != at}
    assert changed == {"own"}
    assert len(list((tmp_path / "out/models").glob("own-*/best"))) == 2, "the earlier run is kept"


def test_nothing_is_tested_on_what_it_learned_from(write, tmp_path):
    write(LEARN.replace("[phantom:0, phantom:1]", "[phantom:0, phantom:101]"), "tiny.yaml")
    path = write(SMALL + "  own: {train: tiny.yaml}\n")
    with pytest.raises(UsageError, match="be trained on test data") as raised:
        load_study(path)
    assert raised.value.why == "phantom:101"
    with pytest.raises(UsageError, match="be trained on test data"):
        load_study(path, ["methods.own.overrides=['data.train=[phantom:0]', 'data.val=[phantom:100]']"])
    np.savez(tmp_path / "phantom-101.npz", head=phantom((64, 64), 3, 5))
    write(LEARN.replace("[phantom:0, phantom:1]", "[phantom:0, phantom-101.npz]"), "tiny.yaml")
    assert [n for n in load_study(path).notes if "subjects with the same names: phantom-101" in n]


def test_what_was_noticed_and_what_is_left_over_is_told(write, tmp_path):
    """Check the note of a shipped model on two coils: it was trained with four or more."""
    text = SMALL.replace("  cs: {method: cs, options: {iterations: 5}}", "  unet: {method: unet}")
    path = write(text)
    one = ["data.phantoms.volumes=phantom:100", "data.phantoms.coils=2", "pictures=false"]
    run_study(load_study(path, one), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "unet (2 of 2): outside the training range of the model" in report
    lines = []
    fewer = [*one, "masks={lines: {family: random, acceleration: 3, calibration: 16}}"]
    run_study(load_study(path, fewer), tmp_path / "out", on_message=lines.append)
    assert [t for t in lines if "2 images belong to an earlier configuration" in t and "plane-4x/unet/phantom-100" in t]
    assert "plane-4x" not in (tmp_path / "out/table.md").read_text()


def test_minutes_become_steps_that_a_resumed_study_keeps(write, tmp_path):
    write(LEARN, "tiny.yaml")
    text = SMALL + "  own: {train: tiny.yaml, minutes: 0.02}\n"
    short = ["masks={lines: {family: random, acceleration: 3, calibration: 16}}", "pictures=false"]
    plan = load_study(write(text), [*short, "data.phantoms.volumes=phantom:100"])
    done = run_study(plan, tmp_path / "out", on_message=lambda text: None)
    (folder,) = (tmp_path / "out/models").iterdir()
    budget = json.loads((folder / "budget.json").read_text())
    assert budget["steps"] == max(1, int(0.02 * 60 * 0.75 / budget["seconds a step"]))
    assert next(m for m in done["methods"] if m["name"] == "own")["steps"] == budget["steps"]


def test_shipped_models_and_folders_of_models(write, tmp_path):
    text = SMALL.replace("cs: {method: cs, options: {iterations: 5}}", "unet: {method: unet}")
    one = "data.phantoms.volumes=phantom:100"
    plan = load_study(write(text), [one])
    assert plan.methods[1].description == "unet, shipped weights"
    done = run_study(plan, tmp_path / "out")
    assert not done["failed"]
    from mrirecon.models.checkpoints import shipped_models

    same = load_study(tmp_path / "study.yaml", [one, f"methods.unet={{model: {shipped_models()['unet']}}}"])
    before = times(tmp_path / "out")
    run_study(same, tmp_path / "out")
    assert times(tmp_path / "out") == before, "the same weights are the same method"


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("title: Tiny", "titel: Tiny", 2, "did you mean 'title'"),
        ("coils: 3", "coil: 3", 4, "did you mean 'coils'"),
        ("  zero:", "  cs: {method: sense}\n  zero:", 11, "twice"),
        ("acceleration: 3", "acceleration: 0.5", 6, "greater than or equal to 1"),
        ("family: random", "family: randon", 6, "random"),
        ("calibration: 16", "compat: mridc", 6, "no masks of the family random"),
        ("method: cs,", "method: ccs,", 10, "did you mean 'cs'"),
        ("iterations: 5", "iteration: 5", 10, "did you mean 'iterations'"),
        ("iterations: 5", "iterations: many", 10, "iterations"),
        ("{method: zero-filled}", "{method: lpdnet}", 9, "no shipped weights"),
        ("{method: zero-filled}", "{method: zero-filled, lam: 0.1}", 9, "no regularization weight"),
        ("{method: zero-filled}", "{method: zero-filled, steps: 3}", 9, "belong to train"),
        ("{method: zero-filled}", "{method: zero-filled, model: x}", 9, "one of method, model and train"),
        ("{method: zero-filled}", "{train: nothing.yaml}", 9, "nothing.yaml"),
        ("{method: zero-filled}", "{model: nothing}", 9, "not a model"),
        ("  zero:", "  a/b:", 9, "match"),
        ('["phantom:100", "phantom:101"]', "nothing*.nii", 4, "no file matches"),
        ('["phantom:100", "phantom:101"]', '["phantom:100", "phantom:100#x"]', 4, "two scans"),
        ("title: Tiny", "metrics: [ssim, vif]", 2, "vif"),
        ("title: Tiny", 'subject: "phantom-[0-9]+"', 2, "no group"),
        ("title: Tiny", "compare: [[zero, tv]]", 2, "tv"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(write, old, new, line, word):
    path = write(SMALL.replace(old, new, 1))
    with pytest.raises((UsageError, InputError)) as raised:
        load_study(path)
    assert f"study.yaml:{line}" in str(raised.value.where)
    assert word in str(raised.value)


def test_overrides_are_checked_as_well(write):
    path = write(SMALL)
    assert load_study(path, ["methods.cs.options.iterations=7"]).methods[1].description == "cs (iterations=7)"
    for wrong, word in (("method.cs=1", "did you mean 'methods'"), ("methods.cs.foo=1", "unknown key 'foo'")):
        with pytest.raises(UsageError) as raised:
            load_study(path, [wrong])
        assert word in str(raised.value)
        assert f"--set {wrong}" in str(raised.value.where)


def test_data_may_be_optional(write):
    text = SMALL.replace("masks:", '  more: {files: "$NOT_THERE/*.h5", optional: true}\nmasks:', 1)
    plan = load_study(write(text))
    assert len(plan.scans) == 2
    assert "part of more is omitted" in plan.notes[0]
    with pytest.raises(UsageError, match="no file matches"):
        load_study(write(text.replace(", optional: true", "")))


def test_the_verb_lists_what_it_would_do(write, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(LEARN, "tiny.yaml")
    path = write(SMALL + "  own: {train: tiny.yaml, steps: 2}\n")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["study", str(path), *arguments])
        return ended.value.code, *capfd.readouterr()

    code, out, _ = run("--dry-run")
    assert code == 0
    assert "own: cirim, to be trained for 2 steps" in out
    assert "12 of 12 cells remain; to be trained: own\nstudies/study" in out
    code, out, _ = run("--dry-run", "--json", "--set", "methods.own.steps=3")
    assert [c["done"] for c in json.loads(out)["cells"]] == [False] * 12
    assert not (tmp_path / "studies").exists()
    assert run("--set", "budgets.steps=3")[0] == 2


def test_two_processes_do_not_work_on_one_study(write, tmp_path):
    (tmp_path / "out").mkdir()
    with output_lock(tmp_path / "out/study.yaml", wait=False), pytest.raises(BusyError, match="another process"):
        run_study(load_study(write(SMALL)), tmp_path / "out")


def test_names_do_not_become_markup(write, tmp_path):
    text = SMALL.replace("title: Tiny", 'title: "<script>alert(1)</script> | x"')
    run_study(
        load_study(write(text), ["data.phantoms.volumes=phantom:100", "methods={zero: {method: zero-filled}}"]),
        tmp_path / "o",
    )
    report = (tmp_path / "o/report.md").read_text()
    assert "<script" not in report
    assert "There are fewer than two methods" in report


@pytest.mark.parametrize("name", ["cirim", "rim-cells", "dc"])
def test_the_studies_that_come_along_are_in_order(name, monkeypatch):
    monkeypatch.delenv("MRIRECON_DATA", raising=False)
    plan = load_study(CONFIGS / f"{name}.yaml")
    assert len(plan.cells()) == len(plan.scans) * len(plan.masks) * len(plan.methods)
    subjects = {s.subject for s in plan.scans}
    pairs = plan.settings.compare
    # or no difference could be shown, however large
    assert len(pairs) * len(plan.masks) * 2.0 ** (1 - len(subjects)) < 0.05
    trained = [m for m in plan.methods if m.config is not None]
    assert not [n for n in plan.notes if "for different lengths" in n or "does not train all" in n], (
        "all methods are trained equally"
    )
    if name == "dc":
        plain = {m.name: m.config.plain() for m in trained}
        for a, b in pairs:
            one, two = plain[a], plain[b]
            assert one["model"] | {"dc": ""} == two["model"] | {"dc": ""}
            assert one["model"]["dc"] != two["model"]["dc"]
            assert {k: v for k, v in one.items() if k != "model"} == {k: v for k, v in two.items() if k != "model"}
