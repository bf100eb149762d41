"""Test faults of the machine and of privacy (rows R)."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from io import BytesIO, TextIOWrapper
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon import io
from mrirecon.cli import main
from mrirecon.errors import ResourceError
from mrirecon.io.safe import atomic
from tests.faults.conftest import scan_file
from tests.faults.rows import row
from tests.io import test_io_hostile as hostile
from tests.io.test_io_hostile import random

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
WRITE = """
import sys, numpy as np
from mrirecon import io
from mrirecon.errors import MriReconError
try:
    io.write_image(sys.argv[1], np.random.default_rng(0).random((4, 64, 64)), sidecar={}, keep_complex=True)
except MriReconError as error:
    print(error.exit_code, error.why, "|", error.fix)
"""


def python(code: str, *arguments: object, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    more = {"env": ENVIRONMENT, **more}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def in_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script where it may mount file systems that nobody else sees; skip where that is not allowed."""
    probe = ["unshare", "-rm", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a small disk: unshare -rm")
    command = ["unshare", "-rm", "sh", "-ec", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT)


@row("R03", ["ENOSPC", "EROFS", "EDQUOT", "EIO", pytest.param("ENOSPC reconstruct", marks=pytest.mark.slow)])
def test_disk_that_fails(good, tmp_path, monkeypatch, case):
    """A real small disk, a real read-only one; the other two by the number that the kernel would give."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if case in ("EDQUOT", "EIO"):
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(getattr(errno, case), "injected")))
        with pytest.raises(ResourceError) as caught:
            io.write_image(disk / "x.h5", np.ones((1, 8, 8)))
        assert caught.value.exit_code == 5
        assert caught.value.why == os.strerror(getattr(errno, case))
        assert list(disk.iterdir()) == []
        return
    if case == "EROFS":
        mount = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"'
    else:
        mount = 'mount -t tmpfs -o size=64k tmpfs "$1"'
    if case == "ENOSPC reconstruct":
        scan = scan_file(tmp_path / "k.h5", 2, 2, 96, 96)
        run = f'{sys.executable} -m mrirecon reconstruct "{scan}" -m rss -o "$1/x.h5" || echo $?'
        done = in_namespace(f'{mount}; {run}; ls -A "$1"', disk)
        assert done.stdout.split() == ["5"], done.stderr
        assert "No space left on device" in done.stderr
        assert "free some space" in done.stderr
        return
    done = in_namespace(f'{mount}; {sys.executable} -c \'{WRITE}\' "$1/x.h5"; ls -A "$1"', disk)
    words = {"ENOSPC": "5 No space left on device | free some space", "EROFS": "5 Read-only file system | the disk is"}
    assert done.stdout.startswith(words[case]), done.stderr
    assert len(done.stdout.splitlines()) == 1, "nothing is left"


LITTLE = """
import resource, sys
import torch, numpy
from mrirecon.reconstruction import file, run
from mrirecon.cli import main
numpy.linalg.eigvalsh(numpy.eye(300))  # OpenBLAS takes its buffers once, and where it cannot, ends the process
if sys.argv[1] != "-":
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[1]) << 20),) * 2)
main(sys.argv[2:])
"""


@row("R04")
def test_memory_that_runs_out(tmp_path, case):
    """A real limit. (A batch is halved: test_checkpoints.py. Killed workers: R05 in test_training.py, F17 here.)"""
    scan = scan_file(tmp_path / "k.h5", 1, 8, 512, 512)
    done = python(LITTLE, 60, "reconstruct", scan, "-m", "cs", "-o", tmp_path / "x.h5")
    assert done.returncode == 5, done.stderr
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.h5").exists()


LEAK = """
import statistics, sys
from mrirecon import io
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def look():
    scan = io.read(sys.argv[1])
    scan.kspace(0), scan.attributes, scan.reference
for _ in range(300):
    look()
