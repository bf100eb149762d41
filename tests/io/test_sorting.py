"""Test the sorting of readouts: extract them from a known k-space as scanners do, and reassemble it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrirecon.errors import InputError
from mrirecon.io.geometry import Geometry, make_geometry
from mrirecon.io.readers.raw_store import RawStore
from mrirecon.io.readers.readouts import COUNTERS, IMAGE, Encoding, Readouts
from mrirecon.io.readers.sorting import make_plan


class Kept(RawStore):
    """Readouts held in memory."""

    def __init__(self, table, found, data):
        super().__init__(Path("k"), table, found)
        self.data = data

    def flat(self, rows):
        return np.concatenate([self.data[row].reshape(-1) for row in rows])


def table_of(rows, coils):
    """Return a table from dictionaries of what differs between readouts."""
    count = len(rows)

    def column(name, default=0):
        return np.array([row.get(name, default) for row in rows], dtype=np.int64)

    return Readouts(
        kind=column("kind", IMAGE),
        counters={name: column(name) for name in COUNTERS},
        samples=column("samples"),
        coils=np.full(count, coils),
        centre=column("centre"),
        discard_pre=column("before"),
        discard_post=column("behind"),
        reversed=column("reversed").astype(bool),
        encoding=np.zeros(count, dtype=np.int64),
        dwell_us=np.ones(count),
        position=np.zeros((count, 3)),
        directions=np.tile(np.eye(3), (count, 1, 1)),
    )


def encoding(nx, ny, nz, line_centre, partition_centre):
    fov = (200.0, 200.0, 100.0)
    return Encoding((nx, ny, nz), fov, (nx, ny, nz), fov, line_centre, partition_centre)


@st.composite
def scans(draw):
    """A grid, which part of it is measured, and how each readout is measured."""
    nx, ny, nz = draw(st.integers(4, 13)), draw(st.integers(4, 11)), draw(st.sampled_from([1, 1, 4, 5]))
    slices, repetitions, averages = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    first = draw(st.integers(0, ny // 2 - 1))
    start = draw(st.integers(0, nx // 2 - 1))
    return {
        **{"n": (nx, ny, nz), "loops": (repetitions, slices), "averages": averages, "first": first, "start": start},
        **{"cut": draw(st.tuples(st.integers(0, 2), st.integers(0, 2))), "seed": draw(st.integers(0, 99))},
        "backwards": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(scans())
def test_readouts_come_back_where_they_were_cut_out(scan):
    (nx, ny, nz), (repetitions, slices), coils = scan["n"], scan["loops"], 2
    rng = np.random.default_rng(scan["seed"])
    shape = (repetitions, slices, coils, nz, nx, ny)
    truth = (rng.standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)
    first, start, (before, behind) = scan["first"], scan["start"], scan["cut"]
    rows, data = [], []
    for place in np.ndindex(repetitions, slices, nz, ny - first):
        repetition, slice_, partition, line = (int(i) for i in place)
        whole = truth[repetition, slice_, :, partition, start:, line + first]
        # Averages of which the mean is the truth.
        parts = rng.standard_normal((scan["averages"], 1, 1)).astype(np.float32)
        for average, offset in enumerate(parts - parts.mean()):
            # An echo mirrors about the middle of a readout; a readout of even length with an echo beside it cannot be
            # turned round without a shift, so those stay as they are.
            turned = scan["backwards"] and start == 0 and before == behind and bool(rng.random() < 0.5)
            values = whole + offset
            junk = [np.full((coils, n), 7, np.complex64) for n in (before, behind)]
            measured = np.concatenate([junk[0], values[:, ::-1] if turned else values, junk[1]], axis=1)
            rows.append(
                {
                    **{"repetition": repetition, "slice": slice_, "partition": partition, "line": line},
                    **{"average": average, "samples": measured.shape[1], "before": before, "behind": behind},
                    **{"centre": nx // 2 - start + before, "reversed": turned},
                }
            )
            data.append(measured)
    order = rng.permutation(len(rows))
    table = table_of([rows[i] for i in order], coils)
    notes = []
    found = make_plan(table, [encoding(nx, ny, nz, ny // 2 - first, nz // 2)], Path("k"), notes)
    store = Kept(table, found, [data[i] for i in order])
    wanted = truth.copy()
    wanted[..., :first] = 0
    wanted[..., :start, :] = 0
    for item, index in enumerate(np.ndindex(repetitions, slices)):
        given_index = tuple(i for i, n in zip(index, ("repetition", "slice"), strict=True) if n in found.layout.loops)
        np.testing.assert_allclose(
            store.read("kspace", given_index), wanted[index] if nz > 1 else wanted[index][:, 0], atol=2e-6
        )
        assert np.array_equal(given_index, found.layout.loop_index(item))
    assert any("average" in note for note in notes) == (scan["averages"] > 1)


def test_a_centre_that_the_lines_do_not_allow_makes_the_grid_grow():
    rows = [{"line": i, "samples": 8, "centre": 4} for i in range(16)]
    notes = []
    found = make_plan(table_of(rows, 1), [encoding(8, 8, 1, 8, None)], Path("k"), notes)
    assert found.layout.shape["x"] == 16
    assert "do not fit the header's 8" in notes[0]
    assert found.fov_mm == (200, 200, 100)


def test_a_matrix_without_end_is_refused():
    rows = [{"line": 30_000, "samples": 8, "centre": 4}]
    with pytest.raises(InputError, match="the limit is"):
        make_plan(table_of(rows, 1), [encoding(8, 8, 1, 4, None)], Path("k"), [])


FOV, TURNED = (200.0, 160.0, 5.0), ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def test_geometry_that_cannot_be_meant_is_none():
    at = ((0.0, 0.0, 0.0), (0.0, 0.0, 6.0), (0.0, 0.0, 12.5))
    found = make_geometry(FOV, at, *TURNED)
    assert isinstance(found, Geometry)
    assert found.position_mm == (0, 0, 6.25)
    assert make_geometry(FOV, (), *TURNED) is None
    assert make_geometry((0.0, 1.0, 1.0), at, *TURNED) is None
    assert make_geometry(FOV, ((np.nan, 0.0, 0.0),), *TURNED) is None
    assert make_geometry(FOV, at, (0.0, 0.0, 0.0), *TURNED[1:]) is None
    assert make_geometry(FOV, at, TURNED[0], TURNED[0], TURNED[2]) is None
