"""Test comparisons: a true difference is detected, a tie is not, and few subjects give no verdict."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from mrirecon.cli import main
from mrirecon.errors import InputError, UsageError
from mrirecon.evaluation import compare_runs, read_scores
from mrirecon.evaluation.paired import holm


def run(shift=0.0, subjects=12, volumes=2, noise=0.01, seed=0, metric="ssim"):
    """Return scores that vary much between subjects and little between runs."""
    level = np.random.default_rng(99).uniform(0.6, 0.95, subjects)
    rng = np.random.default_rng(seed)
    return {
        f"patient{i:02d}_study{v}.h5": {metric: float(level[i] + shift + noise * rng.normal())}
        for i in range(subjects)
        for v in range(volumes)
    }


def test_a_planted_difference_is_found_and_a_tie_is_not():
    differences = compare_runs({"a": run(0.02), "b": run(seed=1), "c": run(seed=2)}, ["ssim"])
    by = {(d.a, d.b): d for d in differences}
    assert by["a", "b"].verdict == "a is better on these 12 subjects"
    assert by["a", "c"].adjusted < 0.05
    assert by["a", "b"].mean == pytest.approx(0.02, abs=0.008)
    assert by["a", "b"].low < 0.02 < by["a", "b"].high
    assert by["a", "b"].effect > 0.8
    assert "no difference shown" in by["b", "c"].verdict
    assert all(d.subjects == 12 for d in differences), "two volumes of one subject count once"


def test_less_is_better_where_it_is():
    (difference,) = compare_runs({"a": run(0.05, metric="nmse"), "b": run(seed=1, metric="nmse")}, ["nmse"])
    assert difference.verdict.startswith("b is better")


def test_p_is_the_exact_test_s_and_holm_s():
    a, b = run(0.004, subjects=8, volumes=1), run(subjects=8, volumes=1, seed=1)
    (difference,) = compare_runs({"a": a, "b": b}, ["ssim"])
    d = np.array([a[k]["ssim"] - b[k]["ssim"] for k in a])
    assert difference.p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    # by hand: as many of the 2^8 signs give a rank sum as far from its middle
    ranks = stats.rankdata(np.abs(d))
    sums = [(ranks * [(i >> k) & 1 for k in range(8)]).sum() for i in range(256)]
    here = ranks[d > 0].sum()
    assert difference.p == pytest.approx(np.mean([abs(s - 18) >= abs(here - 18) for s in sums]))
    assert difference.effect == pytest.approx((here - ranks[d < 0].sum()) / 36)
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)


@pytest.mark.parametrize("subjects", [1, 2, 5])
def test_few_subjects_get_no_verdict(subjects):
    (difference,) = compare_runs({"a": run(0.1, subjects), "b": run(0, subjects, seed=1)}, ["ssim"])
    assert difference.p is None
    assert difference.adjusted is None
    assert "no verdict" in difference.verdict
    assert len(difference.each) == subjects
    assert (difference.low is None) == (subjects < 3)


def test_too_few_persons_for_so_many_tests_get_no_verdict():
    runs = {n: run(0.05 * i, subjects=8, volumes=1, seed=i) for i, n in enumerate("abcd")}
    differences = compare_runs(runs, ["ssim"])
    assert len(differences) == 6
    assert min(d.adjusted for d in differences) == pytest.approx(12 / 256)
    more = {n: {f: {**v, "psnr": v["ssim"]} for f, v in r.items()} for n, r in runs.items()}
    differences = compare_runs(more, ["ssim", "psnr"])
    assert {d.verdict for d in differences} == {"no verdict: 8 subjects are too few for 12 tests at once"}


def test_planned_pairs_are_adjusted_for_themselves_alone():
    runs = {n: run(0.05 * i, subjects=8, volumes=1, seed=i) for i, n in enumerate("abcd")}
    differences = compare_runs(runs, ["ssim"], pairs=[("d", "a"), ("b", "c")])
    assert [(d.a, d.b) for d in differences] == [("d", "a"), ("b", "c")]
    assert [d.adjusted for d in differences] == pytest.approx([2 * 2 / 256] * 2)
    assert [d.verdict[:9] for d in differences] == ["d is bett", "c is bett"]
    (turned,) = compare_runs(runs, ["ssim"], pairs=[("d", "a")], higher={"ssim": False})
    assert turned.verdict.startswith("a is better")


def test_of_a_hundred_ties_few_are_called_a_difference():
    """Check that Holm limits false positives to 5 % of comparisons of three equal runs."""
    claimed = 0
    for study in range(200):
        runs = {n: run(seed=3 * study + i, subjects=10, volumes=1) for i, n in enumerate("abc")}
        claimed += any("better" in d.verdict for d in compare_runs(runs, ["ssim"]))
    assert claimed / 200 <= 0.08


def test_what_is_missing_is_left_out_and_counted():
    a, b = run(0.02), run(seed=1)
    for name in ("patient03_study0.h5", "patient03_study1.h5"):
        b[name] = {"ssim": None}
    del a["patient05_study0.h5"], a["patient05_study1.h5"]
    (difference,) = compare_runs({"a": a, "b": b}, ["ssim"])
    assert (difference.subjects, difference.left_out) == (10, 2)
    (same,) = compare_runs({"a": b, "b": dict(b)}, ["ssim"])
    assert same.verdict == "equal for every subject"
    with pytest.raises(InputError, match="no subject in common"):
        compare_runs({"a": {"patient01": {"ssim": 1.0}}, "b": {"patient02": {"ssim": 1.0}}}, ["ssim"])
    with pytest.raises(UsageError, match="two runs"):
        compare_runs({"a": a}, ["ssim"])


@pytest.mark.parametrize(("expression", "word"), [("patient[0-9]+", "no group"), ("(", "not a regular expression")])
def test_an_expression_that_names_nobody_is_refused(expression, word):
    """Check that an expression without a group is refused, because it would count every file as a subject."""
    runs = {"a": run(0.1), "b": run()}
    with pytest.raises(UsageError, match=word) as caught:
        compare_runs(runs, ["ssim"], subject=expression)
    if word == "no group":
        assert caught.value.fix.endswith("(patient[0-9]+)")


def test_runs_of_different_definitions_are_not_compared(tmp_path, capfd):
    for name, preset in (("a", "fastmri"), ("b", "mrirecon"), ("c", "fastmri")):
        files = [{"case": f"sub-{n}", "prediction": f"sub-{n}_cs.h5", "mean": {"ssim": 0.5 + n / 9}} for n in range(3)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"preset": preset, "files": files}))
    for other, code in (("b", 2), ("c", 0)):
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(tmp_path / "a.json"), str(tmp_path / f"{other}.json"), "--metrics", "ssim"])
        assert ended.value.code == code
        assert ("a by fastmri, b by mrirecon" in capfd.readouterr().err) == (code == 2)


def test_a_run_is_read_from_an_evaluation(tmp_path):
    content = {"files": [{"prediction": "x/patient1.h5", "mean": {"ssim": 0.5}}]}
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_scores(tmp_path / "run.json")[0] == {"patient1": {"ssim": 0.5}}
    twice = json.dumps({"files": [*content["files"], {"prediction": "y/patient1.nii", "mean": {"ssim": 0.4}}]})
    numbers = [json.dumps(content).replace("0.5", wrong) for wrong in ('"0.5"', "NaN", "Infinity", "true", "[1]")]
    for wrong in ("", "[]", '{"files": [{"mean": 3}]}', twice, *numbers, "[" * 9999):
        (tmp_path / "run.json").write_text(wrong)
        with pytest.raises(InputError, match="not an evaluation"):
            read_scores(tmp_path / "run.json")[0]
