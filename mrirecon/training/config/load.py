"""From files and `--set` to checked settings: bases below, overrides above, every error with its line."""

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
from mrirecon.training.config.settings import Settings
from mrirecon.training.config.strict_yaml import Origin, Parsed, Path_, Plain, parse_yaml, read_yaml

BASES = 8  # files that may stand on each other
Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Config:
    """Checked settings, and where each value comes from.

    Attributes:
        settings: every value; ``model`` holds all options of the method.
        origins: by path; what is missing is a default.
        path: the file that was asked for.

    """

    settings: Settings
    origins: dict[Path_, Origin]
    path: Path

    def plain(self) -> dict[str, Any]:
        """Return everything as plain data, as it is saved with a run."""
        return self.settings.model_dump(mode="json")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, what it is based on, and overrides like ``model.cascades=4``.

    ``base: FILE`` (or a list of files) names what it stands on, relative to the file: mappings are merged key by key,
    everything else is replaced.

    Raises:
        InputError: a file that cannot be read.
        UsageError: whatever is wrong in it, with file, line, key, and the nearest right one.

    """
    path = Path(path)
    merged = _with_bases(path, ())
    for text in overrides:
        merged = _override(merged, text)
    return check(merged, path)


def load_as(schema: type[Form], path: str | Path, overrides: Sequence[str] = ()) -> tuple[Form, dict[Path_, Origin]]:
    """Read a configuration of another form, with the same bases, overrides and errors.

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
    merged = _with_bases(path, ())
    for text in overrides:
        merged = _override(merged, text, schema)
    if not isinstance(merged.values, dict):
        raise UsageError("a configuration is a mapping", where=str(path), fix="see the examples in configs/")
    try:
        return schema.model_validate(merged.values), merged.origins
    except ValidationError as error:
        raise _explain(error, merged.origins, path, schema) from None


def origin_of(origins: dict[Path_, Origin], key: Path_, path: Path) -> str:
    """Return file, line and key of a value, for an error about it."""
    return f"{_origin(origins, key, path)}, {'.'.join(map(str, key))}"


def saved_config(path: str | Path) -> dict[str, Any]:
    """Return the resolved configuration that was saved with a run, as plain data."""
    return load_config(path).plain()


def check(parsed: Parsed, path: Path) -> Config:
    """Validate values.

    Raises:
        UsageError: with file, line and key.

    """
    values, origins = parsed.values, parsed.origins
    if not isinstance(values, dict):
        raise UsageError("a configuration is a mapping", where=str(path), fix="start with `method: cirim`")
    name = values.get("method")
    if not isinstance(name, str):
        where = str(origins.get(("method",), path))
        raise UsageError(
            "the configuration names no method", where=where, fix=f"method: {' | '.join(sorted(methods()))}"
        )
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origins, path) from None
    try:
        options = resolve(name, settings.model)
    except UsageError as error:
        key = ("model", *(error.where or "").split(".")) if error.where else ("method",)
        error.where = f"{_origin(origins, key, path)}, {'.'.join(key)}"
        raise
    data = settings.data
    anchored: dict[str, object] = {"train": [_anchor(t, path.parent) for t in data.train]}
    if isinstance(data.val, list):
        anchored["val"] = [_anchor(t, path.parent) for t in data.val]
    data = data.model_copy(update=anchored)
    return Config(settings.model_copy(update={"model": options, "data": data}), origins, path)


def _with_bases(path: Path, above: tuple[Path, ...]) -> Parsed:
    resolved = path.resolve()
    if resolved in above or len(above) >= BASES:
        chain = " -> ".join(p.name for p in (*above, resolved))
        raise UsageError("configurations stand on each other in a circle", where=str(path), why=chain, fix="cut it")
    parsed = read_yaml(path)
    values = parsed.values
    if not isinstance(values, dict) or "base" not in values:
        return parsed
    given = values.pop("base")
    names = given if isinstance(given, list) else [given]
    below: Parsed | None = None
    for name in names:
        if not isinstance(name, str):
            raise UsageError(
                "base must be a file name", where=str(parsed.origins[("base",)]), fix="base: base/brain.yaml"
            )
        target = path.parent / name
        if not target.is_file():
            near = difflib.get_close_matches(target.name, [p.name for p in target.parent.glob("*.yaml")], n=1)
            raise UsageError(
                f"the base {name!r} does not exist",
                where=str(parsed.origins[("base",)]),
                why=f"there is no {target}",
                fix=f"did you mean {near[0]!r}?" if near else "name it relative to this file",
            )
        found = _with_bases(target, (*above, resolved))
        if not isinstance(found.values, dict):
            kind = "it is empty" if found.values is None else f"it holds {_kind(found.values)}"
            raise UsageError(
                f"the base {name!r} is no configuration",
                where=str(parsed.origins[("base",)]),
                why=f"{kind}, and a configuration is a mapping: {target}",
                fix="name a file of keys and values, such as those in configs/base/",
            )
        below = found if below is None else _merge(below, found)
    assert below is not None or not names, "every name gave a file"
    return parsed if below is None else _merge(below, parsed)


def _kind(values: Plain) -> str:
    return "a list" if isinstance(values, list) else f"the single value {str(values)[:60]!r}"


