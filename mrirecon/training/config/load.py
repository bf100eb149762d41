"""Load configurations: merge bases and `--set`, check the values, and report errors with file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mrirecon.data.sources import matches
from mrirecon.data.volumes import PHANTOM
from mrirecon.errors import UsageError
from mrirecon.methods.registry import methods, resolve
from mrirecon.registries import nearest
from mrirecon.registries.renames import new_key, new_value
from mrirecon.training.config.settings import Settings
from mrirecon.training.config.strict_yaml import KeyPath, Origin, Parsed, Plain, parse_yaml, read_yaml

MOST_BASES = 8  # in a chain
LENGTHS = {"steps", "epochs", "minutes"}  # of a run
SEE_SCHEMA = "see `mrirecon config schema`"
Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Config:
    """Hold checked settings, and the origin of each value.

    Attributes:
        settings: every value; ``model`` holds all options of the method.
        origins: by path of keys; those of defaults are missing.
        path: the file.

    """

    settings: Settings
    origins: dict[KeyPath, Origin]
    path: Path

    def plain(self) -> dict[str, Any]:
        """Return everything as plain data, as it is saved with a run."""
        return self.settings.model_dump(mode="json")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a training configuration, its bases, and overrides such as ``model.cascades=4``.

    ``base: FILE`` (or a list of files) names its bases, relative to the file: mappings are merged key by key, and
    everything else is replaced.

    Raises:
        InputError: a file that cannot be read.
        UsageError: any mistake in it, with file, line, key, and the nearest right one.

    """
    path = Path(path)
    settings, origins = load_as(Settings, path, overrides)
    try:
        options = resolve(settings.method, settings.model)
    except UsageError as error:
        key = ("model", *error.where.split(".")) if error.where else ("method",)
        error.where = origin_of(origins, key, path)
        raise
    data = settings.data
    anchored: dict[str, object] = {"train": [_absolute_source(t, path.parent) for t in data.train]}
    if isinstance(data.val, list):
        anchored["val"] = [_absolute_source(t, path.parent) for t in data.val]
    update = {"model": options, "data": data.model_copy(update=anchored)}
    return Config(settings.model_copy(update=update), origins, path)


def load_as(schema: type[Form], path: str | Path, overrides: Sequence[str] = ()) -> tuple[Form, dict[KeyPath, Origin]]:
    """Read a configuration of any schema, with bases, overrides and errors as in `load_config`.

    Args:
        schema: a model that forbids unknown keys.
        path: the file.
        overrides: such as ``methods.cs.lambda=0.01``.

    Returns:
        The checked values, and where each comes from.

    Raises:
        InputError, UsageError: see `load_config`.

    """
    path = Path(path)
    merged = _merge_bases(path, ())
    for text in overrides:
        merged = _override(merged, text, schema)
    if not isinstance(merged.values, dict):
        raise UsageError("a configuration is a mapping", where=str(path), fix="see the examples in configs/")
    try:
        return schema.model_validate(merged.values), merged.origins
    except ValidationError as error:
        raise _explain(error, merged.origins, path, schema) from None


def origin_of(origins: dict[KeyPath, Origin], key: KeyPath, path: Path) -> str:
    """Return file, line and key of a value, for an error about it."""
    return f"{_origin(origins, key, path)}, {'.'.join(map(str, key))}"


def _merge_bases(path: Path, above: tuple[Path, ...]) -> Parsed:
    """Read a file and put it over its bases; ``above`` are the files that it is a base of."""
    resolved = path.resolve()
    if resolved in above or len(above) >= MOST_BASES:
        chain = " -> ".join(p.name for p in (*above, resolved))
        raise UsageError("configurations are bases of each other in a circle", where=str(path), why=chain, fix="cut it")
    parsed = read_yaml(path)
    if not isinstance(parsed.values, dict) or "base" not in parsed.values:
        return parsed
    given = parsed.values.pop("base")
    where = str(parsed.origins[("base",)])
    below: Parsed | None = None
    for name in given if isinstance(given, list) else [given]:
        if not isinstance(name, str):
            raise UsageError("base must be a file name", where=where, fix="base: base/brain.yaml")
        target = path.parent / name
        if not target.is_file():
            near = difflib.get_close_matches(target.name, [p.name for p in target.parent.glob("*.yaml")], n=1)
            raise UsageError(
                f"the base {name!r} does not exist",
                where=where,
                why=f"there is no {target}",
                fix=f"did you mean {near[0]!r}?" if near else "name it relative to this file",
            )
        base = _merge_bases(target, (*above, resolved))
        if not isinstance(base.values, dict):
            kind = "a list" if isinstance(base.values, list) else f"the single value {str(base.values)[:60]!r}"
            raise UsageError(
                f"the base {name!r} is no configuration",
                where=where,
                why=f"{'it is empty' if base.values is None else f'it holds {kind}'}, not a mapping: {target}",
                fix="name a file of keys and values, such as those in configs/base/",
            )
        below = base if below is None else _merge(below, base)
    return parsed if below is None else _merge(below, parsed)


def _merge(below: Parsed, above: Parsed) -> Parsed:
    """Put values over others: mappings key by key, everything else whole."""
    origins = dict(below.origins)

    def put(old: Plain, new: Plain, at: KeyPath) -> Plain:
        if at in above.origins:
            origins[at] = above.origins[at]
        if isinstance(old, dict) and isinstance(new, dict):
            return old | {k: put(old.get(k), v, (*at, k)) for k, v in new.items()}
        for path in [p for p in origins if p[: len(at)] == at and p != at]:
            del origins[path]
        origins.update({p: o for p, o in above.origins.items() if p[: len(at)] == at})
        return new

    return Parsed(put(_without_replaced(below.values, above.values), above.values, ()), origins)


