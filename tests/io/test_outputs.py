"""Test writing and reading images in formats with a position: NIfTI, DICOM, BIDS."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import InputError, SignalError, UnsafeContentError, UsageError
from mrirecon.evaluation import evaluate, evaluate_folders
from mrirecon.io import Geometry
from mrirecon.io.geometry import Grid, from_matrix, grid_of, in_seconds, sequence, stored_geometry
from mrirecon.io.readers.dicom import is_dicom, read_dicom
from mrirecon.io.readers.images import read_images
from mrirecon.io.writers.bids import bids_fields, bids_path, describe_dataset, label
from mrirecon.io.writers.encode_dicom import Series
from mrirecon.io.writers.write import format_losses
from mrirecon.metrics.align import upright
from mrirecon.reconstruction.file import reconstruct_file
from mrirecon.reconstruction.run import reconstruct

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

ROOT = Path(__file__).parents[2]
L, P, S = np.eye(3)  # towards the patient's left, back and head
TURN = np.array([np.full(3, 3**-0.5), [2**-0.5, -(2**-0.5), 0], [6**-0.5, 6**-0.5, -2 * 6**-0.5]])  # oblique
# read, phase, slice
ORIENTATIONS = {
    "axial": (L, P, S),
    "axial, phase from left to right": (P, L, S),
    "axial, slices downwards": (L, P, -S),
    "sagittal": (P, -S, L),
    "coronal": (L, -S, P),
    "oblique": tuple(TURN),
}


def unit(v):
    return tuple(float(x) for x in np.asarray(v) / np.linalg.norm(v))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def oblique(thickness: float | None = 3.0) -> Grid:
    a, b, c = TURN
    return from_matrix(np.column_stack((1.1 * a, 0.9 * b, 3.3 * c, (-10, 20, 5))), thickness)


# Where a voxel lies ------------------------------------------------------------------------------------------------


def scan_of_a_point(path, orientation, point, *, shape=(3, 24, 20), fov=(216.0, 160.0, 4.0), gap=1.5, axes="yxz"):
    """A scan of one bright point at LPS coordinates, by its Fourier integral; y is read where `axes` says so."""
    read, phase, across = (np.array(unit(v)) for v in ORIENTATIONS[orientation])
    centre = np.array([12.0, -7.0, 31.0])
    slices, ny, nx = shape
    step = fov[2] + gap
    centres = [centre + (k - (slices - 1) / 2) * step * across for k in range(slices)]
    along = dict(zip(axes, (read, phase, across), strict=True))
    size = dict(zip(axes, fov, strict=True))
    grid = [np.arange(-(n // 2), n - n // 2) / size[a] for a, n in (("y", ny), ("x", nx))]
    ky, kx = np.meshgrid(*grid, indexing="ij")
    offset = point - centre
    wave = np.exp(-2j * np.pi * (ky * (along["y"] @ offset) + kx * (along["x"] @ offset)))
    kspace = np.zeros((slices, 1, ny, nx), np.complex64)
    kspace[int(np.argmin([abs((c - point) @ across) for c in centres])), 0] = wave
    kspace += 1e-4
    io.write_kspace(path, kspace)
    geometry = Geometry(
        fov,
        tuple(centre),
        unit(read),
        unit(phase),
        unit(across),
        tuple(tuple(c) for c in centres),
        tuple(axes),
    )
    return replace(io.read(path), geometry=geometry)


@pytest.mark.parametrize("axes", ["yxz", "xyz"])
@pytest.mark.parametrize("shape", [(3, 24, 20), (4, 23, 17), (1, 24, 20)])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_point_is_where_it_was(tmp_path, orientation, shape, axes):
    """k-space of a point, reconstructed and written, has it in NIfTI and DICOM at the coordinates it was given."""
    read, phase, across = (np.array(unit(v)) for v in ORIENTATIONS[orientation])
    slices, ny, nx = shape
    lengths = (ny, nx) if axes == "yxz" else (nx, ny)
    steps = np.array([216.0, 160.0]) / lengths
    # In the last slice, some voxels from the centre along read and phase.
    point = np.array([12.0, -7.0, 31.0]) + 3 * steps[0] * read - 5 * steps[1] * phase + (slices - 1) / 2 * 5.5 * across
    scan = scan_of_a_point(tmp_path / "k.h5", orientation, point, shape=shape, axes=axes)
    images = reconstruct(scan, method="rss").images
    grid, unknown = grid_of(scan, images.shape[1:])
    assert not unknown
    assert grid.thickness == 4.0
    assert grid.spacing[0] == pytest.approx(5.5 if slices > 1 else 4.0)
    io.write_image(tmp_path / "o.nii.gz", images, grid=grid)
    io.write_image(tmp_path / "o.dicom", images, grid=grid)
    image = nibabel.load(tmp_path / "o.nii.gz")
    values = image.get_fdata()
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    for affine in (image.get_sform(), image.get_qform()):
        at = affine @ [*np.unravel_index(values.argmax(), values.shape), 1]
        np.testing.assert_allclose(at[:3], point * (-1, -1, 1), atol=1e-4)
    brightest = max(map(pydicom.dcmread, sorted((tmp_path / "o.dicom").iterdir())), key=lambda d: d.pixel_array.max())
    row, column = np.unravel_index(brightest.pixel_array.argmax(), brightest.pixel_array.shape)
    directions = np.array(brightest.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, brightest.PixelSpacing)
    place = np.array(brightest.ImagePositionPatient, float)
    place = place + column * between_columns * directions[0] + row * between_rows * directions[1]
    np.testing.assert_allclose(place, point, atol=1e-4)


# By hand: 4 × 6 pixels of 2 mm (y) × 1.5 mm (x), 3 slices 5 mm apart, 4 mm thick; y is read. Voxel (3, 2) of the middle
# slice is the centre (10, 20, 30), in LPS.
GOLDEN = {
    # x along P, y along L, slices along S: i of NIfTI runs to P, j to R (rows reversed), k to S
    "axial": [[0, 2, 0, -10 - 2], [-1.5, 0, 0, -20 + 4.5], [0, 0, 5, 25]],
    # y along P, x along S: rows run to P, columns to F, slices to L
    "sagittal": [[0, 0, -5, -10 + 5], [0, 2, 0, -20 - 2], [-1.5, 0, 0, 30 + 4.5]],
    # y along L, x along F, slices to P
    "coronal": [[0, 2, 0, -10 - 2], [0, 0, -5, -20 + 5], [-1.5, 0, 0, 30 + 4.5]],
}


@pytest.mark.parametrize("orientation", GOLDEN)
def test_affines_worked_out_by_hand(tmp_path, orientation):
    read, phase, across = ORIENTATIONS[orientation]
    centre = np.array([10.0, 20.0, 30.0])
    places = tuple(tuple(centre + k * 5 * across) for k in (-1, 0, 1))
    geometry = Geometry((8.0, 9.0, 4.0), tuple(centre), unit(read), unit(phase), unit(across), places)
    io.write_kspace(tmp_path / "k.h5", random(3, 2, 4, 6))
    grid, _ = grid_of(replace(io.read(tmp_path / "k.h5"), geometry=geometry), (4, 6))
    np.testing.assert_allclose(grid.nifti(4)[:3], GOLDEN[orientation], atol=1e-9)
    # Cropped about its centre, the same voxel stays at the centre.
    smaller, _ = grid_of(replace(io.read(tmp_path / "k.h5"), geometry=geometry), (2, 3))
    np.testing.assert_allclose(smaller.matrix @ [1, 1, 1, 1], grid.matrix @ [3, 2, 1, 1])


def test_a_volume_has_voxel_n_half_at_its_position(tmp_path):
    geometry = Geometry((60.0, 50.0, 40.0), (1.0, 2.0, 3.0), *map(unit, ORIENTATIONS["oblique"]), (), ("y", "x", "z"))
    io.write_kspace(tmp_path / "k.h5", random(2, 4, 10, 5), axes="coil,z,y,x")
    grid, unknown = grid_of(replace(io.read(tmp_path / "k.h5"), geometry=geometry), (4, 10, 5))
    assert not unknown
    np.testing.assert_allclose(grid.matrix @ [2, 5, 2, 1], (1, 2, 3, 1))
    np.testing.assert_allclose(grid.spacing, (10, 6, 10))


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_a_point_in_a_volume_is_where_it_was(tmp_path, orientation):
    directions = [np.array(unit(v)) for v in ORIENTATIONS[orientation]]
    shape, fov, centre = {"z": 6, "y": 12, "x": 9}, {"y": 60.0, "x": 36.0, "z": 24.0}, np.array([5.0, 6.0, 7.0])
    along = dict(zip("yxz", directions, strict=True))
    point = centre + 2 * 5 * along["y"] - 3 * 4 * along["x"] + 1 * 4 * along["z"]
    k = np.meshgrid(*(np.arange(-(n // 2), n - n // 2) / fov[a] for a, n in shape.items()), indexing="ij")
    phase = sum(ka * (along[a] @ (point - centre)) for a, ka in zip(shape, k, strict=True))
    geometry = Geometry((60.0, 36.0, 24.0), tuple(centre), *map(unit, directions))
    kspace = np.exp(-2j * np.pi * phase)[None] * np.array([1, 1j])[:, None, None, None]
    io.write_kspace(tmp_path / "k.h5", kspace, axes="coil,z,y,x", beside=stored_geometry(geometry))
    reconstruct_file(tmp_path / "k.h5", tmp_path / "o.nii.gz", method="rss")
    reconstruct_file(tmp_path / "k.h5", tmp_path / "o.dicom", method="rss")
    image = nibabel.load(tmp_path / "o.nii.gz")
    at = image.affine @ [*np.unravel_index(image.get_fdata().argmax(), image.shape), 1]
    np.testing.assert_allclose(at[:3], point * (-1, -1, 1), atol=1e-4)
    found = read_images(tmp_path / "o.dicom")
    z, y, x = np.unravel_index(found.values.argmax(), found.values.shape)
    np.testing.assert_allclose((found.grid.matrix @ [x, y, z, 1])[:3], point, atol=1e-4)


@pytest.mark.parametrize("wrong", ["uneven", "bent", "too few", "slabs"])
def test_places_that_no_affine_can_hold_are_told(tmp_path, wrong):
    places = {"uneven": [0, 5, 11], "bent": [0, 5, 10], "too few": [0, 5], "slabs": [0]}[wrong]
    centres = tuple((0.0, 3.0 if wrong == "bent" and z == 5 else 0.0, float(z)) for z in places)
    axes, shape = ("slice,coil,z,y,x", (3, 2, 4, 6, 4)) if wrong == "slabs" else ("slice,coil,y,x", (3, 2, 6, 4))
    io.write_kspace(tmp_path / "k.h5", random(*shape), axes=axes)
    geometry = Geometry((60.0, 40.0, 4.0), (0.0, 0.0, 5.0), *map(unit, (L, P, S)), centres)
    grid, unknown = grid_of(replace(io.read(tmp_path / "k.h5"), geometry=geometry), shape[2:])
    assert grid.affine is None
    assert len(unknown) == 1
    assert grid.spacing[1:] == pytest.approx((10, 10))


def test_fastmri_headers_give_voxel_sizes_and_no_position(tmp_path):
    matrix = "<matrixSize><x>8</x><y>6</y><z>1</z></matrixSize>"
    fov = "<fieldOfView_mm><x>16</x><y>18</y><z>4.5</z></fieldOfView_mm>"
    encoding = f"<encoding><encodedSpace>{matrix}{fov}</encodedSpace></encoding>"
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["kspace"] = random(2, 3, 8, 6)
        file["ismrmrd_header"] = f"<ismrmrdHeader>{encoding}</ismrmrdHeader>"
    grid, (note,) = grid_of(io.read(tmp_path / "f.h5"), (8, 6))
    assert grid == Grid((None, 2.0, 3.0), None, 4.5), "the readout lies along y"
    assert "not known" in note
    assert "y 2 mm" in note
    io.write_image(tmp_path / "o.nii", np.ones((2, 8, 6)), grid=grid)
    header = nibabel.load(tmp_path / "o.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    np.testing.assert_array_equal(header["pixdim"][1:4], [3, 2, 1])


# NIfTI and DICOM agree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dicom_and_nifti_have_one_affine(tmp_path, orientation):
    a, b, c = (np.array(unit(v)) for v in ORIENTATIONS[orientation])
    grid = from_matrix(np.column_stack((1.1 * a, 0.9 * b, 3.3 * c, (-10, 20, 5))), 3.0)
    images = np.abs(random(4, 7, 5))
    io.write_image(tmp_path / "o.nii.gz", images, grid=grid)
    io.write_image(tmp_path / "o.dicom", images, grid=grid)
    from_dicom, from_nii = read_images(tmp_path / "o.dicom"), read_images(tmp_path / "o.nii.gz")
    np.testing.assert_allclose(from_dicom.grid.matrix, grid.matrix, atol=1e-9)
    np.testing.assert_allclose(from_nii.grid.matrix, grid.matrix, atol=1e-5)
    np.testing.assert_array_equal(from_nii.values, images)
    np.testing.assert_allclose(from_dicom.values, images, atol=images.max() / 131070 * 1.001)
    assert from_dicom.grid.thickness == 3.0


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed: `apt-get install dcm2niix`")
@pytest.mark.parametrize("loops", [None, {"slice": 2, "repetition": 2}], ids=["one volume", "two"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dcm2niix_makes_of_our_dicom_what_our_nifti_is(tmp_path, orientation, loops):
    a, b, c = (np.array(unit(v)) for v in ORIENTATIONS[orientation])
    grid = from_matrix(np.column_stack((1.1 * a, 0.9 * b, 3.3 * c, (-10, 20, 5))), 3.0)
    images = np.abs(random(4, 7, 5))
    io.write_image(tmp_path / "o.nii", images, grid=grid, loops=loops)
    io.write_image(tmp_path / "o.dicom", images, grid=grid, loops=loops)
    (tmp_path / "theirs").mkdir()
    command = ["dcm2niix", "-f", "t", "-o", str(tmp_path / "theirs"), str(tmp_path / "o.dicom")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    theirs, ours = (
        nibabel.as_closest_canonical(nibabel.load(p)) for p in (tmp_path / "theirs/t.nii", tmp_path / "o.nii")
    )
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    np.testing.assert_allclose(theirs.get_fdata(), ours.get_fdata(), atol=images.max() / 131070 * 1.001)


# DICOM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed: `apt-get install dicom3tools`")
@pytest.mark.parametrize(
    "grid", [oblique(), oblique(None), Grid((None, 2.0, 1.0)), Grid()], ids=["mr", "mr2", "sc", "sc2"]
)
def test_dicom_is_what_the_standard_wants(tmp_path, grid):
    io.write_image(tmp_path / "o.dicom", random(4, 7, 5) * 1e-5, grid=grid, loops={"repetition": 2, "slice": 2})
    for file in sorted((tmp_path / "o.dicom").iterdir()):
        found = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=30, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr
        assert ("MRImage" if grid.affine else "SCImage") in found.stderr + found.stdout


def test_dicom_says_what_it_is_and_whose_it_is_not(tmp_path):
    io.write_image(tmp_path / "o.dicom", random(3, 7, 5), grid=oblique(), series=Series("cs-tv", "0" * 64))
    sets = [pydicom.dcmread(p) for p in sorted((tmp_path / "o.dicom").iterdir())]
    first = sets[0]
    assert first.SOPClassUID.name == "MR Image Storage"
    assert list(first.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert "RESEARCH ONLY" in first.SeriesDescription
    assert "cs-tv" in first.SeriesDescription
    assert "RESEARCH ONLY" in first.ImageComments
    assert (str(first.PatientName), first.PatientID) == ("RESEARCH^ONLY", "MRIRECON")
    assert first.PatientBirthDate == first.PatientSex == first.StudyDate == ""
    assert (float(first.SliceThickness), float(first.SpacingBetweenSlices)) == pytest.approx((3.0, 3.3))
    assert len({s.SOPInstanceUID for s in sets}) == 3
    assert len({s.SeriesInstanceUID for s in sets}) == len({s.FrameOfReferenceUID for s in sets}) == 1
    assert [int(s.InstanceNumber) for s in sets] == [1, 2, 3]
    assert all(s.SOPInstanceUID.is_valid and s.file_meta.MediaStorageSOPInstanceUID == s.SOPInstanceUID for s in sets)
    assert first.EchoTime is None
    # Another reconstruction of the same scan: the same study and frame, another series.
    io.write_image(tmp_path / "p.dicom", random(3, 7, 5), grid=oblique(), series=Series("cs", "0" * 64))
    other = pydicom.dcmread(tmp_path / "p.dicom" / "slice-0001.dcm")
    assert other.StudyInstanceUID == first.StudyInstanceUID
    assert other.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert other.SeriesInstanceUID != first.SeriesInstanceUID


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 3e9, 0.0])
def test_dicom_keeps_values_to_16_bits(tmp_path, scale):
    images = np.abs(random(2, 7, 5)) * np.float32(scale)
    io.write_image(tmp_path / "o.dicom", images)
    values, _ = read_dicom(tmp_path / "o.dicom")
    np.testing.assert_allclose(values[0], images, atol=float(images.max()) / 131070 * 1.001)
    assert values.dtype == np.float32
    (note,) = format_losses("dicom", images, oblique())
    assert f"{images.max() / 131070 if scale else 0.5:.3g}" in note


def test_what_the_header_says_of_the_sequence_is_passed_on(tmp_path):
    stated = {"tr": "2500", "te_ms": 9.5, "ti": "none", "flip_angle_deg": 150, "field_strength_t": 2.89, "model": "X"}
    found = sequence(stated, {"slice": 3})
    assert found == {
        **{"RepetitionTime": 2500, "EchoTime": 9.5, "FlipAngle": 150, "MagneticFieldStrength": 2.89},
    }
    assert "EchoTime" not in sequence(stated, {"echo": 2})
    assert in_seconds(found) == {**found, "RepetitionTime": 2.5, "EchoTime": 0.0095}
    io.write_image(tmp_path / "o.dicom", random(1, 7, 5), grid=oblique(), series=Series("cs", "1", found))
    dataset = pydicom.dcmread(tmp_path / "o.dicom/slice-0001.dcm")
    assert {word: float(dataset[word].value) for word in found} == found


KILLED = """
import sys, numpy as np
from mrirecon import io
number = 0
while True:
    number = number % 4 + 1
    io.write_image(sys.argv[1], np.full((2 + number, 40, 50), number, np.float32), sidecar={"number": number})
    print("written", flush=True)