def _merge(below: Parsed, above: Parsed) -> Parsed:
    """Put values over others: mappings key by key, everything else whole; a new method drops the old one's options."""
    values, origins = below.values, dict(below.origins)

    def put(old: Plain, new: Plain, at: Path_) -> Plain:
        if at in above.origins:
            origins[at] = above.origins[at]
        if isinstance(old, dict) and isinstance(new, dict):
            return old | {k: put(old.get(k), v, (*at, k)) for k, v in new.items()}
        for path in [p for p in origins if p[: len(at)] == at and p != at]:
            del origins[path]
        origins.update({p: o for p, o in above.origins.items() if p[: len(at)] == at})
        return new

    changed = isinstance(values, dict) and isinstance(above.values, dict) and "method" in above.values
    values = _make_way(values, above.values)
    if changed and isinstance(values, dict) and values.get("method") != above.values["method"]:  # type: ignore[index, call-overload]
        values = {k: v for k, v in values.items() if k != "model"}
    return Parsed(put(values, above.values, ()), origins)


def _override(parsed: Parsed, text: str, schema: type[BaseModel] = Settings) -> Parsed:
    key, sign, value = text.partition("=")
    name = f"--set {text}"
    if not sign or not key.strip():
        raise UsageError(f"{name} is not an override", fix="write --set model.cascades=4")
    parts = [int(p) if p.isdigit() else p for p in key.strip().split(".")]
    found = parse_yaml(value, name, line=0).values
    if parts[0] not in schema.model_fields:
        raise UsageError(
            f"unknown key {parts[0]!r}", where=name, fix=_nearest(str(parts[0]), list(schema.model_fields))
        )
    values = _make_way(parsed.values, _put({}, parts, found, name))
    values = _put(values, parts, found, name)
    at = tuple(parts)
    kept = {p: o for p, o in parsed.origins.items() if p[: len(at)] != at}
    if (
        parts == ["method"]
        and isinstance(values, dict)
        and isinstance(parsed.values, dict)
        and found != parsed.values.get("method")
    ):
        values = {k: v for k, v in values.items() if k != "model"}
    return Parsed(values, kept | {at: Origin(name, 0)})


LENGTHS = {"steps", "epochs", "minutes"}  # of a run


def _make_way(below: Plain, above: Plain) -> Plain:
    """Drop the length of a run where what lies above gives another: steps, epochs and minutes."""
    old, new = (v.get("train") if isinstance(v, dict) else None for v in (below, above))
    given = LENGTHS & set(new) if isinstance(new, dict) else set()
    if not given or not isinstance(old, dict) or not isinstance(below, dict):
        return below
    return below | {"train": {k: v for k, v in old.items() if k not in LENGTHS}}


def _put(values: Plain, parts: list[str | int], new: Plain, name: str) -> Plain:
    if not parts:
        return new
    key, rest = parts[0], parts[1:]
    if isinstance(values, list):
        if not isinstance(key, int) or key >= len(values):
            why = f"it is a list of {len(values)}"
            raise UsageError(f"there is no entry {key!r}", where=name, why=why, fix=f"choose 0 to {len(values) - 1}")
        return [_put(v, rest, new, name) if i == key else v for i, v in enumerate(values)]
    if isinstance(key, int) and not isinstance(values, dict):
        raise UsageError(f"there is no entry {key!r}", where=name, why="there is no list", fix="give the whole list")
    below = values if isinstance(values, dict) else {}
    return below | {str(key): _put(below.get(str(key)), rest, new, name)}


def _explain(
    error: ValidationError, origins: dict[Path_, Origin], path: Path, schema: type[BaseModel] = Settings
) -> UsageError:
    first = error.errors()[0]
    loc: Path_ = tuple(first["loc"])
    known = _known(loc)
    where = f"{_origin(origins, loc, path)}, {'.'.join(map(str, known))}"
    if first["type"] == "extra_forbidden":
        choices = list(_section(loc[:-1], schema).model_fields)
        return UsageError(f"unknown key {loc[-1]!r}", where=where, fix=_nearest(str(loc[-1]), choices))
    why = first["msg"][0].lower() + first["msg"][1:]
    given = first["input"]
    what = (
        f"{'.'.join(map(str, known))} cannot be {given!r}"
        if not isinstance(given, dict)
        else f"{'.'.join(map(str, known)) or 'the configuration'} cannot be used"
    )
    return UsageError(what, where=where, why=why.removeprefix("value error, "), fix=_advice(known, schema))


def _known(loc: Path_) -> Path_:
    """Drop what pydantic appends for the branches of a union."""
    kept: list[str | int] = []
    for part in loc:
        if isinstance(part, str) and (not part.replace("_", "").isalnum() or part in ("constrained", "float", "int")):
            break
        kept.append(part)
    return tuple(kept)


def _section(loc: Path_, schema: type[BaseModel]) -> type[BaseModel]:
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


def _advice(loc: Path_, schema: type[BaseModel]) -> str:
    if not loc:
        return "see `mrirecon config schema`"
    field = _section(loc[:-1], schema).model_fields.get(str(loc[-1]))
    if field is None or not field.description:
        return "see `mrirecon config schema`"
    return f"{loc[-1]}: {field.description}"


def _origin(origins: dict[Path_, Origin], loc: Path_, path: Path) -> str:
    below = [o for p, o in origins.items() if p[: len(loc)] == loc]
    if below:  # the place itself, or the first thing in it
        return str(origins.get(loc, below[0]))
    for length in range(len(loc), -1, -1):
        if loc[:length] in origins:
            return str(origins[loc[:length]])
    return str(path)


def _anchor(text: str, folder: Path) -> str:
    """Return a path that means the same from here: relative ones may start from the configuration's folder."""
    if text.split(":")[0] == PHANTOM or "$" in text or Path(text).is_absolute() or matches(text.partition("#")[0]):
        return text
    name, sign, part = text.partition("#")
    there = folder / name
    return f"{there.resolve()}{sign}{part}" if matches(there) else text


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(sorted(choices))}"
