"""Test the adaptation of models to undersampled scans: three disjoint parts, early stopping, and model folders."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import CalibrationError, InputError, Stopped, UsageError
from mrirecon.io import read, read_image, write_kspace
from mrirecon.masks import make_mask
from mrirecon.methods.cross_validation import cross_validated_weight
from mrirecon.methods.registry import build
from mrirecon.models.checkpoints import load_model, save_model, verify_model
from mrirecon.physics.operators import Fourier
from mrirecon.physics.problem import Problem
from mrirecon.reconstruction.adaptation.files import adapt_files
from mrirecon.reconstruction.adaptation.scans import adapt
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.adaptation.split import split_measured
from mrirecon.reconstruction.calibrate import item_maps
from mrirecon.reconstruction.plan import Request
from mrirecon.reconstruction.run import reconstruct

SPACE, COILS = (64, 56), 4
QUICK = Adaptation(steps=8, rate=3e-3, slices=1, splits=4, validate_every=4)
FAMILIES = ["random", "equispaced", "gaussian1d", "gaussian2d", "poisson"]


def mask_of(family="random", rate=3.0, calibration=14, seed=0):
    return make_mask(family, SPACE, rate, calibration=calibration, seed=seed).mask


def write_scan(path, *masks, slices=1):
    """Write k-space (slice, coil, y, x) of a phantom, the first slice the brightest, with one mask for each slice."""
    full = np.stack([simulate_kspace(phantom(SPACE, 1, s), COILS, 40.0, s).kspace[0] / (1 + s) for s in range(slices)])
    stack = np.stack([masks[s % len(masks)] for s in range(slices)])
    write_kspace(path, full.astype("c8") * stack[:, None], mask=stack if len(masks) > 1 else stack[0])
    return full, read(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network that was never trained, so that there is much to gain."""
    torch.manual_seed(0)
    options = {"cascades": 1, "steps": 3, "features": 8, "dc": "gradient", "phase": "removed"}
    return save_model(tmp_path_factory.mktemp("model") / "cirim", "cirim", options, build("cirim", options), {"a": 1})


@pytest.fixture(scope="module")
def planted(tmp_path_factory, folder):
    """A scan, and the model adapted to it."""
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    full, scan = write_scan(path, mask_of())
    settings = replace(QUICK, steps=16)
    return full, scan, adapt([scan], Request(model=folder), settings), settings


