"""Test `--items 3-17`: selected items equal the same items of the whole scan."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import UsageError
from mrirecon.evaluation import evaluate
from mrirecon.io.geometry import grid_of
from mrirecon.io.readers.images import read_images
from mrirecon.io.select import parse_items
from mrirecon.reconstruction.run import reconstruct
from tests.io import mrd_files as mrd

COILS, NY, NX = 3, 24, 20


def random(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((*shape, 2)) @ [1, 1j]).astype("c8")


@pytest.mark.parametrize(
    ("text", "wanted"), [("3", [3]), ("1-3", [1, 2, 3]), ("4-", [4, 5]), (" 0, 2-3,2", [0, 2, 3]), ("5-5", [5])]
)
def test_items_are_named_by_numbers_and_ranges(text, wanted):
    assert parse_items(text, 6) == wanted


@pytest.mark.parametrize("text", ["", "a", "3:5", "-2", "4-2", "6", "2-6", "1,,2"])
def test_items_that_cannot_be_meant(text):
    with pytest.raises(UsageError, match="items"):
        parse_items(text, 6, "a.h5")


@pytest.mark.parametrize("axes", ["slice,coil,y,x", "coil,y,x,slice", "coil,slice,y,x"])
def test_what_belongs_to_an_item_goes_with_it(tmp_path, axes):
    stored = [axes.split(",").index(a) for a in ("slice", "coil", "y", "x")]
    k, maps, reference = random(6, COILS, NY, NX), random(6, 1, COILS, NY, NX), np.abs(random(6, NY, NX))
    mask = np.random.default_rng(1).random((6, NY, NX)) < 0.5
    arrays = {"kspace": np.transpose(k * mask[:, None], np.argsort(stored)), "axes": axes}
    np.savez(tmp_path / "k.npz", **arrays, mask=mask, maps=maps, reference=reference)
    whole, some = io.read(tmp_path / "k.npz"), io.read(tmp_path / "k.npz", items="1,4-5")
    assert some.shape == {**whole.shape, "slice": 3}
    for place, item in enumerate((1, 4, 5)):
        np.testing.assert_array_equal(some.kspace(place), whole.kspace(item))
        np.testing.assert_array_equal(some.unmasked_kspace(place), whole.unmasked_kspace(item))
        np.testing.assert_array_equal(some.mask(place), whole.mask(item))
        np.testing.assert_array_equal(some.maps(place), whole.maps(item))
        np.testing.assert_array_equal(some.reference[place], whole.reference[item])
        assert some.where(place) == whole.where(item)


def test_loops_become_one(tmp_path):
    io.write_kspace(tmp_path / "k.h5", random(2, 3, COILS, NY, NX), axes="repetition,slice,coil,y,x")
    whole, some = io.read(tmp_path / "k.h5"), io.read(tmp_path / "k.h5", items="2-4")
    assert some.shape == {"batch": 3, "coil": COILS, "y": NY, "x": NX}
    for place, item in enumerate((2, 3, 4)):
        np.testing.assert_array_equal(some.kspace(place), whole.kspace(item))
    assert "repetition 1, slice 1" in some.where(2)


def test_volumes_are_still_taken_apart(tmp_path):
    k = random(3, 2, 8, NY, NX)
    k[..., 1::2] = 0
    maps = random(3, 1, 2, 8, NY, NX)
    np.savez(tmp_path / "k.npz", kspace=k, maps=maps, axes="repetition,coil,z,y,x")
    whole = reconstruct(io.read(tmp_path / "k.npz"), method="sense")
    some = reconstruct(io.read(tmp_path / "k.npz", items="1-2"), method="sense")
    assert len(some.seconds) == 16  # slices
    np.testing.assert_allclose(some.images, whole.images[1:], atol=1e-5)


def test_slices_lie_where_they_lay(tmp_path):
    lines = [one for number in range(5) for one in mrd.lines(random(COILS, 32, 24), slice=number)]
    path = mrd.write(tmp_path / "k.h5", lines, mrd.header(mrd.encoding((32, 24, 1), centre=(12, 0))))
    whole = grid_of(io.read(path), (32, 24))[0].matrix
    for items, first, step in (("1-3", 1, 1), ("2", 2, None), ("0,2,4", 0, 2)):
        some = grid_of(io.read(path, items=items), (32, 24))[0].matrix
        np.testing.assert_allclose(some @ [3, 4, 0, 1], whole @ [3, 4, first, 1], atol=1e-5)
        if step:
            np.testing.assert_allclose(some[:, 2], step * whole[:, 2], atol=1e-5)


def run(*arguments) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verbs(tmp_path, capfd):
    lines = [one for number in range(5) for one in mrd.lines(random(COILS, 32, 24) * (number + 1), slice=number)]
    head = mrd.header(mrd.encoding((32, 24, 1), centre=(12, 0), fov=(64, 48, 5)))
    path = mrd.write(tmp_path / "k.h5", lines, head)
    assert run("reconstruct", path, "-m", "rss", "-o", tmp_path / "all.nii.gz") == 0
    assert run("reconstruct", path, "-m", "rss", "--items", "1-2", "-o", tmp_path / "some.nii.gz") == 0
    whole, some = (read_images(tmp_path / f"{name}.nii.gz") for name in ("all", "some"))
    np.testing.assert_array_equal(some.values, whole.values[1:3])
    np.testing.assert_allclose(some.grid.matrix @ [0, 0, 1, 1], whole.grid.matrix @ [0, 0, 2, 1], atol=1e-4)
    assert json.loads((tmp_path / "some.json").read_text())["chosen_items"] == "1-2"
    # The same output is not finished for other items.
    assert run("reconstruct", path, "-m", "rss", "--items", "1-3", "-o", tmp_path / "some.nii.gz") == 2
    for prediction in ("all", "some"):
        found = evaluate(tmp_path / f"{prediction}.nii.gz", tmp_path / "all.nii.gz", items="1-2")
        assert found.shape[0] == 2
        assert found.mean["nmse"] < 1e-10
    assert run("convert", tmp_path / "all.nii.gz", tmp_path / "cut.nii.gz", "--items", "1-2") == 0
    cut = read_images(tmp_path / "cut.nii.gz")
    np.testing.assert_allclose(cut.values, some.values, rtol=1e-6)
    np.testing.assert_allclose(cut.grid.matrix, some.grid.matrix, atol=1e-4)
    assert run("convert", path, tmp_path / "cut.h5", "--items", "4") == 0
    assert io.read(tmp_path / "cut.h5").shape["slice"] == 1
    capfd.readouterr()
    assert run("info", path, "--items", "1-2") == 0
    assert "slice 2" in capfd.readouterr().out
    assert run("info", path, "--items", "7") == 2
    assert run("evaluate", tmp_path / "all.nii.gz", tmp_path / "all.nii.gz", "--items", "0-1") == 4  # equal: no PSNR


def test_raw_data_tell_what_was_sampled_without_being_read(tmp_path, monkeypatch):
    kept = [0, 2, 4, *range(8, 16), 18, 22]
    two = [one for number in range(2) for one in mrd.lines(random(COILS, 32, 24), slice=number, order=kept)]
    path = mrd.write(tmp_path / "k.h5", two, mrd.header(mrd.encoding((32, 24, 1), centre=(12, 0))))
    scan = io.read(path)
    wanted = [scan.mask(item) for item in range(2)]
    assert wanted[0].any(0).sum() == len(kept)
    scan = io.read(path)
    monkeypatch.setattr(type(scan.store), "flat", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr(type(scan.store), "_samples", lambda *_: pytest.fail("it was read"))
    for item in range(2):
        np.testing.assert_array_equal(scan.quick_mask(item), wanted[item])
