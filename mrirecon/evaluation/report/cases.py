"""Define the data of a report: cases, and the results of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mrirecon.evaluation import Evaluation, Options

ZERO_FILLED = "zero-filled"


@dataclass(frozen=True)
class Result:
    """Hold the result of one method in one case.

    Attributes:
        method: name of the method in the report; the same in every case.
        images: (item, *space), magnitudes or complex, in any scale; None if there are none.
        evaluation: scores; None without a reference or after a failure.
        failure: why images or scores are missing; None if nothing failed.
        seconds: time of each item.
        stopped: stopping reason of each item.
        notes: notes on the reconstruction.
        settings: maps, weight, options, model, seed, device, versions and command, as text or numbers.
        steps: relative error of the image after each step, or without a reference its relative change.
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
    """Hold one scan and the results of all methods.

    Attributes:
        name: name of the case; escaped wherever it is shown.
        results: one per method, including zero filling if wanted.
        reference: (item, *space) magnitudes, or None.
        kind: description of the reference.
        masks: (1 or item, *space) booleans, True where sampled; None if unknown.
        region: (item, *space) labels of lesions, or None.
        spacing: (y, x) pixel spacing in mm; None if unknown, then pixels are assumed to be square.
        notes: notes to the reader on this case.
        group: name of the group in which scores are averaged, such as an acceleration; each group has its own tables.

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
    """Hold the settings of the whole report.

    Attributes:
        title: heading.
        options: settings of the metrics; the same as in the evaluations.
        command: arguments of the command line that wrote the report, or None.
        versions: versions of the programs.
        settings: further settings by name, such as a study's configuration.
        notes: notes to the reader.

    """

    title: str = "Reconstructions compared"
    options: Options = field(default_factory=Options)
    command: Sequence[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
