"""Test that the objective of BART is minimized to the same value; for wavelets, compare the image quality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.methods.registry import build
from mrirecon.physics.operators import norm
from mrirecon.physics.problem import Problem
from mrirecon.physics.regularizers import TotalVariation
from mrirecon.tools.benchmark import run
from tests.problems import known_problem


def arrays(p):
    """k-space and maps in BART's order (x, y, z, coil)."""
    kspace = p.y[0].movedim(0, -1).unsqueeze(2).numpy()
    maps = p.maps[0, 0].movedim(0, -1).unsqueeze(2).numpy()
    return {"k": kspace, "s": maps}


def posed(space=(64, 60)):
    p, _ = known_problem(space, coils=6, rate=3)
    scale = float(p.adjoint.abs().max())
    return Problem(p.y / scale, p.mask, p.maps)


def from_bart(x, p):
    return torch.from_numpy(np.ascontiguousarray(x.squeeze()))[None, None].to(p.y.dtype)


# BART's CG has no stopping rule: far beyond convergence its float32 recursion breaks down.
@pytest.mark.parametrize(("lam", "count"), [(0.003, 200), (0.05, 50)])
def test_tikhonov(bart, lam, count):
    p = posed()
    theirs = from_bart(bart(f"pics -w 1 -i {count} -l2 -r {lam} k s out", **arrays(p)), p)
    model = build("sense", {"lam": lam, "iterations": 300, "tolerance": 1e-7})
    with torch.no_grad():
        ours = model.engine(p)
    assert float(norm(ours - theirs) / norm(theirs)) < 1e-4


def test_total_variation(bart):
    p, lam = posed(), 0.01
    theirs = from_bart(bart(f"pics -w 1 -i 1000 -R T:3:0:{lam} k s out", **arrays(p)), p)
    model = build("cs-tv", {"lam": lam, "iterations": 300, "tolerance": 0.0})
    with torch.no_grad():
        ours = model.engine(p)
    r = TotalVariation(2)

    def objective(x):
        return float(p.data_term(x)[0] + lam * r.value(x)[0])

    assert objective(ours) == pytest.approx(objective(theirs), rel=1e-4)
    assert float(norm(ours - theirs) / norm(theirs)) < 1e-3


def test_wavelets_by_quality(bart):
    """Each at its own best weight of a sweep: no more error than BART."""
    (wavelet,) = run(["wavelet"], size=128, coils=6, rounds=1, threads=2)
    assert wavelet.ours_error <= wavelet.bart_error
