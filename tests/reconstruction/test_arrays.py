"""Test the functions for notebooks, `mrirecon.reconstruct`, `espirit`, `make_mask` and `evaluate`, on plain arrays."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import mrirecon as mr
from mrirecon.errors import (
    CalibrationError,
    InputError,
    MriReconError,
    NoSignalError,
    SignalError,
    UsageError,
    in_terms_of_arguments,
)
from mrirecon.reconstruction.plan import Request

SIZE, COILS = (36, 32), 4
MASK = mr.make_mask("equispaced", SIZE, 2, calibration=10)


@pytest.fixture(scope="module")
def kspace():
    """Return k-space of an ellipse, (coil, y, x) complex128."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    angles = 2 * np.pi * np.arange(COILS) / COILS
    coils = [np.exp(-((y - np.sin(a)) ** 2) - (x - np.cos(a)) ** 2 + 1j * (a + x)) for a in angles]
    image = 1.0 * (y**2 / 0.6 + x**2 / 0.4 < 1) + 0.5 * (y**2 + (x - 0.2) ** 2 < 0.04)
    axes = (-2, -1)
    centred = np.fft.ifftshift(np.stack(coils) * image, axes)
    full = np.fft.fftshift(np.fft.fftn(centred, axes=axes, norm="ortho"), axes)
    return full + 1e-3 * np.random.default_rng(0).standard_normal(full.shape)


def sense(data, **arguments):
    return mr.reconstruct(data, method="sense", options={"iterations": 3}, **arguments).image


def test_an_array_gives_the_image_of_the_same_file(kspace, tmp_path):
    data = (kspace * np.asarray(MASK)).astype(np.complex64)
    np.savez(tmp_path / "scan.npz", kspace=data, axes="coil,y,x", mask=np.asarray(MASK))
    of_file = mr.reconstruct(mr.read(tmp_path / "scan.npz"), method="cs", options={"iterations": 5})
    of_array = mr.reconstruct(kspace.astype(np.complex64), mask=MASK, method="cs", options={"iterations": 5})
    np.testing.assert_array_equal(of_array.image, of_file.image)
    assert of_array.image.shape == SIZE
    assert of_array.lam == of_file.lam


def test_every_kind_of_array_is_accepted(kspace):
    expected = sense(kspace, mask=MASK)
    before = kspace.copy()
    np.testing.assert_array_equal(sense(torch.from_numpy(kspace), mask=torch.from_numpy(MASK.mask)), expected)
    np.testing.assert_array_equal(sense(torch.from_numpy(kspace.conj()).conj().requires_grad_(), mask=MASK), expected)
    np.testing.assert_array_equal(sense(kspace.astype(np.complex64), mask=MASK.mask[0].astype(int)), expected)
    np.testing.assert_array_equal(sense(kspace * MASK.mask), expected)
    np.testing.assert_array_equal(kspace, before)


