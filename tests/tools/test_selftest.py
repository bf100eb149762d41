"""Test that the self-test passes here and detects wrong operators."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from mrirecon.cli import main
from mrirecon.physics.operators import LinearOperator
from mrirecon.tools.selftest import Check, selftest


@dataclass(frozen=True)
class Forgetful(LinearOperator):
    """Multiply by i without conjugating it in the adjoint."""

    def __call__(self, x):
        return 1j * x

    def adjoint(self, y):
        return 1j * y


@dataclass(frozen=True)
class Quick(LinearOperator):
    """Provide a wrong shortcut for AᴴA."""

    def __call__(self, x):
        return 2 * x

    def adjoint(self, y):
        return 2 * y

    def normal(self, x):
        return 2 * x


def test_everything_holds_here():
    checks = selftest("cpu")
    assert len(checks) > 20
    assert [c for c in checks if not c.ok] == []


@pytest.mark.parametrize(("wrong", "part"), [(Forgetful(), "<Ax, y>"), (Quick(), "A'A")])
def test_a_wrong_operator_is_caught(wrong, part):
    x = torch.randn(2, 1, 8, 8, dtype=torch.complex64)
    failed = [c for c in selftest("cpu", operators={"wrong": (wrong, x)}) if not c.ok]
    assert len(failed) == 1
    assert part in failed[0].name


def test_not_a_number_is_not_ok():
    assert not Check("x", float("nan"), 1.0).ok


def test_a_failure_ends_the_command_with_1(monkeypatch, capfd):
    import mrirecon.tools.selftest

    monkeypatch.setattr(mrirecon.tools.selftest, "selftest", lambda device: [Check("broken", 1.0, 1e-5)])
    with pytest.raises(SystemExit) as ended:
        main(["selftest"])
    assert ended.value.code == 1
    assert "WRONG" in capfd.readouterr().out
