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

MOST_BASES = 8  # maximum depth of a chain of bases
LENGTHS = {"steps", "epochs", "minutes"}  # keys that set the length of a run
SEE_SCHEMA = "see `mrirecon config schema`"
Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Config:
    """Hold validated settings and the origin of each value.

    Attributes:
        settings: all values; ``model`` holds all options of the method.
        origins: origin of each value, keyed by the path of keys; defaults have none.
        path: file of the configuration.

    """

    settings: Settings
    origins: dict[KeyPath, Origin]
    path: Path

    def plain(self) -> dict[str, Any]:
        """Return all values as plain data, in the form saved with a run."""
        return self.settings.model_dump(mode="json")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a training configuration, its bases, and overrides such as ``model.cascades=4``.

    ``base: FILE`` (or a list of files) names its bases, relative to the file: mappings are merged key by key; other
    values are replaced.

    Raises:
        InputError: a file cannot be read.
        UsageError: the configuration has an error; the message gives file, line, key and the closest valid key.

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
    """Read a configuration with any schema; bases, overrides and errors as in `load_config`.

    Args:
        schema: pydantic model that forbids unknown keys.
        path: file of the configuration.
        overrides: overrides such as ``methods.cs.lambda=0.01``.

    Returns:
        The validated values, and the origin of each.

    Raises:
        InputError, UsageError: see `load_config`.

    """
    path = Path(path)
    merged = _merge_bases(path, ())
    for text in overrides:
        merged = _override(merged, text, schema)
    if not isinstance(merged.values, dict):
        raise UsageError("the configuration must be a mapping", where=str(path), fix="see the examples in configs/")
    try:
        return schema.model_validate(merged.values), merged.origins
    except ValidationError as error:
        raise _explain(error, merged.origins, path, schema) from None


def origin_of(origins: dict[KeyPath, Origin], key: KeyPath, path: Path) -> str:
    """Return file, line and key of a value for an error message."""
    return f"{_origin(origins, key, path)}, {'.'.join(map(str, key))}"


def _merge_bases(path: Path, above: tuple[Path, ...]) -> Parsed:
    """Read a file and merge it over its bases; ``above`` are the files that use it as a base."""
    resolved = path.resolve()
    if resolved in above or len(above) >= MOST_BASES:
        chain = " -> ".join(p.name for p in (*above, resolved))
        raise UsageError(
            "the bases of the configuration form a cycle", where=str(path), why=chain, fix="remove one base"
        )
    parsed = read_yaml(path)
    if not isinstance(parsed.values, dict) or "base" not in parsed.values:
        return parsed
    bases = parsed.values.pop("base")
    location = str(parsed.origins[("base",)])
    below: Parsed | None = None
    for name in bases if isinstance(bases, list) else [bases]:
        if not isinstance(name, str):
            raise UsageError("base must be a file name", where=location, fix="base: base/brain.yaml")
        target = path.parent / name
        if not target.is_file():
            near = difflib.get_close_matches(target.name, [p.name for p in target.parent.glob("*.yaml")], n=1)
            raise UsageError(
                f"the base {name!r} does not exist",
                where=location,
                why=f"there is no {target}",
                fix=f"did you mean {near[0]!r}?" if near else "write a path relative to this file",
            )
        base = _merge_bases(target, (*above, resolved))
        if not isinstance(base.values, dict):
            kind = "a list" if isinstance(base.values, list) else f"the single value {str(base.values)[:60]!r}"
            raise UsageError(
                f"the base {name!r} is not a configuration",
                where=location,
                why=f"{'it is empty' if base.values is None else f'it holds {kind}'}, not a mapping: {target}",
                fix="use a file of keys and values, such as those in configs/base/",
            )
        below = base if below is None else _merge(below, base)
    return parsed if below is None else _merge(below, parsed)


def _merge(below: Parsed, above: Parsed) -> Parsed:
    """Merge values over others: mappings key by key, other values replaced."""
    origins = dict(below.origins)

    def put(old: Plain, new: Plain, key: KeyPath) -> Plain:
        if key in above.origins:
            origins[key] = above.origins[key]
        if isinstance(old, dict) and isinstance(new, dict):
            return old | {k: put(old.get(k), v, (*key, k)) for k, v in new.items()}
        for path in [p for p in origins if p[: len(key)] == key and p != key]:
            del origins[path]
        origins.update({p: o for p, o in above.origins.items() if p[: len(key)] == key})
        return new

    return Parsed(put(_without_replaced(below.values, above.values), above.values, ()), origins)


