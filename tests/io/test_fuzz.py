"""Test that reading any file gives a typed error or success within 2 s and 512 MB, and that killed writers leave whole
files.

Bytes are mutated and writers killed in processes of their own (fuzz_io.py, kill_writer.py): a few seconds of it in the
ordinary suite, much more with ``-m slow``. Values are drawn by Hypothesis.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrirecon import io
from mrirecon.errors import MriReconError
from mrirecon.io.axes import LOOPS
from mrirecon.io.scan import SPACE
from mrirecon.training.config.strict_yaml import parse_yaml
from tests.io.fuzz_io import KINDS
from tests.io.fuzz_io import read_scan as consume

HERE = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}
HEAVY = ("model", "config")  # they need torch, which takes seconds to import
LIGHT = tuple(name for name in KINDS if name not in HEAVY)
SEVERAL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def child(script: str, *arguments: object, timeout: float) -> dict:
    command = [sys.executable, str(HERE / "io" / script), *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"died on {done.stderr.splitlines()[-1:]} with {done.returncode}"
    return json.loads(done.stdout)


# Bytes ---------------------------------------------------------------------------------------------------------------


def check(outcome: dict, least: int) -> None:
    assert outcome["escaped"] == []
    assert outcome["slowest"] < 2, outcome["slowest of"]
    assert outcome["megabytes"] < 512
    assert sum(done["refused"] for done in outcome["kinds"].values()) > 10
    for name, done in outcome["kinds"].items():
        assert done["read"] + done["refused"] >= least, name


@pytest.mark.parametrize("kinds", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_mutated_files_are_read_or_refused(tmp_path, kinds):
    check(child("fuzz_io.py", tmp_path, ",".join(kinds), 200, 1, 0.5, timeout=120), least=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files(tmp_path, kind):
    check(child("fuzz_io.py", tmp_path, kind, 10_000, 2, 90, timeout=200), least=500)


# Writers -------------------------------------------------------------------------------------------------------------


def whole(outcome: dict, cycles: int) -> None:
    assert outcome["cycles"] == cycles
    assert (outcome["corrupt"], outcome["older"], outcome["not removed"]) == (0, 0, 0)
    assert outcome["versions"] >= 1, "the kills came too early to test anything"


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
def test_killed_writers_leave_whole_files(tmp_path, suffix):
    whole(child("kill_writer.py", tmp_path, suffix, 40, 1, timeout=120), 40)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "cycles"), [("h5", 4000), ("npz", 3000), ("cfl", 3000)])
def test_ten_thousand_kills(tmp_path, suffix, cycles):
    outcome = child("kill_writer.py", tmp_path, suffix, cycles, 2, timeout=3600)
    whole(outcome, cycles)
    assert outcome["left"] >= cycles // 20, "kills must also fall into the writing"
    assert suffix == "cfl" or outcome["absent"] == 0


# Values --------------------------------------------------------------------------------------------------------------

TYPES = st.one_of(
    *(hnp.complex_number_dtypes(), hnp.floating_dtypes(sizes=(32, 64)), hnp.integer_dtypes(), hnp.boolean_dtypes()),
    *(hnp.byte_string_dtypes(max_len=4), st.just(np.dtype([("real", "<f4"), ("imag", "<f4")]))),
)
ARRAYS = TYPES.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9)))
AXES = st.lists(st.sampled_from([*SPACE, "coil", *LOOPS, "kx", "echoes", "q", ""]), max_size=5).map(",".join)


def typed(act) -> object:
    """Return what comes out, or the typed error; nothing else may escape."""
    try:
        return act()
    except MriReconError as error:
        return error if error.what and str(error) else pytest.fail("an error without words")


@SEVERAL
@given(
    kspace=ARRAYS,
    mask=st.none() | ARRAYS,
    maps=st.none() | ARRAYS,
    axes=st.none() | AXES,
    suffix=st.sampled_from(["h5", "npz"]),
)
def test_any_arrays(tmp_path, kspace, mask, maps, axes, suffix):
    path = tmp_path / f"k.{suffix}"
    arrays = {name: a for name, a in (("kspace", kspace), ("mask", mask), ("maps", maps)) if a is not None}
    if suffix == "npz":
        np.savez(path, **arrays, **({} if axes is None else {"axes": axes}))
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            if axes is not None:
                file["kspace"].attrs["axes"] = axes
    typed(lambda: consume([path]))


@SEVERAL
@given(
    kspace=hnp.arrays(np.complex64, st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))),
    lines=st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_masks_mark_what_is_used_and_no_more(tmp_path, kspace, lines):
    """Whatever the values and the mask: samples outside are zero, and NaN never comes through."""
    io.write_kspace(tmp_path / "k.h5", kspace)
    np.save(tmp_path / "m.npy", np.array(lines))
    for nan in ("refuse", "zero"):
        found = typed(lambda nan=nan: io.read(tmp_path / "k.h5", mask=tmp_path / "m.npy", nan=nan))
        if isinstance(found, MriReconError):
            continue
        values = typed(lambda found=found: found.kspace(0))
        if isinstance(values, np.ndarray):
            used = found.mask(0)
            assert np.isfinite(values).all()
            assert values.any()
            assert not values[:, ~used].any()
            assert not used[:, ~np.array(lines)].any()


@SEVERAL
@given(text=st.text(alphabet="ab:- \n\t{}[]&*!|>'\"%@#,0.1e\x00é", max_size=80))
def test_any_configuration(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        typed(lambda: parse_yaml(text, "run.yaml"))
