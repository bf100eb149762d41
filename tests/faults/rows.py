"""The rows of the fault list that this folder holds, and the mark that ties a test to its row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

ROWS = (
    *(f"F{n:02d}" for n in range(1, 33)),
    *(f"K{n:02d}" for n in range(1, 21)),
    *(f"M{n:02d}" for n in range(1, 9)),
    *("R03", "R04", "R07", "R11", "R12", "R13", "R15", "R16", "R17"),
)
# Rows of the list that are not this folder's, with the place that is to test them. A row moves out of here when a test
# anywhere bears its name in an id; see test_rows.py.
ELSEWHERE = {
    "F24": "DICOM input: with its reader",
    "F25": "ISMRMRD raw data, document types: with its reader (fastMRI's header is held here, F25-header)",
    "F26": "ISMRMRD raw data, required fields: with its reader",
    "F27": "ISMRMRD raw data, lines missing or twice, noise, navigators, partial Fourier: with its reader",
    "R11": "two shards that write one item: with `--shard`",
}
TESTS: dict[str, list[str]] = {}


def row(name: str, cases: Iterable[Any] = ("",)) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as that of a row: parametrised by ``case``, with ids ``F13`` or ``F13-case``.

    Args:
        name: of the row.
        cases: strings, or callables that build a file; a mapping's keys are the cases.

    """

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        assert name in ROWS, name
        TESTS.setdefault(name, []).append(test.__name__)
        values = list(cases)
        return pytest.mark.parametrize("case", values, ids=lambda c: f"{name}-{getattr(c, '__name__', c)}".rstrip("-"))(
            test
        )

    return mark
