"""Test the command line as a user runs it: every command and exit code, stdout separate from stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon.cli import as_known
from mrirecon.cli.console import table
from mrirecon.errors import ResourceError
from mrirecon.io import read_array, read_image, write_kspace

SAMPLES = Path(__file__).parents[2] / "data_samples"
FULL, TWIN = SAMPLES / "brain_full.h5", SAMPLES / "brain_4x.h5"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small undersampled scan, quick to reconstruct."""
    with h5py.File(FULL) as file:
        kspace = file["kspace"][:2, :4, 56:120, 40:104]
    mask = np.zeros(64)
    mask[::3] = mask[26:38] = 1
    path = tmp_path_factory.mktemp("small") / "small.h5"
    write_kspace(path, kspace * mask, mask=mask)
    return path


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from mrirecon.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'scipy', 'sigpy', 'skimage', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "reconstruct" in done.stdout


def test_no_arguments_show_the_help(run):
    code, out, err = run()
    assert code == 2
    assert "Commands" in out + err


def test_version(run):
    from mrirecon import __version__

    assert run("--version") == (0, f"{__version__}\n", "")


def test_reconstruct_chooses_and_says_why(run, small):
    code, out, err = run("reconstruct", small)
    assert code == 0
    assert out == "small_cs.h5\n", "stdout holds the outputs alone"
    assert "by cs" in err
    assert "calibration region" in err
    assert read_image("small_cs.h5").shape == (2, 64, 64)
    sidecar = json.loads(Path("small_cs.h5.json").read_text())
    assert sidecar["method"] == "cs"
    assert sidecar["lambda"] == pytest.approx(sidecar["lambda"][:1] * 2, rel=0.5), "each by its own noise"
    assert {"versions", "seconds", "seed", "maps", "command", "stopped", "input"} <= set(sidecar)


def test_reconstruct_does_not_replace_unless_told(run, small):
    run("reconstruct", small, "-o", "a.h5", "-m", "zero-filled")
    before = Path("a.h5").read_bytes()
    code, _, err = run("reconstruct", small, "-o", "a.h5", "-m", "sense")
    assert code == 2
    assert "--overwrite" in err
    assert Path("a.h5").read_bytes() == before
    assert run("reconstruct", small, "-o", "a.h5", "-m", "sense", "--overwrite")[0] == 0
    assert Path("a.h5").read_bytes() != before


def test_reconstruct_never_replaces_its_input(run, small):
    before = small.read_bytes()
    code, _, err = run("reconstruct", small, "-o", small, "--overwrite")
    assert code == 2
    assert "input" in err
    assert small.read_bytes() == before


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl", "png"])
def test_reconstruct_formats(run, small, suffix):
    code, out, _ = run("reconstruct", small, "-m", "zero-filled", "--format", suffix)
    assert code == 0
    names = out.split()
    assert names
    assert all((Path(name).stat().st_size > 0 and f".{suffix}" in name) or ".hdr" in name for name in names)


def test_reconstruct_as_json_with_scores(run):
    code, out, _ = run("reconstruct", TWIN, "-m", "sense", "--reference", FULL, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["failed"] == []
    mean = told["results"][0]["scores"]["mean"]
    assert mean["ssim"] > 0.8
    assert mean["psnr"] > 25
    assert len(told["results"][0]["scores"]["slices"]) == 3


def test_dry_run_writes_nothing(run, small):
    code, out, err = run("reconstruct", small, "--dry-run", "-o", "x.h5")
    assert (code, out) == (0, "x.h5\n")
    assert "would reconstruct by cs" in err
    assert list(Path().iterdir()) == []


def test_options_reach_the_method(run, small):
    code, out, _ = run(
        "reconstruct", small, "-m", "cs", "--lambda", "1e-3", "--set", "iterations=3", "--set", "tolerance=0", "--json"
    )
    assert code == 0
    told = json.loads(out)["results"][0]
    assert told["lambda"] == [0.001, 0.001]
    assert told["options"] == {"iterations": 3, "tolerance": 0}
    assert all("3" in reason for reason in told["stopped"])


def test_maps_from_calibrate_serve_reconstruct(run, small):
    code, out, _ = run("calibrate", small, "-o", "maps.h5")
    assert (code, out) == (0, "maps.h5\n")
    assert read_array("maps.h5", ("maps",)).shape == (2, 1, 4, 64, 64)
    code, _, err = run("reconstruct", small, "-m", "sense", "--maps", "maps.h5")
    assert code == 0
    assert "maps: file" in err
    assert run("calibrate", small, "-o", "maps.h5")[0] == 2, "it exists"


@pytest.mark.parametrize("source", ["sigpy", "unit", "espirit"])
def test_map_sources(run, small, source):
    code, _, err = run("reconstruct", small, "-m", "sense", "--maps", source)
    assert code == 0
    assert source in err.lower()


def test_two_sets_of_maps(run, small):
    assert run("reconstruct", small, "-m", "sense", "--map-sets", "2")[0] == 0


def test_a_second_opinion(run, small):
    code, _, err = run("reconstruct", small, "-m", "sigpy-cs", "--set", "iterations=5")
    assert code == 0
    assert "sigpy-cs" in err


def test_mask_undersamples_a_full_scan(run):
    assert run("masks", "make", "poisson", "--shape", "176x144", "-R", 4, "--calibration", 20, "-o", "mask.npy")[0] == 0
    code, out, _ = run("reconstruct", FULL, "--mask", "mask.npy", "-m", "zero-filled", "--reference", FULL, "--json")
    assert code == 0
    assert 0.5 < json.loads(out)["results"][0]["scores"]["mean"]["ssim"] < 0.95


def test_axes_also_name_those_of_the_reference(run):
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(3, 12, 14, 16)) + 1j * rng.normal(size=(3, 12, 14, 16))
    mask = rng.random((14, 16)) < 0.5
    mask[3:11, 4:12] = True
    np.savez("full.npz", kspace=kspace)
    np.savez("twin.npz", kspace=kspace * mask)
    code, out, err = run(
        "reconstruct", "twin.npz", "--axes", "coil,z,y,x", "-m", "sense", "--reference", "full.npz", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["results"][0]["scores"]["slices"]) == 12


