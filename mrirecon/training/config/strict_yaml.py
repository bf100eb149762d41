"""Read a strict subset of YAML with line numbers: no duplicate keys, aliases or tags; 1e-3 is a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mrirecon.errors import InputError, UsageError

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
KeyPath = tuple[str | int, ...]

SIZE, NODES, DEPTH = 1 << 20, 20_000, 24
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_WORDS: dict[str, Plain] = {"": None, "null": None, "~": None, "true": True, "false": False}
_WORDS |= {".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@dataclass(frozen=True)
class Origin:
    """Hold the origin of a value."""

    file: str
    line: int  # counted from 1; 0 without lines

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Parsed:
    """Hold values, and the origin of each, keyed by its path of keys and indices."""

    values: Plain
    origins: dict[KeyPath, Origin]


def read_yaml(path: Path) -> Parsed:
    """Return the content of a file.

    Raises:
        InputError: the file is missing, too large, or not text.
        UsageError: it is not in the accepted subset of YAML; the line is named.

    """
    try:
        if path.stat().st_size > SIZE:
            raise InputError(f"{path} is too large for a configuration", why=f"more than {SIZE >> 20} MiB")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text", why=str(error), fix="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=error.strerror, fix="check the path") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str, line: int | None = None) -> Parsed:
    """Return the values of a text; ``line`` replaces the lines of the text.

    Raises:
        UsageError: it is not in the accepted subset of YAML; the line is named.

    """
    builder = _Builder(name, line)
    try:
        builder.check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "'\\t'" in str(error.problem):
            raise builder.error(mark, "tab character", "indent with spaces") from None
        why = error.problem or "invalid YAML"
        raise builder.error(mark, why, "check the indentation, colons and brackets") from None
    except yaml.YAMLError as error:
        raise builder.error(None, " ".join(str(error).split()), "use plain text") from None
    except RecursionError:
        raise builder.error(None, "nested too deeply", "reduce the nesting") from None
    return Parsed(values, builder.origins)


def scalar(text: str) -> Plain:
    """Return the value of an unquoted scalar by YAML 1.2, in which yes, no, on and off are strings."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.match(text):
        return int(text.replace("_", ""))
    return float(text) if _NUMBER.match(text) else text


class _Builder:
    def __init__(self, name: str, line: int | None) -> None:
        self.name, self.line = name, line
        self.origins: dict[KeyPath, Origin] = {}

    def error(self, mark: yaml.Mark | None, why: str, fix: str) -> UsageError:
        """Return an error with its line in the text."""
        location = str(self.origin(mark)) if mark is not None else self.name
        return UsageError("the configuration cannot be read", where=location, why=why, fix=fix)

    def origin(self, mark: yaml.Mark) -> Origin:
        """Return a position in the text as file and line."""
        return Origin(self.name, mark.line + 1 if self.line is None else self.line)

    def check_events(self, text: str) -> None:
        """Reject content that could use much memory or run code, before values are built."""
        depth = documents = 0
        events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)  # their classes have no common typed base
        for nodes, event in enumerate(events):
            documents += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH or nodes > NODES:
                raise self.error(event.start_mark, f"more than {DEPTH} levels or {NODES} values", "reduce its size")
            if documents > 1:
                raise self.error(event.start_mark, "more than one YAML document", "keep one document, without ---")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise self.error(event.start_mark, "anchors and aliases (& and *) are not accepted", "write it out")
            if getattr(event, "tag", None):
                raise self.error(event.start_mark, f"the tag {event.tag} is not accepted", "write plain values")

    def build(self, node: yaml.Node, path: KeyPath) -> Plain:
        """Return the value of a node, and record the origins of it and its parts."""
        self.origins[path] = self.origin(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            text: str = node.value
            if "\0" in text:  # not allowed in file names
                raise self.error(node.start_mark, "NUL character", "write plain text")
            return scalar(text) if node.style is None else text
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode), "unknown YAML node"
        values: dict[str, Plain] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key.start_mark, "a key must be a single value", "write the key as text in quotes")
            if key.value in values:
                first = self.origins[(*path, key.value)]
                raise self.error(key.start_mark, f"the key {key.value!r} is given twice (first in {first})", "keep one")
            values[key.value] = self.build(child, (*path, key.value))
            self.origins[(*path, key.value)] = self.origin(key.start_mark)
        return values
