"""Submit tasks with submitit, to Slurm or as processes of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrirecon.errors import ResourceError, UsageError
from mrirecon.tools.submission.record import Resources, Submission, TaskEntry
from mrirecon.tools.submission.task import Task

if TYPE_CHECKING:
    from submitit import AutoExecutor

Run = Callable[[list[str]], int]
INSTALL = "pip install 'mrirecon[slurm]'"


def submit(submission: Submission, run: Run, only: Sequence[TaskEntry] | None = None) -> Submission:
    """Submit tasks as a job array and the final task after them, and record their jobs.

    Args:
        submission: all tasks.
        run: function that runs a command line in the job; it must be importable there.
        only: tasks to submit; None submits all.

    Raises:
        UsageError: submitit is not installed, or there is no Slurm.
        ResourceError: the cluster refuses the jobs; the message has its reason.

    """
    sent = _send(submission, submission.tasks if only is None else only, submission.resources, run)
    by_name = {task.name: task for task in sent}
    tasks = [by_name.get(task.name, task) for task in submission.tasks]
    final = submission.final
    replace(submission, tasks=tasks).save()  # before the final task, which the cluster may refuse
    if final is not None:
        arrays = dict.fromkeys(task.job.partition("_")[0] for task in sent)
        after_all = submission.resources.sbatch | {"dependency": f"afterany:{':'.join(arrays)}"}
        resources = replace(submission.resources, nodes=1, processes=1, gpus=0, sbatch=after_all)
        final = _send(submission, [final], resources, run)[0]
    submitted = replace(submission, tasks=tasks, final=final)
    submitted.save()
    return submitted


def _send(submission: Submission, tasks: Sequence[TaskEntry], resources: Resources, run: Run) -> list[TaskEntry]:
    """Submit tasks as one job array, without their old records; return the tasks with their jobs."""
    for task in tasks:
        submission.record(task).unlink(missing_ok=True)
    executor = _executor(submission.folder, submission.output.name, resources)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with executor.batch():
            jobs = [executor.submit(Task(run, task.arguments, submission.record(task).absolute())) for task in tasks]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        raise ResourceError(
            "the cluster refused the jobs",
            where=resources.partition,
            why=" ".join(lines or str(error).splitlines()[-1:]),
            fix="ask for other resources: sinfo lists partitions and limits",
        ) from None
    return [replace(task, job=job.job_id) for task, job in zip(tasks, jobs, strict=True)]


def _executor(folder: Path, name: str, resources: Resources) -> AutoExecutor:
    """Return the executor of submitit for tasks with these resources."""
    # The signal before the time limit. submitit reads it when imported: here, and in the jobs, which inherit it.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise UsageError("jobs need submitit, which is not installed", fix=INSTALL) from None
    r = resources
    if r.cluster == "slurm" and shutil.which("sbatch") is None:
        raise UsageError(
            "there is no Slurm on this machine",
            why="the command sbatch is missing",
            fix="run it on a login node of the cluster, or give --cluster local",
        )
    if r.cluster == "local" and r.nodes > 1:
        raise UsageError(f"this machine is not {r.nodes} nodes", fix="omit --nodes, or --cluster local")
    executor = AutoExecutor(
        folder, cluster=r.cluster, slurm_max_num_timeout=r.requeues, local_max_num_timeout=r.requeues
    )
    shared: dict[str, Any] = {
        "name": f"mrirecon-{name}",
        "timeout_min": r.minutes,
        "nodes": r.nodes,
        "tasks_per_node": r.processes,
        "gpus_per_node": r.gpus or None,
        "cpus_per_task": r.cpus,
        "mem_gb": r.memory,
        "stderr_to_stdout": True,
    }
    # One process that fails ends all of its task. srun does not take the number of cores from sbatch.
    srun = ["--kill-on-bad-exit=1", *([] if r.cpus is None else [f"--cpus-per-task={r.cpus}"])]
    executor.update_parameters(
        **shared,
        slurm_partition=r.partition,
        slurm_signal_delay_s=r.warning,
        slurm_array_parallelism=10_000,  # the cluster limits it
        slurm_srun_args=srun,
        slurm_additional_parameters={"requeue": True, **r.sbatch},
    )
    return executor
