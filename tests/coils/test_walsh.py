"""Test adaptive coil maps against known maps, and against ESPIRiT for a large calibration region."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.coils.espirit import principal_coil
from mrirecon.coils.walsh import walsh
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import CalibrationError, SignalError
from mrirecon.io import read, write_kspace
from mrirecon.masks import make_mask
from mrirecon.metrics import mean_score, scores
from mrirecon.reconstruction.preprocess import Preprocess, prepare
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

SIZE, COILS = (64, 56), 6


@pytest.fixture(scope="module")
def made():
    return simulate_kspace(phantom(SIZE, 1, 5), COILS, 60.0, 5)


def region(made, size=24):
    return torch.from_numpy(made.kspace[:, :, 32 - size // 2 : 32 + size // 2, 28 - size // 2 : 28 + size // 2])


def test_maps_are_the_true_ones_of_unit_length(made):
    maps = walsh(region(made), SIZE)
    assert maps.shape == (1, 1, COILS, *SIZE)
    length = maps.abs().square().sum(2).sqrt()
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-5, rtol=0)
    truth = made.maps[0] / np.linalg.norm(made.maps[0], axis=0)
    inside = np.abs(made.image[0]) > 0.2 * np.abs(made.image[0]).max()
    found = maps[0, 0].numpy()
    along = np.abs((truth.conj() * found).sum(0))[inside]  # 1 if they agree up to phase
    assert np.median(np.sqrt(np.maximum(0, 1 - along**2))) < 0.05


def test_phase_is_that_of_the_first_principal_coil(made):
    maps = walsh(region(made), SIZE)[0, 0]
    seen = torch.tensordot(principal_coil(region(made)[0]).conj(), maps, dims=([0], [0]))
    assert float((seen.imag.abs() / seen.abs().clamp_min(1e-3)).max()) < 1e-3
    assert float(seen.real.min()) >= 0


def test_scale_batch_and_global_phase(made):
    one = walsh(region(made), SIZE)
    turned = walsh(region(made) * 1e-9 * torch.exp(torch.tensor(1j)), SIZE)
    torch.testing.assert_close(one, turned, atol=1e-3, rtol=0)
    both = walsh(torch.cat([region(made), region(made).flip(1)]), SIZE)
    torch.testing.assert_close(both[:1], one)


def test_three_dimensions_and_small_regions():
    draw = torch.randn(1, 3, 6, 7, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert walsh(draw, (12, 9, 16)).shape == (1, 1, 3, 12, 9, 16)
    assert torch.isfinite(torch.view_as_real(walsh(draw[..., 0], (6, 7)))).all()


def test_what_has_no_maps(made):
    with pytest.raises(CalibrationError, match="too small"):
        walsh(region(made, 2), SIZE)
    with pytest.raises(CalibrationError, match="no calibration region"):
        walsh(region(made, 0), SIZE)
    with pytest.raises(SignalError, match="only zeros"):
        walsh(torch.zeros_like(region(made)), SIZE)
    with pytest.raises(SignalError, match="NaN"):
        walsh(region(made) * float("nan"), SIZE)


@pytest.mark.parametrize(("name", "behind"), [("brain_flash_16ch", 0.3), ("brain_t1_7ch", 0.6)])
def test_as_good_as_espirit_on_measured_data(real_kspace, tmp_path, name, behind):
    """8-fold Poisson disc with a centre of 24 x 24: PSNR of cs within some tenths of a decibel."""
    scan = read(real_kspace / f"{name}.npz")
    mask = make_mask("poisson", scan.space_shape, 8, calibration=24, seed=1).mask
    write_kspace(tmp_path / "k.h5", scan.kspace(0)[None] * mask, mask=mask)
    reference = sense_reference(scan)
    psnr = {}
    for maps in ("espirit", "walsh"):
        found = reconstruct(prepare(read(tmp_path / "k.h5"), Preprocess()), method="cs", maps=maps)
        psnr[maps] = mean_score(scores(found.images, reference)).psnr
        assert ("Walsh" in found.maps) == (maps == "walsh")
    assert psnr["walsh"] > psnr["espirit"] - behind
