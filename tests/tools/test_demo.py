from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrirecon.errors import InputError
from mrirecon.io import read, read_image
from mrirecon.tools.demo import FULL, METHODS, PICTURE, UNDERSAMPLED, demo

SAMPLES = Path(__file__).parents[2] / "data_samples"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new"
    calls = []
    rows = demo(out, SAMPLES, progress=lambda *call: calls.append(call))
    return out, rows, calls


def test_each_method_is_better_than_the_one_before(done):
    _, rows, _ = done
    assert [row["method"] for row in rows] == list(METHODS) == ["zero-filled", "sense", "cs", "cirim"]
    for before, after in itertools.pairwise(rows[:3]):
        assert after["ssim"] > before["ssim"] + 0.02
        assert after["psnr"] > before["psnr"] + 1
        assert after["nmse"] < before["nmse"]
    assert rows[2]["ssim"] > 0.85
    assert rows[2]["psnr"] > 29
    assert rows[3]["ssim"] > rows[2]["ssim"] + 0.003
    assert rows[3]["psnr"] > rows[2]["psnr"] + 0.3
    assert all(row["seconds"] > 0 for row in rows)


def test_the_images_lie_where_the_rows_say(done):
    out, rows, _ = done
    for row in rows:
        assert read_image(row["file"]).shape == (3, 176, 144)
        sidecar = json.loads(Path(row["file"] + ".json").read_text(encoding="utf-8"))
        assert sidecar["method"] == row["method"]
        assert sidecar["sha256"] == read(SAMPLES / UNDERSAMPLED).sha256()
        assert len(sidecar["seconds"]) == 3
    assert (out / "reference.h5").exists()


def test_the_picture_shows_reference_methods_mask_and_errors(done):
    out, _, _ = done
    with Image.open(out / PICTURE) as picture:
        pixels = np.asarray(picture.convert("L"), float)
    # two rows of five panels of 176 x 144, twice as large
    assert pixels.shape[1] == 2 * 20 + 5 * 288 + 4 * 14
    assert pixels.shape[0] > 2 * 352
    columns = [pixels[:, 20 + i * 302 : 308 + i * 302] for i in range(5)]
    upper = [c[90 : 90 + 340].mean() for c in columns]
    assert min(upper) > 20
    lower = [c[-400:-50].mean() for c in columns[1:]]
    assert lower[0] > lower[1] > lower[2] > lower[3], "the errors become darker from method to method"


def test_progress_is_told(done):
    _, _, calls = done
    assert {call[2] for call in calls} == set(METHODS)
    assert (3, 3, "cs") in calls


def test_without_samples_it_simulates_its_own_and_leaves_it(tmp_path):
    rows = demo(tmp_path)
    assert rows[0]["ssim"] < rows[1]["ssim"] < rows[2]["ssim"] < rows[3]["ssim"]
    twin, full = read(tmp_path / UNDERSAMPLED), read(tmp_path / FULL)
    assert twin.shape == full.shape == {"slice": 3, "coil": 8, "y": 176, "x": 144}
    assert twin.mask(0).sum() == 36 * 176
    assert full.mask(0).all()


def test_a_folder_without_samples_is_an_error(tmp_path):
    with pytest.raises(InputError):
        demo(tmp_path / "out", tmp_path)
