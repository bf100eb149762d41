"""Test noise measured from undersampled k-space against known noise, the weights derived from it, and noisy coils."""

from __future__ import annotations

import itertools
import json
from functools import cache

import numpy as np
import pytest
import torch

from mrirecon.cli import main
from mrirecon.coils.noise import measure_noise, noise_deviation, relative_noise
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import coil_maps, simulate_kspace
from mrirecon.evaluation.trust import pseudo_replicas
from mrirecon.io import read, write_kspace
from mrirecon.io.scan import Roles
from mrirecon.masks import make_mask
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import LOW_NOISE, default_weight, weight_by_noise
from mrirecon.metrics import object_mask
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient
from mrirecon.reconstruction.calibrate import build_problem, item_maps, item_noise
from mrirecon.reconstruction.preprocess import Preprocess, prepare
from mrirecon.reconstruction.run import reconstruct

SPACE = (128, 112)


@cache
def clean(coils=8):
    """Noise-free k-space (C, y, x) of a phantom, and its image by root sum of squares."""
    made = simulate_kspace(phantom(SPACE, 1, 5), coils, np.inf, 5)
    kspace = made.kspace[0].astype(np.complex128)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return kspace, np.sqrt((np.abs(image) ** 2).sum(0))


def inside(image):
    return object_mask(image[None])[0].numpy()


def white(shape, seed=0):
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *shape))
    return (real + 1j * imaginary) / 2**0.5


def correlated(coils, seed=1, share=0.2):
    """A covariance of trace C, condition about ten for a few coils."""
    mix = np.eye(coils) + share * white((coils, coils), seed)
    product = mix @ mix.conj().T
    return product * coils / np.trace(product).real


def scan_of(snr, coils=8, family="poisson", covariance=None, calibration=20, rate=4.0, seed=0):
    """Return k-space, mask, the image without noise, and σ."""
    kspace, image = clean(coils)
    sigma = image[inside(image)].mean() / snr
    mask = make_mask(family, SPACE, rate, calibration=calibration, seed=seed).mask
    root = np.linalg.cholesky(np.eye(coils) if covariance is None else covariance)
    noise = np.tensordot(root, white(kspace.shape, seed), axes=1) * sigma
    return ((kspace + noise) * mask).astype(np.complex64), mask, image, sigma


def kspace_with_noise(coils, sigma, seed=0):
    """Return fully sampled k-space (C, y, x) with noise of deviation σ."""
    kspace, _ = clean(coils)
    return (kspace + white(kspace.shape, seed) * sigma).astype(np.complex64)


# The noise itself.


FAMILIES, COILS, SNRS = ("poisson", "equispaced"), (4, 8, 16), (5, 60, 120)


@pytest.mark.parametrize(
    ("family", "coils", "snr"),
    # each pair of coils and SNR with one family; the other family is in the slow tests
    [
        pytest.param(family, coils, snr, marks=() if (f + c + s) % 2 == 0 else pytest.mark.slow)
        for f, family in enumerate(FAMILIES)
        for c, coils in enumerate(COILS)
        for s, snr in enumerate(SNRS)
    ],
)
def test_the_level_is_that_of_known_noise_whatever_the_signal(snr, coils, family):
    kspace, mask, _, sigma = scan_of(snr, coils, family)
    level = measure_noise(kspace, mask)
    found = np.sqrt((level.deviation**2).mean()) / sigma
    assert found == pytest.approx(1, abs=0.05 if snr <= 60 else 0.08)
    assert level.low < 1 / found < level.high, "the interval holds the truth"
    np.testing.assert_allclose(level.deviation / sigma, 1, atol=0.15)


@pytest.mark.parametrize("family", ["poisson", "equispaced"])
def test_correlations_are_found(family):
    true = correlated(6)
    kspace, mask, _, sigma = scan_of(40, 6, family, true)
    inverse = np.linalg.inv(np.linalg.cholesky(true)) / sigma
    left = np.linalg.eigvalsh(inverse @ measure_noise(kspace, mask).covariance @ inverse.conj().T)
    assert left[0] > 0.6
    assert left[-1] < 1.8
    assert np.linalg.cond(true) > 5, "or there is nothing to find"


