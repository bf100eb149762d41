"""Format configurations: with the origin of each value, as a template, as a JSON schema, and as differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from mrirecon.data.settings import Data
from mrirecon.methods.registry import find_method
from mrirecon.registries import documented
from mrirecon.training.config.load import Config
from mrirecon.training.config.settings import LossSettings, Settings, Train
from mrirecon.training.config.strict_yaml import KeyPath, Origin

_COLUMN = 56


def render(config: Config, *, origins: bool = False) -> str:
    """Return a configuration as YAML that can be loaded, optionally with the origin of each value as a comment."""
    return "\n".join(_lines(config.plain(), (), config.origins if origins else None)) + "\n"


def schema(method: str | None = None) -> dict[str, Any]:
    """Return the JSON schema of configurations, with the options of a method if its name is given."""
    definition = documented(Settings)
    if method is not None:
        options = find_method(method).documented_schema
        definition["properties"] |= {"method": {"const": method}, "model": options}
    return definition


def template(method: str) -> str:
    """Return a template of a configuration: required values, and all others with their defaults as comments."""
    chosen = find_method(method)
    texts = chosen.documented_schema["properties"]
    options = [
        _comment(f"#   {name}: {_flow(field.default)}", texts[name]["description"])
        for name, field in chosen.schema.model_fields.items()
    ]
    lines = [f"# {chosen.summary}", f"method: {chosen.name}", "", "# model:" if options else "# model: {}", *options]
    needed: dict[str, dict[str, Any]] = {
        "data": {"train": ["phantom:0", "phantom:1"], "val": ["phantom:100"], "crop": [128, 160]},
        "loss": {"l1": 1.0},
        "train": {"steps": 1000},
    }
    sections: dict[str, type[BaseModel]] = {"data": Data, "loss": LossSettings, "train": Train}
    for section, model in sections.items():
        lines += ["", f"{section}:"]
        fields, required, texts = model.model_fields, needed[section], documented(model)["properties"]
        lines += [_comment(f"  {name}: {_flow(required[name])}", texts[name]["description"]) for name in required]
        for name in (name for name in fields if name not in required):
            value = _plain(fields[name].get_default(call_default_factory=True))
            lines.append(_comment(f"  # {name}: {_flow(value)}", texts[name]["description"]))
    return "\n".join(lines) + "\n"


def _plain(value: object) -> object:
    """Return a default as plain data; in lists of sections, without the sections' own defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [v.model_dump(mode="json", exclude_defaults=True) if isinstance(v, BaseModel) else v for v in value]
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one line for every value that differs: key, old, new."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {_flow(a)} -> {_flow(b)}")
    return lines


def _lines(values: Mapping[str, Any], parent: KeyPath, origins: Mapping[KeyPath, Origin] | None) -> Iterator[str]:
    margin = "  " * len(parent)
    for key, value in values.items():
        path = (*parent, key)
        if isinstance(value, Mapping) and value:
            yield f"{margin}{key}:"
            yield from _lines(value, path, origins)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield _comment(f"{margin}{key}:", "" if origins is None else _from(path, origins))
            yield from (f"{margin}  - {_flow(entry)}" for entry in value)
        else:
            yield _comment(f"{margin}{key}: {_flow(value)}", "" if origins is None else _from(path, origins))


def _from(path: KeyPath, origins: Mapping[KeyPath, Origin]) -> str:
    # Values in a mapping that was replaced as a whole have the origin of the mapping.
    for length in (*range(len(path), 1, -1), len(path)):
        if path[:length] in origins:
            return str(origins[path[:length]])
    return "default"


def _comment(line: str, text: str) -> str:
    return f"{line.ljust(_COLUMN)} # {text}" if text else line


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()
