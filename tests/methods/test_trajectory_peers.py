"""Compare samples on trajectories and their reconstructions with BART and sigpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrirecon.io import read
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.methods.registry import build
from mrirecon.physics.delays import gradient_delays, shifted
from mrirecon.physics.nonuniform import NonUniformFourier, NonUniformProblem
from mrirecon.physics.operators import Fourier, combine, norm
from tests.problems import known_problem

SIDE = 48


def error(ours, theirs):
    return float(norm(ours - theirs) / norm(theirs))


@pytest.fixture
def radial(bart):
    """Return BART's radial trajectory, and the samples, maps and problem of a phantom in BART's order."""
    p, full = known_problem((SIDE, SIDE), coils=4)
    traj = bart(f"traj -r -x {2 * SIDE} -y 24 out").real[..., 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] / 2
    points = torch.from_numpy(np.ascontiguousarray(traj[:2].T))[None].float()
    fourier = NonUniformFourier(points, (SIDE, SIDE))
    images = Fourier().adjoint(full)
    images = images / combine(p.maps, images).abs().max()
    y = fourier(images)
    return {
        "t": traj.astype(np.complex64),
        "k": y[0].permute(2, 1, 0)[None].numpy(),
        "s": p.maps[0, 0].movedim(0, -1).unsqueeze(2).numpy(),
        "images": images,
        "problem": NonUniformProblem.measured(y, p.maps, fourier, weighting="none"),
    }


def from_bart(x, *axes):
    return torch.from_numpy(np.ascontiguousarray(x.squeeze().transpose(*axes) if axes else x.squeeze()))


def test_samples_and_gridding_are_those_of_bart(bart, radial):
    p, t = radial["problem"], radial["t"]
    images = radial["images"][0].movedim(0, -1).unsqueeze(2).numpy()
    theirs = from_bart(bart("nufft t i out", t=t, i=images), 2, 1, 0)[None]
    assert error(p.y, theirs) < 0.005  # the accuracy of BART's gridding
    back = from_bart(bart(f"nufft -a -d {SIDE}:{SIDE}:1 t k out", t=t, k=radial["k"]), 2, 0, 1)[None]
    assert error(p.fourier.adjoint(p.y), back) < 0.005


def test_samples_are_those_of_sigpy(radial):
    import sigpy

    p = radial["problem"]
    coordinates = p.fourier.trajectory[0].numpy()
    theirs = sigpy.nufft(radial["images"][0].numpy(), coordinates, oversamp=2, width=6)
    assert error(p.y, torch.from_numpy(theirs)[None]) < 1e-3


def test_images_are_those_of_bart(bart, radial):
    """Check images without weights, whose objective is that of pics -t."""
    p, arrays = radial["problem"], {name: radial[name] for name in "tks"}
    lam = 0.1
    theirs = from_bart(bart(f"pics -w 1 -i 60 -l2 -r {lam} -t t k s out", **arrays))[None, None]
    with torch.no_grad():
        ours = build("sense", {"lam": lam, "iterations": 200, "tolerance": 1e-6}).engine(p)
    assert error(ours, theirs) < 0.01
    theirs = from_bart(bart(f"pics -w 1 -i 300 -R T:3:0:{lam} -t t k s out", **arrays))[None, None]
    with torch.no_grad():
        ours = build("cs-tv", {"lam": lam, "iterations": 250, "tolerance": 0.0}).engine(p)
    assert error(ours, theirs) < 0.01


def test_files_of_bart(bart, radial, tmp_path):
    bart("scale 1 k out", k=radial["k"], t=radial["t"])
    options = TrajectoryOptions(file=tmp_path / "t.cfl", matrix=(SIDE, SIDE))
    scan = read(tmp_path / "k.cfl", trajectory=options)
    assert scan.shape == {"coil": 4, "y": SIDE, "x": SIDE}
    kspace, sampling = scan.measured(0)
    p = radial["problem"]
    np.testing.assert_array_equal(kspace, p.y[0].numpy())
    torch.testing.assert_close(sampling.fourier.trajectory, p.fourier.trajectory)
    assert "from the extent" in " ".join(read(tmp_path / "k", trajectory=TrajectoryOptions(tmp_path / "t")).notes)


def test_delays_are_those_of_bart(bart):
    """Check delays estimated from a phantom that was sampled with delays, and the corrected trajectory."""
    delays = (0.3, -0.2, 0.1)
    true = bart(f"traj -r -x 128 -y 31 -O -q {':'.join(map(str, delays))} out")
    kspace = bart("phantom -k -s 4 -t true out", true=true).squeeze().transpose(2, 1, 0)
    nominal = np.ascontiguousarray(bart("traj -r -x 128 -y 31 out").real.squeeze()[:2].T)
    estimated = gradient_delays(kspace, nominal)
    np.testing.assert_allclose(
        [estimated[1, 1], estimated[0, 0], estimated[0, 1]], delays, atol=0.05
    )  # x is the second component
    np.testing.assert_allclose(shifted(nominal, estimated), true.real.squeeze()[:2].T, atol=0.1)
