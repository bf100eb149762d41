"""Test coil maps against sigpy, BART and the true maps, and at the limits of their parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import _row_space, crop_weights, espirit
from mrirecon.coils.noise import noise_deviation
from mrirecon.coils.sigpy_maps import sigpy_maps
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import CalibrationError, SignalError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.masks import make_mask
from mrirecon.reconstruction.calibrate import EspiritOptions, calibrate, item_maps


@pytest.fixture(scope="module")
def scan():
    """A known scan: k-space (C, y, x), true maps of unit length, where the object is."""
    made = simulate_kspace(phantom((97, 84), 1, 3), 6, 60.0, 3)
    maps = made.maps.reshape(6, 97, 84)
    inside = np.abs(made.image).reshape(97, 84) > 0.05 * np.abs(made.image).max()
    return made.kspace[0].astype(np.complex64), maps / np.linalg.norm(maps, axis=0), inside


def middle(kspace, size=24):
    box = find_calibration(np.ones(kspace.shape[1:], bool), size)
    return torch.from_numpy(np.ascontiguousarray(kspace[(slice(None), *box)]))[None]


def distance(a, b):
    """sin of the angle between coil vectors (C, y, x), at every voxel: phases do not count."""
    cosine = np.abs((a.conj() * b).sum(0)) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0))
    return np.sqrt(np.clip(1 - cosine**2, 0, 1))


def test_the_truth(scan):
    kspace, truth, inside = scan
    found = espirit(middle(kspace), (97, 84), crop=0).maps[0, 0].numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-5)
    assert np.median(distance(found, truth)[inside]) < 0.01


def test_sigpy_agrees(scan):
    kspace, _, inside = scan
    region = middle(kspace)
    theirs = sigpy_maps(region, (97, 84), kernel=6, threshold=0.02, crop=0)[0, 0].numpy()
    ours = espirit(region, (97, 84), threshold=0.02, crop=0).maps[0, 0].numpy()
    assert np.median(distance(ours, theirs)[inside]) < 1e-3


def test_bart_agrees(scan, bart):
    kspace, _, inside = scan
    # BART cuts by the square of the singular value, and returns the image of sets side by side.
    theirs = bart("ecalib -S -m 1 -r 24 -k 6 -t 0.0004 -c 0 k out", k=np.moveaxis(kspace, 0, -1)[:, :, None])
    theirs = np.moveaxis(theirs.squeeze(), -1, 0)
    ours = espirit(middle(kspace), (97, 84), threshold=0.02, crop=0).maps[0, 0].numpy()
    assert np.median(distance(ours, theirs)[inside]) < 1e-3


def test_phase_is_smooth_and_that_of_the_first_principal_coil(scan):
    kspace, _, inside = scan
    region = middle(kspace)
    maps = espirit(region, (97, 84), crop=0).maps[0, 0].numpy()
    flat = region[0].flatten(1)
    principal = np.linalg.eigh((flat @ flat.mH).numpy())[1][:, -1]
    virtual = np.tensordot(principal.conj(), maps, 1)
    phase = virtual[inside] / np.abs(virtual[inside])
    assert np.abs(phase - phase.mean()).max() < 1e-3, "one phase everywhere"
    turned = espirit(region * np.exp(1j * 0.7), (97, 84), crop=0).maps[0, 0].numpy()
    np.testing.assert_allclose(turned, maps, atol=1e-3)


def folded():
    """k-space (C, y, x) of an object twice as wide as the field of view."""
    made = simulate_kspace(phantom((96, 96), 1, 1), 6, 80.0, 1)
    return made.kspace[0][:, :, ::2].astype(np.complex64)


def test_two_sets_span_what_barts_span(bart):
    """Where the object folds, the two coil vectors of each voxel span the same plane, whatever their own phase."""
    kspace = folded()
    found = espirit(middle(kspace), (96, 48), sets=2, threshold=0.02, crop=0, power_steps=20)
    theirs = bart("ecalib -m 2 -r 24 -k 6 -t 0.0004 -c 0 k out", k=np.moveaxis(kspace, 0, -1)[:, :, None])
    theirs = np.moveaxis(theirs.squeeze(), (-2, -1), (1, 0))  # (M, C, y, x)
    both = found.values[0, 1].numpy() > 0.95
    assert both.sum() > 200
    ours, theirs = found.maps[0].numpy()[:, :, both], theirs[:, :, both]
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    overlap = np.einsum("acn,bcn->nab", ours.conj(), theirs)
    smallest = np.linalg.svd(overlap, compute_uv=False)[:, -1]
    assert np.median(np.sqrt(np.clip(1 - smallest**2, 0, 1))) < 0.02


def test_two_sets_show_a_folded_object():
    """An object larger than the field of view needs two coil vectors where it overlaps itself."""
    found = espirit(middle(folded()), (96, 48), sets=2, crop=0)
    values = found.values[0].numpy()
    assert (values[0] >= values[1] - 1e-6).all()
    assert (values[1] > 0.9).mean() > 0.1, "where it folds, a second map is sure"
    v = found.maps[0].numpy()
    assert np.abs((v[0].conj() * v[1]).sum(0)).max() < 1e-3, "orthogonal"


def volume():
    """k-space (C, z, y, x) of a ball seen by four coils, their maps, and where it is."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (18, 20, 16)], indexing="ij"))
    maps = np.stack([np.exp(-((grid - c[:, None, None, None]) ** 2).sum(0)) for c in rng.uniform(-1, 1, (4, 3))])
    maps = maps * np.exp(1j * rng.uniform(0, 6, 4))[:, None, None, None]
    inside = (grid**2).sum(0) < 0.6
    image = np.where(inside, 1 + 0.2 * rng.normal(size=inside.shape), 0)
    axes = (1, 2, 3)
    coils = np.fft.ifftshift(maps * image, axes)
    return np.fft.fftshift(np.fft.fftn(coils, axes=axes, norm="ortho"), axes).astype(np.complex64), maps, inside


