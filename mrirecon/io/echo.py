"""At which sample of a readout the echo lies, forwards and backwards: writers count reversed readouts in three ways.

ISMRMRD defines `center_sample` as the index of a sample as stored. Turned round, sample c of n lies at n - 1 - c: the
echo of a line of 64 samples that is at 32 forwards is at 31 backwards. Siemens, and what is converted from it, states
n // 2 for either direction, so at an even n one more than the index as stored (mrpro's pull request 832 found the
same). Other writers state the index after turning. No file says which it means, but all lines of a scan have one centre
of k-space, and none can begin before the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readouts import Readouts

_STORED, _LATE, _TURNED = "as stored", "as stored and one late", "after turning"


def echoes(table: Readouts, rows: np.ndarray, samples: int, middle: bool, path: Path, notes: list[str]) -> np.ndarray:
    """Return at which of the samples that are kept the echo lies, once reversed readouts are turned round.

    Of the three ways to count, the first is taken with which every reversed readout has its echo where forward readouts
    of the same length have theirs; where there are no such, or none agrees, the first with which all lie inside of the
    matrix. The standard's comes first, or Siemens's where `Readouts.late` says so.

    Args:
        table: the readouts.
        rows: which of them.
        samples: of the matrix along the readout.
        middle: take the middle of each readout, for the header does not say where the echo lies.
        path: the file, for messages.
        notes: what there is to tell, added to.

    Raises:
        InputError: reversed readouts whose stated centre makes sense in no way.

    """
    length, before, behind = table.samples[rows], table.before[rows], table.behind[rows]
    if middle:
        return np.asarray(length // 2 - np.where(table.reversed[rows], behind, before))
    forward, turned = table.centre[rows] - before, table.reversed[rows]
    if not turned.any():
        return forward
    kept = length - before - behind
    known = set(zip(kept[~turned].tolist(), forward[~turned].tolist(), strict=True))
    ways = {name: where[turned] for name, where in _ways(table, rows)}

    def agrees(where: np.ndarray) -> bool:
        return known.issuperset(zip(kept[turned].tolist(), where.tolist(), strict=True))

    def fits(where: np.ndarray) -> bool:
        start = samples // 2 - where
        return bool(((start >= 0) & (start + kept[turned] <= samples)).all())

    inside = [name for name, where in ways.items() if fits(where)]
    chosen = next((name for name in inside if agrees(ways[name])), next(iter(inside), None))
    if chosen is None:
        row = int(rows[turned][0])
        found = ", ".join(f"{int(where[0])} if counted {name}" for name, where in ways.items())
        raise InputError(
            f"the reversed readouts of {path} state a centre that cannot be meant",
            why=f"readout {row}: sample {table.centre[row]} of {table.samples[row]} puts its echo, once turned, at "
            f"{found}: with none do all reversed readouts fit a matrix of {samples}",
            fix="convert the raw data again, with center_sample the index of the sample as stored",
        )
    if chosen != _STORED and not np.array_equal(ways[chosen], ways[_STORED]):
        notes.append(f"the centre of reversed readouts is counted {chosen}: so all lines have one centre")
    return np.asarray(np.where(turned, _spread(ways[chosen], turned), forward))


def _ways(table: Readouts, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each way to count, the likeliest first, and where it puts the echoes."""
    length, centre, behind = table.samples[rows], table.centre[rows], table.behind[rows]
    stored, late = length - 1 - centre - behind, 2 * (length // 2) - centre - behind
    yield from ((_LATE, late), (_STORED, stored)) if table.late else ((_STORED, stored), (_LATE, late))
    yield _TURNED, centre - behind


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    out = np.zeros(len(where), dtype=np.int64)
    out[where] = values
    return out
