"""Test reports of folders: matching, missing files, and private data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation import Options
from mrirecon.evaluation.report.gather import Sources, find_images, gather
from mrirecon.evaluation.report.sidecars import command_line, is_image, read_sidecar
from mrirecon.io import read_image, write_image, write_kspace

SAMPLES = Path(__file__).parents[2] / "data_samples"
SECRET = "Erika Mustermann"


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Run the command line in a separate folder; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mrirecon", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Write two small scans, full and undersampled, and reconstruct them with three methods by the command line."""
    folder = tmp_path_factory.mktemp("study")
    with h5py.File(SAMPLES / "brain_full.h5") as file:
        kspace = file["kspace"][:2, :4, 56:120, 40:104]
    mask = np.zeros(64)
    mask[::3] = mask[26:38] = 1
    for name, data in (("anna", kspace), ("bert", kspace[:, :, ::-1].copy())):
        attributes = {"patient_id": SECRET, "acquisition": "AXT1"}
        write_kspace(folder / "full" / f"{name}.h5", data, attributes=attributes)
        write_kspace(folder / "scans" / f"{name}.h5", data * mask, mask=mask, attributes=attributes)
    for method, more in (("cs", ["--save-iterates"]), ("sense", [])):
        with pytest.raises(SystemExit) as ended:
            main(["reconstruct", str(folder / "scans"), "-m", method, "-o", str(folder / "runs" / method), "-q", *more])
        assert ended.value.code == 0
    return folder


def sources(scans, **more):
    return Sources([scans / "runs" / "cs", scans / "runs" / "sense"], scans / "full", **more)


def test_cases_hold_what_belongs_together(scans):
    gathered = gather(sources(scans))
    cases = list(gathered.cases)
    assert [c.name for c in cases] == ["anna", "bert"]
    assert gathered.count == 2
    for case in cases:
        assert [r.method for r in case.results] == ["zero-filled", "cs", "sense"], "zero filling of the scan"
        assert all(r.failure is None for r in case.results)
        assert case.masks.shape == (1, 64, 64)
        assert case.masks[0].mean() == pytest.approx(np.mean([i % 3 == 0 or 26 <= i < 38 for i in range(64)]))
        scores = {r.method: r.evaluation.mean["ssim"] for r in case.results}
        assert scores["zero-filled"] < scores["sense"]
        cs = case.results[1]
        assert len(cs.stopped) == len(cs.seconds) == 2
        assert cs.settings["maps"].startswith("ESPIRiT")
        assert "mrirecon" in cs.settings["versions"]
        error = float(np.sqrt(cs.evaluation.mean["nmse"]))
        assert cs.steps[-1] == pytest.approx(error, rel=0.05), "the last iterate is the image"
        assert cs.steps[0] > cs.steps[-1]


def test_a_folder_of_folders_is_all_of_them(scans, tmp_path):
    assert find_images([scans / "runs"]).keys() == {"anna", "bert"}
    assert set(find_images([scans / "runs"])["anna"]) == {"cs", "sense"}
    assert set(find_images([scans / "runs" / "cs" / "anna_cs.h5"])["anna"]) == {"cs"}
    with pytest.raises(UsageError, match="no images"):
        find_images([tmp_path])
    with pytest.raises(UsageError, match="no such file or folder"):
        find_images([scans / "nowhere"])


def test_one_method_twice_is_told_apart_by_its_run(scans, tmp_path):
    for run, factor in (("weak", 1.0), ("strong", 2.0)):
        sidecar = json.loads((scans / "runs" / "cs" / "anna_cs.h5.json").read_text())
        write_image(tmp_path / run / "anna.h5", factor * np.ones((1, 8, 8)), sidecar=sidecar)
    assert set(find_images([tmp_path / "weak", tmp_path / "strong"])["anna"]) == {"weak: cs", "strong: cs"}
    write_image(tmp_path / "weak" / "anna2.h5", np.ones((1, 8, 8)), sidecar=sidecar)
    with pytest.raises(UsageError, match="two images of anna have the label weak: cs"):
        find_images([tmp_path / "weak", tmp_path / "strong"])


