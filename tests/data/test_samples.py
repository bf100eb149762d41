"""Test the committed sample: statements of its README, and reproduction by its script."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mrirecon.io import read

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data_samples"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_samples", ROOT / "scripts" / "make_samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs_volume(script):
    if not script.VOLUME.exists():
        pytest.skip("Colin27 is not installed: apt-get install mricron-data")


@pytest.fixture(scope="module")
def full():
    return read(SAMPLES / "brain_full.h5")


@pytest.fixture(scope="module")
def kspace(full):
    return np.stack([full.kspace(i) for i in range(len(full))])


@pytest.fixture(scope="module")
def rss(kspace):
    axes = (-2, -1)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    return np.sqrt((np.abs(coils) ** 2).sum(axis=1))


def test_the_scan_is_as_the_readme_says(full, kspace):
    assert full.shape == {"slice": 3, "coil": 8, "y": 176, "x": 144}
    assert not full.has_mask
    assert full.mask(0).all()
    assert full.notes == []
    assert sum(file.stat().st_size for file in SAMPLES.iterdir()) < 5e6
    assert np.isfinite(kspace).all()


def test_the_reference_is_the_root_sum_of_squares_of_the_kspace(full, rss):
    np.testing.assert_allclose(full.reference, rss, rtol=1e-5)
    assert full.attributes["max"] == pytest.approx(rss.max(), rel=1e-5)
    assert full.attributes["norm"] == pytest.approx(np.linalg.norm(rss), rel=1e-5)


def test_the_head_is_whole_and_upright(rss):
    for image in rss:
        head = image > 0.15 * np.percentile(image, 99.8)
        rows, columns = np.flatnonzero(head.mean(1) > 0.02), np.flatnonzero(head.mean(0) > 0.02)
        assert rows[0] > 3
        assert rows[-1] < 172
        assert columns[0] > 1
        assert columns[-1] < 142
        assert 1.05 < (rows[-1] - rows[0]) / (columns[-1] - columns[0]) < 1.4, "longer from front to back than wide"
        widths = head.sum(axis=1)
        assert widths.argmax() > (rows[0] + rows[-1]) / 2, "the widest part of this head is behind its centre"


def test_noise_fills_kspace_and_background(kspace, rss):
    corner = np.abs(kspace[..., :12, :12])
    assert (corner > 0).mean() > 0.99
    signal = np.percentile(rss[:, 60:120, 50:100], 50)
    noise = np.sqrt((np.abs(kspace[..., :12, :12]) ** 2).mean())
    assert 10 < signal / noise < 100
    assert rss[:, :4, :4].min() > 0


def test_the_twin_holds_the_same_samples_and_no_others(full, kspace):
    twin = read(SAMPLES / "brain_4x.h5")
    assert twin.has_mask
    assert twin.reference is None
    mask = twin.mask(0)
    assert mask.shape == (176, 144)
    assert mask[0].sum() == 36
    assert mask[:, 62:82].all()
    for item in range(3):
        np.testing.assert_array_equal(twin.kspace(item), np.where(mask, kspace[item], 0))


def test_the_script_makes_the_committed_arrays_again(script, kspace):
    needs_volume(script)
    result, again = script.scan(script.VOLUME), script.scan(script.VOLUME)
    np.testing.assert_array_equal(result["kspace"], again["kspace"])
    # on another processor, a few values may be rounded to the adjacent step
    difference = np.abs(result["kspace"] - kspace)
    assert (difference > 0).mean() < 1e-4
    np.testing.assert_array_equal(result["mask"], read(SAMPLES / "brain_4x.h5").mask(0)[0])


@pytest.mark.parametrize("suffix", ["npz", "cfl"])
def test_other_formats_hold_the_same_scan(script, tmp_path, monkeypatch, capsys, suffix, kspace):
    needs_volume(script)
    monkeypatch.setattr("sys.argv", ["make_samples.py", "--format", suffix, "--output", str(tmp_path)])
    script.main()
    assert f"brain_4x.{suffix}" in capsys.readouterr().out
    scan = read(tmp_path / f"brain_full.{suffix}")
    assert len(scan) == 3
    step = np.abs(kspace.real[kspace.real != 0]).min()
    np.testing.assert_allclose(scan.kspace(1), kspace[1], atol=2 * step)
    np.testing.assert_array_equal(read(tmp_path / f"brain_4x.{suffix}").mask(2)[0].sum(), 36)
