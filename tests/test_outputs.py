"""Images out, in the formats that say where they lie: NIfTI, DICOM, BIDS; and back in."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrirecon import io
from mrirecon.errors import SignalError, UsageError
from mrirecon.inference import reconstruct
from mrirecon.io import Geometry
from mrirecon.io.dicom import read_dicom
from mrirecon.io.encode_dicom import Series
from mrirecon.io.formats import kept
from mrirecon.io.grid import Grid, from_matrix, grid_of
from mrirecon.io.images import read_images

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

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
    import h5py

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
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dcm2niix_makes_of_our_dicom_what_our_nifti_is(tmp_path, orientation):
    a, b, c = (np.array(unit(v)) for v in ORIENTATIONS[orientation])
    grid = from_matrix(np.column_stack((1.1 * a, 0.9 * b, 3.3 * c, (-10, 20, 5))), 3.0)
    images = np.abs(random(4, 7, 5))
    io.write_image(tmp_path / "o.nii", images, grid=grid)
    io.write_image(tmp_path / "o.dicom", images, grid=grid)
    (tmp_path / "theirs").mkdir()
    command = ["dcm2niix", "-f", "t", "-o", str(tmp_path / "theirs"), str(tmp_path / "o.dicom")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    theirs, ours = (
        nibabel.as_closest_canonical(nibabel.load(p)) for p in (tmp_path / "theirs/t.nii", tmp_path / "o.nii")
    )
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
    (note,) = kept("dicom", images, oblique())
    assert f"{images.max() / 131070 if scale else 0.5:.3g}" in note


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
