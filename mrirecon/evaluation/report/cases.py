"""Data of a report: cases, and the results of methods in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mrirecon.evaluation import Evaluation, Options

ZERO_FILLED = "zero-filled"


@dataclass(frozen=True)
class Result:
    """Result of one method in one case.

    Attributes:
        method: its name in the report; the same in every case.
        images: (item, *space), magnitudes or complex, in any scale; None where there are none.
        evaluation: its scores; None without a reference, or where it failed.
        failure: why there are no images or no scores; None where all is well.
        seconds: of each item.
        stopped: why each item stopped.
        notes: of the reconstruction.
        settings: how it was run: maps, weight, options, model, seed, device, versions, command, in words or numbers.
        steps: of an iteration, the relative error of each step's image, or without a reference its relative change.
        steps_are: description of ``steps``.

    """

    method: str
    images: np.ndarray | None = None
    evaluation: Evaluation | None = None
    failure: str | None = None
    seconds: Sequence[float] = ()
    stopped: Sequence[str] = ()
    notes: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    steps: Sequence[float] = ()
    steps_are: str = ""


@dataclass(frozen=True)
class Case:
    """One scan, and the results of all methods.

    Attributes:
        name: of the case; escaped wherever it is shown.
        results: one a method, zero filling among them where it is wanted.
        reference: (item, *space) magnitudes; None where there is none.
        kind: description of the reference.
        masks: (1 or item, *space) booleans, what was sampled; None where that is not known.
        region: (item, *space) labels of lesions; None without.
        spacing: (y, x) distance of pixels in mm; None where it is not known, and pixels are taken for square.
        notes: what the reader should know of this case.
        group: name of the cases that it is averaged with, such as an acceleration; each group has tables of its own.

    """

    name: str
    results: Sequence[Result]
    reference: np.ndarray | None = None
    kind: str = ""
    masks: np.ndarray | None = None
    region: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    notes: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True)
class About:
    """Settings of the whole report.

    Attributes:
        title: its heading.
        options: of the scores; the same as those of the evaluations.
        command: the command line that made the report, word by word; None where there was none.
        versions: of the programs.
        settings: further settings of the comparison, by name; a study's configuration, for instance.
        notes: what the reader should know.

    """

    title: str = "Reconstructions compared"
    options: Options = field(default_factory=Options)
    command: Sequence[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
