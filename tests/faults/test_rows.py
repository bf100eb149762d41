"""No row of the fault list is silently missing."""

from __future__ import annotations

import re
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
def test_rows_that_others_hold(name):
    """The row's name stands in an id of a test outside this folder; until then the reason is told."""
    sources = [p for p in HERE.parent.rglob("*.py") if HERE not in p.parents]
    bearers = [p.name for p in sources if re.search(rf"[\"'(_\s]{name}[\"'_:,.\s-]", p.read_text())]
    if not bearers:
        pytest.skip(f"{name} has no test yet. {ELSEWHERE[name]}")
