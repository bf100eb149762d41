"""Test Siemens raw data with measured files, and with small written files for other features."""

from __future__ import annotations

import json
import struct

import nibabel
import numpy as np
import pytest
import twixtools
from typer.testing import CliRunner

from mrirecon import io
from mrirecon.cli import app
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.io.geometry import grid_of
from mrirecon.io.readers.readouts import KINDS, PHASE_CORRECTION
from mrirecon.io.readers.twix import COUNTERS, read_headers
from mrirecon.io.writers.convert import convert
from mrirecon.io.writers.write import sidecar_path
from tests.conftest import REAL
from tests.io import twix_files as twix

COILS, NX, NY = 2, 24, 20


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


@pytest.fixture
def k():
    return random(COILS, NX, NY)


@pytest.fixture(scope="module")
def native():
    folder = REAL / "native"
    if not folder.is_dir():
        pytest.skip(f"no measured scans at {folder}: set MRIRECON_DATA to the folder that holds them")
    return folder


def lines(k, **counters):
    return [twix.readout(k[..., i], Lin=i, **counters) for i in range(k.shape[-1])]


def said(scan, words):
    return any(words in note for note in scan.notes)


def test_the_measured_brain_is_the_one_that_is_known(native, real_kspace):
    path = native / "brain_flash_16ch.dat"
    before = path.stat().st_mtime_ns
    scan = io.read(path)
    known = np.load(real_kspace / "brain_flash_16ch.npz")["kspace"]
    assert np.abs(scan.kspace(0) - known).max() <= 1e-4 * np.abs(known).max()
    assert path.stat().st_mtime_ns == before
    # Phase encoding runs towards posterior, and the frontal horns of this brain lie at low indices along x.
    np.testing.assert_allclose(scan.geometry.phase, (0, 1, 0), atol=1e-6)
    np.testing.assert_allclose(scan.geometry.read, (-1, 0, 0), atol=1e-6)
    assert scan.geometry.fov_mm == (256, 256, 3)


def width_near_the_ends(magnitude, affine):
    """Return how wide an object of an axial slice is, in mm, 20 mm inside its anterior and its posterior end."""
    at = np.argwhere(magnitude > 0.2 * np.percentile(magnitude, 98))
    towards_right, towards_anterior = (affine @ np.column_stack([at, np.zeros(len(at)), np.ones(len(at))]).T)[:2]
    last, first = np.percentile(towards_anterior, (99.5, 0.5))
    return tuple(np.ptp(towards_right[abs(towards_anterior - place) < 1.1]) for place in (last - 20, first + 20))


def test_measured_scans_of_siemens_lie_as_gravity_and_anatomy_want(native, tmp_path):
    """The phantom lay supine, so the air in it, which cuts a segment off the disc, rose to its anterior side.

    The head of the Pulseq scan is narrower in front.
    """
    found = {}
    for name in ("phantom_gre_2ch", "brain_flash_16ch"):
        out = tmp_path / f"{name}.nii"
        result = CliRunner().invoke(app, ["reconstruct", str(native / f"{name}.dat"), "-m", "rss", "-o", str(out)])
        assert result.exit_code == 0, result.output
        image = nibabel.load(out)
        found[name] = width_near_the_ends(image.get_fdata()[:, :, 0], image.affine)
        told = json.loads(sidecar_path(out).read_text())
        reason = "conjugated: Siemens states" if name == "phantom_gre_2ch" else "not conjugated: the sequence 'pulseq'"
        assert any(reason in note for note in told["notes"])
        assert any(reason in note for note in io.describe(native / f"{name}.dat")["notes"])
    anterior, posterior = found["phantom_gre_2ch"]
    assert anterior > 1.15 * posterior
    anterior, posterior = found["brain_flash_16ch"]
    assert anterior < 0.95 * posterior


# LPS mm from the centre of the field of view, where a scan made here has points; no symmetry maps them to each other.
POINTS = {(40.0, -30.0, 6.0): 1.0, (-60.0, 50.0, -4.0): 0.7, (10.0, 70.0, 2.0): 0.4}


