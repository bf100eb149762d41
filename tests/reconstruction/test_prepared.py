"""Test a scan that is averaged, cropped, whitened and compressed when read, and the messages of the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import UsageError
from mrirecon.io import Geometry, read, read_image, write_kspace
from mrirecon.io.safe import scratch
from mrirecon.physics.operators import Fourier
from mrirecon.reconstruction.preprocess import Preprocess, finish, prepare
from mrirecon.reconstruction.preprocess.stages import check_readout, crop_mask, mean_kspace, remove_oversampling
from mrirecon.reconstruction.run import reconstruct

SIZE, COILS = (48, 40), 4


def to_kspace(images):
    return Fourier()(torch.from_numpy(np.ascontiguousarray(images))).numpy()


def to_image(kspace):
    return Fourier().adjoint(torch.from_numpy(np.ascontiguousarray(kspace))).numpy()


def oversampled(factor=2, axis=-1):
    """An object in the middle of a field of view that is too large along an axis, four coils, with its maps."""
    made = simulate_kspace(phantom(SIZE, 1, 4), COILS, 50.0, 4)
    wide = list(SIZE)
    wide[axis] *= factor
    image = np.zeros((COILS, *wide), np.complex64)
    maps = np.zeros((COILS, *wide), np.complex64)
    inner = [slice(None)] * 3
    inner[axis] = slice(wide[axis] // 2 - SIZE[axis] // 2, wide[axis] // 2 + SIZE[axis] // 2)
    image[tuple(inner)], maps[tuple(inner)] = to_image(made.kspace[0]), made.maps[0]
    return to_kspace(image), maps, made


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("factor", [2, 3])
def test_cropping_gives_what_the_smaller_field_of_view_would_have(axis, factor):
    wide, _, made = oversampled(factor, axis)
    found = remove_oversampling(wide, axis, SIZE[axis])
    np.testing.assert_allclose(found, made.kspace[0], atol=1e-6 * np.abs(wide).max())
    if factor == 2:  # the same samples, of which every second one is enough for this object
        every = np.moveaxis(wide, axis, 1)[:, ::2] * 2**0.5
        np.testing.assert_allclose(np.moveaxis(found, axis, 1), every, atol=1e-5 * np.abs(wide).max())


def test_noise_stays_what_it_is_and_does_not_fold_in():
    draw = np.random.default_rng(0).normal(size=(2, 1, 64, 512))
    noise = (draw[0] + 1j * draw[1]).astype(np.complex64)
    assert np.std(remove_oversampling(noise, -1, 256)) == pytest.approx(np.std(noise), rel=0.02)
    assert np.std(noise[..., ::2] * 2**0.5) == pytest.approx(2**0.5 * np.std(noise), rel=0.02)


def test_an_undersampled_axis_is_no_readout():
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, ::2] = True
    check_readout(mask, -2, "y")
    with pytest.raises(UsageError, match="x is not a fully sampled readout"):
        check_readout(mask, -1, "x")
    np.testing.assert_array_equal(crop_mask(mask, -2, 24), mask[:24])
    for kept in (0, 49):
        with pytest.raises(UsageError, match="cannot be kept"):
            remove_oversampling(np.ones((1, *SIZE), np.complex64), -2, kept)


def test_a_cropped_scan(tmp_path):
    """k-space, mask, maps, field of view and a calibration region of its own all become those of the smaller scan."""
    wide, maps, made = oversampled()
    mask = np.zeros((48, 80), dtype=bool)
    mask[::2] = mask[18:30] = True
    region = np.ascontiguousarray(wide[:, 12:36, 21:60])
    np.savez(tmp_path / "k.npz", kspace=wide * mask, mask=mask, maps=maps, calibration=region, axes="coil,y,x")
    scan = read(tmp_path / "k.npz", axes="coil,y,x")
    scan.geometry = Geometry((300.0, 200.0, 5.0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), axes=("x", "y", "z"))
    small = prepare(scan, Preprocess(oversampling=2))
    assert small.shape == {"coil": 4, "y": 48, "x": 40}
    np.testing.assert_allclose(small.kspace(0), made.kspace[0] * mask[:, :40], atol=1e-6 * np.abs(wide).max())
    np.testing.assert_array_equal(small.mask(0), mask[:, :40])
    np.testing.assert_array_equal(small.maps(0)[0], made.maps[0])
    assert small.calibration.shape == (1, 4, 24, 19)
    assert small.geometry.fov_mm == (150.0, 200.0, 5.0)
    assert scan.geometry.fov_mm[0] == 300
    assert any("40 of 80 positions along x are kept" in note for note in small.notes)
    from_maps = reconstruct(small, method="sense", maps="file").images[0]
    assert from_maps.shape == SIZE
    for wrong, match in (
        (Preprocess(oversampling=1.7), "1.7-fold"),
        (Preprocess(oversampling=2, readout="y"), "not a fully sampled readout"),
        (Preprocess(oversampling=2, readout="z"), "no axis 'z'"),
    ):
        with pytest.raises(UsageError, match=match):
            prepare(scan, wrong)


def test_the_readout_is_told_by_the_mask_or_asked_for(tmp_path):
    wide, _, _ = oversampled()
    write_kspace(tmp_path / "full.h5", wide[None])
    with pytest.raises(UsageError, match="the readout axis is not known") as refused:
        prepare(read(tmp_path / "full.h5"), Preprocess(oversampling=2))
    assert "y and x are fully sampled" in refused.value.why
    assert prepare(read(tmp_path / "full.h5"), Preprocess(oversampling=2, readout="x")).space_shape == SIZE
    mask = np.zeros((48, 80), dtype=bool)
    mask[::2] = True
    write_kspace(tmp_path / "lines.h5", wide[None] * mask, mask=mask)
    assert prepare(read(tmp_path / "lines.h5"), Preprocess(oversampling=2)).space_shape == SIZE


def repeated(count=4, echoes=1):
    """k-space (repetition, echo, coil, y, x) of one object, noise drawn anew for each."""
    made = [simulate_kspace(phantom(SIZE, 1, 4), COILS, 1e6, 4).kspace[0] for _ in range(echoes)]
    clean = np.stack([m * 0.5**e for e, m in enumerate(made)])
    draw = np.random.default_rng(1).normal(size=(2, count, *clean.shape)) * np.abs(clean).max() * 2e-3
    return (clean + draw[0] + 1j * draw[1]).astype(np.complex64), clean


def test_the_mean_of_repetitions(tmp_path):
    kspace, clean = repeated(4)
    write_kspace(tmp_path / "k.h5", kspace[:, 0], axes="repetition,coil,y,x")
    plain = prepare(read(tmp_path / "k.h5"), Preprocess())
    assert len(plain) == 4
    assert any("4 repetitions: each is a separate item" in note for note in plain.notes)
    mean = prepare(read(tmp_path / "k.h5"), Preprocess(average=True))
    assert (len(mean), mean.items) == (1, [{}])
    np.testing.assert_allclose(mean.kspace(0), kspace[:, 0].mean(0), atol=1e-6 * np.abs(clean).max())
    fewer = np.linalg.norm(mean.kspace(0) - clean[0]) / np.linalg.norm(plain.kspace(0) - clean[0])
    assert fewer == pytest.approx(0.5, rel=0.05)  # noise falls with the root of their number
    assert reconstruct(mean, method="sense").images.shape == (1, *SIZE)
    single = tmp_path / "single.h5"
    write_kspace(single, kspace[:1, 0])
    with pytest.raises(UsageError, match="no repetitions or averages"):
        prepare(read(single), Preprocess(average=True))


def test_slices_stay_apart_when_repetitions_are_averaged(tmp_path):
    kspace, _ = repeated(3)
    both = np.stack([kspace[:, 0], 2 * kspace[:, 0]])  # slice, repetition
    write_kspace(tmp_path / "k.h5", both.swapaxes(0, 1), axes="repetition,slice,coil,y,x")
    mean = prepare(read(tmp_path / "k.h5"), Preprocess(average=True))
    assert mean.items == [{"slice": 0}, {"slice": 1}]
    np.testing.assert_allclose(mean.kspace(1), 2 * mean.kspace(0), rtol=1e-5)
    assert "slice 1" in mean.where(1)


def test_each_sample_is_averaged_over_those_that_acquired_it():
    ones = np.ones((1, 2, 2), np.complex64)
    first, second = np.array([[1, 1], [0, 0]], bool), np.array([[1, 0], [1, 0]], bool)
    mean, mask = mean_kspace([ones * 2 * first, ones * 4 * second], [first, second])
    np.testing.assert_array_equal(mean[0].real, [[3, 2], [4, 0]])
    np.testing.assert_array_equal(mask, [[1, 1], [1, 0]])


def test_whitening_knows_of_averages(tmp_path):
    """A noise scan is of one acquisition: the mean of four has a quarter of its variance."""
    kspace, clean = repeated(4)
    write_kspace(tmp_path / "k.h5", kspace[:, 0], axes="repetition,coil,y,x")
    scan = read(tmp_path / "k.h5")
    scan.noise = (kspace[:, 0] - clean[0]).swapaxes(0, 1).reshape(COILS, -1)
    white = prepare(scan, Preprocess(average=True, whiten="noise"))
    noise = white.kspace(0) - np.tensordot(white.prepared.whitening.matrix, clean[0], 1)
    assert np.std(noise) == pytest.approx(1, rel=0.05)


def test_echoes_are_combined_only_when_asked(tmp_path):
    kspace, _ = repeated(1, echoes=2)
    write_kspace(tmp_path / "k.h5", kspace[0], axes="echo,coil,y,x")
    apart = reconstruct(prepare(read(tmp_path / "k.h5"), Preprocess()), method="sense").images
    found = reconstruct(prepare(read(tmp_path / "k.h5"), Preprocess(echoes=True)), method="sense")
    np.testing.assert_allclose(found.images[0].real, np.sqrt((np.abs(apart) ** 2).sum(0)), rtol=1e-4)
    assert any("root sum of squares over 2 echo" in note for note in found.notes)
    write_kspace(tmp_path / "one.h5", kspace[0, :1])
    with pytest.raises(UsageError, match="no echoes"):
        prepare(read(tmp_path / "one.h5"), Preprocess(echoes=True))


def test_options_that_cannot_be_meant():
    for wrong in (
        {"whiten": "yes"},
        {"compress": "pca"},
        {"partial_fourier": "maybe"},
        {"oversampling": 0.5},
        {"coils": 0},
        {"energy": 2.0},
        {"coils": 4, "energy": 0.9},
    ):
        with pytest.raises(UsageError):
            Preprocess(**wrong)


def test_nothing_asked_nothing_changed(tmp_path):
    made = simulate_kspace(phantom(SIZE, 1, 4), COILS, 50.0, 4)
    write_kspace(tmp_path / "k.h5", made.kspace)
    plain, prepared = read(tmp_path / "k.h5"), prepare(read(tmp_path / "k.h5"), Preprocess())
    np.testing.assert_array_equal(prepared.kspace(0), plain.kspace(0))
    np.testing.assert_array_equal(prepared.unmasked_kspace(0), plain.unmasked_kspace(0))
    assert (prepared.shape, prepared.notes, prepared.sha256()) == (plain.shape, plain.notes, plain.sha256())
    assert prepared.store.arrays == plain.store.arrays


def test_blocks_are_of_what_was_prepared(tmp_path):
    """Volumes are read block by block, past `kspace`: what is read there is prepared all the same."""
    made = simulate_kspace(phantom(SIZE, 3, 4), COILS, 50.0, 4)
    stored = np.moveaxis(made.kspace, 1, -1)  # slice, y, x, coil
    np.savez(tmp_path / "k.npz", kspace=stored, maps=made.maps[:, None])
    scan = read(tmp_path / "k.npz", axes="slice,y,x,coil")
    part = (slice(4, 9), slice(2, 7))
    np.testing.assert_array_equal(scan.block(1, slice(1, 3), part), scan.unmasked_kspace(1)[1:3, 4:9, 2:7])
    np.testing.assert_array_equal(scan.maps_block(1, 2, part), scan.maps(1)[0, 2, 4:9, 2:7])
    small = prepare(scan, Preprocess(whiten="rim", oversampling=2, readout="x", coils=2))
    assert small.kspace(1).shape == (2, 48, 20)
    for item in (1, 2, 1):
        np.testing.assert_array_equal(small.block(item, slice(1, 2), part), small.kspace(item)[1:2, 4:9, 2:7])
        np.testing.assert_array_equal(small.maps_block(item, 1, part), small.maps(item)[0, 1, 4:9, 2:7])
    assert small.map_sets(2) == 1


def test_the_verb_applies_all_in_order_and_says_what(run, tmp_path):
    wide, _, _ = oversampled()
    draw = np.random.default_rng(2).normal(size=(2, 2, *wide.shape)) * np.abs(wide).max() * 1e-3
    kspace = (wide + draw[0] + 1j * draw[1]).astype(np.complex64)
    mask = np.zeros((48, 80), dtype=bool)
    mask[::2] = mask[14:34] = True
    mask[:12] = False
    write_kspace(tmp_path / "k.h5", kspace * mask, axes="repetition,coil,y,x", mask=mask)
    write_kspace(tmp_path / "full.h5", kspace, axes="repetition,coil,y,x")
    how = ["--combine", "average", "--whiten", "rim", "--remove-oversampling", "2", "--compress", "0.9"]
    how += ["--compress-by", "geometric", "--partial-fourier", "pocs", "--method", "sense"]
    code, _, err = run("reconstruct", "k.h5", "-o", "i.h5", *how, "--reference", "full.h5")
    assert code == 0, err
    order = ("complex mean", "whitened by the rim", "oversampling removed", "compressed to", "filled in by POCS")
    places = [err.index(word) for word in order]
    assert places == sorted(places)
    assert read_image("i.h5").shape == (1, *SIZE)
    side = json.loads((tmp_path / "i.h5.json").read_text())
    assert side["preprocess"] == {
        **{"average": True, "whiten": "rim", "oversampling": 2.0},
        **{"energy": 0.9, "compress": "geometric", "partial_fourier": "pocs"},
    }
    assert side["scores"]["mean"]["ssim"] > 0.7
    assert side["items"] == 1
    _, _, err = run("reconstruct", "k.h5", "-o", "j.h5", "--dry-run", *how)
    assert "compressed to" in err


def test_info_tells_partial_fourier(run, tmp_path):
    made = simulate_kspace(phantom(SIZE, 1, 4), COILS, 50.0, 4)
    mask = np.ones(SIZE, dtype=bool)
    write_kspace(tmp_path / "full.h5", made.kspace)
    mask[:, :10] = False
    write_kspace(tmp_path / "part.h5", made.kspace * mask, mask=mask)
    assert "partial Fourier" not in run("info", "full.h5")[1]
    assert "partial Fourier: 75% of the extent along x" in run("info", "part.h5")[1]
    told = json.loads(run("info", "part.h5", "--json")[1])
    assert told["sampling"]["partial_fourier"] == {"x": 0.75}


def test_three_dimensions(tmp_path):
    """Whitened, cropped and compressed along z, y, x as along y, x; maps by Walsh."""
    draw = np.random.default_rng(3)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 20, 24)), indexing="ij")
    ball = (z**2 + y**2 + (2 * x) ** 2 < 0.6).astype(np.float32)
    coils = np.stack([np.exp(-((y - a) ** 2 + (z - b) ** 2) + 1j * a * x) for a, b in draw.normal(size=(6, 2))])
    clean = Fourier((-3, -2, -1))(torch.from_numpy((coils * ball).astype(np.complex64))).numpy()
    noise = draw.normal(size=(2, *clean.shape)) * np.abs(clean).max() * 1e-3
    kspace = (clean + noise[0] + 1j * noise[1]).astype(np.complex64)
    mask = np.zeros((16, 20, 24), dtype=bool)
    mask[:, ::2] = mask[5:12, 6:15] = True
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask)
    scan = read(tmp_path / "k.npz", axes="coil,z,y,x")
    options = Preprocess(whiten="rim", oversampling=2, readout="x", coils=4, compress="geometric")
    found = reconstruct(prepare(scan, options), method="sense", maps="walsh", options={"iterations": 5})
    assert found.images.shape == (1, 16, 20, 12)
    middle = ball[:, :, 6:18]
    image = np.abs(found.images[0])
    assert image[middle > 0].mean() > 4 * image[middle == 0].mean()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--combine", "sum"], "'sum' is not one of 'average', 'echoes'"),
        (["--compress", "few"], "--compress cannot be 'few'"),
        (["--compress-by", "geometric"], "needs a number of coils"),
        (["--whiten", "noise"], "no noise scan"),
        (["--partial-fourier", "fill"], "'pocs', 'homodyne', 'zero', 'refuse'"),
        (["--remove-oversampling", "0"], "oversampling cannot be 0"),
    ],
)
def test_wrong_options_are_named(run, tmp_path, options, words):
    write_kspace(tmp_path / "k.h5", simulate_kspace(phantom(SIZE, 1, 4), COILS, 50.0, 4).kspace)
    code, _, err = run("reconstruct", "k.h5", "-o", "i.h5", *options)
    assert code == 2
    assert words in err
    assert not (tmp_path / "i.h5").exists()


def test_a_measured_knee_keeps_its_middle(real_kspace):
    """Twice too wide along its readout: the leg goes on beyond the middle, and is cut, not folded in."""
    full = read(real_kspace / "knee_fatsat_1ch.npz")
    small = prepare(read(full.path), Preprocess(oversampling=2, readout="x"))
    assert small.shape == {"coil": 1, "y": 332, "x": 320}
    before, after = np.abs(to_image(full.kspace(0)))[0], np.abs(to_image(small.kspace(0)))[0]
    np.testing.assert_allclose(after, before[:, 160:480], atol=1e-5 * before.max())
    folded = np.abs(to_image(full.kspace(0)[..., ::2]))[0] * 2**0.5
    assert np.linalg.norm(folded - after) > 0.3 * np.linalg.norm(after)


def test_large_images_are_finished_in_a_file(tmp_path, monkeypatch):
    """Images that lie in a file come back in a file, echo by echo; and as they would in memory."""
    kspace = np.zeros((2, 3, 2, 24, 20), np.complex64)
    rng = np.random.default_rng(0)
    kspace[...] = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    kspace[..., :5] = 0  # partial Fourier along x
    write_kspace(tmp_path / "k.h5", kspace, axes="slice,echo,coil,y,x")
    scan = prepare(read(tmp_path / "k.h5"), Preprocess(echoes=True, partial_fourier="pocs"))
    images = np.asarray(rng.standard_normal((6, 24, 20)) + 1j * rng.standard_normal((6, 24, 20)), np.complex64)
    kept = images.copy()
    wanted, _ = finish(scan, images)
    assert wanted.shape == (2, 24, 20)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    found, _ = finish(scan, images, [tmp_path])
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(images, kept)
