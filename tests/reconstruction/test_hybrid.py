"""Test that volumes with a fully sampled readout are solved slice by slice, with equal results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mrirecon.engine import Reconstructor
from mrirecon.errors import ResourceError, SignalError, UsageError
from mrirecon.io import read, read_image, write_kspace, write_maps
from mrirecon.io.safe import scratch
from mrirecon.methods.registry import methods
from mrirecon.physics.operators import Coils, Fourier
from mrirecon.reconstruction import slices
from mrirecon.reconstruction.run import reconstruct
from mrirecon.reconstruction.slices import HybridSlices, find_slicing, open_slices

SHAPE = (16, 24, 12)  # z, y, x
COILS = 3


@pytest.fixture(scope="module")
def volume():
    """Object (z, y, x), coil maps and full k-space (coil, z, y, x) of a smooth volume, with noise."""
    rng = np.random.default_rng(3)
    grids = np.meshgrid(*[(np.arange(n) - n // 2) / (n / 2) for n in SHAPE], indexing="ij")
    inside = sum(g**2 for g in grids) < 0.6
    image = inside * (1 + 0.4 * np.sin(5 * grids[1])) * np.exp(0.7j * grids[2])
    centres = rng.uniform(-1, 1, (COILS, 3))
    maps = np.stack([np.exp(-sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True))) for centre in centres])
    maps = (maps * np.exp(1j * rng.uniform(0, 6, (COILS, 1, 1, 1)))).astype(np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    coils = Coils(torch.from_numpy(maps)[None, None])(torch.from_numpy(image.astype(np.complex64))[None, None])
    kspace = Fourier((-3, -2, -1))(coils)[0].numpy()
    noise = rng.normal(size=(2, *kspace.shape)) * 0.002
    return image, maps, (kspace + noise[0] + 1j * noise[1]).astype(np.complex64)


def plane_mask(readout: int, share: float = 0.5) -> np.ndarray:
    """Undersample both other axes, with a calibration region of 8 × 8; constant along the readout."""
    shape = [n for a, n in enumerate(SHAPE) if a != readout]
    plane = np.random.default_rng(5).random(shape) < share
    plane[tuple(slice(n // 2 - 4, n // 2 + 4) for n in shape)] = True
    return np.broadcast_to(np.expand_dims(plane, readout), SHAPE)


def write(path: Path, kspace: np.ndarray, axes: str = "coil,z,y,x", **more):
    names = axes.split(",")
    stored = kspace.transpose([["coil", "z", "y", "x"].index(n) for n in names])
    write_kspace(path, np.ascontiguousarray(stored), axes=axes, **more)
    return read(path)


def taken_apart(scan):
    """Return the first volume as slices, not yet spooled; None where it is solved whole."""
    slicing, _ = find_slicing(scan)
    return None if slicing is None else open_slices(scan, 0, slicing)


@pytest.mark.parametrize("axes", ["coil,z,y,x", "x,y,z,coil", "y,coil,z,x"])
@pytest.mark.parametrize("readout", [0, 1, 2])
def test_slices_hold_the_volume_transformed_along_its_readout(tmp_path, volume, readout, axes, monkeypatch):
    monkeypatch.setattr(slices, "_BLOCK", 5000)  # so that coils and parts of them are read one after the other
    kspace = volume[2] * plane_mask(readout)
    scan = write(tmp_path / "v.h5", kspace, axes)
    part = taken_apart(scan)
    assert part is not None
    assert part.readout == "zyx"[readout]
    assert len(part) == SHAPE[readout]
    rest = [a for a in range(3) if a != readout]
    wanted = Fourier((readout - 3,)).adjoint(torch.from_numpy(kspace)).numpy()
    wanted = np.moveaxis(wanted, readout + 1, 0)
    order = [rest.index("zyx".index(name)) for name in part.space]
    wanted = wanted.transpose(0, 1, *(2 + o for o in order))
    atol = 1e-6 * np.abs(wanted).max()
    for item in (0, 7, SHAPE[readout] - 1):
        np.testing.assert_allclose(part.kspace(item), wanted[item], atol=atol, err_msg="before it is spooled")
    assert part.spool([tmp_path])
    for item in range(len(part)):
        np.testing.assert_allclose(part.kspace(item), wanted[item], atol=atol)
        assert (part.mask(item) == plane_mask(readout).take(0, axis=readout).transpose(order)).all()


def test_a_file_on_disk_serves_as_memory_does(tmp_path, volume, monkeypatch):
    scan = write(tmp_path / "v.h5", volume[2] * plane_mask(2))
    before = reconstruct(scan, method="cs", options={"iterations": 5}).images
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    monkeypatch.setattr(slices, "_BLOCK", 5000)
    after = reconstruct(scan, method="cs", options={"iterations": 5}, scratch=[tmp_path])
    assert isinstance(after.images.base, np.memmap)
    assert after.images.shape == (1, *SHAPE)
    np.testing.assert_array_equal(after.images, before)
    assert [p.name for p in tmp_path.iterdir()] == ["v.h5"], "the temporary files have no names"


@pytest.mark.parametrize("method", ["zero-filled", "rss", "sense"])
@pytest.mark.parametrize("readout", [0, 2])
def test_linear_methods_give_what_the_whole_problem_gives(tmp_path, volume, method, readout):
    """Maps are given, so that both solve the same equations; CG is run to its end."""
    _, maps, kspace = volume
    mask = plane_mask(readout, 0.8)  # well conditioned
    write(tmp_path / "v.h5", kspace * mask, mask=mask)
    write_maps(tmp_path / "maps.h5", maps[None, None])
    scan = read(tmp_path / "v.h5", maps=tmp_path / "maps.h5")
    options = {} if method != "sense" else {"iterations": 100, "tolerance": 1e-6, "lam": 0.0}
    sliced = reconstruct(scan, method=method, options=options)
    assert any("slice by slice" in note for note in sliced.notes)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("mrirecon.reconstruction.choose.find_slicing", lambda *_: (None, []))
    whole = reconstruct(scan, method=method, options=options)
    monkey.undo()
    assert not any("slice by slice" in note for note in whole.notes)
    assert sliced.images.shape == whole.images.shape
    error = np.abs(sliced.images - whole.images).max() / np.abs(whole.images).max()
    assert error < (1e-5 if method != "sense" else 1e-3), error


@pytest.mark.parametrize("method", sorted(name for name, m in methods().items() if not m.learned))
def test_every_classical_method_finds_the_object(tmp_path, volume, method):
    image, maps, kspace = volume
    mask = plane_mask(2)
    write(tmp_path / "v.h5", kspace * mask)
    write_maps(tmp_path / "maps.h5", maps[None, None])  # too small for ESPIRiT
    scan = read(tmp_path / "v.h5", maps=tmp_path / "maps.h5")
    found = reconstruct(scan, method=method, options={"iterations": 20} if method.startswith("cs") else None)
    assert len(found.seconds) == len(found.reasons) == SHAPE[2]
    truth = np.abs(image)
    error = np.linalg.norm(np.abs(found.images[0]) - truth) / np.linalg.norm(truth)
    zero = reconstruct(scan, method="zero-filled").images[0]
    limit = np.linalg.norm(np.abs(zero) - truth) / np.linalg.norm(truth)
    assert error < (limit * 1.3 if method in ("zero-filled", "rss") else 0.75 * limit)


def test_a_learned_method_takes_slices_of_a_volume(tmp_path, volume):
    from mrirecon.methods.registry import build
    from mrirecon.models.checkpoints import load_model, save_model

    options = {"cascades": 1, "steps": 1, "features": 4}
    model: Reconstructor = build("cirim", options)
    trained = load_model(save_model(tmp_path / "model", "cirim", options, model))
    scan = write(tmp_path / "v.h5", volume[2] * plane_mask(2))
    one = reconstruct(scan, model=trained)
    many = reconstruct(scan, model=trained, batch=3)
    assert one.images.shape == (1, *SHAPE)
    np.testing.assert_allclose(many.images, one.images, rtol=1e-3, atol=1e-5 * np.abs(one.images).max())


def test_a_volume_sampled_fully_along_no_axis_stays_whole(tmp_path, volume):
    mask = np.random.default_rng(0).random(SHAPE) < 0.6
    mask[4:12, 8:16, 2:10] = True
    scan = write(tmp_path / "v.h5", volume[2] * mask)
    assert taken_apart(scan) is None
    assert reconstruct(scan, method="sense").reasons.__len__() == 1


def test_a_partial_echo_stays_whole(tmp_path, volume):
    """The mask is constant along x, and the data are not complete along it: the first coil shows it, or a later one."""
    kspace = volume[2] * plane_mask(2)
    kspace[:, :, :, :3] = 0
    assert taken_apart(write(tmp_path / "v.h5", kspace, mask=plane_mask(2))) is None
    kspace = volume[2] * plane_mask(2)
    kspace[1:, :, :, :3] = 0
    kspace[0] = 0
    kspace[0, 7, 12] = 1  # one whole line is all that the first coil has
    scan = write(tmp_path / "w.h5", kspace, mask=plane_mask(2))
    found = reconstruct(scan, method="zero-filled")
    assert len(found.seconds) == 1
    assert any("some coils lack data" in note for note in found.notes)


def test_volumes_of_a_scan_and_options(tmp_path, volume):
    kspace = volume[2] * plane_mask(2)
    scan = write(tmp_path / "v.h5", kspace)
    write_kspace(tmp_path / "two.h5", np.stack([kspace, 2 * kspace]), axes="repetition,coil,z,y,x")
    one = reconstruct(scan, method="zero-filled").images[0]
    two = reconstruct(read(tmp_path / "two.h5"), method="zero-filled").images
    np.testing.assert_allclose(two[0], one, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(two[1], 2 * one, rtol=1e-5, atol=1e-7)
    whole = reconstruct(scan, method="cs", options={"ndim": 3, "iterations": 2})
    assert len(whole.seconds) == 1


def test_separate_calibration_is_transformed_too(tmp_path, volume):
    kspace = volume[2]
    plane = np.zeros(SHAPE[:2], bool)
    plane[::2] = True
    mask = np.broadcast_to(plane[..., None], SHAPE)  # constant along y and x, of which y is taken
    for size in (SHAPE[1], 8):
        start = SHAPE[1] // 2 - size // 2
        box = kspace[:, 4:12, start : start + size, 2:10]
        np.savez(tmp_path / "v.npz", kspace=kspace * mask, calibration=box, axes=np.array(["coil", "z", "y", "x"]))
        part = taken_apart(read(tmp_path / "v.npz"))
        assert part is not None
        assert part.readout == "y"
        assert part.calibration.shape == (SHAPE[1], COILS, 8, 8)
        full = np.zeros_like(kspace)
        full[:, 4:12, start : start + size, 2:10] = box
        wanted = Fourier((-2,)).adjoint(torch.from_numpy(full)).numpy()[:, 4:12, 7, 2:10]
        np.testing.assert_allclose(part.calibration[7], wanted, atol=1e-6 * np.abs(wanted).max())
        assert len(reconstruct(read(tmp_path / "v.npz"), method="sense").seconds) == SHAPE[1]


def test_positions_without_signal_are_zero(tmp_path, volume):
    """Where coil maps end, no coil sees anything."""
    _, maps, kspace = volume
    maps = maps.copy()
    maps[..., :2] = 0
    write(tmp_path / "v.h5", kspace * plane_mask(2))
    write_maps(tmp_path / "maps.h5", maps[None, None])
    found = reconstruct(read(tmp_path / "v.h5", maps=tmp_path / "maps.h5"), method="cs")
    assert (found.images[..., :2] == 0).all()
    assert np.abs(found.images[..., 4:8]).max() > 0.5
    assert found.reasons[:2] == ["no signal"] * 2
    assert len(found.lam) == SHAPE[2]


def test_values_that_are_not_numbers_are_named(tmp_path, volume):
    kspace = volume[2].copy()
    kspace[2, 9, 8, 7] = np.nan
    with pytest.raises(SignalError, match="NaN or infinite") as error:
        reconstruct(write(tmp_path / "v.h5", kspace), method="zero-filled")
    assert "coil 2, z 9, y 8, x 7" in str(error.value.where)
    with pytest.raises(SignalError, match="zero everywhere"):
        reconstruct(write(tmp_path / "z.h5", 0 * volume[2]), method="zero-filled")


def test_a_mask_from_elsewhere_undersamples_a_volume(tmp_path, volume):
    np.save(tmp_path / "mask.npy", plane_mask(2).astype(np.uint8))
    write(tmp_path / "v.h5", volume[2])
    found = reconstruct(read(tmp_path / "v.h5", mask=tmp_path / "mask.npy"), method="zero-filled").images
    wanted = reconstruct(write(tmp_path / "w.h5", volume[2] * plane_mask(2)), method="zero-filled").images
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_too_little_disk_is_known_beforehand(tmp_path, volume, monkeypatch):
    scan = write(tmp_path / "v.h5", volume[2] * plane_mask(2))
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)
    monkeypatch.setattr(
        scratch.shutil, "disk_usage", lambda _: scratch.shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000)
    )
    with pytest.raises(ResourceError, match="disk space") as error:
        reconstruct(scan, method="zero-filled", scratch=[tmp_path])
    assert error.value.exit_code == 5
    assert str(tmp_path) in error.value.why
    assert "TMPDIR" in error.value.fix


def test_volumes_that_were_sampled_differently(tmp_path, volume):
    both = np.stack([volume[2] * plane_mask(2), volume[2] * plane_mask(0)])
    write_kspace(tmp_path / "two.h5", both, axes="repetition,coil,z,y,x")
    found = reconstruct(read(tmp_path / "two.h5"), method="rss")
    for axis, image in zip((2, 0), found.images, strict=True):  # one image needs no maps, and both ways are one
        alone = reconstruct(write(tmp_path / f"{axis}.h5", volume[2] * plane_mask(axis)), method="rss").images[0]
        np.testing.assert_allclose(image, alone, atol=1e-5 * np.abs(alone).max())
    assert any("solved as volumes" in note for note in found.notes)


def test_a_volume_that_is_full_is_taken_apart_as_the_others_are(tmp_path, volume):
    """Any axis of the first would do; the second has one."""
    both = np.stack([volume[2], 0 * volume[2], volume[2] * plane_mask(2)])
    write_kspace(tmp_path / "three.h5", both, axes="repetition,coil,z,y,x")
    found = reconstruct(read(tmp_path / "three.h5"))
    assert found.methods == ["zero-filled", found.method, found.method]
    assert found.method in ("cs", "rss", "cirim")
    assert not found.images[1].any()
    assert len(found.reasons) == len(found.seconds) == 3 * SHAPE[2]
    assert any("no signal in item 1" in note for note in found.notes)
    alone = reconstruct(write(tmp_path / "one.h5", volume[2] * plane_mask(2)), method=found.method).images[0]
    np.testing.assert_allclose(found.images[2], alone, atol=2e-3 * np.abs(alone).max())
    whole = np.abs(reconstruct(write(tmp_path / "full.h5", volume[2]), method="zero-filled").images[0])
    assert np.linalg.norm(np.abs(found.images[0]) - whole) < 0.05 * np.linalg.norm(whole)  # other slices, other maps


def test_wrong_options_are_refused_before_a_pass(tmp_path, volume, monkeypatch):
    scan = write(tmp_path / "v.h5", volume[2] * plane_mask(2))
    monkeypatch.setattr(HybridSlices, "spool", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UsageError, match="iteratons"):
        reconstruct(scan, method="cs", options={"iteratons": 3})


PEAK = """
import sys
from pathlib import Path
from mrirecon.reconstruction import slices
from mrirecon.io.safe import scratch
from mrirecon.reconstruction.file import reconstruct_file

