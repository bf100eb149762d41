"""Test scans along trajectories from the file to the image: readers, maps, noise, blending, commands and training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mrirecon.coils.sampling import GridSampling, TrajectorySampling, noise_of_readouts, noise_of_samples
from mrirecon.data.along import sample_along, write_samples
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import add_noise, simulate_kspace
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation.trust import examine
from mrirecon.io import read
from mrirecon.io.info import describe
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.masks.trajectories import TRAJECTORIES, make_trajectory
from mrirecon.methods.cross_validation import withhold_samples
from mrirecon.models.checkpoints import describe_model
from mrirecon.physics.delays import gradient_delays, shifted
from mrirecon.physics.fourier import to_image, to_kspace
from mrirecon.physics.nonuniform import NonUniformFourier
from mrirecon.reconstruction.preprocess import Preprocess, prepare
from mrirecon.reconstruction.run import reconstruct
from tests.io import mrd_files

SIDE, COILS = 64, 4


@pytest.fixture(scope="module")
def scene():
    simulated = simulate_kspace(phantom((SIDE, SIDE), 1, 3), COILS, 40.0, 3)
    clean = to_image(simulate_kspace(phantom((SIDE, SIDE), 1, 3), COILS, np.inf, 3).kspace[0], (-2, -1))
    return clean, simulated.noise_covariance


def samples_of(scene, kind, readouts, seed=0):
    clean, covariance = scene
    points = make_trajectory(kind, (SIDE, SIDE), readouts)
    return add_noise(sample_along(clean, points), covariance, seed).astype(np.complex64), points


@pytest.fixture(scope="module")
def golden(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    kspace, points = samples_of(scene, "golden", 34)
    truth = np.sqrt((np.abs(scene[0]) ** 2).sum(0))
    write_samples(path, kspace[None], points, (SIDE, SIDE), reference=truth[None])
    return path


def nrmse(image, truth):
    image = np.abs(image)
    scale = (image * truth).sum() / (image**2).sum()
    return float(np.linalg.norm(scale * image - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_trajectories_reach_the_edge_and_the_centre(kind):
    shape = (32, 24) if kind in ("radial", "golden", "spiral") else (8, 16, 12)
    points = make_trajectory(kind, shape, 6)
    assert points.shape[-1] == len(shape)
    assert (np.abs(points) <= np.array(shape) / 2).all()
    assert np.abs(points[..., -1]).max() > 0.4 * shape[-1]
    assert np.linalg.norm(points, axis=-1).min() == 0


def test_regularized_images_are_better_than_gridding(golden):
    scan = read(golden)
    truth = scan.reference[0]
    errors = {name: nrmse(reconstruct(scan, method=name).images[0], truth) for name in ("zero-filled", "sense", "cs")}
    assert errors["cs"] < 0.75 * errors["zero-filled"]
    assert errors["cs"] < errors["sense"] < errors["zero-filled"]


def test_a_scan_is_planned_and_its_sampling_described(golden):
    scan = read(golden)
    kspace, sampling = scan.measured(0)
    assert scan.shape == {"slice": 1, "coil": COILS, "y": SIDE, "x": SIDE}
    assert kspace.shape == (COILS, 34, 2 * SIDE)
    assert 1.5 < sampling.acceleration < 2.5
    assert min(s.stop - s.start for s in sampling.box) >= 12
    result = reconstruct(scan, options={"iterations": 2}, method="cs")
    assert "ESPIRiT" in result.maps
    assert read(golden, items="0").measured(0)[1].box == sampling.box


def test_calibration_is_that_of_the_grid(scene):
    clean, _ = scene
    points = make_trajectory("radial", (SIDE, SIDE), 34)
    fourier = NonUniformFourier(torch.from_numpy(points)[None], (SIDE, SIDE))
    sampling = TrajectorySampling(fourier, np.ones(points.shape[:2], bool))
    region = sampling.calibration(sample_along(clean, points), 12)
    full = GridSampling(np.ones((SIDE, SIDE), bool)).calibration(to_kspace(clean, (-2, -1)).astype(np.complex64), 12)
    assert np.linalg.norm(region - full) < 0.03 * np.linalg.norm(full)


def test_noise_is_measured_outside_of_the_field_of_view(scene):
    kspace, points = samples_of(scene, "radial", 34)
    level = noise_of_readouts(kspace, points, (SIDE, SIDE), np.ones(points.shape[:2], bool))
    true = np.sqrt(np.real(np.diagonal(scene[1])))
    np.testing.assert_allclose(level.deviation, true, rtol=0.12)
    assert 0 < level.low < 1 < level.high
    interpolated = sample_along(scene[0], points)
    assert noise_of_readouts(interpolated, points, (SIDE, SIDE), np.ones(points.shape[:2], bool)).low == 0


def test_other_readouts_give_an_upper_bound(scene):
    kspace, points = samples_of(scene, "spiral", 8)
    level = noise_of_readouts(kspace, points, (SIDE, SIDE), np.ones(points.shape[:2], bool))
    assert level.low == 0
    assert (1.2 * level.deviation > np.sqrt(np.real(np.diagonal(scene[1])))).all()


def test_whole_readouts_are_withheld(golden):
    scan = read(golden)
    kspace, sampling = scan.measured(0)
    p = sampling.problem(kspace, torch.full((1, 1, COILS, SIDE, SIDE), 0.5 + 0j))
    importance = withhold_samples(p)[0, 0]
    hidden = importance.any(1)
    assert hidden.sum() == 3
    assert (importance[hidden] > 0).all()
    assert noise_of_samples(p).shape == (1, COILS, COILS)


def test_trust_of_samples_on_a_trajectory(golden):
    result = examine(read(golden), method="sense", replicas=3)
    assert 0.5 < result.residual / result.noise_share < 2
    assert result.held_out is not None
    assert result.held_out < result.held_out_zero_filled
    assert result.g_median > 0.3


def test_delays_are_estimated_and_corrected(scene, tmp_path):
    clean, covariance = scene
    nominal = make_trajectory("golden", (SIDE, SIDE), 34)
    delays = np.array([[0.4, 0.1], [0.1, -0.3]])
    kspace = add_noise(sample_along(clean, shifted(nominal, delays)), covariance, 0).astype(np.complex64)
    np.testing.assert_allclose(gradient_delays(kspace, nominal), delays, atol=0.04)
    path = tmp_path / "delayed.npz"
    write_samples(path, kspace[None], nominal, (SIDE, SIDE))
    truth = np.sqrt((np.abs(clean) ** 2).sum(0))
    errors = [
        nrmse(reconstruct(read(path, trajectory=options), method="sense").images[0], truth)
        for options in (TrajectoryOptions(), TrajectoryOptions(delays="ring"))
    ]
    assert errors[1] < 0.8 * errors[0]
    spiral = make_trajectory("spiral", (SIDE, SIDE), 8)
    with pytest.raises(InputError, match="straight"):
        gradient_delays(sample_along(clean, spiral), spiral)


@pytest.mark.parametrize("units", ["cycles/voxel", "radians/voxel"])
def test_units(golden, tmp_path, units):
    stored = dict(np.load(golden))
    factor = SIDE if units == "cycles/voxel" else SIDE / (2 * np.pi)
    path = tmp_path / "other.npz"
    np.savez(path, **(stored | {"traj": stored["traj"] / factor}))
    scan = read(path, trajectory=TrajectoryOptions(units=units))
    np.testing.assert_allclose(scan.points[0], stored["traj"], atol=1e-4)
    with pytest.raises(InputError, match="does not seem to be in 1/FOV"):
        read(path)
    del stored["matrix"]
    np.savez(path, **(stored | {"traj": stored["traj"] / factor}))
    with pytest.raises(UsageError, match="size of the image"):
        read(path, trajectory=TrajectoryOptions(units=units))


def test_samples_beyond_a_smaller_matrix_are_left_out(golden):
    scan = read(golden, trajectory=TrajectoryOptions(matrix=(48, 48)))
    kspace, mask = scan.samples(0)
    assert scan.space_shape == (48, 48)
    assert 0.75 < mask.mean() < 0.9
    assert not kspace[:, ~mask].any()
    assert any("outside the k-space" in note for note in scan.notes)


def test_steps_on_a_grid_are_refused(golden):
    for options in (Preprocess(oversampling=2.0), Preprocess(partial_fourier="pocs"), Preprocess(whiten="rim")):
        with pytest.raises(UsageError, match="Cartesian"):
            prepare(read(golden), options)
    white = prepare(read(golden), Preprocess(whiten="auto", coils=3))
    kspace, sampling = white.measured(0)
    assert kspace.shape[0] == 3
    assert isinstance(sampling, TrajectorySampling)
    np.testing.assert_allclose(sampling.noise(kspace).deviation, 1, rtol=0.2)
    with pytest.raises(UsageError, match="Cartesian"):
        reconstruct(read(golden), method="cs", options={"solver": "primal-dual"})


@pytest.mark.parametrize(("kind", "readouts"), [("stack-of-stars", 12), ("kooshball", 160)])
def test_volumes(kind, readouts, tmp_path):
    shape = (8, 24, 24)
    z = np.abs(np.arange(8) - 4)[:, None, None] < 3
    truth = phantom((24, 24), 1, 2)[0] * z
    maps = np.stack([np.exp(1j * phase) * np.ones(shape) for phase in (0.0, 1.0)]) / np.sqrt(2)
    points = make_trajectory(kind, shape, readouts)
    kspace = sample_along((maps * truth).astype(np.complex64), points)
    path = tmp_path / "volume.npz"
    np.savez(path, kspace=kspace, traj=points, matrix=shape, maps=maps.astype(np.complex64))
    scan = read(path)
    result = reconstruct(scan, method="sense", lam=1e-4)
    assert result.images.shape == (1, *shape)
    assert nrmse(result.images[0], truth) < 0.25
    cs = reconstruct(scan, method="cs", options={"iterations": 5})
    assert cs.images.shape == (1, *shape)


def test_ismrmrd(scene, tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    kspace, points = samples_of(scene, "golden", 34)
    acquisitions = []
    for line in range(34):
        acquisition = ismrmrd.Acquisition.from_array(kspace[:, line], (points[line] / SIDE).astype(np.float32))
        acquisition.idx.kspace_encode_step_1 = line
        acquisitions.append(acquisition)
    text = mrd_files.header(mrd_files.encoding((SIDE, SIDE, 1), fov=(200, 200, 5), trajectory="radial"))
    scan = read(mrd_files.write(tmp_path / "radial.h5", acquisitions, text))
    stored, sampling = scan.measured(0)
    np.testing.assert_allclose(stored, kspace, rtol=1e-6)
    np.testing.assert_allclose(sampling.fourier.trajectory[0], points, atol=1e-4)
    assert any("cycles per voxel" in note for note in scan.notes)


@pytest.mark.parametrize(("units", "factor"), [("1/fov", 1), ("cycles/voxel", 16), ("radians/voxel", 16 / 2 / np.pi)])
def test_partitions_of_ismrmrd_are_converted_to_the_unit(tmp_path, units, factor):
    ismrmrd = pytest.importorskip("ismrmrd")
    points = make_trajectory("stack-of-stars", (8, 16, 16), 4)
    acquisitions = []
    for z, readout in zip(points[:, 0, 0], points, strict=True):
        data = np.ones((2, 32), np.complex64)
        acquisition = ismrmrd.Acquisition.from_array(data, (readout[:, 1:] / factor).astype(np.float32))
        acquisition.idx.kspace_encode_step_2 = int(z) + 4
        acquisitions.append(acquisition)
    text = mrd_files.header(mrd_files.encoding((16, 16, 8), fov=(200, 200, 80), trajectory="radial"))
    path = mrd_files.write(tmp_path / "stack.h5", acquisitions, text)
    scan = read(path, trajectory=TrajectoryOptions(units=units))
    assert scan.space_shape == (8, 16, 16)
    np.testing.assert_allclose(scan.points[0], points, atol=1e-4)


def test_delays_follow_from_the_trajectory_of_the_same_item(scene, tmp_path):
    clean, _ = scene
    nominal = make_trajectory("golden", (SIDE, SIDE), 70)
    delays = np.array([[0.4, 0.1], [0.1, -0.3]])
    kspace = sample_along(clean, shifted(nominal, delays))
    path = tmp_path / "two.npz"
    np.savez(
        path,
        kspace=np.stack([0 * kspace[:, :35], kspace[:, 35:]]),
        traj=nominal.reshape(2, 35, *nominal.shape[1:]),
        matrix=(SIDE, SIDE),
        axes="slice,coil,readout,sample",
    )
    scan = read(path, trajectory=TrajectoryOptions(delays="ring"))
    assert scan.representative_item() == 1
    np.testing.assert_allclose(scan.points[1], shifted(nominal, delays)[35:], atol=0.06)


def test_info_of_a_scan_with_items_that_cannot_be_used(scene, tmp_path):
    kspace, points = samples_of(scene, "golden", 34)
    items = np.stack([kspace, 0 * kspace, kspace])
    items[2, 0, 3, 3] = np.nan
    write_samples(tmp_path / "three.npz", items, points, (SIDE, SIDE))
    described = describe(tmp_path / "three.npz", check=True)
    assert described["sampling"]["item"] == 0
    assert described["values"] | {"largest": 0} == {"items_checked": 3, "not_finite": 1, "zero_items": 1, "largest": 0}


def test_commands(run, tmp_path):
    assert run("simulate", "phantom:1", "-o", "s.h5", "--slices", "0:1", "--coils", 4, "--size", "64x64",
               "--trajectory", "radial", "--readouts", 30)[0] == 0  # fmt: skip
    code, out, _ = run("info", "s.h5", "-o", "traj.png", "--json")
    described = json.loads(out)
    assert code == 0
    assert described["trajectory"]["readouts"] == 30
    assert (tmp_path / "traj.png").stat().st_size > 1000
    code, _, err = run("reconstruct", "s.h5", "-o", "image.npz", "--set", "iterations=5", "-m", "cs")
    assert code == 0, err
    assert np.load("image.npz")["reconstruction"].shape == (1, 64, 64)
    assert run("trajectory", "make", "spiral", "-o", "t.npz", "--shape", "64x64", "--readouts", 8)[0] == 0
    assert run("trajectory", "show", "t.npz", "-o", "t.png")[0] == 0
    assert run("simulate", "phantom:1", "-o", "full.h5", "--slices", "0:1", "--coils", 4, "--size", "64x64")[0] == 0
    assert run("trajectory", "apply", "full.h5", "-o", "a.npz", "--kind", "spiral", "--readouts", 8,
               "--keep-reference")[0] == 0  # fmt: skip
    assert read("a.npz").reference is not None
    code, _, err = run("reconstruct", "s.h5", "-o", "image.npz", "-m", "e2evn", "--overwrite")
    assert code == 2
    assert "Cartesian" in err


def test_training(run, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "method: rim\nmodel: {features: 4, steps: 2}\ntrain: {steps: 2, validate_every: 2}\n"
        "data: {crop: [48, 48], val_items: 1, items_per_epoch: 2, simulation: {coils: [4, 4], resolution: 0.6},\n"
        "       trajectories: [{kind: golden, readouts: [30]}]}\n"
    )
    code, _, err = run("train", "r.yaml", "-o", "run")
    assert code == 0, err
    card = describe_model(tmp_path / "run" / "best")["card"]
    assert card["covers"]["sampling"] == [TrajectorySampling.kind]
    assert card["covers"]["readouts"] == [30, 30]
    code, _, err = run("train", "r.yaml", "-o", "other", "--set", "data.buffer.draws_per_sample=2")
    assert code == 2
    assert "mirrored" in err