def missed(found, exact):
    """The largest sine of the angle between an eigenvector that is an object's and the span of what was found."""
    worst = 0.0
    for true, value in zip(exact.maps[0], exact.values[0], strict=True):
        seen = sum((v.conj() * true).sum(0).abs().square() for v in found.maps[0])
        worst = max(worst, float((1 - seen[value > 0.7]).clamp(0, 1).max().sqrt()) if bool((value > 0.7).any()) else 0)
    return worst


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("coils", [4, 11])
@pytest.mark.parametrize("space", [(90, 75), (61, 47), (33, 120)])
def test_the_coarse_grid_spoils_no_voxel(space, coils, sets):
    """Of objects that reach the edge of the field of view and beyond: as on the full grid, in every voxel."""
    made = simulate_kspace(phantom((128, 128), 1, coils), coils, 30.0, coils).kspace[0].astype(np.complex64)
    for kspace in (made, made[:, ::2], made[:, :, ::2]):
        region = middle(kspace)
        exact = espirit(region, space, sets=sets, crop=0, coarse=1, power_steps=0)
        assert missed(espirit(region, space, sets=sets, crop=0), exact) < 0.03


@pytest.mark.parametrize("sets", [1, 2])
def test_the_coarse_grid_of_a_large_image_follows_the_kernel(sets):
    """H(r) turns as fast as the kernel lets it: more pixels need no more points, and spoil no voxel either."""
    made = simulate_kspace(phantom((128, 128), 1, 4), 4, 30.0, 4).kspace[0].astype(np.complex64)
    for kspace in (made, made[:, ::2]):
        region, space = middle(kspace), (236, 200)
        exact = espirit(region, space, sets=sets, crop=0, coarse=1, power_steps=0)
        found = espirit(region, space, sets=sets, crop=0)
        assert found.spectrum.shape[2:] == espirit(region, (400, 300), sets=sets, crop=0).spectrum.shape[2:]
        assert missed(found, exact) < 0.03


