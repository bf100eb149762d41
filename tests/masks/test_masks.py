"""Test masks: exact, reproducible, and equal to fastMRI's and mridc's with `compat`."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import InputError, UsageError
from mrirecon.masks import (
    FAMILIES,
    achieved_acceleration,
    fastmri_lines,
    load_mask,
    make_mask,
    mask_bytes,
    point_spread,
    seed_from,
)
from mrirecon.masks.planes import DITHER, distance_from_box
from mrirecon.masks.registry import drawn_families

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "fastmri_masks.json").read_text())
LINES = tuple(name for name in drawn_families() if FAMILIES[name].over == "lines")
PLANES = tuple(name for name in drawn_families() if FAMILIES[name].over == "plane")


def digest(mask: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


def box(shape: tuple[int, ...], sides: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(n // 2 - c // 2, n // 2 - c // 2 + c) for n, c in zip(shape, sides, strict=True))


# --- exactness ---


@settings(max_examples=150, deadline=None)
@given(
    family=st.sampled_from(LINES),
    n=st.integers(1, 400),
    rate=st.floats(1, 20),
    share=st.floats(0, 1),
    seed=st.integers(-(2**70), 2**70),
)
def test_lines_reach_the_acceleration_to_one_line(family: str, n: int, rate: float, share: float, seed: int) -> None:
    count = round(n / rate)
    if count < 1:
        with pytest.raises(UsageError, match="leaves no samples"):
            make_mask(family, (3, n), rate, seed=seed)
        return
    lines = int(share * count)
    result = make_mask(family, (3, n), rate, calibration=lines, seed=seed)
    assert result.mask.shape == (3, n)
    assert result.mask.dtype == bool
    assert (result.mask == result.mask[0]).all()
    assert result.mask[0].sum() == count
    assert abs(result.mask[0].sum() - n / rate) <= 0.5
    assert result.acceleration == achieved_acceleration(result.mask) == pytest.approx(n / count)
    assert result.mask[0][box((n,), (lines,))].all()
    assert result.calibration == ((3, lines) if count < n else (3, n))


@settings(max_examples=80, deadline=None)
@given(
    family=st.sampled_from(PLANES),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    rate=st.floats(1, 30),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 1000),
)
def test_planes_reach_the_acceleration_to_one_sample(
    family: str, shape: tuple[int, int], rate: float, share: tuple[float, float], seed: int
) -> None:
    total = math.prod(shape)
    count = round(total / rate)
    if count < 1:
        with pytest.raises(UsageError, match="leaves no samples"):
            make_mask(family, shape, rate, seed=seed)
        return
    first = int(min(shape[0], count) * share[0])
    sides = (first, int(min(shape[1], count // max(first, 1)) * share[1]))
    result = make_mask(family, shape, rate, calibration=sides, seed=seed)
    assert result.mask.sum() == count
    assert result.acceleration == pytest.approx(total / count)
    assert result.mask[box(shape, sides)].all()


@pytest.mark.parametrize("seed", range(40))
def test_no_spacing_is_wide_enough_for_a_single_sample(seed: int) -> None:
    """Check that the memory does not grow with the spacing that the bisection doubles."""
    tracemalloc.start()
    assert make_mask("poisson", (9, 8), 72, calibration=(0, 0), seed=seed).mask.sum() == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize("shape", [(320, 320), (131, 97), (45, 256), (230, 180)])
@pytest.mark.parametrize("family", [*LINES, *PLANES])
@pytest.mark.parametrize("rate", [1, 1.5, 2, 4, 12])
def test_calibration_without_a_number_fits_every_shape(family: str, shape: tuple[int, int], rate: float) -> None:
    result = make_mask(family, shape, rate, seed=3)
    region = tuple(s.stop - s.start for s in find_calibration(result.mask))
    assert all(a >= b > 0 for a, b in zip(region, result.calibration, strict=True))
    assert (region == shape) == (rate == 1)


@pytest.mark.parametrize("axis", [0, 1, 2, -3, -1])
def test_lines_lie_across_the_axis_asked(axis: int) -> None:
    shape = (15, 21, 33)
    mask = make_mask("random", shape, 3, axis=axis, calibration=3).mask
    lines = np.moveaxis(mask, axis, 0)
    assert (lines == lines[:, :1, :1]).all()
    assert lines[:, 0, 0].sum() == shape[axis] // 3


@pytest.mark.parametrize("family", PLANES)
def test_a_plane_of_three_axes_is_the_same_along_the_readout(family: str) -> None:
    result = make_mask(family, (40, 11, 31), 4, calibration=8, readout=1, seed=2)
    assert (result.mask == result.mask[:, :1]).all()
    assert (result.mask[:, 0] == make_mask(family, (40, 31), 4, calibration=8, seed=2).mask).all()
    assert result.calibration == (8, 11, 8)
    assert result.axes == (0, 2)
    assert "axis 1 (11 samples) is assumed to be the readout" in result.notes[-1]


# --- what the families are ---


@settings(max_examples=100, deadline=None)
@given(n=st.integers(8, 400), rate=st.floats(1.2, 10), share=st.floats(0, 0.9), seed=st.integers(0, 10**6))
def test_equispaced_gaps_differ_by_at_most_one(n: int, rate: float, share: float, seed: int) -> None:
    count = round(n / rate)
    lines = int(share * count)
    result = make_mask("equispaced", (1, n), rate, calibration=lines, seed=seed)
    region = box((n,), (lines,))[0]
    chosen = np.flatnonzero(result.mask[0])
    sides = chosen[chosen < region.start], chosen[chosen >= region.stop]
    gaps = np.concatenate([np.diff(side) for side in sides])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    if result.notes and result.notes[0].startswith("equispaced"):
        assert gaps.size == 0 or gaps.max() == gaps.min()
    # one comb: the gap over the box continues it, so the lines cover k-space from end to end
    if gaps.size > 2:
        assert sides[0].size == 0 or sides[0][0] <= gaps.max()
        assert sides[1].size == 0 or n - sides[1][-1] <= gaps.max() + 1


@pytest.mark.parametrize(("n", "rate"), [(128, 4), (320, 5), (216, 8)])
def test_equispaced_takes_a_whole_spacing_where_there_is_one(n: int, rate: int) -> None:
    offsets = set()
    for seed in range(12):
        result = make_mask("equispaced", (1, n), rate, calibration=0, seed=seed)
        chosen = np.flatnonzero(result.mask[0])
        assert set(np.diff(chosen)) == {rate}
        offsets.add(int(chosen[0]))
    assert len(offsets) > 2


def test_equispaced_takes_a_whole_spacing_beside_a_calibration_region() -> None:
    # 20 calibration lines of 100, and every fourth of the other 80 lines: 20 more
    result = make_mask("equispaced", (1, 100), 2.5, calibration=20)
    assert result.notes == ("equispaced: every 4th line",)
    assert len(set(np.flatnonzero(result.mask[0, :40]) % 4)) == 1


@pytest.mark.parametrize("rate", [3, 4, 8, 12])
def test_poisson_keeps_its_distance(rate: float) -> None:
    shape, side = (160, 120), 16
    result = make_mask("poisson", shape, rate, calibration=side, seed=5)
    region = box(shape, (side, side))
    edge = float(result.notes[0].split("spacing ")[1].split()[0])
    radius = 1 + (edge - 1) * distance_from_box(shape, (region[0], region[1]))
    mask = result.mask.copy()
    mask[region] = False
    y, x = np.nonzero(mask)
    own, points = radius[y, x], cKDTree(np.stack([y, x], axis=1))
    pairs = points.query_pairs(own.max(), output_type="ndarray")
    distance = np.hypot(*(points.data[pairs[:, 0]] - points.data[pairs[:, 1]]).T)
    # 0.5 %: the note gives three digits
    assert (distance >= own[pairs].min(axis=1) * 0.995 - DITHER).all()
    nearest = points.query(points.data, k=2)[0][:, 1]
    assert np.median(nearest / own) > 0.9
    assert (
        nearest < 2 * own + 1
    ).all()  # and no holes: without a sample within 2 r, another one would have been accepted


def test_poisson_density_falls_without_rings() -> None:
    mask = np.mean([make_mask("poisson", (200, 200), 8, calibration=10, seed=s).mask for s in range(6)], axis=0)
    rho = np.hypot(*np.mgrid[-100:100, -100:100])
    rings = [mask[(rho >= r) & (rho < r + 5)].mean() for r in range(10, 95, 5)]
    assert rings[0] > 0.5
    assert all(later < earlier * 1.04 for earlier, later in pairwise(rings))
    assert rings[-1] < 0.15


@pytest.mark.parametrize("family", ["gaussian1d", "gaussian2d"])
def test_gaussian_density_has_the_width_asked(family: str) -> None:
    # so few samples that drawing without replacement changes nothing
    shape, rate = ((1, 101), 33) if family == "gaussian1d" else ((101, 101), 200)
    total = sum(make_mask(family, shape, rate, calibration=0, fwhm=0.6, seed=s).mask.astype(int) for s in range(1500))
    along = total.sum(axis=0)
    x = (np.arange(101) - 50) / 50.5
    spread = math.sqrt((along * x**2).sum() / along.sum())
    assert spread == pytest.approx(0.6 / 2.3548, rel=0.05)
    assert abs((along * x).sum() / along.sum()) < 0.02


# --- reproducible ---


def test_seeds_are_stable() -> None:
    assert seed_from(0) == 4266883304
    assert seed_from(1, "file1000031.h5", 7) == 3710672605
    assert seed_from(0, "é.h5") == seed_from(0, "e\u0301.h5") != seed_from(0, "e.h5")
    pairs = [(s, n, i) for s in (0, 1, -1) for n in ("", "1", "a") for i in (0, 1, 11)]
    assert len({seed_from(*p) for p in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("random", "1ba321b13b7abbdd"),
        ("equispaced", "05b2162f54d0b3c9"),
        ("gaussian1d", "4f363f85ce592c2e"),
        ("gaussian2d", "c7b015b86f76525d"),
        ("poisson", "2874085d160906d1"),
    ],
)
def test_masks_are_what_they_were(family: str, expected: str) -> None:
    assert digest(make_mask(family, (96, 80), 4, seed=1, name="scan.h5", slice=2).mask)[:16] == expected


@pytest.mark.parametrize(("family", "compat"), [*((f, "none") for f in (*LINES, *PLANES)), ("gaussian2d", "mridc")])
def test_a_mask_is_a_function_of_seed_name_and_slice(family: str, compat: str) -> None:
    def drawn(seed: int, name: str, index: int) -> str:
        return digest(make_mask(family, (64, 60), 3, seed=seed, name=name, slice=index, compat=compat).mask)

    np.random.seed(0)  # noqa: NPY002 - that nobody's state matters is what is tested
    first = drawn(1, "a.h5", 2)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert drawn(1, "a.h5", 2) == first
    np.random.seed(0)  # noqa: NPY002
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    keys = [(1, "a.h5", 2), (2, "a.h5", 2), (1, "b.h5", 2), (1, "a.h5", 3), (1, "", 2), (1, "a.h5", 0)]
    # there are only about as many equispaced masks as lines from one to the next
    assert len({drawn(*key) for key in keys}) >= (2 if family == "equispaced" else len(keys))


# --- the same as others ---


def test_fastmri_masks_are_bit_identical() -> None:
    for kind, n, accelerations, fractions, seed, low, lines in GOLDENS["fastmri"]:
        start = tuple(seed) if isinstance(seed, list) else seed
        ours, centre, chosen = fastmri_lines(kind, n, accelerations, fractions, start)
        assert np.packbits(ours).tobytes().hex() == lines, (kind, n, accelerations, seed)
        assert centre == low
        assert chosen in accelerations
        if len(accelerations) == 1:
            mask = make_mask(kind, (2, n), accelerations[0], center_fraction=fractions[0], seed=start, compat="fastmri")
            assert (mask.mask == ours).all()
            assert mask.calibration == (2, low)
    assert len(GOLDENS["fastmri"]) == 360


def test_fastmri_seeds_with_the_name_of_the_file() -> None:
    codes = tuple(map(ord, "file1000031.h5"))
    by_name = make_mask("random", (1, 320), 4, name="file1000031.h5", compat="fastmri")
    assert by_name.seed == codes
    assert (by_name.mask == make_mask("random", (1, 320), 4, seed=codes, compat="fastmri").mask).all()
    with pytest.raises(UsageError, match="depends on the file name only"):
        make_mask("random", (1, 320), 4, name="file1000031.h5", seed=1, compat="fastmri")
    with pytest.raises(UsageError, match="depends on the file name only"):
        make_mask("random", (1, 320), 4, name="file1000031.h5", slice=1, compat="fastmri")


def test_fastmri_takes_lines_for_a_fraction() -> None:
    by_lines = make_mask("equispaced", (1, 372), 4, calibration=30, compat="fastmri", seed=3)
    by_share = make_mask("equispaced", (1, 372), 4, center_fraction=0.08, compat="fastmri", seed=3)
    by_default = make_mask("equispaced", (1, 372), 4, compat="fastmri", seed=3)
    assert by_lines.calibration == by_share.calibration == (1, 30)
    assert (by_lines.mask == by_share.mask).all()
    assert (by_lines.mask == by_default.mask).all()


def test_mridc_masks_are_bit_identical() -> None:
    for family, shape, rate, seed, samples, expected in GOLDENS["mridc"]:
        result = make_mask(family, tuple(shape), rate, seed=seed, compat="mridc", axis=0)
        drawn = result.mask[:, 0] if family == "gaussian1d" else result.mask
        assert drawn.sum() == samples
        assert digest(drawn) == expected, (family, shape, rate, seed)
    assert len(GOLDENS["mridc"]) == 36


@pytest.mark.parametrize("rate", [4, 10])
def test_mridc_planes_are_as_the_papers_say(rate: float) -> None:
    shape = (200, 160)
    masks = [make_mask("gaussian2d", shape, rate, seed=s, compat="mridc") for s in range(40)]
    y, x = np.mgrid[:200, :160]
    ellipse = ((y - 100) / 4) ** 2 + ((x - 80) / 3.2) ** 2 < 1
    drawn = int(200 * 160 / rate)
    for result in masks:
        assert result.mask[ellipse].all()
        assert drawn <= result.mask.sum() <= drawn + ellipse.sum()
        assert result.acceleration <= rate
    density = np.mean([m.mask for m in masks], axis=0)
    # the root widens the Gaussian: half-way to the edge the density is half of that in the middle, saturation aside
    if rate == 10:
        middle, half = density[95:106, 70:75].mean(), density[45:56, 75:86].mean()
        assert half / middle == pytest.approx(0.5, abs=0.12)


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("spiral", (8, 8), 2), {}, "no mask family 'spiral'"),
        (("random", (8, 8), 2), {"compat": "bart"}, "compat='bart'"),
        (("poisson", (8, 8), 2), {"compat": "fastmri"}, "fastmri has no masks of the family poisson"),
        (("random", (8, 8), 2), {"compat": "mridc"}, "mridc has no masks of the family random"),
        (("equispaced_fraction", (8, 8), 2), {}, "a fastMRI family"),
        (("random", (8,), 2), {}, "two or three axes"),
        (("random", (8, 0), 2), {}, "two or three axes"),
        (("random", (8, 8), 0.5), {}, "at least 1"),
        (("random", (8, 8), math.nan), {}, "at least 1"),
        (("random", (8, 8), None), {}, "at least 1"),
        (("random", (8, 8), 20), {}, "leaves no samples"),
        (("random", (8, 8), 2), {"axis": 2}, "axis 2 does not exist"),
        (("poisson", (8, 8, 8), 2), {"readout": -4}, "axis -4 does not exist"),
        (("random", (8, 8), 2), {"calibration": 9}, "larger than k-space"),
        (("random", (8, 8), 2), {"calibration": -1}, "larger than k-space"),
        (("random", (8, 8), 2), {"calibration": (2, 2)}, "larger than k-space"),
        (("poisson", (8, 8), 2), {"calibration": (2, 2, 2)}, "larger than k-space"),
        (("random", (8, 8), 2), {"seed": (1, 2)}, "one integer"),
        (("random", (8, 8), 2), {"seed": -1, "compat": "fastmri"}, "invalid seed"),
        (("random", (8, 8), 2), {"fwhm": 0.7}, "fwhm is only valid with"),
        (("gaussian1d", (8, 8), 2), {"fwhm": 0.0}, "positive number"),
        (("random", (8, 8), 2), {"center_fraction": 0.1}, "center_fraction is only valid with"),
        (("random", (8, 8), 2), {"path": "mask.npy"}, "path is only valid with"),
        (("gaussian2d", (8, 8), 2), {"calibration": 2, "compat": "mridc"}, "a fixed centre"),
        (("gaussian2d", (80, 80), 2), {"fwhm": 0.001, "compat": "mridc"}, "too narrow"),
        (("equispaced", (8, 80), 2.5), {"compat": "fastmri"}, "not an integer"),
        (("equispaced_fraction", (8, 80), 8), {"center_fraction": 0.125, "compat": "fastmri"}, "has all the lines"),
        (("random", (8, 80), 8), {"center_fraction": 1.0, "compat": "fastmri"}, "all lines are in"),
        (("random", (8, 80), 8), {"center_fraction": 1.1, "compat": "fastmri"}, "between 0 and 1"),
        (
            ("random", (8, 80), 8),
            {"center_fraction": 0.1, "calibration": 8, "compat": "fastmri"},
            "two settings of the same size",
        ),
        (("random", (1, 3), 80), {"center_fraction": 0.0, "compat": "fastmri"}, "without samples"),
        (("file", (8, 8)), {}, "needs a path and no other setting"),
        (("file", (8, 8)), {"path": "mask.npy", "fwhm": 1.0}, "fwhm is only valid with"),
        (("file", (8, 8), 4), {"path": "mask.npy"}, "needs a path and no other setting"),
    ],
)
def test_what_cannot_be_had_is_refused(arguments: tuple[object, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_mask(*arguments, **options)  # type: ignore[arg-type]


def test_a_calibration_region_beyond_the_budget_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="calibration region has more samples") as caught:
        make_mask("poisson", (64, 64), 8, calibration=24)
    assert "4096 samples at acceleration 8 leave 512, and the region 24×24 takes 576" in str(caught.value)
    assert "at most 7.11" in str(caught.value)
    make_mask("poisson", (64, 64), 7.11, calibration=24)
    with pytest.raises(UsageError, match="128 lines at acceleration 8 leave 16, and the region 24 takes 24"):
        raise_with_text(lambda: make_mask("random", (1, 128), 8, calibration=24))


def raise_with_text(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except UsageError as error:
        raise UsageError(str(error)) from None


# --- files ---


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".txt"])
def test_files_give_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    result = make_mask("poisson", (33, 47), 4, seed=1)
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(mask_bytes(result, suffix))
    back = make_mask("file", (33, 47), path=path)
    assert (back.mask == result.mask).all()
    assert back.acceleration == result.acceleration
    assert back.family == "file"
    assert all(a >= b for a, b in zip(back.calibration, result.calibration, strict=True))
    if suffix == ".npz":
        assert json.loads(str(np.load(path)["meta"]))["samples"] == result.mask.sum()


def test_files_of_lines_and_planes_are_spread(tmp_path: Path) -> None:
    lines = make_mask("random", (1, 30), 3).mask[0]
    np.save(tmp_path / "lines.npy", lines.astype(np.float32).reshape(1, 1, 30, 1))
    across = load_mask(tmp_path / "lines.npy", (30, 20), axis=0)
    assert (across.mask == lines[:, None]).all()
    assert across.axes == (0,)
    with pytest.raises(InputError, match="does not match") as caught:
        load_mask(tmp_path / "lines.npy", (30, 20))
    assert "axis=0" in str(caught.value)
    plane = make_mask("gaussian2d", (12, 14), 3).mask
    np.save(tmp_path / "plane.npy", plane.astype(np.int16))
    assert (load_mask(tmp_path / "plane.npy", (12, 5, 14), readout=1).mask == plane[:, None, :]).all()
    with pytest.raises(InputError, match="does not match") as caught:
        load_mask(tmp_path / "plane.npy", (14, 12))
    assert "transpose" in str(caught.value)
    (tmp_path / "lines.txt").write_text("# lines\n" + " ".join(str(int(v)) for v in lines) + "\n")
    assert (load_mask(tmp_path / "lines.txt", (4, 30)).mask == lines).all()


def test_a_full_mask_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "full.npy", np.ones((4, 4)))
    result = load_mask(tmp_path / "full.npy")
    assert result.acceleration == 1
    assert "is fully sampled" in result.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.npy", np.zeros((4, 4)), "no samples"),
        ("half.npy", np.full((4, 4), 0.5), "only 0 and 1"),
        ("nan.npy", np.array([[1.0, np.nan]]), "only 0 and 1"),
        ("two.npy", np.array([[1, 2]]), "only 0 and 1"),
        ("complex.npy", np.ones((2, 2), complex), "real numbers"),
        ("text.npy", np.array(["a"]), "real numbers"),
        ("object.npy", np.array([None, {}], dtype=object), "real numbers"),
        ("empty.npy", np.zeros((0, 4)), "no samples"),
        ("not.npy", b"not a numpy file", "not a readable .npy"),
        ("not.png", b"not a picture", "not a readable .png"),
        ("not.npz", b"PK not a zip", "not a readable .npz"),
        ("not.txt", b"\xff\xfe1 0", "not a readable .txt"),
        ("words.txt", b"one zero\n", "not a readable .txt"),
        ("ragged.txt", b"1 0\n1\n", "equal lengths"),
        ("missing.npy", None, "no such mask file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        load_mask(path)
    assert caught.value.where is not None
    assert name in caught.value.where


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    for shape, message in (((2**20, 2**20), "too large"), ((2**13, 2**13), "truncated")):
        with (tmp_path / "bomb.npy").open("wb") as file:
            header = {"descr": "|b1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        with pytest.raises(InputError, match=message):
            load_mask(tmp_path / "bomb.npy")


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a mask file by its name"):
        load_mask(tmp_path / "mask.mat")
    result = make_mask("random", (4, 6, 8), 2)
    with pytest.raises(UsageError, match="needs a mask of two axes"):
        mask_bytes(result, ".png")
    with pytest.raises(UsageError, match="cannot be written"):
        mask_bytes(result, ".mat")
    np.savez(tmp_path / "several.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(InputError, match="none of which is named mask"):
        load_mask(tmp_path / "several.npz")


# --- point spread function ---


def test_point_spread_of_known_masks() -> None:
    spread, highest = point_spread(np.ones((8, 9)))
    assert np.unravel_index(spread.argmax(), spread.shape) == (4, 4)
    assert spread.max() == pytest.approx(1)
    assert highest < 1e-12
    comb = np.zeros((6, 12))
    comb[:, ::3] = 1
    spread, highest = point_spread(comb)
    assert highest == pytest.approx(1)  # three coherent copies
    assert spread[3, [2, 6, 10]] == pytest.approx([1, 1, 1])
    incoherent = point_spread(make_mask("poisson", (128, 128), 4).mask)[1]
    coherent = point_spread(make_mask("equispaced", (128, 128), 4).mask)[1]
    assert incoherent < 0.1 < coherent
    with pytest.raises(InputError, match="no samples"):
        point_spread(np.zeros((4, 4)))


def test_every_family_is_tested_here() -> None:
    assert set(FAMILIES) == {*LINES, *PLANES, "equispaced_fraction", "file"}


def test_describe_states_what_was_achieved() -> None:
    result = make_mask("gaussian2d", (64, 48), 4, calibration=(12, 8), seed=9)
    assert result.describe() == (
        "gaussian2d, 64×48: acceleration 4 (requested 4), 768 of 3072 samples, calibration region 12×8"
    )
    assert json.loads(json.dumps(result.as_dict()))["calibration"] == [12, 8]
