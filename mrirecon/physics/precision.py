"""Keep physics in full precision under autocast.

Under `torch.autocast`, matrix products and convolutions of real numbers run in half precision. This is acceptable for
networks, but not for wavelet transforms, sums over coils or losses. Therefore, physics code switches autocast off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch

DEVICES = ("cpu", "cuda")
P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that it and its callees run without autocast."""

    @functools.wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        enabled = [d for d in DEVICES if torch.is_autocast_enabled(d)]
        if not enabled:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for device in enabled:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return precise


class FullPrecision:
    """Switch autocast off in all methods and properties of subclasses."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if isinstance(value, FunctionType) and (name == "__call__" or not name.startswith("__")):
                setattr(cls, name, full_precision(value))
            elif isinstance(value, property) and value.fget is not None:
                setattr(cls, name, property(full_precision(value.fget), value.fset, value.fdel, value.__doc__))


class RunsNetwork:
    """Mark a module that calls a network; `mrirecon.engine.Reconstructor.precision` sets its type."""

    network_dtype: torch.dtype | None = None  # None for the precision of the data
