"""Test that wavelets are orthogonal at every size, and that proximal maps solve their minimization problem."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch

from mrirecon.errors import UsageError
from mrirecon.physics.operators import norm
from mrirecon.physics.regularizers import TotalVariation, WaveletL1, soft_threshold
from mrirecon.physics.wavelets import Wavelet
from tests.problems import draw

SIZES = [(16, 16), (17, 31), (1, 9), (2, 3), (96, 128), (320, 97), (230, 216), (12, 13, 14), (100, 5, 6)]


@pytest.mark.parametrize("name", ["haar", "db2", "db4", "sym8", "coif2"])
@pytest.mark.parametrize("space", SIZES, ids=str)
def test_wavelets_are_orthogonal(space, name):
    w, x = Wavelet(len(space), name, coarsest=4), draw(2, 1, *space)
    c = w(x)
    assert c.shape == x.shape
    torch.testing.assert_close(w.adjoint(c), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(w(w.adjoint(x)), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(norm(c), norm(x))


@pytest.mark.parametrize("name", ["haar", "db2", "db4"])
@pytest.mark.parametrize("n", [32, 96, 320])
def test_even_sizes_agree_with_pywavelets(name, n):
    x = np.random.default_rng(0).normal(size=(n, n))
    ours = Wavelet(2, name, coarsest=n // 2)(torch.from_numpy(x + 0j)[None, None])[0, 0].real.numpy()
    low, (lh, hl, hh) = pywt.dwt2(x, name, mode="periodization")
    h = n // 2
    for mine, theirs in ((ours[:h, :h], low), (ours[h:, :h], lh), (ours[:h, h:], hl), (ours[h:, h:], hh)):
        # The same coefficients, up to a cyclic shift.
        np.testing.assert_allclose(np.sort(np.abs(mine), None), np.sort(np.abs(theirs), None), atol=1e-10)


def test_blocks_equal_the_whole_matrix(monkeypatch):
    import mrirecon.physics.wavelets as module

    x = draw(1, 1, 320, 216)
    blocked = Wavelet(2, "db4")(x)
    monkeypatch.setattr(module, "_window_pairs", lambda n: 0)
    module._banded.cache_clear()
    whole = Wavelet(2, "db4")(x)
    module._banded.cache_clear()
    torch.testing.assert_close(blocked, whole, rtol=0, atol=1e-12)


def test_a_smooth_image_is_sparse():
    t = torch.linspace(-1, 1, 64, dtype=torch.float64)
    x = torch.exp(-4 * (t[:, None] ** 2 + t**2))[None, None] + 0j
    c = Wavelet(2, "db4")(x).abs().flatten().sort(descending=True).values.square()
    assert c[:300].sum() / c.sum() > 0.9999


def test_names_are_checked():
    for name in ("db99", "bior2.2", ""):
        with pytest.raises(UsageError, match="orthogonal"):
            WaveletL1(2, name)


def test_soft_threshold_keeps_phase_and_zero():
    x = torch.tensor([3 + 4j, 0, 0.1j], dtype=torch.complex128)
    torch.testing.assert_close(soft_threshold(x, 1.0), torch.tensor([2.4 + 3.2j, 0, 0], dtype=torch.complex128))


@pytest.mark.parametrize("space", [(12, 10), (7, 9), (4, 6, 5)], ids=str)
@pytest.mark.parametrize("make", [lambda n: WaveletL1(n, "db2", 3, shifts=False), lambda n: TotalVariation(n, 400)])
def test_prox_minimises(space, make):
    """No small step from the proximal point lowers ½‖u − x‖² + t R(u)."""
    r, x, t = make(len(space)), draw(2, 1, *space), 0.3
    u, _ = r.prox(x, t, 0, None)

    def objective(v):
        return 0.5 * norm(v - x).square() + t * r.value(v)

    best = objective(u)
    assert (best < objective(x)).all()
    for seed in range(20):
        for size in (1e-1, 1e-2, 1e-3):
            assert (objective(u + size * draw(*x.shape, seed=seed)) >= best - 1e-7).all()


@pytest.mark.parametrize("space", [(16, 16), (13, 18)], ids=str)
def test_wavelet_prox_is_its_closed_form(space):
    """Wᴴ shrink(W x), with the approximation left alone."""
    r, x, t = WaveletL1(2, "db2", 4, shifts=False), draw(2, 1, *space), 0.7
    c = Wavelet(2, "db2", 4)(x)
    shrunk = torch.where(c.abs() > t, c * (1 - t / c.abs()), torch.zeros_like(c))
    rows, columns = Wavelet(2, "db2", 4).shapes(space)[-1]
    shrunk[..., :rows, :columns] = c[..., :rows, :columns]
    torch.testing.assert_close(r.prox(x, t, 0, None)[0], Wavelet(2, "db2", 4).adjoint(shrunk))


def test_tv_prox_against_the_duality_gap():
    """At the solution the dual value equals the primal one: the prox is solved, not only improved."""
    r, x, t = TotalVariation(2, 3000), draw(1, 1, 16, 15), 0.4
    u, dual = r.prox(x, t, 0, None)
    primal = 0.5 * norm(u - x).square() + t * r.value(u)
    bound = 0.5 * norm(x).square() - 0.5 * norm(x - r.operator().adjoint(dual)).square()
    torch.testing.assert_close(primal, bound, rtol=1e-6, atol=0)


def test_tv_is_isotropic():
    """A single voxel has two differences where it stands, whose joint length is √2, and one at two neighbours."""
    x = torch.zeros(1, 1, 6, 6, dtype=torch.complex128)
    x[..., 2, 3] = 3j
    assert float(TotalVariation(2).value(x)) == pytest.approx(3 * (2 + 2**0.5))


def test_shifts_are_a_function_of_seed_and_iteration():
    r, x = WaveletL1(2, "haar,db4"), draw(1, 1, 32, 32)
    a, b, c = (r.prox(x, 0.5, i, None)[0] for i in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, WaveletL1(2, "haar,db4", seed=1).prox(x, 0.5, 3, None)[0])
