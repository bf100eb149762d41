"""Test partial Fourier: detection without false alarms, and filling for a smooth phase."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.data.phantom import phantom
from mrirecon.errors import InputError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.masks import make_mask
from mrirecon.masks.extent import Extent, extents, partial_axes
from mrirecon.physics.operators import Fourier
from mrirecon.reconstruction.preprocess import Preprocess, finish, prepare
from mrirecon.reconstruction.preprocess.partial_fourier import (
    homodyne,
    measured_part,
    pocs,
    smooth_phase,
    symmetry_error,
)
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

SHAPES = [(64, 64), (63, 65)]


def to_kspace(image):
    return Fourier()(torch.from_numpy(image)).numpy()


def to_image(kspace):
    return Fourier().adjoint(torch.from_numpy(kspace)).numpy()


def smooth_image(shape):
    """A phantom with smooth phase, of a radian or two."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (phantom(shape, 1, 3)[0] * np.exp(1j * (0.4 + 1.5 * x + y + 0.8 * x * y))).astype(np.complex64)


def cut(shape, axis, fraction, low=True):
    """Return a mask with a part of one side of an axis gone."""
    mask = np.ones(shape, dtype=bool)
    gone = shape[axis] - round(shape[axis] * fraction)
    np.moveaxis(mask, axis, 0)[slice(0, gone) if low else slice(shape[axis] - gone, None)] = False
    return mask


