"""Test ISMRMRD: sorting and placement of readouts, rejected data, and messages."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from mrirecon import io
from mrirecon.cli import app
from mrirecon.errors import InputError, SignalError, UnsafeContentError, UsageError
from mrirecon.io.readers.raw_store import linear_phase, to_image, to_kspace
from mrirecon.reconstruction.run import reconstruct
from tests.io import mrd_files as mrd

COILS, NX, NY = 3, 32, 24


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


def smooth(nx=NX, ny=NY, coils=COILS, seed=1):
    """k-space (coil, readout, line) of a soft object in the middle half of the field of view."""
    x, y = np.meshgrid(np.linspace(-1, 1, nx), np.linspace(-1, 1, ny), indexing="ij")
    image = np.exp(-((x / 0.3) ** 2) - (y / 0.4) ** 2) * (1 + 0.5 * np.cos(9 * x + 4 * y))
    gains = random(coils, 1, 1, seed=seed)
    whole = to_kspace((image * gains).swapaxes(1, 2)).swapaxes(1, 2)
    return to_kspace(whole)


@pytest.fixture
def k():
    return random(COILS, NX, NY)


def read(path):
    def state():
        return path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_mode

    before = state()
    scan = io.read(path)
    scan.unmasked_kspace(0)
    assert state() == before
    return scan


def said(scan, words):
    return any(words in note for note in scan.notes)


PLAIN = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0)))


def test_a_plain_scan_comes_back_and_the_file_stays_as_it_is(tmp_path, k):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    path.chmod(0o400)
    scan = read(path)
    assert (scan.format, scan.shape) == ("ismrmrd", {"slice": 1, "coil": COILS, "y": NX, "x": NY})
    np.testing.assert_array_equal(scan.kspace(0), k)
    assert scan.acquisitions == {"image": NY}
    assert scan.noise is None
    assert not scan.unverified
    assert scan.attributes["tr"] == "30"
    assert scan.attributes["dwell_us"] == 5
    assert scan.geometry == io.Geometry(
        (200, 160, 5), (1, 2, 3), (1, 0, 0), (0, 1, 0), (0, 0, 1), slices_mm=((1, 2, 3),)
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan)).kspace(0), k)


def test_every_kind_of_readout_is_told_apart_and_counted(tmp_path, k):
    noise = random(COILS, 50, 7, seed=3)
    extra = [
        *(mrd.acquisition(noise[..., i], 0, mrd.NOISE) for i in range(7)),
        *(mrd.acquisition(random(COILS, NX, seed=9), i, mrd.NAVIGATOR) for i in range(2)),
        *(mrd.acquisition(random(COILS, NX, seed=9), i, mrd.DUMMY) for i in range(3)),
        *(mrd.acquisition(random(COILS, NX, seed=9), i, mrd.PHASE_CORRECTION) for i in range(4)),
        *(mrd.acquisition(random(COILS, NX, seed=9), i, 26) for i in range(5)),
        *(mrd.acquisition(random(COILS, NX, seed=9), i, 29) for i in range(6)),
    ]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0)))
    scan = read(mrd.write(tmp_path / "k.h5", [*extra, *mrd.lines(k)], text))
    assert scan.acquisitions == {
        **{"image": NY, "noise": 7, "phase correction": 4, "navigator": 2, "dummy": 3, "feedback": 5, "other": 6}
    }
    np.testing.assert_array_equal(scan.kspace(0), k)
    np.testing.assert_array_equal(scan.noise, np.concatenate([noise[..., i] for i in range(7)], axis=1))
    assert scan.attributes["noise_dwell_us"] == 5
    assert said(scan, "left out: 2 navigator, 3 dummy, 5 feedback, 6 other")


def test_averages_are_averaged_and_repeated_readouts_counted(tmp_path, k):
    other, third = random(COILS, NX, NY, seed=5), random(COILS, NX, seed=6)
    acquisitions = [*mrd.lines(k), *mrd.lines(other, average=1), mrd.acquisition(third, 4)]
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    wanted = (k + other) / 2
    wanted[..., 4] = (k[..., 4] + other[..., 4] + third) / 3
    np.testing.assert_allclose(scan.kspace(0), wanted, atol=1e-6)
    assert said(scan, f"2 averages: {NY} readouts averaged")
    assert said(scan, "1 readouts measured twice")


TWO = [np.exp(0.4j), -1, 0.7]


@pytest.mark.parametrize("factor", TWO)
@pytest.mark.parametrize("told", [{}, {"segment": 1}])
def test_echoes_that_share_counters_are_told_apart(tmp_path, factor, told):
    """Also where only a counter differs that makes no image. Their mean would be weaker, or nothing."""
    k = smooth()
    noisy = [values + 0.001 * np.abs(k).max() * random(*k.shape, seed=s) for s, values in enumerate((k, factor * k))]
    each = [mrd.lines(noisy[0]), mrd.lines(noisy[1], **told)]
    acquisitions = [one for pair in zip(*each, strict=True) for one in pair]
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    assert scan.shape == {"echo": 2, "slice": 1, "coil": COILS, "y": NX, "x": NY}
    for item in range(2):
        np.testing.assert_array_equal(scan.kspace(item), noisy[item].astype(np.complex64))
    assert said(scan, "2 readouts share all counters at every position of k-space, and they differ: taken as 2 echoes")
    assert not said(scan, "averaged")


def test_readouts_measured_again_are_averaged(tmp_path):
    """They differ by noise, which hides them away from the centre, and by little else."""
    k = smooth()
    parts = [k + 0.02 * np.abs(k).max() * random(*k.shape, seed=s) for s in (1, 2)]
    scan = read(mrd.write(tmp_path / "k.h5", [*mrd.lines(parts[0]), *mrd.lines(parts[1])], PLAIN))
    np.testing.assert_allclose(scan.kspace(0), (parts[0] + parts[1]) / 2, atol=1e-6 * np.abs(k).max())
    assert said(scan, f"{NY} readouts measured twice")


def test_some_readouts_that_share_counters_and_differ_are_refused(tmp_path):
    k = smooth()
    acquisitions = [*mrd.lines(k), *mrd.lines(-k, order=range(NY // 2 - 2, NY // 2 + 2))]
    with pytest.raises(InputError, match="share all counters differ") as caught:
        read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    assert "4 of 24 positions" in caught.value.why
    assert "contrast" in caught.value.fix


@pytest.mark.parametrize("size", [NX, NX + 1])
def test_reversed_readouts_are_turned_round(tmp_path, size):
    k = random(COILS, size, NY)
    acquisitions = [
        mrd.acquisition(k[:, ::-1, i] if i % 2 else k[..., i], i, *([mrd.REVERSE] if i % 2 else [])) for i in range(NY)
    ]
    scan = read(
        mrd.write(tmp_path / "k.h5", acquisitions, mrd.header(mrd.encoding((size, NY, 1), centre=(NY // 2, 0))))
    )
    np.testing.assert_array_equal(scan.kspace(0), k)
    assert said(scan, f"{NY // 2} readouts were measured backwards")
    assert said(scan, "no phase-correction readouts")


def echo_at(size, centre, stated, matrix, forward=True):
    """Return a read scan of which every second line is backwards, its k-space as it should be, and its notes.

    Readouts have `size` samples with the echo at `centre`; the backward ones state it at `stated`.
    """
    k = random(COILS, size, NY)
    lines = [
        mrd.acquisition(k[:, ::-1, i], i, mrd.REVERSE, centre=stated)
        if i % 2 or not forward
        else mrd.acquisition(k[..., i], i, centre=centre)
        for i in range(NY)
    ]
    wanted = np.zeros((COILS, matrix, NY), np.complex64)
    wanted[:, matrix // 2 - centre : matrix // 2 - centre + size] = k
    return lines, mrd.header(mrd.encoding((matrix, NY, 1), centre=(NY // 2, 0))), wanted


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    ("size", "centre", "stated", "matrix"),
    [
        (64, 32, 31, 64),  # the standard's definition
        (64, 32, 32, 64),  # Siemens's, and the index after the reversal
        (65, 32, 32, 65),
        (26, 10, 15, 32),  # a partial echo: the standard's
        (27, 10, 16, 33),
        (48, 22, 25, 52),
    ],
)
def test_the_echo_of_reversed_readouts_lies_where_that_of_others_does(tmp_path, size, centre, stated, matrix, forward):
    lines, text, wanted = echo_at(size, centre, stated, matrix, forward)
    np.testing.assert_array_equal(read(mrd.write(tmp_path / "k.h5", lines, text)).kspace(0), wanted)


@pytest.mark.parametrize(("stated", "words"), [(16, "as stored and one late"), (10, "after the reversal")])
def test_other_ways_to_count_the_echo_are_told_by_the_other_lines(tmp_path, stated, words):
    lines, text, wanted = echo_at(26, 10, stated, 32)
    scan = read(mrd.write(tmp_path / "k.h5", lines, text))
    np.testing.assert_array_equal(scan.kspace(0), wanted)
    assert said(scan, words)


@pytest.mark.parametrize("symmetric", [True, False])
def test_where_headers_are_alike_the_samples_tell_the_echo(tmp_path, symmetric):
    """Echo 10 of 26 backwards: as stored, of the other side of k-space; or once turned, of the same side."""
    k = smooth()
    backwards = k[:, 1:27] if symmetric else k[:, 6:]
    lines = [
        mrd.acquisition(backwards[:, ::-1, i], i, mrd.REVERSE, centre=10)
        if i % 2
        else mrd.acquisition(k[:, 6:, i], i, centre=10)
        for i in range(NY)
    ]
    wanted = k.copy()
    wanted[:, :6, ::2] = 0
    if symmetric:
        wanted[:, [0, *range(27, NX)], 1::2] = 0
    else:
        wanted[:, :6, 1::2] = 0
    scan = read(mrd.write(tmp_path / "k.h5", lines, PLAIN))
    np.testing.assert_array_equal(scan.kspace(0), wanted.astype(np.complex64))


def test_echoes_to_and_fro_have_one_centre(tmp_path):
    """Of a gradient echo and the next one backwards, of one object, no linear phase may be between the images."""
    k = random(COILS, NX, NY)
    lines = [
        *mrd.lines(k),
        *(mrd.acquisition(k[:, ::-1, i], i, mrd.REVERSE, centre=NX - 1 - NX // 2, contrast=1) for i in range(NY)),
    ]
    scan = read(mrd.write(tmp_path / "k.h5", lines, PLAIN))
    assert scan.shape["echo"] == 2
    np.testing.assert_array_equal(scan.kspace(0), scan.kspace(1))


def test_a_reversed_centre_that_cannot_be_meant_is_refused(tmp_path):
    lines, text, _ = echo_at(64, 32, 50, 64)
    with pytest.raises(InputError, match=r"reversed readouts .* state an impossible centre") as caught:
        read(mrd.write(tmp_path / "k.h5", lines, text))
    assert "sample 50 of 64" in caught.value.why
    assert "as stored" in caught.value.fix


def siemens(text, name=None, vendor="SIEMENS"):
    """Return a header that names the vendor and the sequence."""
    system = f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor></acquisitionSystemInformation>"
    info = f"<measurementInformation><sequenceName>{name}</sequenceName></measurementInformation>" if name else ""
    return text.replace("<experimentalConditions>", f"{info}{system}<experimentalConditions>")


@pytest.mark.parametrize(
    ("vendor", "name", "conjugated", "words"),
    [
        ("SIEMENS", None, True, "(assumed)"),
        ("Siemens Healthineers", r"%CustomerSeq%\gre", True, "'gre' is not Pulseq"),
        ("SIEMENS", r"%CustomerSeq%\pulseq_v151", False, "'pulseq_v151' is Pulseq"),
        ("GE MEDICAL SYSTEMS", None, False, None),
    ],
)
def test_k_space_of_siemens_is_conjugated_with_all_that_belongs_to_it(tmp_path, vendor, name, conjugated, words):
    """Noise and calibration too, and before oversampling is cropped, which is not symmetric about the centre."""
    wide = 2 * NX
    k, noise, other = smooth(wide), random(COILS, 50, seed=3), smooth(wide, seed=4)
    acquisitions = [
        mrd.acquisition(noise, 0, mrd.NOISE),
        *mrd.lines(k),
        *mrd.lines(other, mrd.CALIBRATION, order=range(NY // 2 - 4, NY // 2 + 4)),
    ]
    text = mrd.encoding((wide, NY, 1), (NX, NY, 1), (400, 160, 5), (200, 160, 5), centre=(NY // 2, 0), mode="separate")
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, siemens(mrd.header(text), name, vendor)))

    def wanted(values):
        values = np.conj(values) if conjugated else values
        image = to_image(values.swapaxes(1, 2))[..., wide // 2 - NX // 2 : wide // 2 + NX // 2]
        return to_kspace(image).swapaxes(1, 2)

    np.testing.assert_allclose(scan.kspace(0), wanted(k), atol=1e-5 * np.abs(k).max())
    lines = slice(NY // 2 - 4, NY // 2 + 4)
    np.testing.assert_allclose(scan.calibration[0], wanted(other)[..., lines], atol=1e-5 * np.abs(other).max())
    np.testing.assert_array_equal(scan.noise, np.conj(noise) if conjugated else noise)
    assert said(scan, words) if words else not said(scan, "onjugated")
    assert "measurementInformation" not in scan.header


def test_conjugated_echo_trains_lose_their_ghost(tmp_path):
    k = smooth()
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), trajectory="epi"))
    scan = read(mrd.write(tmp_path / "epi.h5", ghosted(k, offset=0.7, slope=-0.11), siemens(text)))
    np.testing.assert_allclose(scan.kspace(0), np.conj(k), atol=1e-4 * np.abs(k).max())


def test_calibration_lines_of_several_echoes_do_not_cancel(tmp_path, k):
    other, order = random(COILS, NX, NY, seed=7), range(NY // 2 - 4, NY // 2 + 4)
    acquisitions = [
        *mrd.lines(k),
        *mrd.lines(other, mrd.CALIBRATION, order=order),
        *mrd.lines(-other, mrd.CALIBRATION, order=order, contrast=1),
    ]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), mode="separate"))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    np.testing.assert_array_equal(scan.calibration[0], other[..., list(order)])
    assert said(scan, "8 calibration readouts of further echoes or repetitions are not used")


def test_partial_fourier_leaves_its_gap_where_nothing_was_measured(tmp_path, k):
    """Lines 0 to 16, of which 5 is the centre: index 7 to 23 of 24."""
    acquisitions = [mrd.acquisition(k[..., 7 + i], i) for i in range(17)]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(5, 0)))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    wanted = k.copy()
    wanted[..., :7] = 0
    np.testing.assert_array_equal(scan.kspace(0), wanted)
    assert said(scan, "partial Fourier: lines 7 to 23 of 24")
    np.testing.assert_array_equal(scan.mask(0), np.broadcast_to(np.arange(NY) >= 7, (NX, NY)))


def test_an_asymmetric_echo_lies_in_the_middle(tmp_path, k):
    """26 of 32 samples, the echo at the tenth: the first six were not measured."""
    acquisitions = [mrd.acquisition(k[:, 6:, i], i, centre=10) for i in range(NY)]
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    wanted = k.copy()
    wanted[:, :6] = 0
    np.testing.assert_array_equal(scan.kspace(0), wanted)
    assert said(scan, "asymmetric echo or short readout: samples 6 to 31 of 32")


def test_samples_to_discard_are_discarded(tmp_path, k):
    padded = np.concatenate([random(COILS, 3, NY, seed=8), k, random(COILS, 2, NY, seed=8)], axis=1)
    acquisitions = [mrd.acquisition(padded[..., i], i, centre=NX // 2 + 3, before=3, behind=2) for i in range(NY)]
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    np.testing.assert_array_equal(scan.kspace(0), k)


@pytest.mark.parametrize("factor", [2, 1.5])
def test_readout_oversampling_is_cropped_in_the_image(tmp_path, factor):
    wide = round(NX * factor)
    k = smooth(wide)
    text = mrd.header(
        mrd.encoding((wide, NY, 1), (NX, NY, 1), (200 * factor, 160, 5), (200, 160, 5), centre=(NY // 2, 0))
    )
    scan = read(mrd.write(tmp_path / "k.h5", mrd.lines(k), text))
    assert scan.shape["y"] == NX
    assert scan.geometry.fov_mm == (200, 160, 5)
    first = wide // 2 - NX // 2
    wanted = to_image(k.swapaxes(1, 2))[..., first : first + NX]
    np.testing.assert_allclose(to_image(scan.kspace(0).swapaxes(1, 2)), wanted, atol=1e-5 * abs(wanted).max())
    assert said(scan, "readout oversampling removed")
    # A unitary crop preserves white noise.
    noisy = mrd.write(tmp_path / "n.h5", mrd.lines(random(COILS, wide, NY)), text)
    assert abs(np.abs(io.read(noisy).unmasked_kspace(0)).std() / np.abs(random(COILS, wide, NY)).std() - 1) < 0.05


def test_an_asymmetric_echo_survives_the_crop(tmp_path):
    wide = 2 * NX
    k = smooth(wide)
    acquisitions = [mrd.acquisition(k[:, 16:, i], i, centre=wide // 2 - 16) for i in range(NY)]
    text = mrd.header(mrd.encoding((wide, NY, 1), (NX, NY, 1), (400, 160, 5), (200, 160, 5), centre=(NY // 2, 0)))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    full = read(mrd.write(tmp_path / "f.h5", mrd.lines(k), text)).kspace(0)
    found = scan.kspace(0)
    assert not found[:, :8].any()
    assert scan.mask(0)[8:].all()
    # The sharp end affects the adjacent samples, and hardly any others.
    assert np.abs(found - full)[:, 14:].max() < 0.02 * np.abs(full).max()


def test_volumes_slices_and_repetitions(tmp_path):
    volume = random(COILS, NX, NY, 6)
    acquisitions = [mrd.acquisition(volume[..., i, j], i, partition=j) for j in range(6) for i in range(NY)]
    text = mrd.header(mrd.encoding((NX, NY, 6), centre=(NY // 2, 3)))
    scan = read(mrd.write(tmp_path / "3d.h5", acquisitions, text))
    assert scan.shape == {"slice": 1, "coil": COILS, "z": 6, "y": NX, "x": NY}
    np.testing.assert_array_equal(scan.kspace(0), np.moveaxis(volume, -1, 1))
    many = random(2, 3, COILS, NX, NY)
    acquisitions = [a for r in range(2) for s in range(3) for a in mrd.lines(many[r, s], slice=s, repetition=r)]
    scan = read(mrd.write(tmp_path / "2d.h5", acquisitions, PLAIN))
    assert scan.shape == {"repetition": 2, "slice": 3, "coil": COILS, "y": NX, "x": NY}
    for item in range(6):
        np.testing.assert_array_equal(scan.kspace(item), many.reshape(6, COILS, NX, NY)[item])
    assert scan.geometry.slices_mm == ((1, 2, 3), (1, 2, 9), (1, 2, 15))
    assert scan.geometry.position_mm == (1, 2, 9)


def test_slices_come_in_the_order_of_their_position(tmp_path):
    many = random(3, COILS, NX, NY)
    acquisitions = []
    for number, height in enumerate((10, 0, 5)):
        for one in mrd.lines(many[number], slice=number):
            one.position[:] = (0, 0, height)
            acquisitions.append(one)
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    for item, number in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(scan.kspace(item), many[number])
    assert scan.geometry.slices_mm == ((0, 0, 0), (0, 0, 5), (0, 0, 10))
    assert said(scan, "sorted by position")


def test_slices_of_several_orientations_have_no_common_place(tmp_path):
    """Two slices always lie on a line: only their directions tell that no affine holds both."""
    acquisitions = [one for number in range(2) for one in mrd.lines(random(COILS, NX, NY), slice=number)]
    for one in acquisitions[NY:]:
        one.phase_dir[:], one.slice_dir[:] = (0, 0, 1), (0, -1, 0)
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    assert scan.geometry is None
    assert said(scan, "several orientations")


def test_a_missing_image_is_told_and_refused_when_asked_for(tmp_path, k):
    acquisitions = [*mrd.lines(k), *mrd.lines(k, repetition=2)]
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, PLAIN))
    assert said(scan, "1 of 3 images have no readouts")
    assert scan.geometry is not None
    gap = read(mrd.write(tmp_path / "gap.h5", [*mrd.lines(k), *mrd.lines(k, slice=2)], PLAIN))
    assert len(gap) == 3
    assert gap.geometry is None
    with pytest.raises(SignalError, match="zero everywhere"):
        scan.kspace(1)


def test_a_separate_calibration_scan_is_kept_apart(tmp_path, k):
    other = random(COILS, NX, NY, seed=7)
    acquisitions = [
        *mrd.lines(k, order=range(0, NY, 2)),
        *mrd.lines(other, mrd.CALIBRATION, order=range(NY // 2 - 4, NY // 2 + 5)),
    ]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), mode="separate"))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    assert scan.acquisitions == {"image": NY // 2, "calibration": 9}
    np.testing.assert_array_equal(scan.kspace(0)[..., 1::2], 0)
    np.testing.assert_array_equal(scan.calibration, other[None, ..., NY // 2 - 4 : NY // 2 + 4])
    assert said(scan, "separate calibration scan: 8 central lines")


def test_calibration_lines_of_another_encoding_have_their_own_centre(tmp_path, k):
    other = random(COILS, NX, 10, seed=7)
    acquisitions = [*mrd.lines(k), *mrd.lines(other, mrd.CALIBRATION, reference=1)]
    text = mrd.header(
        mrd.encoding((NX, NY, 1), centre=(NY // 2, 0)), mrd.encoding((NX, 10, 1), centre=(5, 0), mode="external")
    )
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    np.testing.assert_array_equal(scan.calibration[0], other)


def test_embedded_calibration_lines_belong_to_the_image(tmp_path, k):
    centre = range(NY // 2 - 3, NY // 2 + 3)
    acquisitions = [
        *(a for a in mrd.lines(k, order=range(0, NY, 2))),
        *mrd.lines(k, mrd.CALIBRATION, order=[i for i in centre if i % 2]),
    ]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), mode="embedded"))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    np.testing.assert_array_equal(scan.kspace(0)[..., list(centre)], k[..., list(centre)])
    assert scan.calibration is None
    both = [mrd.acquisition(k[..., i], i, mrd.CALIBRATION_AND_IMAGE) for i in range(NY)]
    scan = read(mrd.write(tmp_path / "both.h5", both, PLAIN))
    np.testing.assert_array_equal(scan.kspace(0), k)
    assert scan.acquisitions == {"calibration and image": NY}


def ghosted(k, offset, slope):
    """Return an echo train of k (coil, x, line): odd lines reversed, delayed and turned, and three lines to tell."""
    x = np.arange(NX) - NX // 2
    phase = np.exp(1j * (offset + slope * x))

    def backwards(line):
        return to_kspace(to_image(line) * phase)[:, ::-1]

    guide = k[..., NY // 2]
    train = [
        mrd.acquisition(backwards(guide), 0, mrd.PHASE_CORRECTION, mrd.REVERSE),
        mrd.acquisition(guide, 0, mrd.PHASE_CORRECTION),
        mrd.acquisition(backwards(guide), 0, mrd.PHASE_CORRECTION, mrd.REVERSE),
    ]
    for i in range(NY):
        odd = i % 2 == 1
        train.append(mrd.acquisition(backwards(k[..., i]) if odd else k[..., i], i, *([mrd.REVERSE] if odd else [])))
    return train


@pytest.mark.parametrize("numbered", [False, True])
def test_echo_trains_lose_their_ghost(tmp_path, numbered):
    """Also where each phase-correction line is numbered as an echo of its own."""
    k = smooth()
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), trajectory="epi"))
    train = ghosted(k, offset=0.7, slope=-0.11)
    for echo, guide in enumerate(train[:3] if numbered else []):
        guide.idx.contrast = echo
    scan = read(mrd.write(tmp_path / "epi.h5", train, text))
    assert said(scan, "corrected by the linear phase")
    np.testing.assert_allclose(scan.kspace(0), k, atol=1e-4 * np.abs(k).max())
    # Without the three lines there is a ghost, which the test would detect.
    uncorrected = read(mrd.write(tmp_path / "bad.h5", train[3:], text))
    assert np.abs(uncorrected.kspace(0) - k).max() > 0.3 * np.abs(k).max()


def test_phase_correction_lines_lie_by_their_echo_too(tmp_path):
    """Echo 10 of 26 both ways: backwards, other samples are measured, and the guides must not be shifted for that."""
    k = smooth()
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), trajectory="epi"))
    train = []
    for one in ghosted(k, offset=0.7, slope=-0.11):
        kept = slice(5, 31) if one.isFlagSet(mrd.REVERSE) else slice(6, NX)
        flags = [flag for flag in (mrd.REVERSE, mrd.PHASE_CORRECTION) if one.isFlagSet(flag)]
        cut = mrd.acquisition(one.data[:, kept], one.idx.kspace_encode_step_1, *flags, centre=10)
        train.append(cut)
    found = read(mrd.write(tmp_path / "epi.h5", train, text)).kspace(0)
    assert np.abs(found - k)[:, 7:26].max() < 0.05 * np.abs(k).max()


@pytest.mark.parametrize(("delay", "refused"), [(0, True), (160, False)])
def test_samples_on_the_ramps_are_seen_in_the_header(tmp_path, delay, refused):
    """As siemens_to_ismrmrd describes an echo train: ramps of 160 us, flat for 240 us, 24 samples of 10 us."""
    numbers = {"rampUpTime": 160, "rampDownTime": 160, "flatTopTime": 240, "acqDelayTime": delay, "numSamples": 24}
    pairs = "".join(
        f"<userParameterLong><name>{n}</name><value>{v}</value></userParameterLong>" for n, v in numbers.items()
    )
    pairs += "<userParameterDouble><name>dwellTime</name><value>10.0</value></userParameterDouble>"
    described = f"<trajectoryDescription><identifier>ConventionalEPI</identifier>{pairs}</trajectoryDescription>"
    text = mrd.encoding((NX, NY, 1), centre=(NY // 2, 0), trajectory="epi")
    text = mrd.header(text.replace("</trajectory>", f"</trajectory>{described}"))
    path = mrd.write(tmp_path / "epi.h5", ghosted(smooth(), 0.7, -0.11), text)
    if refused:
        with pytest.raises(InputError, match="ramps of the gradient"):
            io.read(path)
    else:
        assert io.read(path).shape["x"] == NY


def test_the_linear_phase_is_found_under_noise():
    line = to_image(smooth()[..., NY // 2])
    x = np.arange(NX) - NX // 2
    noise = [0.02 * np.abs(line).max() * random(COILS, NX, seed=s) for s in (1, 2)]
    offset, slope = linear_phase(line + noise[0], line * np.exp(1j * (0.4 + 0.05 * x)) + noise[1])
    assert abs(offset - 0.4) < 0.05
    assert abs(slope - 0.05) < 0.01


def test_fields_left_empty_are_taken_as_the_middle_and_told(tmp_path, k):
    acquisitions = [mrd.acquisition(k[..., i], i, centre=0) for i in range(NY)]
    text = mrd.header(mrd.encoding((NX, NY, 1), centre=(0, 0)))
    scan = read(mrd.write(tmp_path / "k.h5", acquisitions, text))
    np.testing.assert_array_equal(scan.kspace(0), k)
    assert said(scan, "does not state the sample")
    assert said(scan, "does not state which line")


@pytest.mark.parametrize(
    "field", ["encodedSpace/matrixSize/y", "reconSpace/fieldOfView_mm/x", "reconSpace/matrixSize/x", "trajectory"]
)
def test_a_header_field_that_is_missing_is_named(tmp_path, k, field):
    *groups, leaf = field.split("/")
    start = 0
    for group in groups:
        start = PLAIN.index(f"<{group}>", start)
    start = PLAIN.index(f"<{leaf}>", start)
    end = PLAIN.index(f"</{leaf}>", start) + len(f"</{leaf}>")
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN[:start] + PLAIN[end:])
    with pytest.raises(InputError, match=f"encoding/{field}"):
        io.read(path)


ENTITIES = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (PLAIN.replace('"1.0"?>', f'"1.0"?>{ENTITIES}').replace("30<", "&c;<"), UnsafeContentError, "document type"),
        ("no xml", InputError, "not well-formed XML"),
        (PLAIN.replace("cartesian", "radial"), InputError, "not Cartesian"),
        (PLAIN.replace(f"<x>{NX}</x>", "<x>16</x>"), InputError, "do not fit its matrix"),
        (PLAIN.replace(f"<x>{NX}</x>", "<x>0</x>"), InputError, "of 0"),
        (PLAIN.replace(f"<x>{NX}</x>", "<x>9999999</x>"), InputError, "the limit is"),
    ],
)
def test_headers_that_cannot_be_meant(tmp_path, k, text, error, words):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), text)
    with pytest.raises(error, match=words):
        io.read(path)


def without(name):
    def change(group):
        del group[name]

    return change


def emptied(group):
    kind = group["data"].dtype
    del group["data"]
    group.create_dataset("data", (0,), dtype=kind, maxshape=(None,))


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        (without("data"), "a header, and no acquisitions", "holds xml"),
        (without("xml"), "acquisitions without a header", "no 'xml'"),
        (emptied, "without samples", "'data' is empty"),
    ],
)
def test_what_an_incomplete_file_lacks_is_said(tmp_path, k, change, words, why):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        change(file["dataset"])
    with pytest.raises(InputError, match=words) as caught:
        io.read(path)
    assert why in caught.value.why
    assert caught.value.fix


def test_acquisitions_without_samples_are_said_to_be_so(tmp_path):
    path = mrd.write(tmp_path / "k.h5", [mrd.acquisition(np.zeros((COILS, 0)), i) for i in range(NY)], PLAIN)
    with pytest.raises(InputError, match="without samples") as caught:
        io.read(path)
    assert f"{NY} acquisitions are listed, each of 0 samples" in caught.value.why


def test_acquisitions_that_cannot_be_meant(tmp_path, k):
    def refused(words, acquisitions, text=PLAIN):
        with pytest.raises(InputError, match=words):
            read(mrd.write(tmp_path / "k.h5", acquisitions, text))

    refused("no imaging readouts", mrd.lines(k, mrd.NOISE))
    refused("differ in coils", [*mrd.lines(k), mrd.acquisition(random(2, NX), 3)])
    refused("compressed", mrd.lines(k, 53))
    refused("is outside its matrix", [*mrd.lines(k), mrd.acquisition(k[..., 0], 3, centre=1)])
    refused("lacks encoding 3", [mrd.acquisition(k[..., i], i, reference=3) for i in range(NY)])
    refused(
        "the limit is", [*mrd.lines(k), *(mrd.acquisition(k[..., 0], 0, slice=60000, repetition=60000) for _ in "a")]
    )


def test_samples_that_are_not_there_are_missed(tmp_path, k):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        row = file["dataset/data"][5]
        row["head"]["number_of_samples"] = NX - 2
        file["dataset/data"][5] = row
    scan = io.read(path)
    with pytest.raises(InputError, match=r"acquisition 5 .* not as long as its header states"):
        scan.unmasked_kspace(0)


@pytest.mark.parametrize("part", ["data", "xml"])
def test_a_link_out_of_the_file_is_not_followed(tmp_path, k, part):
    other = mrd.write(tmp_path / "other.h5", mrd.lines(k), PLAIN)
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        del file["dataset"][part]
        file["dataset"][part] = h5py.ExternalLink(str(other), f"dataset/{part}")
    with pytest.raises(UnsafeContentError, match="links to another file"):
        io.read(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, k, share):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"truncated|damaged|not an HDF5"):
        io.read(path)


@pytest.mark.parametrize(
    "storage", [{"chunks": (1,), "maxshape": (None,)}, {"chunks": (5,), "compression": "gzip"}, {}], ids=str
)
def test_however_the_table_is_stored(tmp_path, k, storage):
    """One acquisition a chunk, as the C++ library writes; compressed; in one piece."""
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        table = file["dataset/data"][:]
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=table, **storage)
    np.testing.assert_array_equal(read(path).kspace(0), k)


def test_axes_are_not_asked_for(tmp_path, k):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with pytest.raises(UsageError, match="take no --axes"):
        io.read(path, axes="slice,coil,y,x")


def test_another_group_can_be_named(tmp_path, k):
    path = mrd.write(tmp_path / "k.h5", mrd.lines(k), PLAIN)
    with h5py.File(path, "a") as file:
        file.move("dataset", "scan_2")
    np.testing.assert_array_equal(io.read(path, dataset="scan_2").kspace(0), k)


def test_nobody_is_named_and_info_tells_the_rest(tmp_path, k):
    acquisitions = [mrd.acquisition(random(COILS, 64), 0, mrd.NOISE), *mrd.lines(k), *mrd.lines(k, average=1)]
    path = mrd.write(tmp_path / "k.h5", acquisitions, PLAIN)
    scan = io.read(path)
    told = json.dumps(io.describe(path), allow_nan=False)
    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 0, result.output
    for text in (repr(scan), repr(scan.attributes), repr(scan.header), told, result.output):
        assert not any(word in text for word in ("SECRET", "DOE", "1999"))
    for words in ("ismrmrd", "48 image, 1 noise", "64 samples of each of 3 coils", "200 x 160 x 5 mm", "2 averages"):
        assert words in result.output
    assert "<TR>30</TR>" in scan.header


# A measured brain -----------------------------------------------------------------------------------------------------


def brain_variants(k):
    """Return acquisitions, header, and the best NRMSE that can be asked for, by what the scanner did differently."""
    coils, nx, ny = k.shape
    sigma = 0.002 * np.abs(k).max()
    plain = {"fov": (256, 256, 3), "centre": (ny // 2, 0)}
    image = to_image(k.swapaxes(1, 2))
    wide = to_kspace(np.pad(image, ((0, 0), (0, 0), (nx // 2, nx // 2)))).swapaxes(1, 2)
    noisy = [k + sigma * random(*k.shape, seed=s) for s in (1, 2)]
    return {
        "noise scan": (
            [mrd.acquisition(sigma * random(coils, 256), 0, mrd.NOISE), *mrd.lines(k)],
            mrd.encoding((nx, ny, 1), **plain),
            1e-6,
        ),
        "averages": (
            [*mrd.lines(noisy[0]), *mrd.lines(noisy[1], average=1)],
            mrd.encoding((nx, ny, 1), **plain),
            0.02,
        ),
        "partial Fourier": (
            [mrd.acquisition(k[..., i + 36], i) for i in range(ny - 36)],
            mrd.encoding((nx, ny, 1), fov=(256, 256, 3), centre=(28, 0)),
            0.09,
        ),
        "asymmetric echo": (
            [mrd.acquisition(k[:, 32:, i], i, centre=32) for i in range(ny)],
            mrd.encoding((nx, ny, 1), **plain),
            0.09,
        ),
        "readout oversampling": (
            mrd.lines(wide),
            mrd.encoding((2 * nx, ny, 1), (nx, ny, 1), (512, 256, 3), (256, 256, 3), centre=(ny // 2, 0)),
            1e-5,
        ),
        "separate calibration": (
            [*mrd.lines(k, order=range(0, ny, 2)), *mrd.lines(k, mrd.CALIBRATION, order=range(52, 77))],
            mrd.encoding((nx, ny, 1), mode="separate", **plain),
            0.04,
        ),
    }


def test_a_measured_brain_comes_out_right_however_it_was_scanned(real_kspace, tmp_path):
    k = np.load(real_kspace / "brain_flash_16ch.npz")["kspace"]
    reference = np.abs(reconstruct(io.read(real_kspace / "brain_flash_16ch.npz"), method="sense").images[0])
    for name, (acquisitions, encoding, limit) in brain_variants(k).items():
        scan = read(mrd.write(tmp_path / "brain.h5", acquisitions, mrd.header(encoding)))
        image = np.abs(reconstruct(scan, method="sense").images[0])
        error = np.linalg.norm(image - reference) / np.linalg.norm(reference)
        assert error < limit, name
