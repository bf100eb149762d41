"""Test arrays in groups of an HDF5 file: k-space by its path, ISMRMRD raw data in any group, ISMRMRD images."""

from __future__ import annotations

import json
from contextlib import suppress

import h5py
import ismrmrd
import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import InputError
from mrirecon.evaluation import evaluate
from mrirecon.io.readers.images import holds_images, read_images
from mrirecon.io.writers.convert import convert
from mrirecon.reconstruction.file import reconstruct_file
from mrirecon.reconstruction.run import reconstruct
from tests.io import mrd_files as mrd
from tests.io.test_mrd import PLAIN, smooth

COILS, NX, NY = 3, 32, 24


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((*shape, 2)) @ [1, 1j]).astype("c8")


def grouped(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


# k-space -------------------------------------------------------------------------------------------------------------


def test_kspace_in_a_group_is_read_with_what_lies_beside_it(tmp_path):
    k, mask = random(2, COILS, NX, NY), np.arange(NY) % 2
    maps = random(2, 1, COILS, NX, NY)
    path = grouped(tmp_path / "k.h5", acq__kspace=k * mask, acq__mask=mask, acq__maps=maps, other__mask=1 - mask)
    for scan in (io.read(path), io.read(path, dataset="acq/kspace")):
        np.testing.assert_array_equal(scan.kspace(1), k[1] * mask)
        np.testing.assert_array_equal(scan.mask(0)[0], mask)
        np.testing.assert_array_equal(scan.maps(1), maps[1])
    assert any("acq/kspace" in note for note in io.read(path).notes)
    assert not holds_images(path)
    convert(path, tmp_path / "k.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "k.npz")["kspace"], k * mask)


def test_reconstruct_takes_an_array_by_its_path(tmp_path):
    one, two = random(1, COILS, 64, 64), random(1, COILS, 64, 64, seed=1)
    path = grouped(tmp_path / "k.h5", a__kspace=one, b__c__kspace=two)
    with pytest.raises(InputError, match="several arrays") as error:
        io.read(path)
    assert "a/kspace (1, 3, 64, 64), b/c/kspace" in str(error.value)
    assert "--dataset a/kspace" in str(error.value)
    reconstruct_file(path, tmp_path / "o.h5", dataset="b/c/kspace", method="rss")
    alone = grouped(tmp_path / "alone.h5", kspace=two)
    np.testing.assert_allclose(
        io.read_image(tmp_path / "o.h5"), np.abs(reconstruct(io.read(alone), method="rss").images), rtol=1e-5
    )


def test_what_is_inside_is_listed(tmp_path):
    path = grouped(tmp_path / "k.h5", a__b__first=np.ones((3, 4)), a__second=np.ones(5), third=np.ones((2, 2, 2)))
    with pytest.raises(InputError, match="holds no k-space") as error:
        io.read(path)
    for name in ("a/b/first (3, 4)", "a/second (5,)", "third (2, 2, 2)"):
        assert name in str(error.value)
    with pytest.raises(InputError, match="no array 'a/x'") as error:
        io.read(path, dataset="a/x")
    assert "a/b/first" in str(error.value)
    with pytest.raises(InputError) as error:
        io.read_image(path)
    assert "a/b/first" in str(error.value)
    assert "no arrays" not in str(error.value)


def test_kspace_in_the_root_comes_first(tmp_path):
    path = grouped(tmp_path / "k.h5", kspace=random(1, COILS, NX, NY), old__kspace=random(1, 2, NX, NY))
    assert io.read(path).coils == COILS
    assert io.read(path, dataset="old/kspace").coils == 2


def test_groups_that_lead_out_of_the_file_or_in_circles(tmp_path):
    grouped(tmp_path / "other.h5", kspace=random(1, COILS, NX, NY))
    path = grouped(tmp_path / "k.h5", a__b__kspace=random(1, COILS, NX, NY))
    with h5py.File(path, "a") as file:
        file["a/b/again"] = file["a"]
        file["a/away"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "kspace")
        file["a/soft"] = h5py.SoftLink("/a/b/kspace")
    scan = io.read(path)
    assert scan.roles.kspace == "a/b/kspace"
    with pytest.raises(Exception, match="another file"):
        io.read(path, dataset="a/away")


# ISMRMRD -------------------------------------------------------------------------------------------------------------


def test_raw_data_in_a_group_of_any_name(tmp_path):
    k = random(COILS, NX, NY)
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        file.move("dataset", "dataset_2")
    np.testing.assert_array_equal(io.read(path).kspace(0), k)
    assert io.read(path).format == "ismrmrd"
    with h5py.File(path, "a") as file:
        file.copy("dataset_2", "later/dataset_3")
    with pytest.raises(InputError, match="raw data in 2 groups") as error:
        io.read(path)
    assert "dataset_2, later/dataset_3" in str(error.value)
    np.testing.assert_array_equal(io.read(path, dataset="later/dataset_3").kspace(0), k)
    with h5py.File(path, "a") as file:
        file.move("dataset_2", "dataset")
    np.testing.assert_array_equal(io.read(path).kspace(0), k)


def series(path, values, group="dataset", name="image_0", **fields):
    """Write (image, z, y, x) as the package ismrmrd does; fields: a list of counters for each image."""
    data = ismrmrd.Dataset(str(path), group, create_if_needed=True)
    for number, one in enumerate(values):
        image = ismrmrd.Image.from_array(np.ascontiguousarray(one), transpose=False)
        image.field_of_view = (32 * 2.0, 24 * 3.0, 5.0)
        image.position = (1.0, 2.0, 3.0)
        image.read_dir, image.phase_dir, image.slice_dir = (1, 0, 0), (0, 1, 0), (0, 0, 1)
        for field, given in fields.items():
            setattr(image, field, given[number])
        data.append_image(name, image)
    data.close()
    return path


@pytest.mark.parametrize("kind", ["f4", "u2", "c8", "f8"])
def test_image_series_are_read_as_gadgetron_writes_them(tmp_path, kind):
    values = (100 * np.abs(random(3, 1, NY, NX))).astype(kind) * (1 if kind != "c8" else np.exp(1j).astype("c8"))
    path = series(tmp_path / "s.h5", values, slice=[2, 0, 1], position=[(0, 0, 12), (0, 0, 0), (0, 0, 6)])
    assert holds_images(path)
    found = read_images(path)
    np.testing.assert_allclose(found.values["real"] + 1j * found.values["imag"] if kind == "c8" else found.values,
                               values[[1, 2, 0], 0])  # fmt: skip
    assert found.loops is None
    assert found.grid.spacing == pytest.approx((6, 3, 2))
    # voxel n // 2 lies at the position
    np.testing.assert_allclose(found.grid.matrix @ [NX // 2, NY // 2, 1, 1], [0, 0, 6, 1], atol=1e-5)
    np.testing.assert_allclose(io.read_image(path), np.abs(values[[1, 2, 0], 0]), rtol=1e-6)
    convert(path, tmp_path / "o.npz")
    stored = np.load(tmp_path / "o.npz")
    assert ("reconstruction_complex" in stored) == (kind == "c8")
    np.testing.assert_allclose(stored["reconstruction"], np.abs(values[[1, 2, 0], 0]), rtol=1e-6)
    convert(path, tmp_path / "o.nii.gz")
    np.testing.assert_allclose(evaluate(tmp_path / "o.nii.gz", path).mean["nmse"], 0, atol=1e-10)


def test_the_image_without_a_header(tmp_path):
    image = np.abs(random(64, 64)).real
    path = grouped(tmp_path / "s.h5", images__image_1__data=image[None, None, None].astype("f4"))
    np.testing.assert_allclose(io.read_image(path)[0], image, rtol=1e-6)
    assert evaluate(path, path).mean["ssim"] == pytest.approx(1)


def test_repetitions_and_volumes(tmp_path):
    values = np.abs(random(4, 1, NY, NX)).astype("f4")
    path = series(tmp_path / "s.h5", values, slice=[0, 1, 0, 1], repetition=[0, 0, 1, 1],
                  position=[(0, 0, 0), (0, 0, 6)] * 2)  # fmt: skip
    found = read_images(path)
    assert found.loops == {"repetition": 2, "slice": 2}
    np.testing.assert_array_equal(found.values, values[:, 0])
    path = series(tmp_path / "v.h5", np.abs(random(2, 5, NY, NX)).astype("f4"), repetition=[1, 0])
    found = read_images(path)
    assert found.values.shape == (2, 5, NY, NX)
    assert found.grid.spacing == pytest.approx((1, 3, 2))
    np.testing.assert_allclose(found.grid.matrix @ [NX // 2, NY // 2, 2, 1], [1, 2, 3, 1], atol=1e-5)


def test_our_image_is_turned_to_lie_as_the_scanners(tmp_path):
    """Their columns run along the readout, as the standard has it; our rows do. The headers say so."""
    path = mrd.write(tmp_path / "k.h5", mrd.lines(smooth()), PLAIN)
    reconstruct_file(path, tmp_path / "o.h5", method="rss")
    ours = io.read_image(tmp_path / "o.h5")[0]
    at = io.read(path).geometry
    series(tmp_path / "s.h5", ours.T[None, None], field_of_view=[at.fov_mm], position=[at.position_mm])
    found = evaluate(tmp_path / "o.h5", tmp_path / "s.h5")
    assert found.mean["nmse"] < 1e-10


def test_several_series_and_coils_are_asked_about(tmp_path):
    path = series(tmp_path / "s.h5", np.abs(random(1, 1, NY, NX)).astype("f4"), name="image_0")
    series(path, 2 * np.abs(random(1, 1, NY, NX)).astype("f4"), name="image_1")
    with pytest.raises(InputError, match="2 series") as error:
        io.read_image(path)
    assert "--dataset dataset/image_0" in str(error.value)
    one, two = (io.read_image(path, dataset=name) for name in ("dataset/image_0", "dataset/image_1/data"))
    np.testing.assert_allclose(2 * one, two)
    path = grouped(tmp_path / "c.h5", a__image_0__data=np.ones((1, 4, 1, 8, 8), "f4"))
    with pytest.raises(InputError, match="single coils"):
        io.read_image(path)


def test_images_beside_raw_data(tmp_path):
    k = random(COILS, NX, NY)
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    image = np.abs(random(1, 1, NY, NX)).astype("f4")
    series(path, image)
    assert not holds_images(path)
    np.testing.assert_array_equal(io.read(path).kspace(0), k)
    np.testing.assert_array_equal(io.read_image(path)[0], image[0, 0])


def test_info_lists_images_and_what_else_there_is(tmp_path, capfd):
    path = series(tmp_path / "s.h5", np.abs(random(2, 1, NY, NX)).astype("f4"), slice=[0, 1])
    for arguments in (["info", str(path)], ["info", str(path), "--json"]):
        with suppress(SystemExit):
            main(arguments)
    told = capfd.readouterr().out
    assert "2 x 24 x 32, real (dataset/image_0/data)" in told
    assert "dataset/image_0/header" in told
    assert "reconstruction takes k-space" in told
    found = json.loads(told[told.index("{") :])
    assert found["kind"] == "images"
    assert found["shape"] == [2, NY, NX]
