"""Test reports: the page contains the exact images, and no name can run as a script."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation import Evaluation, Options, compare
from mrirecon.evaluation.report.cases import About, Case, Result
from mrirecon.evaluation.report.charts import LEAST, box_plot, line_plot
from mrirecon.evaluation.report.html import json_text, write_report
from mrirecon.evaluation.report.slices import (
    LARGEST,
    MED,
    Plane,
    choose_depths,
    choose_slices,
    noise_level,
    pack,
    pack_slices,
    scaled_to,
)
from mrirecon.evaluation.report.tables import (
    lesion_rows,
    median_recoveries,
    merge_texts,
    method_rows,
    natural,
    worst_first,
    worst_slice,
)
from mrirecon.metrics import object_mask
from mrirecon.metrics.lesions import LesionScore

EVIL = "<script>window.bad=1</script><img src=x onerror='window.bad=2'>\"'&amp;{{7*7}}"


def unpack(plane, shape, earlier=()):
    """Decode an image pixel by pixel, as page/pixels.js."""
    raw = zlib.decompress(base64.b64decode(plane.data), -15)
    n = shape[0] * shape[1]
    folded = np.frombuffer(raw[:n], np.uint8).astype(int)
    if len(raw) == 2 * n:
        folded = folded + 256 * np.frombuffer(raw[n:], np.uint8).astype(int)
    rest = np.where(folded % 2 == 1, -(folded + 1) // 2, folded // 2).reshape(shape)
    if plane.predictor != MED:
        return earlier[plane.predictor - 1] + rest
    out = np.zeros((shape[0] + 1, shape[1] + 1), int)
    for y in range(shape[0]):
        for x in range(shape[1]):
            a, b, c = out[y + 1, x], out[y, x + 1], out[y, x]
            guess = sorted((a, b, a + b - c))[1]  # MED is a median
            out[y + 1, x + 1] = guess + rest[y, x]
    return out[1:, 1:]


@pytest.fixture(scope="module")
def head():
    """Return a reference of three slices, and noisy images of it with other scales."""
    y, x = np.mgrid[-1:1:40j, -1:1:36j]
    disc = (y**2 + x**2 < 0.6).astype(float) * (1 + 0.3 * np.cos(9 * y))
    reference = np.stack([disc, 0.8 * disc, 0.5 * disc]) + 1e-3
    rng = np.random.default_rng(0)
    noisy = [np.abs(reference + s * rng.normal(size=reference.shape)) for s in (0.02, 0.1)]
    return reference, 3.0 * noisy[0], 0.2 * noisy[1]


def case_of(head, name="one", **more):
    reference, good, poor = head
    results = [
        Result(m, v, compare(v, reference, prediction=f"{m}.h5", reference="full.h5", kind="images"), **more)
        for m, v in (("zero-filled", poor), ("cs", good))
    ]
    return Case(name, results, reference, "images")


class Texts(HTMLParser):
    """Collect the elements, attributes and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


# ---- pixels


@pytest.mark.parametrize("top", [1, 200, LARGEST])
def test_what_is_packed_is_unpacked(top):
    rng = np.random.default_rng(top)
    first = rng.integers(0, top + 1, (9, 13))
    second = np.clip(first + rng.integers(-1, 2, first.shape), 0, top)
    smooth = np.add.outer(np.arange(9), np.arange(13)) * top // 20
    for values in (first, smooth, np.zeros((9, 13), int)):
        np.testing.assert_array_equal(unpack(pack(values), values.shape), values)
    near = pack(second, [smooth, first])
    assert near.predictor == (2 if top > 1 else near.predictor), "a similar image predicts best"
    np.testing.assert_array_equal(unpack(near, second.shape, [smooth, first]), second)


def test_noise_is_measured_and_the_step_follows_it():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    disc = (y**2 + x**2 < 0.7) * (2.0 + np.cos(3 * x))
    noisy = np.abs(disc + 0.05 * rng.normal(size=disc.shape))
    assert noise_level(noisy, object_mask(noisy).numpy()) == pytest.approx(0.05, rel=0.1)
    fine, coarse = choose_depths(noisy[None], [])
    assert fine.step == pytest.approx(fine.white * fine.step / 256), "eight bits at least"
    assert coarse.step == pytest.approx(coarse.noise / 2)
    assert coarse.white * coarse.step == pytest.approx(3.1, rel=0.05)
    fine, coarse = choose_depths(disc[None], [])
    assert fine.step == coarse.step == pytest.approx(3 / 4096, rel=0.05), "twelve bits without noise"
    spike = disc.copy()
    spike[0, 0] = 1e6
    assert choose_depths(disc[None], [spike[None]])[0].step * LARGEST >= 1e6, "nothing is cropped"


