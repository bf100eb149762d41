"""From a configuration to the cells of a study: each scan, under each mask, by each method, and what it depends on.

A cell's key is a hash of all that its image depends on: the bytes of the scan (or all that it is simulated from), the
settings and seed of its mask, the options and weights of its method (or the whole configuration that trains it), and
the version of mrirecon. What is there under the same key need not be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrirecon import __version__
from mrirecon.data.sources import check_person, expand, person_of
from mrirecon.data.volumes import PHANTOM
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.evaluation import Options
from mrirecon.evaluation.paired import PERSON
from mrirecon.evaluation.study.fairness import seen_before, unequal
from mrirecon.evaluation.study.parts import Plan, PlannedMask, PlannedMethod, PlannedScan, digest
from mrirecon.evaluation.study.settings import MethodSetting, StudySettings
from mrirecon.io import safe_name, sha256
from mrirecon.masks import FAMILIES, MaskResult, make_mask
from mrirecon.methods.registry import find, resolve
from mrirecon.models.checkpoints import describe_model, shipped
from mrirecon.training.config import Config, load_as, load_config, origin_of
from mrirecon.training.config.strict_yaml import Origin, Path_

# What may change in a training configuration without changing a number of the run.
_IDLE = ("workers", "tensorboard", "checkpoint_every", "checkpoint_seconds", "panels", "log_every")


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a study's configuration, and find out what it consists of; nothing is written.

    Relative paths start from the configuration's folder, unless they exist from where the command runs.

    Raises:
        UsageError: whatever is wrong in it, with file, line, key and the nearest right one.
        InputError: files that cannot be read.

    """
    path = Path(path)
    settings, origins = load_as(StudySettings, path, overrides)
    notes: list[str] = []
    try:
        Options(settings.preset, tuple(settings.metrics))
    except UsageError as error:
        raise _at(error, origins, ("metrics",), path) from None
    if settings.person is not None:
        check_person(settings.person, "person", origin_of(origins, ("person",), path))
    scans = _scans(settings, origins, path, notes)
    masks = [
        PlannedMask(f"{name}-{rate:g}x", rate, m, digest([settings.seed, rate, m.model_dump(exclude={"acceleration"})]))
        for name, m in settings.masks.items()
        for rate in m.acceleration
    ]
    for mask in masks:
        try:
            _probe(mask)
        except UsageError as error:
            raise _at(error, origins, ("masks", mask.name.rpartition("-")[0]), path) from None
    methods = []
    for name, setting in settings.methods.items():
        try:
            methods.append(_method(name, setting, settings, path))
        except (InputError, UsageError) as error:
            inner = [k for k in (error.where or "").split(".") if k in setting.options]
            raise _at(error, origins, ("methods", name, *(["options", inner[0]] if inner else [])), path) from None
    notes += [*unequal(methods), *seen_before(methods, scans)]
    return Plan(settings, path, scans, masks, methods, notes)


def draw(mask: PlannedMask, shape: tuple[int, ...], name: str, seed: int) -> MaskResult:
    """Return the mask of a scan (see `make_mask`): a function of the study's seed and the scan's name."""
    m = mask.setting
    return make_mask(
        m.family,
        shape,
        mask.rate,
        calibration=m.calibration,
        # fastMRI seeds by the name alone
        seed=0 if m.compat == "fastmri" else seed,
        name=name,
        compat=m.compat,
        axis=-2 if FAMILIES[m.family].over == "lines" and m.axis == "y" else -1,
    )


def _probe(mask: PlannedMask) -> None:
    """Find out early what no size of a scan would mend; what its own size does not allow fails with the scan."""
    if FAMILIES[mask.setting.family].over == "lines":
        draw(mask, (4096, 1) if mask.setting.axis == "y" else (1, 4096), "probe", 0)
    else:
        draw(replace(mask, rate=2.0, setting=mask.setting.model_copy(update={"calibration": 0})), (32, 32), "probe", 0)


def _scans(settings: StudySettings, origins: dict[Path_, Origin], path: Path, notes: list[str]) -> list[PlannedScan]:
    found: dict[str, PlannedScan] = {}
    for entry, source in settings.data.items():
        key: Path_ = ("data", entry, "files" if source.files else "volumes")
        paths: list[str] = []
        for given in source.files or source.volumes:
            try:
                every = source.files or source.volumes
                paths += expand([given], [], path.parent, origin_of(origins, key, path), every)
            except UsageError as error:
                if not source.optional:
                    raise
                notes.append(f"a part of {entry} is left out: {error.what}")
        for text in dict.fromkeys(paths):
            name = _scan_name(text)
            if name in found:
                raise UsageError(
                    f"two scans are called {name!r}",
                    where=origin_of(origins, key, path),
                    why=f"{found[name].source} and {text}",
                    fix="rename one: masks and images go by the name",
                )
            about: list[object] = [source.model_dump(exclude={"files", "volumes", "optional"})]
            file = text.partition("#")[0]
            about.append(text if file.split(":")[0] == PHANTOM else [sha256(file), text.partition("#")[2]])
            # the seed and the name draw what is simulated
            about += [settings.seed, name, __version__] if source.volumes else []
            person = person_of(name, settings.person or PERSON)
            found[name] = PlannedScan(name, entry, text, person, source, digest(about))
    if not found:
        raise UsageError("the study has no data", where=str(path), why="; ".join(notes), fix="add some under data")
    return list(found.values())


