"""Items to learn from: functions of (seed, epoch, number), of people kept apart, and like what inference will see."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mrirecon.calibrate import item_maps
from mrirecon.config import load_config
from mrirecon.data.acquire import _rim, acquire, one_thread
from mrirecon.data.batch import stack
from mrirecon.data.draws import draw_mask, split_samples
from mrirecon.data.items import Recipe
from mrirecon.data.lesions import insert_lesions
from mrirecon.data.loading import Loader, Order
from mrirecon.data.phantom import phantom
from mrirecon.data.settings import Data, Lesions, MaskDraw, Simulation
from mrirecon.data.simulate import coil_maps
from mrirecon.data.sources import open_sources, person_of
from mrirecon.data.volumes import is_volume, measured_support, prepare, read_volumes
from mrirecon.errors import InputError, SignalError, UsageError
from mrirecon.inference import pose
from mrirecon.io import read, write_kspace
from mrirecon.operators import Fourier, root_sum_of_squares
from mrirecon.scale import percentile_scale
from mrirecon.training.setup import make_model, make_recipes

MASKS = [MaskDraw(family="random", acceleration=[2.0, 3.0], calibration=[12, 16])]
PLANE = Fourier((-2, -1))


def settings(**more):
    simulation = {"coils": [3, 6], "resolution": [0.5, 0.7]} | more.pop("simulation", {})
    base = {"train": ["phantom:0", "phantom:1"], "val": ["phantom:9"], "masks": MASKS, "crop": [72, 96]}
    return Data(**base | more, simulation=Simulation(**simulation))


def recipe(data=None, **more):
    data = data or settings()
    return Recipe(open_sources(data).train, data, 7, **more)


def equal(a, b):
    same = a.names == b.names and a.about == b.about
    for x, y in ((a.problem.y, b.problem.y), (a.problem.maps, b.problem.maps), (a.problem.mask, b.problem.mask)):
        same = same and torch.equal(x, y)
    return same and torch.equal(a.target, b.target)


# what vendors do to volumes


def test_interpolated_volumes_are_cut_to_what_was_measured():
    """Trap (a): a vendor's zero filling is found, along each axis by itself, and nothing else is cut."""
    whole = phantom((256, 224), 4, 3)
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 256, 224))
    measured = np.abs(whole + noise)
    assert measured_support(measured) == (1.0, 1.0)
    k = np.fft.fftshift(np.fft.fft2(whole), axes=(1, 2))
    window = np.zeros(224)
    window[112 - 72 : 112 + 72] = np.hanning(180)[18:162]  # 64 % of the band, tapered
    filled = np.abs(np.fft.ifft2(np.fft.ifftshift(k * window, axes=(1, 2))))
    filled[filled < 0.02] = 0
    y, x = measured_support(filled)
    assert y == 1.0
    assert 0.45 < x < 0.7
    volume = prepare("filled", filled, (4.0, 1.0, 1.0))
    assert volume.slices.shape[1] == 256
    assert volume.slices.shape[2] < 160
    assert volume.spacing[2] == pytest.approx(224 / volume.slices.shape[2])
    assert volume.zeros > 0.2
    # what is simulated from it has no empty rim: the outermost tenth holds more than noise
    flat = Simulation(coils=[4, 4], snr=[1e6, 1e6], resolution=[1.0, 1.0], aspect=[1.0, 1.0], bias=0, transpose=0)
    made = acquire(volume.slices[1].astype(np.float32), volume.spacing[1:], flat, np.random.default_rng(0), coils=4)
    k = made.kspace.abs().sum(0).numpy()
    rim, next_to_it = k[:, :4].mean() + k[:, -4:].mean(), k[:, 8:16].mean() + k[:, -16:-8].mean()
    assert rim > 0.25 * next_to_it


