"""List the rows of the fault list in this folder, and define the mark of a test's row."""

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
# Rows that are tested in other folders: file and function.
ELSEWHERE: dict[str, list[tuple[str, str]]] = {
    "F24": [("io/test_outputs.py", "test_nested_sequences_are_refused_or_passed_over")],
    "F25": [("io/test_mrd.py", "test_headers_that_cannot_be_meant")],  # fastMRI's header: F25 here
    "F26": [("io/test_mrd.py", "test_a_header_field_that_is_missing_is_named")],
    "F27": [
        ("io/test_mrd.py", "test_every_kind_of_readout_is_told_apart_and_counted"),
        ("io/test_mrd.py", "test_averages_are_averaged_and_repeated_readouts_counted"),
        ("io/test_mrd.py", "test_partial_fourier_leaves_its_gap_where_nothing_was_measured"),
        ("io/test_mrd.py", "test_an_asymmetric_echo_lies_in_the_middle"),
    ],
    "R11": [("reconstruction/test_batches.py", "test_two_processes_told_to_do_the_same_share_it")],
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
