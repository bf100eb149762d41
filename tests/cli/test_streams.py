"""Test closed, full or differently encoded streams: the work is done, and the exit code is that of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrirecon.io import read_image
from tests.reconstruction.test_names import make

PROGRAM = f'"{sys.executable}" -m mrirecon'


@pytest.fixture
def bash(tmp_path):
    """Run a line of a shell in a folder with one scan; return exit code, stdout, stderr."""
    make(tmp_path / "a.h5")

    def run(line: str, **environment: str):
        told = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=told, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(true)"])
def test_work_is_done_without_a_stderr(bash, tmp_path, closed):
    code, out, err = bash(f"{PROGRAM} reconstruct a.h5 -m rss -o x.h5 {closed}")
    assert (code, err) == (0, b"")
    assert out == (b"" if ">&- 2" in closed else b"x.h5\n")
    assert read_image(tmp_path / "x.h5").shape == (1, 24, 20)
    assert json.loads((tmp_path / "x.h5.json").read_bytes())["outputs"], "no library wrote into it"
    assert bash(f"{PROGRAM} info nothing.h5 {closed}")[0] == 3
    assert bash(f"{PROGRAM} reconstruct a.h5 -m rss -o x.h5 --seed 1 --traceback {closed}")[0] == 2


def test_a_closed_stdout_takes_no_file_for_itself(bash, tmp_path):
    code, _, err = bash(f"{PROGRAM} reconstruct a.h5 -m rss -o x.h5 >&-")
    assert (code, b"INTERNAL" in err) == (0, False)
    assert read_image(tmp_path / "x.h5").shape == (1, 24, 20)
    assert bash(f"{PROGRAM} methods > /dev/full")[0] == 5


def test_json_is_json_in_every_encoding(bash):
    for environment in ({"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}):
        code, out, err = bash(f"{PROGRAM} methods --json && {PROGRAM} evaluate 'µ…é.h5' a.h5 --json", **environment)
        assert code == 3, err
        decoded = out.decode("latin-1" if "PYTHONIOENCODING" in environment else "utf-8")
        first, end = json.JSONDecoder().raw_decode(decoded)
        assert first
        assert "…é.h5" in json.loads(decoded[end:])["error"]["what"] + str(json.loads(decoded[end:])["error"]["where"])
        assert b"INTERNAL" not in out
