"""Plan a study: resolve its configuration to scans, masks and methods, and check that their comparison is fair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrirecon import __version__
from mrirecon.data.sources import check_subject_expression, expand, subject_of
from mrirecon.data.volumes import PHANTOM
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.evaluation import Options
from mrirecon.evaluation.paired import SUBJECT
from mrirecon.evaluation.study.settings import MaskSetting, MethodSetting, Source, StudySettings
from mrirecon.io.safe.atomic import safe_name, sha256
from mrirecon.masks import FAMILIES, MaskResult, make_mask
from mrirecon.methods.registry import find_method, resolve
from mrirecon.models.checkpoints import describe_model, shipped_models
from mrirecon.training.config import Config, differences, load_as, load_config, origin_of
from mrirecon.training.config.strict_yaml import KeyPath, Origin
from mrirecon.training.loop import CHANGEABLE

_SHOWN = 4  # maximum number of list entries in a message


@dataclass(frozen=True)
class PlannedScan:
    """Hold one scan: a file of fully sampled k-space, or a volume to simulate it from.

    Attributes:
        name: name of its files in the study.
        entry: its entry in the configuration's data.
        source: file or volume.
        subject: subject, derived from the name.
        setting: settings of the entry.
        key: hash of everything that determines the scan.

    """

    name: str
    entry: str
    source: str
    subject: str
    setting: Source
    key: str


@dataclass(frozen=True)
class PlannedMask:
    """Hold one family of masks at one acceleration."""

    name: str
    acceleration: float
    setting: MaskSetting

    def draw(self, shape: tuple[int, ...], name: str, seed: int) -> MaskResult:
        """Draw the mask of a scan (see `make_mask`) from the study's seed and the scan's name."""
        m = self.setting
        return make_mask(
            m.family,
            shape,
            self.acceleration,
            calibration=m.calibration,
            # fastMRI derives its seed from the name only
            seed=0 if m.compat == "fastmri" else seed,
            name=name,
            compat=m.compat,
            axis=-2 if FAMILIES[m.family].over == "lines" and m.axis == "y" else -1,
        )


@dataclass(frozen=True)
class PlannedMethod:
    """Hold one method; see `MethodSetting`.

    Attributes:
        name: name in the study.
        description: description of the method, for tables.
        method: registered name.
        options: options of the method in the configuration.
        lam: regularization weight.
        model: folder of a trained model.
        config: configuration to train the method with, where the study trains it.
        minutes: duration of the training; None if ``config`` gives the steps.
        folder: name of the training's folder, which contains a hash of the configuration.

    """

    name: str
    description: str
    method: str
    options: dict[str, object]
    lam: float | str | None = None
    model: Path | None = None
    config: Config | None = None
    minutes: float | None = None
    folder: str = ""

    @property
    def length(self) -> str:
        """Return the length of the training as text."""
        assert self.config is not None, "the study trains it"
        train = self.config.settings.train
        if self.minutes is not None:
            return f"{self.minutes:g} minutes"
        return f"{train.steps} steps" if train.steps is not None else f"{train.epochs} epochs"


@dataclass(frozen=True)
class Cell:
    """Hold one image of the study."""

    scan: PlannedScan
    mask: PlannedMask
    method: PlannedMethod

    @property
    def place(self) -> Path:
        """Return the path of the image without suffix: mask, method, scan."""
        return Path(self.mask.name) / self.method.name / self.scan.name


@dataclass(frozen=True)
class Plan:
    """Hold a resolved study.

    Attributes:
        settings: configuration.
        path: file of the configuration.
        scans: scans in order.
        masks: masks in order.
        methods: methods in order.
        notes: notes to the user.

    """

    settings: StudySettings
    path: Path
    scans: list[PlannedScan]
    masks: list[PlannedMask]
    methods: list[PlannedMethod]
    notes: list[str]

    def cells(self) -> list[Cell]:
        """Return all cells, ordered by mask, scan and method."""
        return [Cell(s, m, x) for m in self.masks for s in self.scans for x in self.methods]

    @property
    def options(self) -> Options:
        """Return the settings of the metrics."""
        return Options(self.settings.preset, tuple(self.settings.metrics))

    @property
    def trained(self) -> list[PlannedMethod]:
        """Return the methods that the study trains."""
        return [m for m in self.methods if m.config is not None]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a study's configuration and resolve it, without writing files.

    Relative paths are resolved from the current folder if they exist there, else from the configuration's folder.

    Raises:
        UsageError: the configuration has an error (the message gives file, line, key and the closest valid key), or a
            method would be trained on a scan of the study.
        InputError: a file cannot be read.

    """
    path = Path(path)
    settings, origins = load_as(StudySettings, path, overrides)
    notes: list[str] = []
    try:
        Options(settings.preset, tuple(settings.metrics))
    except UsageError as error:
        raise _located(error, origins, ("metrics",), path) from None
    if settings.subject is not None:
        check_subject_expression(settings.subject, "subject", origin_of(origins, ("subject",), path))
    scans = _plan_scans(settings, origins, path, notes)
    masks = []
    for name, mask in settings.masks.items():
        masks += [PlannedMask(f"{name}-{rate:g}x", rate, mask) for rate in mask.acceleration]
        try:
            for planned in masks[-len(mask.acceleration) :]:
                _probe(planned)
        except UsageError as error:
            raise _located(error, origins, ("masks", name), path) from None
    methods = []
    for name, setting in settings.methods.items():
        try:
            methods.append(_plan_method(name, setting, settings, path))
        except (InputError, UsageError) as error:
            inner = [k for k in (error.where or "").split(".") if k in setting.options]
            raise _located(error, origins, ("methods", name, *(["options", inner[0]] if inner else [])), path) from None
    notes += [*_unequal_training(methods), *_possible_leaks(methods, scans)]
    return Plan(settings, path, scans, masks, methods, notes)


