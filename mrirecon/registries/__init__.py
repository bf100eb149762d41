"""Register functions once for the command line, configurations, documentation and tests.

There are registries for methods, mask families, readers, metrics, losses and coil calibrations. A function is
registered where it is defined. Users select it by its name, and the first line of its docstring describes it. Its
keyword-only parameters are its options; their types and defaults are the schema for checks of options.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from mrirecon.errors import UsageError
from mrirecon.registries import plugins

if TYPE_CHECKING:
    from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """Hold a registered function.

    Attributes:
        name: name for users.
        build: the function.
        rank: position in lists and in the order of trials; entries of equal rank are sorted by name.
        about: description in lists and reports; by default the first line of the docstring.

    """

    name: str
    build: Callable[..., Any]
    rank: int = 50
    about: str = ""

    @property
    def summary(self) -> str:
        """Return the description for lists and reports."""
        return self.about or (inspect.getdoc(self.build) or "").split("\n")[0]

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Return the names of the keyword-only parameters of the function."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(q.name for q in parameters if q.kind is q.KEYWORD_ONLY)

    @cached_property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Return type and default of every option; the default is ... if there is none."""
        return option_fields(self.build)

    @cached_property
    def schema(self) -> type[BaseModel]:
        """Return a pydantic model of the options, which refuses unknown keys and wrong types."""
        from pydantic import ConfigDict, create_model

        config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
        fields: dict[str, Any] = dict(self.fields)  # the type stub of create_model requires Any
        return create_model(f"{self.name}-options", __config__=config, **fields)

    @cached_property
    def documented_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the options; each description ends with the range or the choices."""
        return documented(self.schema)

    def resolve(self, options: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Check the given options, and return all options with defaults for the others.

        Raises:
            UsageError: an unknown option (the message has the nearest one), or a value of wrong type or out of range.

        """
        from pydantic import ValidationError

        try:
            valid = self.schema.model_validate(dict(options or {}))
        except ValidationError as error:
            raise self.explain(error) from None
        return {key: getattr(valid, key) for key in self.fields}

    def explain(self, error: Any) -> UsageError:
        """Convert a pydantic ``ValidationError`` on options to a project error."""
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            return UsageError(
                f"unknown option {key!r} of {self.name!r}", where=key, fix=nearest(key, list(self.fields))
            )
        return UsageError(
            f"option {key!r} of {self.name!r} cannot be {first['input']!r}",
            where=key,
            why=first["msg"],
            fix=f"the options are {', '.join(self.fields)}",
        )