def test_images_without_sidecar_are_named_by_their_folder(tmp_path):
    write_image(tmp_path / "theirs" / "anna_theirs.h5", np.ones((1, 8, 8)))
    image = find_images([tmp_path / "theirs"])["anna"]["theirs"]
    assert "no sidecar" in image.notes[0]
    (tmp_path / "theirs" / "anna_theirs.h5.json").write_text("{not json")
    assert "cannot be read" in read_sidecar(image.path, "theirs").notes[0]
    (tmp_path / "theirs" / "anna_theirs.h5.json").write_text("[" * 100_000)
    assert "cannot be read" in read_sidecar(image.path, "theirs").notes[0]
    deep = (
        '{"options":'
        + '{"a":' * 30
        + "1"
        + "}" * 30
        + ', "seconds": [1, 1e999, -3, "x", 1'
        + "0" * 400
        + '], "method": ["x"]}'
    )
    (tmp_path / "theirs" / "anna_theirs.h5.json").write_text(deep)
    image = read_sidecar(image.path, "theirs")
    assert image.seconds == (1.0,)
    assert len(str(image.settings["options"])) < 100
    assert not is_image(Path("anna_cs_iterates.h5"))
    assert not is_image(Path("anna_cs.h5.json"))
    assert not is_image(Path(".mrirecon-1.h5"))


def test_what_fails_is_in_its_place_with_the_reason(scans, tmp_path):
    write_image(tmp_path / "bad" / "anna.h5", np.ones((1, 60, 64)))
    (tmp_path / "bad" / "bert.h5").write_bytes(b"no image at all")
    anna, bert = gather(Sources([scans / "runs" / "cs", tmp_path / "bad"], scans / "full")).cases
    assert "cannot be compared" in next(r for r in anna.results if r.method == "bad").failure
    broken = next(r for r in bert.results if r.method == "bad")
    assert broken.images is None
    assert "is not one of" in broken.failure
    lonely = gather(Sources([scans / "runs" / "cs", scans / "runs" / "sense" / "bert_sense.h5"])).cases
    missing = next(r for r in next(lonely).results if r.method == "sense")
    assert missing.failure == "no image of this case"


def test_a_scan_that_changed_is_not_believed(scans, tmp_path):
    path = scans / "runs" / "cs" / "anna_cs.h5"
    image = read_sidecar(path, "cs")
    other = Sources([path], scans / "full" / "anna.h5", scans / "scans" / "bert.h5")
    (case,) = gather(other).cases
    assert case.masks is None
    assert any("has changed since the images were reconstructed" in n for n in case.notes)
    assert image.scan_hash
    assert [r.method for r in case.results] == ["cs"]


def test_different_data_are_told(scans, tmp_path):
    sidecar = json.loads((scans / "runs" / "sense" / "anna_sense.h5.json").read_text())
    sidecar["input"]["sha256"] = "0" * 64
    image = read_image(scans / "runs" / "sense" / "anna_sense.h5")
    write_image(tmp_path / "sense" / "anna_sense.h5", image, sidecar=sidecar)
    (case,) = gather(Sources([scans / "runs" / "cs" / "anna_cs.h5", tmp_path / "sense"])).cases
    assert any("2 different scans" in n and "the one of cs" in n for n in case.notes)


def test_references_must_fit(scans, tmp_path):
    with pytest.raises(UsageError, match="a single file for 2 cases"):
        gather(sources(scans).__class__([scans / "runs"], scans / "full" / "anna.h5"))
    write_image(tmp_path / "others" / "carla.h5", np.ones((1, 8, 8)))
    with pytest.raises(InputError, match="no reference has the name"):
        gather(Sources([scans / "runs"], tmp_path / "others"))
    write_image(tmp_path / "others" / "anna.h5", np.ones((1, 8, 8)))
    gathered = gather(Sources([scans / "runs"], tmp_path / "others"))
    assert "1 of 2 references have no image" in gathered.notes[0]
    anna, bert = gathered.cases
    assert all(r.failure for r in anna.results)
    assert "no reference with its name" in bert.notes[0]
    assert all(r.failure is None and r.evaluation is None for r in bert.results)


def test_lesions_are_measured_and_drawn(scans, tmp_path):
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0, 30:34, 20:24] = labels[1, 40:44, 30:36] = 1
    for name in ("anna", "bert"):
        (tmp_path / "lesions").mkdir(exist_ok=True)
        np.savez(tmp_path / "lesions" / f"{name}.npz", labels=labels)
    case = next(gather(sources(scans, options=Options(region=tmp_path / "lesions"))).cases)
    assert (case.region == labels).all()
    assert [len(group) for group in case.results[1].evaluation.lesions] == [1, 1]