"""


def test_a_kill_while_writing_never_mixes_series(tmp_path):
    path, rng, seen = tmp_path / "o.dicom", np.random.default_rng(5), set()
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            time.sleep(rng.uniform(0.4, 0.7))
            child.kill()
        if not path.exists():
            continue  # killed between two renames: no output instead of a wrong one
        values, _ = read_dicom(path)
        number = values.max()
        assert values.shape == (1, 2 + number, 40, 50)
        np.testing.assert_allclose(values, number, rtol=1e-5)
        seen.add(int(number))
    assert seen
    leftovers = [p for p in tmp_path.iterdir() if p.name.startswith(".mrirecon-")]
    for leftover in leftovers:
        os.utime(leftover, (1, 1))
    io.write_image(path, random(1, 4, 4), sidecar={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.dicom", "o.dicom.json"], "what kills left is cleared away"


def test_a_kill_or_an_error_leaves_the_series_before(tmp_path, monkeypatch):
    folder = tmp_path / "o.dicom"
    io.write_image(folder, random(3, 7, 5), sidecar={})
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="could not be written"):
        io.write_image(folder, random(2, 7, 5, seed=1), sidecar={})
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    io.write_image(folder, random(2, 7, 5, seed=1), sidecar={})
    assert sorted(p.name for p in folder.iterdir()) == ["slice-0001.dcm", "slice-0002.dcm"], "no slice of the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.dicom", "o.dicom.json"]
    told = json.loads((tmp_path / "o.dicom.json").read_text())["outputs"]
    assert [o["file"] for o in told] == ["o.dicom/slice-0001.dcm", "o.dicom/slice-0002.dcm"]
    assert [o["sha256"] for o in told] == [io.sha256(tmp_path / o["file"]) for o in told]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    for name in ("notes.txt", "slice-0001.dcm.bak", "IM0001.dcm"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UsageError, match="other files"):
            io.write_image(folder, random(1, 4, 4), format="dicom")
        assert (folder / name).read_text() == "mine"
    (tmp_path / "file.dicom").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        io.write_image(tmp_path / "file.dicom", random(1, 4, 4))
    io.write_image(tmp_path / "in.dicom", random(1, 4, 4))
    for source in (tmp_path / "in.dicom", tmp_path / "in.dicom" / "slice-0001.dcm"):
        with pytest.raises(UsageError, match="input"):
            io.write_image(tmp_path / "in.dicom", random(2, 4, 4), inputs=[source])


def test_writing_twice_gives_the_same_bytes(tmp_path):
    images = random(2, 7, 5)
    for name in ("a", "b"):
        io.write_image(tmp_path / f"{name}.nii.gz", images, grid=oblique())
        io.write_image(tmp_path / f"{name}.dicom", images, grid=oblique(), series=Series("cs", "1"))
    assert io.sha256(tmp_path / "a.nii.gz") == io.sha256(tmp_path / "b.nii.gz")
    for n in (1, 2):
        assert io.sha256(tmp_path / f"a.dicom/slice-000{n}.dcm") == io.sha256(tmp_path / f"b.dicom/slice-000{n}.dcm")


@pytest.mark.parametrize("format", ["nii", "nii.gz", "dicom"])
def test_values_that_are_not_numbers_are_not_written(tmp_path, format):
    with pytest.raises(SignalError):
        io.write_image(tmp_path / f"o.{format}", np.full((1, 4, 4), np.nan))
    assert not list(tmp_path.iterdir())


# Back in -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def brain():
    y, x = np.mgrid[:40, :36]
    base = np.hypot((y - 20) / 17, (x - 17) / 13) < 1
    blobs = [np.hypot(y - 12, x - 10) < 4, np.hypot(y - 27, x - 20) < 3]
    slices = [base * 1.0 + (0.5 + 0.1 * k) * blobs[0] + 0.3 * blobs[1] * k for k in range(4)]
    return np.stack(slices).astype(np.float32)


def with_grid(path, images, matrix):
    io.write_image(path, images, grid=from_matrix(matrix, 3.0))
    return path


def stored_otherwise(images, matrix, *, flip=(), order=(0, 1, 2)):
    """The same volume, its axes (slice, y, x) mirrored and then exchanged, with the affine that says so."""
    matrix = matrix.copy()
    for axis in flip:
        images = np.flip(images, axis)
        matrix[:3, 3] += (images.shape[axis] - 1) * matrix[:3, 2 - axis]
        matrix[:3, 2 - axis] *= -1
    columns = [2 - order[2 - a] for a in range(3)]
    return images.transpose(order), np.column_stack((*(matrix[:, c] for c in columns), matrix[:, 3]))


@pytest.mark.parametrize("ending", ["h5", "dicom", "nii.gz"])
@pytest.mark.parametrize(
    ("flip", "order", "words"),
    [
        ((2,), (0, 1, 2), "mirrored left-right"),
        ((1,), (0, 1, 2), "mirrored up-down"),
        ((0,), (0, 1, 2), "slices in reverse order"),
        ((), (0, 2, 1), "axes exchanged"),
        ((0, 1), (2, 0, 1), "axes exchanged and"),
        ((), (0, 1, 2), None),
    ],
)
def test_images_are_turned_by_their_coordinates(tmp_path, brain, ending, flip, order, words):
    matrix = oblique().matrix
    reference = with_grid(tmp_path / "r.h5", brain, matrix)
    images, other = stored_otherwise(brain, matrix, flip=flip, order=order)
    found = evaluate(with_grid(tmp_path / f"p.{ending}", images, other), reference)
    assert found.mean["ssim"] == pytest.approx(1, abs=1e-5)
    assert found.mean["nmse"] == pytest.approx(0, abs=1e-8)
    if ending == "nii.gz":
        return  # NIfTI is read in display orientation whatever its storage order
    assert bool(found.notes) == (words is not None)
    assert words is None or words in found.notes[0]


def test_a_mirrored_image_whose_coordinates_say_otherwise_is_named(tmp_path, brain):
    matrix = oblique().matrix
    reference = with_grid(tmp_path / "r.dicom", brain, matrix)
    found = evaluate(with_grid(tmp_path / "p.nii.gz", brain[:, :, ::-1], matrix), reference)
    assert any("mirrored left-right, though the coordinates of both files agree" in note for note in found.notes)
    away = matrix.copy()
    away[:3, 3] += 30
    found = evaluate(with_grid(tmp_path / "q.h5", brain, away), reference)
    assert any("differ by up to 52 mm" in note for note in found.notes), found.notes
    turned = matrix.copy()
    turned[:3, :3] = Rotation.from_euler("z", 8, degrees=True).as_matrix() @ turned[:3, :3]
    found = evaluate(with_grid(tmp_path / "t.h5", brain, turned), reference)
    assert any("rotated by 8.0 degrees" in note for note in found.notes), found.notes


def test_dicom_series_are_scored_as_files_and_in_folders(tmp_path, brain, capsys):
    for name in ("a", "b"):
        io.write_image(tmp_path / f"ours/{name}.dicom", brain, grid=oblique())
        io.write_image(tmp_path / f"theirs/{name}.nii.gz", brain * 2, grid=oblique())
    found = evaluate_folders(tmp_path / "ours", tmp_path / "theirs")
    assert [one.mean["ssim"] for one in found.done] == pytest.approx([1, 1])
    with pytest.raises(SystemExit) as done:
        main(["evaluate", str(tmp_path / "ours/a.dicom"), str(tmp_path / "theirs/a.nii.gz"), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["mean"]["ssim"] == pytest.approx(1)


# Hostile and odd DICOM -----------------------------------------------------------------------------------------------


@pytest.fixture
def series(tmp_path):
    io.write_image(tmp_path / "s", np.abs(random(4, 7, 5)), format="dicom", grid=oblique())
    return tmp_path / "s"


def changed(series, number, **values):
    path = series / f"slice-{number:04d}.dcm"
    dataset = pydicom.dcmread(path)
    for key, value in values.items():
        setattr(dataset, key, value)
    dataset.save_as(path)


WRONG = {
    "another series": ({"SeriesInstanceUID": "1.2.3"}, "2 series"),
    "another size": ({"Rows": 5, "Columns": 7}, "differ in size"),
    "a direction of its own": ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "differ in orientation"),
    "colours": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "not a grey"),
    "frames": ({"NumberOfFrames": 3}, "several slices in one"),
    "a mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "several slices in one"),
    "a number twice": ({"InstanceNumber": 1}, "instance number"),
    "no number": ({"InstanceNumber": None}, "instance number"),
    "more pixels than there are": ({"Rows": 60000, "Columns": 60000}, "larger than its file"),
    "no pixels": ({"Rows": 0}, "impossible"),
    "half the pixels": ({"PixelData": b"\0" * 30}, "damaged"),
    "no plane": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "differ in orientation|impossible directions"),
    "a place twice": ({"ImagePositionPatient": [-10, 20, 5]}, "lacks slices"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_read_as_a_series_is_named(series, what):
    values, words = WRONG[what]
    changed(series, 2, **values)
    with pytest.raises(InputError, match=words):
        read_dicom(series)


def test_slices_are_sorted_by_place_and_volumes_told_apart(series):
    values, grid = read_dicom(series)
    # Instance numbers at random: then the order is that of the places, from one end to the other.
    for number, other in zip((1, 2, 3, 4), (30, 10, 40, 20), strict=True):
        changed(series, number, InstanceNumber=other)
    again, place = read_dicom(series)
    if not np.array_equal(again, values):
        np.testing.assert_array_equal(again[:, ::-1], values)
        np.testing.assert_allclose(place.matrix @ [0, 0, 3, 1], grid.matrix @ [0, 0, 0, 1])
    # Descending instance numbers are an order, and are kept.
    for number in range(1, 5):
        changed(series, number, InstanceNumber=10 - number)
    again, place = read_dicom(series)
    np.testing.assert_array_equal(again[:, ::-1], values)
    np.testing.assert_allclose(place.matrix @ [0, 0, 3, 1], grid.matrix @ [0, 0, 0, 1])


def nested(depth):
    """A DICOM file whose sequence holds a sequence, and so on."""
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sequence = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return (sequence + item) * depth + end * depth


@pytest.mark.parametrize("depth", [50, 3000, 100_000])
def test_nested_sequences_are_refused_or_passed_over(series, depth):
    path = series / "slice-0001.dcm"
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00")  # before the pixels
    path.write_bytes(content[:at] + nested(depth) + content[at:])
    if depth == 50:
        assert read_dicom(path)[0].shape == (1, 1, 7, 5)
        return
    with pytest.raises(InputError, match="nested too deeply"):
        read_dicom(path)


@pytest.mark.parametrize("cut", [0, 1, 131, 140, 200, 500, 900, -1])
def test_truncated_dicom(series, cut):
    path = series / "slice-0001.dcm"
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(InputError):
        read_dicom(path)


def test_flipped_bytes_never_escape(series):
    path, rng = series / "slice-0002.dcm", np.random.default_rng(3)
    content = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(132, len(content), 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            values, _ = read_dicom(series)
        except (InputError, UnsafeContentError):
            continue
        assert values.dtype == np.float32


def test_deflated_and_compressed_dicom(series):
    path = series / "slice-0001.dcm"
    for syntax, error, words in (
        (pydicom.uid.DeflatedExplicitVRLittleEndian, UnsafeContentError, "deflated"),
        (pydicom.uid.JPEG2000Lossless, InputError, "compressed"),
    ):
        content = bytearray(path.read_bytes())
        meta = pydicom.filereader.read_file_meta_info(path)
        old = meta.TransferSyntaxUID.encode()
        new = syntax.encode()
        dataset = pydicom.dcmread(path)
        at = content.index(old)
        changed_bytes = bytes(content[: at - 2]) + len(new + b"\0" * (len(new) % 2)).to_bytes(2, "little")
        changed_bytes += new + b"\0" * (len(new) % 2) + bytes(content[at + len(old) + len(old) % 2 :])
        copy = series.parent / "copy.dcm"
        copy.write_bytes(changed_bytes)
        assert dataset is not None
        with pytest.raises(error, match=words):
            read_dicom(copy)


def test_run_lengths_and_signed_values_are_read(series):
    path = series / "slice-0001.dcm"
    dataset = pydicom.dcmread(path)
    plain = read_dicom(path)[0]
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom(path)[0], plain)


def test_a_damaged_header_is_not_quoted(series, caplog):
    """Neither in an error nor in what the parser would log: a name may have slipped into another field."""
    path = series / "slice-0001.dcm"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DS\x04\x003.0 ", b"DS\x04\x00Name"))
    with pytest.raises(InputError, match="damaged") as error:
        read_dicom(path)
    assert "Name" not in str(error.value)
    path.write_bytes(content.replace(b"2.25.", b"Name.", 5))
    read_dicom(path)
    assert not caplog.text


def test_what_is_no_dicom(tmp_path):
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "none")
    with pytest.raises(InputError, match="no files"):
        read_dicom(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"hello" * 100)
    assert not is_dicom(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="not a DICOM file"):
        read_dicom(tmp_path / "a.dcm")


# Invalid NIfTI (F23) ---------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_images, io.read_image])
def test_bad_nifti(tmp_path, read):
    path = tmp_path / "a.nii.gz"
    io.write_image(path, random(3, 20, 20), grid=oblique())
    content = path.read_bytes()
    for part in (0.1, 0.3, 0.9, 0.999):
        (tmp_path / "cut.nii.gz").write_bytes(content[: int(part * len(content))])
        with pytest.raises(InputError, match=r"truncated|not a NIfTI"):
            read(tmp_path / "cut.nii.gz")
    flipped = bytearray(content)
    flipped[-6] ^= 1  # of the checksum
    (tmp_path / "flip.nii.gz").write_bytes(bytes(flipped))
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "flip.nii.gz")
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(gzip.decompress(content) + bytes(30 << 20)))
    with pytest.raises(InputError, match="more data than its header states"):
        read(tmp_path / "long.nii.gz")
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["srow_x"] = (1, 0, 0, np.nan)
    image.header["sform_code"] = 1
    raw = bytearray(image.to_bytes())
    raw[280:296] = np.array([1, 0, 0, np.nan], "<f4").tobytes()
    (tmp_path / "nan.nii").write_bytes(bytes(raw))
    with pytest.raises(InputError, match=r"affine|slices"):
        read(tmp_path / "nan.nii")


def test_half_precision_becomes_single(tmp_path):
    images = np.abs(random(2, 7, 5)).astype(np.float16)
    io.write_image(tmp_path / "a.nii", images)
    assert nibabel.load(tmp_path / "a.nii").get_data_dtype() == np.float32
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.nii"), images)


# BIDS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "contrast", "attributes", "expected"),
    [
        ("sub-01_ses-2_acq-x_run-3_T2w.h5", None, {}, "sub-01/ses-2/anat/sub-01_ses-2_acq-x_rec-cstv_run-3_T2w.nii.gz"),
        ("file_201.h5", None, {"acquisition": "AXT1"}, "sub-file201/anat/sub-file201_rec-cstv_T1w.nii.gz"),
        ("knee.h5", None, {"acquisition": "CORPDFS_FBK"}, "sub-knee/anat/sub-knee_rec-cstv_PDw.nii.gz"),
        ("x.npz", "FLAIR", {"acquisition": "AXT2"}, "sub-x/anat/sub-x_rec-cstv_FLAIR.nii.gz"),
        ("ünï côde 1.h5", "T1w", {}, "sub-ncde1/anat/sub-ncde1_rec-cstv_T1w.nii.gz"),
        ("sub-..%2f..h5", "T1w", {}, "sub-sub/anat/sub-sub_rec-cstv_T1w.nii.gz"),
        ("a" * 240 + ".h5", "T1w", {}, f"sub-{'a' * 60}/anat/sub-{'a' * 60}_rec-cstv_T1w.nii.gz"),
    ],
)
def test_bids_names(tmp_path, source, contrast, attributes, expected):
    found = bids_path(tmp_path, source, "cs-tv", contrast=contrast, attributes=attributes)
    assert found.relative_to(tmp_path).as_posix() == expected


def test_bids_asks_for_what_it_cannot_know(tmp_path):
    with pytest.raises(UsageError, match="not known") as error:
        bids_path(tmp_path, "x.h5", "cs")
    assert "--contrast" in str(error.value)
    with pytest.raises(UsageError, match="'T3w'"):
        bids_path(tmp_path, "x.h5", "cs", contrast="T3w")
    with pytest.raises(UsageError, match="no letters"):
        bids_path(tmp_path, "ß.h5", "cs", contrast="T1w")
    assert label("../a b_c-d\n9") == "abcd9"


def test_bids_descriptions_gather_sources_and_spare_raw_data(tmp_path):
    (tmp_path / "in").mkdir()
    root = tmp_path / "out" / "derivatives"
    for folder in ("in", "in", "more"):
        describe_dataset(root, tmp_path / folder / "a.h5")
    told = json.loads((root / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative"
    assert told["GeneratedBy"][0]["Name"] == "mrirecon"
    assert told["SourceDatasets"] == [{"URL": "../../in"}, {"URL": "../../more"}]
    assert bids_fields(root, tmp_path / "in" / "a.h5")["Sources"] == ["../../in/a.h5"]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.9.0"}')
    with pytest.raises(UsageError, match="not a derivative"):
        describe_dataset(tmp_path / "raw", "a.h5")
    (tmp_path / "raw" / "dataset_description.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        describe_dataset(tmp_path / "raw", "a.h5")


# From the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        return done.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "in" / "sub-07_run-1_T2w.h5"
    io.write_kspace(path, random(2, 3, 32, 28))
    return path


def test_reconstruct_writes_them(run, small):
    code, out, err = run("reconstruct", small, "-m", "rss", "-o", "a.nii.gz")
    assert (code, out) == (0, "a.nii.gz\n"), err
    assert "code 0" in err
    told = json.loads(Path("a.json").read_text())
    assert told["outputs"][0]["sha256"] == io.sha256("a.nii.gz")
    assert any("code 0" in note for note in told["notes"])
    code, out, err = run("reconstruct", small, "-m", "rss", "-o", "a.dicom/")
    assert out.split() == ["a.dicom/slice-0001.dcm", "a.dicom/slice-0002.dcm"]
    assert "rounded by at most" in err
    assert "secondary captures" in err
    before = Path("a.dicom.json").read_bytes()
    again = run("reconstruct", small, "-m", "rss", "-o", "a.dicom")
    assert again[:2] == (0, out), "done already, and left as it is"
    assert Path("a.dicom.json").read_bytes() == before
    assert run("reconstruct", small, "-m", "zero-filled", "-o", "a.dicom")[0] == 2
    assert run("reconstruct", small, "-m", "zero-filled", "-o", "a.dicom", "--overwrite")[0] == 0
    assert "RESEARCH ONLY: zero-filled" in pydicom.dcmread("a.dicom/slice-0001.dcm").SeriesDescription
    code, out, _ = run("reconstruct", small, "-m", "rss", "-o", "folder", "--format", "dicom")
    assert Path("folder/sub-07_run-1_T2w_rss.dicom/slice-0001.dcm").exists()
    with_words = pydicom.dcmread("folder/sub-07_run-1_T2w_rss.dicom/slice-0001.dcm")
    assert with_words.SeriesDescription == "RESEARCH ONLY: rss"
    assert with_words.SOPClassUID.name == "Secondary Capture Image Storage"


@pytest.mark.parametrize("name", ["a.dcm", "a.jpg", "a.mrd"])
def test_a_name_of_another_format_is_no_folder(run, small, name):
    code, _, err = run("reconstruct", small, "-m", "rss", "-o", name)
    assert code == 2
    assert ("a.dicom" if name == "a.dcm" else "choose .h5") in err
    assert not Path(name).exists()


def test_reconstruct_into_bids(run, small):
    code, out, _ = run("reconstruct", small, "-m", "zero-filled", "--bids", "d")
    assert (code, out) == (0, "d/sub-07/anat/sub-07_rec-zerofilled_run-1_T2w.nii.gz\n")
    told = json.loads(Path("d/sub-07/anat/sub-07_rec-zerofilled_run-1_T2w.json").read_text())
    assert told["Sources"] == ["../in/sub-07_run-1_T2w.h5"]
    assert told["method"] == "zero-filled"
    assert json.loads(Path("d/dataset_description.json").read_text())["SourceDatasets"] == [{"URL": "../in"}]
    assert run("reconstruct", small, "--bids", "d", "-o", "x.h5")[0] == 2
    assert run("reconstruct", small, "-m", "zero-filled", "--bids", "d", "--format", "h5")[0] == 2
    assert run("reconstruct", small, "-m", "zero-filled", "--bids", "d")[:2] == (0, out), "done already"
    assert run("reconstruct", small, "-m", "zero-filled", "--bids", "d", "--seed", "1")[0] == 2
    assert run("reconstruct", small, "-m", "zero-filled", "--bids", "d", "--seed", "1", "--overwrite")[0] == 0


def test_a_sidecar_of_somebody_else_stays(run, small):
    Path("a.json").write_text('{"mine": true}')
    code, _, err = run("reconstruct", small, "-m", "rss", "-o", "a.nii.gz")
    assert code == 2
    assert "a.json" in err
    assert Path("a.json").read_text() == '{"mine": true}'


@pytest.mark.parametrize("name", ["..\\..\\evil.h5", "...h5", " .. .h5", "a\nb\x1b[31m.h5", "-o.h5"])
def test_names_never_lead_out_of_the_folder(run, tmp_path, name):
    (tmp_path / "in").mkdir()
    io.write_kspace(tmp_path / "in" / "k.h5", random(1, 3, 32, 28))
    (tmp_path / "in" / "k.h5").rename(tmp_path / "in" / name)
    for format in ("nii", "dicom"):
        code, _, err = run("reconstruct", "-m", "rss", "-o", "deep/out", "--format", format, "--", f"in/{name}")
        assert code == 0, err
        made = {p for p in tmp_path.rglob("*") if p.is_file() and p.parts[len(tmp_path.parts)] != "in"}
        assert made
        assert all(p.resolve().is_relative_to(tmp_path / "deep" / "out") for p in made)
        assert all(c.isprintable() for p in made for c in p.name)


def test_long_and_foreign_names(run, tmp_path):
    name = "脳" * 80 + "x" * 10  # 250 bytes
    path = tmp_path / f"{name}.h5"
    io.write_kspace(path, random(1, 3, 32, 28))
    for format in ("h5", "nii", "dicom", "png", "npz", "cfl"):
        code, out, err = run("reconstruct", path, "-m", "zero-filled", "-o", "long", "--format", format)
        assert code == 0, err
        assert all(Path(line).exists() for line in out.splitlines())
        assert all(len(part.encode()) <= 255 for line in out.splitlines() for part in Path(line).parts)
    code, _, err = run("convert", path, f"{name}yz.npz")
    assert code == 2
    assert "too long" in err


@pytest.mark.parametrize("read_sign", [1, -1])
@pytest.mark.parametrize("phase_sign", [1, -1])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("plane", "rows", "columns"), [("axial", L, P), ("coronal", L, -S), ("sagittal", P, -S)])
def test_pictures_stand_upright(brain, plane, rows, columns, swap, read_sign, phase_sign):
    """However a plane was encoded, pixels run to the same sides of the patient, and none changes its place."""
    first, second = (columns, rows) if swap else (rows, columns)
    tilt = Rotation.from_rotvec([0.2, 0.1, -0.15]).as_matrix()
    a, b, c = (tilt @ v for v in (read_sign * first, phase_sign * second, np.cross(rows, columns)))
    grid = from_matrix(np.column_stack((2 * a, 3 * b, 5 * c, (1, 2, 3))), 4.0)
    found, there, notes = upright(brain, grid)
    steps = there.matrix[:3, :2] / np.linalg.norm(there.matrix[:3, :2], axis=0)
    np.testing.assert_allclose(steps, (tilt @ np.column_stack((rows, columns))), atol=1e-9)
    assert bool(notes) == (swap or read_sign < 0 or phase_sign < 0)
    for k, j, i in ((0, 0, 0), (3, 5, 7), (2, 30, 11)):
        z, y, x = np.rint(np.linalg.inv(there.matrix) @ grid.matrix @ [i, j, k, 1]).astype(int)[2::-1]
        assert found[z, y, x] == brain[k, j, i]
    assert there.thickness == 4.0


def test_reconstruct_turns_dicom_and_leaves_nifti_as_it_was(run, tmp_path):
    point = np.array([12.0, -7.0, 31.0]) + 24 * P
    scan = scan_of_a_point(tmp_path / "x.h5", "axial", point)  # its readout, from right to left, is stored along y
    kspace = np.stack([scan.unmasked_kspace(i) for i in range(3)])
    io.write_kspace(tmp_path / "k.h5", kspace, beside=stored_geometry(scan.geometry))
    for name in ("o.dicom", "o.nii.gz", "o.h5"):
        code, _, err = run("reconstruct", "k.h5", "-m", "rss", "-o", name)
        assert code == 0, err
        assert ("reoriented for display" in err) == (name == "o.dicom")
    turned, stored = read_images("o.dicom"), read_images("o.h5")
    assert (turned.values.shape, stored.values.shape) == ((3, 20, 24), (3, 24, 20))
    for found in (turned, stored, read_images("o.nii.gz")):
        z, y, x = np.unravel_index(found.values.argmax(), found.values.shape)
        np.testing.assert_allclose((found.grid.matrix @ [x, y, z, 1])[:3], point, atol=1e-4)
    assert evaluate("o.dicom", "o.h5").mean["ssim"] == pytest.approx(1, abs=1e-3)
