"""Provide the command line for tests with hostile files, in one process, because a start takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.io import write_kspace
from tests.io.test_io_hostile import random, snapshot

Told = tuple[int, str, str]


@pytest.fixture
def cli(capfd, monkeypatch, tmp_path) -> Callable[..., Told]:
    """Run the command line in a folder of its own; return exit code, stdout, stderr."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    # New files may still be in writing: check as often, but wait for a shorter time.
    monkeypatch.setattr("mrirecon.reconstruction.batch.RETRY_DELAYS", (0.01, 0.01, 0.01))

    def call(*arguments: object) -> Told:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return call


def scan_file(path: Path, *shape: int, **options: object) -> Path:
    """Write k-space of noise that is strongest at its centre; return the path."""
    kspace = random(*(shape or (1, 2, 32, 32)))
    for axis in range(2, kspace.ndim):
        n = kspace.shape[axis]
        bell = 0.05 + np.exp(-(((np.arange(n) - n // 2) / (0.1 * n + 1)) ** 2))
        kspace *= bell.reshape([-1 if a == axis else 1 for a in range(kspace.ndim)])
    write_kspace(path, kspace, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    """A scan with nothing wrong about it, in a folder of its own."""
    folder = tmp_path / "beside"
    folder.mkdir()
    return scan_file(folder / "good.h5")


@pytest.fixture
def rejects(cli, good, tmp_path) -> Callable[..., str]:
    """Check what a rejection promises; return what was told.

    Alone: the row's exit code, the file named, what to do, nothing written. In a batch: the other file is done, exit
    code 4. The folder of the file is what it was before.
    """

    def check(path: Path, code: int, *words: str, options: tuple[object, ...] = ()) -> str:
        before = snapshot(path.parent)
        code_alone, stdout, stderr = cli("reconstruct", path, *options, "-o", tmp_path / "alone" / "x.h5")
        assert code_alone == code, stderr
        assert stdout == ""
        for word in (*words, "MRI-E-", path.name.split(".")[0]):
            assert word in stderr, stderr
        assert not (tmp_path / "alone").exists()
        if not options:
            out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
            found, stdout, stderr = cli("reconstruct", path, good, "-m", "rss", "-o", out, "--json", "--no-isolate")
            assert found == 4, stderr
            told = json.loads(stdout)
            assert [Path(r["outputs"][0]).name for r in told["results"]] == ["good_rss.h5"]
            assert [f["exit_code"] for f in told["failed"]] == [code]
            assert {p.name for p in out.iterdir()} - {"failed.jsonl"} == {"good_rss.h5", "good_rss.h5.json"}
        assert snapshot(path.parent) == before
        return stderr

    return check
