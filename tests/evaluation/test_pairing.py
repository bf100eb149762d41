"""Test matching: images of `reconstruct` are matched with their scans and references."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.errors import InputError
from mrirecon.evaluation import compare_runs, evaluate_folders, read_scores
from mrirecon.evaluation.pairing import by_name, case_of, pair_up
from mrirecon.evaluation.report.gather import Sources, gather
from mrirecon.io import write_image, write_kspace

IMAGE = np.arange(12.0 * 14).reshape(1, 12, 14).astype(np.float32)


def image(path: Path, source: str | None = None, values: np.ndarray = IMAGE) -> Path:
    write_image(path, values, sidecar=None if source is None else {"input": {"file": source}, "method": "cs"})
    return path


def names(predictions: Path, references: Path) -> dict[str, str]:
    pairs, _, _ = pair_up(predictions, references)
    return {pair.prediction.name: pair.reference.name for pair in pairs}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Write full and undersampled scans, and their images by two methods."""
    folder = tmp_path_factory.mktemp("bat")
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    coils = np.exp(-((x - np.array([-1, 1])[:, None, None]) ** 2) / 2)
    mask = np.zeros(32)
    mask[::2] = mask[10:22] = 1
    for number, name in enumerate(("sub-1", "sub-2", "sub-3")):
        object_ = ((x / 0.7) ** 2 + (y / (0.5 + 0.1 * number)) ** 2 < 1) * (1 + 0.3 * np.cos(6 * x))
        full = np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(object_ * coils, axes=(-2, -1)), norm="ortho"), axes=(-2, -1)
        )
        write_kspace(folder / "full" / f"{name}.h5", full[None].astype(np.complex64))
        write_kspace(folder / "scans" / f"{name}.h5", (full * mask)[None].astype(np.complex64), mask=mask)
    for method, more in (("zero-filled", []), ("cs", ["--set", "iterations=3", "--save-iterates"])):
        with pytest.raises(SystemExit) as ended:
            main(["reconstruct", str(folder / "scans"), "-m", method, "-o", str(folder / method), "-q", *more])
        assert ended.value.code == 0
    return folder