def _located(error: MriReconError, origins: dict[KeyPath, Origin], key: KeyPath, path: Path) -> MriReconError:
    """Add the file and line of the study's entry to the location of an error."""
    place = origin_of(origins, key, path)
    inside = error.where if error.where and (":" in error.where or "/" in error.where) else None
    error.where = f"{place}; {inside}" if inside else place
    return error


def _plan_scans(
    settings: StudySettings, origins: dict[KeyPath, Origin], path: Path, notes: list[str]
) -> list[PlannedScan]:
    scans: dict[str, PlannedScan] = {}
    for entry, source in settings.data.items():
        patterns = source.files or source.volumes
        location = origin_of(origins, ("data", entry, "files" if source.files else "volumes"), path)
        files: list[str] = []
        for pattern in patterns:
            try:
                files += expand([pattern], [], path.parent, location, patterns)
            except UsageError as error:
                if not source.optional:
                    raise
                notes.append(f"part of {entry} is omitted: {error.what}")
        for text in dict.fromkeys(files):
            file, _, part = text.partition("#")
            phantom = file.split(":")[0] == PHANTOM
            name = file.replace(":", "-")
            if not phantom:
                name = safe_name("-".join(p for p in (Path(file).name.split(".")[0], part) if p))
            if name in scans:
                raise UsageError(
                    f"two scans have the name {name!r}",
                    where=location,
                    why=f"{scans[name].source} and {text}",
                    fix="rename one: masks and images are named after the scan",
                )
            key = [
                source.model_dump(exclude={"files", "volumes", "optional"}),
                text if phantom else [sha256(file), part],
                # simulated scans depend on the seed and the name
                [settings.seed, name, __version__] if source.volumes else [],
            ]
            subject = subject_of(name, settings.subject or SUBJECT)
            scans[name] = PlannedScan(name, entry, text, subject, source, digest(key))
    if not scans:
        raise UsageError("the study has no data", where=str(path), why="; ".join(notes), fix="add entries under data")
    return list(scans.values())


def _probe(mask: PlannedMask) -> None:
    """Draw a mask of a large size to find errors early; errors that depend on the size appear with their scan."""
    if FAMILIES[mask.setting.family].over == "lines":
        mask.draw((4096, 1) if mask.setting.axis == "y" else (1, 4096), "probe", 0)
    else:
        setting = mask.setting.model_copy(update={"calibration": 0})
        replace(mask, acceleration=2.0, setting=setting).draw((32, 32), "probe", 0)


def _plan_method(name: str, m: MethodSetting, settings: StudySettings, path: Path) -> PlannedMethod:
    if m.train is not None:
        return _plan_training(name, m, settings, path)
    if m.model is not None:
        folder = next((p for p in (Path(m.model), path.parent / m.model) if p.is_dir()), Path(m.model))
        method = str(describe_model(folder)["method"])
        return PlannedMethod(name, f"{method}, trained, {m.model}", method, {}, model=folder)
    assert m.method is not None, "one of the three is given"
    if m.method in shipped_models() and not m.options:
        return PlannedMethod(name, f"{m.method}, shipped weights", m.method, {}, model=shipped_models()[m.method])
    if find_method(m.method).learned:
        raise UsageError(
            f"method {m.method!r} is learned and has no shipped weights",
            why=f"shipped weights: {', '.join(sorted(shipped_models()))}, with fixed options",
            fix="give train: CONFIG.yaml or model: FOLDER",
        )
    resolve(m.method, m.options)
    if m.lam is not None and not find_method(m.method).has_weight:
        raise UsageError(f"method {m.method!r} has no regularization weight", fix="omit lam")
    settings_text = ", ".join(f"{k}={v}" for k, v in (m.options | ({} if m.lam is None else {"lam": m.lam})).items())
    return PlannedMethod(
        name, f"{m.method}{f' ({settings_text})' if settings_text else ''}", m.method, dict(m.options), m.lam
    )


