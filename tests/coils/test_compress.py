"""Test coil compression: retained energy, unchanged data, and agreement with BART."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.coils.compression import compress, compress_maps, compression
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import SignalError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.masks import make_mask
from mrirecon.metrics import mean_score, scores
from mrirecon.physics.operators import Fourier
from mrirecon.reconstruction.preprocess import Preprocess, prepare, prepare_like
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

SIZE, COILS = (48, 40), 8


def to_kspace(images):
    return Fourier()(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def made():
    return simulate_kspace(phantom(SIZE, 1, 4), COILS, 60.0, 4)


def test_one_complex_direction_needs_one_coil():
    """The projection is by Uᴴ: by Uᵀ these coils would cancel each other."""
    image = phantom(SIZE, 1, 4)[0].astype(np.complex64)
    coils = np.exp(1j * np.arange(COILS)).astype(np.complex64)
    kspace = to_kspace(coils[:, None, None] * image)
    how = compression(kspace, coils=1)
    assert how.energy == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(compress(kspace, how)) == pytest.approx(np.linalg.norm(kspace), rel=1e-5)
    wrong = np.tensordot(how.matrices[0].conj(), kspace, 1)
    assert np.linalg.norm(wrong) < 0.5 * np.linalg.norm(kspace)


@pytest.mark.parametrize("readout", [None, -1, -2])
def test_rows_are_orthonormal_and_the_energy_is_what_it_says(made, readout):
    for coils in (1, 3, COILS):
        how = compression(made.kspace[0], coils=coils, readout=readout)
        product = how.matrices @ how.matrices.conj().swapaxes(1, 2)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(coils), product.shape), atol=1e-10)
        kept = np.linalg.norm(compress(made.kspace[0], how)) ** 2 / np.linalg.norm(made.kspace[0]) ** 2
        assert how.energy == pytest.approx(kept, rel=1e-4)
    assert how.energy == pytest.approx(1)


@pytest.mark.parametrize("readout", [None, -1])
def test_no_fewer_coils_than_keep_the_energy(made, readout):
    for energy in (0.5, 0.9, 0.99, 1.0):
        how = compression(made.kspace[0], energy=energy, readout=readout)
        assert how.energy >= energy - 1e-9
        coils = how.matrices.shape[1]
        if coils > 1:
            assert compression(made.kspace[0], coils=coils - 1, readout=readout).energy < energy


def test_geometric_follows_coils_that_change_along_the_readout():
    """Sensitivities that turn along x alone: one virtual coil at every place is enough, one for all is not."""
    image = phantom(SIZE, 1, 4)[0].astype(np.complex64)
    x = np.linspace(-1, 1, SIZE[1])
    turning = np.stack([np.exp(1j * c * x) * np.cos((1 + c / 4) * x) for c in range(4)]).astype(np.complex64)
    kspace = to_kspace(turning[:, None, :] * image)
    assert compression(kspace, coils=1, readout=-1).energy == pytest.approx(1, abs=1e-5)
    assert compression(kspace, coils=1).energy < 0.95


@pytest.mark.parametrize("readout", [None, -1, -2])
def test_maps_are_compressed_as_k_space_is(made, readout):
    """F (A S x) = compress(F S x): the virtual sensitivities explain the virtual coils' data."""
    maps, image = made.maps[0], made.image[0]
    kspace = to_kspace(maps * image)
    how = compression(made.kspace[0], coils=4, readout=readout)
    virtual = compress_maps(maps[None], how)
    np.testing.assert_allclose(to_kspace(virtual[0] * image), compress(kspace, how), atol=1e-5 * np.abs(kspace).max())


def test_neighbouring_places_are_aligned(made):
    """Virtual sensitivities stay smooth; eigenvectors as they come turn and swap from place to place."""
    full, middle = made.kspace[0], slice(10, 30)
    aligned = compression(full, coils=4, readout=-1).matrices[middle]
    hybrid = Fourier((-1,)).adjoint(torch.from_numpy(full)).numpy()[:, :, middle]
    raw = np.stack([np.linalg.svd(hybrid[:, :, x])[0][:, :4].conj().T for x in range(20)])
    step, before = (np.median(np.abs(np.diff(m, axis=0)).max(axis=(1, 2))) for m in (aligned, raw))
    assert step < 0.7 * before
    assert step < 0.2


def test_a_calibration_region_of_its_own_is_compressed_at_the_same_places(made):
    full = made.kspace[0]
    how = compression(full, coils=4, readout=-1)
    region = full[:, 12:36, 8:32]
    wide = np.zeros_like(full)
    wide[:, 12:36, 8:32] = region
    np.testing.assert_allclose(
        compress(region, how), compress(wide, how)[:, 12:36, 8:32], atol=1e-6 * np.abs(full).max()
    )


