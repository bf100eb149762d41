"""Test measured scans: they are reconstructed, and the methods have the expected ranking. Skipped without the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import espirit
from mrirecon.coils.sigpy_maps import sigpy_maps
from mrirecon.io import read, write_kspace
from mrirecon.masks import make_mask
from mrirecon.methods.registry import build, find_method
from mrirecon.metrics import mean_score, scores
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.reconstruction.calibrate import build_problem, calibration_data, item_maps
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

EVERY = ["brain_flash_16ch", "brain_t1_7ch", "brain_8ch_poisson8x", "knee_fatsat_1ch", "phantom_flash_16ch"]
POINTS_1D = {"brain_flash_16ch": (2, 3, 4), "brain_t1_7ch": (4, 6, 8)}


def undersampled(scan, family, rate, folder, seed=1):
    shape = scan.space_shape
    size = min(24, round(shape[-1] / rate * 0.4)) if family in ("random", "equispaced", "gaussian1d") else 20
    mask = make_mask(family, shape, rate, calibration=size if rate < 12 else 16, seed=seed).mask
    path = folder / f"{family}{rate}.h5"
    write_kspace(path, scan.kspace(0)[None] * mask, mask=mask)
    return read(path)


def open_scan(folder, name):
    return read(folder / f"{name}.npz", axes=None)


@pytest.mark.parametrize("name", EVERY)
def test_every_scan_reconstructs(real_kspace, name):
    scan = open_scan(real_kspace, name)
    found = reconstruct(scan)
    assert np.isfinite(found.images).all()
    assert found.images.shape == (len(scan), *scan.space_shape)
    magnitude = np.abs(found.images[0])
    # The object is in the middle: a shift by half the field of view would put it in the corners.
    centre = magnitude[tuple(slice(n // 4, 3 * n // 4) for n in magnitude.shape)].mean()
    assert centre > 1.2 * magnitude.mean()


def compare(folder, name, family, rate, tmp_path):
    scan = open_scan(folder, name)
    reference = sense_reference(scan)
    twin = undersampled(scan, family, rate, tmp_path)
    return {
        method: mean_score(scores(reconstruct(twin, method=method).images, reference))
        for method in ("zero-filled", "sense", "cs")
    }


def check_order(found):
    assert found["zero-filled"].ssim < found["sense"].ssim < found["cs"].ssim
    assert found["zero-filled"].psnr < found["sense"].psnr < found["cs"].psnr


@pytest.mark.parametrize(
    ("name", "family", "rate"), [("brain_flash_16ch", "equispaced", 4), ("brain_t1_7ch", "poisson", 8)]
)
def test_cs_over_sense_over_zero_filled(real_kspace, tmp_path, name, family, rate):
    check_order(compare(real_kspace, name, family, rate, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(POINTS_1D))
@pytest.mark.parametrize("family", ["random", "equispaced", "gaussian1d", "gaussian2d", "poisson"])
def test_cs_over_sense_over_zero_filled_everywhere(real_kspace, tmp_path, name, family):
    lines = family in ("random", "equispaced", "gaussian1d")
    for rate in POINTS_1D[name] if lines else (4, 8, 12):
        check_order(compare(real_kspace, name, family, rate, tmp_path))


def test_held_out_samples_are_predicted(real_kspace):
    """5 % of a prospective scan's samples outside its calibration region: CS predicts them better than CG-SENSE."""
    scan = open_scan(real_kspace, "brain_8ch_poisson8x")
    kspace, mask = scan.kspace(0), scan.mask(0)
    outside = mask.copy()
    outside[find_calibration(mask)] = False
    held = outside & (np.random.default_rng(0).random(mask.shape) < 0.05)
    kept = mask & ~held
    maps = item_maps(scan, 0, kspace * kept, kept)
    errors = {}
    for method in ("zero-filled", "sense", "cs"):
        problem = build_problem((kspace * kept).astype(np.complex64), kept, maps, find_method(method).use).problem
        with torch.no_grad():
            image = build(method)(problem)
        left = torch.from_numpy(held.astype(np.float32))[None, None]
        asked = Problem(torch.from_numpy(kspace * held)[None], left, problem.maps)
        errors[method] = float(norm(asked.residual(image)) / norm(asked.y))
    assert errors["cs"] < errors["sense"] < 1
    assert errors["sense"] < errors["zero-filled"]


FULL_CENTRE = ["brain_flash_16ch", "brain_t1_7ch", "phantom_flash_16ch", "brain_8ch_poisson8x"]


def maps_gap(scan, theirs):
    """Return the median difference from maps (C, y, x) of unit length, up to phase, where there is an object."""
    region = torch.from_numpy(calibration_data(scan, 0, *scan.measured(0), 24)[0])[None]
    found = espirit(region, scan.space_shape, threshold=0.02, crop=0)
    inside = found.values[0, 0].numpy() > 0.9
    ours = found.maps[0, 0].numpy()[:, inside].astype(complex)
    theirs = theirs[:, inside] / np.linalg.norm(theirs[:, inside].astype(complex), axis=0)
    turn = np.exp(1j * np.angle((ours.conj() * theirs).sum(0)))
    return np.median(np.abs(theirs - turn * ours))


@pytest.mark.parametrize("name", FULL_CENTRE)
def test_maps_agree_with_barts(real_kspace, bart, name):
    """At the same cut-off on singular values, of which BART takes the square."""
    scan = open_scan(real_kspace, name)
    kspace = np.moveaxis(scan.kspace(0), 0, -1)[:, :, None]
    theirs = np.moveaxis(bart("ecalib -m 1 -r 24 -k 6 -t 0.0004 -c 0 k out", k=kspace).squeeze(), -1, 0)
    assert maps_gap(scan, theirs) < 1e-3


@pytest.mark.parametrize("name", FULL_CENTRE)
def test_maps_agree_with_sigpys(real_kspace, name):
    scan = open_scan(real_kspace, name)
    region = calibration_data(scan, 0, *scan.measured(0), 24)[0]
    assert maps_gap(scan, sigpy_maps(torch.from_numpy(region)[None], scan.space_shape, crop=0)[0, 0].numpy()) < 1e-4


def test_a_transposed_scan_gives_the_transposed_image(real_kspace, tmp_path):
    scan = open_scan(real_kspace, "brain_flash_16ch")
    kspace = scan.kspace(0)
    write_kspace(tmp_path / "t.h5", np.ascontiguousarray(kspace.swapaxes(-1, -2))[None])
    a, b = sense_reference(scan)[0], sense_reference(read(Path(tmp_path / "t.h5")))[0]
    np.testing.assert_allclose(a.T, b, atol=2e-3 * a.max())
