"""Test faults in the meaning of k-space (rows K): values, masks, axes, sizes, conventions."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mrirecon import io
from mrirecon.coils.espirit import espirit
from mrirecon.data.batch import Batch, stack
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import CalibrationError, InputError
from mrirecon.methods.registry import build, find_method
from mrirecon.networks.normalise import InstanceNorm
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.reconstruction.run import reconstruct
from tests.faults.conftest import scan_file
from tests.faults.rows import row
from tests.io.test_io_hostile import lines, random
from tests.methods.test_methods import CLASSICAL, SMALL
from tests.problems import random_problem

LINES = np.r_[np.tile([1, 0], 8), np.ones(16), np.tile([1, 0], 8)]  # 48 columns, the middle third complete
METHODS = [*CLASSICAL, "sigpy-cs"]


@pytest.fixture
def bad(tmp_path) -> Path:
    folder = tmp_path / "bad"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def head() -> np.ndarray:
    """K-space (1, 4, 56, 48) of a phantom's head, seen by four coils."""
    return simulate_kspace(phantom((56, 48), 1, 1), 4, 60.0, 1).kspace.astype(np.complex64)


def verdicts(cli, path: Path, *options: object) -> tuple[int, dict[str, dict[str, str]]]:
    """Return exit code and findings by name of `info --check`."""
    code, out, err = cli("info", "--check", "--json", path, *options)
    assert code in (0, 3), err
    return code, {found["name"]: found for found in json.loads(out)["checks"]}


@row("K01", METHODS)
def test_all_zero(cli, rejects, bad, case):
    io.write_kspace(bad / "bad.h5", np.zeros((1, 3, 32, 32)))
    if case == "rss":
        rejects(bad / "bad.h5", 3, "zero everywhere")
        code, found = verdicts(cli, bad / "bad.h5")
        assert (code, found["signal"]["verdict"]) == (3, "bad")
    rejects(bad / "bad.h5", 3, "zero everywhere", options=("-m", case))


@row("K02", ["nan", "inf", "imaginary", "lambda auto"])
def test_values_that_are_not_numbers(cli, rejects, bad, head, case):
    kspace = head * LINES
    lost = kspace.copy()
    lost[0, 1, 3, 4] = {"nan": np.nan, "inf": -np.inf, "imaginary": complex(0, np.nan)}.get(case, np.nan)
    io.write_kspace(bad / "bad.h5", lost)
    method = ("-m", "cs", "--lambda", "auto") if case == "lambda auto" else ()
    rejects(bad / "bad.h5", 3, "coil 1, y 3, x 4", "--nan zero", options=method)
    code, found = verdicts(cli, bad / "bad.h5")
    assert (code, found["numbers"]["verdict"]) == (3, "bad")
    assert "coil 1, y 3, x 4" in found["numbers"]["message"]
    # Equal to the undamaged data with a mask that excludes this sample.
    code, _, err = cli("reconstruct", bad / "bad.h5", "-m", "sense", "--nan", "zero", "-o", "zero.h5")
    assert code == 0
    assert "1 samples" in err
    mask = np.broadcast_to(LINES, (56, 48)).copy()
    mask[3, 4] = 0
    np.save("mask.npy", mask)
    io.write_kspace("whole.h5", kspace)
    assert cli("reconstruct", "whole.h5", "-m", "sense", "--mask", "mask.npy", "-o", "masked.h5")[0] == 0
    np.testing.assert_allclose(io.read_image("zero.h5"), io.read_image("masked.h5"), rtol=1e-4, atol=1e-8)
    assert np.isnan(io.read(bad / "bad.h5").unmasked_kspace(0)).any() or case == "inf"
    assert cli("reconstruct", bad / "bad.h5", "--nan", "maybe")[0] == 2


@row("K03", ["sense", "cs", "cs-tv", "sigpy-cs", "sigpy maps", "auto"])
def test_no_calibration_region(cli, rejects, bad, head, case):
    mask = np.arange(48) % 2 == 1  # the centre, 24, is not in it
    io.write_kspace(bad / "bad.h5", head * mask, mask=mask)
    advice(cli, rejects, bad / "bad.h5", case, "no calibration region")


