"""Test NIfTI of other programs: complex values, pairs of files, two or five axes, and files without an image volume."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from mrirecon import io
from mrirecon.data.scan import simulate_scan
from mrirecon.data.volumes import is_volume, read_volumes
from mrirecon.errors import InputError
from mrirecon.evaluation import evaluate
from mrirecon.io.readers.images import holds_images, read_images
from mrirecon.io.readers.nifti import is_nifti
from mrirecon.io.writers.convert import convert

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape) + 1


def save(path, values, kind=nibabel.Nifti1Image):
    nibabel.save(kind(values, AFFINE), path)
    return path


@pytest.fixture
def turning(tmp_path):
    """A volume with a phase of ±1 cycle along x, and its magnitude: the real part alone is another image."""
    v = volume(32, 40, 4)
    wave = np.exp(2j * np.pi * np.linspace(-1, 1, 32))[:, None, None]
    return v, save(tmp_path / "c.nii", (v * wave).astype("c8")), save(tmp_path / "m.nii.gz", v.astype("f4"))


def test_complex_volumes_are_scored_by_their_magnitude(turning):
    _, complex_one, magnitude = turning
    mean = evaluate(complex_one, magnitude).mean
    assert mean["ssim"] > 1 - 1e-6
    assert mean["nmse"] < 1e-12
    assert evaluate(magnitude, complex_one).mean["nmse"] < 1e-12


@pytest.mark.parametrize("kind", ["c8", "c16"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
def test_complex_volumes_stay_complex(tmp_path, kind, ending):
    pair = nibabel.Nifti1Pair if ending == ".img" else nibabel.Nifti1Image
    values = (volume(9, 8, 3) * np.exp(1j * volume(9, 8, 3))).astype(kind)
    path = save(tmp_path / f"a{ending}", values, pair)
    convert(path, tmp_path / "a.npz")
    stored = np.load(tmp_path / "a.npz")
    wanted = values.transpose(2, 1, 0)[:, ::-1].astype("c8")
    np.testing.assert_array_equal(stored["reconstruction_complex"], wanted)
    np.testing.assert_allclose(stored["reconstruction"], np.abs(wanted), rtol=1e-6)


def test_complex_volumes_are_simulated_and_learned_from_by_their_magnitude(turning, tmp_path):
    _, complex_one, magnitude = turning
    assert is_volume(complex_one)
    one, other = read_volumes(complex_one)[0], read_volumes(magnitude)[0]
    np.testing.assert_allclose(one.slices, other.slices, atol=2e-3)  # kept in half precision
    for path, out in ((complex_one, "c.npz"), (magnitude, "m.npz")):
        simulate_scan(path, tmp_path / out, coils=2, snr=1e6)
    one, other = (np.load(tmp_path / name)["reference"] for name in ("c.npz", "m.npz"))
    np.testing.assert_allclose(one, other, rtol=5e-3, atol=1e-3 * other.max())


def test_a_complex_reference_is_stored_as_its_magnitude(tmp_path):
    reference = np.full((1, 8, 8), 3 + 4j)
    io.write_kspace(tmp_path / "a.npz", np.ones((1, 2, 8, 8), "c8"), reference=reference)
    assert np.load(tmp_path / "a.npz")["reference"].max() == 5


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_pairs_are_read_by_either_name(tmp_path, ending):
    v = volume(9, 8, 3).astype("f4")
    save(tmp_path / "a.img", v, nibabel.Nifti1Pair)
    path = tmp_path / f"a{ending}"
    assert is_nifti(path)
    assert holds_images(path)
    np.testing.assert_array_equal(read_images(path).values, v.transpose(2, 1, 0)[:, ::-1])
    assert read_images(path).grid.spacing == pytest.approx((4, 3, 2))
    with pytest.raises(InputError, match=r"NIfTI image|not one of"):
        io.read(path)


def test_a_pair_is_never_written_over(tmp_path):
    save(tmp_path / "a.img", volume(9, 8, 3).astype("f4"), nibabel.Nifti1Pair)
    before = (tmp_path / "a.hdr").read_bytes()
    with pytest.raises(Exception, match="input"):
        convert(tmp_path / "a.img", tmp_path / "a.cfl", overwrite=True)
    assert (tmp_path / "a.hdr").read_bytes() == before


def test_half_a_pair_and_analyze_are_named(tmp_path):
    save(tmp_path / "a.img", volume(9, 8, 3).astype("f4"), nibabel.Nifti1Pair)
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.img is missing"):
        read_images(tmp_path / "a.hdr")
    save(tmp_path / "b.img", volume(9, 8, 3).astype("f4"), nibabel.AnalyzeImage)
    with pytest.raises(InputError, match="ANALYZE") as found:
        read_images(tmp_path / "b.img")
    assert "which side is left" in str(found.value)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((9, 8), (1, 8, 9)), ((9, 8, 3, 1, 1), (3, 8, 9)), ((9, 8, 1), (1, 8, 9)), ((9, 8, 3, 2, 1), (2, 3, 8, 9))],
)
def test_axes_of_length_one_are_no_obstacle(tmp_path, shape, wanted):
    v = volume(*shape).astype("f4")
    path = save(tmp_path / "a.nii.gz", v)
    found = read_images(path).values
    assert found.shape == wanted
    flat = v.reshape(*shape[:2], -1)
    np.testing.assert_array_equal(found.reshape(-1, 8, 9)[0], flat[:, ::-1, 0].T)
    assert io.read_image(path).size == v.size
    assert evaluate(path, path).mean["nmse"] == pytest.approx(0, abs=1e-12)


def test_vectors_colours_and_surfaces_are_refused_for_what_they_are(tmp_path):
    from nibabel import cifti2

    save(tmp_path / "vector.nii", volume(9, 8, 3, 1, 3).astype("f4"))
    colours = np.zeros((9, 8, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "colour.nii.gz", colours)
    surface = cifti2.BrainModelAxis.from_surface(np.arange(10), 20, name="CortexLeft")
    header = (cifti2.ScalarAxis(["thickness"]), surface)
    nibabel.save(cifti2.Cifti2Image(np.ones((1, 10), "f4"), header=header), tmp_path / "a.dscalar.nii")
    for name, words in (("vector.nii", "3 values per voxel"), ("colour.nii.gz", "colour"), ("a.dscalar.nii", "CIFTI")):
        for read in (read_images, io.read_image):
            with pytest.raises(InputError, match=words) as found:
                read(tmp_path / name)
            assert "damaged" not in str(found.value)