def sampled(sign, sizes, fov):
    """Return k-space (1, readout, line, partition) of `POINTS`, for the directions that `twix_files` states."""
    read, phase, through = (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    steps = np.meshgrid(*((np.arange(n) - n // 2) / f for n, f in zip(sizes, fov, strict=True)), indexing="ij")
    axes = np.array([read, phase, through])
    total = 0
    for point, value in POINTS.items():
        along = axes @ np.array(point)
        total = total + value * np.exp(sign * 2j * np.pi * sum(k * r for k, r in zip(steps, along, strict=True)))
    return total[None].astype(np.complex64)


@pytest.mark.parametrize(("name", "sign"), [(r"%CustomerSeq%\gre", 1), (r"%CustomerSeq%\pulseq_v15", -1), (None, 1)])
@pytest.mark.parametrize("sizes", [(24, 20, 8), (25, 21, 7)])
def test_points_of_a_volume_lie_where_they_were_put(tmp_path, name, sign, sizes):
    """A scan without any symmetry, made here: it checks that the code does what it means to, not what scanners do.

    What they do is checked by the measured scans alone.
    """
    fov = (240, 200, 24)
    k = sampled(sign, sizes, fov)
    yaps = {
        **{"sKSpace.ucDimension": 4, "sKSpace.lPartitions": sizes[2], "sKSpace.lPhaseEncodingLines": sizes[1]},
        **{"sSliceArray.asSlice[0].dThickness": 24, "tSequenceFileName": f'"{name}"' if name else ""},
    }
    blocks = []
    for j, i in np.ndindex(sizes[2], sizes[1]):
        block = bytearray(twix.readout(np.conj(k[..., i, j]), Lin=i, Par=j, centre_line=sizes[1] // 2))
        at = twix.mdh_def.Scan_header.CenterPar.offset
        block[at : at + 2] = struct.pack("<H", sizes[2] // 2)
        blocks.append(bytes(block))
    meas = {"iNoOfFourierColumns": sizes[0]}
    scan = io.read(twix.write(tmp_path / "k.dat", (twix.protocol(yaps, meas), blocks)))
    words = {1: "k-space conjugated", -1: "not conjugated"}[sign] if name else "conjugated (assumed)"
    assert said(scan, words)
    image = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(scan.kspace(0)[0]))))
    affine = grid_of(scan, scan.space_shape)[0].matrix

    def strongest_near(point):
        at = np.add(point, scan.geometry.position_mm)
        x, y, z = (round(i) for i in (np.linalg.inv(affine) @ (*at, 1))[:3])
        return image[max(z - 1, 0) : z + 2, y - 1 : y + 2, x - 1 : x + 2].max()

    for point, value in POINTS.items():
        assert strongest_near(point) > 0.4 * value
        assert strongest_near([-c for c in point]) < 0.2


@pytest.mark.parametrize("name", ["phantom_gre_2ch", "brain_flash_16ch"])
def test_a_converted_scan_is_not_conjugated_twice(native, tmp_path, name):
    """Neither as HDF5 nor as ISMRMRD, nor from one to the other."""
    source = native / f"{name}.dat"
    known = io.read(source)
    for step in ("a.h5", "b.mrd", "c.h5", "d.mrd"):
        convert(source, tmp_path / step)
        source = tmp_path / step
        scan = io.read(source)
        np.testing.assert_allclose(scan.kspace(0), known.kspace(0), rtol=1e-6)
        assert scan.geometry.position_mm == pytest.approx(known.geometry.position_mm, rel=1e-6)
        np.testing.assert_allclose(scan.geometry.read, known.geometry.read, atol=1e-6)


def test_the_measured_phantom_lies_within_its_field_of_view(native):
    """Oversampled readout: outside the middle half of it there is nothing but noise, so cropping loses nothing."""
    scan = io.read(native / "phantom_gre_2ch.dat")
    assert scan.shape == {"slice": 1, "coil": 2, "y": 160, "x": 160}
    assert said(scan, "320 samples over 400 mm, cropped in the image to 160 over 200 mm")
    np.testing.assert_allclose(scan.geometry.position_mm, (-2.58970, 53.92243, -53.99947), atol=1e-4)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan.kspace(0), axes=(1, 2)), norm="ortho"), axes=(1, 2))
    magnitude = np.sqrt((np.abs(image) ** 2).sum(0))
    assert magnitude[60:100, 60:100].mean() > 5 * magnitude[:10, :10].mean()


@pytest.mark.parametrize("name", ["brain_flash_16ch", "phantom_gre_2ch", "phantom_epi_2ch"])
def test_headers_and_protocol_are_what_twixtools_reads(native, name):
    theirs = twixtools.read_twix(str(native / f"{name}.dat"), parse_pmu=False, parse_geometry=False, verbose=False)[-1]
    found = read_headers(native / f"{name}.dat")
    blocks = [block for block in theirs["mdb"] if not block.is_flag_set("SYNCDATA")]
    assert len(found.heads) == len(blocks)
    for head, place, block in zip(found.heads, found.places, blocks, strict=True):
        mdh = block.mdh
        assert place == block.mem_pos
        assert head["mask"] == mdh.EvalInfoMask
        ours = (
            head["samples"],
            head["coils"],
            head["centre"],
            head["discard_pre"],
            head["discard_post"],
            head["centre_line"],
        )
        assert ours == (
            *(mdh.SamplesInScan, mdh.UsedChannels, mdh.CenterCol, mdh.CutOff.Pre, mdh.CutOff.Post, mdh.CenterLin),
        )
        assert head["counters"].tolist() == [getattr(mdh.Counter, counter) for counter in COUNTERS]
        where = mdh.SliceData.SlicePos
        assert head["position"].tolist() == [where.Sag, where.Cor, where.Tra]
        np.testing.assert_array_equal(head["quaternion"], mdh.SliceData.Quaternion)
    meas, yaps = theirs["hdr"]["Meas"], theirs["hdr"]["MeasYaps"]
    for key in ("iNoOfFourierColumns", "flReadoutOSFactor", "flMagneticFieldStrength"):
        assert found.protocol.number("Meas", key) == meas[key]
    assert found.protocol.number("Meas", "alRegridMode") == meas["alRegridMode"][0]
    assert found.protocol.yaps("sKSpace.lPhaseEncodingLines") == yaps["sKSpace"]["lPhaseEncodingLines"]
    assert found.protocol.yaps("sSliceArray.asSlice[0].dReadoutFOV") == yaps["sSliceArray"]["asSlice"][0]["dReadoutFOV"]
    assert found.protocol.yaps("alTR[0]") == yaps["alTR"][0]


def test_measured_ramp_sampling_is_seen_and_refused(native):
    with pytest.raises(InputError, match="ramps of the gradient") as caught:
        io.read(native / "phantom_epi_2ch.dat")
    assert "regrid" in (caught.value.fix or "")


def test_measured_echo_trains_lose_their_ghost(native, monkeypatch):
    """The samples stay where they are on the ramps, which bends the image and leaves the ghost what it is."""
    monkeypatch.setattr("mrirecon.io.readers.twix._refuse", lambda *_: None)
    ghosts = {}
    for corrected in (True, False):
        scan = io.read(native / "phantom_epi_2ch.dat")
        assert scan.acquisitions == {"image": 80, "phase correction": 3}
        assert said(scan, "40 readouts were measured backwards")
        if not corrected:
            kind = scan.store.table.kind
            kind[kind == PHASE_CORRECTION] = KINDS.index("other")
        k = scan.kspace(0)
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, axes=(1, 2)), norm="ortho"), axes=(1, 2))
        magnitude = np.sqrt((np.abs(image) ** 2).sum(0))
        if corrected:
            inside = magnitude > 0.3 * np.percentile(magnitude, 95)
            outside = np.roll(inside, 40, axis=1) & ~inside
        ghosts[corrected] = magnitude[outside].mean() / magnitude[inside].mean()
    assert ghosts[True] < 0.8 * ghosts[False]


