"""Test files whose items differ in sampling, signal or validity: each item is reconstructed as if it were alone."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import CalibrationError, NoSignalError, SignalError
from mrirecon.evaluation import evaluate
from mrirecon.io.sampling import format_items, group_by_sampling
from mrirecon.reconstruction.choose import choose
from mrirecon.reconstruction.file import reconstruct_file
from mrirecon.reconstruction.preprocess import Preprocess, prepare
from mrirecon.reconstruction.run import reconstruct

SIZE = 64


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    """(coil, y, x) k-space of an ellipse with a hole and a spot, seen by four coils."""
    y, x = (np.mgrid[:SIZE, :SIZE] - SIZE // 2) / SIZE
    image = ((y / 0.40) ** 2 + (x / 0.34) ** 2 < 1) - 0.6 * (((y + 0.15) / 0.1) ** 2 + ((x - 0.12) / 0.07) ** 2 < 1)
    angle = 2 * np.pi * np.arange(4)[:, None, None] / 4
    maps = np.exp(-2 * ((y - 0.5 * np.sin(angle)) ** 2 + (x - 0.5 * np.cos(angle)) ** 2) + 1j * (angle + x + y))
    axes = (-2, -1)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image * maps, axes), norm="ortho"), axes)
    rng = np.random.default_rng(0)
    return (k + 1e-3 * (rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape))).astype("c8")


def lines(k: np.ndarray, first: int, step: int, band: int = 20) -> np.ndarray:
    """Keep the middle `band` lines along x and every `step`-th of the others."""
    kept = np.zeros(SIZE, bool)
    kept[first::step] = True
    kept[SIZE // 2 - band // 2 : SIZE // 2 + band // 2] = True
    return k * kept


def stack(path, *items):
    io.write_kspace(path, np.stack(items))
    return path


def distance(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture
def run(monkeypatch):
    def call(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["mrirecon", *map(str, arguments)])
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_every_item_is_reconstructed_as_it_would_be_alone(tmp_path, full, order):
    kinds = [full, lines(full, 1, 2), lines(full, 0, 3), lines(full, 0, 2, band=0)]
    path = stack(tmp_path / "all.h5", *(kinds[i] for i in order))
    found = reconstruct(io.read(path))
    wanted = ["zero-filled", "cs", "cs", "rss"]
    assert found.methods == [wanted[i] for i in order]
    assert found.method == "cs"
    for place, kind in enumerate(order):
        alone = reconstruct(io.read(stack(tmp_path / f"{kind}.h5", kinds[kind])))
        assert alone.method == wanted[kind]
        assert distance(found.images[place], alone.images[0]) < 1e-6


def test_gaps_behind_a_full_item_are_removed(tmp_path, full):
    """As it was: the second item combined as if it had no gaps, five times the error."""
    path = stack(tmp_path / "a.h5", full, lines(full, 1, 2))
    truth = np.abs(reconstruct(io.read(stack(tmp_path / "t.h5", full)), method="zero-filled").images[0])
    auto, cs = (np.abs(reconstruct(io.read(path), method=m).images[1]) for m in ("auto", "cs"))
    plain = np.abs(reconstruct(io.read(path), method="zero-filled").images[1])
    assert distance(auto, truth) == pytest.approx(distance(cs, truth), rel=1e-6)
    assert distance(plain, truth) > 2 * distance(auto, truth)


def test_info_says_what_reconstruct_does(tmp_path, full, run, capfd):
    path = stack(tmp_path / "a.h5", full, lines(full, 1, 2), lines(full, 0, 2, band=0))
    assert run("info", path) == 0
    told = capfd.readouterr().out
    for words in ("item 0: 1.00-fold, full", "item 1: 1.5", "item 0 by zero-filled", "item 1 by cs", "item 2 by rss"):
        assert words in told
    assert run("info", path, "--json") == 0
    info = json.loads(capfd.readouterr().out)
    assert [group["items"] for group in info["sampling_groups"]] == [[0], [1], [2]]
    assert run("reconstruct", path, "-o", tmp_path / "o.h5") == 0
    done = json.loads((tmp_path / "o.h5.json").read_text())
    assert info["would"] == f"reconstruct {done['why']}"
    assert done["methods"] == ["zero-filled", "cs", "rss"]


def test_items_that_scatter_a_little_are_alike(tmp_path, full):
    rng = np.random.default_rng(1)
    masks = [rng.random((SIZE, SIZE)) < 0.3 for _ in range(6)]
    for mask in masks:
        mask[24:40, 24:40] = True
    path = stack(tmp_path / "a.h5", *(full * m for m in masks), full, 0 * full)
    groups = group_by_sampling(io.read(path))
    assert [g.items for g in groups] == [(0, 1, 2, 3, 4, 5), (6,)]
    assert groups[0].representatives[:3] == [2, 3, 1]
    assert format_items([0, 1, 2, 5]) == "items 0-2, 5"
    assert [(g.entry.name, len(g.items)) for g in choose(io.read(path)).groups] == [("cs", 6), ("zero-filled", 1)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", ["auto", "cs", "zero-filled", "sense"])
def test_an_item_without_signal_is_zero_and_noted(tmp_path, full, method, batch):
    path = stack(tmp_path / "a.h5", 0 * full, lines(full, 1, 2), 0 * full, lines(full, 1, 2))
    found = reconstruct(io.read(path), method=method, batch=batch)
    alone = reconstruct(io.read(stack(tmp_path / "b.h5", lines(full, 1, 2))), method=method).images[0]
    assert not found.images[[0, 2]].any()
    for item in (1, 3):
        assert distance(found.images[item], alone) < 1e-6
    assert found.reasons[0] == found.reasons[2] == "no signal"
    assert "no signal in items 0, 2: the image is zero" in found.notes
    assert found.failed == []


def test_a_file_without_any_signal_is_refused(tmp_path, full, run):
    path = stack(tmp_path / "a.h5", 0 * full, 0 * full)
    for method in ("auto", "cs"):
        with pytest.raises(NoSignalError, match="zero everywhere"):
            reconstruct(io.read(path), method=method)
    assert run("reconstruct", path, "-o", tmp_path / "o.h5") == 3
    assert not (tmp_path / "o.h5").exists()


def test_what_looks_at_the_first_item_takes_one_with_signal(tmp_path, full, run):
    path = stack(tmp_path / "a.h5", 0 * full, full, 0 * full, full)
    for options in (
        {"whiten": "background"},
        {"coils": 3},
        {"energy": 0.99},
        {"oversampling": 2, "readout": "y"},
        {"partial_fourier": "refuse"},
        {"partial_fourier": "pocs"},
    ):
        found = reconstruct(prepare(io.read(path), Preprocess(**options)), method="zero-filled")
        assert not found.images[0].any()
        assert found.images[1].any()
    assert run("info", path, "--check") == 0
    assert run("calibrate", path, "-o", tmp_path / "maps.h5") == 0
    assert run("reconstruct", path, "--maps", tmp_path / "maps.h5", "-o", tmp_path / "o.h5") == 0
    assert run("evaluate", tmp_path / "o.h5", path) == 0
    assert run("convert", path, tmp_path / "b.mrd") == 0
    assert len(evaluate(tmp_path / "o.h5", path).slices) == 4
    np.save(tmp_path / "mask.npy", np.arange(SIZE) % 2 == 0)
    assert run("masks", "apply", path, "--mask", tmp_path / "mask.npy", "-o", tmp_path / "u.h5") == 0
    assert run("report", tmp_path / "o.h5", "-r", path, "-o", tmp_path / "r.html") == 0


def test_an_empty_repetition_is_left_out_of_the_mean(tmp_path, full):
    kspace = np.stack([full, 0 * full, full])
    io.write_kspace(tmp_path / "a.h5", kspace, axes="repetition,coil,y,x")
    scan = prepare(io.read(tmp_path / "a.h5"), Preprocess(average=True))
    np.testing.assert_allclose(scan.kspace(0), full, atol=1e-6)
    assert any("1 of 3 repetitions" in note for note in scan.notes)


@pytest.mark.parametrize("method", ["cs", "auto"])
def test_one_bad_item_leaves_the_others_to_be_done(tmp_path, full, run, capfd, method):
    bad = lines(full, 1, 2)
    bad[0, 32, 32] = np.nan
    good = lines(full, 1, 2)
    path = stack(tmp_path / "a.h5", good, bad, 0 * full, good)
    with pytest.raises(SignalError, match="NaN or infinite"):  # the library stops by default
        reconstruct(io.read(path), method=method)
    command = ("reconstruct", path, "-m", method, "-o", tmp_path / "o.h5")
    for _ in range(2):  # finished items are skipped, and the result is still incomplete
        assert run(*command) == 4
        said = capfd.readouterr().err
        assert "slice 1" in said
        assert "--items" in said
    with h5py.File(tmp_path / "o.h5") as file:
        images = file["reconstruction"][:]
    alone = np.abs(reconstruct(io.read(stack(tmp_path / "b.h5", good)), method=method).images[0])
    assert distance(images[0], alone) < 1e-6
    assert distance(images[3], alone) < 1e-6
    assert not images[1:3].any()
    told = json.loads((tmp_path / "o.h5.json").read_text())
    assert [one["code"] for one in told["failed_items"]] == ["MRI-E-SIGNAL"]
    assert "slice 1" in told["failed_items"][0]["where"]


def test_an_item_without_a_calibration_region_does_not_refuse_the_file(tmp_path, full):
    bare, good = lines(full, 0, 2, band=0), lines(full, 1, 2)
    path = stack(tmp_path / "a.h5", bare, good)
    assert reconstruct(io.read(path)).methods == ["rss", "cs"]
    with pytest.raises(CalibrationError):
        reconstruct(io.read(path), method="cs")
    with pytest.raises(CalibrationError):
        reconstruct_file(path, tmp_path / "o.h5", method="cs")
    assert not (tmp_path / "o.h5").exists()
    told = reconstruct_file(path, tmp_path / "o.h5", method="cs", skip_failed=True)
    assert len(told["failed_items"]) == 1
    assert "slice 0" in told["failed_items"][0]["where"]


def test_failed_items_are_listed_with_failed_files(tmp_path, full, run):
    bad = lines(full, 1, 2)
    bad[0, 32, 32] = np.inf
    (tmp_path / "in").mkdir()
    stack(tmp_path / "in" / "a.h5", bad, lines(full, 1, 2))
    stack(tmp_path / "in" / "b.h5", lines(full, 1, 2))
    assert run("reconstruct", tmp_path / "in", "-o", tmp_path / "out", "-m", "zero-filled") == 4
    listed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert [(one["file"].endswith("a.h5"), one["code"]) for one in listed] == [(True, "MRI-E-SIGNAL")]
    assert (tmp_path / "out" / "a_zero-filled.h5").exists()


def test_iterates_of_lost_items_are_zero(tmp_path, full):
    path = stack(tmp_path / "a.h5", lines(full, 1, 2), 0 * full)
    reconstruct_file(path, tmp_path / "o.h5", method="cs", options={"iterations": 3}, save_iterates=True)
    steps = io.read_image(tmp_path / "o_iterates.h5")
    assert not steps[len(steps) // 2 :].any()
    assert steps[: len(steps) // 2].any(axis=(1, 2)).any()


def test_strict_refuses(tmp_path, full):
    path = stack(tmp_path / "a.h5", lines(full, 1, 2), 0 * full)
    with pytest.raises(NoSignalError):
        reconstruct(io.read(path, strict=True), method="cs")
