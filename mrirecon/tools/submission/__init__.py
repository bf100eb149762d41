"""Run commands as jobs of a cluster with submitit: Slurm, or processes of this machine."""

from mrirecon.tools.submission.engine import submit
from mrirecon.tools.submission.record import Resources, Submission, TaskEntry, minutes_of
from mrirecon.tools.submission.status import TaskState, resubmit_failed, states, wait

__all__ = [
    "Resources",
    "Submission",
    "TaskEntry",
    "TaskState",
    "minutes_of",
    "resubmit_failed",
    "states",
    "submit",
    "wait",
]
