"""Score reconstructed images against a reference: what `mrirecon evaluate` does."""

from __future__ import annotations

from mrirecon.evaluate.folders import Evaluations, Summary, evaluate_folders, summarize
from mrirecon.evaluate.one import CHOICES, Evaluation, Options, compare, evaluate
from mrirecon.evaluate.reference import holds_images, reference_images

__all__ = [
    "CHOICES",
    "Evaluation",
    "Evaluations",
    "Options",
    "Summary",
    "compare",
    "evaluate",
    "evaluate_folders",
    "holds_images",
    "reference_images",
    "summarize",
]
