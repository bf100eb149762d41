"""Register a method once: its keyword-only signature is its configuration schema, and the tests enrol it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mrirecon.engine import Reconstructor
from mrirecon.errors import UsageError

Use = Literal["cropped", "weighted", "informed"]
Factory = TypeVar("Factory", bound=Callable[..., Reconstructor])


@dataclass(frozen=True)
class Method:
    """A registered method: its name, the function that builds it, and what it asks of its input."""

    name: str
    build: Callable[..., Reconstructor]
    maps: bool  # whether it reads coil maps
    weighted: bool  # whether it is regularized, so that maps may carry a prior on where signal is
    learned: bool

    @property
    def use(self) -> Use:
        """What it makes of what the maps say about where there is an object; see `build_problem`."""
        return "informed" if self.learned else "weighted" if self.weighted else "cropped"

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.build) or "").split("\n")[0]

    @cached_property
    def schema(self) -> type[BaseModel]:
        """A pydantic model of the options, made from the signature: unknown keys and wrong types are refused."""
        hints = get_type_hints(self.build, include_extras=True)
        fields: dict[str, Any] = {  # create_model takes (type, default) pairs of any type
            key: (hints[key], ... if q.default is inspect.Parameter.empty else q.default)
            for key, q in inspect.signature(self.build).parameters.items()
        }
        config = ConfigDict(extra="forbid", strict=True)
        return create_model(f"{self.name}-options", __config__=config, **fields)


_METHODS: dict[str, Method] = {}


def register(*, maps: bool = True, weighted: bool = False, learned: bool = False) -> Callable[[Factory], Factory]:
    """Enrol a function with keyword-only options as a method; its name, with dashes, becomes the method's name."""

    def enrol(build: Factory) -> Factory:
        name = build.__name__.replace("_", "-")
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice")
        for q in inspect.signature(build).parameters.values():
            if q.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise ValueError(f"option {q.name!r} of method {name!r} must be keyword-only")
        _METHODS[name] = Method(name, build, maps, weighted, learned)
        return build

    return enrol


def methods() -> dict[str, Method]:
    """Return all registered methods by name."""
    import mrirecon.methods  # noqa: F401 - registers them; here, because that file imports this one

    return dict(_METHODS)


def find(name: str) -> Method:
    """Return a method by name.

    Raises:
        UsageError: there is none of that name; the nearest and all choices are named.

    """
    known = methods()
    if name not in known:
        raise UsageError(f"unknown method {name!r}", fix=_nearest(name, list(known)))
    return known[name]


def build(name: str, options: Mapping[str, object] | None = None) -> Reconstructor:
    """Build a method from its name and options.

    Raises:
        UsageError: unknown method or option, or a value of the wrong type or outside its range.

    """
    return find(name).build(**resolve(name, options))


def resolve(name: str, options: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return all options of a method, the given ones checked, the others at their defaults.

    Raises:
        UsageError: unknown method or option, or a value of the wrong type or outside its range.

    """
    method = find(name)
    try:
        valid = method.schema.model_validate(dict(options or {}))
    except ValidationError as error:
        what, more = _explain(method, error)
        raise UsageError(what, **more) from None
    return {key: getattr(valid, key) for key in method.schema.model_fields}


def _explain(method: Method, error: ValidationError) -> tuple[str, dict[str, str]]:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    choices = list(method.schema.model_fields)
    if first["type"] == "extra_forbidden":
        return f"unknown option {key!r} of method {method.name!r}", {"where": key, "fix": _nearest(key, choices)}
    return (
        f"option {key!r} of method {method.name!r} cannot be {first['input']!r}",
        {"where": key, "why": first["msg"], "fix": f"the options are {', '.join(choices)}"},
    )


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(sorted(choices)) or 'none'}"
