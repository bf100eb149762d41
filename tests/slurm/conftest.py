"""Start a private Slurm cluster for the tests; skip them where Slurm is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

START = Path(__file__).with_name("start.sh")
NODES = int(os.environ.get("MRIRECON_SLURM_NODES", "4"))
PATH = f"{os.environ['PATH']}:/usr/sbin"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}


class Cluster:
    """Run commands on a cluster of virtual nodes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The names of the virtual nodes have no addresses.
        self.environment = {
            **os.environ,
            **ONE_THREAD,
            "SLURM_CONF": f"{folder}/slurm.conf",
            "MASTER_ADDR": "127.0.0.1",
        }
        self.environment = {k: v for k, v in self.environment.items() if not k.startswith("PYTEST_")}

    def run(self, *command, code=0, timeout=300):
        """Run a command of Slurm or Python and return its standard output."""
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert code is None or done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def mrirecon(self, *arguments, code=0, timeout=300):
        """Run mrirecon and return its standard output."""
        return self.run(sys.executable, "-m", "mrirecon", *arguments, code=code, timeout=timeout)

    def status(self, out):
        """Return the states of the tasks of an output folder."""
        shown = self.mrirecon("submit", "status", out, "--json", code=None)
        return {task["task"]: task for task in json.loads(shown)}

    def jobs(self, state="all"):
        """Return the ids of jobs with their states."""
        shown = self.run("squeue", "--noheader", "--array", f"--states={state}", "--format=%i|%T|%N")
        return {line.split("|")[0].strip(): line.strip().split("|")[1:] for line in shown.splitlines()}

    def wait_until(self, condition, seconds=120, what=""):
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s: {what or condition}\n{self.jobs()}")


@pytest.fixture(scope="session")
def cluster():
    """Start a Slurm cluster with `NODES` nodes."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install '.[slurm]'")
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: `apt-get install slurmctld slurmd slurm-client munge` on Debian")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket has 108 characters at most
    started = subprocess.run(["bash", str(START), str(folder), str(NODES)], capture_output=True, text=True, check=False)
    if started.returncode:
        subprocess.run(["bash", str(START), str(folder), "stop"], check=False)
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"Slurm does not start here: {started.stderr.strip()[-500:]}")
    yield Cluster(folder)
    subprocess.run(["bash", str(START), str(folder), "stop"], check=False)
    shutil.rmtree(folder, ignore_errors=True)
