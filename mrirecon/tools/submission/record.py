"""Record a submission in the folder of its output: commands, resources, and the job of each task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrirecon.errors import InputError, UsageError
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.write import write_json

Cluster = Literal["slurm", "local"]
FOLDER, NAME = "jobs", "submission.json"  # in the folder of the output: lists of files, logs, records


@dataclass(frozen=True)
class Resources:
    """Hold the resources of a task.

    Attributes:
        cluster: ``slurm``, or ``local`` for processes of this machine.
        partition: partition of Slurm; by default that of the cluster.
        minutes: time limit of one job; a task that needs more is stopped with its state saved, and continues in a
            further job.
        nodes: nodes of a task.
        processes: processes of a task on each node.
        gpus: GPUs of a task on each node.
        cpus: cores of each process; by default those of the cluster.
        memory: memory of a task on each node in GB; by default that of the cluster.
        warning: seconds before the time limit at which SIGUSR1 stops the task.
        requeues: how often a task may reach its time limit.
        sbatch: further options of sbatch by name, such as account.

    """

    cluster: Cluster = "slurm"
    partition: str | None = None
    minutes: int = 240
    nodes: int = 1
    processes: int = 1
    gpus: int = 0
    cpus: int | None = None
    memory: float | None = None
    warning: int = 90
    requeues: int = 100
    sbatch: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskEntry:
    """Hold one task of a submission.

    Attributes:
        name: name, such as 3-of-8.
        arguments: arguments of the command `mrirecon`.
        job: job of the cluster, such as 17_2; for local tasks, the process id.

    """

    name: str
    arguments: list[str]
    job: str = ""


@dataclass(frozen=True)
class Submission:
    """Hold the commands that were submitted for one output folder.

    Attributes:
        output: folder of the output.
        resources: resources of each task.
        tasks: tasks, which may run at the same time.
        final: task that runs after all others, or None.

    """

    output: Path
    resources: Resources
    tasks: list[TaskEntry]
    final: TaskEntry | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of logs and records."""
        return self.output / FOLDER

    def record(self, task: TaskEntry) -> Path:
        """Return the file in which a task records its state."""
        return self.folder / f"{task.name}.json"

    def log(self, task: TaskEntry) -> Path:
        """Return the log of a task, as submitit names it."""
        return self.folder / f"{task.job}_0_log.out"

    def save(self) -> None:
        """Write the submission to its folder."""
        content = {**asdict(self), "output": str(self.output)}
        write_json(self.folder / NAME, content)

    @staticmethod
    def load(output: Path) -> Submission:
        """Read the submission of an output folder.

        Raises:
            InputError: nothing was submitted for this folder, or the record cannot be read.

        """
        path = output / FOLDER / NAME
        try:
            content: dict[str, Any] = parse_json(path.read_bytes())
            final = content["final"]
            return Submission(
                output,
                Resources(**content["resources"]),
                [TaskEntry(**task) for task in content["tasks"]],
                None if final is None else TaskEntry(**final),
            )
        except FileNotFoundError:
            fix = "give the output folder of `mrirecon submit`"
            raise InputError("nothing was submitted for this folder", where=str(output), fix=fix) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                "the record of the submission cannot be read", where=str(path), why=str(error), fix="submit again"
            ) from None


def minutes_of(text: str) -> int:
    """Convert a time limit to minutes: MINUTES, HH:MM:SS or D-HH:MM:SS, as in Slurm; rounded up.

    Raises:
        UsageError: another text, or no time at all.

    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)|(\d+)", text.strip())
    if match is None:
        raise UsageError(f"--time cannot be {text!r}", fix="write minutes, HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds, only = (int(part or 0) for part in match.groups())
    total = only + 60 * (24 * days + hours) + minutes + (seconds > 0)
    if total < 1:
        raise UsageError("--time is zero", fix="give at least a minute")
    return total


def sbatch_options(texts: Sequence[str]) -> dict[str, str]:
    """Parse key=value options of sbatch.

    Raises:
        UsageError: no key or no value.

    """
    pairs = [text.lstrip("-").partition("=") for text in texts]
    for text, (key, _, value) in zip(texts, pairs, strict=True):
        if not (key and value):
            raise UsageError(f"--sbatch cannot be {text!r}", fix="write --sbatch key=value, such as account=mri")
    return {key: value for key, _, value in pairs}