@row("K04", ["sense", "sigpy maps", "auto"])
def test_calibration_region_smaller_than_the_kernel(cli, rejects, bad, head, case):
    mask = (np.arange(48) % 2 == 1) | (abs(np.arange(48) - 24) < 2)
    io.write_kspace(bad / "bad.h5", head * mask, mask=mask)
    advice(cli, rejects, bad / "bad.h5", case, "24×3", "6 samples along each axis")


def advice(cli, rejects, path: Path, case: str, *words: str) -> None:
    """Check what is told of a calibration region that will not do, and that one of the things advised helps."""
    if case == "auto":
        code, _, err = cli("reconstruct", path, "-o", "x.h5")
        assert code == 0
        assert "by rss" in err
        assert "--maps FILE" in err
        return
    options = ("-m", "sense", "--maps", "sigpy") if case == "sigpy maps" else ("-m", case)
    told = rejects(path, 3, *words, "--maps FILE", "mrirecon calibrate", "--method rss", options=options)
    assert "MRI-E-CALIBRATION" in told
    full = scan_file(path.parent / "prescan.h5", 1, 4, 56, 48)
    assert cli("calibrate", full, "--map-sets", "1", "-o", "maps.h5")[0] == 0
    method = options[1]
    assert cli("reconstruct", path, "-m", method, "--maps", "maps.h5", "-o", "x.h5")[0] == 0


@row("K05", ["9", "12", "10 x 12", "3 x 12 x 10"])
def test_mask_of_another_size(rejects, bad, case):
    shape = tuple(int(n) for n in case.split(" x "))
    scan_file(bad / "bad.h5", 1, 2, 12, 10)
    np.save(bad / "mask.npy", np.ones(shape))
    options = ("--mask", bad / "mask.npy")
    rejects(bad / "bad.h5", 3, "does not match", str(shape), "y 12, x 10", options=options)


@row("K06", ["marked and empty", "data outside", "padded columns"])
def test_mask_against_data(cli, rejects, bad, head, case):
    used, marked = LINES.copy(), LINES.copy()
    if case == "data outside":
        marked[20] = 0
    else:
        used[[0, 2] if case == "marked and empty" else slice(0, 8)] = 0
    io.write_kspace(bad / "bad.h5", head * used, mask=marked)
    code, found = verdicts(cli, bad / "bad.h5")
    assert (code, found["mask"]["verdict"]) == (0, "look")
    assert "%" in found["mask"]["message"]
    rejects(bad / "bad.h5", 3, "%", "--strict", options=("--strict",))
    code, _, err = cli("reconstruct", bad / "bad.h5", "-m", "sense", "-o", "x.h5")
    assert code == 0
    assert ("outside the mask" if case == "data outside" else "zero in every coil") in err
    np.testing.assert_array_equal(io.read(bad / "bad.h5").mask(0)[0], (used * marked).astype(bool))


@row("K07", ["all zero", "all one", "not binary", "wrong axis", "inverted"])
def test_masks_that_make_no_sense(cli, rejects, bad, case):
    mask = lines(1, 4, 5, 6)
    values = {"all zero": 0 * mask, "all one": 0 * mask + 1, "not binary": mask * 0.5}.get(case, mask)
    acquired = mask[:, None] if case == "wrong axis" else 1 - mask if case == "inverted" else 1 + 0 * mask
    io.write_kspace(bad / "bad.h5", random(1, 3, 10, 10) * acquired, mask=mask if case in ("wrong axis",) else None)
    np.save(bad / "mask.npy", values)
    options = () if case == "wrong axis" else ("--mask", bad / "mask.npy")
    if case == "all one":
        code, _, err = cli("reconstruct", bad / "bad.h5", "-m", "rss", *options, "-o", "x.h5")
        assert code == 0
        assert "acceleration 1" in err
        return
    words = {"all zero": "has no samples", "not binary": "0 and 1", "wrong axis": "wrong axis"}.get(case, "none of")
    rejects(bad / "bad.h5", 3, words, options=options)