def _override(parsed: Parsed, text: str, schema: type[BaseModel]) -> Parsed:
    """Put one value of ``--set`` over others, whole."""
    key, sign, value = text.partition("=")
    name = f"--set {text}"
    if not sign or not key.strip():
        raise UsageError(f"{name} is not an override", fix="write --set model.cascades=4")
    parts = tuple(int(p) if p.isdigit() else p for p in key.strip().split("."))
    new = parse_yaml(value, name, line=0).values
    if parts[0] not in schema.model_fields:
        fix = nearest(str(parts[0]), list(schema.model_fields))
        raise UsageError(f"unknown key {parts[0]!r}", where=name, fix=fix)
    top = new if len(parts) == 1 else {str(parts[1]): new}
    below = _without_replaced(parsed.values, {str(parts[0]): top})
    origins = {p: o for p, o in parsed.origins.items() if p[: len(parts)] != parts}
    return Parsed(_set_value(below, parts, new, name), origins | {parts: Origin(name, 0)})


def _without_replaced(below: Plain, above: Plain) -> Plain:
    """Return values without those that others replace under another key.

    Those are the length of a run (steps, epochs or minutes), and the options of another method.
    """
    if not isinstance(below, dict) or not isinstance(above, dict):
        return below
    old, new = below.get("train"), above.get("train")
    if isinstance(old, dict) and isinstance(new, dict) and LENGTHS & set(new):
        below = below | {"train": {k: v for k, v in old.items() if k not in LENGTHS}}
    if "method" in above and above["method"] != below.get("method"):
        below = {k: v for k, v in below.items() if k != "model"}
    return below


def _set_value(values: Plain, parts: KeyPath, new: Plain, name: str) -> Plain:
    """Return values with a new one at a path of keys and indices."""
    if not parts:
        return new
    key, rest = parts[0], parts[1:]
    if isinstance(values, list):
        if not isinstance(key, int) or key >= len(values):
            why = f"it is a list of {len(values)}"
            raise UsageError(f"there is no entry {key!r}", where=name, why=why, fix=f"choose 0 to {len(values) - 1}")
        return [_set_value(v, rest, new, name) if i == key else v for i, v in enumerate(values)]
    if isinstance(key, int) and not isinstance(values, dict):
        raise UsageError(f"there is no entry {key!r}", where=name, why="there is no list", fix="give the whole list")
    below = values if isinstance(values, dict) else {}
    return below | {str(key): _set_value(below.get(str(key)), rest, new, name)}


def _explain(error: ValidationError, origins: dict[KeyPath, Origin], path: Path, schema: type[BaseModel]) -> UsageError:
    """Return pydantic's first error as ours, with file, line and key."""
    first = error.errors()[0]
    loc: KeyPath = tuple(first["loc"])
    known = _key_path(loc)
    key = ".".join(map(str, known))
    where = f"{_origin(origins, loc, path)}, {key}"
    if first["type"] == "missing" and loc == ("method",):
        fix = f"method: {' | '.join(sorted(methods()))}"
        return UsageError("the configuration names no method", where=str(path), fix=fix)
    if first["type"] == "extra_forbidden":
        choices = list(_section(loc[:-1], schema).model_fields)
        new = new_key(".".join(map(str, loc)))
        fix = f"it is now called {new!r}" if new in choices else nearest(str(loc[-1]), choices)
        return UsageError(f"unknown key {loc[-1]!r}", where=where, fix=fix)
    why = (first["msg"][0].lower() + first["msg"][1:]).removeprefix("value error, ")
    given = first["input"]
    present = new_value(key, given)
    fix = _description(known, schema) if present is None else f"it is now {present!r}"
    if isinstance(given, dict):
        return UsageError(f"{key or 'the configuration'} cannot be used", where=where, why=why, fix=fix)
    return UsageError(f"{key} cannot be {given!r}", where=where, why=why, fix=fix)


def _key_path(loc: KeyPath) -> KeyPath:
    """Drop what pydantic appends for the branches of a union."""
    kept: list[str | int] = []
    for part in loc:
        if isinstance(part, str) and (not part.replace("_", "").isalnum() or part in ("constrained", "float", "int")):
            break
        kept.append(part)
    return tuple(kept)


def _section(loc: KeyPath, schema: type[BaseModel]) -> type[BaseModel]:
    """Return the model that a path leads to."""
    model, named = schema, False
    for part in loc:
        if isinstance(part, int) or named:  # an entry of a list, or the name of one in a mapping
            named = False
            continue
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        model = inner[0] if inner else model
        named = field is not None and get_origin(field.annotation) is dict
    return model


def _description(loc: KeyPath, schema: type[BaseModel]) -> str:
    """Return what a key means."""
    field = _section(loc[:-1], schema).model_fields.get(str(loc[-1])) if loc else None
    return SEE_SCHEMA if field is None or not field.description else f"{loc[-1]}: {field.description}"


def _origin(origins: dict[KeyPath, Origin], loc: KeyPath, path: Path) -> str:
    """Return the place of a value, of the first value in it, or else of the nearest value around it."""
    inside = [o for p, o in origins.items() if p[: len(loc)] == loc]
    if inside:
        return str(origins.get(loc, inside[0]))
    around = (origins[loc[:length]] for length in range(len(loc), -1, -1) if loc[:length] in origins)
    return str(next(around, path))


def _absolute_source(text: str, folder: Path) -> str:
    """Return a source as an absolute path where it lies relative to the configuration's folder."""
    if text.split(":")[0] == PHANTOM or "$" in text or Path(text).is_absolute() or matches(text.partition("#")[0]):
        return text
    name, sign, part = text.partition("#")
    there = folder / name
    return f"{there.resolve()}{sign}{part}" if matches(there) else text