def test_the_background_is_noise():
    """Trap (a): where the volume is exactly zero, what is measured is the coils' noise."""
    image = np.zeros((96, 96), np.float32)
    image[30:66, 30:66] = 1
    made = acquire(image, (1, 1), Simulation(bias=0, transpose=0), np.random.default_rng(1), coils=4, window=(96, 96))
    empty = PLANE.adjoint(made.kspace)[:, :12, :12]
    seen = torch.cov(empty.reshape(4, -1)).numpy()
    assert np.abs(seen - made.covariance).max() < 0.35 * np.abs(made.covariance).max()
    assert (empty.abs() > 0).all()


def test_volumes_are_read(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = (phantom((64, 80), 3, 1) + np.abs(np.random.default_rng(0).normal(0, 0.05, (3, 64, 80)))).astype(np.float32)
    # stored left-right first and bottom up, as NIfTI does
    stored = image[:, ::-1, ::-1].transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([1.0, 1.5, 4.0, 1])), tmp_path / "sub-03_T1w.nii.gz")
    np.savez(tmp_path / "pack.npz", patient04_T1=image, patient05_T1=image, note=np.zeros(3))
    (volume,) = read_volumes(tmp_path / "sub-03_T1w.nii.gz")
    assert volume.spacing == (4.0, 1.5, 1.0)
    scaled = image / np.percentile(image, 99.9)
    assert np.abs(volume.slices - scaled).max() < 2e-3
    packed = read_volumes(tmp_path / "pack.npz")
    assert [person_of(v.name.split(":")[-1], Data().person) for v in packed] == ["patient04", "patient05"]
    assert is_volume(tmp_path / "pack.npz")
    assert is_volume("phantom:3")
    write_kspace(tmp_path / "k.h5", np.ones((1, 2, 8, 8), np.complex64))
    assert not is_volume(tmp_path / "k.h5")


