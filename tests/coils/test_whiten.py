"""Test prewhitening: definition of the covariance, white noise afterwards, and images in units of the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.coils.espirit import espirit
from mrirecon.coils.whitening import mix_coils, noise_covariance, whitening
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import InputError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.physics.problem import Problem
from mrirecon.reconstruction.preprocess import Preprocess, prepare
from mrirecon.reconstruction.preprocess.noise import background_noise, full_centre, rim_noise
from mrirecon.reconstruction.run import reconstruct
from tests.io import mrd_files as mrd

COILS = 6
RNG = np.random.default_rng


def correlated(count, coils=COILS, seed=0):
    """Return noise (coil, count) of a covariance with complex correlations and unequal coils, and that covariance."""
    draw = RNG(7)
    mix = draw.normal(size=(coils, coils)) + 1j * draw.normal(size=(coils, coils)) + 2 * np.eye(coils)
    mix *= np.linspace(1, 3, coils)[:, None]
    white = RNG(seed).normal(size=(2, coils, count)) * 0.5**0.5
    return mix @ (white[0] + 1j * white[1]), mix @ mix.conj().T


def away_from_white(covariance):
    return np.abs(covariance - np.eye(len(covariance))).max()


def test_covariance_is_complex_and_divided_by_n_minus_one():
    noise = np.array([[1 + 1j, 2, 3 - 1j], [1j, -1j, 0]])
    by_hand = np.array(
        [[np.vdot(b - b.mean(), a - a.mean()) / 2 for b in noise] for a in noise]  # E[n_a n_b*]
    )
    np.testing.assert_allclose(noise_covariance(noise), by_hand, atol=1e-12)
    assert abs(by_hand[0, 1].imag) > 0.1
    np.testing.assert_allclose(noise_covariance(noise, bandwidth=0.5), by_hand / 2, atol=1e-12)


def test_white_to_three_per_cent():
    """D10: whitened by one noise scan, another one has covariance 1."""
    scan, _ = correlated(40_000, seed=1)
    other, truth = correlated(40_000, seed=2)
    matrix = whitening(noise_covariance(scan)).matrix
    assert away_from_white(noise_covariance(mix_coils(other, matrix))) < 0.03
    assert away_from_white(matrix @ truth @ matrix.conj().T) < 0.03
    assert away_from_white(noise_covariance(other)) > 1


def test_a_conjugated_covariance_does_not_whiten():
    noise, truth = correlated(40_000)
    wrong = whitening(noise_covariance(noise).conj()).matrix
    assert away_from_white(wrong @ truth @ wrong.conj().T) > 0.3


def test_parity_with_bart(bart):
    noise, _ = correlated(2000)
    data, _ = correlated(64, seed=3)
    matrix = whitening(noise_covariance(noise)).matrix
    as_bart = {"n": noise.T[:, None, None], "k": data.T[:, None, None]}
    theirs = bart("whiten k n out", **as_bart).squeeze().T
    np.testing.assert_allclose(np.abs(theirs), np.abs(mix_coils(data, matrix)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("coils", [6, 8])
def test_noise_out_of_the_data(coils):
    """Simulated, so that the truth is known: the data whiten it, but for statistics and what signal leaks."""
    made = simulate_kspace(phantom((160, 144), 1, 3), coils, 30.0, 3)
    kspace, mask = made.kspace[0], np.ones((160, 144), dtype=bool)
    before = np.linalg.cond(made.noise_covariance)
    for source, limit, bias in ((background_noise, 0.15, 0.15), (rim_noise, 0.45, 0.35)):
        matrix = whitening(noise_covariance(source(kspace, mask))).matrix
        after = matrix @ made.noise_covariance @ matrix.conj().T
        assert np.linalg.norm(after - np.eye(coils)) / coils**0.5 < limit
        assert abs(np.trace(after).real / coils - 1) < bias
        assert np.linalg.cond(after) < 0.7 * before


def test_too_few_samples_are_refused():
    kspace = np.ones((8, 16, 16), dtype=np.complex64)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:12, 4:12] = True
    with pytest.raises(InputError, match="too few samples"):
        rim_noise(kspace, mask)
    with pytest.raises(InputError, match="too small to show a background"):
        background_noise(kspace, mask)


def test_auto_takes_the_background_only_where_it_shows(tmp_path):
    """A calibration region of 24 lines shows side lobes: there the null space is nearer the truth, and is taken."""
    made = simulate_kspace(phantom((128, 112), 1, 3), 4, 15.0, 3)
    lines = np.zeros((128, 112), dtype=bool)
    lines[:, ::3] = lines[:, 44:68] = True
    for mask, source in ((np.ones((128, 112), dtype=bool), "the background"), (lines, "the null space")):
        write_kspace(tmp_path / "k.h5", made.kspace * mask, mask=mask)
        white = prepare(read(tmp_path / "k.h5"), Preprocess(whiten="auto"))
        assert any(f"whitened by {source}" in note for note in white.notes)
        matrix = white.prepared.whitening.matrix
        after = matrix @ made.noise_covariance @ matrix.conj().T
        assert np.linalg.norm(after - np.eye(4)) / 2 < 0.35


def test_the_background_of_partial_fourier_is_that_of_its_symmetric_part():
    """Off centre, the centre of k-space would pass for its rim, and the object for noise."""
    made = simulate_kspace(phantom((160, 144), 1, 3), 4, 20.0, 3)
    mask = np.ones((160, 144), dtype=bool)
    mask[:, :14] = False
    assert full_centre(mask) == (slice(0, 160), slice(14, 130))
    assert full_centre(np.ones((9, 8), dtype=bool)) == (slice(0, 8), slice(0, 8))
    matrix = whitening(noise_covariance(background_noise(made.kspace[0] * mask, mask))).matrix
    assert np.linalg.norm(matrix @ made.noise_covariance @ matrix.conj().T - np.eye(4)) / 2 < 0.25


def test_what_cannot_be_whitened():
    noise, _ = correlated(500)
    dead, twin, nearly = noise.copy(), noise.copy(), noise.copy()
    dead[3] = 0
    twin[4] = 2j * twin[1]
    with pytest.raises(InputError, match="coil 3 has no noise"):
        whitening(noise_covariance(dead))
    with pytest.raises(InputError, match="singular"):
        whitening(noise_covariance(twin))
    nearly[4] = nearly[1] + 1e-3 * nearly[4]
    found = whitening(noise_covariance(nearly))
    assert found.condition > 1e4
    assert found.loading > 0
    assert (
        np.linalg.cond(found.matrix) < 1e4
    )  # otherwise, 1e3 times the noise of that channel would be taken for signal
    with pytest.raises(InputError, match="Hermitian"):
        whitening(np.array([[1, 1], [0, 1]], dtype=complex))
    for wrong in (noise.real, noise[:, :4], noise[0]):
        with pytest.raises(InputError, match="noise must be complex"):
            noise_covariance(wrong)
    with pytest.raises(UsageError, match="bandwidth"):
        noise_covariance(noise, bandwidth=0)
    with pytest.raises(InputError, match="number of coils differs"):
        mix_coils(noise[:3], np.eye(6))


def test_loudness_alone_is_no_fault():
    noise, _ = correlated(500)
    found = whitening(noise_covariance(noise * np.logspace(0, 4, COILS)[:, None]))
    assert found.loading == 0


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A simulated scan, its noise scan, and what it was made of."""
    made = simulate_kspace(phantom((64, 56), 1, 2), COILS, 1e6, 2)
    noise, covariance = correlated(20_000)
    level = np.abs(made.image).max() / 60
    shape = made.kspace.shape[1:]
    kspace = made.kspace[0] + level * correlated(64 * 56, seed=5)[0].reshape(shape)
    path = tmp_path_factory.mktemp("noisy") / "scan.h5"
    mask = np.zeros((64, 56), dtype=bool)
    mask[:, ::2] = mask[:, 18:38] = True
    write_kspace(path, (kspace[None] * mask).astype(np.complex64), mask=mask, maps=made.maps[:, None])
    return path, (level * noise).astype(np.complex64), made, level**2 * covariance