@row("K08", ["coil last", "no names", "hybrid"])
def test_axes_in_another_order(cli, rejects, bad, head, case):
    path = bad / "bad.h5"
    if case == "hybrid":
        kspace = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(head, -1), axis=-1), -1)
        io.write_kspace(path, kspace)
        code, found = verdicts(cli, path)
        assert (code, found["axes"]["verdict"]) == (0, "look")
        assert found["axes"]["message"].startswith("x has no peak")
        return
    with h5py.File(path, "w") as file:
        file["kspace"] = random(*((3, 64, 64, 8) if case == "coil last" else (70, 70, 70)))
    rejects(path, 3, "axes of an array of shape", "--axes")
    axes, coils = ("slice,y,x,coil", 8) if case == "coil last" else ("z,y,x", 1)
    assert io.read(path, axes=axes).coils == coils


@row("K09", ["checkerboard", "half the field of view", "corner", "off centre", "mirrored", "right"])
def test_conventions_of_the_transform(cli, bad, head, case):
    axes, reference, kspace = (-2, -1), None, head
    if case == "checkerboard":
        kspace = head * (-1) ** np.add.outer(np.arange(56), np.arange(48))
    elif case == "half the field of view":  # an FFT without the shift of the image, along one axis
        kspace = head * (-1) ** np.arange(48)
    elif case == "corner":
        kspace = np.fft.ifftshift(head, axes)
    elif case == "off centre":
        kspace = np.roll(head, 10, -1)
    elif case == "mirrored":
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(head, axes), norm="ortho"), axes)
        reference = np.flip(np.sqrt((abs(image) ** 2).sum(1)), -2)
    io.write_kspace(bad / "k.h5", kspace, reference=reference)
    code, found = verdicts(cli, bad / "k.h5")
    strange = {name: one["message"] for name, one in found.items() if one["verdict"] != "ok"}
    if case == "right":
        assert strange == {}
        return
    name = "centre" if case in ("corner", "off centre") else "convention"
    assert list(strange) == [name]
    words = {"corner": "fftshift", "off centre": "(+10)", "mirrored": "mirrored along y"}.get(case, "checkerboard")
    assert words in strange[name]
    assert code == (3 if case == "corner" else 0)


SIZES = [(63, 65), (61, 24), (1, 64), (64, 1)]


@row("K10", [f"{y}x{x} {method}" for y, x in SIZES for method in CLASSICAL])
def test_odd_sizes(bad, case):
    size, method = case.split()
    shape = tuple(int(n) for n in size.split("x"))
    scan = io.read(scan_file(bad / "k.h5", 1, 3, *shape))
    thin = min(shape) < 6 and find_method(method).maps  # ESPIRiT slides a kernel of 6 x 6
    if thin:
        with pytest.raises(CalibrationError, match="calibration region"):
            reconstruct(scan, method=method)
    found = reconstruct(scan, method=method, maps="unit" if thin else "auto")
    assert found.images.shape == (1, *shape)
    assert np.isfinite(found.images).all()


@row("K11", ["maps", "sense", "cs", "auto", "no coil axis"])
def test_single_coil(cli, bad, head, case):
    one = head[:, :1] * LINES
    if case == "maps":
        values = espirit(torch.from_numpy(head[:, :1, 16:40, 12:36]), (56, 48))
        inside = values.values[0, 0] > 0.9
        assert inside.float().mean() > 0.2
        torch.testing.assert_close(values.maps[0, 0, 0][inside].abs(), torch.ones(int(inside.sum())))
        return
    if case == "no coil axis":
        np.save(bad / "k.npy", one[0, 0])
        assert cli("reconstruct", bad / "k.npy", "-m", "sense", "-o", "x.h5")[0] == 0
        return
    io.write_kspace(bad / "k.h5", one)
    code, _, err = cli("reconstruct", bad / "k.h5", "-m", case, "-o", "x.h5")
    assert code == 0
    assert "one coil" in err


