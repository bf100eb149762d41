"""Score reconstructed images against a reference: what `mrirecon evaluate` does."""

from __future__ import annotations

from mrirecon.evaluate.detect import Setting, detect
from mrirecon.evaluate.folders import Evaluations, Summary, evaluate_folders, summarize, write_csv
from mrirecon.evaluate.one import Evaluation, Options, compare, evaluate
from mrirecon.evaluate.paired import Difference, compare_runs, read_run
from mrirecon.evaluate.reference import reference_images
from mrirecon.io.images import holds_images

__all__ = [
    "Difference",
    "Evaluation",
    "Evaluations",
    "Options",
    "Setting",
    "Summary",
    "compare",
    "compare_runs",
    "detect",
    "evaluate",
    "evaluate_folders",
    "holds_images",
    "read_run",
    "reference_images",
    "summarize",
    "write_csv",
]