def test_slices_volumes_and_single_coils(kspace):
    expected, two = sense(kspace, mask=MASK), np.stack([kspace, 2 * kspace])
    slices = sense(two, mask=MASK, axes="slice,coil,y,x")
    np.testing.assert_allclose(slices, np.stack([expected, 2 * expected]), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(sense(two.swapaxes(0, 1), mask=MASK, axes="coil,slice,y,x"), slices)
    assert mr.reconstruct(kspace[0], mask=MASK, method="zero-filled").image.shape == SIZE
    assert mr.reconstruct(kspace, axes="slice,y,x", method="zero-filled").image.shape == (COILS, *SIZE)
    volume = np.stack([kspace, 2 * kspace, kspace], axis=1)
    whole = mr.reconstruct(volume, axes="coil,z,y,x", mask=MASK, method="rss").image
    assert whole.shape == (3, *SIZE)


def test_maps_are_estimated_and_accepted(kspace):
    maps = mr.espirit(kspace, mask=MASK)
    assert maps.maps.shape == (1, COILS, *SIZE)
    length = np.linalg.norm(maps.maps[0], axis=0)
    assert length.max() == pytest.approx(1, abs=1e-3)
    expected = sense(kspace, mask=MASK, map_sets=1)
    for given in (maps, maps.maps[0], torch.from_numpy(maps.maps)):
        error = np.linalg.norm(sense(kspace, mask=MASK, maps=given) - expected) / np.linalg.norm(expected)
        assert error < 0.1
    assert mr.espirit(np.stack([kspace] * 2), axes="slice,coil,y,x", sets=2).maps.shape == (2, 2, COILS, *SIZE)


def test_results_are_shown_in_notebooks(kspace):
    result = mr.reconstruct(kspace, method="zero-filled")
    scores = mr.evaluate(0.5 * np.abs(result.image), result, metrics=("ssim", "nmse"))
    assert scores.mean["nmse"] < 1e-10
    image, reference = scores.example
    np.testing.assert_allclose(image, reference, rtol=1e-5)
    for shown in (result, scores, MASK, mr.espirit(kspace)):
        page = shown._repr_html_()
        assert page.startswith('<img src="data:image/png;base64,')
        assert "<script" not in page
        assert shown.picture.width > 300
    assert "zero-filled" in result._repr_html_()
    assert "SSIM 1 " in scores.caption()[0].replace("1.000", "1").replace(",", " ")


def test_captions_are_escaped(kspace):
    result = mr.reconstruct(kspace, method="zero-filled")
    result.notes = ["<b>&"]
    assert "&lt;b&gt;&amp;" in result._repr_html_()


def test_arrays_are_scored_as_slices(kspace):
    image = np.abs(mr.reconstruct(kspace, method="zero-filled").image)
    worse = image + 0.1 * image.max() * np.random.default_rng(1).random(SIZE)
    scores = mr.evaluate(torch.from_numpy(np.stack([image, worse])), np.stack([image, image]))
    assert len(scores.rows()) == 2
    assert scores.rows()[0]["ssim"] > scores.rows()[1]["ssim"]
    np.testing.assert_array_less(0, np.abs(scores.example[0] - image).max())
    inside = np.zeros(SIZE)
    inside[10:24, 10:24] = 1
    assert mr.evaluate(worse, image, mask=inside).mean["nmse"] != mr.evaluate(worse, image).mean["nmse"]


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (lambda k: k[:, None], {}, InputError, 'axes="slice,coil,y,x"'),
        (lambda k: np.abs(k), {}, InputError, "must be complex"),
        (lambda k: "scan.h5", {}, UsageError, "mrirecon.read"),
        (lambda k: [[1, 2], [3]], {}, InputError, "cannot be read as an array"),
        (lambda k: None, {}, InputError, "kspace must hold numbers"),
        (lambda k: k * np.nan, {}, SignalError, "nan='zero'"),
        (lambda k: k * 0, {}, NoSignalError, "argument kspace"),
        (lambda k: k * 1e-300, {}, NoSignalError, "too small for single precision"),
        (lambda k: k * 1e300, {}, SignalError, "do not fit in single precision"),
        (lambda k: k, {"mask": MASK.mask.T}, InputError, "argument mask"),
        (lambda k: k, {"mask": 0.5 * MASK.mask}, InputError, "must hold 0 and 1"),
        (lambda k: k, {"maps": np.ones((2, *SIZE, 2))}, InputError, "argument maps"),
        (lambda k: k, {"maps": "file"}, InputError, "maps='espirit'"),
        (lambda k: k, {"maps": "esprit"}, UsageError, "espirit"),
        (lambda k: k, {"axes": "coil,y"}, UsageError, "axes"),
        (lambda k: k, {"method": "css"}, UsageError, "did you mean 'cs'"),
        (lambda k: k, {"method": "rss", "lam": 1.0}, UsageError, "omit lam"),
        (lambda k: k, {"method": "lpdnet"}, UsageError, "model=DIR"),
        (lambda k: k, {"method": "cs", "model": "here"}, UsageError, "omit method"),
        (lambda k: k, {"request": Request(method="cs"), "method": "rss"}, UsageError, "given twice"),
        (
            lambda k: k * mr.make_mask("equispaced", SIZE, 3, calibration=0).mask,
            {"method": "cs"},
            CalibrationError,
            "mrirecon.espirit",
        ),
    ],
)
def test_errors_name_arguments(kspace, change, arguments, error, message):
    with pytest.raises(error) as caught:
        mr.reconstruct(change(kspace), **arguments)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


def test_arguments_of_arrays_are_refused_with_a_scan(kspace, tmp_path):
    np.savez(tmp_path / "scan.npz", kspace=kspace, axes="coil,y,x")
    with pytest.raises(UsageError, match=r"mask: only valid with an array"):
        mr.reconstruct(mr.read(tmp_path / "scan.npz"), mask=MASK)
    with pytest.raises(UsageError, match="cannot be compared with a file"):
        mr.evaluate(tmp_path / "scan.npz", kspace[0])
    with pytest.raises(UsageError, match="axes is only valid with files"):
        mr.evaluate(kspace[0], kspace[0], axes="y,x")


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (np.ones(SIZE), {"mask": np.ones((3, 3))}, "mask does not match"),
        (np.ones(SIZE), {"mask": np.full(SIZE, 0.5)}, "0 and 1"),
        (np.ones(SIZE), {"mask": np.ones(SIZE), "preset": "fastmri"}, "preset='mrirecon'"),
        (np.ones(SIZE[::-1]), {}, "transposed"),
        (np.full(SIZE, np.nan), {}, "image holds NaN"),
        (np.ones(3), {}, "must hold images"),
        (np.ones(SIZE), {"metrics": ("sim",)}, "unknown metric"),
    ],
)
def test_scores_that_are_not_possible_are_refused(image, arguments, message):
    with pytest.raises(MriReconError, match=re.escape(message)):
        mr.evaluate(image, np.ones(SIZE), **arguments)


def test_options_in_messages_become_arguments():
    for text, expected in (
        ("use --maps espirit, or --lambda", "use maps='espirit', or lam"),
        ("omit --set, or train", "omit options, or train"),
        ("--strict refuses it", "strict refuses it"),
        ("--map-sets 1 uses one", "map_sets=1 uses one"),
        ("use --whiten none", "use preprocess=Preprocess(whiten='none')"),
        ("give --set iterations=5", "give options={'iterations': 5}"),
        ("for example --axes slice,coil,y,x", "for example axes='slice,coil,y,x'"),
    ):
        assert in_terms_of_arguments(text) == expected


def test_every_option_in_messages_becomes_an_argument():
    """Check every option that is named in the folders that the functions above use."""
    package = Path(mr.__file__).parent
    for folder in ("physics", "coils", "methods", "io", "metrics", "models", "reconstruction"):
        for path in (package / folder).rglob("*.py"):
            for option in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", path.read_text()):
                assert "--" not in in_terms_of_arguments(option), f"{path}: {option}"