@row("K12", ["1 slice", "0 slices", "3D", "dynamic"])
def test_numbers_of_slices(cli, rejects, bad, case):
    shape = {"1 slice": (1, 3, 16, 16), "0 slices": (0, 3, 8, 8), "3D": (3, 12, 14, 16)}.get(case, (4, 2, 3, 16, 16))
    axes = {"3D": "coil,z,y,x", "dynamic": "repetition,slice,coil,y,x"}.get(case, "slice,coil,y,x")
    with h5py.File(bad / "bad.h5", "w") as file:
        file["kspace"] = random(*shape)
        file["kspace"].attrs["axes"] = axes
    if case == "0 slices":
        rejects(bad / "bad.h5", 3, "no slice")
        return
    assert cli("reconstruct", bad / "bad.h5", "-m", "sense", "-o", "x.h5")[0] == 0
    wanted = {"1 slice": (1, 16, 16), "3D": (1, 12, 14, 16)}.get(case, (8, 16, 16))
    assert io.read_image("x.h5").shape == wanted


@row("K13", ["files", "a batch"])
def test_sizes_that_vary(cli, bad, case):
    paths = [scan_file(bad / f"{n}.h5", 2, 2, n, n + 3) for n in (20, 31)]
    if case == "files":
        code, out, _ = cli("reconstruct", bad, "-m", "sense", "-o", "out", "--json")
        assert code == 0
        for path, result in zip(paths, json.loads(out)["results"], strict=True):
            assert io.read_image(result["outputs"][0]).shape == (2, *io.read(path).space_shape)
        return
    items = [Batch(random_problem((n, n), batch=1), *[None] * 4, [str(n)], [{}]) for n in (8, 9)]
    with pytest.raises(InputError, match="different sizes") as caught:
        stack(items)
    assert "data.crop" in caught.value.fix


@row("K14", [f"{method} {scale:g}" for method in CLASSICAL for scale in (1e-12, 1e12)])
def test_scale(bad, head, case):
    """recon(a k) = a recon(k), from what float32 can hold to what it cannot square."""
    method, scale = case.split()
    for name, factor in (("one", 1.0), ("scaled", float(scale))):
        io.write_kspace(bad / f"{name}.h5", (head * LINES / np.abs(head).max()).astype(np.complex128) * factor)
    one, scaled = (reconstruct(io.read(bad / f"{n}.h5"), method=method).images for n in ("one", "scaled"))
    difference = np.abs(scaled.astype(np.complex128) / float(scale) - one).max()
    assert difference <= 1e-4 * np.abs(one).max()


@row("K15", ["instance norm", "unet", "e2evn", "cirim"])
def test_constant_image(case):
    """Nothing varies, so that the deviation by which networks divide is zero."""
    if case == "instance norm":
        x = torch.full((1, 2, 8, 8), 3.0, requires_grad=True)
        y = InstanceNorm(0.2)(x)
        y.square().sum().backward()
        assert torch.isfinite(y).all()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        return
    from mrirecon.physics.problem import Problem

    torch.manual_seed(0)
    model = build(case, {k: v for k, v in SMALL.items() if k in find_method(case).schema.model_fields}).eval()
    y = torch.zeros(1, 2, 16, 16, dtype=torch.complex64)
    y[..., 8, 8] = 1
    maps = torch.full((1, 1, 2, 16, 16), 0.5**0.5, dtype=torch.complex64)
    image = model(Problem(y, torch.ones(1, 1, 16, 16), maps))
    image.abs().sum().backward()
    assert torch.isfinite(image.abs()).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@row("K16", ["sense", "cs", "cs-tv", "gradient of rss"])
def test_background_that_no_coil_sees(cli, bad, head, case):
    if case == "gradient of rss":
        x = torch.zeros(1, 3, 4, 4, dtype=torch.complex64, requires_grad=True)
        root_sum_of_squares(x, 1).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(torch.view_as_real(x.grad)).all()
        return
    io.write_kspace(bad / "k.h5", head * LINES)
    maps = np.ones((1, 1, 4, 56, 48), np.complex64) / 2
    maps[..., :10, :] = 0
    io.write_maps(bad / "maps.h5", maps)
    assert cli("reconstruct", bad / "k.h5", "-m", case, "--maps", bad / "maps.h5", "-o", "x.h5")[0] == 0
    image = io.read_image("x.h5")
    assert np.isfinite(image).all()
    assert image[:, 10:].any()
    if case == "sense":  # the other methods fill regions without coil sensitivity by their penalty
        assert (image[:, :10] == 0).all()