def test_several_files_go_into_a_folder_and_one_failure_does_not_stop_the_others(run, small):
    Path("bad.h5").write_bytes(b"not hdf5")
    code, out, err = run("reconstruct", "bad.h5", small, "-o", "out", "-m", "rss")
    assert code == 4
    assert out == "out/small_rss.h5\n"
    assert "bad.h5" in err
    assert "1 of 2" in err
    code, out, _ = run("reconstruct", "bad.h5", small, "-o", "out", "-m", "rss", "--overwrite", "--json")
    told = json.loads(out)
    assert (code, len(told["results"]), len(told["failed"])) == (4, 1, 1)
    assert run("reconstruct", "bad.h5", small, "-o", "one.h5")[0] == 2
    assert run("reconstruct", small, small, "-o", "out")[0] == 2, "they would overwrite each other"


def test_a_folder_stands_for_its_files(run, small):
    code, out, _ = run("reconstruct", small.parent, "-m", "rss", "-o", "out")
    assert (code, out) == (0, "out/small_rss.h5\n")
    Path("empty").mkdir()
    assert run("reconstruct", "empty")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["reconstruct", "nothing.h5"], 3, "nothing.h5"),
        (["reconstruct", TWIN, "-m", "css"], 2, "did you mean 'cs'"),
        (["reconstruct", TWIN, "--metod", "cs"], 2, "--method"),
        (["reconstruct", TWIN, "--set", "iteratons=3", "-m", "cs"], 2, "iterations"),
        (["reconstruct", TWIN, "--set", "iterations=many", "-m", "cs"], 2, "iterations"),
        (["reconstruct", TWIN, "--set", "iterations"], 2, "key=value"),
        (["reconstruct", TWIN, "--lambda", "much"], 2, "--lambda"),
        (["reconstruct", TWIN, "--lambda", "-1", "-m", "cs"], 2, "lam"),
        (["reconstruct", TWIN, "--lambda", "nan", "-m", "cs"], 2, "lam"),
        (["reconstruct", TWIN, "--lambda", "1", "-m", "rss"], 2, "no regularization weight"),
        (["reconstruct", TWIN, "--format", "jpeg"], 2, "'h5', 'npz', 'cfl', 'nii', 'dicom', 'png'"),
        (["reconstruct", TWIN, "--device", "cuda:77"], 2, "--device cpu"),
        (["reconstruct", TWIN, "--maps", "nothing.h5"], 3, "nothing.h5"),
        (["reconstruct", TWIN, "--maps", "file"], 3, "no coil maps"),
        (["reconstruct", TWIN, "--reference", TWIN, "-m", "rss"], 3, "undersampled"),
        (["reconstruct", TWIN, "--axes", "slice,coil"], 2, "axes"),
        (["info", "nothing.h5"], 3, "nothing.h5"),
        (["evaluate", TWIN, FULL], 3, "brain_4x.h5"),
        (["calibrate", "nothing.h5", "-o", "m.h5"], 3, "nothing.h5"),
        (["benchmark", "fft"], 2, "espirit"),
        (["selftest", "--device", "abacus"], 2, "abacus"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_errors_name_the_thing_and_what_to_do(run, arguments, code, word):
    found, out, err = run(*arguments)
    assert found == code, err
    assert out == ""
    # lines of progress come before it on a slow machine
    assert any(line.startswith("error MRI-E-") for line in err.splitlines())
    assert word in err
    assert "fix:" in err
    assert "Traceback" not in err
    found, out, _ = run(*arguments, "--json")
    if found == code and out:
        assert json.loads(out)["error"]["exit_code"] == code


def test_unsafe_files_are_refused(run):
    with h5py.File("link.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink("/etc/passwd", "kspace")
    code, _, err = run("reconstruct", "link.h5")
    assert code == 6
    assert "MRI-E-UNSAFE" in err


def test_empty_and_broken_values(run):
    write_kspace("zero.h5", np.zeros((1, 2, 32, 32), np.complex64))
    assert run("reconstruct", "zero.h5")[0] == 3
    kspace = np.random.default_rng(0).normal(size=(1, 2, 32, 32)).astype(np.complex64)
    kspace[0, 0, 3, 4] = np.nan
    np.savez("nan.npz", kspace=kspace)
    code, _, err = run("reconstruct", "nan.npz", "--axes", "slice,coil,y,x")
    assert code == 3
    assert "nan.npz" in err


def test_traceback_on_request_and_quiet(run, small):
    _, _, err = run("reconstruct", "nothing.h5", "--traceback")
    assert "Traceback" in err
    code, out, err = run("-q", "reconstruct", small, "-m", "rss")
    assert (code, err) == (0, "")
    assert out == "small_rss.h5\n"


def test_faults_of_ours_are_told_from_the_users():
    assert as_known(KeyError("x")) is None
    assert isinstance(as_known(MemoryError()), ResourceError)
    assert isinstance(as_known(OSError(28, "No space left on device", "x.h5")), ResourceError)
    assert as_known(PermissionError(13, "Permission denied", "x.h5")).exit_code == 3


def test_an_unexpected_error_says_so(run, monkeypatch):
    import mrirecon.tools.selftest

    def broken(device):
        raise KeyError(device)

    monkeypatch.setattr(mrirecon.tools.selftest, "selftest", broken)
    code, _, err = run("selftest")
    assert code == 1
    assert "bug in mrirecon" in err
    assert "--traceback" in err
    assert "Traceback" not in err


def test_info(run):
    code, out, _ = run("info", TWIN)
    assert code == 0
    for word in ("coil 8", "4.00-fold", "calibration", "reconstruct by cirim"):
        assert word in out
    one = json.loads(run("info", TWIN, "--json")[1])
    assert one["shape"] == {"slice": 3, "coil": 8, "y": 176, "x": 144}
    assert len(json.loads(run("info", TWIN, FULL, "--json")[1])) == 2


def test_methods_lists_what_is_registered(run):
    from mrirecon.methods.registry import methods

    _, out, _ = run("methods")
    assert set(methods()) <= {line for line in out.splitlines() if not line.startswith(" ")}
    listed = json.loads(run("methods", "--json")[1])
    assert {m["name"] for m in listed} == set(methods())


def test_demo_simulates_its_own_scan(run):
    code, out, _ = run("demo", "-o", "demo")
    assert code == 0
    for word in ("zero-filled", "sense", "cs", "comparison.png"):
        assert word in out
    assert Path("demo/comparison.png").stat().st_size > 10_000


def test_benchmark_runs_small(run):
    arguments = ("benchmark", "espirit", "--size", 96, "--coils", 4, "--rounds", 1, "--threads", 1, "--json")
    code, out, _ = run(*arguments)
    assert code == 0
    assert json.loads(out)[0]["ours_s"] > 0


def test_table_aligns():
    text = table(("name", "n"), [["a", 1.0], ["long", None]])
    assert text.splitlines() == ["name  n", "----  -", "a     1", "long  -"]


def start(arguments, **more):
    command = [sys.executable, "-m", "mrirecon", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing_behind(tmp_path, number, code):
    arguments = ["reconstruct", FULL, "-m", "cs", "--maps", "unit", "-o", tmp_path / "out" / "x.h5"]
    process = start([*arguments, "--set", "iterations=100000", "--set", "tolerance=0"])
    time.sleep(6)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "no incomplete files remain" in err
    assert not (tmp_path / "out").exists()


def test_a_closed_pipe_is_quiet():
    with start(["info", TWIN, "--json"]) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in err
    assert "Broken" not in err


def test_no_color_codes_in_a_pipe(small, tmp_path):
    process = start(["reconstruct", small, "-o", tmp_path / "x.h5"], env={**os.environ, "FORCE_COLOR": ""})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\x1b" not in out + err