seen = [resident()]
for _ in range(10):
    for _ in range(int(sys.argv[2]) // 10):
        look()
    seen.append(resident())
# Memory grows in steps, as an allocator takes it; what leaks grows all the time.
print(statistics.median(b - a for a, b in zip(seen, seen[1:])) * 10 / int(sys.argv[2]))
"""


@row("R07", ["300", pytest.param("10000", marks=pytest.mark.slow)])
def test_memory_that_leaks(tmp_path, case):
    path = scan_file(tmp_path / "k.h5", 1, 2, 32, 32, attributes={"acquisition": "AXT2", "max": 1.0}, maps=None)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = np.ones((1, 32, 32), np.float32)
        file["ismrmrd_header"] = hostile.HEADER
    done = python(LEAK, path, case)
    assert float(done.stdout) < 1024, f"bytes a file: {done.stdout}{done.stderr}"


@row("R12", ["dumb terminal", "head", "closed stdout", "ascii", "cwd deleted", "no home"])
def test_surroundings(tmp_path, monkeypatch, case):
    if case == "ascii":
        screen = TextIOWrapper(BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", screen)
        with pytest.raises(SystemExit) as ended:
            main(["info", str(ROOT / "data_samples" / "brain_4x.h5")])
        assert ended.value.code == 0
        screen.flush()
        assert "176×21 calibration region".encode() in screen.buffer.getvalue()
        return
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = dict(ENVIRONMENT)
    command = f"{sys.executable} -m mrirecon doctor --json"
    if case == "dumb terminal":
        environment |= {"TERM": "dumb", "COLUMNS": "10"}
        command = command.replace("doctor --json", "reconstruct --help")
    elif case == "head":
        command += " | head -1; exit ${PIPESTATUS[1]}"
    elif case == "closed stdout":
        command += " >&-"
    elif case == "cwd deleted":
        command = f"cd {gone}; rmdir {gone}; {command}"
    else:
        environment |= {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "XDG_CONFIG_HOME": "/proc/1"}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if case == "cwd deleted":
        assert done.returncode == 5
        assert "cd FOLDER" in done.stdout
        return
    assert done.returncode in ((0, 1) if "doctor" in command else (0,)), done.stderr
    assert case == "closed stdout" or done.stdout


@row("R13", ["clock", "no locks", "locks"])
def test_clocks_and_file_systems(cli, good, tmp_path, monkeypatch, case):
    if case == "clock":
        future = time.time() + 1e8
        os.utime(good, (future, future))
        with io.atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("")
            left = temporary.with_name(temporary.name.replace(f"-{os.getpid()}-", "-999999999-"))
        left.write_text("of a process that is gone, or whose clock was wrong")
        os.utime(left, (future, future))
        assert cli("reconstruct", good, "-m", "rss", "-o", tmp_path / "x.h5")[0] == 0
        assert left.exists(), "younger than now: it may be in use"
        os.utime(left, (0, 0))
        atomic._CLEANED.clear()  # as in a process that starts later
        assert cli("reconstruct", good, "-m", "rss", "-o", tmp_path / "y.h5")[0] == 0
        assert not left.exists()
    else:
        code = "import sys; from mrirecon import io; print(io.read(sys.argv[1]).kspace(0).shape)"
        environment = {**ENVIRONMENT, "HDF5_USE_FILE_LOCKING": "FALSE" if case == "no locks" else "TRUE"}
        done = python(code, good, env=environment)
        assert done.stdout == "(2, 32, 32)\n", done.stderr


@row("R15", ["zero reference", "identical", "NaN", "shapes", "missing pair", "zero prediction"])
def test_scores_that_are_not_defined(cli, tmp_path, case):
    """Null, the reason and a count, and no mean of NaN or infinity; of many files, some that cannot be compared: 4."""
    rng = np.random.default_rng(0)
    truth = rng.random((3, 24, 24)).astype(np.float32) + 1
    image = truth + 0.1 * rng.random((3, 24, 24)).astype(np.float32)
    if case == "zero reference":
        truth[1] = 0
    elif case == "zero prediction":
        image[1] = 0
    elif case == "identical":
        image = truth
    elif case == "NaN":
        image[0, 3, 4] = np.nan
    elif case == "shapes":
        image = image[:, :20]
    for folder, values in (("ours", image), ("theirs", truth)):
        Path(folder).mkdir()
        np.savez(f"{folder}/a.npz", reconstruction=values)
        np.savez(f"{folder}/b.npz", reconstruction=truth + 0.1 if folder == "ours" else truth)
    if case == "missing pair":
        Path("theirs/b.npz").unlink()
    code, out, err = cli("evaluate", "ours", "theirs", "--json")
    # An error may follow. NaN and Infinity are no JSON, though Python reads them.
    report = json.JSONDecoder(parse_constant=lambda name: pytest.fail(f"{name} in JSON")).raw_decode(out)[0]
    # Undefined scores, failed comparisons and unmatched files give exit code 4.
    assert code == (0 if case in ("zero reference", "zero prediction") else 4), err
    if case == "missing pair":
        assert report["without reference"] == ["ours/b.npz"]
    elif case in ("NaN", "shapes"):
        assert len(report["failed"]) == 1
        assert len(report["files"]) == 1
    else:
        first = report["files"][0]
        psnr = [one["psnr"] for one in first["slices"]]
        undefined = {"zero reference": 1, "zero prediction": 1, "identical": 3}[case]
        assert psnr.count(None) == first["undefined"]["psnr"] == undefined or case == "zero prediction"
        reasons = [one["reason"] for one in first["slices"]]
        assert sum(r is not None for r in reasons) == undefined or case == "zero prediction"


@row("R16", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)"])
def test_formulas_in_tables(cli, case):
    """A file may be called anything; a spreadsheet must not run it. (HTML: with the report.)"""
    name = case.replace("/", "_")
    for seed, folder in enumerate(("ours", "theirs")):
        Path(folder).mkdir()
        np.savez(f"{folder}/{name}.npz", reconstruction=np.random.default_rng(seed).random((2, 24, 24)))
    assert cli("evaluate", "ours", "theirs", "--csv", "slices.csv", "--volumes", "volumes.csv")[0] == 0
    for table in ("slices.csv", "volumes.csv"):
        rows = list(csv.DictReader(Path(table).read_text().splitlines()))
        assert rows
        for one in rows:
            assert one["file"] == f"'{name}.npz"
            assert not any(cell.startswith(("=", "+", "@")) for cell in one.values())


@row("R17", ["h5", "npz", "errors"])
def test_who_was_scanned(cli, tmp_path, case):
    """Neither what is printed nor any file that is written tells who was scanned."""
    folder = tmp_path / "in"
    folder.mkdir()
    kspace = random(1, 2, 24, 20)
    if case == "npz":
        path = folder / "k.npz"
        np.savez(path, kspace=kspace, axes="slice,coil,y,x", meta=json.dumps({"PatientName": "DOE^JANE"}))
    else:
        path = folder / "k.h5"
        if case == "errors":
            kspace[0, 0, 0, 0] = np.nan
        with h5py.File(path, "w") as file:
            file["kspace"], file["ismrmrd_header"] = kspace, hostile.HEADER
            file.attrs["patient_id"], file.attrs["acquisition"] = "SECRET-8", "AXT2"
            file.attrs["PatientBirthDate"] = "19991231"
    shown = []
    for arguments in (
        ("info", path),
        ("info", path, "--json", "--check"),
        ("reconstruct", path, "-m", "sense", "--maps", "unit", "-o", "out.h5", "--reference", path),
        ("reconstruct", path, "-m", "rss", "-o", "again", "--json"),
        ("calibrate", path, "-o", "maps.h5"),
        ("evaluate", "out.h5", path, "--csv", "scores.csv"),
        ("masks", "apply", path, "--mask", "mask.npy", "-o", "less.h5"),
    ):
        np.save("mask.npy", np.arange(20) % 2 == 0)
        shown += cli(*arguments)[1:]
    shown += [p.read_bytes().decode("latin-1") + str(p) for p in Path().rglob("*") if p.is_file()]
    assert len(shown) > 14
    for secret in ("SECRET", "DOE", "JANE", "1999-12", "19991231"):
        assert not any(secret in text for text in shown), secret