@pytest.mark.parametrize("sets", [1, 2])
def test_the_coarse_grid_spoils_no_voxel_of_a_volume(sets):
    kspace, _, _ = volume()
    for part in (kspace, kspace[:, :, ::2]):
        region, space = middle(part, 10), (19, 17, 14)
        exact = espirit(region, space, kernel=4, sets=sets, crop=0, coarse=1, power_steps=0)
        assert missed(espirit(region, space, kernel=4, sets=sets, crop=0), exact) < 0.03


def test_sigpy_agrees_to_the_edge_of_the_field_of_view():
    """An object as wide as the field of view: where there is one map, it is sigpy's in every voxel."""
    kspace = simulate_kspace(phantom((128, 128), 1, 2), 8, 60.0, 2).kspace[0].astype(np.complex64)[:, :, ::2]
    region = middle(kspace)
    # sigpy iterates without a stopping rule: if two eigenvalues are close, it has not converged
    exact = espirit(region, (90, 75), sets=2, crop=0, coarse=1, power_steps=0)
    one = ((exact.values[0, 0] > 0.7) & (exact.values[0, 0] - exact.values[0, 1] > 0.1)).numpy()
    theirs = sigpy_maps(region, (90, 75), kernel=6, threshold=0.02, crop=0)[0, 0].numpy()
    ours = espirit(region, (90, 75), crop=0).maps[0, 0].numpy()
    assert one.mean() > 0.2
    assert distance(ours, theirs)[one].max() < 0.05


def test_three_dimensions_and_bart(bart):
    kspace, _, inside = volume()
    theirs = bart("ecalib -m 1 -r 12 -k 4 -t 0.0004 -c 0 k out", k=np.moveaxis(kspace, 0, -1))
    theirs = np.moveaxis(theirs.squeeze(), -1, 0)
    ours = espirit(middle(kspace, 12), (18, 20, 16), kernel=4, threshold=0.02, crop=0).maps[0, 0].numpy()
    assert np.median(distance(ours, theirs)[inside]) < 2e-3


def test_three_dimensions():
    kspace, maps, inside = volume()
    found = espirit(middle(kspace, 12), (18, 20, 16), kernel=4, crop=0).maps[0, 0].numpy()
    assert np.median(distance(found, maps)[inside]) < 0.03


@pytest.mark.parametrize("space", [(31, 29), (24, 64), (65, 33)])
def test_any_size(scan, space):
    kspace, _, _ = scan
    found = espirit(middle(kspace), space)
    assert found.maps.shape == (1, 1, 6, *space)
    assert found.values.shape == (1, 1, *space)


def test_a_batch_is_its_items(scan):
    kspace, _, _ = scan
    a, b = middle(kspace), middle(kspace[::-1].copy())
    both = espirit(torch.cat([a, b]), (40, 40)).maps
    torch.testing.assert_close(both[:1], espirit(a, (40, 40)).maps)
    torch.testing.assert_close(both[1:], espirit(b, (40, 40)).maps)
    # The gain of a coil is not part of a map. A power of two does not change rounding; near equal eigenvalues, rounding
    # rotates eigenvectors.
    torch.testing.assert_close(espirit(a * 2**-17, (40, 40)).maps, both[:1], rtol=1e-4, atol=1e-5)


def test_crop_weights():
    values = torch.tensor([0.2, 0.69, 0.8, 0.91, 1.0])
    assert crop_weights(values, 0).tolist() == [1] * 5
    assert crop_weights(values, 0.8, soft=False).tolist() == [0, 0, 1, 1, 1]
    soft = crop_weights(values, 0.8)
    assert soft.tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)
    assert (crop_weights(torch.linspace(0, 1, 50), 0.8).diff() >= 0).all()


