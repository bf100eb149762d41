"""Test names of files: equal outputs, names that are not UTF-8, and existing files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrirecon.errors import UsageError
from mrirecon.io import read_image, safe_name, sidecar_path, write_image, write_kspace
from mrirecon.io.safe.manifest import verify
from mrirecon.io.safe.text import DEPTH, local, parse_json, portable, utf8
from mrirecon.reconstruction import batch
from mrirecon.reconstruction.batch import expand
from mrirecon.reconstruction.plan import Request

RSS = Request(method="rss")
LATIN = [b"caf\xe9.h5", b"caf\xe8.h5", "zo\u00eb.h5".encode(), b"plain.h5"]
IMAGES = ["caf%E8_rss.h5", "caf%E9_rss.h5", "plain_rss.h5", "zo\u00eb_rss.h5"]


def make(path: Path, items: int = 1, **attributes) -> Path:
    rng = np.random.default_rng(items)
    kspace = rng.normal(size=(items, 2, 24, 20)) + 1j * rng.normal(size=(items, 2, 24, 20))
    write_kspace(path, kspace.astype(np.complex64), attributes=attributes)
    return path


# Two files, one output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "request_"),
    [
        (("a*b.h5", "a?b.h5"), RSS),
        (("a\u0301.h5", "\u00e1.h5"), RSS),  # the same letter, composed and not
        ((f"{'x' * 199}a.h5", f"{'x' * 199}b.h5"), RSS),
        ((f"{'x' * 190}a.h5", f"{'x' * 190}b.h5"), Request()),  # cut by the longest name of a method
        (("a_b.h5", "ab.h5", "a-b.h5"), Request(method="rss", bids="out", contrast="T1w")),
        (("sub-1_task-a_T1w.h5", "sub-1_task-b_T1w.h5"), Request(method="rss", bids="out")),
        (("sub-1_x.h5", "sub-1_y.h5"), Request(method="rss", bids="out")),  # their headers say T1
    ],
)
def test_two_files_with_one_output_are_refused_before_anything_is_written(tmp_path, monkeypatch, names, request_):
    monkeypatch.chdir(tmp_path)
    for name in names:
        make(tmp_path / "in" / name, acquisition="AXT1")
    with pytest.raises(UsageError, match="two files have") as error:
        expand([Path("in")], Path("out"), request_)
    assert all(f"in/{name}" in str(error.value.why) for name in sorted(names)[:2])
    with pytest.raises(UsageError, match="two files have"):
        list(batch.run(sorted(Path("in").iterdir()), Path("out"), request_, overwrite=True))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("names", "request_"),
    [
        (("a_b.h5", "ab.h5", "a-b.h5"), RSS),
        (("sub-1_T1w.h5", "sub-1_T2w.h5", "sub-1_run-2_T1w.h5"), Request(method="rss", bids="out")),
    ],
)
def test_files_with_outputs_of_their_own_are_not(tmp_path, monkeypatch, names, request_):
    monkeypatch.chdir(tmp_path)
    for name in names:
        make(tmp_path / "in" / name)
    outcomes = list(batch.run(expand([Path("in")], Path("out"), request_), Path("out"), request_))
    assert len({path for o in outcomes for path in o.record["outputs"]}) == len(names)


def test_headers_tell_contrasts_apart_where_names_do_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, contrast in (("sub-1_x.h5", "AXT1"), ("sub-1_y.h5", "AXT2")):
        make(tmp_path / "in" / name, acquisition=contrast)
    asked = Request(method="rss", bids="out")
    assert len(expand([Path("in")], Path("out"), asked)) == 2
    (tmp_path / "in" / "sub-1_y.h5").write_bytes(b"still being copied")
    with pytest.raises(UsageError, match="two files have"):
        expand([Path("in")], Path("out"), asked)


def test_the_command_line_refuses_them_too(run, tmp_path):
    for name in ("a_b.h5", "ab.h5"):
        make(tmp_path / "in" / name)
    code, out, err = run("reconstruct", "in", "-m", "rss", "--bids", "out", "--contrast", "T1w", "--overwrite")
    assert (code, out) == (2, "")
    assert "in/a_b.h5 and in/ab.h5" in err
    assert not Path("out").exists()


def test_what_a_system_leaves_beside_files_is_no_scan(tmp_path):
    make(tmp_path / "a.h5")
    for name in ("._a.h5", "._b.h5"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    assert expand([tmp_path], tmp_path / "out") == [tmp_path / "a.h5"]


# What is there already ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "there"),
    [
        (["-o", "x.png"], "x_001.png"),
        (["-o", "x.cfl"], "x.hdr"),
        (["-o", "x.h5", "--save-iterates"], "x_iterates.h5"),
        (["-o", "x.h5"], "x.h5.json"),
    ],
)
def test_no_file_of_somebody_else_is_replaced(run, tmp_path, options, there):
    make(tmp_path / "a.h5", 2)
    Path(there).write_text("mine")
    code, _, err = run("reconstruct", "a.h5", "-m", "cs", "--set", "iterations=2", *options)
    assert code == 2
    assert there in err
    assert Path(there).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    assert run("reconstruct", "a.h5", "-m", "cs", "--set", "iterations=2", *options, "--overwrite")[0] == 0
    assert Path(there).read_bytes() != b"mine"


def test_what_a_killed_run_left_of_several_files_is_made_again(run, tmp_path):
    make(tmp_path / "a.h5", 3)
    again = ["reconstruct", "a.h5", "-m", "cs", "--set", "iterations=2"]
    assert run(*again, "-o", "x.png")[0] == 0
    Path("x_001.png").unlink()
    assert run(*again, "-o", "x.png")[0] == 0
    assert Path("x_001.png").exists()
    assert run(*again, "-o", "y.h5", "--save-iterates")[0] == 0
    Path("y.h5").unlink()
    Path("y.h5.json").unlink()
    assert run(*again, "-o", "y.h5", "--save-iterates")[0] == 0
    assert run(*again, "--seed", "1", "-o", "y.h5", "--save-iterates")[0] == 2


def test_iterates_are_no_scans(run, tmp_path):
    make(tmp_path / "in" / "a.h5")
    assert run("reconstruct", "in", "-m", "cs", "--set", "iterations=2", "--save-iterates", "-o", "in")[0] == 0
    assert expand([Path("in")], Path("out")) == [Path("in/a.h5")]


# Names of any bytes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def strange(tmp_path):
    """Small scans with names that are and are not UTF-8, and one that is none, in the folder `in`."""
    plain = make(tmp_path / "in" / "plain.h5")
    for name in LATIN[:-1]:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(plain.read_bytes())
    (tmp_path / "in" / os.fsdecode(b"bad\xff.h5")).write_bytes(b"not hdf5")
    for path in (tmp_path / "in").iterdir():
        os.utime(path, (1, 1))
    return tmp_path


def shell(folder, *arguments, **environment):
    command = [sys.executable, "-m", "mrirecon", *arguments]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, check=False)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [{"LC_ALL": "C.UTF-8"}, ASCII], ids=["utf-8", "ascii"])
def test_a_batch_with_such_names(strange, environment):
    done = shell(strange, "reconstruct", "in", "-m", "rss", "-o", "out", **environment)
    assert done.returncode == 4, done.stderr
    assert b"UNEXPECTED" not in done.stderr.upper()
    assert b"INTERNAL" not in done.stderr
    assert done.stdout.decode().split() == [f"out/{name}" for name in IMAGES]
    assert b"in/caf\xe9.h5: reconstructed by rss" in done.stderr
    assert "in/zo\u00eb.h5: reconstructed".encode() in done.stderr
    (line,) = (strange / "out" / "failed.jsonl").read_bytes().splitlines()
    assert os.fsencode(json.loads(line.decode())["file"]) == b"in/bad\xff.h5"
    told = json.loads((strange / "out" / "caf%E9_rss.h5.json").read_text(encoding="utf-8"))
    assert os.fsencode(told["input"]["file"]) == b"in/caf\xe9.h5"
    told = json.loads((strange / "out" / "zo\u00eb_rss.h5.json").read_text(encoding="utf-8"))
    assert told["input"]["file"] == "in/zo\u00eb.h5"
    assert told["outputs"][0]["file"] == "zo\u00eb_rss.h5"


def test_what_one_locale_made_another_finds_done(strange):
    (strange / "in" / os.fsdecode(b"bad\xff.h5")).unlink()
    assert shell(strange, "reconstruct", "in", "-m", "rss", "-o", "out", **ASCII).returncode == 0
    done = shell(strange, "reconstruct", "in", "-m", "rss", "-o", "out", "--json", LC_ALL="C.UTF-8")
    assert [r["finished"] for r in json.loads(done.stdout)["results"]] == [True] * 4
    done = shell(strange, "reconstruct", "in", "-m", "rss", "-o", "out", "--json", **ASCII)
    assert [r["outputs"][0] for r in json.loads(done.stdout)["results"]] == [f"out/{name}" for name in IMAGES]


def test_scores_tables_and_reports_of_such_names(run, strange):
    (strange / "in" / os.fsdecode(b"bad\xff.h5")).unlink()
    assert run("reconstruct", "in", "-m", "rss", "-o", "out")[0] == 0
    code, out, err = run("evaluate", "out", "in", "--csv", "s.csv", "--volumes", "v.csv", "--json")
    assert code == 0, err
    assert [os.fsencode(f["case"]) for f in json.loads(out)["files"]] == sorted(n.removesuffix(b".h5") for n in LATIN)
    for name in ("s.csv", "v.csv"):
        assert "caf%E9_rss.h5" in Path(name).read_text(encoding="utf-8")
    code, _, err = run("report", "out", "-r", "in", "-o", "r.html")
    assert code == 0, err
    page = Path("r.html").read_text(encoding="utf-8")
    assert "zo\u00eb" in page
    assert "caf\\udce9" in page


def test_a_manifest_with_such_names(strange):
    path = strange / "in" / os.fsdecode(LATIN[0])
    listed = subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout
    (strange / "SUMS").write_bytes(listed)
    assert verify(path, strange / "SUMS") == listed.split()[0].decode()


@pytest.mark.parametrize("raw", LATIN)
def test_text_keeps_the_bytes_of_a_name(raw):
    text = raw.decode("ascii", "surrogateescape")  # as Python holds it in an ASCII locale
    assert os.fsencode(local(portable(text))) == raw
    assert json.loads(utf8(json.dumps(text, ensure_ascii=False))) == portable(text)
    assert safe_name(text) == safe_name(portable(text))
    assert utf8("\ud800") == b"\\ud800", "no byte stands behind it"


def test_json_is_not_trusted():
    assert parse_json("[" * DEPTH + "]" * DEPTH)
    for text in ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), '{"a":' * 100_000 + "1" + "}" * 100_000, b"\xff", "{"):
        with pytest.raises(ValueError, match=r".+"):
            parse_json(text)


def test_a_sidecar_that_is_nested_deeply_is_nobodys(run, tmp_path):
    make(tmp_path / "a.h5")
    image = tmp_path / "out" / "a_rss.h5"
    write_image(image, np.ones((1, 24, 20), np.float32))
    sidecar_path(image).write_text('{"request":' * 5000 + "1" + "}" * 5000)
    code, _, err = run("reconstruct", "a.h5", "-m", "rss", "-o", "out")
    assert (code, "exists already" in err) == (2, True)
    assert read_image(image).max() == 1
    assert run("evaluate", "out", "out", "--metrics", "nmse")[0] == 0
    assert run("report", "out", "-o", "r.html")[0] == 0