def test_images_in_units_of_the_noise(noisy):
    """D10: of 300 replicas, every pixel of a fully sampled combination has a standard deviation of 1 to 3 %."""
    _, noise, made, covariance = noisy
    matrix = whitening(noise_covariance(noise)).matrix
    white = mix_coils(made.kspace[0], matrix).astype(np.complex64)
    maps = espirit(torch.from_numpy(white)[None, :, 20:44, 16:40], (64, 56), crop=0).maps
    draws = correlated(300 * 64 * 56, seed=9)[0].reshape(COILS, 300, 64, 56).swapaxes(0, 1)
    draws = draws * np.sqrt(covariance[0, 0].real / correlated(2)[1][0, 0].real)
    replicas = torch.from_numpy(mix_coils(draws, matrix, axis=1).astype(np.complex64))
    one = torch.ones(1, 1, 64, 56)
    images = Problem(replicas, one, maps.expand(300, -1, -1, -1, -1)).adjoint[:, 0]
    deviation = images.abs().square().mean(0).sqrt()
    assert abs(float(deviation.mean()) - 1) < 0.03
    assert abs(float(deviation.square().mean()) - 1) < 0.03


def test_whitening_makes_sense_weigh_coils(noisy):
    """With a fixed, small regularization: the noise of the loud coils counts for less, and the image is nearer."""
    path, noise, made, _ = noisy
    truth = np.abs(made.image[0])
    inside = truth > 0.1 * truth.max()
    errors = {}
    for how in ("none", "noise"):
        scan = read(path)
        scan.noise = noise
        found = reconstruct(prepare(scan, Preprocess(whiten=how)), method="sense", lam=1e-3)
        image = np.abs(found.images[0])[inside]
        gain = (image @ truth[inside]) / (image @ image)
        errors[how] = np.linalg.norm(gain * image - truth[inside]) / np.linalg.norm(truth[inside])
    assert errors["noise"] < 0.8 * errors["none"]