small, large, out, block = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
slices._BLOCK = scratch.IN_MEMORY = block
peak = lambda: 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # of this program alone
reconstruct_file(small, out / "images" / "small.h5", method="rss")
before = peak()
reconstruct_file(large, out / "images" / "large.h5", method="rss")
print(peak() - before)
"""


def grown(tmp_path, axes, shape, block):
    """Return by how many bytes the peak of memory grows from a small to a large volume of noise of that shape."""
    rng = np.random.default_rng(0)
    for name, size in (("small", (shape[0], 4, 16, 16)), ("large", shape)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            kspace = file.create_dataset("kspace", size, np.complex64)
            kspace.attrs["axes"] = np.bytes_(axes)
            for first in range(size[0]):
                kspace[first] = rng.normal(size=(*size[1:], 2)).astype(np.float32).view(np.complex64)[..., 0]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "small.h5", tmp_path / "large.h5", tmp_path, str(block)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    coils = shape[0] if axes[0] == "c" else shape[1]
    assert read_image(tmp_path / "images" / "large.h5").size == np.prod(shape) / coils
    assert len(list((tmp_path / "images").iterdir())) == 4
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("axes", "shape", "limit"), [("coil,z,y,x", (4, 96, 128, 128), 48), ("slice,coil,y,x", (96, 1, 256, 256), 76)]
)
def test_memory_stays_bounded(tmp_path, axes, shape, limit):
    """48 MiB of k-space in blocks of 1 MiB; of the images, 12 or 48 MiB, no more than the file is mapped."""
    assert grown(tmp_path, axes, shape, 1 << 20) < limit << 20


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "limit"), [("coil,z,y,x", 0.6), ("slice,coil,y,x", 0.3)])
def test_memory_stays_bounded_for_a_large_volume(tmp_path, axes, limit):
    """1.5 GiB of k-space, as it comes."""
    shape = (16, 128, 320, 320) if axes[0] == "c" else (128, 16, 320, 320)
    assert grown(tmp_path, axes, shape, 64 << 20) < limit * 2**30


def test_lost_samples_are_solved_as_a_volume(tmp_path, volume):
    """A line with a gap is no slice's sample; all volumes are asked before the first is solved."""
    kspace = np.stack([volume[2], volume[2]]) * plane_mask(2)
    write_kspace(tmp_path / "whole.h5", kspace, axes="repetition,coil,z,y,x")
    assert taken_apart(read(tmp_path / "whole.h5", nan="zero")) is not None
    kspace[1, 2, 8, 12, 5] = np.nan
    write_kspace(tmp_path / "v.h5", kspace, axes="repetition,coil,z,y,x")
    scan = read(tmp_path / "v.h5", nan="zero")
    assert taken_apart(scan) is None
    done = reconstruct(scan, method="rss")
    assert done.images.shape == (2, *SHAPE)
    assert np.isfinite(done.images).all()
    assert any("solved as a volume" in note for note in done.notes)
    assert any("treated as not measured" in note for note in done.notes)