def test_the_measured_files_cut_short_are_refused(native, tmp_path):
    data = (native / "brain_flash_16ch.dat").read_bytes()
    for share in (0.3, 0.5, 0.99):
        path = tmp_path / "cut.dat"
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match=r"truncated|damaged"):
            io.read(path)


@pytest.mark.parametrize("modern", [True, False])
def test_a_plain_scan_comes_back(tmp_path, k, modern):
    if modern:
        path = twix.write(tmp_path / "k.dat", (twix.protocol(), lines(k)))
    else:
        path = twix.write_vb(tmp_path / "k.dat", twix.protocol(), lines(k, modern=False))
    scan = io.read(path)
    assert (scan.format, scan.shape) == ("twix", {"slice": 1, "coil": COILS, "y": NX, "x": NY})
    np.testing.assert_array_equal(scan.kspace(0), k)
    wanted = {"vendor": "Siemens", "model": "Prisma", "tr_ms": 30, "te_ms": 4.5, "flip_angle_deg": 12, "dwell_us": 5}
    assert scan.attributes == wanted
    assert scan.geometry.fov_mm == (240, 200, 4)
    assert scan.geometry.position_mm == (1, 2, 3)


def test_every_kind_of_readout_is_told_apart(tmp_path, k):
    noise = random(COILS, 40, seed=1)
    other = random(COILS, NX, seed=2)
    blocks = [
        twix.readout(noise, "NOISEADJSCAN"),
        twix.synchronous(),
        *(twix.readout(other, "PHASCOR", Lin=i) for i in range(2)),
        *(twix.readout(other, "RTFEEDBACK", Lin=i) for i in range(3)),
        twix.readout(other, "RETRO_DUMMYSCAN"),
        twix.readout(other, "PHASESTABSCAN"),
        *lines(k),
        *(twix.readout(random(COILS, NX, NY, seed=3)[..., i], "PATREFSCAN", Lin=i) for i in range(7, 13)),
    ]
    scan = io.read(twix.write(tmp_path / "k.dat", (twix.protocol(), blocks)))
    assert scan.acquisitions == {
        **{"image": NY, "calibration": 6, "noise": 1, "phase correction": 2, "dummy": 1, "feedback": 3, "other": 1}
    }
    np.testing.assert_array_equal(scan.kspace(0), k)
    np.testing.assert_array_equal(scan.noise, noise)
    np.testing.assert_array_equal(scan.calibration[0], random(COILS, NX, NY, seed=3)[..., 7:13])