def error(image, truth):
    return np.linalg.norm(image - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("fraction", [0.75, 0.625])
def test_filling_in_beats_zeros_and_comes_near_the_full_image(shape, axis, low, fraction):
    truth = smooth_image(shape)
    mask = cut(shape, axis, fraction, low)
    where = partial_axes(mask)
    assert list(where) == [axis - 2]
    zero = to_image(to_kspace(truth) * mask)
    images = {"zero": zero, "homodyne": homodyne(zero, where), "pocs": pocs(zero, where)}
    filled = {how: error(image, truth) for how, image in images.items()}
    assert filled["pocs"] < 0.35 * filled["zero"]
    assert filled["pocs"] < filled["homodyne"] < 0.8 * filled["zero"]
    assert filled["pocs"] < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_a_real_image_is_all_but_exact(shape):
    """Without phase nothing stands in the way: half of k-space says everything."""
    truth = phantom(shape, 1, 3)[0].astype(np.complex64)
    zero = to_image(to_kspace(truth) * cut(shape, 1, 0.625))
    where = partial_axes(cut(shape, 1, 0.625))
    assert error(zero, truth) > 0.1
    assert error(pocs(zero, where), truth) < 5e-3
    assert error(homodyne(zero, where), truth) < 2e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_homodyne_weights_pairs_once(shape):
    """W(k) + W(-k) = 2: a real image through its weights, where the phase is known to be zero, is exact."""
    truth = phantom(shape, 1, 3)[0].astype(np.complex64) + 1  # positive: its low resolution has no phase either
    kspace = to_kspace(truth)
    if shape[0] % 2 == 0:
        kspace[0] = 0  # the lowest line of an even matrix has no partner to tell it
    truth = to_image(kspace)
    for low in (True, False):
        where = partial_axes(cut(shape, 0, 0.7, low))
        zero = to_image(measured_part(to_kspace(truth), where))
        assert error(homodyne(zero, where), truth) < 1e-4


def test_measured_samples_are_kept():
    """D12: POCS ends with what was measured."""
    truth, mask = smooth_image((64, 64)), cut((64, 64), 1, 0.7)
    kspace = to_kspace(truth) * mask
    found = to_kspace(pocs(to_image(kspace), partial_axes(mask)))
    np.testing.assert_allclose(found * mask, kspace, atol=1e-6 * np.abs(kspace).max())
    assert np.linalg.norm(found * ~mask) > 0.5 * np.linalg.norm(to_kspace(truth) * ~mask)


def test_two_axes():
    truth = smooth_image((64, 64))
    mask = cut((64, 64), 1, 0.75) & cut((64, 64), 0, 0.8, low=False)
    where = partial_axes(mask)
    assert set(where) == {-1, -2}
    zero = to_image(to_kspace(truth) * mask)
    # A corner has no measured conjugate sample, so the gain is smaller than along one axis.
    assert error(pocs(zero, where), truth) < 0.6 * error(zero, truth)
    with pytest.raises(UsageError, match="fills in only one axis"):
        homodyne(zero, where)


def test_coils_and_slices_are_filled_in_each_and_nothing_is_modified():
    truth = np.stack([smooth_image((64, 64)), 2j * smooth_image((64, 64))])
    where = partial_axes(cut((64, 64), 1, 0.75))
    zero = to_image(to_kspace(truth) * cut((64, 64), 1, 0.75))
    before = zero.copy()
    both = pocs(zero, where, iterations=5, tolerance=0)
    np.testing.assert_array_equal(zero, before)
    np.testing.assert_allclose(both[1], 2j * both[0], atol=1e-5)
    assert both.dtype == np.complex64


def test_random_patterns_are_not_taken_for_partial_fourier():
    taken = 0
    for family, rate in (("random", 4), ("random", 6), ("equispaced", 6), ("gaussian1d", 4), ("poisson", 8)):
        for seed in range(5 if family == "poisson" else 60):
            mask = make_mask(family, (96, 90), rate, calibration=12, seed=seed).mask
            taken += len(partial_axes(np.broadcast_to(mask, (96, 90))))
    assert taken <= 1


def test_undersampled_partial_fourier_is_told():
    lines = np.zeros((96, 90), dtype=bool)
    lines[:, ::4] = lines[:, 35:55] = True
    assert not partial_axes(lines)
    found = partial_axes(lines & cut((96, 90), 1, 0.75))
    assert list(found) == [-1]
    assert found[-1].start == 24  # the first line of every fourth that is left
    both_sides = np.ones((96, 90), dtype=bool)
    both_sides[:, :10] = both_sides[:, -10:] = False  # fastMRI's padding
    assert not partial_axes(both_sides)


def test_extent():
    e = extents(cut((8, 9), 1, 6 / 9))[1]
    assert (e.start, e.stop, e.size, e.reach, e.asymmetry) == (3, 9, 9, 1, 3)
    assert Extent(0, 8, 8).asymmetry == 0
    assert Extent(1, 8, 8).asymmetry == 0
    assert (Extent(2, 8, 8).asymmetry, Extent(2, 8, 8).reach) == (0, 2)
    assert Extent(3, 8, 8).asymmetry == 1


def test_half_without_a_centre_is_refused():
    where = {-1: Extent(32, 64, 64)}
    with pytest.raises(InputError, match="only one side of its centre"):
        smooth_phase(np.ones((64, 64), dtype=np.complex64), where)
    with pytest.raises(UsageError, match="POCS"):
        pocs(np.ones((64, 64), dtype=np.complex64), {-1: Extent(16, 64, 64)}, iterations=0)


def test_symmetry_tells_where_it_does_harm():
    """Of smooth phase it predicts what was measured; of phase that turns at every pixel it says nothing."""
    mask = cut((64, 64), 1, 0.7)
    smooth = smooth_image((64, 64))
    rough = np.abs(smooth) * np.exp(6j * np.random.default_rng(0).random((64, 64)))
    errors = [
        symmetry_error(to_image(to_kspace(image.astype(np.complex64)) * mask), partial_axes(mask), mask)
        for image in (smooth, rough)
    ]
    assert errors[0] < 0.4
    assert errors[1] > 0.9


def write(folder, kspace, mask):
    write_kspace(folder / "k.h5", (kspace * mask)[None].astype(np.complex64), mask=mask)
    return read(folder / "k.h5")


def test_a_scan_is_filled_in_and_says_so(tmp_path):
    truth, mask = smooth_image((64, 64)), cut((64, 64), 1, 0.7)
    scan = write(tmp_path, to_kspace(truth)[None], mask)
    images = {}
    for how in ("zero", "pocs", "homodyne"):
        prepared = prepare(read(scan.path), Preprocess(partial_fourier=how))
        found = reconstruct(prepared, method="zero-filled")
        images[how] = error(found.images[0], truth)
        assert any("70% of the extent along x was measured" in note for note in found.notes)
        assert any("Symmetry predicts" in note for note in found.notes) == (how != "zero")
    assert images["pocs"] < images["homodyne"] < images["zero"]
    with pytest.raises(UsageError, match="partial Fourier"):
        prepare(read(scan.path), Preprocess(partial_fourier="refuse"))
    with pytest.raises(UsageError, match="magnitude image"):
        reconstruct(prepare(read(scan.path), Preprocess(partial_fourier="pocs")), method="rss")


def test_every_item_is_looked_at_and_an_empty_image_stays_empty(tmp_path):
    truth, mask = smooth_image((64, 64)), cut((64, 64), 1, 0.7)
    kspace = np.stack([to_kspace(truth), to_kspace(truth) * mask])[:, None]
    write_kspace(tmp_path / "k.h5", kspace)
    with pytest.raises(UsageError, match="partial Fourier") as refused:
        prepare(read(tmp_path / "k.h5"), Preprocess(partial_fourier="refuse"))
    assert "slice 1" in refused.value.where
    scan = prepare(read(tmp_path / "k.h5"), Preprocess(partial_fourier="pocs"))
    images = np.stack([truth, np.zeros_like(truth)])
    np.testing.assert_array_equal(finish(scan, images)[0], images)


def test_a_full_scan_is_left_as_it_is(tmp_path):
    scan = write(tmp_path, to_kspace(smooth_image((64, 64)))[None], np.ones((64, 64), dtype=bool))
    plain = reconstruct(read(scan.path), method="zero-filled").images
    found = reconstruct(prepare(scan, Preprocess(partial_fourier="pocs")), method="zero-filled")
    np.testing.assert_array_equal(found.images, plain)
    assert not any("extent" in note for note in found.notes)


def test_measured_spin_echo_gains_and_gradient_echo_is_warned_of(real_kspace, tmp_path):
    """5/8 of two measured brains: the T1 comes nearer; of the FLASH, whose phase turns fast, a note warns."""
    for name, gains in (("brain_t1_7ch", True), ("brain_flash_16ch", False)):
        full = read(real_kspace / f"{name}.npz")
        mask = cut(full.space_shape, 1, 0.625)
        scan = write(tmp_path, full.kspace(0), mask)
        truth = sense_reference(full)[0]
        zero, filled = (
            reconstruct(prepare(read(scan.path), Preprocess(partial_fourier=how)), method="zero-filled")
            for how in ("zero", "pocs")
        )
        nearer = error(np.abs(filled.images[0]), truth) < 0.9 * error(np.abs(zero.images[0]), truth)
        assert nearer == gains
        assert any("zero filling would be more accurate" in note for note in filled.notes) != gains
