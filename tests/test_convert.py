"""`mrirecon convert`: what goes from one format to another comes back as it was, and what cannot is told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import UsageError
from mrirecon.io import Geometry
from mrirecon.io.convert import convert, read_with_siblings
from mrirecon.io.grid import Grid, from_matrix
from mrirecon.io.images import read_images

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

ARRAYS = ("h5", "npz", "cfl")
GRID = from_matrix(np.array([[0, 2.0, 0, -9], [-1.5, 0, 0, 3], [0, 0, 4, 7]]), 3.0)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def same_scan(one, other):
    """Everything that reconstruction takes from a scan is the same."""
    assert {k: n for k, n in one.shape.items() if n > 1} == {k: n for k, n in other.shape.items() if n > 1}
    assert len(one) == len(other)
    for item in range(len(one)):
        np.testing.assert_array_equal(one.raw(item), other.raw(item))
        np.testing.assert_array_equal(one.mask(item), other.mask(item))
        for a, b in ((one.maps(item), other.maps(item)),):
            np.testing.assert_array_equal(a, b)
    assert one.has_mask == other.has_mask


MASKS = {"none": None, "lines": (7,), "plane": (9, 7), "own": (2, 9, 7)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("first", "second"), list(itertools.product(ARRAYS, ARRAYS)))
def test_kspace_comes_back(tmp_path, first, second, mask):
    shape = MASKS[mask]
    sampled = None if shape is None else np.random.default_rng(1).random(shape) < 0.6
    if sampled is not None:
        sampled[..., 3] = True
    kspace = random(2, 3, 9, 7)
    kspace = kspace if sampled is None else kspace * (sampled if mask != "own" else sampled[:, None])
    maps, reference = random(2, 1, 3, 9, 7, seed=1), np.abs(random(2, 9, 7, seed=2))
    start = tmp_path / f"a.{first}"
    io.write_kspace(start, kspace, mask=sampled, maps=maps, reference=reference)
    convert(start, tmp_path / f"b.{second}")
    convert(tmp_path / f"b.{second}", tmp_path / f"c.{first}")
    a, b, c = (read_with_siblings(tmp_path / n) for n in (f"a.{first}", f"b.{second}", f"c.{first}"))
    same_scan(a, b)
    same_scan(a, c)
    found = io.read_image(tmp_path / "c_reference.cfl") if first == "cfl" else c.reference
    np.testing.assert_array_equal(found, reference)


LAYOUTS = {
    "coils last": ("slice,y,x,coil", (2, 6, 7, 3)),
    "no coil axis": ("slice,y,x", (3, 13, 17)),
    "repetitions": ("repetition,slice,coil,y,x", (2, 3, 2, 5, 4)),
    "volume": ("coil,z,y,x", (2, 5, 6, 7)),
    "x before y": ("coil,x,y", (2, 6, 7)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(("h5", "npz"), 2)))
def test_axes_stay_as_they_were_stored(tmp_path, layout, first, second):
    axes, shape = LAYOUTS[layout]
    io.write_kspace(tmp_path / f"a.{first}", random(*shape), axes=axes, attributes={"acquisition": "AXT2", "seed": 3})
    convert(tmp_path / f"a.{first}", tmp_path / f"b.{second}")
    a, b = io.read(tmp_path / f"a.{first}"), io.read(tmp_path / f"b.{second}")
    assert a.layout == b.layout
    assert b.attributes == a.attributes
    same_scan(a, b)


@pytest.mark.parametrize("layout", ["no coil axis", "repetitions", "volume"])
def test_bart_has_its_own_order_of_axes(tmp_path, layout):
    axes, shape = LAYOUTS[layout]
    io.write_kspace(tmp_path / "a.h5", random(*shape), axes=axes)
    done = convert(tmp_path / "a.h5", tmp_path / "b.cfl")
    assert "BART's order" in " ".join(done.notes)
    a, b = io.read(tmp_path / "a.h5"), io.read(tmp_path / "b.cfl")
    for item, index in enumerate(a.items):
        there = next(i for i, other in enumerate(b.items) if all(index[k] == v for k, v in other.items()))
        np.testing.assert_array_equal(a.raw(item), b.raw(there))
    io.write_kspace(tmp_path / "s.h5", random(2, 3, 4, 5), axes="set,coil,y,x")
    with pytest.raises(UsageError, match="no dimension for the axis 'set'"):
        convert(tmp_path / "s.h5", tmp_path / "s.cfl")


def test_calibration_noise_and_place_are_kept(tmp_path):
    kspace, acs, noise = random(2, 3, 16, 12), random(2, 3, 6, 6, seed=1), random(3, 50, seed=2)
    np.savez(tmp_path / "a.npz", kspace=kspace, calibration=acs, noise=noise, axes="slice,coil,y,x")
    read = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
    geometry = Geometry((240.0, 180.0, 5.0), (1.0, 2.0, 3.0), *read, ((1.0, 2.0, 0.5), (1.0, 2.0, 5.5)))
    from mrirecon.io.place import stored_geometry

    io.write_kspace(tmp_path / "b.h5", kspace, beside={"noise": noise, **stored_geometry(geometry)})
    assert io.read(tmp_path / "b.h5").geometry == geometry
    convert(tmp_path / "b.h5", tmp_path / "c.npz")
    convert(tmp_path / "c.npz", tmp_path / "d.h5")
    assert io.read(tmp_path / "d.h5").geometry == geometry
    np.testing.assert_array_equal(io.read(tmp_path / "d.h5").noise, noise)
    convert(tmp_path / "a.npz", tmp_path / "e.h5")
    np.testing.assert_array_equal(io.read(tmp_path / "e.h5").calibration, acs)
    done = convert(tmp_path / "b.h5", tmp_path / "f.cfl")
    assert any("does not hold" in n and "noise" in n and "where it lies" in n for n in done.notes)


@pytest.mark.parametrize("wrong", ["shape", "nan", "axes", "fov", "directions"])
def test_a_place_that_cannot_be_one_is_none(tmp_path, wrong):
    from mrirecon.io.place import restored_geometry, stored_geometry

    right = Geometry((2.0, 2.0, 5.0), (1.0, 2.0, 3.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    found = stored_geometry(right)
    assert restored_geometry(found) == right
    rows, axes = found["geometry_lps_mm"], found["geometry_axes"]
    if wrong == "shape":
        found["geometry_lps_mm"] = rows[:4]
    elif wrong == "axes":
        axes[0] = axes[1]
    else:
        rows[{"nan": 1, "fov": 0, "directions": 2}[wrong]] = {"nan": np.nan, "fov": -1, "directions": 1}[wrong]
    assert restored_geometry(found) is None


# Images --------------------------------------------------------------------------------------------------------------

IMAGES = ("h5", "npz", "cfl", "nii.gz", "dicom")


@pytest.mark.parametrize(("first", "second"), list(itertools.product(IMAGES, IMAGES)))
def test_images_come_back(tmp_path, first, second):
    # To 16 bits once; from then on it is exact.
    io.write_image(tmp_path / "0.dicom", np.abs(random(4, 7, 5)))
    io.write_image(tmp_path / f"a.{first}", read_images(tmp_path / "0.dicom").values, grid=GRID)
    convert(tmp_path / f"a.{first}", tmp_path / f"b.{second}")
    convert(tmp_path / f"b.{second}", tmp_path / f"c.{first}")
    a, b, c = (read_images(tmp_path / n) for n in (f"a.{first}", f"b.{second}", f"c.{first}"))
    np.testing.assert_allclose(np.abs(c.values), np.abs(a.values), rtol=3e-7 if "dicom" in (first, second) else 0)
    if "cfl" not in (first, second):
        for one in (a, b, c):
            np.testing.assert_allclose(one.grid.matrix, GRID.matrix, atol=1e-5)
    if {first, second} <= {"h5", "npz"}:
        assert c.grid == a.grid == GRID


@pytest.mark.parametrize("loops", [{"repetition": 2, "slice": 3}, {"slice": 3, "echo": 2}], ids=["last", "first"])
@pytest.mark.parametrize("ending", ["npz", "cfl", "nii", "dicom"])
def test_loops_over_images(tmp_path, ending, loops):
    images = np.abs(random(6, 7, 5))
    io.write_image(tmp_path / "a.h5", images, grid=GRID, loops=loops)
    assert read_images(tmp_path / "a.h5").loops == loops
    done = convert(tmp_path / "a.h5", tmp_path / f"b.{ending}")
    found = read_images(tmp_path / f"b.{ending}")
    if ending in ("npz", "cfl"):
        np.testing.assert_array_equal(np.abs(found.values), images)
        assert found.loops == (loops if ending == "npz" else None)
        assert ending == "npz" or "does not name the loops" in " ".join(done.notes)
    else:
        volumes = images.reshape(2, 3, 7, 5) if list(loops)[1] == "slice" else images.reshape(3, 2, 7, 5).swapaxes(0, 1)
        np.testing.assert_allclose(found.values, volumes, atol=0 if ending == "nii" else images.max() / 131000)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(ARRAYS, 2)))
def test_complex_images_stay_complex(tmp_path, first, second):
    images = random(2, 3, 7, 5)
    io.write_image(tmp_path / f"a.{first}", images, keep_complex=True)
    convert(tmp_path / f"a.{first}", tmp_path / f"b.{second}")
    convert(tmp_path / f"b.{second}", tmp_path / f"c.{first}")
    name = None if first == "cfl" else "reconstruction_complex"
    np.testing.assert_array_equal(read_images(tmp_path / f"c.{first}", dataset=name).values, images)


def test_a_picture_and_what_it_loses(tmp_path):
    io.write_image(tmp_path / "a.h5", random(2, 7, 5), keep_complex=True, grid=GRID)
    for ending, words in (
        ("png", ("grey levels", "phase", "where")),
        ("nii.gz", ("phase",)),
        ("dicom", ("16 bits", "phase")),
    ):
        notes = " ".join(convert(tmp_path / "a.h5", tmp_path / f"b.{ending}").notes)
        assert all(word in notes for word in words), notes
    assert (tmp_path / "b_000.png").exists()


def test_the_images_of_a_file_with_kspace_are_taken_by_name(tmp_path):
    reference = np.abs(random(2, 9, 8, seed=1))
    io.write_kspace(tmp_path / "a.h5", random(2, 3, 9, 8), reference=reference)
    with pytest.raises(UsageError, match="cannot be written as nii") as error:
        convert(tmp_path / "a.h5", tmp_path / "b.nii.gz")
    assert "--dataset reconstruction_rss" in str(error.value)
    convert(tmp_path / "a.h5", tmp_path / "b.nii.gz", dataset="reconstruction_rss")
    np.testing.assert_array_equal(io.read_image(tmp_path / "b.nii.gz"), reference)


def test_double_precision_is_told(tmp_path):
    np.savez(tmp_path / "k.npz", kspace=random(2, 40, 40).astype(np.complex128) / 3)
    assert any("complex128 is rounded" in n for n in convert(tmp_path / "k.npz", tmp_path / "k.h5").notes)
    np.savez(tmp_path / "i.npz", reconstruction=np.random.default_rng(0).random((2, 8, 9)))
    assert any("float64 is rounded" in n for n in convert(tmp_path / "i.npz", tmp_path / "i.h5").notes)


# Never over anything -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["h5", "npz", "cfl", "nii.gz", "dicom"])
def test_an_output_that_exists_stays(tmp_path, ending):
    io.write_image(tmp_path / "a.h5", random(2, 7, 5))
    target = tmp_path / f"b.{ending}"
    convert(tmp_path / "a.h5", target)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    io.write_image(tmp_path / "a.h5", random(2, 7, 5, seed=1))
    with pytest.raises(UsageError, match="exists already"):
        convert(tmp_path / "a.h5", target)
    assert all(p.read_bytes() == content for p, content in before.items() if p.name != "a.h5")
    convert(tmp_path / "a.h5", target, overwrite=True)
    assert any(p.read_bytes() != content for p, content in before.items() if p.name != "a.h5")


@pytest.mark.parametrize("ending", ["h5", "npz", "cfl", "nii", "dicom"])
@pytest.mark.parametrize("how", ["same", "link", "beside"])
def test_never_in_place(tmp_path, ending, how):
    source = tmp_path / f"a.{ending}"
    io.write_image(source, random(2, 7, 5))
    target = source
    if how == "link":
        target = tmp_path / f"link.{ending}"
        target.symlink_to(source)
        if ending == "cfl":
            (tmp_path / "link.hdr").symlink_to(tmp_path / "a.hdr")
    elif how == "beside":
        target = tmp_path / "sub" / ".." / f"a.{ending}"
        (tmp_path / "sub").mkdir()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UsageError):
        convert(source, target, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_old_mask_is_not_taken_for_the_new_one(tmp_path):
    kspace = random(2, 3, 9, 8)
    io.write_kspace(tmp_path / "b.cfl", kspace * (np.arange(8) % 2), mask=np.arange(8) % 2)
    io.write_kspace(tmp_path / "a.h5", kspace)
    with pytest.raises(UsageError, match="lies there"):
        convert(tmp_path / "a.h5", tmp_path / "b.cfl", overwrite=True)


def test_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io.write_image("a.h5", random(2, 7, 5), grid=Grid((None, 2.0, 1.0)))

    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        return done.value.code, *capsys.readouterr()

    assert run("convert", "a.h5", "b.nii.gz")[:2] == (0, "b.nii.gz\n")
    told = json.loads(Path("b.json").read_text())
    assert told["input"] == {"file": "a.h5", "sha256": io.sha256("a.h5")}
    code, _, err = run("convert", "a.h5", "b.nii.gz")
    assert code == 2
    assert "--overwrite" in err
    assert run("convert", "a.h5", "c.tiff")[0] == 2
    assert "name it c.dicom" in run("convert", "a.h5", "c.dcm")[2]
    assert run("convert", "none.h5", "c.npz")[0] == 3
    assert run("convert", "a.h5", "c.npz", "--as", "sounds")[0] == 2
