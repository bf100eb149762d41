"""Test the messages of `info --check` on values (conventions, masks and axes: K06, K08, K09, K17 in faults/)."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.io.check import check


@pytest.fixture(scope="module")
def head():
    """K-space (2, 6, 64, 56) of a phantom's head."""
    return simulate_kspace(phantom((64, 56), 2, 1), 6, 50.0, 1).kspace.astype(np.complex64)


def findings(folder, kspace, **more):
    io.write_kspace(folder / "k.h5", kspace, **more)
    return {one.name: one for one in check(io.read(folder / "k.h5"))}


def strange(found):
    return {name: one.message for name, one in found.items() if one.verdict != "ok"}


def test_a_good_scan_is_good(tmp_path, head):
    found = findings(tmp_path, head)
    assert strange(found) == {}
    assert {"numbers", "signal", "centre", "axes", "clipping", "convention", "coils", "noise"} == set(found)
    assert "all 6 coils receive" in found["coils"].message


def test_coils_that_do_not_receive(tmp_path, head):
    kspace = head.copy()
    rng = np.random.default_rng(0)
    kspace[:, 1] = 0
    noise = rng.standard_normal((2, 64, 56)) + 1j * rng.standard_normal((2, 64, 56))
    kspace[:, 4] = noise * np.median(np.abs(head))
    assert strange(findings(tmp_path, kspace)) == {"coils": "of 6: 1 dead; 4 noise only"}


def test_a_receiver_that_was_overdriven(tmp_path, head):
    limit = 0.4 * np.abs(head[0].real).max()
    clipped = np.clip(head.real, -limit, limit) + 1j * np.clip(head.imag, -limit, limit)
    assert "overdriven" in strange(findings(tmp_path, clipped))["clipping"]


def test_items_that_are_empty(tmp_path, head):
    kspace = head.copy()
    kspace[1] = 0
    told = "1 of 2 items are zero everywhere (1): their images will be zero"
    assert strange(findings(tmp_path, kspace)) == {"signal": told}
    found = findings(tmp_path, 0 * kspace)
    assert set(found) == {"numbers", "signal"}
    assert found["signal"].verdict == "bad"


def test_chunks_that_were_never_written(tmp_path, head):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        dataset = file.create_dataset("kspace", head.shape, np.complex64, chunks=(1, 6, 64, 28))
        dataset[0] = head[0]
        dataset[1, ..., :28] = head[1, ..., :28]
    found = {one.name: one for one in check(io.read(tmp_path / "k.h5"))}
    assert found["storage"].message == "1 chunks of kspace were never written and read as zeros"


@pytest.mark.parametrize(("scale", "verdict"), [(1e-12, "ok"), (1e12, "ok"), (1e-33, "bad"), (1e33, "bad")])
def test_scales(tmp_path, head, scale, verdict):
    found = findings(tmp_path, head / np.abs(head).max() * np.float32(scale))
    assert found["signal"].verdict == verdict
    assert set(strange(found)) == ({"signal"} if verdict == "bad" else set())


@pytest.mark.parametrize(("snr", "verdict"), [(50.0, "ok"), (2.0, "look")])
def test_noise(tmp_path, snr, verdict):
    kspace = simulate_kspace(phantom((96, 96), 1, 1), 6, snr, 1).kspace.astype(np.complex64)
    assert findings(tmp_path, kspace)["noise"].verdict == verdict


@pytest.mark.parametrize("snr", [1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 200.0])
@pytest.mark.parametrize("coils", [1, 6])
def test_nothing_is_concluded_from_noise(tmp_path, snr, coils):
    """The head fills most of its field of view: nothing of it may be cut, however well noise hides it."""
    kspace = simulate_kspace(phantom((96, 96), 1, 1), coils, snr, 1).kspace.astype(np.complex64)
    assert "oversampling" not in findings(tmp_path, kspace)
    noise = np.random.default_rng(0).standard_normal((2, *kspace.shape))
    assert "oversampling" not in findings(tmp_path, noise[0] + 1j * noise[1])


@pytest.mark.parametrize(("snr", "told"), [(150.0, True), (1e6, True), (3.0, False)])
def test_oversampling_is_told_where_it_can_be_seen(tmp_path, snr, told):
    image = np.zeros((1, 192, 96))
    image[:, 48:144] = phantom((96, 96), 1, 1)
    kspace = simulate_kspace(image, 6, snr, 1).kspace.astype(np.complex64)
    found = findings(tmp_path, kspace).get("oversampling")
    assert (found is not None and "along y" in found.message) == told


def test_exit_code_and_json(tmp_path, head, capfd):
    kspace = head.copy()
    kspace[1, 2, 3, 4] = np.nan
    io.write_kspace(tmp_path / "good.h5", head)
    io.write_kspace(tmp_path / "bad.h5", kspace)
    for names, code in ((["good"], 0), (["bad"], 3), (["good", "bad"], 3)):
        with pytest.raises(SystemExit) as ended:
            main(["info", "--check", "--json", *(str(tmp_path / f"{n}.h5") for n in names)])
        assert ended.value.code == code
        told = json.loads(capfd.readouterr().out)
        one = told if len(names) == 1 else told[-1]
        worst = {c["name"]: c["message"] for c in one["checks"] if c["verdict"] == "bad"}
        assert bool(worst) == (code == 3)
        if worst:
            assert "slice 1, coil 2, y 3, x 4" in worst["numbers"]
    with pytest.raises(SystemExit) as ended:
        main(["info", "--isolate", str(tmp_path / "bad.h5")])
    assert ended.value.code == 0, "without --check it describes, and does not judge"
    assert "checks" not in io.describe(tmp_path / "bad.h5")


def test_nothing_is_concluded_from_noise_in_measured_scans(real_kspace, tmp_path):
    """Noise added: the brains reach far into the outer half of their fields of view."""
    for name in ("brain_flash_16ch", "brain_t1_7ch"):
        clean = io.read(real_kspace / f"{name}.npz").kspace(0)
        image = np.abs(np.fft.ifft2(clean, norm="ortho"))
        level = image[image > 0.2 * image.max()].mean()
        for snr in (15, 8, 4, 2):
            noise = np.random.default_rng(0).standard_normal((2, *clean.shape)) * level / snr / np.sqrt(2)
            assert "oversampling" not in findings(tmp_path, (clean + noise[0] + 1j * noise[1])[None])


def test_measured_scans_are_good(real_kspace):
    """Known of them: the knee's single slice is noisy. No other suspicion is raised."""
    for path in sorted(real_kspace.glob("*.npz")):
        found = strange({one.name: one for one in check(io.read(path))})
        assert set(found) == ({"noise"} if path.stem == "knee_fatsat_1ch" else set()), path.stem
