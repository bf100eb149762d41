"""Provide fixtures for several test files: real scans and BART, if available, and thread settings."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# Continuous integration checks a change, so it uses fixed examples instead of new random ones.
settings.register_profile("ci", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
REAL = Path(os.environ.get("MRIRECON_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True, scope="session")
def _threads():
    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) == 1
    torch.set_num_threads(min(2, os.cpu_count() or 1) if alone else 1)


@pytest.fixture(scope="session")
def real_kspace():
    """Folder of measured scans, outside the repository."""
    folder = REAL / "kspace"
    if not folder.is_dir():
        pytest.skip(f"no measured scans at {folder}: set MRIRECON_DATA to the folder that holds them")
    return folder


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Run the command line in a temporary folder; return exit code, stdout, stderr."""
    from mrirecon.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return ended.value.code, *capfd.readouterr()

    return call


class Bart:
    """Runs BART's commands on arrays in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, **inputs: np.ndarray) -> np.ndarray:
        """Write the inputs as NAME.cfl, run, and return `out`."""
        for name, array in inputs.items():
            dims = [*array.shape, *[1] * (16 - array.ndim)]
            (self.folder / f"{name}.hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
            array.astype(np.complex64).ravel(order="F").tofile(self.folder / f"{name}.cfl")
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        subprocess.run(["bart", *command.split()], cwd=self.folder, env=environment, check=True, capture_output=True)
        dims = [int(d) for d in (self.folder / "out.hdr").read_text().splitlines()[1].split()]
        return np.fromfile(self.folder / "out.cfl", dtype=np.complex64).reshape(dims, order="F")


@pytest.fixture
def bart(tmp_path):
    """BART's command line."""
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed: `apt-get install bart` on Debian")
    return Bart(tmp_path)
