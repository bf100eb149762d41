"""Register methods; the keyword-only signature of a method is its configuration schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from mrirecon.engine import Reconstructor, Schedule, Unrolled
from mrirecon.errors import UsageError
from mrirecon.registries import Entry, Registry, option_fields
from mrirecon.registries.renames import new_option

Use = Literal["cropped", "weighted", "informed"]
Factory = TypeVar("Factory", bound=Callable[..., "Schedule[Any]"])


@dataclass(frozen=True)
class Method(Entry):
    """Describe a method.

    Its function takes the method's own options, all keyword-only, and returns a `Schedule` of steps. A learned method
    also has the options of `mrirecon.methods.shared.complete`.

    Attributes:
        maps: whether the method uses coil maps.
        map_sets: maximum number of sets of maps; None for any number.
        weighted: whether the method is regularized; then it uses the maps' prior, and λ depends on the noise.
        learned: whether the method has trainable weights.
        shared: the method's defaults of the options that all learned methods share.

    """

    maps: bool = True
    map_sets: int | None = None
    weighted: bool = False
    learned: bool = False
    shared: Mapping[str, object] = field(default_factory=dict)

    @property
    def use(self) -> Use:
        """Return the use of coil maps beyond the object; see `mrirecon.reconstruction.calibrate.build_problem`."""
        return "informed" if self.learned else "weighted" if self.weighted else "cropped"

    @property
    def has_weight(self) -> bool:
        """Return whether the method has a regularization weight."""
        return "lam" in self.fields

    @cached_property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Return type and default of every option, including those that learned methods share."""
        own = option_fields(self.build)
        if not self.learned:
            return own
        shared = option_fields(_complete())
        return own | {key: (hint, self.shared.get(key, default)) for key, (hint, default) in shared.items()}

    def explain(self, error: Any) -> UsageError:
        """Return the error for invalid options; for a renamed option, with its new name."""
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        new, value = new_option(self.name, key, first["input"])
        if new in self.fields and (new != key or value is not first["input"]):
            what = f"option {key!r} of method {self.name!r} was renamed"
            return UsageError(what, where=key, fix=f"write {new}: {value}")
        return super().explain(error)

    def reconstructor(self, options: Mapping[str, Any]) -> Reconstructor:
        """Return the reconstructor for options validated by `resolve`; missing options take their defaults."""
        own = {key: value for key, value in options.items() if key in self.options}
        schedule = self.build(**own)
        if self.learned:
            return _complete()(schedule, **{**self.shared, **{k: v for k, v in options.items() if k not in own}})
        engine = Unrolled(schedule.blocks, schedule.repeats, tolerance=schedule.tolerance)
        return Reconstructor(engine, schedule.prepare)


def _complete() -> Callable[..., Reconstructor]:
    from mrirecon.methods.shared import complete  # imported here, because methods import this file

    return complete


METHODS = Registry("method", Method, package="mrirecon.methods", group="methods")
find_method = METHODS.find


def register(**facts: Any) -> Callable[[Factory], Factory]:
    """Register a function that returns a schedule; its name, with dashes, becomes the method's name.

    Args:
        **facts: fields of `Method`, such as ``learned=True``.

    Raises:
        ValueError: an option is not keyword-only; see also `mrirecon.registries.Registry.register`.

    """

    def enrol(schedule: Factory) -> Factory:
        name = schedule.__name__.replace("_", "-")
        for q in inspect.signature(schedule).parameters.values():
            if q.kind is not q.KEYWORD_ONLY:
                raise ValueError(f"option {q.name!r} of method {name!r} must be keyword-only")
        return METHODS.register(name, **facts)(schedule)

    return enrol


def methods() -> dict[str, Method]:
    """Return all registered methods by name."""
    return dict(METHODS.loaded)


def build(name: str, options: Mapping[str, object] | None = None) -> Reconstructor:
    """Build a method from its name and options.

    Raises:
        UsageError: unknown method or option, or a value of the wrong type or outside its range.

    """
    method = METHODS.find(name)
    return method.reconstructor(method.resolve(options))


def resolve(name: str, options: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return all options of a method: given options validated, others at their defaults.

    Raises:
        UsageError: unknown method or option, or a value of the wrong type or outside its range.

    """
    return METHODS.find(name).resolve(options)
