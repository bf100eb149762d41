"""Score reconstructed images against a reference: what `mrirecon evaluate` does."""

from __future__ import annotations

from mrirecon.evaluation.detect import Setting, detect
from mrirecon.evaluation.folders import Evaluations, Summary, evaluate_folders, summarize, write_csv
from mrirecon.evaluation.one import evaluate
from mrirecon.evaluation.paired import Difference, compare_runs, read_run
from mrirecon.io.readers.images import holds_images
from mrirecon.metrics.evaluation import Evaluation, Options, compare
from mrirecon.reconstruction.reference import reference_images

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
