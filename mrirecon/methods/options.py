"""The types of options that several methods have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from mrirecon.engine import Step

Weight = Annotated[float, Field(ge=0, lt=float("inf"))]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Count = Annotated[int, Field(ge=1)]
Pools = Annotated[int, Field(ge=1, le=8)]
Kernel = Literal[1, 3, 5]
Dims = Annotated[int, Field(ge=2, le=3)]
Iterations = Annotated[int, Field(ge=0, le=200)]  # 0: until the solver converges


def copies(count: int, share: bool, make: Callable[[], Step[Any]]) -> list[Step[Any]]:
    """Return ``count`` new steps, or, with ``share``, one step that many times."""
    return [make()] * count if share else [make() for _ in range(count)]
