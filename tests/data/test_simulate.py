from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrirecon.data.fields import WIRE, Loops, draw_gains, loop_field, noise_covariance
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import add_noise, coil_maps, object_phase, simulate_kspace
from mrirecon.errors import InputError

SHAPE = (48, 40)


def to_image(kspace):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


@pytest.fixture(scope="module")
def head():
    return phantom(SHAPE, 2, 3)


def test_everything_is_a_function_of_the_seed(head):
    first, again, other = (simulate_kspace(head, 4, 20, seed) for seed in (7, 7, 8))
    for name in ("kspace", "maps", "noise_covariance", "image"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.allclose(getattr(first, name), getattr(other, name))
    assert np.array_equal(head, phantom(SHAPE, 2, 3))
    assert not np.array_equal(head, phantom(SHAPE, 2, 4))


def test_without_noise_the_kspace_is_the_forward_model(head):
    simulated = simulate_kspace(head, 5, math.inf, 1)
    assert simulated.kspace.shape == simulated.maps.shape == (2, 5, *SHAPE)
    assert simulated.kspace.dtype == simulated.maps.dtype == simulated.image.dtype == np.complex64
    assert not simulated.noise_covariance.any()
    np.testing.assert_allclose(to_image(simulated.kspace), simulated.maps * simulated.image[:, None], atol=2e-6)
    np.testing.assert_allclose(np.abs(simulated.image), head, atol=1e-6)


def test_one_slice_comes_back_without_a_slice_axis(head):
    simulated = simulate_kspace(head[0], 3, 10, 1)
    assert simulated.kspace.shape == simulated.maps.shape == (3, *SHAPE)
    assert simulated.image.shape == SHAPE


def test_fewer_samples_are_the_middle_of_the_same_kspace(head):
    fine, coarse = (simulate_kspace(head, 3, math.inf, 1, shape=shape) for shape in (None, (31, 26)))
    ratio = math.sqrt(31 * 26 / (48 * 40))
    np.testing.assert_allclose(coarse.kspace, ratio * fine.kspace[..., 24 - 15 : 24 + 16, 20 - 13 : 20 + 13], atol=1e-5)
    # the band-limited image keeps its values, except for ringing
    assert np.abs(coarse.image).mean() == pytest.approx(np.abs(fine.image).mean(), rel=0.1)


def test_noise_has_the_covariance_and_the_snr_that_were_asked(head):
    clean, noisy = (simulate_kspace(head, 4, snr, 1) for snr in (math.inf, 12.0))
    noise = np.moveaxis((noisy.kspace - clean.kspace).astype(np.complex128), 1, 0).reshape(4, -1)
    measured = noise @ noise.conj().T / noise.shape[1]
    sigma2 = np.trace(noisy.noise_covariance).real / 4
    np.testing.assert_allclose(measured, noisy.noise_covariance, atol=0.06 * sigma2)
    assert np.abs(noise @ noise.T / noise.shape[1]).max() < 0.06 * sigma2, "both parts must have equal variance"
    assert head[head > 0.05 * head.max()].mean() / math.sqrt(sigma2) == pytest.approx(12.0, rel=1e-5)
    # into the corners, which are filled by noise
    assert np.abs(noisy.kspace[..., :4, :4]).std() > 0.3 * math.sqrt(sigma2)


def test_coils_share_noise_but_no_two_are_alike():
    maps, gains = torch.from_numpy(coil_maps(SHAPE, 8, 2))[None], torch.from_numpy(draw_gains(8, 2))[None]
    covariance = noise_covariance(maps, gains, torch.tensor([0.6]))[0].numpy()
    np.testing.assert_allclose(covariance, covariance.conj().T)
    assert np.linalg.eigvalsh(covariance).min() > 0.05
    assert np.trace(covariance).real / 8 == pytest.approx(1.0)
    own = np.sqrt(np.diag(covariance).real)
    shared = np.abs(covariance / np.outer(own, own))[~np.eye(8, dtype=bool)]
    assert shared.max() > 0.2
    assert own.max() / own.min() > 1.1


def test_zero_covariance_adds_nothing():
    data = np.ones((2, 4, 4), np.complex64)
    np.testing.assert_array_equal(add_noise(data, np.zeros((2, 2), complex), 1), data)


def test_the_field_of_a_loop_is_the_closed_form_on_its_axis():
    radius, distances = 0.5, np.array([0.0, 0.4, 1.3])
    points = torch.zeros(1, 3, 3, dtype=torch.float64)
    points[0, :, 2] = torch.from_numpy(distances)
    loop = Loops(np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]]), np.array([radius]), np.ones(1, complex), 1, (1, 1))
    field = loop_field(*(torch.from_numpy(part)[None] for part in loop.wire()), points)[0, 0].numpy()
    # B = 2πa² / (a² + z²)^{3/2} for μ0/4π = 1; the wire's thickness adds to the squared distance
    expected = 2 * math.pi * radius**2 / (radius**2 + distances**2 + WIRE**2) ** 1.5
    np.testing.assert_allclose(field[:, 2], expected, rtol=1e-6)
    np.testing.assert_allclose(field[:, :2], 0, atol=1e-12)