@row("K17", ["oversampled", "partial Fourier", "elliptical"])
def test_parts_of_k_space(cli, bad, case):
    """Nothing is squashed: the image has the matrix of k-space, and `info` says what was measured."""
    shape = (128, 64) if case == "oversampled" else (64, 64)
    full = simulate_kspace(phantom((64, 64), 1, 1), 3, 60.0, 1).kspace.astype(np.complex64)
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    if case == "oversampled":
        image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(full, -2), axis=-2), -2)
        image = np.pad(image, ((0, 0), (0, 0), (32, 32), (0, 0)))
        full = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, -2), axis=-2), -2)
        full += random(*full.shape) * 1e-5 * np.abs(full).max()
    mask = np.ones(shape)
    mask = np.broadcast_to(x > -0.3, shape) if case == "partial Fourier" else mask
    mask = np.add.outer(y**2, x**2) <= 1 if case == "elliptical" else mask
    io.write_kspace(bad / "k.h5", full * mask, mask=mask)
    code, found = verdicts(cli, bad / "k.h5")
    assert code == 0
    out = cli("info", bad / "k.h5")[1]
    if case == "oversampled":
        assert found["oversampling"]["message"].startswith("the outer half of the field of view is empty along y:")
    else:
        assert ("only a part measured along x" if case == "partial Fourier" else "2D pattern") in out
        assert "oversampling" not in found
    for method in ("auto", "sense"):
        assert cli("reconstruct", bad / "k.h5", "-m", method, "--maps", "espirit", "-o", f"{method}.h5")[0] == 0
        assert io.read_image(f"{method}.h5").shape == (1, *shape)


@row("K18", ["cropped", "narrow"])
def test_reference_smaller_than_the_image(cli, bad, case):
    """FastMRI cuts its references to a square, or to the width where that is less: so is the image, and it is told."""
    shape, crop = ((64, 48), (40, 40)) if case == "cropped" else ((64, 30), (40, 34))
    kspace = simulate_kspace(phantom(shape, 1, 1), 3, 60.0, 1).kspace.astype(np.complex64)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
    rss = np.sqrt((abs(image) ** 2).sum(1))
    rss = np.pad(rss, ((0, 0), (0, 0), (2, 2))) if case == "narrow" else rss
    cut = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(rss.shape[1:], crop, strict=True))
    with h5py.File(bad / "full.h5", "w") as file:
        file["kspace"], file["reconstruction_rss"] = kspace, rss[(slice(None), *cut)]
    assert cli("reconstruct", bad / "full.h5", "-m", "rss", "-o", "x.h5")[0] == 0
    named = ("--reference-dataset", "reconstruction_rss")
    code, out, err = cli("evaluate", "x.h5", bad / "full.h5", *named, "--json")
    assert code == 0, err
    told = json.loads(out)
    size = "×".join(str(min(a, b)) for a, b in zip(shape, crop, strict=True))
    assert any(f"{size} around the centre" in note for note in told["notes"])
    assert told["mean"]["ssim"] > 0.999


@row("K19", ["sense", "cs", "sigpy-cs"])
def test_noise_alone(cli, bad, case):
    path = bad / "k.h5"
    io.write_kspace(path, random(1, 4, 56, 48) * LINES)
    code, found = verdicts(cli, path)
    assert code == 0
    assert found["axes"]["verdict"] == "look"
    assert "noise only" in found["axes"]["message"]
    assert found["noise"]["verdict"] == "look"
    assert cli("reconstruct", path, "-m", case, "-o", "x.h5")[0] == 0
    assert np.isfinite(io.read_image("x.h5")).all()


@row("K20", ["evaluate", "--reference", "reconstruct"])
def test_no_reference(cli, bad, head, case):
    path = bad / "k.h5"
    io.write_kspace(path, head * LINES, mask=LINES)
    assert cli("reconstruct", path, "-m", "sense", "-o", "x.h5")[0] == 0
    if case == "evaluate":
        code, _, err = cli("evaluate", "x.h5", path)
    elif case == "--reference":
        code, _, err = cli("reconstruct", path, "-m", "sense", "-o", "y.h5", "--reference", path)
        assert not Path("y.h5").exists()
    else:
        return
    assert code == 3
    assert "undersampled" in err