def test_images_are_shown_in_one_scale(head):
    reference, good, _ = head
    scaled = scaled_to(good, reference)
    inside = object_mask(reference).numpy()
    assert np.abs(scaled - reference)[inside].max() < 0.1
    empty = good.copy()
    empty[1] = 0
    assert not scaled_to(empty, reference)[1].any()
    assert np.isfinite(scaled_to(empty, np.zeros_like(reference))).all()


def test_an_album_holds_the_values_to_half_a_step(head):
    album = pack_slices(case_of(head), Options(), full_images=True)
    planes = album.slices[1]["planes"]
    step, images = album.depth.step, []
    for predictor, data in planes:
        images.append(unpack(Plane(predictor, data), album.shape, images))
    wanted = [head[0], *(scaled_to(v, head[0]) for v in (head[2], head[1]))]
    for decoded, values in zip(images, wanted, strict=True):
        assert np.abs(decoded * step - values[1]).max() <= step / 2 + 1e-12
    assert album.columns == ["reference", "zero-filled", "cs"]


# ---- which slices, which cases


def test_slices_are_left_out_evenly_and_the_worst_last(head):
    reference, good, poor = (np.concatenate([v] * 4) for v in head)
    good, reference = good.copy(), np.abs(reference + 0.02 * np.random.default_rng(5).normal(size=reference.shape))
    good[7] += np.random.default_rng(0).random(good[7].shape)
    albums = [pack_slices(case_of((reference, good, poor), f"c{i}"), Options()) for i in range(3)]
    assert albums[0].start == 7
    total = sum(a.slice_size(i) for a in albums for i in range(12))
    choose_slices(albums, total)
    assert all(a.shown_slices == list(range(12)) for a in albums)
    choose_slices(albums, total - 1)
    assert all(a.shown_slices == list(range(12)) and a.fineness == 1 for a in albums), "steps become coarser first"
    coarse = sum(a.slice_size(i) for a in albums for i in range(12))
    assert coarse < total
    choose_slices(albums, 0.5 * coarse)
    assert {len(a.shown_slices) for a in albums} == {5}
    assert all(7 in a.shown_slices and a.shown_slices == sorted(a.shown_slices) for a in albums)
    choose_slices(albums, 1.5 * albums[0].slice_size(7))
    assert [a.shown_slices for a in albums] == [[7], [], []]


def test_the_worst_come_first(head):
    reference, good, poor = head
    better, worse = case_of((reference, good, poor)), case_of((reference, 0.5 * good + poor, poor))
    failed = Case("failed", [Result("cs", failure="it broke")])
    assert worst_first([better, worse, failed], "ssim") == [2, 1, 0]
    assert worst_first([better, worse], "nmse") == [1, 0]
    assert worst_slice(better, "ssim", 3) == min(
        range(3), key=lambda i: better.results[1].evaluation.slices[i]["ssim"]
    ), "zero filling is always the worst"
    assert worst_slice(failed, "ssim", 5) == 2


def test_tables_count_what_is_undefined_and_what_failed(head):
    reference, _good, poor = head
    equal = case_of((reference, reference, poor))
    cases = [equal, case_of(head), Case("x", [Result("cs", failure="no")])]
    rows = {r.method: r for r in method_rows(cases, ["zero-filled", "cs", "absent"], Options())}
    assert set(rows) == {"zero-filled", "cs"}
    cs = rows["cs"]
    assert (cs.failed, cs.summaries["psnr"].undefined, cs.summaries["psnr"].volumes) == (1, 1, 1)
    assert cs.summaries["ssim"].volumes == 2
    assert "ssim" in cs.best
    assert "ssim" not in rows["zero-filled"].best
    assert cs.seconds is None


# ---- charts