def option_fields(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return type and default of every keyword-only parameter; the default is ... if there is none."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    return {
        key: (hints[key], ... if q.default is q.empty else q.default)
        for key, q in parameters.items()
        if q.kind is q.KEYWORD_ONLY
    }


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a pydantic model, with the range or the choices at the end of each description."""
    schema = model.model_json_schema()
    for section in (schema, *schema.get("$defs", {}).values()):
        for field in section.get("properties", {}).values():
            text, values = field.get("description", ""), allowed(field)
            field["description"] = f"{text.rstrip('.')} ({values})" if values else text
    return schema


def allowed(field: Mapping[str, Any]) -> str:
    """Return the values that the JSON schema of a field allows: "whole number, at least 1" or "gru, mgu or indrnn"."""
    if "anyOf" in field:
        parts = [allowed(one) for one in field["anyOf"]]
        return " or ".join(parts) if all(parts) else ""
    if "enum" in field or "const" in field:
        values = [str(value) for value in field.get("enum", [field.get("const")])]
        return " or ".join(part for part in (", ".join(values[:-1]), values[-1]) if part)
    kinds = {"boolean": "true or false", "integer": "whole number", "number": "number", "null": "null"}
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    parts = [f"{word} {field[key]:g}" for key, word in limits.items() if key in field]
    return ", ".join([*filter(None, [kinds.get(field.get("type", ""))]), *filter(None, [" and ".join(parts)])])


T = TypeVar("T", bound=Entry)


class Registry(Mapping[str, T], Generic[T]):
    """Map names to entries, in the order of their ranks.

    Args:
        kind: description of an entry in messages.
        entry: the class of entries; `register` takes its fields.
        package: the package whose modules register the built-in entries; they are imported at the first look-up.
        group: the group of plug-ins; see `mrirecon.registries.plugins`.

    """

    def __init__(self, kind: str, entry: type[T], *, package: str, group: str) -> None:
        assert group in plugins.GROUPS, "doctor lists these"
        self.kind, self.group = kind, group
        self._entry, self._package = entry, package
        self._entries: dict[str, T] = {}
        self._imported = self._complete = False

    def register(self, name: str | None = None, **facts: Any) -> Callable[[Function], Function]:
        """Return a decorator that registers a function.

        Args:
            name: name of the entry; by default that of the function.
            **facts: fields of the class of entries.

        Raises:
            ValueError: the name is taken, the function has no docstring, or an option has no type.

        """

        def enrol(build: Function) -> Function:
            if not build.__module__.startswith("mrirecon."):
                self._import_package()  # a plug-in must not replace a built-in entry
            entry = self._entry(name or build.__name__, build, **facts)
            if entry.name in self._entries:
                owner = self._entries[entry.name].build.__module__
                raise ValueError(f"there is a {self.kind} {entry.name!r} already, from {owner}")
            if not inspect.getdoc(build):
                raise ValueError(f"{self.kind} {entry.name!r} has no docstring")
            untyped = set(entry.options) - set(build.__annotations__)
            if untyped:
                raise ValueError(f"{self.kind} {entry.name!r}: {', '.join(sorted(untyped))} has no type")
            self._entries[entry.name] = entry
            if self._complete:
                self._sort()
            return build

        return enrol

    def find(self, name: str) -> T:
        """Return the entry of a name.

        Raises:
            UsageError: no such entry; the message has the nearest name and all choices.

        """
        if name not in self.loaded:
            raise UsageError(f"unknown {self.kind} {name!r}", fix=nearest(name, list(self)))
        return self._entries[name]

    @property
    def loaded(self) -> dict[str, T]:
        """Import built-in modules and installed plug-ins, and return all entries by name."""
        if not self._complete:
            self._import_package()
            self._complete = True  # set before the import, because a plug-in may look up entries during its import
            try:
                plugins.load_installed(self.group)
            except BaseException:
                self._complete = False
                raise
            self._sort()
        return self._entries

    def __getitem__(self, name: str) -> T:
        return self.loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded)

    def __len__(self) -> int:
        return len(self.loaded)

    def values(self) -> ValuesView[T]:
        """Return all entries."""
        return self.loaded.values()

    def items(self) -> ItemsView[str, T]:
        """Return all names with their entries."""
        return self.loaded.items()

    def _sort(self) -> None:
        self._entries = dict(sorted(self._entries.items(), key=lambda item: (item[1].rank, item[0])))

    def _import_package(self) -> None:
        if not self._imported:
            self._imported = True  # set before the import, because a module may look up entries during its import
            try:
                for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                    importlib.import_module(f"{self._package}.{module.name}")
            except BaseException:
                self._imported = False  # the next look-up must raise the same error again
                raise


class OneOf:
    """Annotate a string that must be one of some names, which pydantic looks up when it checks a value.

    Args:
        names: function that returns the choices in order.

    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of pydantic, with the message of a `Literal`."""
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: object) -> object:
            choices = [f"'{name}'" for name in self.names()]
            if not isinstance(value, str) or f"'{value}'" not in choices:
                expected = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
                raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema of the names."""
        return {"type": "string", "enum": list(self.names())}


def nearest(name: str, choices: Sequence[str]) -> str:
    """Suggest a replacement for a name: the nearest choice, and all choices."""
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(choices) or 'none'}"