def _scan_name(text: str) -> str:
    file, _, part = text.partition("#")
    if file.split(":")[0] == PHANTOM:
        return file.replace(":", "-")
    return safe_name("-".join(p for p in (Path(file).name.split(".")[0], part) if p))


def _method(name: str, m: MethodSetting, settings: StudySettings, path: Path) -> PlannedMethod:
    if m.train is not None:
        return _trained(name, m, settings, path)
    if m.model is not None:
        folder = next((p for p in (Path(m.model), path.parent / m.model) if p.is_dir()), Path(m.model))
        about = describe_model(folder)
        return PlannedMethod(
            name, f"{about['method']}, trained, {m.model}", str(about["method"]), {}, None, folder, None, None,
            digest([about["sha256"], about["options"]]),
        )  # fmt: skip
    assert m.method is not None, "one of the three is given"
    if m.method in shipped() and not m.options:
        about = describe_model(shipped()[m.method])
        return PlannedMethod(
            name, f"{m.method}, as it comes along", m.method, {}, None, shipped()[m.method], None, None,
            digest([about["sha256"], about["options"]]),
        )  # fmt: skip
    if find(m.method).learned:
        raise UsageError(
            f"method {m.method!r} is learned, and comes without weights",
            why=f"with weights come {', '.join(sorted(shipped()))}, with options of their own",
            fix="give train: CONFIG.yaml or model: FOLDER",
        )
    resolved = resolve(m.method, m.options)
    if m.lam is not None and "lam" not in find(m.method).schema.model_fields:
        raise UsageError(f"method {m.method!r} has no regularization weight", fix="leave lam out")
    told = m.options | ({"lam": m.lam} if m.lam is not None else {})
    given = ", ".join(f"{k}={v}" for k, v in told.items())
    what = f"{m.method}{f' ({given})' if given else ''}"
    return PlannedMethod(
        name, what, m.method, dict(m.options), m.lam, None, None, None, digest([m.method, resolved, m.lam])
    )


def _trained(name: str, m: MethodSetting, settings: StudySettings, path: Path) -> PlannedMethod:
    assert m.train is not None, "asked for"
    file = path.parent / m.train if (path.parent / m.train).is_file() else Path(m.train)
    own = m.steps is not None or m.minutes is not None
    steps, minutes = (m.steps, m.minutes) if own else (settings.budget.steps, settings.budget.minutes)
    if steps is not None and minutes is not None:
        raise UsageError(f"{name} has two lengths", why=f"{steps} steps, {minutes} minutes", fix="keep one")
    config = load_config(file, [*m.set, *([f"train.steps={steps}"] if steps is not None else [])])
    if not find(config.settings.method).learned:
        raise UsageError(
            f"method {config.settings.method!r} has nothing to learn", where=str(file), fix="give it as method"
        )
    plain = config.plain()
    plain["train"] = {k: v for k, v in plain["train"].items() if k not in _IDLE}
    if minutes is not None:  # its steps are not known yet, and whatever the file says of them does not hold
        plain["train"] = {k: v for k, v in plain["train"].items() if k not in ("steps", "epochs")}
    length = f"{minutes:g} minutes" if minutes is not None else _length(config)
    return PlannedMethod(
        name, f"{config.settings.method}, to be trained for {length}", config.settings.method, {}, None, None, config,
        minutes, digest([plain, minutes]),
    )  # fmt: skip


def _length(config: Config) -> str:
    train = config.settings.train
    return f"{train.steps} steps" if train.steps is not None else f"{train.epochs} epochs"


def _at(error: MriReconError, origins: dict[Path_, Origin], key: Path_, path: Path) -> MriReconError:
    """Name the line of the study that an error comes from, and where else it points."""
    place = origin_of(origins, key, path)
    inside = error.where if error.where and (":" in error.where or "/" in error.where) else None
    error.where = f"{place}; {inside}" if inside else place
    return error


def as_error(error: Exception) -> MriReconError:
    """Return what a cell failed of; an error that is not ours is a fault of mrirecon."""
    if isinstance(error, MriReconError):
        return error
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return MriReconError("an unexpected error", why=why, fix="run this cell alone: mrirecon reconstruct --traceback")