def weights(model):
    return torch.cat([w.detach().flatten() for w in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_three_parts_are_disjoint_and_complete(family, share):
    mask = mask_of(family, 2.0, calibration=10)
    parts = split_measured(mask, replace(QUICK, share=share), location="here")
    validation = np.any(parts.validation, axis=0)
    assert validation.any()
    assert not validation[find_calibration(mask)].any()
    for split in parts.splits:
        assert split.loss.any()
        np.testing.assert_array_equal(validation.astype(int) + split.input + split.loss, mask)
        assert split.input[find_calibration(mask)].all()
    lines = family in ("random", "equispaced", "gaussian1d")
    assert [not s.input[:, s.loss.any(0)].any() for s in parts.splits] == [False, lines] * 2
    assert len({s.loss.tobytes() for s in parts.splits}) == len(parts.splits)


def test_splits_follow_from_the_seed():
    mask = mask_of()
    one, same, other = (split_measured(mask, replace(QUICK, seed=s), location="here") for s in (1, 1, 2))
    assert all(np.array_equal(a.loss, b.loss) for a, b in zip(one.splits, same.splits, strict=True))
    assert not any(np.array_equal(a.loss, b.loss) for a, b in zip(one.splits, other.splits, strict=True))
    np.testing.assert_array_equal(one.visible, other.visible)
    slices = [split_measured(mask, QUICK, location="here", number=n).splits[0].loss for n in (0, 1)]
    assert not np.array_equal(*slices)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_validation_part_is_what_the_blend_withholds(family):
    mask = mask_of(family)
    one = torch.ones(1, 1, *SPACE, dtype=torch.complex64)
    p = Problem(one, torch.from_numpy(mask.copy())[None, None], one[None])
    seen = []

    def refine(q):
        seen.append(q.mask[0, 0].numpy() > 0)
        return q.adjoint, 2 * q.adjoint

    cross_validated_weight(refine, p)
    np.testing.assert_array_equal(seen[0], split_measured(mask, QUICK, location="here").visible)


def test_it_improves_held_out_and_missing_samples(planted, folder):
    full, scan, adapted, _ = planted
    assert adapted.fit.adapted
    assert adapted.fit.after < 0.95 * adapted.fit.before
    missing, maps = ~scan.mask(0), item_maps(scan, 0, *scan.samples(0)).maps
    everything = Problem(torch.from_numpy(full.astype("c8")), torch.ones(1, 1, *SPACE), maps)
    errors = []
    for model in (load_model(folder), adapted.model):
        image = torch.from_numpy(reconstruct(scan, model=model).images)
        errors.append(float(everything.residual(image[None])[0][:, missing].norm()))
    assert errors[1] < errors[0]


def test_the_same_seed_gives_the_same_weights(planted, folder):
    _, scan, adapted, settings = planted
    again = adapt([scan], Request(model=folder), settings)
    assert torch.equal(weights(again.model.model), weights(adapted.model.model))
    assert again.fit.errors == adapted.fit.errors
    other = adapt([scan], Request(model=folder), replace(settings, seed=1))
    assert not torch.equal(weights(other.model.model), weights(adapted.model.model))


@pytest.mark.parametrize("rate", [30.0, 1e30])
def test_it_keeps_the_weights_if_training_only_harms(planted, folder, rate):
    _, scan, adapted, _ = planted
    base = replace(load_model(folder), model=adapted.model.model)  # leaves little to gain
    result = adapt([scan], Request(model=base), replace(QUICK, rate=rate))
    assert not result.fit.adapted
    assert torch.equal(weights(result.model.model), weights(base.model))
    assert result.fit.after == result.fit.before
    assert result.model.card["adaptation"]["weights"].startswith("unchanged")
    if rate == 1e30:
        assert "not a number" in result.fit.reason


def test_the_given_model_is_not_changed(planted, folder):
    trained = load_model(folder)
    before = weights(trained.model).clone()
    assert adapt([planted[1]], Request(model=trained), QUICK).fit.adapted
    assert torch.equal(weights(trained.model), before)


def test_it_stops_early_and_in_time(planted, folder):
    _, scan, adapted, _ = planted
    base = replace(load_model(folder), model=adapted.model.model)
    early = adapt([scan], Request(model=base), replace(QUICK, steps=40, rate=1.0, validate_every=2, patience=2)).fit
    assert early.taken == early.step + 4 < 40
    assert early.reason.startswith("no lower validation error")
    late = adapt([scan], Request(model=base), replace(QUICK, minutes=1e-6)).fit
    assert (late.taken, late.reason) == (1, "the time is used up")
    assert set(late.errors) == {0, 1}


@pytest.mark.parametrize("method", ["e2evn", *(pytest.param(m, marks=pytest.mark.slow) for m in ("unet", "lpdnet"))])
def test_any_learned_method_adapts(method, planted, tmp_path):
    from tests.models.test_checkpoints import small

    torch.manual_seed(0)
    options = small(method) | ({"combine": "sense", "sensitivity": True} if method == "e2evn" else {})
    save_model(tmp_path / "m", method, options, build(method, options))
    adapted = adapt([planted[1]], Request(model=tmp_path / "m"), replace(QUICK, steps=4, splits=2))
    assert math.isfinite(adapted.fit.after)
    assert adapted.fit.after <= adapted.fit.before


def test_a_folder_that_loads_and_reconstructs(run, tmp_path, folder):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    write_scan(one, mask_of(seed=1), slices=3)
    write_scan(two, mask_of("poisson"))
    code, out, err = run(
        *("models", "adapt", one, two, "--model", folder, "-o", "mine", "--slices", 2, "--steps", 6, "--rate", 3e-3)
    )
    assert code == 0, err
    assert out.strip() == "mine"
    assert "one.h5:kspace, slice 0" in err
    assert "one.h5:kspace, slice 1" in err
    assert "slice 2" not in err.partition("trained on")[2]
    assert "the error of held-out samples fell from" in err
    model = verify_model("mine")
    assert model.card["adapted from"]["sha256"] == load_model(folder).sha256
    assert [(f["file"], f["sha256"]) for f in model.card["adapted to"]] == [
        (path.name, read(path).sha256()) for path in (one, two)
    ]
    outcome = model.card["adaptation"]
    assert outcome["steps"] in (5, 6)
    assert outcome["validation error after"] < outcome["validation error before"]
    assert run("reconstruct", one, "--model", "mine", "-o", "image.h5")[0] == 0
    assert read_image(tmp_path / "image.h5").shape == (3, *SPACE)
    code, _, err = run("models", "adapt", one, "--model", folder, "-o", "mine", "--steps", 1)
    assert code == 2
    assert "exists already" in err
    assert run("models", "adapt", one, "--model", folder, "-o", "mine", "--steps", 1, "--overwrite")[0] == 0
    assert verify_model("mine").card["adaptation"]["settings"]["steps"] == 1


def test_reconstruct_adapts_to_each_scan(run, tmp_path, folder):
    path = tmp_path / "scan.h5"
    write_scan(path, mask_of(), slices=2)
    code, _, err = run("reconstruct", path, "--model", folder, "--adapt", "--minutes", 0.05, "-o", "image.h5")
    assert code == 0, err
    assert "held-out samples" in err
    sidecar = json.loads((tmp_path / "image.h5.json").read_text())
    assert sidecar["adaptation"]["settings"]["minutes"] == 0.05
    assert len(sidecar["adaptation"]["slices"]) == 2
    assert run("reconstruct", path, "--model", folder, "-o", "plain.h5")[0] == 0
    assert not np.allclose(read_image(tmp_path / "image.h5"), read_image(tmp_path / "plain.h5"))
    assert (
        "done already" in run("reconstruct", path, "--model", folder, "--adapt", "--minutes", 0.05, "-o", "image.h5")[2]
    )
    assert run("reconstruct", path, "--model", folder, "--minutes", 1)[0] == 2
    assert run("reconstruct", path, "-m", "cs", "--adapt")[0] == 2


def test_volumes_are_adapted_to_by_their_brightest_slices(tmp_path, folder):
    full, _ = write_scan(tmp_path / "slices.h5", mask_of(), slices=5)
    volume = Fourier((-4,))(torch.from_numpy(full.astype("c8"))).movedim(0, 1).numpy()  # readout z
    write_kspace(
        tmp_path / "volume.h5", volume * mask_of(), axes="coil,z,y,x", mask=np.broadcast_to(mask_of(), volume.shape[1:])
    )
    result = reconstruct(read(tmp_path / "volume.h5"), model=folder, adaptation=replace(QUICK, slices=2))
    assert result.images.shape == (1, 5, *SPACE)
    assert [place.rpartition(", ")[2] for place in result.adaptation["slices"]] == ["z 0", "z 1"]


def test_reconstruct_uses_the_model_as_it_is_if_it_cannot_adapt(tmp_path, folder):
    _, full = write_scan(tmp_path / "full.h5", np.ones(SPACE, bool))
    result = reconstruct(full, model=folder, adaptation=QUICK)
    assert np.array_equal(result.images, reconstruct(full, model=folder).images)
    assert any("was not adapted" in note and "fully sampled" in note for note in result.notes)


@pytest.mark.parametrize(
    ("mask", "error", "what"),
    [
        (np.ones(SPACE, bool), InputError, "fully sampled"),
        (mask_of("equispaced", 8.0, 6) & (np.abs(np.arange(SPACE[1]) - 28) < 4), InputError, "too few samples"),
        (np.arange(SPACE[1])[None] % 3 + np.zeros(SPACE) == 0, CalibrationError, "calibration region"),
    ],
)
def test_scans_that_cannot_be_used(mask, error, what, tmp_path, folder):
    write_scan(tmp_path / "scan.h5", mask)
    with pytest.raises(error, match=what) as raised:
        adapt_files([tmp_path / "scan.h5"], tmp_path / "out", Request(model=folder), QUICK)
    assert "scan.h5" in raised.value.where
    assert raised.value.fix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.h5"]


def test_methods_without_weights_and_wrong_settings(planted):
    with pytest.raises(UsageError, match="no weights to adapt"):
        adapt([planted[1]], Request(method="cs"), QUICK)
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"rate": math.nan}, {"share": 1.0}, {"minutes": -1.0}):
        with pytest.raises(UsageError, match="not possible"):
            Adaptation(**wrong)


def test_an_interrupted_run_leaves_nothing(tmp_path, folder):
    write_scan(tmp_path / "scan.h5", mask_of())

    def stop(done, total, what):
        if done == 2:
            raise Stopped(15)

    with pytest.raises(Stopped):
        adapt_files([tmp_path / "scan.h5"], tmp_path / "out", Request(model=folder), QUICK, progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.h5"]
