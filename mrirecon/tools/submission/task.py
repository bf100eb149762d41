"""Run one command inside a job: record its state, and continue it in a further job if the time limit stops it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrirecon.io.writers.write import write_json

# With this variable, a training would stop by itself before the end of the job, and count as done. Without it, the
# signal stops the training, and the job is queued again.
_END_OF_JOB = "SLURM_JOB_END_TIME"
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


@dataclass(frozen=True)
class Task:
    """Run a command of `mrirecon` in a job of submitit.

    Slurm sends SIGUSR1 before the time limit. The command then saves its state and stops, and the signal is passed to
    submitit, which queues the job again. The same is done after SIGTERM if Slurm preempts the job, because Slurm does
    not queue a job again that has ended by itself in the meantime. A cancelled job is not queued again.

    Attributes:
        run: function that runs the command line and returns its exit code.
        arguments: arguments of the command.
        record: file for the state of the task; written by its first process.

    """

    run: Callable[[list[str]], int]
    arguments: list[str]
    record: Path

    def __call__(self) -> None:
        """Run the command."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        os.environ.pop(_END_OF_JOB, None)
        job = JobEnvironment()
        if job.num_tasks > 1 and job.cluster == "local":  # with Slurm, Lightning reads its variables
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        sys.argv = ["mrirecon", *self.arguments]
        started = time.time()

        def write_record(state: str, code: int | None = None) -> None:
            if job.global_rank:
                return
            usage = resource.getrusage(resource.RUSAGE_SELF)
            content: dict[str, object] = {"state": state, "code": code, "job": job.job_id, "host": socket.gethostname()}
            content["node"] = os.environ.get("SLURMD_NODENAME")
            content |= {"started": started, "written": time.time(), "memory (MB)": round(usage.ru_maxrss / 1024)}
            write_json(self.record, content)

        write_record("running")
        code = self.run(self.arguments)
        if code == 128 + signal.SIGUSR1 or (code in _STOPPED and job.cluster == "slurm" and _preempted(job.raw_job_id)):
            write_record("waiting")
            signal.raise_signal(signal.SIGUSR1)  # submitit queues the job again, and ends the first process
        elif code in _STOPPED:
            write_record("stopped")
            sys.exit(code)
        else:
            write_record("failed" if code else "done", code)

    def checkpoint(self) -> object:
        """Return the task for the next job: the same command, which continues from its saved state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _preempted(job: str) -> bool:
    """Return whether Slurm preempts a job that received SIGTERM: it is in the state RUNNING, unlike a cancelled job."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"
