"""What a study consists of: scans, masks, methods, and the cells in which they meet."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from mrirecon import __version__
from mrirecon.evaluation import Options
from mrirecon.evaluation.study.settings import MaskSetting, Source, StudySettings
from mrirecon.training.config import Config


@dataclass(frozen=True)
class PlannedScan:
    """One scan: a file, or what it is simulated from."""

    name: str
    entry: str
    source: str
    person: str
    setting: Source
    key: str

    @property
    def simulated(self) -> bool:
        """Whether it has to be made first."""
        return bool(self.setting.volumes)


@dataclass(frozen=True)
class PlannedMask:
    """One family of masks at one acceleration."""

    name: str
    rate: float
    setting: MaskSetting
    key: str


@dataclass(frozen=True)
class PlannedMethod:
    """One method; see `MethodSetting`.

    Attributes:
        name: in the study.
        what: in words.
        method: registered name.
        options: of it, as given.
        lam: regularization weight.
        model: folder of weights, where they are there.
        config: what trains it, where it is to be trained.
        minutes: that its training may take; None where ``config`` says how many steps.
        key: of all of this.

    """

    name: str
    what: str
    method: str
    options: dict[str, object]
    lam: float | str | None
    model: Path | None
    config: Config | None
    minutes: float | None
    key: str

    @property
    def folder(self) -> str:
        """Name of the folder that it is trained in: another configuration has another one."""
        return f"{self.name}-{self.key[:8]}"


@dataclass(frozen=True)
class Cell:
    """One image to be made."""

    scan: PlannedScan
    mask: PlannedMask
    method: PlannedMethod

    @property
    def key(self) -> str:
        """Hash of all that the image depends on."""
        return digest([__version__, self.scan.key, self.mask.key, self.method.key])

    @property
    def place(self) -> Path:
        """Folders and name, without suffix: mask, method, scan."""
        return Path(self.mask.name) / self.method.name / self.scan.name


@dataclass(frozen=True)
class Plan:
    """A study to be done.

    Attributes:
        settings: as configured.
        path: of the configuration.
        scans: in order.
        masks: in order.
        methods: in order.
        notes: what the user should know.

    """

    settings: StudySettings
    path: Path
    scans: list[PlannedScan]
    masks: list[PlannedMask]
    methods: list[PlannedMethod]
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[Cell]:
        """Return all cells: all methods of a scan and mask after each other."""
        return [Cell(s, m, x) for m in self.masks for s in self.scans for x in self.methods]

    @property
    def options(self) -> Options:
        """What is measured."""
        return Options(self.settings.preset, tuple(self.settings.metrics))


def digest(values: object) -> str:
    """Return a hash of plain data that is the same on every machine."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