def test_a_whitened_scan_says_so_and_whitens_everything(noisy):
    path, noise, _, _ = noisy
    scan = read(path)
    scan.noise = noise
    scan.attributes |= {"dwell_us": 10, "noise_dwell_us": 5}
    white = prepare(scan, Preprocess(whiten="auto"))
    matrix = whitening(noise_covariance(noise, 0.5)).matrix
    np.testing.assert_allclose(white.kspace(0), mix_coils(scan.kspace(0), matrix), rtol=1e-5)
    np.testing.assert_allclose(white.maps(0), mix_coils(scan.maps(0), matrix, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(white.mask(0), scan.mask(0))
    assert any("whitened by the noise scan" in note and "units of the noise" in note for note in white.notes)
    assert away_from_white(noise_covariance(white.noise) / 2) < 0.03
    del scan.attributes["dwell_us"]
    assert any("dwell" in note for note in prepare(scan, Preprocess(whiten="noise")).notes)
    with pytest.raises(UsageError, match="no noise scan"):
        prepare(read(path), Preprocess(whiten="noise"))


def test_the_noise_readouts_of_a_raw_file_whiten_it(tmp_path):
    """ISMRMRD, end to end: its noise readouts, scaled by the dwell times that the file states, make its noise white."""
    size, coils = (32, 24), 3
    noise, _ = correlated(9 * 4096, coils, seed=11)
    own = correlated(32 * 24, coils, seed=12)[0].reshape(coils, *size)
    kspace = own.astype(np.complex64)
    kspace[:, 16, 12] += 1e3
    readouts = [mrd.acquisition(part.astype(np.complex64), 0, mrd.NOISE) for part in np.split(noise, 36, axis=1)]
    text = mrd.header(mrd.encoding((*size, 1), centre=(size[1] // 2, 0)))
    scan = read(mrd.write(tmp_path / "k.h5", [*readouts, *mrd.lines(kspace)], text))
    ratio = scan.attributes["noise_dwell_us"] / scan.attributes["dwell_us"]
    white = prepare(scan, Preprocess(whiten="auto"))
    rest = white.kspace(0).reshape(coils, -1)
    rest = rest[:, np.abs(rest[0]) < 50]
    assert away_from_white(noise_covariance(rest) * ratio) < 0.15
    assert any("whitened by the noise scan" in note for note in white.notes)


@pytest.mark.parametrize("name", ["brain_t1_7ch", "brain_flash_16ch", "phantom_flash_16ch"])
def test_the_background_of_measured_images_is_in_units_of_noise(real_kspace, name):
    """D10: in the corners of a combination of unit length, E|n|² = 1; the corners' pixels are few, and differ."""
    scan = prepare(read(real_kspace / f"{name}.npz"), Preprocess(whiten="auto"))
    image = np.abs(reconstruct(scan, method="zero-filled", maps="unit").images[0])
    y, x = ([slice(n // 10, n // 6), slice(-n // 6, -n // 10)] for n in image.shape)
    corners = np.concatenate([image[a, b].ravel() for a in y for b in x])
    assert np.sqrt((corners**2).mean()) == pytest.approx(1, abs=0.06)


def test_the_seventh_channel_of_a_measured_scan(real_kspace):
    """It holds hardly any signal: whitened, its noise is that of the others, and maps give it what it deserves."""
    scan = prepare(read(real_kspace / "brain_t1_7ch.npz"), Preprocess(whiten="auto"))
    covariance = noise_covariance(background_noise(scan.kspace(0), scan.mask(0), fraction=0.05))
    assert away_from_white(covariance) < 0.15  # of the darkest half of the pixels that it was whitened by
    assert any("7 coils from" in note for note in scan.notes)