@pytest.mark.parametrize(
    ("region", "options", "error", "words"),
    [
        (torch.zeros(1, 4, 8, 8, dtype=torch.complex64), {}, SignalError, "zeros"),
        (torch.full((1, 4, 8, 8), torch.nan, dtype=torch.complex64), {}, SignalError, "NaN"),
        (torch.ones(1, 4, 4, 8, dtype=torch.complex64), {}, CalibrationError, "too small"),
        (torch.ones(1, 4, 0, 8, dtype=torch.complex64), {}, CalibrationError, "no calibration region"),
        (torch.ones(1, 4, 8, 8, dtype=torch.complex64), {"sets": 3}, UsageError, "3 sets"),
        (torch.ones(1, 1, 8, 8, dtype=torch.complex64), {"sets": 2}, UsageError, "1 coils"),
    ],
)
def test_what_cannot_be_estimated(region, options, error, words):
    with pytest.raises(error, match=words) as caught:
        espirit(region, (16, 16), **options)
    assert caught.value.fix


@pytest.mark.parametrize("family", ["random", "equispaced", "gaussian1d", "gaussian2d", "poisson"])
@pytest.mark.parametrize("size", [16, 20])
def test_the_calibration_region_is_found(family, size):
    mask = make_mask(family, (90, 101), 4, calibration=size, seed=2).mask
    box = find_calibration(mask)
    assert mask[box].all()
    sides = [s.stop - s.start for s in box]
    assert sides[1] >= size
    assert all(s.start <= n // 2 < s.stop for s, n in zip(box, mask.shape, strict=True))
    limited = [s.stop - s.start for s in find_calibration(mask, 8)]
    assert limited == [8, 8]


def test_noise_is_measured():
    rng = np.random.default_rng(0)
    made = simulate_kspace(phantom((128, 128), 1, 1), 4, 1e9, 1)
    clean = made.kspace[0] / np.abs(made.kspace).max()
    true = np.array([1, 2, 3, 4]) * 1e-4
    noise = rng.normal(size=(2, *clean.shape)) * true[:, None, None] / 2**0.5
    found = noise_deviation((clean + noise[0] + 1j * noise[1]).astype(np.complex64), np.ones((128, 128), bool))
    np.testing.assert_allclose(found, true, rtol=0.15)


def test_noise_under_a_readout_filter():
    """Receivers press the ends of the field of view down, noise included: they must not be taken for the background."""
    rng = np.random.default_rng(1)
    made = simulate_kspace(phantom((128, 128), 1, 2), 4, np.inf, 2)
    clean = made.kspace[0] / np.abs(made.kspace).max()
    noise = 2e-4 * (rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)) / 2**0.5
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(clean + noise, axes=(1, 2))), axes=(1, 2))
    ends = np.clip(1.05 - np.abs(np.arange(128) - 64) / 64, 0.02, 0.2)[:, None] / 0.2  # from 0.85 outwards
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image * ends, axes=(1, 2))), axes=(1, 2))
    found = noise_deviation(kspace.astype(np.complex64), np.ones((128, 128), bool))
    np.testing.assert_allclose(found, 2e-4, rtol=0.25)


def test_calibrate_and_its_sources(scan, tmp_path):
    kspace, _, _ = scan
    write_kspace(tmp_path / "k.h5", np.stack([kspace, kspace]))
    file = read(tmp_path / "k.h5")
    maps = calibrate(file, options=EspiritOptions(size=20))
    assert maps.shape == (2, 1, 6, 97, 84)
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)
    for source in ("espirit", "sigpy", "unit"):
        one = item_maps(file, 0, kspace, np.ones((97, 84), bool), source=source)
        length = one.maps.abs().square().sum(2).sqrt()
        assert float(length.max()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("box", [(10, 14), (24, 24)])
def test_the_smaller_gram_matrix_has_the_same_row_space(box):
    """Of few patches, their own products are decomposed: the same projection onto what the region spans."""
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(n, 12, dtype=torch.complex64, generator=generator) for n in (box[0] * box[1], 200)]
    matrix = factors[0] @ factors[1].mT
    power, vectors = _row_space(matrix)
    kept = vectors[:, power > 1e-4 * power[-1]]
    assert kept.shape[1] == 12
    exact = torch.linalg.svd(matrix, full_matrices=False)
    wanted = exact.Vh[:12].mH @ exact.Vh[:12]
    assert (kept @ kept.mH - wanted).abs().max() < 1e-4
    assert torch.allclose(power[-12:].flip(0), exact.S[:12] ** 2, rtol=1e-3)
