"""Evaluate images: against references, in pairs of runs, by lesions and without a reference; reports and studies."""

from __future__ import annotations

from mrirecon.evaluation.detect import Setting, detect
from mrirecon.evaluation.files import (
    Evaluations,
    compare_paths,
    evaluate,
    evaluate_folders,
    evaluate_paths,
    read_scores,
    write_csv,
)
from mrirecon.evaluation.paired import Difference, Summary, compare_runs, summarize
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
    "compare_paths",
    "compare_runs",
    "detect",
    "evaluate",
    "evaluate_folders",
    "evaluate_paths",
    "holds_images",
    "read_scores",
    "reference_images",
    "summarize",
    "write_csv",
]