def _override(parsed: Parsed, text: str, schema: type[BaseModel]) -> Parsed:
    """Set one value of ``--set``, replacing the old value."""
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
    """Remove values that others replace under another key.

    These are the length of a run (steps, epochs or minutes) and the options of another method.
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
    """Return values with one value set at a path of keys and indices."""
    if not parts:
        return new
    key, rest = parts[0], parts[1:]
    if isinstance(values, list):
        if not isinstance(key, int) or key >= len(values):
            why = f"the list has {len(values)} entries"
            raise UsageError(f"no entry {key!r}", where=name, why=why, fix=f"choose 0 to {len(values) - 1}")
        return [_set_value(v, rest, new, name) if i == key else v for i, v in enumerate(values)]
    if isinstance(key, int) and not isinstance(values, dict):
        raise UsageError(f"no entry {key!r}", where=name, why="not a list", fix="give the whole list")
    below = values if isinstance(values, dict) else {}
    return below | {str(key): _set_value(below.get(str(key)), rest, new, name)}


def _explain(error: ValidationError, origins: dict[KeyPath, Origin], path: Path, schema: type[BaseModel]) -> UsageError:
    """Convert pydantic's first error to a UsageError with file, line and key."""
    first = error.errors()[0]
    loc: KeyPath = tuple(first["loc"])
    known = _key_path(loc)
    key = ".".join(map(str, known))
    location = f"{_origin(origins, loc, path)}, {key}"
    if first["type"] == "missing" and loc == ("method",):
        fix = f"method: {' | '.join(sorted(methods()))}"
        return UsageError("the configuration has no method", where=str(path), fix=fix)
    if first["type"] == "extra_forbidden":
        choices = list(_section(loc[:-1], schema).model_fields)
        new = new_key(".".join(map(str, loc)))
        fix = f"the new name is {new!r}" if new in choices else nearest(str(loc[-1]), choices)
        return UsageError(f"unknown key {loc[-1]!r}", where=location, fix=fix)
    why = (first["msg"][0].lower() + first["msg"][1:]).removeprefix("value error, ")
    value = first["input"]
    present = new_value(key, value)
    fix = _description(known, schema) if present is None else f"the new value is {present!r}"
    if isinstance(value, dict):
        return UsageError(f"{key or 'the configuration'} cannot be used", where=location, why=why, fix=fix)
    return UsageError(f"{key} cannot be {value!r}", where=location, why=why, fix=fix)


def _key_path(loc: KeyPath) -> KeyPath:
    """Remove the parts that pydantic appends for the branches of a union."""
    keys: list[str | int] = []
    for part in loc:
        if isinstance(part, str) and (not part.replace("_", "").isalnum() or part in ("constrained", "float", "int")):
            break
        keys.append(part)
    return tuple(keys)


def _section(loc: KeyPath, schema: type[BaseModel]) -> type[BaseModel]:
    """Return the pydantic model at a path of keys."""
    model, named = schema, False
    for part in loc:
        if isinstance(part, int) or named:  # an entry of a list, or a name in a mapping
            named = False
            continue
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        model = inner[0] if inner else model
        named = field is not None and get_origin(field.annotation) is dict
    return model


def _description(loc: KeyPath, schema: type[BaseModel]) -> str:
    """Return the description of a key."""
    field = _section(loc[:-1], schema).model_fields.get(str(loc[-1])) if loc else None
    return SEE_SCHEMA if field is None or not field.description else f"{loc[-1]}: {field.description}"


def _origin(origins: dict[KeyPath, Origin], loc: KeyPath, path: Path) -> str:
    """Return the origin of a value, of the first value in it, or of the closest enclosing value."""
    inside = [o for p, o in origins.items() if p[: len(loc)] == loc]
    if inside:
        return str(origins.get(loc, inside[0]))
    around = (origins[loc[:length]] for length in range(len(loc), -1, -1) if loc[:length] in origins)
    return str(next(around, path))


def _absolute_source(text: str, folder: Path) -> str:
    """Return a source as an absolute path if it exists relative to the configuration's folder."""
    if text.split(":")[0] == PHANTOM or "$" in text or Path(text).is_absolute() or matches(text.partition("#")[0]):
        return text
    name, sign, part = text.partition("#")
    source = folder / name
    return f"{source.resolve()}{sign}{part}" if matches(source) else text
