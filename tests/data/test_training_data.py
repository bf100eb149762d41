"""Test training samples: functions of (seed, epoch, number), split by subject, and similar to inference data."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mrirecon.data import loading, samples
from mrirecon.data.batch import pack, stack, unpack
from mrirecon.data.lesions import insert_lesions
from mrirecon.data.loading import EpochSampler, SampleLoader, workers_for
from mrirecon.data.phantom import phantom
from mrirecon.data.samples import SampleFactory
from mrirecon.data.sampling import draw_mask, split_samples
from mrirecon.data.scene import draw_scene
from mrirecon.data.settings import Buffer, Data, Lesions, MaskFamily, Simulation
from mrirecon.data.simulate import coil_maps, one_thread, resample_kspace, simulate, true_maps
from mrirecon.data.sources import open_sources, subject_of
from mrirecon.data.volumes import Volume, is_volume, measured_support, prepare, read_volumes
from mrirecon.errors import InputError, SignalError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.methods.cs import compressed_sensing_start
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.scale import percentile_scale
from mrirecon.reconstruction.calibrate import build_problem, item_maps

MASKS = [MaskFamily(family="random", acceleration=[2.0, 3.0], calibration=[12, 16])]
PLANE = Fourier((-2, -1))


def settings(**more):
    simulation = {"coils": [3, 6], "resolution": [0.5, 0.7]} | more.pop("simulation", {})
    base = {"train": ["phantom:0", "phantom:1"], "val": ["phantom:9"], "masks": MASKS, "crop": [72, 96]}
    return Data(**base | more, simulation=Simulation(**simulation))


def recipe(data=None, **more):
    data = data or settings()
    return SampleFactory(open_sources(data).train, data, 7, **more)


CALM = {"bias_field": 0, "transpose": 0, "flip": False, "resolution": [1.0, 1.0], "aspect": [1.0, 1.0]}


def scene(image, seed=0, coils=4, window=None, spacing=(4.0, 1.0, 1.0), **simulation):
    volume = image if isinstance(image, Volume) else Volume("x", image[None].astype(np.float16), spacing)
    rng = np.random.default_rng(seed)
    return draw_scene(volume, len(volume) // 2, Simulation(**simulation), rng, coils=coils, window=window)


def near(a, b, tolerance=2e-5):
    """Return whether two batches are equal up to rounding."""
    parts = [(a.target, b.target), *((getattr(a.problem, n), getattr(b.problem, n)) for n in ("y", "maps", "mask"))]
    return a.names == b.names and all(torch.allclose(x, y, atol=tolerance * float(x.abs().max())) for x, y in parts)


def equal(a, b):
    same = a.names == b.names and a.info == b.info
    for x, y in ((a.problem.y, b.problem.y), (a.problem.maps, b.problem.maps), (a.problem.mask, b.problem.mask)):
        same = same and torch.equal(x, y)
    return same and torch.equal(a.target, b.target)


# what vendors do to volumes


def test_interpolated_volumes_are_cut_to_what_was_measured():
    """Check that zero filling by the scanner is detected along each axis, and nothing else is cropped (trap a)."""
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
    # the simulated k-space has no empty edge: its outermost tenth contains more than noise
    simulated = simulate([scene(volume, **CALM, snr=[1e6, 1e6])])
    k = simulated.kspace[0].abs().sum(0).numpy()
    rim, next_to_it = k[:, :4].mean() + k[:, -4:].mean(), k[:, 8:16].mean() + k[:, -16:-8].mean()
    assert rim > 0.25 * next_to_it


def test_the_background_is_noise():
    """Check that the zero background of a volume contains coil noise in the simulated scan (trap a)."""
    image = np.zeros((96, 96), np.float32)
    image[30:66, 30:66] = 1
    simulated = simulate([scene(image, 1, window=(96, 96), **CALM)])
    empty = PLANE.adjoint(simulated.kspace[0])[:, :12, :12]
    seen, wanted = torch.cov(empty.reshape(4, -1)), simulated.covariance[0]
    assert (seen - wanted).abs().max() < 0.35 * wanted.abs().max()
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
    assert [subject_of(v.name.split(":")[-1], Data().subject) for v in packed] == ["patient04", "patient05"]
    assert is_volume(tmp_path / "pack.npz")
    assert is_volume("phantom:3")
    write_kspace(tmp_path / "k.h5", np.ones((1, 2, 8, 8), np.complex64))
    assert not is_volume(tmp_path / "k.h5")


def test_volumes_that_are_none(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4)))
    with pytest.raises(InputError, match="no magnitude volume"):
        read_volumes(tmp_path / "a.npz")
    for values, word in ((-np.ones((2, 64, 64)), "negative"), (np.full((2, 64, 64), np.nan), "NaN or infinite")):
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
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volumes(tmp_path / "nan.nii")


# the simulator


def test_coils_are_those_of_the_fields_at_every_pixel():
    """Check that interpolated sensitivities equal those evaluated at every pixel."""
    plain = {
        "phase": [0, 0],
        "spin_echo_share": 1.0,
        "fine_phase": [0, 0],
        "gamma": [1.0, 1.0],
        "coil_distance": [1.3, 1.3],
    }
    image = phantom((96, 80), 1, 2)[0]
    one = scene(image, 3, 5, **CALM, **plain, lesions=Lesions(count=[0, 0]))
    simulated, exact = simulate([one]), true_maps([one])
    assert (simulated.clean - exact * simulated.image).abs().max() < 2e-4 * simulated.clean.abs().max()
    assert torch.allclose(simulated.image[0, 0].abs(), torch.from_numpy(image.astype(np.float16)).float(), atol=1e-4)
    same = np.abs(coil_maps((96, 80), 5, one.seed))
    turned = [same, same[:, ::-1], same[:, :, ::-1], same[:, ::-1, ::-1]]
    # mirrored about a pixel, an even grid is one pixel off: that is the tolerance
    assert min(np.abs(exact[0].abs().numpy() - t).max() for t in turned) < 0.1 * same.max()


def test_coils_multiply_the_object_before_it_is_truncated():
    """Check that there is no inverse crime: the data are not exactly coils times an image on the measured grid."""
    image = phantom((128, 120), 1, 2)[0]
    one = scene(image, 3, 6, **CALM | {"resolution": [0.5, 0.5]}, snr=[1e6, 1e6])
    simulated, maps = simulate([one]), true_maps([one])
    assert simulated.kspace.shape == (1, 6, 64, 60)
    gap = (simulated.clean - maps * simulated.image).norm() / simulated.clean.norm()
    assert 2e-3 < gap < 0.05
    fine = simulate([scene(image, 3, 6, **CALM, snr=[1e6, 1e6])])
    # and it is the middle of the k-space of the fine grid; the outermost line is the mean of both ends
    middle = PLANE(fine.clean)[..., 64 - 32 + 1 : 64 + 32, 60 - 30 + 1 : 60 + 30] * (64 * 60 / (128 * 120)) ** 0.5
    assert (PLANE(simulated.clean)[..., 1:, 1:] - middle).abs().max() < 1e-4 * middle.abs().max()


def test_who_else_is_in_a_batch_does_not_matter():
    """Check that slices of different sizes on one grid equal those simulated alone."""
    images = [phantom((96, 80), 1, 2)[0], phantom((120, 128), 1, 3)[0], phantom((64, 150), 1, 4)[0]]
    scenes = [scene(image, n, 5, (64, 72), air=[n, n], veins=[3 - n, 3 - n]) for n, image in enumerate(images)]
    together = simulate(scenes)
    for n, one in enumerate(scenes):
        alone = simulate([one])
        for name in ("kspace", "clean", "image"):
            a, b = getattr(together, name)[n], getattr(alone, name)[0]
            assert (a - b).abs().max() < 1e-5 * b.abs().max(), name
    with pytest.raises(InputError, match="different sizes"):
        simulate([scenes[0], scene(images[0], 0, 6, (64, 72))])


def test_a_window_larger_than_the_object_is_filled_with_air():
    image = np.ones((64, 60), np.float32)
    plain = {"phase": [0, 0], "spin_echo_share": 1.0, "fine_phase": [0, 0], "lesions": Lesions(count=[0, 0])}
    simulated = simulate([scene(image, 0, 4, (96, 80), **CALM, **plain)])
    shown = simulated.image[0, 0].abs()
    assert torch.allclose(shown[16:80, 10:70], torch.ones(64, 60), atol=1e-4)
    assert not shown[:16].any()
    assert not shown[:, 70:].any()
    assert torch.allclose(resample_kspace(torch.ones(2, 8, 8) * 1j, torch.eye(8), torch.eye(8)), torch.ones(8, 8) * 1j)


def test_snr_and_size_are_those_asked_for():
    simulated = simulate([scene(phantom((120, 96), 1, 2)[0], 0, 8, (128, 104), **CALM, snr=[20.0, 20.0])])
    assert simulated.kspace.shape == (1, 8, 128, 104)
    noise = (PLANE.adjoint(simulated.kspace) - simulated.clean).abs().square().mean().sqrt()
    magnitude = simulated.image.abs()
    signal = magnitude[magnitude > 0.1 * magnitude.max()].mean()
    assert float(signal / noise) == pytest.approx(20, rel=0.02)


def test_lesions_are_where_the_mask_says():
    image = phantom((160, 128), 1, 4)[0]
    rng = np.random.default_rng(5)
    out, labels, lesions = insert_lesions(image, rng, 4, size=(6, 12), contrast=(0.3, 0.5), sign=1)
    assert len(lesions) >= 2
    assert labels.max() == len(lesions)
    assert np.abs(out - image)[ndimage.binary_dilation(labels > 0, iterations=2) == 0].max() == 0
    for lesion in lesions:
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
    _, labels, lesions = insert_lesions(image, rng, 1, region=inside)
    assert inside[int(lesions[0].centre[0]), int(lesions[0].centre[1])]
    assert insert_lesions(np.zeros((64, 64), np.float32), rng, 3)[2] == []


# items


def test_items_are_functions_of_their_number():
    factory = recipe(batch=2, with_kspace=True)
    order = EpochSampler(factory)
    straight = SampleLoader(order).batches(0)
    batches = [next(straight) for _ in range(5)]
    later = SampleLoader(order, workers=2).batches(3)  # R06, and starting anywhere
    for batch in batches[3:]:
        assert equal(batch, next(later))
    for rank in range(2):
        part = next(SampleLoader(order, rank=rank, ranks=2).batches(1))
        assert part.names == batches[1].names[rank : rank + 1]
        assert torch.allclose(part.problem.y[0], batches[1].problem.y[rank], atol=1e-5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert equal(factory.sample(*order.epoch(0)[0][0]), factory.sample(*order.epoch(0)[0][0]))
        assert equal(next(SampleLoader(order).batches(0)), batches[0])
        assert near(stack([factory.sample(*a) for a in order.epoch(0)[0]]), batches[0])
    finally:
        torch.set_num_threads(threads)
    assert not equal(factory.sample(0, 0, 0), factory.sample(1, 0, 0))
    assert not equal(factory.sample(0, 0, 0), SampleFactory(factory.slices, factory.data, 8, batch=2).sample(0, 0, 0))


def test_both_signs_of_the_phase_are_drawn(monkeypatch):
    """Check that half of the items are conjugates: a network trained with one sign of the phase fails on the other."""
    drawn, original = [], samples._conjugate

    def conjugate(full, chosen):
        result = original(full, chosen)
        images, changed = PLANE.adjoint(full.kspace), PLANE.adjoint(result.kspace)
        wanted = images.conj() if bool(chosen) else images
        assert torch.allclose(changed, wanted, atol=1e-6 * float(images.abs().max()))
        clean, noise = (full.clean, full.noise)
        assert torch.equal(result.clean, clean.conj() if bool(chosen) else clean)
        assert torch.equal(result.noise, noise.conj() if bool(chosen) else noise)
        drawn.append(bool(chosen))
        return result

    factory = recipe()
    with monkeypatch.context() as patch:
        patch.setattr(samples, "_conjugate", conjugate)
        for number in range(12):
            factory.make([(0, number, 0)])
    assert 2 < sum(drawn) < 10


def test_an_epoch_is_every_slice_once():
    order = EpochSampler(recipe())
    first, second = ([slot for b in order.epoch(e) for _, _, slot in b] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(order.factory.slices)))
    assert first != second
    short = EpochSampler(recipe(batch=5), items_per_epoch=12)
    assert short.chunks_per_epoch == 2
    assert [len(b) for b in short.epoch(0)] == [5, 5]


def test_a_batch_has_one_size_and_sizes_vary():
    """Check that windows are cropped before masking, and that each batch has its own size and coils (trap c)."""
    order = EpochSampler(recipe(batch=2), items_per_epoch=40)
    batches = SampleLoader(order).batches(0)
    shapes = [tuple(next(batches).problem.y.shape) for _ in range(12)]
    assert all(72 <= n <= 96 for s in shapes for n in s[2:])
    assert len({s[2:] for s in shapes}) > 4
    assert len({s[1] for s in shapes}) > 2


def test_amplitudes_are_those_of_use():
    """Check that the scale of a cropped sample is near that of the object (trap c)."""
    factory = recipe()
    scales = []
    for number in range(8):
        batch = factory.sample(0, number, number)
        magnitude = batch.target.abs()
        scales.append(float(percentile_scale(batch.problem.adjoint)[0] / percentile_scale(batch.target)[0]))
        assert magnitude.max() > 0
    assert min(scales) > 0.4
    assert max(scales) < 1.2


def test_maps_are_what_inference_will_have(tmp_path):
    """Check that maps are estimated from the calibration region of each item, as in a reconstruction (trap b)."""
    factory = recipe(settings(simulation={"snr": [40.0, 50.0], "cavities": [0, 0]}))
    batch = factory.sample(0, 3, 5)
    p = batch.problem
    write_kspace(tmp_path / "x.h5", p.y.numpy(), mask=p.mask[0, 0].numpy().astype(np.uint8))
    scan = read(tmp_path / "x.h5")
    with one_thread():
        there = item_maps(scan, 0, scan.kspace(0), scan.mask(0))
    posed = build_problem(scan.kspace(0), scan.mask(0), there, "informed")
    assert torch.allclose(posed.problem.maps, p.maps, atol=1e-5)
    _, prior = factory._maps(p.y, [p.mask[0, 0].numpy() > 0], [factory.slices[5]])
    assert torch.allclose(posed.prior.weight, prior, atol=1e-4)
    # the target is what these maps make of the noise-free coils: consistent with the data up to the noise
    residual = (p.A(batch.target) - p.y).norm() / p.y.norm()
    assert residual < 0.2


def test_lesions_are_kept():
    data = settings(simulation={"lesions": Lesions(count=[3, 3])})
    batch = recipe(data, batch=2).sample(0, 0, 0)
    assert batch.lesions.shape == batch.target.shape
    assert batch.info[0]["lesions"] >= 1
    assert stack([batch, batch]).lesions.shape[0] == 2


def test_targets_without_maps_are_magnitudes():
    batch = recipe(maps=False).sample(0, 0, 0)
    assert not batch.target.is_complex()
    assert batch.target.shape == (1, 1, *batch.problem.y.shape[2:])
    assert torch.equal(batch.problem.maps, torch.full_like(batch.problem.maps, batch.problem.y.shape[1] ** -0.5))


def test_a_measured_target_keeps_its_noise():
    noisy = recipe(settings(target="measured")).sample(0, 0, 0)
    clean = recipe().sample(0, 0, 0)
    assert torch.equal(noisy.problem.y, clean.problem.y)
    assert not torch.equal(noisy.target, clean.target)


def test_people_are_kept_apart(tmp_path):
    image = phantom((64, 64), 2, 1)
    for name in ("patient01_a", "patient01_b", "patient02_a", "patient03_a"):
        np.savez(tmp_path / f"{name}.npz", vol=image)
    data = settings(train=[str(tmp_path)], val=0.3)
    opened = open_sources(data)
    assert set(opened.subjects["train"]) | set(opened.subjects["val"]) == {"patient01", "patient02", "patient03"}
    assert not set(opened.subjects["train"]) & set(opened.subjects["val"])
    assert {s.subject for s in opened.train} == set(opened.subjects["train"])
    with pytest.raises(UsageError, match="a subject is in both") as caught:
        open_sources(settings(train=[str(tmp_path / "*_a.npz")], val=[str(tmp_path / "*_b.npz")]))
    assert caught.value.why == "patient01"
    with pytest.raises(UsageError, match="no file matches"):
        open_sources(settings(train=[str(tmp_path / "nothing*")]))
    with pytest.raises(UsageError, match="not a regular expression"):
        open_sources(settings(subject="("))
    for wrong in ("a**b/c.nii", "", "#x", "~nobody-of-this-name/x", "$UNSET_AND_EMPTY_"[:0]):
        with pytest.raises(UsageError, match="names no file"):
            open_sources(settings(train=[wrong]))
    with pytest.raises(UsageError, match="no group"):  # each file would be a subject of its own, in both groups
        open_sources(settings(train=[str(tmp_path)], val=0.3, subject="patient[0-9]+"))
    with pytest.raises(UsageError, match="no file matches 'patient03") as caught:
        open_sources(settings(train=[str(tmp_path), "patient03*.npz"]))
    assert "entries are independent" in caught.value.why
    assert f"write '{tmp_path}/patient03*.npz' instead of '{tmp_path}'" in caught.value.fix
    (tmp_path / "volumes" / "below").mkdir(parents=True)
    with pytest.raises(UsageError, match="no file matches") as caught:
        open_sources(settings(train=[str(tmp_path / "volumes")]))
    assert "has no file with a suffix of" in caught.value.why
    assert "volumes/**/" in caught.value.fix
    retained = open_sources(settings(train=[str(tmp_path)], exclude=["patient03*"])).subjects["train"]
    assert retained == ["patient01", "patient02"]


def test_people_in_a_packed_file(tmp_path):
    image = phantom((64, 64), 2, 1)
    np.savez(tmp_path / "pack.npz", patient01_T1=image, patient01_T2=image, patient02_T1=image, knee=image)
    pack = str(tmp_path / "pack.npz")
    opened = open_sources(settings(train=[f"{pack}#patient01*", f"{pack}#knee"], val=[f"{pack}#patient02*"]))
    assert opened.subjects == {"train": ["pack:knee", "patient01"], "val": ["patient02"]}
    assert len(opened.train) == 6
    with pytest.raises(UsageError, match="no training data"):
        open_sources(settings(train=[f"{pack}#patient09*"], val=[f"{pack}#patient02*"]))


def test_scans_are_undersampled_and_combined(tmp_path):
    sample = recipe(settings(crop=None)).sample(0, 0, 0)
    one = scene(phantom((64, 72), 1, 1)[0], window=(64, 72))
    full = simulate([one]).kspace[0]
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", full.numpy()[None])
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    opened = open_sources(data)
    batch = SampleFactory(opened.train, data, 0).sample(0, 0, 0)
    mask = batch.problem.mask.bool()[0, 0]
    assert torch.allclose(batch.problem.y[0][:, mask], full[:, mask])
    assert not batch.problem.y[0][:, ~mask].any()
    combined = root_sum_of_squares(PLANE.adjoint(full), 0)
    inside = combined > 0.4 * combined.max()
    assert torch.allclose(batch.target.abs()[0, 0][inside], combined[inside], rtol=0.1)
    assert sample.target is not None
    cut = SampleFactory(opened.train, data.model_copy(update={"crop": [48, 48]}), 0).sample(0, 0, 0)
    assert tuple(cut.problem.y.shape[1:]) == (4, 48, 48)


def test_maps_from_the_file(tmp_path):
    one = scene(phantom((64, 72), 1, 1)[0], window=(64, 72))
    full = simulate([one]).kspace[0]
    for name in ("case1", "case2"):
        maps = true_maps([one]).numpy()[None]
        write_kspace(tmp_path / f"{name}.npz", full.numpy()[None], maps=maps)
    files = {"train": [str(tmp_path / "case1.npz")], "val": [str(tmp_path / "case2.npz")]}
    data = settings(**files, maps="file", crop=None)
    batch = SampleFactory(open_sources(data).train, data, 0).sample(0, 0, 0)
    true = true_maps([one])[0]
    assert torch.allclose(batch.problem.maps[0, 0], true / root_sum_of_squares(true, 0).max(), atol=1e-6)
    cut = data.model_copy(update={"crop": [48, 48]})
    with pytest.raises(InputError, match="do not match cropped samples"):
        SampleFactory(open_sources(cut).train, cut, 0).sample(0, 0, 0)
    none = data.model_copy(update={"maps": "none"})
    unit = SampleFactory(open_sources(none).train, none, 0).sample(0, 0, 0).problem.maps
    assert torch.equal(unit, torch.full_like(unit, 0.5))


def test_prospective_scans_have_no_target(tmp_path):
    one = scene(phantom((64, 72), 1, 1)[0], window=(64, 72))
    full = simulate([one]).kspace[0]
    mask, _ = draw_mask(MASKS, (64, 72), np.random.default_rng(0), True)
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", (full.numpy() * mask)[None])
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    batch = SampleFactory(open_sources(data).train, data, 0, held_out_share=0.4).sample(0, 0, 0)
    assert batch.target is None
    assert torch.equal(batch.problem.mask[0, 0].bool() | batch.loss_mask[0, 0].bool(), torch.from_numpy(mask))
    assert float(batch.loss_mask.sum() / mask.sum()) == pytest.approx(0.4, abs=0.01)


def test_an_item_that_cannot_be_made_is_named(tmp_path):
    for name in ("case1", "case2"):
        write_kspace(tmp_path / f"{name}.h5", np.full((1, 4, 64, 64), np.nan, np.complex64))
    data = settings(train=[str(tmp_path / "case1.h5")], val=[str(tmp_path / "case2.h5")], crop=None)
    for workers in (0, 1):
        with pytest.raises(SignalError) as caught:
            next(SampleLoader(EpochSampler(SampleFactory(open_sources(data).train, data, 0)), workers).batches(0))
        assert "case1.h5" in caught.value.where
        assert "item 0" in caught.value.where


def test_masks_that_fit_are_drawn():
    draws = [MaskFamily(family="random", acceleration=[2.0, 8.0], calibration=[8, 24])]
    seen = set()
    for seed in range(40):
        mask, info = draw_mask(draws, (96, 96), np.random.default_rng(seed), True)
        lines = mask.all(0).sum() if mask.all(0).any() else mask.all(1).sum()
        seen.add((round(info["acceleration"]), min(info["calibration"])))
        assert lines == round(96 / info["acceleration"])
    assert seen == {(2, 8), (2, 24), (8, 8)}  # 24 lines do not fit into 12
    with pytest.raises(UsageError, match="no mask of random fits"):
        draw_mask([MaskFamily(family="random", acceleration=[32.0])], (96, 96), np.random.default_rng(0), True)


def test_masks_of_other_toolkits_fit_or_are_refused():
    draws = [MaskFamily(family="equispaced_fraction", compat="fastmri", acceleration=[4.0, 8.0])]
    combinations = {
        tuple(draw_mask(draws, (128, 128), np.random.default_rng(seed), True)[1]["calibration"]) for seed in range(8)
    }
    assert combinations <= {(128, 10), (10, 128)}, "8-fold has 5 lines in the centre, too few for coil maps"
    narrow = [MaskFamily(family="gaussian1d", compat="mridc", acceleration=[4.0])]
    with pytest.raises(UsageError, match="no mask of gaussian1d fits"):
        draw_mask(narrow, (128, 128), np.random.default_rng(0), True)
    assert draw_mask(narrow, (128, 128), np.random.default_rng(0), False)[0].any()


def test_the_width_of_a_gaussian_is_a_setting():
    wide, narrow = (
        draw_mask(
            [MaskFamily(family="gaussian1d", acceleration=[4.0], calibration=[8], axis="x", fwhm=fwhm)],
            (96, 192),
            np.random.default_rng(0),
            True,
        )[0][0]
        for fwhm in (2.0, 0.4)
    )
    spread = [np.abs(np.flatnonzero(lines) - 96).mean() for lines in (wide, narrow)]
    assert spread[0] > 1.5 * spread[1]


def test_mirrored_discs_keep_their_calibration_region():
    draws = [MaskFamily(family="poisson", acceleration=[4.0], calibration=[12])]
    seen = set()
    for seed in range(12):
        mask, info = draw_mask(draws, (64, 65), np.random.default_rng(seed), True)
        assert mask[26:38, 26:38].all()
        assert mask.sum() == round(64 * 65 / 4)
        assert info["acceleration"] == 4.0
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
    factory = recipe(settings(crop=None))
    with pytest.raises(InputError, match="different sizes") as caught:
        stack([factory.sample(0, n, n) for n in range(4)])
    assert "data.crop" in caught.value.fix


# phase that varies rapidly


def test_cavities_move_phase_from_the_maps_into_the_object_and_keep_the_samples():
    calm, wild = (
        recipe(settings(target="measured", simulation={"cavities": c}), start=first_image) for c in ([0, 0], [5, 5])
    )
    a, b, again = calm.sample(0, 1, 2), wild.sample(0, 1, 2), wild.sample(0, 1, 2)
    assert equal(b, again)
    assert torch.equal(a.problem.y, b.problem.y)
    assert torch.allclose(a.target.abs(), b.target.abs(), atol=1e-5)
    assert float((b.target * a.target.conj()).angle().abs().max()) > 0.2
    encoded = [p.A(p.initial_image) for p in (a.problem, b.problem)]
    assert float((encoded[0] - encoded[1]).abs().max()) < 1e-4 * float(encoded[0].abs().max())
    other = wild.sample(1, 1, 2)
    assert not torch.equal(other.problem.maps, b.problem.maps)


# stored samples


def with_folder(path, **more):
    return settings(**more, buffer=Buffer(location=str(path)))


def test_a_kept_item_may_have_any_phase(tmp_path):
    """Check that the phase is drawn when an item is read, so that stored samples serve runs with other settings."""
    for cavities in ([0, 0], [6, 6]):
        stored = recipe(with_folder(tmp_path, simulation={"cavities": cavities})).sample(0, 0, 0)
        sample = recipe(settings(simulation={"cavities": cavities})).sample(0, 0, 0)
        assert torch.allclose(stored.problem.maps, sample.problem.maps, atol=1e-3)
    assert len(list(tmp_path.rglob("*.pt"))) == 1


def test_a_kept_item_is_the_same_when_it_is_read_again(tmp_path):
    data = with_folder(tmp_path)
    sample, again, other = (recipe(data, start=s).sample(0, 1, 2) for s in (first_image, first_image, None))
    (a, b) = (r.problem for r in (sample, again))
    assert equal(sample, again)
    assert torch.equal(a.initial_image, b.initial_image)
    assert torch.equal(sample.lesions, again.lesions)
    assert other.problem.initial_image is None, "samples of other settings are stored separately"
    assert len(list(tmp_path.rglob("*.pt"))) == 2
    new = recipe(settings(), start=first_image).sample(0, 1, 2)
    assert torch.equal(new.problem.y, a.y)
    assert torch.equal(new.target, sample.target)
    assert torch.allclose(new.problem.maps, a.maps, atol=1e-3)


def test_what_cannot_be_read_is_made_again(tmp_path):
    data = with_folder(tmp_path)
    sample = recipe(data).sample(0, 0, 0)
    (path,) = tmp_path.rglob("*.pt")
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"not an item"):
        path.write_bytes(broken)
        assert equal(recipe(data).sample(0, 0, 0), sample)
        assert path.stat().st_size == len(whole)


def test_another_setting_slice_or_simulator_is_another_item(tmp_path, monkeypatch):
    def count(data, slot=0, **more):
        recipe(data, **more).sample(0, 0, slot)
        return len(list(tmp_path.rglob("*.pt")))

    assert count(with_folder(tmp_path)) == 1
    assert count(with_folder(tmp_path, val_items=3, licence="x")) == 1
    assert count(with_folder(tmp_path), slot=1) == 2
    assert count(with_folder(tmp_path, crop=[80, 96])) == 3
    assert count(with_folder(tmp_path, target="measured")) == 4
    assert count(with_folder(tmp_path), uncropped_maps=False) == 5
    starts = [partial(compressed_sensing_start, iterations=n) for n in (1, 2)]
    assert [count(with_folder(tmp_path), start=s) for s in starts] == [6, 7]
    # after a change of the simulator, old samples are not reused
    monkeypatch.setattr("mrirecon.data.samples.simulator_version", lambda: "another")
    assert count(with_folder(tmp_path)) == 8


def test_the_version_of_the_simulator_is_that_of_its_code(tmp_path, monkeypatch):
    import mrirecon
    from mrirecon.data.samples import simulator_version

    before = simulator_version.__wrapped__()
    shutil.copytree(Path(mrirecon.__file__).parent, tmp_path / "mrirecon", ignore=shutil.ignore_patterns("weights"))
    monkeypatch.setattr(mrirecon, "__file__", str(tmp_path / "mrirecon" / "__init__.py"))
    assert simulator_version.__wrapped__() == before
    for name in ("data/fields.py", "coils/espirit.py", "methods/cs.py"):
        path = tmp_path / "mrirecon" / name
        path.write_text(path.read_text() + "# mended")
        after = simulator_version.__wrapped__()
        assert after != before, name
        before = after


def test_the_folder_may_be_a_variable(tmp_path, monkeypatch):
    data = with_folder("$HERE/stored")
    with pytest.raises(UsageError, match="variable is not set"):
        recipe(data).sample(0, 0, 0)
    monkeypatch.setenv("HERE", str(tmp_path))
    recipe(data).sample(0, 0, 0)
    assert len(list((tmp_path / "stored").rglob("*.pt"))) == 1


# the buffer


def drawn(count, first=0, workers=0, batch=2, device="cpu", **buffer):
    data = settings(buffer=Buffer(**buffer))
    loader = SampleLoader(
        EpochSampler(recipe(data, batch=batch * data.buffer.batches_per_chunk), 24), workers, device=device
    )
    batches = loader.batches(first)
    result = [next(batches) for _ in range(count)]
    batches.close()
    return result, loader


@pytest.mark.parametrize(("uses", "samples", "together"), [(1, 8, 1), (2, 6, 1), (3, 2, 2), (4, 24, 3)])
def test_a_sample_is_drawn_as_often_as_asked_for(uses, samples, together):
    data = settings(buffer=Buffer(draws_per_sample=uses, capacity=samples, batches_per_chunk=together))
    loader = SampleLoader(EpochSampler(recipe(data, batch=2 * together), 24))
    held, most, counts = set(), 0, {}
    for chunk, use in islice(loader._draws(0), 200):
        assert use == counts.get(chunk, 0), "the uses are in order"
        counts[chunk] = use + 1
        held.add(chunk)
        most = max(most, len(held))
        if use == uses - 1:
            held.remove(chunk)
    assert max(counts.values()) == uses
    assert all(counts[c] == uses for c in range(max(counts) - max(1, samples // 2)))
    assert most <= max(1, samples // (2 * together))


def test_what_is_drawn_again_is_turned():
    result, loader = drawn(6, draws_per_sample=3, capacity=2)
    names = [batch.names for batch in result]
    assert names[0] == names[1] == names[2] != names[3]
    assert loader.statistics()["uses"] == 3
    first, *later = result[:3]
    for batch in later:
        p = batch.problem
        assert not torch.equal(p.y, first.problem.y)
        # the same samples and values, and as consistent with each other as they were
        both = [b.problem.y.abs().flatten().sort().values for b in (batch, first)]
        assert torch.allclose(*both, rtol=1e-4, atol=1e-6)
        residual = [(b.problem.A(b.target) - b.problem.y).norm() / b.problem.y.norm() for b in (first, batch)]
        assert float(residual[0]) == pytest.approx(float(residual[1]), rel=1e-3)


@pytest.mark.parametrize("first", [0, 5, 11, 60])
@pytest.mark.parametrize(
    "buffer",
    [
        {"draws_per_sample": 2, "capacity": 6},
        {"draws_per_sample": 4, "capacity": 24, "batches_per_chunk": 3},
        {"draws_per_sample": 3},
    ],
)
def test_what_the_next_batches_wait_for_is_known_beforehand(first, buffer, monkeypatch):
    """Check the predicted number of chunks, because computing a chunk takes longer than many steps."""
    monkeypatch.setattr(loading, "_make_chunk", lambda recipe, addresses, device="cpu": None)
    monkeypatch.setattr(SampleLoader, "_augmented", lambda self, content, chunk, use: (chunk, use))
    monkeypatch.setattr(loading, "part_of", lambda batch, which: (*batch, which.start))
    loader = SampleLoader(
        EpochSampler(recipe(settings(buffer=Buffer(**buffer)), batch=2 * buffer.get("batches_per_chunk", 1)), 24)
    )
    whole = list(islice(loader.batches(0), first + 40))
    batches, results = loader.batches(first), []
    for count in (1, 2, 7) * 3:
        before, ahead = (loader.chunks_made, loader.chunks_before(count)) if results else (0, 1)
        results += islice(batches, count)
        assert loader.chunks_made - before == ahead
    assert results == whole[first : first + len(results)]


@pytest.mark.parametrize(
    "buffer",
    [{"draws_per_sample": 2, "capacity": 6}, {"draws_per_sample": 3, "capacity": 16, "batches_per_chunk": 2}, {}],
)
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(buffer):
    first = 5
    whole, _ = drawn(first + 4, **buffer)
    for later in (drawn(4, first, **buffer)[0], drawn(4, first, workers=2, **buffer)[0]):
        for a, b in zip(whole[first:], later, strict=True):
            assert equal(a, b)


def test_a_folder_serves_the_next_run(tmp_path):
    first, _ = drawn(4, draws_per_sample=2, capacity=4, location=str(tmp_path))
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")}
    again, _ = drawn(4, workers=1, draws_per_sample=2, capacity=4, location=str(tmp_path))
    memory, _ = drawn(4, draws_per_sample=2, capacity=4)
    for a, b, c in zip(first, again, memory, strict=True):
        assert equal(a, b)
        assert equal(a, c)
    assert all(p.stat().st_mtime_ns == when for p, when in files.items())


def test_a_gpu_is_fed_by_cores_where_there_are_enough_and_room_for_what_they_send():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert workers_for(gpu, 8, cores=16, shared=2**36) == 15
    assert workers_for(gpu, 8, cores=16, shared=2**26) == 0, "the default of the shared memory of a container"
    assert workers_for(gpu, 8, cores=4, shared=2**36) == 0
    assert [workers_for(cpu, 8, cores, 0) for cores in (1, 2, 4, 64)] == [0, 0, 2, 8]


def test_what_is_packed_is_the_same_again():
    batch = recipe(batch=2, with_kspace=True, start=first_image).make([(0, 0, 0), (0, 1, 3)])
    packed = pack(batch)
    again = unpack(packed)
    assert again.names == batch.names
    assert again.info == batch.info
    for name in ("target", "kspace", "loss_mask", "lesions"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    for name in ("y", "mask", "initial_image", "noise"):
        assert torch.equal(getattr(batch.problem, name), getattr(again.problem, name))
    assert torch.allclose(again.problem.maps, batch.problem.maps, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(packed.values(), pack(again).values(), strict=True))


def test_options_of_before_are_told_what_took_their_place():
    for old, new in (("bank", "buffer.location"), ("rounds", "buffer.draws_per_sample")):
        with pytest.raises(ValueError, match=f"{old} is no longer an option.*{new}"):
            Data(**{old: 1})
    with pytest.raises(ValueError, match="fat is a fraction"):
        Simulation(fat=[0.0, 3.2])


@pytest.mark.parametrize(("length", "batch"), [(None, 1), (5, 1), (12, 5), (13, 1), (17, 4), (40, 3)])
def test_an_epoch_is_as_long_as_it_says(length, batch):
    """Check the length of an epoch, from which a resumed run derives its position."""
    order = EpochSampler(recipe(batch=batch), length)
    for epoch in (0, 3):
        result = order.epoch(epoch)
        assert len(result) == order.chunks_per_epoch
        assert all(len(b) == batch for b in result)


def first_image(problem, near=None):
    return problem.adjoint * 2


def test_workers_killed_at_any_moment_cost_time_alone():
    """Kill workers that hold a lock: no batch is lost or repeated, and nothing waits forever (R05)."""
    order, rng = EpochSampler(recipe(settings())), np.random.default_rng(0)
    wanted = [next(SampleLoader(order).batches(n)).names for n in range(12)]
    loader = SampleLoader(order, workers=2)
    batches, results = loader.batches(0), []
    for _ in range(12):
        results.append(next(batches).names)
        time.sleep(float(rng.uniform(0, 0.1)))
        for child in multiprocessing.active_children()[:1]:  # none, between two sets of workers
            os.kill(child.pid, signal.SIGKILL)
    batches.close()
    assert results == wanted
    assert len(loader.notes) > 1, "otherwise none died in time"


def test_workers_do_not_outlive_a_training_that_is_killed():
    code = """
