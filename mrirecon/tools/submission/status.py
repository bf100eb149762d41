"""Determine the states of tasks from their records and the cluster, wait for tasks, and submit failed tasks again."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from mrirecon.errors import BusyError, ResourceError
from mrirecon.io.safe.text import parse_json
from mrirecon.tools.submission.engine import Run, submit
from mrirecon.tools.submission.record import Submission, TaskEntry

State = Literal["pending", "running", "done", "failed", "lost"]
ACTIVE: tuple[State, ...] = ("pending", "running")
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "TIMEOUT"),
}
_INTERVAL, _LONGEST_INTERVAL = 1.0, 30.0  # seconds between two looks at the tasks; it grows while nothing changes
_DELAY = 3.0  # seconds after which a record written on another node is visible here


@dataclass(frozen=True)
class TaskState:
    """Hold the state of a task.

    Attributes:
        task: the task.
        state: ``lost`` if the job ended without a record of its end: killed, cancelled, or on a node that failed.
        reason: state of the job in Slurm, or exit code of the command.
        record: what the task recorded: host, times, memory; empty before its start.

    """

    task: TaskEntry
    state: State
    reason: str
    record: dict[str, Any]


def states(submission: Submission, tasks: Sequence[TaskEntry] | None = None) -> list[TaskState]:
    """Return the state of each task, by default of all but the final one.

    A record of the task's end decides. Otherwise the cluster says whether its job waits or runs. Slurm's queue is asked
    instead of its accounting, which not every cluster has, and which lags behind.

    Raises:
        ResourceError: Slurm does not answer.

    """
    tasks = submission.tasks if tasks is None else tasks
    records = [_record(submission, task) for task in tasks]
    open_jobs = [t.job for t, r in zip(tasks, records, strict=True) if r.get("state") not in ("done", "failed")]
    ask = _slurm_jobs if submission.resources.cluster == "slurm" else _processes
    jobs = ask(open_jobs) if open_jobs else {}
    result = []
    for task, record in zip(tasks, records, strict=True):
        state, job = record.get("state"), jobs.get(task.job, "gone")
        if state in ("done", "failed"):
            result.append(TaskState(task, state, f"exit code {record['code']}", record))
        elif job in _ENDED or job == "gone":
            result.append(TaskState(task, "lost", job.lower(), record))
        else:
            result.append(TaskState(task, "pending" if job == "PENDING" else "running", job.lower(), record))
    return result


def _record(submission: Submission, task: TaskEntry) -> dict[str, Any]:
    """Return what a task recorded in its present job; empty if nothing."""
    try:
        content = parse_json(submission.record(task).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if content.get("job") == task.job else {}


def _slurm_jobs(jobs: Sequence[str]) -> dict[str, str]:
    """Return the states of the jobs that Slurm's queue lists.

    Raises:
        ResourceError: Slurm does not answer.

    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={getpass.getuser()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or str(error)
        raise ResourceError(
            "Slurm does not answer", where="squeue", why=why.strip(), fix="ask again later; jobs continue meanwhile"
        ) from None
    lines, asked = (line.strip().partition("|") for line in done.stdout.splitlines()), set(jobs)
    return {job: state for job, _, state in lines if job in asked}


def _processes(jobs: Sequence[str]) -> dict[str, str]:
    """Return the state RUNNING for each process of this machine that runs."""
    running = {}
    for job in jobs:
        with suppress(ChildProcessError):  # not a child of this process
            os.waitpid(int(job), os.WNOHANG)  # a child that has ended would count as running
        with suppress(ProcessLookupError, PermissionError):  # ended; its number belongs to another user now
            os.kill(int(job), 0)
            running[job] = "RUNNING"
    return running


def wait(
    submission: Submission,
    tasks: Sequence[TaskEntry] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[TaskState]:
    """Wait until no task waits or runs, and return their states.

    Args:
        submission: tasks with jobs.
        tasks: some of its tasks; by default all but the final one.
        progress: function of (tasks done, tasks, their states).

    Raises:
        ResourceError: Slurm does not answer.

    """
    interval, last = _INTERVAL, list[str]()
    while True:
        now = states(submission, tasks)
        names: list[str] = [s.state for s in now]
        if progress:
            parts = (f"{names.count(state)} {state}" for state in ("running", "pending", "failed", "lost"))
            progress(names.count("done"), len(now), ", ".join(p for p in parts if not p.startswith("0 ")))
        if not set(ACTIVE) & set(names):
            if "lost" not in names:
                return now
            time.sleep(_DELAY)
            now = states(submission, tasks)
            if not any(s.state in ACTIVE for s in now):
                return now
        interval = _INTERVAL if names != last else min(1.2 * interval, _LONGEST_INTERVAL)
        last = names
        time.sleep(interval)


def resubmit_failed(submission: Submission, run: Run) -> tuple[Submission, list[str]]:
    """Submit failed and lost tasks again, and the final task after them.

    Finished files are kept, so that only the others are computed.

    Args:
        submission: tasks with jobs.
        run: see `submit`.

    Returns:
        The submission with the new jobs, and the names of the tasks that were submitted again.

    Raises:
        BusyError: tasks are still waiting or running.

    """
    now = states(submission)
    refuse_active(submission, now)
    again = [s.task for s in now if s.state in ("failed", "lost")]
    if not again:
        return submission, []
    return submit(submission, run, again), [task.name for task in again]


def refuse_active(submission: Submission, now: Sequence[TaskState]) -> None:
    """Refuse to submit for a folder whose tasks wait or run.

    Raises:
        BusyError: a task waits or runs.

    """
    active = [s for s in now if s.state in ACTIVE]
    if active:
        raise BusyError(
            "tasks of this folder still wait or run",
            where=str(submission.output),
            why=f"{len(active)} of {len(now)}: {', '.join(s.task.job for s in active[:4])}",
            fix="wait for them, or cancel them: scancel JOB (local: kill JOB)",
        )