def test_box_plots_hold_quartiles_points_and_round_ticks():
    values = [(i, f"v{i}", v, [v - 0.1, v + 0.1, None]) for i, v in enumerate((1.0, 2.0, 3.0, 4.0, 20.0))]
    plot = box_plot("NMSE", {"a": values, "b": values[: LEAST - 1], "c": [(0, "v0", None, [])]})
    a, b, c = plot.boxes
    low, first, half, third, high = a.lines
    points = {p.case: p.y for p in a.points if p.large}
    assert half == pytest.approx(points[2])
    assert first == pytest.approx(points[1])
    assert third == pytest.approx(points[3])
    assert high == pytest.approx(points[3]), "the outlier is beyond the whisker"
    assert low == pytest.approx(points[0])
    assert points[4] < points[3], "dragging up increases the level"
    assert b.lines is None
    assert not c.points
    assert len(a.points) == 5 + 10
    assert all(float(t.text) == pytest.approx(float(f"{float(t.text):.2g}")) for t in plot.ticks)
    assert box_plot("SSIM", {"a": [(0, "v", None, [])]}) is None
    assert box_plot("SSIM", {"a": [(0, "v", 0.5, [0.5])]}).boxes[0].points, "a single value has an axis as well"


def test_line_plots_are_logarithmic_and_leave_zeros_out():
    plot = line_plot("error", {"cs": (1, [1.0, 0.1, 0.0, 0.01]), "none": (2, [0.0])})
    ((number, method, points, last),) = plot.curves
    y = [float(p.split(",")[1]) for p in points.split()]
    assert (number, method, last) == (1, "cs", 0.01)
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2)
    assert line_plot("error", {}) is None


# ---- the page


