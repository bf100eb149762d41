"""Test that a child process that crashes, loops or fills the memory does not affect the parent, and returns complete
data.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mrirecon.errors import InputError, MriReconError, ResourceError, UnsafeContentError
from mrirecon.io.safe import sandbox

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch):
    """Let the child import the functions below."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    sandbox.close()
    yield
    sandbox.close()


def call(function, path="file", **options):
    return sandbox.call(function, Path(path), **options)


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


def dies_second(path):
    """End the process, where it was asked before."""
    served.append(path)
    if len(served) > 1:
        os.abort()
    return {}, {"pid": os.getpid()}


served = []


def nests(path):
    return sandbox.call(gives, path, out=3)


def test_arrays_and_facts_come_back():
    arrays, facts = call(gives, size=300_000)
    np.testing.assert_array_equal(arrays["a"], np.arange(300_000))
    assert (arrays["b"].shape, arrays["c"].shape, arrays["c"].dtype) == ((2, 0), (2, 1), np.float32)
    assert facts == {"path": str(Path("file").absolute()), "n": 3}


def test_shared_memory_comes_back_filled_and_outlives_the_child():
    arrays, _ = call(gives, out=100_000)
    sandbox.close()
    np.testing.assert_array_equal(arrays["out"], np.arange(100_000) * 1j)
    arrays["out"][0] = 1  # it is ours


@pytest.mark.parametrize(
    ("function", "error", "words", "options"),
    [
        (crashes, InputError, "crashed its reader", {}),
        (loops, InputError, "took too long", {"seconds": 1}),
        (fills, ResourceError, "not enough memory", {"memory": 1 << 30}),
        (refuses, UnsafeContentError, "unsafe", {}),
        (fails, InputError, "cannot be read", {}),
        (objects, InputError, "cannot be read", {}),
        (leaves, InputError, "exit code 3", {}),
    ],
)
def test_what_goes_wrong_in_the_child_is_a_typed_error(function, error, words, options):
    start = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        call(function, **options)
    assert time.monotonic() - start < 30
    assert "DOE" not in str(caught.value)
    if function is refuses:
        assert (caught.value.where, caught.value.why, caught.value.fix) == ("here", "because", "leave it")
    assert call(gives)[1]["n"] == 3, "the next file is read"


def test_the_child_writes_no_file(tmp_path):
    with pytest.raises(MriReconError):
        call(writes, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes()


def test_one_child_serves_all_and_a_new_one_judges_a_crash():
    first = call(dies_second)[1]["pid"]
    assert call(gives)[1]["n"] == 3
    assert call(dies_second)[1]["pid"] != first, "the second request ended the first child, and a fresh one answered"


def test_a_call_within_the_child_is_direct():
    arrays, facts = call(nests)
    np.testing.assert_array_equal(arrays["out"], np.arange(3) * 1j)
    assert facts["n"] == 3


def test_a_forked_process_has_a_child_of_its_own():
    parent = call(dies_second)[1]["pid"]
    answer, question = os.pipe()
    process = os.fork()
    if process == 0:
        os.write(question, str(call(dies_second)[1]["pid"]).encode())
        os._exit(0)
    os.waitpid(process, 0)
    assert int(os.read(answer, 100)) != parent
    os.close(answer), os.close(question)
    assert call(gives)[1]["n"] == 3
