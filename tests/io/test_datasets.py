"""Test Calgary-Campinas, SKM-TEA, CMRxRecon and M4Raw with files in their described layouts."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from mrirecon import io
from mrirecon.cli import app
from mrirecon.errors import InputError
from mrirecon.reconstruction.run import reconstruct


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


def blob(*shape):
    """A soft object off the centre, so that flips and shifts would be seen."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(-sum(((g - 0.2 * (i + 1)) / 0.25) ** 2 for i, g in enumerate(grid)))


def centred(image, axes=(-2, -1)):
    """The centred transform, unitary."""
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes), axes=axes, norm="ortho"), axes=axes)


def said(scan, words):
    return any(words in note for note in scan.notes)


@pytest.fixture(scope="module")
def calgary(tmp_path_factory):
    """A file as the challenge has them, and the coil images that it holds.

    Its image is what the plain inverse transform gives; its k-space has the centre in the middle, for the images have
    alternating signs.
    """
    slices, y, x, coils = 100, 110, 100, 12
    magnitude = blob(y, x)[None, ..., None] * np.linspace(0.5, 1.5, coils)
    magnitude = magnitude * np.linspace(1, 2, slices)[:, None, None, None]
    signs = np.where(np.add.outer(np.arange(y), np.arange(x)) % 2, -1, 1)
    kspace = np.fft.fft2(magnitude * signs[None, ..., None], axes=(1, 2))
    packed = np.empty((slices, y, x, 2 * coils), np.float32)
    packed[..., 0::2], packed[..., 1::2] = kspace.real, kspace.imag
    path = tmp_path_factory.mktemp("calgary") / "e14089s3_P53248.7.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = packed
    return path, magnitude


def test_calgary_campinas(calgary):
    path, magnitude = calgary
    scan = io.read(path)
    assert (scan.format, scan.unverified) == ("calgary-campinas", True)
    assert scan.shape == {"slice": 100, "coil": 12, "y": 110, "x": 100}
    assert io.describe(path)["peak"]["centred"]
    kspace = scan.kspace(70)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2))), axes=(1, 2))
    wanted = np.moveaxis(magnitude[70], -1, 0)
    np.testing.assert_allclose(image.real, wanted, atol=1e-4)
    np.testing.assert_allclose(image.imag, 0, atol=1e-4)
    assert said(scan, "85% of the slice encoding")
    assert "unverified" in CliRunner().invoke(app, ["info", str(path)]).output
    assert io.read(path, dataset="kspace").format == scan.format
    with pytest.raises(InputError, match="no array 'other'"):
        io.read(path, dataset="other")


def test_real_numbers_of_another_shape_are_not_taken_for_calgary_campinas(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = np.ones((100, 110, 100, 30), np.float32)
    with pytest.raises(InputError, match="must be complex"):
        io.read(tmp_path / "k.h5")


@pytest.fixture
def skmtea(tmp_path):
    """Knees as in DATASET.md: kspace (x, ky, kz, echo, coil), maps (x, y, z, coil, 1), target (x, y, z, echo, 1)."""
    slices, y, z, coils = 3, 40, 32, 4
    maps = random(slices, y, z, coils, 1, seed=1)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(axis=3, keepdims=True))
    target = (
        blob(y, z)[None, ..., None, None] * np.array([1, 0.5])[:, None] * np.arange(1, 4)[:, None, None, None, None]
    )
    kspace = centred(maps[:, :, :, None, :, 0] * target, axes=(1, 2))
    path = tmp_path / "MTR_005.h5"
    with h5py.File(path, "w") as file:
        for name, values in (("kspace", kspace), ("maps", maps), ("target", target)):
            file[name] = values.astype(np.complex64)
        file["masks/poisson_6.0x"] = np.ones((30, 16), bool)
    return path, kspace, maps, target


def test_skm_tea(skmtea):
    path, kspace, maps, target = skmtea
    scan = io.read(path)
    assert (scan.format, scan.unverified) == ("skm-tea", True)
    assert scan.shape == {"slice": 3, "echo": 2, "coil": 4, "y": 40, "x": 32}
    assert len(scan) == 6
    for item in range(6):
        slice_, echo = divmod(item, 2)
        np.testing.assert_allclose(scan.kspace(item), np.moveaxis(kspace[slice_, :, :, echo], -1, 0), atol=1e-6)
        np.testing.assert_allclose(scan.maps(item), np.moveaxis(maps[slice_], (-1, -2), (0, 1)), atol=1e-6)
    wanted = np.moveaxis(target[..., 0], -1, 1).reshape(6, 40, 32)
    np.testing.assert_allclose(scan.reference, wanted, atol=1e-6)
    assert said(scan, "ARC")
    assert said(scan, "are not applied")
    images = np.abs(reconstruct(scan, method="zero-filled", maps="file").images)
    np.testing.assert_allclose(images, wanted, atol=1e-4 * wanted.max())