@pytest.mark.parametrize(
    ("snr", "coils", "family", "share"),
    [(60, 8, "equispaced", 0.21), (120, 8, "equispaced", 0.21), (60, 16, "poisson", 0.21), (120, 16, "poisson", 0.14),
     (60, 16, "equispaced", 0.14), (300, 16, "poisson", 0.21), (120, 4, "equispaced", 0.21)],
)  # fmt: skip
def test_the_level_of_strongly_correlated_noise_is_right(snr, coils, family, share):
    """Loud combinations of coils are not taken for signal, and quiet ones do not set the level."""
    kspace, mask, _, sigma = scan_of(snr, coils, family, correlated(coils, 5, share))
    level = measure_noise(kspace, mask)
    found = np.sqrt((level.deviation**2).mean()) / sigma
    assert level.low < 1 / found < level.high, "the interval holds the truth"
    assert found == pytest.approx(1, abs=0.06 if snr <= 60 else 0.15 if snr <= 120 else 0.25)
    assert level.low > 0.7, "it was measured: no mere bound"


def test_masks_of_numbers_are_masks():
    kspace, mask, _, _ = scan_of(30, 4)
    level = measure_noise(kspace, mask)
    found = measure_noise(kspace, mask.astype(np.float32)).covariance
    np.testing.assert_array_equal(found, level.covariance)
    np.testing.assert_array_equal(noise_deviation(kspace, mask), level.deviation)


def test_without_noise_there_is_none():
    kspace, _ = clean()
    mask = make_mask("poisson", SPACE, 4.0, calibration=20, seed=0).mask
    level = measure_noise((kspace * mask).astype(np.complex64), mask)
    assert level.deviation.max() < 2e-6 * np.abs(kspace).max()


def test_without_a_calibration_region_it_is_an_upper_bound():
    kspace, mask, _, sigma = scan_of(30)
    mask = mask.copy()
    mask[56:72, 48:64] = False
    level = measure_noise(kspace * mask, mask)
    assert level.low == 0
    assert (level.deviation * level.high > sigma).all()