def test_volumes_that_are_none(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4)))
    with pytest.raises(InputError, match="no magnitude volume"):
        read_volumes(tmp_path / "a.npz")
    for values, word in ((-np.ones((2, 64, 64)), "negative"), (np.full((2, 64, 64), np.nan), "not finite")):
        with pytest.raises(InputError, match="not a magnitude volume") as caught:
            prepare("x", values, (1, 1, 1))
        assert word in caught.value.why
    with pytest.raises(InputError, match="empty"):
        prepare("x", np.zeros((2, 64, 64)), (1, 1, 1))
    good = nibabel.Nifti1Image(np.ones((64, 64, 3), np.float32), np.eye(4))
    nibabel.save(good, tmp_path / "good.nii.gz")
    content = (tmp_path / "good.nii.gz").read_bytes()
    for name, data in (
        ("cut.nii.gz", content[: len(content) // 2]),
        ("text.nii.gz", b"hello"),
        ("text.nii", b"hello" * 99),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=r"damaged|not a NIfTI"):
            read_volumes(tmp_path / name)
    nibabel.save(nibabel.Nifti1Image(np.full((64, 64, 3), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(InputError, match="not numbers"):
        read_volumes(tmp_path / "nan.nii")


# the simulator


def test_the_fast_simulator_is_the_reference_one():
    """Same physics on a coarse grid: the maps agree with those computed at every pixel."""
    flat = Simulation(bias=0, transpose=0, flip=False, resolution=[1.0, 1.0], aspect=[1.0, 1.0], contrast=[1.0, 1.0])
    flat = flat.model_copy(update={"distance": [1.3, 1.3], "lesions": Lesions(count=[0, 0])})
    image = phantom((96, 80), 1, 2)[0]
    made = acquire(image, (1, 1), flat, np.random.default_rng(3), coils=5)
    seed = int(np.random.default_rng(3).integers(2**31))
    exact = np.abs(coil_maps((96, 80), 5, seed))
    ours = made.maps.abs().numpy()
    near = min(
        np.abs(ours / ours.mean() - turned / turned.mean()).max()
        for turned in (exact, exact[:, ::-1], exact[:, :, ::-1], exact[:, ::-1, ::-1])
    )
    # mirrored about a pixel, an even grid is one pixel off: that is the tolerance
    assert near < 0.1 * (exact / exact.mean()).max()
    assert np.allclose(made.image.abs().numpy(), image, atol=1e-5)
    assert torch.allclose(PLANE.adjoint(PLANE(made.clean)), made.clean, atol=1e-6)


def test_snr_and_size_are_those_asked_for():
    data = Simulation(snr=[20.0, 20.0], bias=0, transpose=0, resolution=[1.0, 1.0], aspect=[1.0, 1.0])
    made = acquire(phantom((120, 96), 1, 2)[0], (1, 1), data, np.random.default_rng(0), coils=8, window=(128, 104))
    assert made.kspace.shape == (8, 128, 104)
    noise = (PLANE.adjoint(made.kspace) - made.clean).abs().square().mean().sqrt()
    magnitude = made.image.abs()
    signal = magnitude[magnitude > 0.1 * magnitude.max()].mean()
    assert float(signal / noise) == pytest.approx(20, rel=0.02)


def test_lesions_are_where_the_mask_says():
    image = phantom((160, 128), 1, 4)[0]
    rng = np.random.default_rng(5)
    out, labels, found = insert_lesions(image, rng, 4, size=(6, 12), contrast=(0.3, 0.5), sign=1)
    assert len(found) >= 2
    assert labels.max() == len(found)
    assert np.abs(out - image)[ndimage.binary_dilation(labels > 0, iterations=2) == 0].max() == 0
    for lesion in found:
        inside = labels == lesion.label
        area = np.pi * (lesion.diameter / 2) ** 2
        assert 0.6 * area < inside.sum() < 1.6 * area
        centre = tuple(int(c) for c in lesion.centre)
        contrast = (out[centre] - image[centre]) / ndimage.uniform_filter(image, 5)[centre]
        assert contrast == pytest.approx(lesion.contrast, rel=1e-4)
        assert 0.3 <= lesion.contrast <= 0.5
    again, _, _ = insert_lesions(image, np.random.default_rng(5), 4, size=(6, 12), contrast=(0.3, 0.5), sign=1)
    assert np.array_equal(out, again)
    inside = np.zeros(image.shape, bool)
    inside[70:90, 60:70] = True
    _, labels, found = insert_lesions(image, rng, 1, region=inside)
    assert inside[int(found[0].centre[0]), int(found[0].centre[1])]
    assert insert_lesions(np.zeros((64, 64), np.float32), rng, 3)[2] == []


# items


def test_items_are_functions_of_their_number():
    made = recipe(batch=2, full=True)
    order = Order(made)
    straight = Loader(order).batches(0)
    batches = [next(straight) for _ in range(5)]
    later = Loader(order, workers=2).batches(3)  # R06, and starting anywhere
    for batch in batches[3:]:
        assert equal(batch, next(later))
    for rank in range(2):
        part = next(Loader(order, rank=rank, ranks=2).batches(1))
        assert part.names == batches[1].names[rank : rank + 1]
        assert torch.equal(part.problem.y[0], batches[1].problem.y[rank])
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert equal(made.item(*order.epoch(0)[0][0]), made.item(*order.epoch(0)[0][0]))
        assert equal(stack([made.item(*a) for a in order.epoch(0)[0]]), batches[0])
    finally:
        torch.set_num_threads(threads)
    assert not equal(made.item(0, 0, 0), made.item(1, 0, 0))
    assert not equal(made.item(0, 0, 0), Recipe(made.slots, made.data, 8, batch=2).item(0, 0, 0))


def test_an_epoch_is_every_slice_once():
    order = Order(recipe())
    first, second = ([slot for b in order.epoch(e) for _, _, slot in b] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(order.recipe.slots)))
    assert first != second
    short = Order(recipe(batch=5), length=12)
    assert short.steps == 2
    assert [len(b) for b in short.epoch(0)] == [5, 5]


def test_a_batch_has_one_size_and_sizes_vary():
    """Trap (c): windows are cut before masking, and every batch has its own size and coils."""
    order = Order(recipe(batch=2), length=40)
    batches = Loader(order).batches(0)
    shapes = [tuple(next(batches).problem.y.shape) for _ in range(12)]
    assert all(72 <= n <= 96 for s in shapes for n in s[2:])
    assert len({s[2:] for s in shapes}) > 4
    assert len({s[1] for s in shapes}) > 2


def test_amplitudes_are_those_of_use():
    """Trap (c): whatever is cut out, the scale that methods work at is near the object's."""
    made = recipe()
    scales = []
    for number in range(8):
        batch = made.item(0, number, number)
        magnitude = batch.target.abs()
        scales.append(float(percentile_scale(batch.problem.adjoint)[0] / percentile_scale(batch.target)[0]))
        assert magnitude.max() > 0
    assert min(scales) > 0.4
    assert max(scales) < 1.2


def test_maps_are_what_inference_will_have(tmp_path):
    """Trap (b): estimated from each item's own calibration region, by the code that reconstruction uses."""
    made = recipe(settings(simulation={"snr": [40.0, 50.0], "cavities": [0, 0]}))
    batch = made.item(0, 3, 5)
    p = batch.problem
    write_kspace(tmp_path / "x.h5", p.y.numpy(), mask=p.mask[0, 0].numpy().astype(np.uint8))
    scan = read(tmp_path / "x.h5")
    with one_thread():
        there = item_maps(scan, 0, scan.kspace(0), scan.mask(0))
    posed, _ = pose(scan.kspace(0), scan.mask(0), there, "informed")
    assert torch.allclose(posed.maps, p.maps, atol=1e-5)
    assert torch.allclose(posed.prior, p.prior, atol=1e-4)
    # the target is what these maps make of the noise-free coils: consistent with the data up to the noise
    residual = (p.A(batch.target) - p.y).norm() / p.y.norm()
    assert residual < 0.2


def test_lesions_are_kept():
    data = settings(simulation={"lesions": Lesions(count=[3, 3])})
    batch = recipe(data, batch=2).item(0, 0, 0)
    assert batch.lesions.shape == batch.target.shape
    assert batch.about[0]["lesions"] >= 1
    assert stack([batch, batch]).lesions.shape[0] == 2


def test_targets_without_maps_are_magnitudes():
    batch = recipe(maps=False).item(0, 0, 0)
    assert not batch.target.is_complex()
    assert batch.target.shape == (1, 1, *batch.problem.y.shape[2:])
    assert torch.equal(batch.problem.maps, torch.full_like(batch.problem.maps, batch.problem.y.shape[1] ** -0.5))


def test_a_measured_target_keeps_its_noise():
    noisy = recipe(settings(target="measured")).item(0, 0, 0)
    clean = recipe().item(0, 0, 0)
    assert torch.equal(noisy.problem.y, clean.problem.y)
    assert not torch.equal(noisy.target, clean.target)


def test_people_are_kept_apart(tmp_path):
    image = phantom((64, 64), 2, 1)
    for name in ("patient01_a", "patient01_b", "patient02_a", "patient03_a"):
        np.savez(tmp_path / f"{name}.npz", vol=image)
    data = settings(train=[str(tmp_path)], val=0.3)
    found = open_sources(data)
    assert set(found.people["train"]) | set(found.people["val"]) == {"patient01", "patient02", "patient03"}
    assert not set(found.people["train"]) & set(found.people["val"])
    assert {s.person for s in found.train} == set(found.people["train"])
    with pytest.raises(UsageError, match="the same person") as caught:
        open_sources(settings(train=[str(tmp_path / "*_a.npz")], val=[str(tmp_path / "*_b.npz")]))
    assert caught.value.why == "patient01"
    with pytest.raises(UsageError, match="no file matches"):
        open_sources(settings(train=[str(tmp_path / "nothing*")]))
    with pytest.raises(UsageError, match="not a regular expression"):
        open_sources(settings(person="("))
    for wrong in ("a**b/c.nii", "", "#x", "~nobody-of-this-name/x", "$UNSET_AND_EMPTY_"[:0]):
        with pytest.raises(UsageError, match="names no file"):
            open_sources(settings(train=[wrong]))
    with pytest.raises(UsageError, match="no group"):  # each file would be a person of its own, on both sides
        open_sources(settings(train=[str(tmp_path)], val=0.3, person="patient[0-9]+"))
    with pytest.raises(UsageError, match="no file matches 'patient03") as caught:
        open_sources(settings(train=[str(tmp_path), "patient03*.npz"]))
    assert "each entry stands by itself" in caught.value.why
    assert f"write '{tmp_path}/patient03*.npz' in place of '{tmp_path}'" in caught.value.fix
    (tmp_path / "volumes" / "below").mkdir(parents=True)
    with pytest.raises(UsageError, match="no file matches") as caught:
        open_sources(settings(train=[str(tmp_path / "volumes")]))
    assert "holds no file that ends in" in caught.value.why
    assert "volumes/**/" in caught.value.fix
    kept = open_sources(settings(train=[str(tmp_path)], exclude=["patient03*"])).people["train"]
    assert kept == ["patient01", "patient02"]


def test_people_in_a_packed_file(tmp_path):
    image = phantom((64, 64), 2, 1)
    np.savez(tmp_path / "pack.npz", patient01_T1=image, patient01_T2=image, patient02_T1=image, knee=image)
    pack = str(tmp_path / "pack.npz")
    found = open_sources(settings(train=[f"{pack}#patient01*", f"{pack}#knee"], val=[f"{pack}#patient02*"]))
    assert found.people == {"train": ["pack:knee", "patient01"], "val": ["patient02"]}
    assert len(found.train) == 6
    with pytest.raises(UsageError, match="nothing to train on"):
        open_sources(settings(train=[f"{pack}#patient09*"], val=[f"{pack}#patient02*"]))


def test_scans_are_undersampled_and_combined(tmp_path):
    made = recipe(settings(crop=None)).item(0, 0, 0)
    full = acquire(phantom((64, 72), 1, 1)[0], (1, 1), Simulation(), np.random.default_rng(0), coils=4, window=(64, 72))
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", full.kspace.numpy()[None])
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    found = open_sources(data)
    batch = Recipe(found.train, data, 0).item(0, 0, 0)
    mask = batch.problem.mask.bool()[0, 0]
    assert torch.allclose(batch.problem.y[0][:, mask], full.kspace[:, mask])
    assert not batch.problem.y[0][:, ~mask].any()
    combined = root_sum_of_squares(PLANE.adjoint(full.kspace), 0)
    inside = combined > 0.4 * combined.max()
    assert torch.allclose(batch.target.abs()[0, 0][inside], combined[inside], rtol=0.1)
    assert made.target is not None
    cut = Recipe(found.train, data.model_copy(update={"crop": [48, 48]}), 0).item(0, 0, 0)
    assert tuple(cut.problem.y.shape[1:]) == (4, 48, 48)


def test_maps_from_the_file(tmp_path):
    full = acquire(phantom((64, 72), 1, 1)[0], (1, 1), Simulation(), np.random.default_rng(0), coils=4, window=(64, 72))
    for name in ("case1", "case2"):
        maps = full.maps.numpy()[None, None]
        write_kspace(tmp_path / f"{name}.npz", full.kspace.numpy()[None], maps=maps)
    files = {"train": [str(tmp_path / "case1.npz")], "val": [str(tmp_path / "case2.npz")]}
    data = settings(**files, maps="file", crop=None)
    batch = Recipe(open_sources(data).train, data, 0).item(0, 0, 0)
    length = root_sum_of_squares(full.maps, 0).max()
    assert torch.allclose(batch.problem.maps[0, 0], full.maps / length, atol=1e-6)
    cut = data.model_copy(update={"crop": [48, 48]})
    with pytest.raises(InputError, match="do not fit what is cut out"):
        Recipe(open_sources(cut).train, cut, 0).item(0, 0, 0)
    none = data.model_copy(update={"maps": "none"})
    unit = Recipe(open_sources(none).train, none, 0).item(0, 0, 0).problem.maps
    assert torch.equal(unit, torch.full_like(unit, 0.5))


def test_prospective_scans_have_no_target(tmp_path):
    full = acquire(phantom((64, 72), 1, 1)[0], (1, 1), Simulation(), np.random.default_rng(0), coils=4, window=(64, 72))
    mask, _ = draw_mask(MASKS, (64, 72), np.random.default_rng(0), True)
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", (full.kspace.numpy() * mask)[None])
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    batch = Recipe(open_sources(data).train, data, 0, split=0.4).item(0, 0, 0)
    assert batch.target is None
    assert torch.equal(batch.problem.mask[0, 0].bool() | batch.held[0, 0].bool(), torch.from_numpy(mask))
    assert float(batch.held.sum() / mask.sum()) == pytest.approx(0.4, abs=0.01)


def test_an_item_that_cannot_be_made_is_named(tmp_path):
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", np.zeros((1, 4, 64, 64), np.complex64))
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    for workers in (0, 1):
        with pytest.raises(SignalError) as caught:
            next(Loader(Order(Recipe(open_sources(data).train, data, 0)), workers).batches(0))
        assert "case1.h5" in caught.value.where
        assert "item 0" in caught.value.where


def test_masks_that_fit_are_drawn():
    draws = [MaskDraw(family="random", acceleration=[2.0, 8.0], calibration=[8, 24])]
    seen = set()
    for seed in range(40):
        mask, told = draw_mask(draws, (96, 96), np.random.default_rng(seed), True)
        lines = mask.all(0).sum() if mask.all(0).any() else mask.all(1).sum()
        seen.add((round(told["acceleration"]), min(told["calibration"])))
        assert lines == round(96 / told["acceleration"])
    assert seen == {(2, 8), (2, 24), (8, 8)}  # 24 lines do not fit into 12
    with pytest.raises(UsageError, match="no mask of random fits"):
        draw_mask([MaskDraw(family="random", acceleration=[32.0])], (96, 96), np.random.default_rng(0), True)


def test_mirrored_discs_keep_their_calibration_region():
    draws = [MaskDraw(family="poisson", acceleration=[4.0], calibration=[12])]
    seen = set()
    for seed in range(12):
        mask, told = draw_mask(draws, (64, 65), np.random.default_rng(seed), True)
        assert mask[26:38, 26:38].all()
        assert mask.sum() == round(64 * 65 / 4)
        assert told["acceleration"] == 4.0
        seen.add(mask.tobytes())
    assert len(seen) > 8


def test_samples_are_split():
    mask, _ = draw_mask(MASKS, (64, 64), np.random.default_rng(0), True)
    seen, held = split_samples(mask, 0.3, np.random.default_rng(1))
    assert not (seen & held).any()
    assert np.array_equal(seen | held, mask)
    assert held.sum() == round(0.3 * mask.sum())
    assert not held[30:34, 30:34].any()


def test_items_of_several_sizes_are_refused_with_advice():
    made = recipe(settings(crop=None))
    with pytest.raises(InputError, match="different sizes") as caught:
        stack([made.item(0, n, n) for n in range(4)])
    assert "data.crop" in caught.value.fix


# phase that turns fast


def test_cavities_move_phase_from_the_maps_into_the_object_and_keep_the_samples():
    calm, wild = (
        recipe(settings(target="measured", simulation={"cavities": c}), start=first_image) for c in ([0, 0], [5, 5])
    )
    a, b, again = calm.item(0, 1, 2), wild.item(0, 1, 2), wild.item(0, 1, 2)
    assert equal(b, again)
    assert torch.equal(a.problem.y, b.problem.y)
    assert torch.allclose(a.target.abs(), b.target.abs(), atol=1e-5)
    assert float((b.target * a.target.conj()).angle().abs().max()) > 0.2
    encoded = [p.A(p.start) for p in (a.problem, b.problem)]
    assert float((encoded[0] - encoded[1]).abs().max()) < 1e-4 * float(encoded[0].abs().max())
    other = wild.item(1, 1, 2)
    assert not torch.equal(other.problem.maps, b.problem.maps)


def test_a_kept_item_may_have_any_phase(tmp_path):
    """Phase is drawn when an item is read: it costs nothing, and every run may have its own."""
    for cavities in ([0, 0], [6, 6]):
        data = settings(simulation={"cavities": cavities}, bank=str(tmp_path))
        free = settings(simulation={"cavities": cavities})
        kept, made = recipe(data).item(0, 0, 0), recipe(free).item(0, 0, 0)
        assert torch.allclose(kept.problem.maps, made.problem.maps, atol=1e-3)
    assert len(list(tmp_path.rglob("*.npz"))) == 1


# items that are kept


def test_a_kept_item_is_the_same_when_it_is_read_again(tmp_path):
    data = settings(bank=str(tmp_path))
    made, again, other = (recipe(data, start=s).item(0, 1, 2) for s in (first_image, first_image, None))
    (a, b) = (r.problem for r in (made, again))
    assert equal(made, again)
    assert torch.equal(a.start, b.start)
    assert torch.equal(a.prior, b.prior)
    assert torch.equal(made.lesions, again.lesions)
    assert other.problem.start is None, "and what is made otherwise is kept apart"
    assert len(list(tmp_path.rglob("*.npz"))) == 2
    new = recipe(settings(), start=first_image).item(0, 1, 2)
    assert torch.equal(new.problem.y, a.y)
    assert torch.equal(new.target, made.target)
    assert torch.allclose(new.problem.maps, a.maps, atol=1e-3)


def test_what_cannot_be_read_is_made_again(tmp_path):
    data = settings(bank=str(tmp_path))
    made = recipe(data).item(0, 0, 0)
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"not an item"):
        path.write_bytes(broken)
        assert equal(recipe(data).item(0, 0, 0), made)
        assert path.stat().st_size == len(whole)


def test_another_setting_or_slice_is_another_item(tmp_path):
    def count(data, slot=0, **more):
        recipe(data, **more).item(0, 0, slot)
        return len(list(tmp_path.rglob("*.npz")))

    base = {"bank": str(tmp_path)}
    assert count(settings(**base)) == 1
    assert count(settings(**base, val_items=3, rounds=2, licence="x")) == 1
    assert count(settings(**base), slot=1) == 2
    assert count(settings(**base, crop=[80, 96])) == 3
    assert count(settings(**base, target="measured")) == 4
    assert count(settings(**base), informed=False) == 5


def test_the_folder_may_be_a_variable(tmp_path, monkeypatch):
    data = settings(bank="$HERE/kept")
    with pytest.raises(UsageError, match="no such variable"):
        recipe(data).item(0, 0, 0)
    monkeypatch.setenv("HERE", str(tmp_path))
    recipe(data).item(0, 0, 0)
    assert len(list((tmp_path / "kept").rglob("*.npz"))) == 1


def test_rounds_repeat(tmp_path):
    order = Order(recipe(settings(rounds=2)))
    assert order.epoch(0) == order.epoch(2) != order.epoch(1)
    assert Order(recipe()).epoch(0) != Order(recipe()).epoch(2)


@pytest.mark.parametrize(("length", "batch"), [(None, 1), (5, 1), (12, 5), (13, 1), (17, 4), (40, 3)])
def test_an_epoch_is_as_long_as_it_says(length, batch):
    """A run that is resumed finds its place by it."""
    order = Order(recipe(batch=batch), length)
    for epoch in (0, 3):
        found = order.epoch(epoch)
        assert len(found) == order.steps
        assert all(len(b) == batch for b in found)


def first_image(problem):
    return problem.adjoint * 2


def test_workers_killed_at_any_moment_cost_time_alone():
    """R05: whoever dies holding a lock, no batch is lost, doubled or waited for in vain."""
    order, rng = Order(recipe(settings())), np.random.default_rng(0)
    wanted = [next(Loader(order).batches(n)).names for n in range(12)]
    loader = Loader(order, workers=2)
    batches, found = loader.batches(0), []
    for _ in range(12):
        found.append(next(batches).names)
        time.sleep(float(rng.uniform(0, 0.1)))
        for child in multiprocessing.active_children()[:1]:  # none, between two sets of workers
            os.kill(child.pid, signal.SIGKILL)
    batches.close()
    assert found == wanted
    assert len(loader.notes) > 1, "or none died in time"


def test_workers_do_not_outlive_a_training_that_is_killed():
    code = """
import multiprocessing, sys, time
sys.path.insert(0, sys.argv[1])
from test_training_data import Loader, Order, recipe, settings
batches = Loader(Order(recipe(settings())), workers=2).batches(0)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(workers) == 2
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_the_rim_of_an_object_may_have_layers():
    depth = np.linspace(0, 0.2, 400)
    drawn = [
        [_rim(depth, 0.05, Simulation(layers=share), np.random.Generator(np.random.PCG64(seed))) for seed in range(8)]
        for share in (0.0, 1.0)
    ]
    plain, layered = drawn
    assert all(set(np.unique(rim)) == {0.0, 1.0} for rim in plain)
    for rim in layered:
        turns = np.count_nonzero(np.diff(np.sign(rim[rim != 0])))
        assert turns >= 1  # more than one layer
        assert np.abs(rim).max() <= 1
        assert not rim[depth > 0.126].any()  # and the inside keeps its phase


def test_a_bank_filled_beforehand_is_what_a_run_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("BANK", str(tmp_path / "bank"))
    config = tmp_path / "run.yaml"
    config.write_text(
        "method: unet\nmodel: {channels: 2, pools: 1, start: cs, skip: true}\n"
        'data: {train: "phantom:0", val: "phantom:1", bank: "$BANK", rounds: 1, epoch: 4, val_items: 1, crop: [64, 64],'
        " masks: [{family: random, acceleration: 2, calibration: 12}]}\ntrain: {steps: 2, batch: 2}\n"
    )
    script = Path(__file__).parents[1] / "scripts/fill_bank.py"
    command = [sys.executable, str(script), str(config), "--processes", "1", "--device", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4 batches" in said  # two to learn from, one to check with, and its zero-filled image
    wanted = load_config(config).settings
    learn, check = make_recipes(wanted, make_model(wanted), open_sources(wanted.data, tmp_path))
    for one, address in ((learn, Order(learn, 4).epoch(0)[0][0]), (check, (0, 0, 0))):
        assert one.place(*address).exists()
        kept = one.item(*address).problem
        made = replace(one, data=wanted.data.model_copy(update={"bank": None})).item(*address).problem
        assert torch.equal(kept.y, made.y)
        assert kept.start is not None
        assert torch.allclose(kept.start, made.start, atol=1e-5 * float(made.start.abs().max()))
    assert "0 batches" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_memory_that_is_held_is_not_mapped_anew():
    code = """
import resource, sys
import numpy as np
from mrirecon.data.loading import hold_memory
if sys.argv[1] == "held":
    hold_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(4 << 20)
before = faults()
for _ in range(10):
    np.ones(4 << 20)
print(faults() - before)
"""
    found = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("held", "freed")
    }
    assert found["held"] < 0.1 * found["freed"]
