"""Test scores of files against files: choice of the reference, checks of shapes, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mrirecon.cli import main
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation import (
    Evaluations,
    Options,
    compare,
    evaluate,
    evaluate_folders,
    holds_images,
    reference_images,
    summarize,
    write_csv,
)
from mrirecon.io import read, read_image, write_image
from mrirecon.metrics import magnitude, scores
from mrirecon.metrics.misalignment import misalignments
from mrirecon.metrics.presets import PRESETS, score_volume
from mrirecon.metrics.sharpness import gmsd, hfen
from mrirecon.reconstruction.reference import sense_reference

SAMPLES = Path(__file__).parents[2] / "data_samples"
FULL, TWIN = SAMPLES / "brain_full.h5", SAMPLES / "brain_4x.h5"


@pytest.fixture(scope="module")
def truth():
    return sense_reference(read(FULL))


@pytest.fixture
def prediction(truth, tmp_path):
    noise = np.random.default_rng(0).normal(size=truth.shape) * 0.02 * truth.max()
    path = tmp_path / "prediction.h5"
    write_image(path, (3 * (truth + noise)).astype(np.float32))
    return path


def test_k_space_is_combined_into_the_reference(prediction, truth):
    evaluation = evaluate(prediction, FULL)
    assert "SENSE" in evaluation.kind
    again = evaluate(prediction, FULL)
    assert evaluation.as_dict() == again.as_dict()
    assert len(evaluation.slices) == 3
    assert 0.5 < evaluation.mean["ssim"] < 1
    assert evaluation.mean["psnr"] == pytest.approx(np.mean([s["psnr"] for s in evaluation.slices]))
    assert evaluation.slices[0]["scale"] == pytest.approx(1 / 3, rel=0.05)


def test_images_serve_as_reference_and_a_perfect_prediction_is_perfect(truth, tmp_path):
    for name in ("a.h5", "a.npz", "a.cfl"):
        write_image(tmp_path / name, truth)
        assert holds_images(tmp_path / name)
        images, kind = reference_images(tmp_path / name)
        assert kind == "images"
        np.testing.assert_allclose(np.abs(images), truth, rtol=1e-6)
    evaluation = evaluate(tmp_path / "a.h5", tmp_path / "a.npz")
    assert evaluation.mean["ssim"] == pytest.approx(1)
    assert evaluation.mean["nmse"] == pytest.approx(0, abs=1e-12)


def test_an_undersampled_scan_is_no_reference(prediction):
    with pytest.raises(InputError, match="undersampled"):
        evaluate(prediction, TWIN)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((2, 176, 144), "2 images"), ((3, 144, 176), "transposed"), ((3, 160, 144), "size"), ((3, 100, 100), "size")],
)
def test_images_that_do_not_fit(truth, shape, word):
    with pytest.raises(InputError, match=word):
        compare(np.ones(shape, np.float32), truth, prediction="p.h5", reference="r.h5", kind="images")


def test_an_empty_slice_is_told_and_left_out_of_the_mean(truth):
    dark = truth.copy()
    dark[1] = 0
    evaluation = compare(truth, dark, prediction="p.h5", reference="r.h5", kind="images")
    assert evaluation.slices[1]["ssim"] is None
    assert evaluation.undefined["ssim"] == 1
    assert evaluation.mean["ssim"] == pytest.approx(1)
    assert evaluation.rows()[1]["reason"]
    assert json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))["slices"][1]["ssim"] is None


def test_csv_holds_every_slice(prediction, tmp_path):
    evaluation = evaluate(prediction, FULL)
    tables = Evaluations([evaluation], [], [], [], Options())
    tables.write_slices(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr"]) for row in rows] == pytest.approx([s["psnr"] for s in evaluation.slices])
    assert rows[0]["file"] == "prediction.h5"
    with pytest.raises(UsageError, match="input"):
        tables.write_slices(prediction)


def test_it_is_the_one_score(prediction, truth):
    by_hand = scores(np.asarray(3 * truth), truth)
    assert by_hand[0].ssim == pytest.approx(1, abs=1e-6), "the score does not depend on a factor"


# other definitions, other pixels


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "mrirecon"])
def test_a_preset_takes_a_file_for_a_volume(prediction, truth, preset):
    options = Options(preset, ("ssim", "psnr", "nmse", "mse"))
    evaluation = evaluate(prediction, FULL, options=options)
    expected = score_volume(3 * truth, truth, preset)
    assert evaluation.items == [evaluation.mean]
    against = reference_images(FULL, dataset="reconstruction_rss")[0] if preset == "fastmri" else truth
    assert evaluation.mean["nmse"] == pytest.approx(score_volume(read_back(prediction), against, preset).volume["nmse"])
    assert set(expected.volume) == set(evaluation.mean)
    assert len(evaluation.rows()) == 3
    json.dumps(evaluation.as_dict(), allow_nan=False)


def test_the_preset_atommic_warns_of_small_values(truth):
    about = {"prediction": "x.h5", "reference": "r.h5", "kind": "images", "options": Options("atommic")}
    flat = np.full_like(truth, truth.mean())
    peak = truth.max()
    small, large = (
        compare(1e-3 * flat / peak, 1e-3 * truth / peak, **about),
        compare(flat / peak, truth / peak, **about),
    )
    assert small.mean["ssim"] > 0.99 > 0.5 > large.mean["ssim"], "the warning is needed"
    assert [note for note in small.notes if "near 1 for any image" in note]
    assert not [note for note in large.notes if "near 1 for any image" in note]


def read_back(path):
    return reference_images(path, dataset="reconstruction")[0]


def test_edges_are_measured_after_the_one_scale(prediction, truth):
    evaluation = evaluate(prediction, FULL, options=Options(metrics=("hfen", "gmsd")))
    scale = scores(read_back(prediction), truth)[1].scale
    assert evaluation.slices[1]["hfen"] == pytest.approx(float(hfen(read_back(prediction)[1] * scale, truth[1])))
    assert evaluation.slices[1]["gmsd"] == pytest.approx(float(gmsd(read_back(prediction)[1] * scale, truth[1])))
    assert "ssim" not in evaluation.mean


def test_a_mask_says_which_pixels_count(prediction, truth, tmp_path):
    mask = np.zeros(truth.shape, bool)
    mask[:, 60:90, 50:90] = True
    np.save(tmp_path / "mask.npy", mask)
    evaluation = evaluate(prediction, FULL, options=Options(mask=tmp_path / "mask.npy"))
    assert evaluation.mean["psnr"] == pytest.approx(
        np.mean([s.psnr for s in scores(read_back(prediction), truth, region=mask)])
    )
    x, r = read_back(prediction)[0], truth[0] / truth[0].max()
    s = (x * r)[mask[0]].sum() / (x * x)[mask[0]].sum()
    by_hand = -10 * np.log10(((s * x - r)[mask[0]].astype(float) ** 2).mean())
    assert evaluation.slices[0]["psnr"] == pytest.approx(by_hand, rel=1e-5)
    np.save(tmp_path / "none.npy", np.zeros(truth.shape, bool))
    none = evaluate(prediction, FULL, options=Options(mask=tmp_path / "none.npy"))
    assert none.mean["ssim"] is None
    assert "zero" in none.rows()[0]["reason"]
    np.save(tmp_path / "wrong.npy", mask[:, 1:])
    with pytest.raises(InputError, match="does not match"):
        evaluate(prediction, FULL, options=Options(mask=tmp_path / "wrong.npy"))
    np.save(tmp_path / "half.npy", mask * 0.5)
    with pytest.raises(InputError, match="not integers"):
        evaluate(prediction, FULL, options=Options(mask=tmp_path / "half.npy"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": ("ssim", "vif")},
        {"metrics": ()},
        {"preset": "dicom"},
        {"spacing": (0.0, 1.0)},
        {"spacing": (1.0, float("nan"))},
        {"spacing": (float("inf"), 1.0)},
        {"metrics": ("mse",)},
        {"preset": "fastmri", "mask": SAMPLES},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        Options(**wrong)


# lesions of a region


def test_lesions_are_measured_where_the_region_says(truth, tmp_path):
    labels = np.zeros(truth.shape, np.uint8)
    y, x = np.mgrid[: truth.shape[1], : truth.shape[2]]
    labels[1][np.hypot(y - 80, x - 70) < 5] = 1
    labels[2][np.hypot(y - 90, x - 60) < 4] = 2
    flat = np.broadcast_to(np.hypot(y - 88, x - 72) < 60, truth.shape).astype(float)
    with_lesion, half = flat * (1 + 0.5 * (labels > 0)), flat * (1 + 0.25 * (labels > 0))
    for name, image in (("half.h5", half), ("full.h5", with_lesion)):
        write_image(tmp_path / name, image.astype(np.float32))
    np.savez(tmp_path / "lesions.npz", labels=labels)
    options = Options(region=tmp_path / "lesions.npz", spacing=(1.5, 1.5))
    evaluation = evaluate(tmp_path / "half.h5", tmp_path / "full.h5", options=options).as_dict()["lesions"]
    assert [(s["item"], s["label"]) for s in evaluation["each"]] == [(1, 1), (2, 2)]
    assert evaluation["each"][0]["diameter"] == pytest.approx(2 * np.sqrt((labels == 1).sum() / np.pi) * 1.5)
    for one in evaluation["each"]:
        assert one["contrast_reference"] == pytest.approx(0.5)
        assert one["contrast"] == pytest.approx(0.25)
    assert sum(row["lesions"] for row in evaluation["by_size"]) == 2


def test_a_region_is_resampled_by_its_coordinates(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.random((40, 48, 10)), (2, 2, 0)).astype(np.float32)
    here = np.diag([2.0, 2.0, 4.0, 1.0])
    here[:3, 3] = (-40, -50, 7)
    nibabel.save(nibabel.Nifti1Image(volume, here), tmp_path / "image.nii.gz")
    inside = np.zeros(volume.shape, bool)
    inside[10:18, 20:30, 4:7] = True
    # The same place on a finer grid that is mirrored along x and starts elsewhere.
    fine = np.diag([-1.0, 1.0, 2.0, 1.0])
    fine[:3, 3] = (60, -60, -5)
    grid = np.moveaxis(np.indices((120, 130, 40)), 0, -1)
    voxel = np.rint((grid @ fine[:3, :3].T + fine[:3, 3] - here[:3, 3]) / (2, 2, 4)).astype(int)
    within = ((voxel >= 0) & (voxel < volume.shape)).all(-1)
    labels = np.zeros(within.shape, np.uint8)
    labels[within] = inside[tuple(voxel[within].T)]
    nibabel.save(nibabel.Nifti1Image(labels, fine), tmp_path / "lesions.nii")
    straight = nibabel.Nifti1Image(inside.astype(np.uint8), here)
    nibabel.save(straight, tmp_path / "same.nii")
    at = [
        evaluate(tmp_path / "image.nii.gz", tmp_path / "image.nii.gz", options=Options(region=tmp_path / name))
        for name in ("same.nii", "lesions.nii")
    ]
    assert at[0].shape == (10, 48, 40)
    assert at[0].as_dict()["lesions"] == at[1].as_dict()["lesions"]
    assert sum(s.pixels for one in at[0].lesions for s in one) == inside.sum()
    diameters = {round(s.diameter, 3) for one in at[0].lesions for s in one}
    assert diameters == {round(2 * np.sqrt(80 * 4 / np.pi), 3)}, "in millimetres, with the spacing of the file"


# missing or misplaced files


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v[:, ::-1], "mirrored up-down"),
        (lambda v: v[:, :, ::-1], "mirrored left-right"),
        (lambda v: v[:, ::-1, ::-1], "mirrored up-down and mirrored left-right"),
        (lambda v: np.roll(v, (6, -12), (1, 2)), "by 6 pixels down and -12 across"),
        (lambda v: np.roll(v[:, ::-1], 20, 2), "mirrored up-down and shifted"),
        (lambda v: v * 4, "4 times"),
        (lambda v: v / 1e6, "1e-06 times"),
    ],
)
def test_images_that_lie_otherwise_are_named(truth, change, word):
    evaluation = compare(change(truth), truth, prediction="p", reference="r", kind="images")
    assert len(evaluation.notes) == 1
    assert word in evaluation.notes[0]
    assert "3 of 3 items" in evaluation.notes[0]


def test_a_shift_by_one_pixel_and_a_zoom_are_named(truth):
    ((note, reason),) = misalignments(np.roll(truth, 1, 1), truth, 1.0)
    assert note.endswith("shifted")
    assert "by 1 pixels down and 0 across" in reason
    larger = ndimage.affine_transform(truth[1], (1 / 1.2, 1 / 1.2), (88 - 88 / 1.2, 72 - 72 / 1.2), order=1)
    ((note, reason),) = misalignments(larger, truth[1], 1.0)
    assert note.endswith("zoomed")
    assert "by 1.2" in reason


def test_other_sizes_are_told_apart(truth):
    half = truth.reshape(3, 88, 2, 72, 2).mean((2, 4))
    for image, word in ((half, "resized"), (truth[:, 20:-20, 20:-20], "cropped")):
        with pytest.raises(InputError) as raised:
            compare(image, truth, prediction="p", reference="r", kind="images")
        assert f"seems to be {word}" in raised.value.fix


def test_a_scale_is_told_where_the_definition_does_not_undo_it(truth):
    options = Options("fastmri", ("psnr",))
    (note,) = compare(truth * 1.2, truth, prediction="p", reference="r", kind="images", options=options).notes
    assert "1.2 times" in note
    assert compare(truth * 1.2, truth, prediction="p", reference="r", kind="images").notes == []


def test_a_square_image_may_be_transposed_and_slices_reversed():
    rng = np.random.default_rng(0)
    square = ndimage.gaussian_filter(rng.random((64, 64)), 3)
    ((note, _),) = misalignments(square.T, square, 1.0)
    assert "transposed" in note
    volume = ndimage.gaussian_filter(rng.random((6, 64, 64)), (0, 3, 3))
    ((note, _),) = misalignments(volume[::-1], volume, 1.0)
    assert "reverse order" in note


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_a_bad_image_that_lies_right_is_not_slandered(truth, level):
    noise = level * truth.max() * np.random.default_rng(0).normal(size=truth.shape)
    blurred = ndimage.gaussian_filter(truth, (0, 3, 3))
    for bad in (np.abs(truth + noise), blurred, np.zeros_like(truth), np.ones_like(truth)):
        assert not [n for i in range(3) for n in misalignments(bad[i], truth[i], 1.0)]


# folders


@pytest.fixture
def folders(truth, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    for i in range(5):
        image = truth * (i + 1)
        write_image(tmp_path / f"theirs/case{i}.h5", image.astype(np.float32))
        noisy = image + (0.01 + 0.01 * i) * image.max() * rng.normal(size=image.shape)
        write_image(tmp_path / f"ours/case{i}.npz", np.abs(noisy).astype(np.float32))
    return tmp_path


def test_folders_are_matched_by_name_and_summed_over_volumes(folders):
    write_image(folders / "ours/only.h5", np.ones((1, 9, 9), np.float32))
    (folders / "theirs/case4.h5").unlink()
    evaluations = evaluate_folders(folders / "ours", folders / "theirs")
    assert [one.prediction.name for one in evaluations.done] == [f"case{i}.npz" for i in range(4)]
    assert [p.name for p in evaluations.without_reference] == ["case4.npz", "only.h5"]
    assert evaluations.without_prediction == []
    values = [one.mean["psnr"] for one in evaluations.done]
    summary = evaluations.summary()["psnr"]
    assert (summary.volumes, summary.undefined) == (4, 0)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.deviation == pytest.approx(np.std(values, ddof=1))
    assert min(values) < summary.low < summary.mean < summary.high < max(values)
    evaluations.write_volumes(folders / "volumes.csv")
    evaluations.write_slices(folders / "slices.csv")
    with (folders / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slices"] for row in rows] == ["3"] * 4
    with (folders / "slices.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    json.dumps(evaluations.as_dict(), allow_nan=False)


def test_one_bad_pair_does_not_stop_the_others(folders, truth):
    write_image(folders / "bad.h5", truth[:2].astype(np.float32))
    (folders / "bad.h5").replace(folders / "theirs/case2.h5")
    evaluations = evaluate_folders(folders / "ours", folders / "theirs")
    assert len(evaluations.done) == 4
    assert "3 images" in evaluations.failed[0].what
    assert evaluations.as_dict()["failed"][0]["file"]


def test_folders_with_nothing_in_common_are_refused(folders):
    (folders / "other").mkdir()
    with pytest.raises(InputError, match="no file in one folder"):
        evaluate_folders(folders / "ours", folders / "other")
    with pytest.raises(UsageError, match="folder"):
        evaluate_folders(folders / "ours", folders / "theirs/case0.h5")
    write_image(folders / "ours/case0.h5", np.ones((1, 9, 9), np.float32))
    with pytest.raises(InputError, match="two files"):
        evaluate_folders(folders / "ours", folders / "theirs")


def test_each_file_has_its_own_region(folders, truth):
    (folders / "regions").mkdir()
    for i in range(5):
        labels = np.zeros(truth.shape, np.uint8)
        labels[0, 60 + i : 70 + i, 60:70] = 1
        np.save(folders / f"regions/case{i}.npy", labels)
    evaluations = evaluate_folders(folders / "ours", folders / "theirs", options=Options(region=folders / "regions"))
    assert [len(one.lesions[0]) for one in evaluations.done] == [1] * 5
    (folders / "regions/case3.npy").unlink()
    again = evaluate_folders(folders / "ours", folders / "theirs", options=Options(region=folders / "regions"))
    assert len(again.done) == 4
    assert "no region for case3" in again.failed[0].what


def test_names_that_are_formulas_do_no_harm_in_a_table(folders):
    evil = "=HYPERLINK(1)"
    for name, suffix in (("ours", "npz"), ("theirs", "h5")):
        (folders / f"{name}/case0.{suffix}").rename(folders / f"{name}/{evil}.{suffix}")
    evaluations = evaluate_folders(folders / "ours", folders / "theirs")
    evaluations.write_volumes(folders / "volumes.csv")
    evaluations.write_slices(folders / "slices.csv")
    for table in ("volumes.csv", "slices.csv"):
        with (folders / table).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["file"] == f"'{evil}.npz"
    write_csv(folders / "t.csv", ("a", "b"), [{"a": "+1", "b": -1.5}, {"a": "@x", "b": None}])
    assert (folders / "t.csv").read_text().split() == ["a,b", "'+1,-1.5", "'@x,"]


def test_what_is_lacking_is_told_and_ends_with_4(folders, capfd):
    def run(*options):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(folders / "ours"), str(folders / "theirs"), *options])
        return ended.value.code, *capfd.readouterr()

    assert run()[0] == 0
    (folders / "theirs/case4.h5").unlink()
    write_image(folders / "ours/case1.h5", read_image(folders / "theirs/case1.h5"))
    (folders / "ours/case1.npz").unlink()
    code, out, err = run()
    assert code == 4
    assert "1 file has no reference" in err
    assert "psnr is undefined in 1 of 4 files" in err
    assert out.splitlines()[-2].split()[-2:] == ["3", "1"], "the mean is over three values, one is undefined"
    code, out, err = run("--json")
    assert code == 4
    assert len(json.loads(out)["without reference"]) == 1, "one document"
    assert "1 file has no reference" in err


def test_the_verb_tells_lesions_by_size(folders, truth, capfd):
    labels = np.zeros(truth.shape, np.uint8)
    labels[0, 60:70, 60:70] = 1
    np.save(folders / "region.npy", labels)
    with pytest.raises(SystemExit):
        main(["evaluate", str(folders / "ours"), str(folders / "theirs"), "--region", str(folders / "region.npy")])
    assert "8 and more        5" in capfd.readouterr().out


def test_float64_is_made_of_one_slice_at_a_time(monkeypatch):
    """Check that slices are converted one at a time: 200 slices in float64 took ten times the memory of the files."""
    volume = np.random.default_rng(0).random((20, 32, 32)).astype(np.float32)
    sizes = []

    def watched(values, **options):
        sizes.append(int(np.prod(values.shape)))
        return magnitude(values, **options)

    for module in ("presets", "scoring", "sharpness"):
        monkeypatch.setattr(f"mrirecon.metrics.{module}.magnitude", watched)
    for preset in PRESETS:
        options = Options(preset, ("ssim", "psnr", "nmse", "hfen", "gmsd"))
        compare(volume[None], volume[None] + 0.1, prediction="p", reference="r", kind="images", options=options)
    assert max(sizes) == 32 * 32


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Check that the 95 % interval contains the true mean in about 93 to 95 % of 400 studies of 30 volumes."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        result = summarize(list(rng.normal(3, 1, 30)))
        inside += result.low <= 3 <= result.high
    assert 0.90 <= inside / 400 <= 0.98


def test_few_volumes_have_no_interval_and_what_is_undefined_is_counted():
    two = summarize([1.0, None, 3.0])
    assert (two.mean, two.volumes, two.undefined, two.low, two.high) == (2.0, 2, 1, None, None)
    assert summarize([1.0]).deviation is None
    assert summarize([None, None]).mean is None
    assert summarize([1.0, 2.0, 4.0]) == summarize([1.0, 2.0, 4.0])


def test_names_in_tables_are_no_formulas(tmp_path):
    for folder in ("x", "r"):
        write_image(tmp_path / folder / "=cmd.h5", np.random.default_rng(0).random((1, 16, 16)))
    evaluate_folders(tmp_path / "x", tmp_path / "r").write_volumes(tmp_path / "volumes.csv")
    with (tmp_path / "volumes.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["'=cmd.h5"]
