"""Test the assessment without a reference against closed forms and on a sample scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon.coils.noise import noise_deviation
from mrirecon.data.simulate import coil_maps
from mrirecon.errors import InputError
from mrirecon.evaluation.trust import examine, null_space, pseudo_replicas
from mrirecon.io import read
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient

SAMPLES = Path(__file__).parents[2] / "data_samples"
NY, NX = 40, 48


def maps(coils=6):
    estimated = np.asarray(coil_maps((NY, NX), coils, seed=0))
    estimated = estimated / np.sqrt((np.abs(estimated) ** 2).sum(0))
    return torch.from_numpy(estimated).to(torch.complex64)[None, None]


def problem(rate, coils=6):
    mask = torch.zeros(1, 1, NY, NX)
    mask[..., ::rate] = 1
    return Problem(torch.zeros(1, coils, NY, NX, dtype=torch.complex64), mask, maps(coils))


def least_squares(p):
    q = p.prepared()
    return conjugate_gradient(q.normal, q.adjoint, None, 40, 1e-7)


def analytic(sensitivities, rate):
    """Return Pruessmann's g-factor, √([(SᴴS)⁻¹]ᵢᵢ [SᴴS]ᵢᵢ), over pixels that alias onto each other."""
    s = sensitivities[0, 0].numpy()
    g = np.zeros((NY, NX))
    step = NX // rate
    for y in range(NY):
        for x in range(step):
            columns = x + step * np.arange(rate)
            gram = s[:, y, columns].conj().T @ s[:, y, columns]
            g[y, columns] = np.sqrt(np.real(np.diag(np.linalg.inv(gram)) * np.diag(gram)))
    return g


@pytest.mark.parametrize("rate", [2, 3])
def test_pseudo_replicas_give_sense_s_g_factor(rate):
    p, sigma = problem(rate), 0.3
    noise = pseudo_replicas(least_squares, p, np.full(6, sigma), 300)[0, 0].numpy()
    # fully sampled and with maps of unit power the combination's noise is σ
    result, expected = noise / sigma / rate**0.5, analytic(p.maps, rate)
    assert np.median(result / expected) == pytest.approx(1, abs=0.01)
    assert np.corrcoef(result.ravel(), expected.ravel())[0, 1] > 0.9 if rate == 3 else True
    assert expected.max() > 1.1, "otherwise the test shows nothing"


def test_noise_of_unequal_coils_is_what_it_is():
    p, level = problem(1), np.array([0.1, 0.5, 0.2, 0.1, 0.3, 0.1])
    noise = pseudo_replicas(least_squares, p, level, 200)[0, 0].numpy()
    power = p.maps[0, 0].abs().square().numpy()
    expected = np.sqrt((power * level[:, None, None] ** 2).sum(0))
    assert np.median(noise / expected) == pytest.approx(1, abs=0.02)
    with pytest.raises(InputError, match="two replicas"):
        pseudo_replicas(least_squares, p, level, 1)


def test_of_one_coil_the_null_space_is_what_was_not_sampled():
    mask = torch.zeros(1, 1, NY, NX)
    mask[..., ::2] = 1
    p = Problem(
        torch.zeros(1, 1, NY, NX, dtype=torch.complex64), mask, torch.ones(1, 1, 1, NY, NX, dtype=torch.complex64)
    )
    generator = torch.Generator().manual_seed(0)
    k = torch.complex(*(torch.randn(1, 1, NY, NX, generator=generator) for _ in range(2)))
    image = p.encode.adjoint(k)
    unseen = p.encode(null_space(p, image))
    assert norm(unseen * mask).max() < 2e-3 * norm(k).max()
    assert norm((unseen - k) * (1 - mask)).max() < 2e-3 * norm(k).max()


def test_several_coils_see_what_one_cannot():
    generator = torch.Generator().manual_seed(0)
    image = torch.complex(*(torch.randn(1, 1, NY, NX, generator=generator) for _ in range(2)))
    share = [float(norm(null_space(problem(r), image)) / norm(image)) for r in (1, 2, 4, 8)]
    assert share[0] < 2e-3
    assert share[0] < share[1] < share[2] < share[3] < 1
    # six coils cannot unfold eight
    assert share[3] > 0.4


@pytest.mark.parametrize("method", ["sense", "cs"])
def test_a_sample_scan_is_examined(method):
    scan = read(SAMPLES / "brain_4x.h5")
    trust = examine(scan, method=method, replicas=6)
    assert 0 < trust.residual < 0.5
    assert 0 < trust.noise_share < trust.residual * 3
    assert trust.noise_share < trust.held_out < trust.held_out_zero_filled
    assert 0 < trust.null_share < 1
    assert 0.2 < trust.g_median < trust.g_high
    assert trust.null_space.shape == trust.noise.shape == trust.g.shape == scan.space_shape
    assert np.isfinite(trust.g).all()
    again = examine(scan, method=method, replicas=6)
    assert again.held_out == trust.held_out
    np.testing.assert_array_equal(again.noise, trust.noise)


def test_regularization_answers_less_to_noise_than_least_squares():
    scan = read(SAMPLES / "brain_4x.h5")
    sense, cs = (examine(scan, method=m, replicas=6) for m in ("sense", "cs"))
    assert cs.g_median < sense.g_median
    assert noise_deviation(scan.kspace(0), scan.mask(0)).min() > 0


def test_full_scans_need_no_such_check():
    with pytest.raises(InputError, match="fully sampled"):
        examine(read(SAMPLES / "brain_full.h5"))
