"""Write the reference pages that follow from the code: commands, methods, configurations and their JSON schemas."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from mrirecon.cli import app
from mrirecon.coils.registry import CALIBRATIONS
from mrirecon.io.readers.registry import READERS
from mrirecon.masks import FAMILIES
from mrirecon.methods.registry import methods
from mrirecon.metrics import LOSSES, METRICS
from mrirecon.registries import Entry
from mrirecon.training.config import schema
from mrirecon.training.config.settings import Settings

Schema = Mapping[str, Any]


def write_all(folder: Path) -> None:
    """Write all pages; a page that did not change is left alone, so that Sphinx need not read it again."""
    pages = {f"commands/{name}.md": text for name, text in command_pages()}
    pages |= {f"methods/{name}.md": text for name, text in method_pages()}
    pages |= {"configuration.md": configuration_page(), "registered.md": registered_page()}
    pages |= {"schema/configuration.json": _json(schema())}
    pages |= {f"schema/{name}.json": _json(schema(name)) for name in methods()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# --- commands ---


def command_pages() -> Iterator[tuple[str, str]]:
    """Yield name and page of every command, from Typer; a group is one page."""
    root = get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]  # a group
        lines = [f"# {name}", "", _escape(_sentence(command.help)), ""]
        inner = getattr(command, "commands", None)
        if inner is None:
            lines += _command(f"mrirecon {name}", command)
        else:
            for key, one in inner.items():
                lines += [f"## {name} {key}", "", _escape(_sentence(one.help)), ""]
                lines += _command(f"mrirecon {name} {key}", one)
        yield name, "\n".join(lines)


def _command(path: str, command: Any) -> list[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    command.get_help(context)  # completes the lists in help texts
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = ["```text", usage, "```", ""]
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or kind
            panels.setdefault(panel, []).extend([f"`{record[0]}`", f": {_escape(record[1]) or 'No more to say.'}", ""])
    for panel, entries in panels.items():
        lines += [f"**{panel}**", "", *entries]
    return lines


# --- methods ---


def method_pages() -> Iterator[tuple[str, str]]:
    """Yield name and page of every method, with its equation and all of its options."""
    for name, method in methods().items():
        first, *rest = (inspect.getdoc(method.build) or "").split("\n")
        kind = "a learned method" if method.learned else "a classical method, without training"
        lines = [f"# {name}", "", _escape(first), "", *_paragraphs(rest)]
        lines += [f"This is {kind}, defined in `{_source(method.build)}`. ", ""]
        definition = method.schema.model_json_schema()
        if not definition.get("properties"):
            yield name, "\n".join([*lines, "It has no options.", ""])
            continue
        lines += [
            "Set an option with `--set NAME=VALUE` on the command line, or under `model:` in a configuration.",
            "",
            *_options(definition, set(method.options)),
        ]
        lines += ["", f"For editors: {{download}}`{name}.json <../schema/{name}.json>` is the JSON schema.", ""]
        yield name, "\n".join(lines)


def _options(definition: Schema, own: set[str]) -> list[str]:
    properties = definition["properties"]
    groups = {"Options": [k for k in properties if k in own]}
    groups["Options of all learned methods"] = [k for k in properties if k not in own]
    lines = []
    for title, names in groups.items():
        if names:
            lines += [f"## {title}", ""]
            for name in names:
                lines += _key(name, properties[name], definition)
    return lines


# --- configurations ---


def configuration_page() -> str:
    """Return the page of all keys of a configuration, from the pydantic models."""
    definition = Settings.model_json_schema()
    lines = [
        *("# Keys of a configuration", ""),
        "A configuration is a YAML file with `method` and four sections. `mrirecon config init METHOD` writes one with",
        "every option, its default and its meaning; `mrirecon config show FILE` prints the resolved values and the",
        "file and line each comes from. `base: OTHER.yaml` builds on another file.",
        "",
        "The keys of `model` are the options of the [method](../methods.md).",
        "",
        "An editor completes and checks the keys if the first line of the file names a JSON schema, which",
        "`mrirecon config schema METHOD > schema.json` writes (for any method:",
        "{download}`configuration.json <schema/configuration.json>`):",
        "",
        "```yaml",
        "# yaml-language-server: $schema=schema.json",
        "```",
        "",
        *_section("", definition, definition),
    ]
    return "\n".join(lines) + "\n"


def _section(path: str, section: Schema, definition: Schema) -> list[str]:
    lines, inner = [], []
    for name, value in section["properties"].items():
        key = f"{path}.{name}" if path else name
        reference = _target(value, definition)
        if reference is not None and "properties" in reference:
            inner.append((key, reference))
        else:
            lines += _key(key, value, definition)
            element = _target(value.get("items", {}), definition)
            if element is not None and "properties" in element:
                inner.append((f"{key}[]", element))
    for key, reference in inner:
        lines += [f"## {key}", "", _escape(reference.get("description", "")), "", *_section(key, reference, definition)]
    return lines


def _key(name: str, value: Schema, definition: Schema) -> list[str]:
    facts = [_type(value, definition)]
    if "default" in value:
        facts.append(f"default `{json.dumps(value['default'], ensure_ascii=False)}`")
    elif "const" not in value:
        facts.append("required" if name in definition.get("required", ()) else "optional")
    meaning = _sentence(value.get("description", ""))
    return [f"`{name}`", f": {_escape(meaning)}{' ' if meaning else ''}({'; '.join(facts)})", ""]


def _target(value: Schema, definition: Schema) -> Schema | None:
    """Return the definition that a value refers to."""
    reference = value.get("$ref")
    if reference is None:
        return None
    found: Schema = definition["$defs"][reference.rpartition("/")[2]]
    return found


def _type(value: Schema, definition: Schema) -> str:
    """Return the type of a JSON schema in words."""
    value = _target(value, definition) or value
    if "enum" in value:
        return "one of " + ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one, definition) for one in value["anyOf"]))
    if "properties" in value:
        return "section"
    kind = value.get("type", "any value")
    if kind == "array":
        least, most = value.get("minItems"), value.get("maxItems")
        count = f"{least} × " if least is not None and least == most else "at least one " if least == 1 else ""
        return f"list of {count}{_type(value.get('items', {}), definition)}"
    words = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "none",
        "object": "section",
    }
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return " ".join([words.get(kind, str(kind)), *limits])


# --- everything that is registered ---


def registered_page() -> str:
    """Return the lists of mask families, coil calibrations, metrics, losses and readers."""
    kinds: dict[str, tuple[str, Mapping[str, Entry]]] = {
        "Mask families": ("`mrirecon masks make NAME`", FAMILIES),
        "Coil calibrations": ("`mrirecon reconstruct --maps NAME`", CALIBRATIONS),
        "Metrics": ("`mrirecon evaluate --metrics NAME,NAME`", METRICS),
        "Losses": ("`loss: {NAME: WEIGHT}` in a configuration", LOSSES),
        "Readers": ("recognized by the content of a file", READERS),
    }
    lines = ["# Masks, maps, metrics, losses and readers", ""]
    for title, (use, entries) in kinds.items():
        lines += [f"## {title}", "", f"Use: {use}.", ""]
        for name, entry in entries.items():
            options = ", ".join(f"`{option}`" for option in entry.options if option not in ("region",))
            lines += [f"`{name}`", f": {_escape(entry.summary)}{f' Options: {options}.' if options else ''}", ""]
    return "\n".join(lines)


# --- text ---


def _escape(text: str) -> str:
    """Escape Markdown outside of backticks."""
    parts = re.split(r"(``.+?``|`[^`]+`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([*_<>\[\]$|{}])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _paragraphs(lines: list[str]) -> list[str]:
    """Return plain text as Markdown, a paragraph a line."""
    return [part for one in "\n".join(lines).strip().split("\n\n") if one for part in (_escape(one), "")]


def _sentence(text: str | None) -> str:
    """Return a text that begins with a capital letter and ends with a full stop."""
    text = (text or "").strip()
    return text and text[0].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _source(function: Any) -> str:
    return f"{function.__module__.replace('.', '/')}.py"


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
