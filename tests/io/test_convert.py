"""Test `mrirecon convert`: round trips between formats, and messages on lost information."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import UsageError
from mrirecon.io import Geometry
from mrirecon.io.geometry import Grid, from_matrix, restored_geometry, stored_geometry
from mrirecon.io.readers.images import read_images
from mrirecon.io.writers.convert import convert, read_with_siblings

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
        np.testing.assert_array_equal(one.unmasked_kspace(item), other.unmasked_kspace(item))
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
        np.testing.assert_array_equal(a.unmasked_kspace(item), b.unmasked_kspace(there))
    io.write_kspace(tmp_path / "s.h5", random(2, 3, 4, 5), axes="set,coil,y,x")
    with pytest.raises(UsageError, match="no dimension for the axis 'set'"):
        convert(tmp_path / "s.h5", tmp_path / "s.cfl")


def test_calibration_noise_and_place_are_kept(tmp_path):
    kspace, acs, noise = random(2, 3, 16, 12), random(2, 3, 6, 6, seed=1), random(3, 50, seed=2)
    np.savez(tmp_path / "a.npz", kspace=kspace, calibration=acs, noise=noise, axes="slice,coil,y,x")
    read = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
    geometry = Geometry((240.0, 180.0, 5.0), (1.0, 2.0, 3.0), *read, ((1.0, 2.0, 0.5), (1.0, 2.0, 5.5)))
    io.write_kspace(tmp_path / "b.h5", kspace, beside={"noise": noise, **stored_geometry(geometry)})
    assert io.read(tmp_path / "b.h5").geometry == geometry
    convert(tmp_path / "b.h5", tmp_path / "c.npz")
    convert(tmp_path / "c.npz", tmp_path / "d.h5")
    assert io.read(tmp_path / "d.h5").geometry == geometry
    np.testing.assert_array_equal(io.read(tmp_path / "d.h5").noise, noise)
    convert(tmp_path / "a.npz", tmp_path / "e.h5")
    np.testing.assert_array_equal(io.read(tmp_path / "e.h5").calibration, acs)
    done = convert(tmp_path / "b.h5", tmp_path / "f.cfl")
    assert any("does not hold" in n and "noise" in n and "its position" in n for n in done.notes)


@pytest.mark.parametrize("wrong", ["shape", "nan", "axes", "fov", "directions"])
def test_a_place_that_cannot_be_one_is_none(tmp_path, wrong):
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


# ISMRMRD -------------------------------------------------------------------------------------------------------------

RAW = {
    "slices": ("slice,coil,y,x", (2, 2, 13, 7), (7,)),
    "loops": ("repetition,set,phase,echo,coil,y,x", (1, 1, 2, 2, 2, 6, 5), None),
    "volume": ("coil,z,y,x", (2, 6, 8, 5), (6, 1, 5)),
    "no coil axis": ("y,x", (12, 9), None),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_data_come_back(tmp_path, case):
    axes, shape, plane = RAW[case]
    kspace, sampled = random(*shape), None
    if plane is not None:
        sampled = np.random.default_rng(2).random(plane) < 0.6
        sampled[..., plane[-1] // 2] = True
        kspace = kspace * sampled
    io.write_kspace(tmp_path / "a.h5", kspace, axes=axes, mask=sampled)
    done = convert(tmp_path / "a.h5", tmp_path / "b.mrd")
    a, b = io.read(tmp_path / "a.h5"), io.read(tmp_path / "b.mrd")
    assert b.format == "ismrmrd"
    assert len(a) == len(b)
    assert {n: a.shape[n] for n in a.shape if a.shape[n] > 1} == {n: b.shape[n] for n in b.shape if b.shape[n] > 1}
    for item in range(len(a)):
        np.testing.assert_array_equal(a.kspace(item), b.kspace(item))
        np.testing.assert_array_equal(a.mask(item), b.mask(item))
    assert b.geometry is None
    assert any("positions and directions are 0" in n for n in done.notes)


def test_raw_data_keep_noise_place_and_sequence(tmp_path):
    directions = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
    places = ((1.0, 2.0, 5.5), (1.0, 2.0, 0.5))
    geometry = Geometry((240.0, 180.0, 5.0), (1.0, 2.0, 3.0), *directions, places)
    noise, kspace = random(3, 50, seed=2), random(2, 3, 16, 12)
    kspace[..., :4, :] = 0  # a partial echo
    io.write_kspace(
        tmp_path / "a.h5",
        kspace,
        maps=random(2, 1, 3, 16, 12),
        attributes={"te_ms": 9.5, "field_strength_t": 3.0, "vendor": "A&B <x>", "dwell_us": 5.0},
        beside={"noise": noise, **stored_geometry(geometry)},
    )
    done = convert(tmp_path / "a.h5", tmp_path / "b.mrd")
    assert any("cannot hold maps" in n for n in done.notes)
    b = io.read(tmp_path / "b.mrd")
    assert b.geometry == geometry
    np.testing.assert_array_equal(b.noise, noise)
    for item in range(2):
        np.testing.assert_array_equal(b.kspace(item), kspace[item])
    assert (b.attributes["te"], b.attributes["vendor"], b.attributes["dwell_us"]) == ("9.5", "A&B <x>", 5.0)
    with ismrmrd.File(str(tmp_path / "b.mrd"), "r") as file:
        header = file["dataset"].header
        assert header.experimentalConditions.H1resonanceFrequency_Hz == round(42.577478518e6 * 3)
        image = file["dataset"].acquisitions[1]
        assert (image.number_of_samples, image.center_sample) == (12, 4)
        assert tuple(image.position) == places[0]
    told = json.loads((tmp_path / "b.mrd.json").read_text())
    assert told["outputs"][0]["sha256"] == io.sha256(tmp_path / "b.mrd")


@pytest.mark.parametrize("first", [9, 12])
def test_readouts_beside_the_centre_come_back_where_they_were(tmp_path, first):
    """ISMRMRD counts the centre from a readout's first sample, and cannot say that it lies before it."""
    kspace = random(1, 3, 16, 12)
    kspace[..., :first, :] = 0
    io.write_kspace(tmp_path / "a.h5", kspace)
    convert(tmp_path / "a.h5", tmp_path / "b.mrd")
    np.testing.assert_array_equal(io.read(tmp_path / "b.mrd").kspace(0), kspace[0])


