"""Configurations to read: resolved with the origin of each value, as a template, as a JSON schema, as a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from mrirecon.methods.registry import find
from mrirecon.training.config.load import Config
from mrirecon.training.config.settings import Settings
from mrirecon.training.config.strict_yaml import Origin, Path_

_COLUMN = 56


def render(config: Config, *, origins: bool = False) -> str:
    """Return a configuration as YAML that can be loaded again; with the origin of each value as a comment."""
    return "\n".join(_lines(config.plain(), (), config.origins if origins else None)) + "\n"


def schema(method: str | None = None) -> dict[str, Any]:
    """Return the JSON schema of configurations, with the options of a method where one is named."""
    found = Settings.model_json_schema()
    if method is not None:
        found["properties"]["method"] = {"const": method}
        found["properties"]["model"] = find(method).schema.model_json_schema()
    return found


def template(method: str) -> str:
    """Return a configuration to start from: what is needed, and everything else as comments with its default."""
    chosen = find(method)
    out = [f"# {chosen.summary}", f"method: {chosen.name}", "", "# model:"]
    out += [f"#   {name}: {_flow(field.default)}" for name, field in chosen.schema.model_fields.items()]
    if not chosen.schema.model_fields:
        out[-1] = "# model: {}"
    needed = {
        "data": {"train": ["phantom:0", "phantom:1"], "val": ["phantom:100"], "crop": [128, 160]},
        "loss": {"l1": 1.0},
        "train": {"steps": 1000},
    }
    for section in ("data", "loss", "train"):
        out += ["", f"{section}:"]
        model = Settings.model_fields[section].annotation
        assert isinstance(model, type), "every section is a model"
        assert issubclass(model, BaseModel), "every section is a model"
        given: dict[str, object] = needed[section]  # type: ignore[assignment]  # values of many types
        for name, value in given.items():
            out.append(_comment(f"  {name}: {_flow(value)}", model.model_fields[name].description or ""))
        for name, field in model.model_fields.items():
            if name in given:
                continue
            value = field.get_default(call_default_factory=True)
            value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            if isinstance(value, list) and value and isinstance(value[0], BaseModel):
                value = [v.model_dump(mode="json", exclude_defaults=True) for v in value]
            out.append(_comment(f"  # {name}: {_flow(value)}", field.description or ""))
    return "\n".join(out) + "\n"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one line for every value that differs: key, old, new."""
    out: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}: {_flow(a)} -> {_flow(b)}")
    return out


def _lines(values: Mapping[str, Any], at: Path_, origins: Mapping[Path_, Origin] | None) -> Iterator[str]:
    margin = "  " * len(at)
    for key, value in values.items():
        path = (*at, key)
        if isinstance(value, Mapping) and value:
            yield f"{margin}{key}:"
            yield from _lines(value, path, origins)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield _comment(f"{margin}{key}:", "" if origins is None else _from(path, origins))
            yield from (f"{margin}  - {_flow(entry)}" for entry in value)
        else:
            yield _comment(f"{margin}{key}: {_flow(value)}", "" if origins is None else _from(path, origins))


def _from(path: Path_, origins: Mapping[Path_, Origin]) -> str:
    # A mapping that was replaced whole is one origin for all that lies in it.
    for length in range(len(path), 1, -1):
        if path[:length] in origins:
            return str(origins[path[:length]])
    return str(origins[path]) if path in origins else "default"


def _comment(line: str, text: str) -> str:
    return f"{line.ljust(_COLUMN)} # {text}" if text else line


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()