def write(tmp_path, cases, about=None, **options):
    done = write_report(tmp_path / "report.html", cases, about, **options)
    return done, (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_holds_scores_images_and_how_it_was_made(tmp_path, head):
    case = case_of(head, "knee 7", settings={"maps": "ESPIRiT", "lambda": [0.01, 0.02]}, stopped=["converged"] * 3)
    about = About("Two methods", command=["mrirecon", "report", "runs"], versions={"mrirecon": "9.9"}, notes=["seen"])
    done, page = write(tmp_path, [case], about)
    assert (done.cases, done.slices, done.shown, done.failed) == (1, 3, 3, 0)
    assert done.bytes == (tmp_path / "report.html").stat().st_size
    text = " ".join(Texts(page).texts)
    for part in ("Two methods", "knee 7", "mrirecon report runs", "9.9", "seen", "ESPIRiT", "0.01, 0.02", "converged"):
        assert part in text
    value = case.results[1].evaluation.mean["ssim"]
    assert f"{value:#.4g}" in text
    assert "not base a diagnosis" in text


def test_nothing_is_fetched(tmp_path, head):
    _, page = write(tmp_path, [case_of(head)])
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    tags = Texts(page)
    assert not {"iframe", "object", "embed", "base"} & set(tags.tags)
    assert {v for k, v in tags.attributes if k == "src"} == set()
    assert all(v.startswith(("#", "data:")) for k, v in tags.attributes if k == "href")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_names_are_inert(tmp_path, head):
    case = case_of(head, EVIL, notes=[EVIL], settings={"why": EVIL, "options": {EVIL: EVIL}}, stopped=[EVIL])
    results = [Result(EVIL, r.images, r.evaluation, notes=[EVIL], settings=r.settings) for r in case.results[:1]]
    results.append(Result("broken" + EVIL, failure=EVIL))
    about = About(EVIL, command=[EVIL], notes=[EVIL], settings={EVIL: EVIL})
    _, page = write(tmp_path, [Case(EVIL, results, case.reference, EVIL, notes=[EVIL])], about)
    tags = Texts(page)
    assert tags.tags.count("script") == 2, "the pictures and the script"
    assert "img" not in tags.tags
    assert not [k for k, _ in tags.attributes if k.startswith("on")]
    assert EVIL in tags.texts


def test_json_cannot_end_its_element():
    text = json_text({"a": "</script><!--<script>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--<script>&\u2028"}


def test_a_small_limit_leaves_slices_out_and_says_so(tmp_path, head):
    cases = [case_of([np.concatenate([v] * 10) for v in head], f"c{i}") for i in range(2)]
    whole, _ = write(tmp_path, cases)
    limit = 0.6 * whole.bytes
    less, page = write(tmp_path, cases, limit=limit)
    assert less.bytes < limit
    assert less.shown < less.slices == 60
    assert f"pictures of {less.shown} of 60 slices" in page


def test_results_have_names_of_their_own(tmp_path, head):
    with pytest.raises(InputError, match="two results have the name 'cs'"):
        write_report(tmp_path / "a.html", [Case("one", [Result("cs", head[1]), Result("cs", head[1])])])


def test_there_must_be_something_to_report(tmp_path):
    with pytest.raises(InputError, match="no cases to report"):
        write_report(tmp_path / "a.html", [])
    assert not list(tmp_path.iterdir())


def test_cases_without_reference_or_images_are_shown_as_they_are(tmp_path, head):
    cases = [Case("blind", [Result("cs", head[1])]), Case("lost", [Result("cs", failure="disk was full")])]
    done, page = write(tmp_path, cases)
    text = " ".join(Texts(page).texts)
    assert done.failed == 1
    assert "disk was full" in text
    assert "There are no images to show." in text
    assert "no reference" in text


def test_volumes_of_three_axes_are_cut_and_values_that_are_no_numbers_fail(head):
    reference, good = head[0][None], head[1][None]
    broken = good.copy()
    broken[0, 1, 20, 20] = np.nan
    masks = np.zeros((1, 3, 40, 36), bool)
    masks[..., ::2] = masks[..., 14:22] = True
    region = np.zeros(reference.shape, int)
    region[0, 1:3, 20:26, 15:21] = 1
    region[0, 1, 20:24, 21:24] = 1
    results = [Result("cs", good), Result("bad", broken)]
    album = pack_slices(Case("deep", results, reference, "images", masks, region), Options())
    assert album.columns == ["reference", "cs"]
    assert [one["name"] for one in album.slices] == [f"volume 1, slice {i}" for i in (1, 2, 3)]
    assert album.case.results[1].failure == "the images contain NaN or infinite values"
    assert album.lesions == {(0, 1): 1}, "the slice with the largest part of the lesion"
    assert album.sampling["mask"]["shape"] == [40, 36]
    assert len(album.sampling["line"]) == 36
    assert album.sampling["line"].argmax() == 18


def test_point_spread_of_planes(head):
    masks = np.random.default_rng(0).random((2, 40, 36)) < 0.3
    album = pack_slices(Case("flat", [Result("cs", head[1][:2])], masks=masks), Options())
    assert album.sampling["kinds"] == 2
    assert album.sampling["item"] == album.start
    predictor, data = album.sampling["spread"]["plane"]
    assert unpack(Plane(predictor, data), (40, 36))[20, 18] == 60, "the centre is 0 dB, 60 dB above the floor"
    assert "line" not in album.sampling


def test_lesions_that_can_be_seen_and_are_not_recovered_come_first():
    def lesion(label, recovery, cnr):
        return LesionScore(label, 1, 20, 5.0, 0.1, 0.1, recovery, 1.0, cnr)

    def result(method, *lesions):
        rows = [{"ssim": 0.9}]
        return Result(
            method, None, Evaluation("p", "r", "", (1, 8, 8), Options(), rows, [""], rows, [], [list(lesions)])
        )

    zero = result("zero-filled", lesion(1, 0.01, 3.0), lesion(2, 0.2, 3.0), lesion(3, 0.1, 0.2))
    cs = result("cs", lesion(1, 0.9, 3.0), lesion(2, 0.8, 3.0), lesion(3, -2.0, 0.2))
    case = Case("one", [zero, cs])
    rows = lesion_rows(case)
    assert [row.lesion for row in rows] == [(0, 2), (0, 1), (0, 3)], "zero filling and invisible lesions do not count"
    assert median_recoveries(case, rows) == [(2, pytest.approx(0.105)), (2, pytest.approx(0.85))]


def test_stopping_reasons_are_merged():
    texts = ["converged after 40 iterations", "converged after 9 iterations", "stopped at 100", "stopped at 100"]
    assert merge_texts(texts) == [("converged after 9 to 40 iterations", 2), ("stopped at 100", 2)]
    assert merge_texts([]) == []


def test_without_jinja_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match="not installed") as error:
        write_report(tmp_path / "a.html", [])
    assert "mrirecon[report]" in error.value.fix


def test_groups_have_tables_of_their_own(tmp_path, head):
    cases = [case_of(head, f"c{i}") for i in range(4)]
    cases = [
        Case(**{**vars(c), "group": g}) for c, g in zip(cases, ("10-fold", "4-fold", "10-fold", "4-fold"), strict=True)
    ]
    _, page = write(tmp_path, cases)
    text = [t.strip() for t in Texts(page).texts]
    assert text.index("4-fold") < text.index("10-fold") < text.index("c0"), "4 before 10"
    assert text.count("n = 2") == 2 * 2 * 3, "groups, methods, metrics"
    assert sorted(["10x", "4x", "b", "4.5x"], key=natural) == ["4x", "4.5x", "10x", "b"]
