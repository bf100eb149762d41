"""Test the presets against results of the other toolkits, and against their formulas with scikit-image."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage, signal
from skimage import metrics as oracle
from skimage.filters import threshold_otsu
from skimage.morphology import convex_hull_image

from mrirecon.errors import InputError
from mrirecon.evaluation import Options, evaluate, reference_images
from mrirecon.io import write_image, write_kspace
from mrirecon.metrics.presets import PRESETS, score_volume
from mrirecon.metrics.sharpness import gmsd, hfen, laplacian_of_gaussian
from tests.goldens.make_metrics import files, volumes

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/metrics.json").read_text())
NAMES = ("ssim", "psnr", "nmse")


def double(seed=0, signed=False):
    """Return a prediction and a reference; signed ones have negative values where there is little signal."""
    r, x = (v.astype(np.float64) for v in volumes(seed))
    return (x - 0.1 * x.max(), r - 0.05 * r.max()) if signed else (x, r)


SIGNS = pytest.mark.parametrize("signed", [False, True])


@pytest.mark.parametrize("seed", [0, 1])
def test_fastmri_as_its_own_package_says_on_float32(seed):
    reference, prediction = volumes(seed)
    scored = score_volume(prediction, reference, "fastmri").volume
    for name, value in GOLDENS[str(seed)].items():
        assert scored[name] == pytest.approx(value, rel=1e-6), name


def test_fastmri_as_its_own_script_says_on_files(tmp_path):
    """Check fastMRI's scores: unscaled values, centre square of the target's width, range of the square's maximum."""
    target, prediction = files()
    with h5py.File(tmp_path / "target.h5", "w") as file:
        file["kspace"] = np.ones((3, 4, 52, 44), np.complex64)
        file["reconstruction_rss"] = target
    write_kspace(tmp_path / "full.h5", np.ones((3, 4, 52, 44), np.complex64), reference=target)
    with h5py.File(tmp_path / "prediction.h5", "w") as file:
        file["reconstruction"] = prediction
    assert (prediction < 0).mean() > 0.1
    for name in ("target.h5", "full.h5"):
        evaluation = evaluate(
            tmp_path / "prediction.h5", tmp_path / name, options=Options("fastmri", ("ssim", "psnr", "nmse", "mse"))
        )
        for metric, value in GOLDENS["files"].items():
            assert evaluation.mean[metric] == pytest.approx(value, rel=1e-6), metric
        assert evaluation.shape == (3, 40, 40)
        assert "fastMRI" in evaluation.kind
        assert any("negative" in note for note in evaluation.notes)
    write_image(tmp_path / "small.h5", np.abs(prediction[:, :38]))
    with pytest.raises(InputError, match="smaller than the central 40×40"):
        evaluate(tmp_path / "small.h5", tmp_path / "full.h5", options=Options("fastmri"))


def test_the_target_of_a_single_coil_file_is_its_own(tmp_path):
    target = files()[0]
    with h5py.File(tmp_path / "full.h5", "w") as file:
        file["kspace"] = np.ones((3, 52, 44), np.complex64)
        file["reconstruction_rss"] = target + 1
        file["reconstruction_esc"] = target
    assert reference_images(tmp_path / "full.h5", preset="fastmri")[0] == pytest.approx(target)


@SIGNS
def test_fastmri_by_formula(signed):
    x, r = (v[:, 6:46] for v in double(signed=signed))
    scored = score_volume(*double(signed=signed), "fastmri")
    peak = r.max()
    slices = [oracle.structural_similarity(b, a, data_range=peak) for a, b in zip(x, r, strict=True)]
    exact(
        scored.volume,
        np.mean(slices),
        10 * np.log10(peak**2 / ((r - x) ** 2).mean()),
        ((r - x) ** 2).sum() / (r**2).sum(),
    )
    assert [s["ssim"] for s in scored.slices] == pytest.approx(slices, rel=1e-12)


@SIGNS
@pytest.mark.parametrize("seed", [0, 1])
def test_atommic_by_formula(seed, signed):
    """Check ATOMMIC's scores, whose SSIM has a data range of at least 1."""
    x, r = double(seed, signed)
    peak = max(np.ptp(x), np.ptp(r))
    slices = [oracle.structural_similarity(b, a, data_range=max(peak, 1)) for a, b in zip(x, r, strict=True)]
    mse = ((r - x) ** 2).mean()
    scored = score_volume(x, r, "atommic").volume
    exact(scored, np.mean(slices), 10 * np.log10(peak**2 / mse), ((r - x) ** 2).sum() / (r**2).sum())


@SIGNS
def test_calgary_by_formula(signed):
    x, r = double(signed=signed)
    rows = []
    for a, b in zip(x, r, strict=True):
        one, two = a / b.max(), b / b.max()
        span = max(one.max(), two.max()) - min(one.min(), two.min())
        rows.append(
            (
                oracle.structural_similarity(two, one, data_range=span),
                oracle.peak_signal_noise_ratio(two, one, data_range=span),
                ((two - one) ** 2).sum() / (two**2).sum(),
            )
        )
    exact(score_volume(x, r, "calgary").volume, *np.mean(rows, 0))


def otsu_hull(reference):
    """Check mridc's --mask_background: the convex hull of pixels above Otsu's threshold, slice by slice."""
    return np.stack([convex_hull_image(r > threshold_otsu(r)) for r in np.abs(reference)])


