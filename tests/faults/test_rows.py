"""Test that no row of the fault list is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import test_files, test_kspace, test_models, test_runtime
from tests.faults.rows import ELSEWHERE, ROWS, TESTS

HERE = Path(__file__).parent
MODULES = (test_files, test_kspace, test_models, test_runtime)


def test_every_row_has_one_test():
    assert len(set(ROWS)) == len(ROWS) == 32 + 20 + 8 + 9
    assert MODULES
    assert {name: tests for name, tests in TESTS.items() if len(tests) > 1} == {}
    missing = [name for name in ROWS if name not in TESTS and name not in ELSEWHERE]
    assert missing == [], "rows without a test, and without a reason"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_rows_that_are_tested_elsewhere(name):
    """The tests that the table names are there; they are not run again here."""
    for file, function in ELSEWHERE[name]:
        assert f"def {function}(" in (HERE.parent / file).read_text(), f"{name}: {file} has no {function}"
