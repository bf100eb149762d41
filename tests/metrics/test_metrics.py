"""Test the score: equal to scikit-image if defined, else None with a reason."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import metrics as oracle

from mrirecon.errors import InputError
from mrirecon.metrics import (
    least_squares_scale,
    mean_score,
    nmse,
    object_mask,
    psnr,
    score,
    score_metrics,
    scores,
    ssim,
    ssim_map,
)


def disc(ny: int = 48, nx: int = 40, seed: int = 0) -> np.ndarray:
    """Return a round object with texture and a hole on a dark background with faint noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ny, :nx]
    r = np.hypot((y - ny / 2) / ny, (x - nx / 2) / nx)
    texture = ndimage.gaussian_filter(rng.random((ny, nx)), 1.5)
    return np.where((r < 0.35) & (r > 0.05), 0.4 + texture, 0) + 0.005 * rng.random((ny, nx))


def noisy(image: np.ndarray, level: float = 0.05, seed: int = 1) -> np.ndarray:
    return np.abs(image + level * np.random.default_rng(seed).normal(size=image.shape))


def t(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)


@settings(max_examples=60, deadline=None)
@given(st.integers(7, 40), st.integers(7, 40), st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.01, 10))
def test_ssim_equals_scikit_image(ny: int, nx: int, seed: int, mean: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    # Of values far from zero scikit-image itself keeps fewer digits: it sums squares as they are.
    a, b = spread * (mean + rng.normal(size=(2, ny, nx)))
    span = float(np.abs(b).max())
    expected, full = oracle.structural_similarity(a, b, data_range=span, full=True)
    assert float(ssim(t(a), t(b), span)) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(ssim_map(t(a), t(b), span).numpy(), full[3:-3, 3:-3], rtol=0, atol=1e-12)


def test_ssim_over_a_region_is_the_mean_of_the_map_there() -> None:
    b = disc()
    a, region = noisy(b), np.random.default_rng(3).random(b.shape) > 0.6
    _, full = oracle.structural_similarity(a, b, data_range=b.max(), full=True)
    inside = region.copy()
    inside[:3] = inside[-3:] = inside[:, :3] = inside[:, -3:] = False
    assert float(ssim(t(a), t(b), b.max(), region=t(region))) == pytest.approx(full[inside].mean(), abs=1e-12)


def test_a_batch_is_its_images_one_by_one() -> None:
    b = np.stack([disc(seed=i) * (i + 1) for i in range(6)]).reshape(2, 3, 48, 40)
    a, peak = noisy(b), b.max((-2, -1))
    region = object_mask(b)
    for measure in (ssim, psnr):
        together = measure(t(a), t(b), t(peak), region=region)
        assert together.shape == (2, 3)
        alone = measure(t(a[1, 2]), t(b[1, 2]), float(peak[1, 2]), region=region[1, 2])
        torch.testing.assert_close(together[1, 2], alone, rtol=1e-12, atol=0)
    torch.testing.assert_close(nmse(t(a), t(b))[0, 1], nmse(t(a[0, 1]), t(b[0, 1])), rtol=1e-12, atol=0)


def test_psnr_and_nmse_equal_scikit_image() -> None:
    b = disc()
    a = noisy(b)
    expected = oracle.peak_signal_noise_ratio(b, a, data_range=b.max())
    assert float(psnr(t(a), t(b), b.max())) == pytest.approx(expected, abs=1e-12)
    assert float(nmse(t(a), t(b))) == pytest.approx(oracle.normalized_root_mse(b, a) ** 2, rel=1e-12)
    assert float(psnr(t(b), t(b), b.max())) == math.inf


def test_ssim_is_as_good_in_single_precision() -> None:
    b = 100 + disc()  # far from zero, where squares lose digits
    a = noisy(b)
    single = ssim_map(t(a).float(), t(b).float(), 1.4)
    assert float((single - ssim_map(t(a), t(b), 1.4)).abs().max()) < 2e-3
    b, a = disc(), noisy(disc())
    assert abs(float(ssim(t(a).float(), t(b).float(), b.max())) - float(ssim(t(a), t(b), b.max()))) < 1e-6


@pytest.mark.parametrize("case", ["equal", "constant", "zero", "noisy"])
def test_the_gradient_is_finite_and_right(case: str) -> None:
    b = disc(16, 14)
    a = {"equal": b, "constant": np.full_like(b, 0.5), "zero": np.zeros_like(b), "noisy": noisy(b)}[case]
    image = t(a.copy()).requires_grad_()
    value = ssim(image, t(b), b.max())
    (gradient,) = torch.autograd.grad(value, image)
    assert bool(torch.isfinite(gradient).all())
    if case == "equal":
        assert float(gradient.abs().max()) < 1e-8, "equal images have the maximum"
    direction = torch.randn(b.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-5
    change = ssim(t(a) + step * direction, t(b), b.max()) - ssim(t(a) - step * direction, t(b), b.max())
    assert float((gradient * direction).sum()) == pytest.approx(float(change) / (2 * step), rel=1e-5, abs=1e-6)


def test_equal_constant_images_are_alike() -> None:
    flat = torch.full((3, 9, 9), 0.25, dtype=torch.float64)
    torch.testing.assert_close(ssim(flat, flat, 1.0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_object_is_closed_and_filled() -> None:
    b = disc()
    mask = object_mask(b)
    assert bool(mask[24, 20]), "the hole is part of the object"
    assert not bool(mask[0].any())
    outline = np.zeros((32, 32))
    outline[4:28, 4:28] = 1
    outline[8:24, 8:24] = 0
    outline[4:8, 15] = 0  # a gap of one pixel in the outline
    assert bool(object_mask(outline)[16, 16])
    assert not bool(object_mask(np.zeros((8, 8))).any())
    # An object that fills the image keeps its edge.
    assert bool(object_mask(np.ones((12, 10))).all())
    volume = np.stack([b, 1000 * b])
    assert bool((object_mask(volume)[0] == object_mask(volume)[1]).all()), "each slice has its own threshold"


def test_the_score_is_as_documented() -> None:
    b = disc()
    a = 3.7 * noisy(b) * np.exp(1j * np.linspace(0, 5, b.size).reshape(b.shape))
    scored = score(a, b)
    inside = np.asarray(
        ndimage.binary_fill_holes(ndimage.binary_closing(b > 0.05 * np.percentile(b, 99.8), iterations=2))
    )
    x = np.abs(a)
    s = (x * b)[inside].sum() / (x * x)[inside].sum()
    _, full = oracle.structural_similarity(s * x, b, data_range=b.max(), full=True)
    error = (s * x - b)[inside]
    assert scored.scale == pytest.approx(s, rel=1e-12)
    assert scored.ssim == pytest.approx(full[inside].mean(), abs=1e-12)
    assert scored.psnr == pytest.approx(10 * np.log10(b.max() ** 2 / (error**2).mean()), abs=1e-10)
    assert scored.nmse == pytest.approx((error**2).sum() / (b[inside] ** 2).sum(), rel=1e-10)
    assert scored.reasons == {}


@settings(max_examples=25, deadline=None)
@given(st.floats(-35, 35), st.floats(-35, 35))
def test_the_score_does_not_depend_on_scale(one: float, other: float) -> None:
    b = disc(20, 18)
    a = noisy(b)
    expected, scored = score(a, b), score(a * 10**one, b * 10**other)
    for name in score_metrics():
        assert getattr(scored, name) == pytest.approx(getattr(expected, name), rel=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex64, np.int16, ">f4"])
def test_any_type_of_number_and_tensor(kind: object) -> None:
    b = np.round(1000 * disc())
    a = np.round(1000 * noisy(disc()))
    expected = score(a, b)
    assert score(a.astype(kind), b.astype(kind)).ssim == pytest.approx(expected.ssim, abs=1e-12)
    assert score(t(a).float(), t(b).to(torch.complex64)) == expected
    frozen = a.astype(kind)
    frozen.flags.writeable = False
    assert score(frozen[::-1], b[::-1]).nmse == pytest.approx(expected.nmse, rel=1e-12)


def test_a_better_image_scores_better() -> None:
    b = disc()
    scored = [score(noisy(b, level), b) for level in (0.02, 0.05, 0.1)]
    for better, worse in pairwise(scored):
        assert better.ssim > worse.ssim
        assert better.psnr > worse.psnr
        assert better.nmse < worse.nmse


def test_what_is_undefined_is_none_with_a_reason() -> None:
    b = disc()
    same = score(b, b)
    assert same.psnr is None
    assert same.nmse < 1e-30
    assert same.ssim == pytest.approx(1, abs=1e-12)
    assert "infinite" in same.reasons["psnr"]
    scaled = score(3 * b, b)
    assert scaled.psnr is None, "images that differ in scale are equal up to rounding"
    for image, reference, word in ((b, 0 * b, "zero"), (b * np.nan, b, "image"), (b, b + np.inf, "reference")):
        scored = score(image, reference)
        assert [getattr(scored, name) for name in (*score_metrics(), "scale")] == [None] * 4
        assert all(word in scored.reasons[name] for name in score_metrics())
    edge = np.zeros((20, 20))
    edge[0] = 1
    scored = score(edge + 0.01 * disc(20, 20), edge)
    assert scored.ssim is None
    assert "border" in scored.reasons["ssim"]
    assert scored.psnr is not None


def test_an_empty_image_scores_badly_not_never() -> None:
    scored = score(np.zeros((48, 40)), disc())
    assert (scored.scale, scored.nmse) == (0, 1)
    assert scored.ssim < 0.2
    assert scored.psnr is not None


def test_a_volume_is_scored_slice_by_slice() -> None:
    b = np.stack([disc(seed=i) for i in range(3)])
    a = noisy(b)
    a[1] *= 5
    each = scores(a, b)
    assert each[1] == score(a[1], b[1])
    assert score(a, b) == mean_score(each)
    assert score(a, b).ssim == pytest.approx(np.mean([s.ssim for s in each]))
    a[2] = b[2]
    b[0] = 0
    part = score(a, b)
    assert part.ssim == pytest.approx((each[1].ssim + 1) / 2)
    assert part.psnr == pytest.approx(each[1].psnr)
    assert part.reasons["psnr"].startswith("undefined in 2 of 3 slices: the reference is zero")
    assert part.reasons["ssim"].startswith("undefined in 1 of 3")
    assert mean_score([]).ssim is None


def test_the_scale_is_the_least_squares_one() -> None:
    b = disc()
    a, region = noisy(b), object_mask(b)
    s = float(least_squares_scale(a, b, region))

    def misfit(scale: float) -> float:
        return float((((scale * a - b) * region.numpy()) ** 2).sum())

    assert misfit(s) < min(misfit(s * 1.001), misfit(s / 1.001))
    assert float(least_squares_scale(0 * a, b, region)) == 0
    both = least_squares_scale(np.stack([a, 2 * a]), np.stack([b, b]), torch.stack([region, region]).numpy())
    torch.testing.assert_close(both, torch.tensor([s, s / 2], dtype=torch.float64))


def test_what_cannot_be_compared_is_refused() -> None:
    b = t(disc())
    with pytest.raises(InputError, match=r"(?s)differ in shape.*\(48, 40\) and \(47, 40\)"):
        score(b, b[1:])
    with pytest.raises(InputError, match="cannot be scored"):
        score(b[:6], b[:6])
    with pytest.raises(InputError, match="too small"):
        ssim(b[:6], b[:6], 1.0)
    with pytest.raises(InputError, match="range"):
        ssim(b, b, 0.0)
    with pytest.raises(InputError, match="range"):
        ssim(b, b, float("nan"))
    with pytest.raises(InputError, match="real"):
        ssim(b + 0j, b, 1.0)
    nothing = torch.zeros(b.shape, dtype=torch.bool)
    for measure in (ssim, psnr):
        with pytest.raises(InputError, match="empty"):
            measure(b, b, 1.0, region=nothing)
    with pytest.raises(InputError, match="zero reference"):
        nmse(b, 0 * b)
