"""A child process that crashes, loops, or fills the memory ends alone; what it reads comes back whole."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mrirecon.errors import InputError, MriReconError, ResourceError, UnsafeContentError
from mrirecon.io.safe import isolated as room
from mrirecon.io.safe.isolated import isolated

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch):
    """Let the child import the functions below; outside the tests only functions of mrirecon are called."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    monkeypatch.setattr(room, "_OURS", ("mrirecon.", "tests."))


def call(name, path="file", **options):
    return isolated(f"tests.io.test_isolated:{name}", Path(path), **options)


def gives(path, out=None, size=0):
    print("a library that prints")
    if out is not None:
        out[:] = np.arange(len(out)) * 1j
    return {"a": np.arange(size), "b": np.ones((2, 0)), "c": np.float32([[1, 2]]).T}, {"path": str(path), "n": 3}


def crashes(path):
    ctypes.string_at(0)


def loops(path):
    while True:
        pass


def fills(path):
    return {"a": np.ones(1 << 33, dtype=np.uint8)}, {}


def refuses(path):
    raise UnsafeContentError("unsafe", where="here", why="because", fix="leave it")


def fails(path):
    raise ValueError("DOE^JANE")


def writes(path):
    Path(path).write_bytes(b"1" * 10_000)
    return {}, {}


def objects(path):
    return {"a": np.array([None])}, {}


def leaves(path):
    os._exit(3)


def test_arrays_and_facts_come_back():
    arrays, facts = call("gives", size=300_000)
    np.testing.assert_array_equal(arrays["a"], np.arange(300_000))
    assert (arrays["b"].shape, arrays["c"].shape, arrays["c"].dtype) == ((2, 0), (2, 1), np.float32)
    assert facts == {"path": "file", "n": 3}


def test_shared_memory_comes_back_filled_and_outlives_the_child():
    arrays, _ = call("gives", out=100_000)
    np.testing.assert_array_equal(arrays["out"], np.arange(100_000) * 1j)
    arrays["out"][0] = 1  # it is ours


@pytest.mark.parametrize(
    ("name", "error", "words", "options"),
    [
        ("crashes", InputError, "crashed its reader", {}),
        ("loops", InputError, "took longer than 1 seconds", {"seconds": 1}),
        ("fills", ResourceError, "needs more than", {"memory": 1 << 30}),
        ("refuses", UnsafeContentError, "unsafe", {}),
        ("fails", InputError, "cannot be read", {}),
        ("objects", InputError, "cannot be read", {}),
        ("leaves", InputError, "exit code 3", {}),
        ("missing", InputError, "cannot be read", {}),
    ],
)
def test_what_goes_wrong_in_the_child_is_a_typed_error(name, error, words, options):
    start = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        call(name, **options)
    assert time.monotonic() - start < 30
    assert "DOE" not in str(caught.value)
    if name == "refuses":
        assert (caught.value.where, caught.value.why, caught.value.fix) == ("here", "because", "leave it")


def test_the_child_writes_no_file(tmp_path):
    with pytest.raises(MriReconError):
        call("writes", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes()


def test_only_our_functions_are_called(monkeypatch):
    monkeypatch.setattr(room, "_OURS", ("mrirecon.",))
    with pytest.raises(ValueError, match="not a function of mrirecon"):
        isolated("os:getcwd", Path("file"))