import multiprocessing, sys, time
sys.path.insert(0, sys.argv[1])
from test_training_data import EpochSampler, SampleLoader, recipe, settings
batches = SampleLoader(EpochSampler(recipe(settings())), workers=2).batches(0)
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_memory_that_is_held_is_not_mapped_anew():
    code = """
import resource, sys
import numpy as np
from mrirecon.data.loading import keep_freed_memory
if sys.argv[1] == "held":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(4 << 20)
before = faults()
for _ in range(10):
    np.ones(4 << 20)
print(faults() - before)
"""
    result = {
        mode: int(subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("held", "freed")
    }
    assert result["held"] < 0.1 * result["freed"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_the_same_samples():
    """Check that devices agree up to rounding and voxels at a threshold: random numbers are drawn on the CPU."""
    start = partial(compressed_sensing_start, iterations=4)
    factory = recipe(settings(target="measured"), batch=3, start=start)
    addresses = [(0, n, 2 * n) for n in range(3)]
    cpu, gpu = factory.make(addresses), factory.make(addresses, "cuda")
    assert gpu.problem.y.device.type == "cuda"
    again = gpu.to("cpu")
    parts = [(cpu.target, again.target)]
    parts += [(getattr(cpu.problem, n), getattr(again.problem, n)) for n in ("y", "maps", "start", "prior")]
    for a, b in parts:
        gap = (a - b).abs() / a.abs().max()
        assert (gap > 1e-4).float().mean() < 1e-3
        assert gap.median() < 1e-5
    assert near(factory.augment(cpu, addresses, 1), factory.augment(gpu, addresses, 1).to("cpu"), 1e-2)