def test_all_coils_are_a_rotation(made, tmp_path):
    """As many virtual coils as coils: nothing is lost, and SENSE gives the same image."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, ::2] = mask[:, 12:28] = True
    write_kspace(tmp_path / "k.h5", made.kspace * mask, mask=mask)
    images = {}
    for options in (Preprocess(), Preprocess(coils=COILS), Preprocess(coils=COILS, compress="geometric")):
        found = reconstruct(prepare(read(tmp_path / "k.h5"), options), method="sense")
        images[options] = np.abs(found.images[0])
    plain, svd, geometric = images.values()
    assert np.linalg.norm(svd - plain) < 1e-3 * np.linalg.norm(plain)
    # If the matrices change along the readout, the data in an ESPIRiT kernel change as well: the maps are close, not
    # equal.
    assert np.linalg.norm(geometric - plain) < 0.05 * np.linalg.norm(plain)


def test_scale_does_not_matter(made):
    for factor in (1e-20, 1e18):
        scaled = (made.kspace[0] * np.float32(factor)).astype(np.complex64)
        assert compression(scaled, coils=3).energy == pytest.approx(compression(made.kspace[0], coils=3).energy)


def test_what_cannot_be_compressed(made, tmp_path):
    full = made.kspace[0]
    for asked in ({}, {"coils": 2, "energy": 0.9}, {"coils": 0}, {"coils": 9}, {"energy": 0.0}, {"energy": 1.1}):
        with pytest.raises(UsageError):
            compression(full, **asked)
    with pytest.raises(SignalError, match="without signal"):
        compression(np.zeros_like(full), coils=2)
    write_kspace(tmp_path / "one.h5", made.kspace[:, :1])
    with pytest.raises(UsageError, match="one coil"):
        prepare(read(tmp_path / "one.h5"), Preprocess(coils=1))
    write_kspace(tmp_path / "k.h5", made.kspace)
    with pytest.raises(UsageError, match="8 coils cannot be compressed to 9"):
        prepare(read(tmp_path / "k.h5"), Preprocess(coils=9))
    with pytest.raises(UsageError, match="the readout axis is not known"):
        prepare(read(tmp_path / "k.h5"), Preprocess(coils=4, compress="geometric"))


def test_every_item_keeps_what_was_asked(made, tmp_path):
    other = simulate_kspace(phantom(SIZE, 1, 9), COILS, 20.0, 8)
    write_kspace(tmp_path / "k.h5", np.concatenate([made.kspace, other.kspace]))
    plain = read(tmp_path / "k.h5")
    scan = prepare(read(tmp_path / "k.h5"), Preprocess(energy=0.97))
    assert scan.coils < COILS
    assert scan.shape["coil"] == scan.coils == len(scan.kspace(0))
    for item in range(2):
        assert np.linalg.norm(scan.kspace(item)) ** 2 >= 0.97 * np.linalg.norm(plain.kspace(item)) ** 2
    assert any(f"compressed to {scan.coils}" in note and "0.97 requested" in note for note in scan.notes)
    assert any("without whitening" in note for note in scan.notes)


@pytest.mark.parametrize(("flag", "readout"), [("-S", None), ("-G", -2)])
def test_energy_and_data_as_barts(real_kspace, bart, flag, readout):
    """BART's first axis is the readout. Its virtual coils span what ours do; geometric ones are aligned another way."""
    full = read(real_kspace / "brain_flash_16ch.npz").kspace(0)
    ours = compress(full, compression(full, coils=6, readout=readout))
    theirs = np.moveaxis(bart(f"cc -A -p 6 {flag} k out", k=np.moveaxis(full, 0, -1)[:, :, None]).squeeze(), -1, 0)
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=1e-4)
    if readout is None:
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3 * np.abs(theirs).max())


def test_what_eight_of_sixteen_coils_cost(real_kspace, tmp_path):
    """Measured brain, 3-fold undersampled: whitened and compressed to 8, the image stays what it was."""
    scan = read(real_kspace / "brain_flash_16ch.npz")
    mask = np.broadcast_to(make_mask("equispaced", scan.space_shape, 3, calibration=24, seed=1).mask, scan.space_shape)
    write_kspace(tmp_path / "k.h5", scan.kspace(0)[None] * mask, mask=mask)
    found = {}
    for coils in (None, 8):
        prepared = prepare(read(tmp_path / "k.h5"), Preprocess(whiten="rim", coils=coils))
        found[coils] = mean_score(
            scores(reconstruct(prepared, method="cs").images, sense_reference(prepare_like(scan, prepared)))
        )
    assert found[8].ssim > found[None].ssim - 0.02
    assert found[8].psnr > found[None].psnr - 1.0