def test_noise_may_lie_in_another_measurement_of_the_file(tmp_path, k):
    noise = random(COILS, 40, seed=1)
    first = (twix.protocol(), [twix.readout(noise, "NOISEADJSCAN"), *lines(random(COILS, NX, NY, seed=4))])
    scan = io.read(twix.write(tmp_path / "k.dat", first, (twix.protocol(), lines(k))))
    np.testing.assert_array_equal(scan.kspace(0), k)
    np.testing.assert_array_equal(scan.noise, noise)
    assert said(scan, "the last of 2 measurements")


def test_averages_partial_fourier_asymmetric_echo_and_reversed_lines(tmp_path, k):
    other = random(COILS, NX, NY, seed=5)
    scan = io.read(twix.write(tmp_path / "a.dat", (twix.protocol(), [*lines(k), *lines(other, Ave=1)])))
    np.testing.assert_allclose(scan.kspace(0), (k + other) / 2, atol=1e-6)
    blocks = [twix.readout(k[..., i + 6], Lin=i, centre_line=4) for i in range(NY - 6)]
    scan = io.read(twix.write(tmp_path / "p.dat", (twix.protocol(), blocks)))
    np.testing.assert_array_equal(scan.kspace(0)[..., 6:], k[..., 6:])
    assert said(scan, "partial Fourier: lines 6 to 19 of 20")
    blocks = [twix.readout(k[:, 5:, i], Lin=i, centre=NX // 2 - 5) for i in range(NY)]
    scan = io.read(twix.write(tmp_path / "e.dat", (twix.protocol(), blocks)))
    np.testing.assert_array_equal(scan.kspace(0)[:, 5:], k[:, 5:])
    assert not scan.kspace(0)[:, :5].any()
    blocks = [twix.readout(k[:, ::-1, i], "REFLECT", Lin=i) for i in range(NY)]
    scan = io.read(twix.write(tmp_path / "r.dat", (twix.protocol(), blocks)))
    np.testing.assert_array_equal(scan.kspace(0), k)


def test_oversampling_along_phase_and_slices_of_a_volume(tmp_path):
    volume = random(COILS, NX, 30, 4)
    yaps = {
        **{"sKSpace.ucDimension": 4, "sKSpace.lPartitions": 4, "sKSpace.dPhaseOversamplingForDialog": 0.5},
        "sKSpace.lPhaseEncodingLines": 20,
    }
    blocks = []
    for j in range(4):
        for i in range(30):
            block = bytearray(twix.readout(volume[..., i, j], Lin=i, Par=j, centre_line=15))
            at = twix.mdh_def.Scan_header.CenterPar.offset
            block[at : at + 2] = struct.pack("<H", 2)
            blocks.append(bytes(block))
    scan = io.read(twix.write(tmp_path / "k.dat", (twix.protocol(yaps), blocks)))
    assert scan.shape == {"slice": 1, "coil": COILS, "z": 4, "y": NX, "x": 30}
    np.testing.assert_array_equal(scan.kspace(0), np.moveaxis(volume, -1, 1))
    assert scan.geometry.fov_mm == (240, 300, 4)
    assert said(scan, "phase oversampling kept: the image covers 300 mm")


@pytest.mark.parametrize(
    ("yaps", "meas", "flag", "words"),
    [
        ({"sKSpace.ucTrajectory": 2}, {}, (), "not Cartesian"),
        ({}, {"alRegridMode": "2 1"}, (), "ramps of the gradient"),
        ({}, {}, ("SLICE_ACCEL_REFSCAN",), "several slices at once"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(tmp_path, k, yaps, meas, flag, words):
    blocks = [twix.readout(k[..., i], *flag, Lin=i) for i in range(NY)]
    with pytest.raises(InputError, match=words):
        io.read(twix.write(tmp_path / "k.dat", (twix.protocol(yaps, meas), blocks)))


def test_one_line_far_out_does_not_fill_the_memory(tmp_path, k):
    blocks = [*lines(k), twix.readout(random(COILS, NX), Lin=8000)]
    yaps = {"sKSpace.lPhaseEncodingLines": 16000, "sKSpace.ucDimension": 4, "sKSpace.lPartitions": 16000}
    blocks.append(twix.readout(random(COILS, NX), Lin=1, Par=1))
    with pytest.raises(InputError, match="larger than its file can hold"):
        io.read(twix.write(tmp_path / "k.dat", (twix.protocol(yaps), blocks)))


def damaged(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_sizes_and_offsets_are_checked(tmp_path, k):
    good = twix.write(tmp_path / "k.dat", (twix.protocol(), lines(k))).read_bytes()
    path = tmp_path / "bad.dat"
    length = struct.unpack_from("<I", good, 10240)[0]
    readout = 10240 + length
    used = twix.mdh_def.Scan_header.UsedChannels.offset
    loop = bytearray(twix.synchronous(0))
    loop[:4] = bytes(4)
    for data, words in (
        (damaged(good, 24, struct.pack("<Q", 1 << 60)), "truncated"),  # length of the measurement
        (damaged(good, 16, struct.pack("<Q", 1 << 60)), "is not one of"),  # its offset
        (damaged(good, 10240, struct.pack("<I", 1 << 30)), "a protocol of"),
        (damaged(good, readout + used, b"\xff\xff"), "truncated"),  # channels
        (damaged(good, readout, bytes(loop)), "a readout of 0 bytes"),  # would loop without end
        (good[: readout + 500], "truncated"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            io.read(path)


def test_mutated_files_are_read_or_refused(tmp_path, k):
    """Bytes of the protocol and of the readouts' headers changed at random: a scan or a typed error, never a crash."""
    train = [twix.readout(k[..., i], *(["REFLECT"] if i % 2 else []), Lin=i) for i in range(NY)]
    guides = [twix.readout(k[..., 9], "PHASCOR", *(["REFLECT"] if i % 2 else [])) for i in range(3)]
    noise = [twix.readout(random(COILS, 9), "NOISEADJSCAN")]
    good = twix.write(tmp_path / "k.dat", (twix.protocol(), [*noise, *guides, *train])).read_bytes()
    rng = np.random.default_rng(0)
    path, outcomes = tmp_path / "bad.dat", []
    for _ in range(300):
        data = bytearray(good)
        for _ in range(4):
            data[int(rng.integers(10240, len(data)))] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            io.read(path).unmasked_kspace(0)
            outcomes.append("read")
        except MriReconError:
            outcomes.append("refused")
    assert outcomes.count("read") > 30
    assert outcomes.count("refused") > 3


def test_an_index_in_the_protocol_costs_no_memory(tmp_path, k):
    text = twix.protocol({"sSliceArray.asSlice[4000000000].dThickness": 3})
    np.testing.assert_array_equal(io.read(twix.write(tmp_path / "k.dat", (text, lines(k)))).kspace(0), k)


def test_nobody_is_named(tmp_path, k):
    path = twix.write(tmp_path / "k.dat", (twix.protocol(), lines(k)))
    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 0, result.output
    assert "twix" in result.output
    shown = result.output + repr(io.read(path)) + json.dumps(io.describe(path), allow_nan=False)
    assert "DOE" not in shown
    assert "SECRET" not in shown


def test_axes_are_not_asked_for(tmp_path, k):
    path = twix.write(tmp_path / "k.dat", (twix.protocol(), lines(k)))
    with pytest.raises(UsageError, match="take no --axes"):
        io.read(path, axes="coil,y,x")