@pytest.mark.parametrize("coils", [1, 2, 8, 16, 32])
def test_maps_are_smooth_varied_and_normalised(coils):
    maps = coil_maps(SHAPE, coils, 5)
    assert maps.shape == (coils, *SHAPE)
    assert np.isfinite(maps).all()
    rows, columns = np.ogrid[-24:24, -20:20]
    ellipse = (rows / (0.85 * 24)) ** 2 + (columns / (0.85 * 20)) ** 2 < 1
    assert (np.abs(maps) ** 2).sum(0)[ellipse].mean() == pytest.approx(1.0, rel=0.02)
    strongest = np.abs(maps).max(axis=(1, 2))
    for axis in (1, 2):
        assert (np.abs(np.diff(maps, axis=axis)).max(axis=(1, 2)) < 0.35 * strongest).all()
    if coils > 1:
        # neither magnitude nor phase of the sensitivities is constant
        assert (np.abs(maps).min(axis=(1, 2)) < 0.4 * strongest).all()
        assert (np.abs(np.angle(maps * maps[:, :1, :1].conj())).max(axis=(1, 2)) > 0.3).all()
        flat = maps.reshape(coils, -1) / np.linalg.norm(maps.reshape(coils, -1), axis=1, keepdims=True)
        assert np.abs(np.triu(flat @ flat.conj().T, 1)).max() < 0.99


def test_maps_change_with_the_slice():
    near, far = (coil_maps(SHAPE, 8, 5, offset=z) for z in (0.0, 0.3))
    change = np.linalg.norm(near - far) / np.linalg.norm(near)
    assert 0.02 < change < 0.8


def test_the_phase_is_smooth_and_the_same_field_at_any_size():
    small, large = (object_phase(shape, 9) for shape in ((32, 24), (96, 72)))
    np.testing.assert_allclose(small, large[::3, ::3], atol=1e-9)
    assert np.ptp(small) > 1
    assert np.abs(np.diff(large, axis=0)).max() < 0.5


def test_the_phantom_is_a_textured_head_inside_the_field():
    image = phantom((90, 70), 3, 1)
    assert image.shape == (3, 90, 70)
    assert image.dtype == np.float32
    assert not image[:, [0, -1]].any()
    assert not image[:, :, [0, -1]].any()
    assert 0.3 < (image > 0.05).mean() < 0.75
    assert np.abs(image[0] - image[2]).mean() > 0.01
    assert np.abs(image - image[:, :, ::-1]).mean() > 0.01
    # tissue is nowhere constant
    middle = image[0, 40:50, 30:40]
    assert np.unique(middle).size > 90


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((2, 2, 8, 8)), {}),
        (-np.ones((8, 8)), {}),
        (np.full((8, 8), np.nan), {}),
        (np.ones((8, 8)), {"coils": 0}),
        (np.ones((8, 8)), {"snr": 0.0}),
        (np.ones((8, 8)), {"shape": (9, 8)}),
    ],
)
def test_what_cannot_be_simulated_is_refused(image, options):
    arguments = {"coils": 2, "snr": 10.0, "seed": 0} | options
    with pytest.raises(InputError):
        simulate_kspace(image, **arguments)


def test_a_phantom_too_small_is_refused():
    with pytest.raises(InputError, match="16 x 16"):
        phantom((8, 20), 1, 0)
    with pytest.raises(InputError):
        phantom((32, 32), 0, 0)