@SIGNS
@pytest.mark.parametrize("masked", [False, True])
def test_mridc_by_formula(masked, signed):
    """Check mridc's scores of the magnitudes of both images."""
    x, r = double(signed=signed)
    mask = otsu_hull(r) if masked else None
    rows = []
    for i, (a, b) in enumerate(zip(x, r, strict=True)):
        one, two = (a, b) if mask is None else (a * mask[i], b * mask[i])
        one, two = (np.abs(v) / np.abs(v).max() for v in (one, two))
        rows.append(
            (
                oracle.structural_similarity(two, one, data_range=1),
                oracle.peak_signal_noise_ratio(two, one, data_range=1),
                ((two - one) ** 2).sum() / (two**2).sum(),
            )
        )
    exact(score_volume(x, r, "mridc", mask=mask).volume, *np.mean(rows, 0))
    if mask is not None:
        assert 0.05 < mask.mean() < 0.9


@SIGNS
def test_skimage_by_formula(signed):
    x, r = double(1, signed)
    rows = [
        (
            oracle.structural_similarity(b, a, data_range=np.ptp(b)),
            oracle.peak_signal_noise_ratio(b, a, data_range=np.ptp(b)),
            ((b - a) ** 2).sum() / (b**2).sum(),
        )
        for a, b in zip(x, r, strict=True)
    ]
    exact(score_volume(x, r, "skimage").volume, *np.mean(rows, 0))


def exact(scored, *values):
    for name, value in zip(NAMES, values, strict=True):
        assert scored[name] == pytest.approx(value, rel=1e-12), name


def test_definitions_disagree_about_one_image():
    """Check that the presets give different scores for the same two images."""
    x, r = double()
    scored = [score_volume(x, r, p).volume["ssim"] for p in PRESETS if p != "mrirecon"]
    assert max(scored) - min(scored) > 0.15


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "mrirecon"])
def test_what_is_undefined_is_none_with_a_reason(preset):
    x, r = double()
    same = score_volume(r, r, preset)
    if preset != "atommic":
        assert same.volume["ssim"] == pytest.approx(1, abs=1e-12)
    assert same.volume["psnr"] is None
    assert "equal" in same.reasons["psnr"]
    empty = r.copy()
    empty[1] = 0
    one = score_volume(x, empty, preset)
    none = score_volume(x, np.zeros_like(r), preset)
    nan = score_volume(np.where(x == x.max(), np.nan, x), r, preset)
    for undefined in (none, nan):
        # against nothing, ATOMMIC still has the prediction's span
        assert undefined.volume["nmse"] is None
        assert undefined.reasons
    assert nan.volume["ssim"] is None
    if preset in ("calgary", "mridc", "skimage"):
        assert one.slices[1]["ssim"] is None
        assert "1 of 3" in one.reasons["ssim"]
        assert one.volume["ssim"] == pytest.approx(np.mean([one.slices[i]["ssim"] for i in (0, 2)]))


def test_what_cannot_be_compared_is_refused():
    x, r = double()
    for call in (
        lambda: score_volume(x, r[:, :-1], "fastmri"),
        lambda: score_volume(x[0], r[0], "fastmri"),
        lambda: score_volume(x[:, :5], r[:, :5], "fastmri"),
        lambda: score_volume(x, r, "mrirecon"),
        lambda: score_volume(x, r, "calgary", mask=r > 0),
        lambda: hfen(x, r[:2]),
        lambda: hfen(x, np.zeros_like(r)),
        lambda: gmsd(x, np.zeros_like(r)),
    ):
        with pytest.raises(InputError):
            call()
    wide = score_volume(x[:, :30], r[:, :30], "fastmri")
    assert "not square" in wide.reasons["ssim"]


# edges


def test_hfen_is_the_error_behind_a_laplacian_of_a_gaussian():
    x, r = double()
    kernel = laplacian_of_gaussian().numpy()
    assert abs(kernel.sum()) < 1e-15
    assert kernel.shape == (15, 15)
    # the middle of MATLAB's fspecial('log', 15, 1.5), up to the sum it takes away: −1 / (π σ⁴)
    assert kernel[7, 7] == pytest.approx(-1 / (np.pi * 1.5**4), rel=1e-3)
    parts = [[signal.convolve2d(v, kernel, mode="same") for v in (a - b, b)] for a, b in zip(x, r, strict=True)]
    expected = [np.linalg.norm(e) / np.linalg.norm(v) for e, v in parts]
    assert hfen(x, r).numpy() == pytest.approx(expected, rel=1e-10)
    assert hfen(r, r).max() == 0
    blurred, noisy = (ndimage.gaussian_filter(r, (0, s, s)) for s in (2.0, 0.5))
    assert (hfen(blurred, r) > 2 * hfen(noisy, r)).all()


def test_gmsd_by_the_paper():
    x, r = double()
    expected = []
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    for a, b in zip(x, r, strict=True):
        gradients = []
        for v in (a / b.max(), b / b.max()):
            small = v.reshape(26, 2, 20, 2).mean((1, 3))
            across, down = (signal.convolve2d(small, k, mode="same") for k in (prewitt, prewitt.T))
            gradients.append(np.hypot(across, down))
        g, h = gradients
        c = 170 / 255**2
        expected.append(((2 * g * h + c) / (g**2 + h**2 + c)).std())
    assert gmsd(x, r).numpy() == pytest.approx(expected, rel=1e-10)
    assert gmsd(r, r).max() < 1e-12
    assert (gmsd(ndimage.gaussian_filter(r, (0, 2, 2)), r) > gmsd(ndimage.gaussian_filter(r, (0, 0.6, 0.6)), r)).all()