@pytest.mark.parametrize("lines", [0, 1, 4])
def test_a_few_central_lines_show_no_null_space(lines):
    _, _, _, sigma = scan_of(120, 16, "equispaced")
    full = kspace_with_noise(16, sigma)
    mask = np.zeros(SPACE, dtype=bool)
    mask[:, ::2] = True
    mask[:, 56 - lines // 2 : 56 + (lines + 1) // 2] = True
    level = measure_noise(full * mask, mask)
    assert level.low == 0, "a bound, for these lines are all signal"


@pytest.mark.parametrize("louder", [1.0, 3.0])
def test_a_separate_calibration_scan_tells_the_noise_of_regular_undersampling(louder, tmp_path):
    _, _, _, sigma = scan_of(60, 16, "equispaced")
    full = kspace_with_noise(16, sigma)
    mask = np.zeros(SPACE, dtype=bool)
    mask[:, ::2] = True
    acs = (louder * kspace_with_noise(16, sigma, seed=1)[:, :, 44:68]).astype(np.complex64)
    np.savez(tmp_path / "a.npz", kspace=(full * mask)[None], calibration=acs[None], axes="slice,coil,y,x")
    scan = read(tmp_path / "a.npz")
    level = item_noise(scan, 0, scan.kspace(0), scan.mask(0))
    found = np.sqrt((level.deviation**2).mean()) / sigma
    assert level.low > 0
    if louder == 1:
        assert found == pytest.approx(1, abs=0.05)
    else:
        bound = measure_noise(scan.kspace(0), scan.mask(0)).deviation
        assert found == pytest.approx(np.sqrt((bound**2).mean()) / sigma, rel=1e-6), "not above what k-space allows"


# Weights.


def posed(kspace, mask, use="weighted"):
    scan = _Held(kspace)
    return build_problem(kspace, mask, item_maps(scan, 0, kspace, mask), use)


class _Held:
    """As much of a scan as maps ask for."""

    calibration, roles = None, Roles("kspace")

    def __init__(self, kspace):
        self.coils = len(kspace)

    def where(self, item):
        return "here"


def error(image, truth):
    where = inside(truth)
    a, b = np.abs(image[where]), truth[where]
    scale = (a * b).sum() / (a * a).sum()
    return float(np.linalg.norm(scale * a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("snr", "family", "method"),
    [(3, "random", "cs"), (8, "poisson", "cs"), (3, "poisson", "cs-tv"), (8, "random", "cs-tv")],
)
def test_of_noisy_scans_the_default_is_better_than_zero_filling_and_near_the_best(snr, family, method):
    kspace, mask, truth, _ = scan_of(snr, family=family)
    problem, transform, _ = posed(kspace, mask)
    plain = posed(kspace, mask, "cropped").problem

    def at(lam):
        with torch.inference_mode():
            image = transform.undo(build(method, {"lam": lam, "iterations": 40}).run(problem).image)
        return error(image[0, 0].numpy(), truth)

    lam = float(weight_by_noise(method, problem)[0])
    ours, zero = at(lam), error(plain.adjoint[0, 0].numpy(), truth)
    assert ours < zero
    assert ours < 1.15 * min(at(lam / 2), at(lam * 2))
    assert at(default_weight(method, mask)) > (1.3 if snr == 3 else 1.02) * ours, "by the mask alone it is worse"


def test_the_weight_follows_the_noise_at_both_ends():
    weights = []
    for snr in (3, 10, 30, 100, 300):
        kspace, mask, _, _ = scan_of(snr)
        weights.append(float(weight_by_noise("cs", posed(kspace, mask)[0])[0]))
    assert all(a > b for a, b in itertools.pairwise(weights)), weights
    by_mask = default_weight("cs", mask)
    assert weights[0] > 10 * by_mask
    assert weights[-1] < 0.3 * by_mask
    assert 0 < LOW_NOISE < 0.02


def test_the_weight_does_not_depend_on_the_unit_or_on_others_in_the_batch():
    one = posed(*scan_of(8)[:2]).problem
    two = posed(*scan_of(40, family="random")[:2]).problem
    both = Problem(*(torch.cat([getattr(p, n) for p in (one, two)]) for n in ("y", "mask", "maps")))
    alone = torch.cat([weight_by_noise("cs", p) for p in (one, two)])
    torch.testing.assert_close(weight_by_noise("cs", both), alone)
    louder = Problem(both.y * 1e6, both.mask, both.maps)
    torch.testing.assert_close(weight_by_noise("cs", louder), alone, rtol=1e-3, atol=0)


def test_with_little_noise_stopping_costs_nothing():
    """Converged at a tenth of the tolerance, the image is no better."""
    kspace, mask, truth, _ = scan_of(400)
    problem, transform, _ = posed(kspace, mask)
    lam = float(weight_by_noise("cs", problem)[0])

    def at(**more):
        with torch.inference_mode():
            result = build("cs", {"lam": lam, **more}).run(problem)
        return error(transform.undo(result.image)[0, 0].numpy(), truth), int(result.iterations[0])

    ours, steps = at()
    longer, _ = at(tolerance=1e-4, iterations=250)
    assert 20 * np.log10(ours / longer) < 0.1
    assert steps <= 100


# Noisy coils.


def loud(kspace, mask, coil, factor, *, alone):
    """One coil louder, or one that receives noise alone."""
    changed = kspace.copy()
    sigma = np.median(noise_deviation(kspace, mask))
    changed[coil] = white(kspace.shape[1:], 9) * sigma * factor * mask if alone else kspace[coil] * factor
    return changed


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("factor", [10, 100])
def test_a_loud_coil_is_told(factor, alone):
    kspace, mask, _, _ = scan_of(30)
    found = relative_noise(loud(kspace, mask, 3, factor, alone=alone), mask)
    assert found[3] == pytest.approx(factor, rel=0.2)
    assert (np.delete(found, 3) == 1).all()


@pytest.mark.parametrize("snr", [5, 30, 300])
def test_usual_coils_are_not_loud(snr):
    for coils in (4, 16):
        kspace, mask, _, _ = scan_of(snr, coils)
        assert (relative_noise(kspace, mask) == 1).all()


@pytest.mark.parametrize("alone", [True, False])
def test_a_loud_coil_does_not_spoil_the_image(alone, tmp_path):
    kspace, mask, truth, _ = scan_of(30)
    np.savez(tmp_path / "loud.npz", kspace=loud(kspace, mask, 3, 60, alone=alone), mask=mask, axes="coil,y,x")
    np.savez(tmp_path / "usual.npz", kspace=np.delete(kspace, 3, 0) if alone else kspace, mask=mask, axes="coil,y,x")

    def made(name, **options):
        return reconstruct(prepare(read(tmp_path / name), Preprocess(**options)), method="cs")

    ours, without, usual = made("loud.npz"), made("loud.npz", whiten="none"), made("usual.npz")
    assert error(ours.images[0], truth) < 1.3 * error(usual.images[0], truth)
    assert np.abs(ours.images[0]).max() == pytest.approx(np.abs(usual.images[0]).max(), rel=0.1), "the unit stays"
    assert any("coils whose noise" in n and "divided" in n for n in ours.notes)
    assert any("coils whose noise" in n and "--whiten auto" in n for n in without.notes)
    assert not any("coils whose noise" in n for n in usual.notes)


# Replicas of correlated noise.


def analytic(maps, covariance, rate):
    """√([(SᴴΨ⁻¹S)⁻¹]ᵢᵢ [SᴴΨ⁻¹S]ᵢᵢ) of the pixels that fold onto each other (Pruessmann et al., MRM 42:952, 1999)."""
    inverse, (ny, nx) = np.linalg.inv(covariance), maps.shape[1:]
    g, step = np.zeros((ny, nx)), nx // rate
    for y in range(ny):
        for x in range(step):
            columns = x + step * np.arange(rate)
            s = maps[:, y, columns]
            gram = s.conj().T @ inverse @ s
            g[y, columns] = np.sqrt(np.real(np.diag(np.linalg.inv(gram)) * np.diag(gram)))
    return g


@pytest.mark.parametrize("kind", ["white", "correlated"])
@pytest.mark.parametrize("rate", [2, 4])
def test_the_g_factor_is_that_of_sense_for_correlated_noise(rate, kind):
    coils, ny, nx = 6, 24, 32
    maps = np.asarray(coil_maps((ny, nx), coils, seed=0))
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    covariance = np.eye(coils) if kind == "white" else correlated(coils)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    mixed = np.tensordot(whiten, maps, axes=1)

    def noise(rate):
        mask = torch.zeros(1, 1, ny, nx)
        mask[..., ::rate] = 1
        y = torch.zeros(1, coils, ny, nx, dtype=torch.complex64)
        p = Problem(y, mask, torch.from_numpy(mixed).to(torch.complex64)[None, None])

        def solve(q):
            q = q.prepared()
            return conjugate_gradient(q.normal, q.adjoint, None, 60, 1e-7)

        # whitened channels, as `trust --whiten` has them; their noise is W Ψ Wᴴ
        return pseudo_replicas(solve, p, whiten @ covariance @ whiten.conj().T, 256)[0, 0].numpy()

    found = noise(rate) / noise(1) / rate**0.5
    assert np.median(found / analytic(maps, covariance, rate)) == pytest.approx(1, abs=0.03)


def test_replicas_have_the_whole_covariance():
    """Of the combination S, fully sampled, noise has the variance SᴴΨS; drawn coil by coil it would not."""
    coils, covariance = 6, correlated(6)
    maps = np.asarray(coil_maps((24, 32), coils, seed=0))
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    p = Problem(
        torch.zeros(1, coils, 24, 32, dtype=torch.complex64),
        torch.ones(1, 1, 24, 32),
        torch.from_numpy(maps).to(torch.complex64)[None, None],
    )
    found = pseudo_replicas(lambda q: q.adjoint, p, covariance, 300)[0, 0].numpy()
    expected = np.sqrt(np.einsum("cyx,cd,dyx->yx", maps.conj(), covariance, maps).real)
    apart = np.sqrt(np.einsum("cyx,c,cyx->yx", maps.conj(), np.diag(covariance).real, maps).real)
    assert np.median(found / expected) == pytest.approx(1, abs=0.01)
    assert np.median(np.abs(apart / expected - 1)) > 0.03, "or there is nothing to tell"


def test_trust_tells_the_noise_and_whitens(tmp_path, capfd):
    kspace, mask, _, sigma = scan_of(30, 6, "equispaced", correlated(6))
    write_kspace(tmp_path / "k.h5", kspace[None], mask=mask)
    found = {}
    for how in ("none", "auto"):
        arguments = ["trust", str(tmp_path / "k.h5"), "-m", "sense", "--replicas", "4", "--whiten", how, "--json"]
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out = capfd.readouterr().out
        assert ended.value.code in (0, None), out
        found[how] = json.loads(out)
    assert found["none"]["noise_low"] < sigma < found["none"]["noise_high"]
    assert found["auto"]["noise_deviation"] == pytest.approx(1, abs=0.05)
