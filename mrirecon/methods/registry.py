"""Register a method once: its keyword-only signature is its configuration schema, and the tests enrol it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mrirecon.engine import Reconstructor, Schedule, Unrolled
from mrirecon.errors import UsageError
from mrirecon.registries import plugins

Use = Literal["cropped", "weighted", "informed"]
Factory = TypeVar("Factory", bound=Callable[..., "Schedule[Any]"])
# Options of earlier versions: what they are called now, and their values.
RENAMED: dict[str, tuple[str, dict[object, object]]] = {
    "weigh": ("blend", {"held-out": "cross_validated"}),
    "plus": ("sign", {False: -1, True: 1}),
}
# Values that an option had, by method and option: the option that has them now.
MOVED = {("lpdnet", "start"): ("dual_start", ("data", "zero"))}


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as users write it.
        schedule: the function that returns its steps; its keyword-only parameters are the method's own options.
        maps: whether it reads coil maps.
        map_sets: how many sets of maps it can use; None for any number.
        weighted: whether it is regularized: maps may carry a prior on where signal is, and λ follows the noise.
        learned: whether it has weights to be trained.
        shared: its own defaults of the options that all learned methods share.

    """

    name: str
    schedule: Callable[..., Schedule[Any]]
    maps: bool
    map_sets: int | None
    weighted: bool
    learned: bool
    shared: Mapping[str, object] = field(default_factory=dict)

    @property
    def use(self) -> Use:
        """How coil maps are used beyond the object; see `mrirecon.reconstruction.run.build_problem`."""
        return "informed" if self.learned else "weighted" if self.weighted else "cropped"

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.schedule) or "").split("\n")[0]

    @cached_property
    def schema(self) -> type[BaseModel]:
        """A pydantic model of all options, from the signatures: unknown keys and wrong types are refused."""
        fields = _fields(self.schedule)
        if self.learned:
            for key, (hint, default) in _fields(_complete()).items():
                fields[key] = (hint, self.shared.get(key, default))
        config = ConfigDict(extra="forbid", strict=True)
        return create_model(f"{self.name}-options", __config__=config, **fields)

    def build(self, **options: Any) -> Reconstructor:
        """Build the method; options that are left out take their defaults, and none is checked (see `build`)."""
        own = {key: value for key, value in options.items() if key in _parameters(self.schedule)}
        schedule = self.schedule(**own)
        if self.learned:
            more = {key: value for key, value in options.items() if key not in own}
            return _complete()(schedule, **{**self.shared, **more})
        return Reconstructor(
            Unrolled(schedule.blocks, schedule.repeats, tolerance=schedule.tolerance), schedule.prepare
        )


def _parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {key: q for key, q in found.items() if q.kind is inspect.Parameter.KEYWORD_ONLY}


def _fields(function: Callable[..., object]) -> dict[str, Any]:
    """Return (type, default) of every keyword-only parameter; ... for one without a default."""
    hints = get_type_hints(function, include_extras=True)
    return {
        key: (hints[key], ... if q.default is inspect.Parameter.empty else q.default)
        for key, q in _parameters(function).items()
    }


def _complete() -> Callable[..., Reconstructor]:
    from mrirecon.methods.shared import complete  # here, because methods import this file

    return complete


_METHODS: dict[str, Method] = {}


def register(
    *,
    maps: bool = True,
    map_sets: int | None = None,
    weighted: bool = False,
    learned: bool = False,
    shared: Mapping[str, object] | None = None,
) -> Callable[[Factory], Factory]:
    """Register a function that returns a schedule; its name, with dashes, becomes the method's name.

    Its keyword-only parameters are the method's options. A learned method has those of
    `mrirecon.methods.shared.complete` besides. See `Method` for the arguments.
    """

    def enrol(schedule: Factory) -> Factory:
        name = schedule.__name__.replace("_", "-")
        if name in _METHODS:
            raise ValueError(f"method {name!r} is registered twice")
        for q in inspect.signature(schedule).parameters.values():
            if q.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise ValueError(f"option {q.name!r} of method {name!r} must be keyword-only")
        _METHODS[name] = Method(name, schedule, maps, map_sets, weighted, learned, dict(shared or {}))
        return schedule

    return enrol


def methods() -> dict[str, Method]:
    """Return all registered methods by name."""
    _load_built_in()
    plugins.load_installed("methods")
    return dict(_METHODS)


@cache
def _load_built_in() -> None:
    """Import every file of this folder, so that adding a method is adding a file."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")


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
    renamed = _renamed(method, key, first["input"])
    if renamed:
        return f"option {key!r} of method {method.name!r} has another name now", {"where": key, "fix": renamed}
    if first["type"] == "extra_forbidden":
        return f"unknown option {key!r} of method {method.name!r}", {"where": key, "fix": _nearest(key, choices)}
    return (
        f"option {key!r} of method {method.name!r} cannot be {first['input']!r}",
        {"where": key, "why": first["msg"], "fix": f"the options are {', '.join(choices)}"},
    )


def _renamed(method: Method, key: str, value: object) -> str | None:
    """Return what to write in place of an option, or of a value, of an earlier version; None for any other."""
    new, values = RENAMED.get(key, ("", {}))
    if new in method.schema.model_fields:
        return f"write {new}: {values.get(value, value) if isinstance(value, str | bool) else value}"
    new, moved = MOVED.get((method.name, key), ("", ()))
    return f"write {new}: {value}" if value in moved else None


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(sorted(choices)) or 'none'}"