def test_a_study_has_a_group_for_each_mask_and_says_what_failed(scans, tmp_path):
    rows = ["mask,method,scan,reason"]
    for mask in ("random-4x", "random-10x"):
        for method, source in (("mine", "cs"), ("plain", "sense")):
            for scan in ("anna", "bert"):
                failed = (mask, method, scan) == ("random-4x", "plain", "bert")
                rows.append(f"{mask},{method},{scan},{'memory ran out; it is small' if failed else ''}")
                folder = tmp_path / "study" / "images" / mask / method
                folder.mkdir(parents=True, exist_ok=True)
                for end in ("", ".json"):
                    content = (scans / "runs" / source / f"{scan}_{source}.h5{end}").read_bytes()
                    (folder / f"{scan}.h5{end}").write_bytes(content)
    rows += [f"bare-3x,mine,{scan},no calibration region" for scan in ("anna", "bert")]
    shutil.copytree(tmp_path / "study/images/random-4x/mine", tmp_path / "study/images/random-4x/former")
    shutil.copytree(scans / "full", tmp_path / "study" / "references")
    (tmp_path / "study" / "study.yaml").write_text("title: x")
    (tmp_path / "study" / "cells.csv").write_text("\n".join(rows))
    gathered = gather(Sources([tmp_path / "study"]))
    cases = list(gathered.cases)
    assert gathered.count == 6
    assert [(c.group, c.name) for c in cases] == [
        ("random-4x", "anna"), ("random-4x", "bert"), ("random-10x", "anna"), ("random-10x", "bert"),
        ("bare-3x", "anna"), ("bare-3x", "bert"),
    ]  # fmt: skip
    assert [r.method for r in cases[0].results] == ["zero-filled", "mine", "plain"], "the earlier method is in no table"
    assert cases[1].results[2].failure == "memory ran out; it is small", "its image belongs to an earlier configuration"
    assert all(r.evaluation is not None for r in cases[2].results)
    assert [r.failure for r in cases[4].results] == ["no calibration region"]


# ---- the command


def test_report_writes_one_page(run, scans, tmp_path):
    code, out, err = run("report", scans / "runs", "-r", scans / "full", "-o", "page.html")
    assert (code, out) == (0, "page.html\n")
    assert "2 cases, 4 of 4 slices" in err
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert f"mrirecon report {scans}" in page, "the command is shown literally"
    assert page.count('class="viewer"') == 2
    assert "relative error inside the object, by step" in page
    assert SECRET not in page
    code, out, _ = run("report", scans / "runs", "-o", "again.html", "--json", "--limit", "1")
    printed = json.loads(out)
    assert (code, printed["cases"], printed["path"]) == (0, 2, "again.html")
    assert run("report", scans / "runs", "-o", "page.h5")[0] == 2, "an existing image must not be overwritten"
    before = Path("page.html").read_bytes()
    assert run("report", scans / "runs", "-o", "page.html")[0] == 2
    assert Path("page.html").read_bytes() == before


def test_report_tells_failures_and_leaves_nobody_named(run, scans, tmp_path):
    folder = tmp_path / SECRET / "bad"
    where = f"/home/{SECRET}/{SECRET}.h5"
    sidecar = {
        "method": "bad",
        "input": where,
        "patient": SECRET,
        "notes": [f"see {where}:kspace, slice 3"],
        "why": where,
    }
    write_image(folder / "anna.h5", np.ones((1, 60, 64)), sidecar=sidecar)
    (folder / "bert.h5").write_bytes(b"no image")
    code, out, err = run("report", scans / "runs", folder, "-r", scans / "full", "-o", "p.html", "--anonymous")
    assert code == 4
    assert out == "p.html\n"
    assert "results failed" in err
    page = Path("p.html").read_text(encoding="utf-8")
    assert SECRET not in page
    assert "anna" not in page
    assert str(scans) not in page
    assert "case 1" in page
    assert "bad failed:" in page
    assert "a file is not" in page


def test_commands_lose_their_folders():
    words = ["/home/erika/.venv/bin/mrirecon", "reconstruct", "C:\\scans\\x.h5", "-o", "out/erika/", "--lambda", "0.1"]
    assert command_line(words) == "mrirecon reconstruct x.h5 -o erika --lambda 0.1"


def test_images_beside_a_reference_that_is_cut(scans, tmp_path):
    """Check the target in fastMRI files: the preset uses it as the reference, and images are cropped to it."""
    target = read_image(scans / "runs" / "sense" / "anna_sense.h5")[:, 8:56, 8:56]
    with h5py.File(scans / "full" / "anna.h5") as file:
        kspace = file["kspace"][:]
    write_kspace(tmp_path / "anna.h5", kspace, reference=target)
    options = Options("fastmri")
    case = next(gather(Sources([scans / "runs" / "sense"], tmp_path, options=options)).cases)
    (sense,) = (r for r in case.results if r.method == "sense")
    assert case.reference.shape == sense.images.shape == (2, 48, 48)
    assert sense.images == pytest.approx(target)
    assert sense.evaluation.mean["ssim"] == pytest.approx(1)