def _plan_training(name: str, m: MethodSetting, settings: StudySettings, path: Path) -> PlannedMethod:
    assert m.train is not None, "the study trains it"
    file = path.parent / m.train if (path.parent / m.train).is_file() else Path(m.train)
    own = m.steps is not None or m.minutes is not None
    steps, minutes = (m.steps, m.minutes) if own else (settings.budget.steps, settings.budget.minutes)
    if steps is not None and minutes is not None:
        raise UsageError(f"{name} has two lengths", why=f"{steps} steps, {minutes} minutes", fix="keep one")
    config = load_config(file, [*m.overrides, *([f"train.steps={steps}"] if steps is not None else [])])
    method = config.settings.method
    if not find_method(method).learned:
        raise UsageError(
            f"method {method!r} has no trainable parameters", where=str(file), fix="use method: instead of train:"
        )
    plain = config.plain()
    free = [key for key in CHANGEABLE if key != "train.minutes"]
    if minutes is not None:  # the number of steps is not known yet, and the file's number does not apply
        free += ["train.steps", "train.epochs"]
    plain["train"] = {k: v for k, v in plain["train"].items() if not f"train.{k}".startswith(tuple(free))}
    folder = f"{name}-{digest([plain, minutes])[:8]}"
    planned = PlannedMethod(name, "", method, {}, config=config, minutes=minutes, folder=folder)
    return replace(planned, description=f"{method}, to be trained for {planned.length}")


def digest(values: object) -> str:
    """Return a hash of plain data; the same on all machines."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode("ascii")).hexdigest()


def _unequal_training(methods: Sequence[PlannedMethod]) -> list[str]:
    """Return messages on methods that the study trains under unequal conditions."""
    trained = [(m.config.plain(), m.length) for m in methods if m.config is not None]
    notes = []
    for condition, part in (("on the same data", "data"), ("with the same loss", "loss")):
        changed = [d for plain, _ in trained[1:] for d in differences(trained[0][0][part], plain[part])]
        if changed:
            listed = "; ".join(f"{part}.{d}" for d in dict.fromkeys(changed[:_SHOWN]))
            notes.append(f"the study does not train all methods {condition}: {listed}")
    lengths = sorted({length for _, length in trained})
    if len(lengths) > 1:
        notes.append(f"the study trains the methods for different lengths: {', '.join(lengths)}")
    return notes


def _possible_leaks(methods: Sequence[PlannedMethod], scans: Sequence[PlannedScan]) -> list[str]:
    """Return messages on models that may have been trained on a test subject, judged by names.

    Raises:
        UsageError: a scan of the study would be training or validation data of a method.

    """
    tested = {_resolved(s.source) for s in scans}
    subjects = {s.subject for s in scans}
    notes = []
    for m in methods:
        known: set[str] = set()
        if m.config is not None:
            data = m.config.settings.data
            sources = [*data.train, *(data.val if isinstance(data.val, list) else [])]
            files = expand(sources, data.exclude, m.config.path.parent, f"data of {m.config.path}")
            both = [f for f in files if _resolved(f) in tested]
            if both:
                raise UsageError(
                    f"{m.name} would be trained on test data",
                    where=str(m.config.path),
                    why=", ".join(both[:_SHOWN]),
                    fix="remove these scans from the study's data or from the training data",
                )
            known = {subject_of(Path(f.partition("#")[0]).name, data.subject) for f in files}
        elif m.model is not None:
            card = describe_model(m.model)["card"]
            # earlier versions wrote `people`
            listed = card.get("subjects", card.get("people")) if isinstance(card, dict) else None
            known = {str(s) for group in listed.values() for s in group} if isinstance(listed, dict) else set()
        shared = sorted(known & subjects)
        if shared:
            notes.append(f"{m.name} was trained on subjects with the same names: {', '.join(shared[:_SHOWN])}")
    return notes


def _resolved(text: str) -> str:
    """Return the resolved path of a file, with its ``#ARRAY``, so that equal files compare equal."""
    file, sign, part = text.partition("#")
    return text if file.split(":")[0] == PHANTOM else f"{Path(file).resolve()}{sign}{part}"