def test_five_axes_that_do_not_fit_together_are_not_taken_for_skm_tea(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"], file["maps"], file["target"] = (
            random(3, 40, 32, 2, 4),
            random(3, 40, 32, 5, 1),
            random(3, 40, 32, 2, 1),
        )
    with pytest.raises(InputError, match="axes"):
        io.read(tmp_path / "k.h5")


def matlab(path, chunks=True, **arrays):
    """Write arrays in MATLAB's order as its version 7.3 does: a user block, axes reversed, pairs of real and imag."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            stored = np.ascontiguousarray(values.transpose())
            if np.iscomplexobj(stored):
                pairs = np.empty(stored.shape, [("real", "<f8"), ("imag", "<f8")])
                pairs["real"], pairs["imag"] = stored.real, stored.imag
                stored = pairs
            made = file.create_dataset(name, data=stored, chunks=chunks, compression="gzip")
            made.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    return path


@pytest.mark.parametrize("chunks", [True, (2, 3, 2, 2, 1), (1, 1, 2, 20, 24)])
def test_cmrxrecon_with_many_coils(tmp_path, chunks):
    kspace = random(24, 20, 4, 3, 2)  # kx, ky, coil, slice, frame
    scan = io.read(matlab(tmp_path / "cine_sax.mat", chunks=chunks, kspace_full=kspace))
    assert (scan.format, scan.unverified) == ("cmrxrecon", True)
    assert scan.shape == {"phase": 2, "slice": 3, "coil": 4, "y": 20, "x": 24}
    for item in range(6):
        frame, slice_ = divmod(item, 3)
        np.testing.assert_allclose(scan.kspace(item), kspace[:, :, :, slice_, frame].transpose(), atol=1e-6)
    assert said(scan, "reverse order")
    if isinstance(chunks, tuple):
        assert said(scan, "extend over several images") == (chunks[0] > 1)


def test_cmrxrecon_with_one_coil_and_what_is_asked_for(tmp_path):
    kspace = random(24, 20, 3, 2)
    scan = io.read(matlab(tmp_path / "single.mat", kspace_single_full=kspace))
    assert scan.shape == {"phase": 2, "slice": 3, "coil": 1, "y": 20, "x": 24}
    np.testing.assert_allclose(scan.kspace(4)[0], kspace[..., 1, 1].transpose(), atol=1e-6)
    path = matlab(tmp_path / "blackblood.mat", kspace_full=kspace)
    with pytest.raises(InputError, match="axes of an array") as caught:
        io.read(path)
    assert "reverse order" in str(caught.value)
    assert io.read(path, axes="slice,coil,y,x").shape == {"slice": 2, "coil": 3, "y": 20, "x": 24}


def test_matlab_files_that_do_not_say_which_array_is_meant(tmp_path):
    path = matlab(tmp_path / "two.mat", kspace_a=random(4, 4, 2, 2, 2), kspace_b=random(4, 4, 2, 2, 2))
    with pytest.raises(InputError, match="several arrays"):
        io.read(path)
    assert io.read(path, dataset="kspace_b").roles.kspace == "kspace_b"
    with pytest.raises(InputError, match="must be complex"):
        io.read(matlab(tmp_path / "real.mat", kspace=np.ones((4, 4, 2, 2, 2))))


def test_a_mask_in_a_matlab_file_undersamples(tmp_path):
    kspace = random(24, 20, 4, 3, 2)
    mask = np.zeros((24, 20))
    mask[:, ::2] = 1
    path = matlab(tmp_path / "cine_sax.mat", kspace_full=kspace)
    scan = io.read(path, mask=matlab(tmp_path / "cine_sax_mask.mat", mask04=mask))
    np.testing.assert_array_equal(scan.mask(0), mask.transpose() == 1)


def test_matlab_5_is_refused_with_what_to_do(tmp_path):
    import scipy.io

    path = tmp_path / "k.mat"
    scipy.io.savemat(path, {"kspace": random(4, 4, 2)})
    with pytest.raises(InputError, match="MATLAB v5") as caught:
        io.read(path)
    assert "-v7.3" in (caught.value.fix or "")


def test_m4raw_tells_of_the_other_repetitions(tmp_path):
    for number in (1, 2, 3):
        io.write_kspace(tmp_path / f"2022061003_T10{number}.h5", random(2, 4, 16, 16, seed=number))
    scan = io.read(tmp_path / "2022061003_T101.h5")
    assert (scan.format, scan.unverified) == ("m4raw", True)
    assert said(scan, "2022061003_T102.h5, 2022061003_T103.h5")
    io.write_kspace(tmp_path / "other.h5", random(2, 4, 16, 16))
    assert io.read(tmp_path / "other.h5").format == "hdf5"
