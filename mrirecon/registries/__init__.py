"""A registry: register a function once, and the command line, configurations, documentation and tests know it.

There is one for mask families, readers, metrics, losses and coil calibrations. A function is registered where it is
written. Its name is what users write, the first line of its docstring describes it, and its keyword-only parameters are
its options: their types and defaults are the schema that options are checked against.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """A registered function.

    Attributes:
        name: what users write.
        build: the function.
        rank: place in lists, and in the order of asking where entries are asked in turn; those of one rank stand in
            the order of their registration.
        about: what lists and reports say of it; by default the first line of the docstring.

    """

    name: str
    build: Callable[..., Any]
    rank: int = 50
    about: str = ""

    @property
    def summary(self) -> str:
        """What lists and reports say of it."""
        return self.about or (inspect.getdoc(self.build) or "").split("\n")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword-only parameters."""
        found = inspect.signature(self.build).parameters.values()
        return tuple(q.name for q in found if q.kind is inspect.Parameter.KEYWORD_ONLY)

    @cached_property
    def schema(self) -> type[BaseModel]:
        """A pydantic model of the options: unknown keys and wrong types are refused."""
        from pydantic import ConfigDict, create_model

        hints, parameters = get_type_hints(self.build, include_extras=True), inspect.signature(self.build).parameters
        fields: dict[str, Any] = {  # create_model takes (type, default) pairs of any type
            key: (hints[key], ... if parameters[key].default is inspect.Parameter.empty else parameters[key].default)
            for key in self.options
        }
        config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
        return create_model(f"{self.name}-options", __config__=config, **fields)

    def resolve(self, options: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return all options, the given ones checked, the others at their defaults.

        Raises:
            UsageError: unknown option, with the nearest; or a value of the wrong type or outside its range.

        """
        from pydantic import ValidationError

        try:
            valid = self.schema.model_validate(dict(options or {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                fix = nearest(key, self.options)
                raise UsageError(f"unknown option {key!r} of {self.name!r}", where=key, fix=fix) from None
            raise UsageError(
                f"option {key!r} of {self.name!r} cannot be {first['input']!r}",
                where=key,
                why=first["msg"],
                fix=f"the options are {', '.join(self.options)}",
            ) from None
        return {key: getattr(valid, key) for key in self.options}


T = TypeVar("T", bound=Entry)


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name, in the order of their ranks.

    Args:
        kind: what an entry is called in messages.
        entry: the class of entries, whose fields are what `register` takes.
        package: whose modules register the entries that come along; they are imported when first asked for.
        group: of plug-ins, see `mrirecon.registries.plugins`.

    """

    def __init__(self, kind: str, entry: type[T], *, package: str, group: str) -> None:
        assert group in plugins.GROUPS, "doctor looks at these"
        self.kind, self.group = kind, group
        self._entry, self._package = entry, package
        self._entries: dict[str, T] = {}
        self._built_in = self._complete = False

    def register(self, name: str | None = None, **facts: Any) -> Callable[[Function], Function]:
        """Return a decorator that registers a function.

        Args:
            name: of the entry; by default that of the function.
            **facts: fields of the class of entries.

        Raises:
            ValueError: the name is taken, the function has no docstring, or an option has no type.

        """

        def enrol(build: Function) -> Function:
            if not build.__module__.startswith("mrirecon."):
                self._load_built_in()  # so that a plug-in that takes a name is the one that is refused
            entry = self._entry(name or build.__name__, build, **facts)
            if entry.name in self._entries:
                taken = self._entries[entry.name].build.__module__
                raise ValueError(f"there is a {self.kind} {entry.name!r} already, from {taken}")
            if not inspect.getdoc(build):
                raise ValueError(f"{self.kind} {entry.name!r} has no docstring")
            untyped = set(entry.options) - set(build.__annotations__)
            if untyped:
                raise ValueError(f"{self.kind} {entry.name!r}: {', '.join(sorted(untyped))} has no type")
            self._entries[entry.name] = entry
            return build

        return enrol

    def find(self, name: str) -> T:
        """Return an entry.

        Raises:
            UsageError: there is none of that name; the nearest and all choices are named.

        """
        if name not in self:
            raise UsageError(f"there is no {self.kind} {name!r}", fix=nearest(name, list(self)))
        return self[name]

    def __getitem__(self, name: str) -> T:
        self._load()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries, key=lambda name: self._entries[name].rank))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        self._load_built_in()
        if not self._complete:
            self._complete = True  # before, for plug-ins look at what there is
            try:
                plugins.load_installed(self.group)
            except BaseException:
                self._complete = False
                raise

    def _load_built_in(self) -> None:
        if not self._built_in:
            self._built_in = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")


class OneOf:
    """A pydantic annotation: a string that is among names which are looked up when a value is checked.

    Args:
        names: returns the choices, in the order in which they are listed.

    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return pydantic's schema, with the message of a `Literal`."""
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: object) -> object:
            choices = [f"'{name}'" for name in self.names()]
            if not isinstance(value, str) or f"'{value}'" not in choices:
                expected = " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
                raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema of one of the names."""
        return {"type": "string", "enum": list(self.names())}


def nearest(name: str, choices: Sequence[str]) -> str:
    """Return what to suggest in place of a name: the nearest, and all."""
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(choices) or 'none'}"