def test_what_siemens_measured_is_written_as_siemens_does_and_comes_back(tmp_path):
    kspace, noise = random(1, 3, 16, 12), random(3, 50, seed=2)
    io.write_kspace(tmp_path / "a.h5", kspace, attributes={"vendor": "SIEMENS"}, beside={"noise": noise})
    done = convert(tmp_path / "a.h5", tmp_path / "b.mrd")
    with ismrmrd.File(str(tmp_path / "b.mrd"), "r") as file:
        stored = file["dataset"].acquisitions
        np.testing.assert_array_equal(stored[0].data, np.conj(noise))
        np.testing.assert_array_equal(stored[1].data, np.conj(kspace[0, ..., 0]))
    assert any("conjugated in the file" in n for n in done.notes)
    b = io.read(tmp_path / "b.mrd")
    np.testing.assert_array_equal(b.kspace(0), kspace[0])
    np.testing.assert_array_equal(b.noise, noise)


def test_what_has_no_place_in_raw_data_is_refused(tmp_path):
    sampled = np.random.default_rng(0).random((16, 12)) < 0.5
    io.write_kspace(tmp_path / "a.h5", random(1, 3, 16, 12) * sampled, mask=sampled)
    with pytest.raises(UsageError, match="gaps"):
        convert(tmp_path / "a.h5", tmp_path / "a.mrd")
    io.write_kspace(tmp_path / "b.h5", random(2, 3, 16, 12), axes="average,coil,y,x")
    with pytest.raises(UsageError, match="no counter"):
        convert(tmp_path / "b.h5", tmp_path / "b.out", format="mrd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]
    io.write_kspace(tmp_path / "c.h5", random(1, 3, 16, 12))
    with pytest.raises(UsageError, match="is an input"):
        convert(tmp_path / "c.h5", tmp_path / "c.h5", format="mrd", overwrite=True)


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
        ("png", ("grey levels", "phase", "position")),
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
    with pytest.raises(UsageError, match="a file with this name exists"):
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
    io.write_image("s.dicom", random(2, 7, 5))
    assert run("convert", "s.dicom", "s.npz")[0] == 0
    lines = "".join(f"{io.sha256(f's.dicom/slice-000{n}.dcm')}\n" for n in (1, 2))
    assert json.loads(Path("s.npz.json").read_text())["input"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    code, _, err = run("convert", "a.h5", "b.nii.gz")
    assert code == 2
    assert "--overwrite" in err
    assert run("convert", "a.h5", "c.tiff")[0] == 2
    assert "name it c.dicom" in run("convert", "a.h5", "c.dcm")[2]
    assert run("convert", "none.h5", "c.npz")[0] == 3
    assert run("convert", "a.h5", "c.npz", "--as", "sounds")[0] == 2
