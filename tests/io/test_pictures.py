from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mrirecon.errors import InputError, ResourceError, SignalError
from mrirecon.io import drawing
from mrirecon.io.drawing import BACKGROUND, Panel, to_gray
from mrirecon.io.writers.pictures import save_panels


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_grey_levels_follow_the_window():
    image = np.array([[-1.0, 0.0, 1.0], [2.0, 4.0, 9.0]])
    np.testing.assert_array_equal(to_gray(image, 4.0), [[0, 0, 64], [128, 255, 255]])
    np.testing.assert_array_equal(to_gray(image, 3.0, -1.0), [[0, 64, 128], [191, 255, 255]])
    assert to_gray(image, 4.0).dtype == np.uint8


def test_complex_images_show_their_magnitude():
    image = np.array([[3 + 4j, -5j], [0, 2.5]])
    np.testing.assert_array_equal(to_gray(image, 5.0), [[255, 255], [0, 128]])


def test_one_bright_pixel_does_not_set_the_window():
    image = np.ones((100, 100))
    image[0, 0] = 1e6
    assert to_gray(image)[50, 50] > 200
    assert to_gray(image, 1e6)[50, 50] == 0


def test_an_image_without_contrast_is_black():
    assert not to_gray(np.zeros((4, 5))).any()
    assert not to_gray(np.ones((4, 5)), 0.0).any()


@pytest.mark.parametrize("image", [np.zeros(4), np.zeros((2, 3, 4)), np.zeros((0, 4))])
def test_only_one_image_is_a_picture(image):
    with pytest.raises(InputError, match="two axes"):
        to_gray(image)


def test_numbers_that_are_none_are_not_painted_over():
    image = np.ones((4, 4))
    image[1, 2] = np.nan
    with pytest.raises(SignalError, match="NaN or infinite") as caught:
        to_gray(image)
    assert "1 of 16" in caught.value.why


def test_panels_are_enlarged_by_a_whole_factor_and_stand_side_by_side(tmp_path):
    image = np.zeros((30, 20))
    image[3, 4] = 1
    save_panels(tmp_path / "p.png", [Panel("", image, vmax=1), Panel("", 1 - image, vmax=1)])
    sheet = pixels(tmp_path / "p.png")
    # 30 rows x 10 = 300
    assert sheet.shape == (300 + 2 * drawing.MARGIN, 2 * 200 + 2 * drawing.MARGIN + drawing.GAP, 3)
    left = sheet[drawing.MARGIN : -drawing.MARGIN, drawing.MARGIN : drawing.MARGIN + 200]
    right = sheet[drawing.MARGIN : -drawing.MARGIN, -drawing.MARGIN - 200 : -drawing.MARGIN]
    expected = image.repeat(10, 0).repeat(10, 1) * 255
    np.testing.assert_array_equal(left, np.repeat(expected[..., None], 3, -1))
    np.testing.assert_array_equal(right, 255 - left)


def test_titles_notes_and_heading_are_written_outside_the_pictures(tmp_path):
    image = np.full((40, 40), 0.5)
    bare, titled = tmp_path / "bare.png", tmp_path / "titled.png"
    save_panels(bare, [Panel("", image, vmax=1)] * 2)
    save_panels(titled, [Panel("cs", image, vmax=1, note="SSIM 0.9")] * 2, heading="brain, 4x")
    low, high = pixels(bare), pixels(titled)
    assert high.shape[0] > low.shape[0] + 60
    assert high.shape[1] == low.shape[1]
    # as many grey pixels as before: no text overlaps a picture
    grey = (high == 128).all(-1).sum()
    assert grey >= (low == 128).all(-1).sum() == 2 * 320 * 320
    rows = np.flatnonzero((high != BACKGROUND).any(axis=(1, 2)))
    assert rows[0] < 40, "the heading"
    assert rows[-1] > high.shape[0] - 40, "the notes"


def test_long_and_strange_texts_stay_in_their_column(tmp_path):
    image = np.zeros((300, 300))
    long = "ein sehr langer Titel über λ, 重建 und Größe × 5, " * 5
    save_panels(tmp_path / "p.png", [Panel(long, image), Panel("", image, note=long)])
    sheet = pixels(tmp_path / "p.png")
    gap = sheet[:, drawing.MARGIN + 300 : drawing.MARGIN + 300 + drawing.GAP]
    assert (gap == BACKGROUND).all(), "the text runs into the neighbour"
    assert (sheet[:, : drawing.MARGIN] == BACKGROUND).all()
    assert (sheet[:, -drawing.MARGIN :] == BACKGROUND).all()
    assert drawing._plain("λ ×5 Größe 重") == "lambda x5 Gro?e ?"


@pytest.mark.parametrize(
    ("count", "columns", "grid"), [(1, None, (1, 1)), (5, None, (1, 5)), (6, None, (2, 3)), (4, 2, (2, 2))]
)
def test_the_grid(tmp_path, count, columns, grid):
    save_panels(tmp_path / "p.png", [Panel("", np.ones((300, 300)), vmax=1)] * count, columns)
    height, width, _ = pixels(tmp_path / "p.png").shape
    step = 300 + drawing.GAP
    assert ((height - 40 + drawing.GAP) // step, (width - 40 + drawing.GAP) // step) == grid


def test_error_maps_have_colours(tmp_path):
    image = np.linspace(0, 1, 300 * 300).reshape(300, 300)
    save_panels(tmp_path / "p.png", [Panel("", image, vmax=1, colours="heat")])
    inner = pixels(tmp_path / "p.png")[20:-20, 20:-20].astype(int)
    assert (inner[0, 0] == [0, 0, 0]).all()
    assert (inner[-1, -1] == [255, 255, 255]).all()
    assert (np.diff(inner.sum(-1).ravel()) >= 0).all(), "brighter must mean larger"
    assert (inner[..., 0] > inner[..., 2]).mean() > 0.9


def test_a_sheet_needs_panels(tmp_path):
    with pytest.raises(InputError, match="at least one"):
        save_panels(tmp_path / "p.png", [])
    with pytest.raises(InputError):
        save_panels(tmp_path / "p.png", [Panel("", np.ones((4, 4)))], columns=0)


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save_panels(path, [Panel("", np.eye(4))])
    before = path.read_bytes()

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ResourceError, match="could not be written"):
        save_panels(path, [Panel("", np.ones((4, 4)))])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
