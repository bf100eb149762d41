"""Test the findings of `mrirecon doctor` on this machine, and on one with faults (M12)."""

from __future__ import annotations

import json
import os

import pytest

from mrirecon.cli import main
from mrirecon.models.hardware import usable_cores
from mrirecon.tools import doctor, selftest
from mrirecon.tools.doctor import examine, usable_memory


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretend that a version of a package is installed, by writing pip's metadata."""

    def put(name: str, version: str) -> None:
        folder = tmp_path / "site" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return put


def test_this_machine_is_examined(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert ended.value.code == (0 if report["ok"] else 1)
    names = {f["name"] for f in report["findings"]}
    assert {"python", "packages", "cores", "memory", "disk here", "HDF5", "GPU", "plug-ins", "self-test"} <= names
    assert {"extra train", "extra tensorboard"} <= names
    assert all(f["fix"] for f in report["findings"] if f["verdict"] == "bad")


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3", "2.6.4"])
def test_a_malicious_upload_is_named_and_nothing_is_imported(installed, capfd, monkeypatch, version):
    installed("lightning", version)
    monkeypatch.setattr(doctor, "_selftest", lambda: [doctor.Finding("self-test", "ok", "")])
    names = [f.name for f in examine()]
    assert ("compromised package" in names) == (version != "2.6.4") == ("self-test" not in names)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == (1 if version != "2.6.4" else 0)
    assert ("malicious" in capfd.readouterr().out) == (version != "2.6.4")


def test_an_extra_or_a_package_that_is_missing(monkeypatch):
    for name, finding, verdict in (("nibabel", "extra train", "look"), ("h5py", "packages", "bad")):
        monkeypatch.setattr(doctor, "version", lambda package, name=name: None if package == name else "1.0")
        one = next(f for f in doctor._packages() if f.name == finding)
        assert one.verdict == verdict
        assert one.fix == f"pip install 'mrirecon{'[train]' if verdict == 'look' else ''}'"
        assert name in one.message


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
    (cores,) = doctor._threads()
    assert (cores.verdict, "OMP_NUM_THREADS=" in cores.fix) == ("look", True)


def test_disks_and_locks(monkeypatch):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    assert doctor._hdf5()[0].verdict == "look"
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/proc")
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    assert [f.verdict for f in doctor._disks()] == ["look", "bad"]


def test_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._gpu()[0].verdict == "ok"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert "cannot use a GPU" in doctor._gpu()[0].message


def test_a_self_test_that_fails(monkeypatch):
    checks = [selftest.Check("Fourier", 1.0, 1e-5), selftest.Check("Mask", 0.0, 1e-5)]
    monkeypatch.setattr(selftest, "selftest", lambda: checks)
    (finding,) = doctor._selftest()
    assert (finding.verdict, finding.message) == ("bad", "failed: Fourier")