@pytest.fixture
def call(capfd):
    """Run the command line; return exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return ended.value.code, *capfd.readouterr()

    return call


def test_what_reconstruct_leaves_is_scored_and_compared(batch, call, tmp_path):
    code, out, err = call("evaluate", batch / "cs", batch / "full", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert [one["case"] for one in printed["files"]] == ["sub-1", "sub-2", "sub-3"]
    assert [Path(one["prediction"]).name for one in printed["files"]] == [f"sub-{n}_cs.h5" for n in (1, 2, 3)]
    code, out, err = call("compare", batch / "cs", batch / "zero-filled", "-r", batch / "full", "--json")
    assert code == 0, err
    ssim = json.loads(out)[0]
    assert (ssim["subjects"], ssim["left_out"]) == (3, 0)
    assert ssim["mean"] > 0, "cs is better than zero filling"
    (tmp_path / "cs.json").write_text(call("evaluate", batch / "cs", batch / "full", "--json")[1])
    code, out, _ = call("compare", tmp_path / "cs.json", batch / "zero-filled", "-r", batch / "full", "--json")
    assert (code, json.loads(out)[0]["mean"]) == (0, pytest.approx(ssim["mean"]))


def test_one_table_does_not_replace_the_other(batch, call, tmp_path):
    both = ["--csv", tmp_path / "t.csv", "--volumes", batch / ".." / tmp_path / "t.csv"]
    code, _, err = call("evaluate", batch / "cs", batch / "full", *both)
    assert (code, "the same file" in err) == (2, True)
    assert not (tmp_path / "t.csv").exists()


def test_images_of_a_bids_dataset_are_scored_and_reported(batch, call, tmp_path):
    arguments = ["reconstruct", batch / "scans", "-m", "zero-filled", "--bids", tmp_path / "bids", "--contrast", "T1w"]
    assert call(*arguments)[0] == 0
    code, out, err = call("evaluate", tmp_path / "bids", batch / "full", "--json")
    assert code == 0, err
    assert [one["case"] for one in json.loads(out)["files"]] == ["sub-1", "sub-2", "sub-3"]
    cases = list(gather(Sources([tmp_path / "bids"], batch / "full")).cases)
    assert [case.name for case in cases] == ["sub-1", "sub-2", "sub-3"]
    assert all(result.evaluation is not None for case in cases for result in case.results)


def test_references_that_are_images_of_reconstruct(batch, call, tmp_path):
    """Check references that are images of the full scans with names that end with the method."""
    assert call("reconstruct", batch / "full", "-m", "rss", "-o", tmp_path / "ref")[0] == 0
    assert (tmp_path / "ref" / "sub-1_rss.h5").exists()
    code, out, err = call("evaluate", batch / "cs", tmp_path / "ref", "--json")
    assert code == 0, err
    assert [one["case"] for one in json.loads(out)["files"]] == [f"sub-{n}_rss" for n in (1, 2, 3)]
    cases = list(gather(Sources([batch / "cs"], tmp_path / "ref")).cases)
    assert all(r.evaluation is not None for case in cases for r in case.results)


def test_a_mask_and_lesions_by_the_name_of_the_scan(batch, call, tmp_path):
    for number in (1, 2, 3):
        write_image(tmp_path / "masks" / f"sub-{number}.npz", np.ones((1, 32, 32), np.float32))
    assert call("evaluate", batch / "cs", batch / "full", "--mask", tmp_path / "masks")[0] == 0


def test_the_scan_that_the_sidecar_names_comes_before_the_name(tmp_path):
    image(tmp_path / "p" / "first.h5", "/there/b.h5")
    image(tmp_path / "p" / "a.h5", "C:\\there\\a.2.h5")
    image(tmp_path / "p" / "c_cs.h5")
    image(tmp_path / "p" / "d_cs_iterates.h5")
    for name in ("a", "b", "c", "first"):
        image(tmp_path / "r" / f"{name}.npz")
    assert names(tmp_path / "p", tmp_path / "r") == {"first.h5": "b.npz", "a.h5": "a.npz", "c_cs.h5": "c.npz"}
    _, alone, unused = pair_up(tmp_path / "p", tmp_path / "r")
    assert (alone, [p.name for p in unused]) == ([], ["first.npz"])


def test_a_name_is_enough_where_a_sidecar_tells_of_no_reference(tmp_path):
    """Check references of simulated scans, whose sidecars name the source volume."""
    for name in ("a", "b"):
        image(tmp_path / "p" / f"{name}.h5", "brain.nii.gz")
        image(tmp_path / "r" / f"{name}.h5", "brain.nii.gz")
    assert names(tmp_path / "p", tmp_path / "r") == {"a.h5": "a.h5", "b.h5": "b.h5"}


def test_two_images_of_one_scan_are_not_guessed_between(tmp_path):
    image(tmp_path / "p" / "a_cs.h5", "a.h5")
    image(tmp_path / "p" / "a_sense.h5", "a.h5")
    image(tmp_path / "r" / "a.h5")
    with pytest.raises(InputError, match="two images belong to a") as error:
        evaluate_folders(tmp_path / "p", tmp_path / "r")
    assert "a_cs.h5, a_sense.h5" in str(error.value.why)
    image(tmp_path / "r" / "a_sense.h5")
    with pytest.raises(InputError, match="two images"):
        pair_up(tmp_path / "p", tmp_path / "r")
    shutil.rmtree(tmp_path / "r")
    image(tmp_path / "r" / "z.h5")
    with pytest.raises(InputError, match="matches a file"):
        pair_up(tmp_path / "p", tmp_path / "r")


def test_an_image_beside_its_scan_is_the_one_that_is_scored(tmp_path):
    image(tmp_path / "p" / "a_cs.h5", "a.h5")
    image(tmp_path / "p" / "a.h5")
    image(tmp_path / "r" / "a.h5")
    pairs, alone, _ = pair_up(tmp_path / "p", tmp_path / "r")
    assert [p.prediction.name for p in pairs] == ["a_cs.h5"]
    assert [p.name for p in alone] == ["a.h5"]
    assert case_of(tmp_path / "p" / "a_cs.h5") == "a"
    assert list(by_name(tmp_path / "p")) == ["a", "a_cs"]


def test_compare_says_what_has_no_reference(batch, call, tmp_path):
    for run in ("cs", "zero-filled"):
        shutil.copytree(batch / run, tmp_path / run)
        image(tmp_path / run / "stranger.h5")
    code, _, err = call("compare", tmp_path / "cs", tmp_path / "zero-filled", "-r", batch / "full")
    assert code == 4
    assert err.count("stranger.h5: no reference found") == 2


def test_what_earlier_versions_printed_is_read(tmp_path):
    for name in ("a", "b"):
        content = {"files": [{"prediction": f"{name}/sub-1.h5", "mean": {"ssim": 0.5}}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    runs = {name: read_scores(tmp_path / f"{name}.json")[0] for name in ("a", "b")}
    assert compare_runs(runs, ["ssim"])[0].subjects == 1
