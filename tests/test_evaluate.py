"""Scores of files against files: the reference found, shapes checked, tables written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mrirecon.errors import InputError, UsageError
from mrirecon.evaluate import compare, evaluate, holds_images, reference_images
from mrirecon.inference import sense_reference
from mrirecon.io import read, write_image
from mrirecon.metrics import scores

SAMPLES = Path(__file__).parents[1] / "data_samples"
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
    found = evaluate(prediction, FULL)
    assert "SENSE" in found.kind
    again = evaluate(prediction, FULL)
    assert found.as_dict() == again.as_dict()
    assert len(found.slices) == 3
    assert 0.5 < found.mean.ssim < 1
    assert found.mean.psnr == pytest.approx(np.mean([s.psnr for s in found.slices]))
    assert found.slices[0].scale == pytest.approx(1 / 3, rel=0.05)


def test_images_serve_as_reference_and_a_perfect_prediction_is_perfect(truth, tmp_path):
    for name in ("a.h5", "a.npz", "a.cfl"):
        write_image(tmp_path / name, truth)
        assert holds_images(tmp_path / name)
        images, kind = reference_images(tmp_path / name)
        assert kind == "images"
        np.testing.assert_allclose(np.abs(images), truth, rtol=1e-6)
    found = evaluate(tmp_path / "a.h5", tmp_path / "a.npz")
    assert found.mean.ssim == pytest.approx(1)
    assert found.mean.nmse == pytest.approx(0, abs=1e-12)


def test_an_undersampled_scan_is_no_reference(prediction):
    with pytest.raises(InputError, match="undersampled"):
        evaluate(prediction, TWIN)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((2, 176, 144), "2 images"), ((3, 144, 176), "across"), ((3, 160, 144), "size"), ((3, 100, 100), "cropped")],
)
def test_images_that_do_not_fit(truth, shape, word):
    with pytest.raises(InputError, match=word):
        compare(np.ones(shape, np.float32), truth, prediction="p.h5", reference="r.h5", kind="images")


def test_an_empty_slice_is_told_and_left_out_of_the_mean(truth):
    dark = truth.copy()
    dark[1] = 0
    found = compare(truth, dark, prediction="p.h5", reference="r.h5", kind="images")
    assert found.slices[1].ssim is None
    assert found.undefined["ssim"] == 1
    assert found.mean.ssim == pytest.approx(1)
    assert found.rows()[1]["reason"]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["slices"][1]["ssim"] is None


def test_csv_holds_every_slice(prediction, tmp_path):
    found = evaluate(prediction, FULL)
    found.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr"]) for row in rows] == pytest.approx([s.psnr for s in found.slices])
    with pytest.raises(UsageError, match="input"):
        found.write_csv(prediction)


def test_it_is_the_one_score(prediction, truth):
    by_hand = scores(np.asarray(3 * truth), truth)
    assert by_hand[0].ssim == pytest.approx(1, abs=1e-6), "a factor does not count"
