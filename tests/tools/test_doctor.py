"""What `mrirecon doctor` finds: on this machine, and on one with faults (M12)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrirecon.cli import main
from mrirecon.models.hardware import usable_cores
from mrirecon.tools import doctor
from mrirecon.tools.doctor import examine, usable_memory


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretend that a version of a package is installed, by the metadata that pip would leave."""

    def put(name: str, version: str) -> None:
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return put


def found(name: str) -> doctor.Finding:
    return next(f for f in examine() if f.name == name)


def test_this_machine_can_be_looked_at(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    told = json.loads(capfd.readouterr().out)
    assert ended.value.code == (0 if told["ok"] else 1)
    names = {f["name"] for f in told["findings"]}
    assert {"python", "versions", "compromised packages", "cores", "disk here", "file locking", "BART", "GPU"} <= names
    assert {"extra train", "extra tensorboard"} <= names
    assert all(f["fix"] for f in told["findings"] if f["verdict"] == "bad")


def test_it_imports_nothing_heavy():
    code = (
        "import sys; from mrirecon.cli import main\n"
        "try: main(['doctor'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'scipy', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GPU" in done.stdout


@pytest.mark.parametrize(("name", "version"), [("lightning", "2.6.2"), ("lightning", "2.6.3"), ("lightning", "2.6.4")])
def test_malicious_uploads(installed, capfd, name, version):
    installed(name, version)
    one = found("compromised packages")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    if version == "2.6.4":
        assert one.verdict == "ok"
        return
    assert ended.value.code == 1
    assert (one.verdict, version in one.message) == ("bad", True)
    assert "malicious" in capfd.readouterr().out


@pytest.mark.parametrize(("vision", "verdict"), [("0.28.1", "ok"), ("0.27.0", "bad"), ("0.2.8", "bad")])
def test_torchvision_that_does_not_fit(installed, vision, verdict):
    installed("torch", "2.13.0+cpu")
    installed("torchvision", vision)
    one = found("torchvision")
    assert one.verdict == verdict
    assert bool(one.fix) == (verdict == "bad")


def test_an_extra_that_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "nibabel" else "1.0")
    one = found("extra train")
    assert (one.verdict, one.fix) == ("look", "pip install 'mrirecon[train]'")
    assert "nibabel" in one.message


def test_cores_and_memory_of_a_control_group(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert usable_cores(tmp_path) == 0.5
    assert usable_memory(tmp_path) == 600_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert usable_memory(tmp_path) != 600_000
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert found("cores").verdict == "look"
    assert "OMP_NUM_THREADS=" in found("cores").fix


def test_disks_and_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    assert found("file locking").verdict == "look"
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/proc")
    assert found("disk for temporary files").verdict == "bad"
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    assert found("disk here").verdict == "look"
    assert list(tmp_path.iterdir()) == []
    assert not doctor.ignores_case(Path("/proc"))


def test_tools_that_do_not_run(tmp_path, monkeypatch):
    for tool, text in (("bart", "echo v0.9"), ("nvidia-smi", "echo 'No devices were found' >&2; exit 9")):
        (tmp_path / tool).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("BART").message.startswith("v0.9")
    assert (found("GPU").verdict, "No devices" in found("GPU").message) == ("look", True)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'A100, 570.1, 81920 MiB'\n")
    monkeypatch.setattr(doctor, "version", lambda name: "2.13.0+cpu")
    assert "cannot use it" in found("GPU").message
    (tmp_path / "bart").write_text("no program")
    assert found("BART").verdict == "look"
