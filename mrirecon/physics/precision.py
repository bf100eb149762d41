"""Physics stays in full precision, whoever calls it: what networks gain by autocast costs operators and solvers digits.

Under `torch.autocast`, matrix products and convolutions of real numbers run in half precision. Networks may; a wavelet
transform, a sum over coils or a loss must not. Everything physical therefore switches autocast off around itself, so
that no caller has to think of it.
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
    """Return the function, which runs with autocast switched off; what it calls in turn does too."""

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
    """A base of classes whose methods, those of their subclasses too, run with autocast switched off."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if isinstance(value, FunctionType) and (name == "__call__" or not name.startswith("__")):
                setattr(cls, name, full_precision(value))
            elif isinstance(value, property) and value.fget is not None:
                setattr(cls, name, property(full_precision(value.fget), value.fset, value.fdel, value.__doc__))


class RunsNetwork:
    """A base of modules that call a network; `mrirecon.engine.Reconstructor.precision` sets what it computes in."""

    network_dtype: torch.dtype | None = None  # None: the precision of the data
