"""Find the sample of the echo in a readout: writers count it in three ways for reversed readouts.

ISMRMRD defines `center_sample` as the index of a sample as stored. After the reversal, sample c of n is at n - 1 - c:
the echo of a line of 64 samples is at 32 forwards and at 31 backwards. Siemens, and files converted from Siemens, state
n // 2 for both directions, which for an even n is one more than the index as stored (see mrpro's pull request 832).
Other writers state the index after the reversal. No file states which way it uses. But all lines of a scan have the
same centre of k-space, and no line can start before the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.readers.readouts import STORED, Placement, Readouts, Way

# Smallest difference in samples that the data can show: gradient delays shift an echo by less.
_APART = 3
_LINES = 16
_PEAK = 4  # ratio to the median energy above which a sample counts as an echo


def echoes(table: Readouts, rows: np.ndarray, samples: int, middle: bool, path: Path, notes: list[str]) -> np.ndarray:
    """Return the index of the echo among the samples that are not discarded, after reversed readouts are flipped.

    The ways to count are tried in the order of `Readouts.ways`. The first is used for which the echo of every reversed
    readout agrees with forward readouts of the same length. Without such readouts, or if no way agrees, the first is
    used for which all readouts lie inside the matrix.

    Args:
        table: the readouts.
        rows: rows of the table.
        samples: size of the matrix along the readout.
        middle: take the middle of each readout, because the header does not state the echo.
        path: the file, for messages.
        notes: list to which conclusions are added.

    Raises:
        InputError: no way to count puts all reversed readouts inside the matrix.

    """
    length, pre, post = table.samples[rows], table.discard_pre[rows], table.discard_post[rows]
    is_reversed = table.reversed[rows]
    if middle:
        return np.asarray(length // 2 - np.where(is_reversed, post, pre))
    forward = table.centre[rows] - pre
    if not is_reversed.any():
        return np.asarray(forward)
    valid = table.valid[rows]
    known = set(zip(valid[~is_reversed].tolist(), forward[~is_reversed].tolist(), strict=True))
    centres = {way: _counted(table, rows[is_reversed], way) for way in table.ways}
    inside = [way for way, where in centres.items() if _fits(where, valid[is_reversed], samples)]
    lengths = valid[is_reversed].tolist()
    agreeing = [way for way in inside if known.issuperset(zip(lengths, centres[way].tolist(), strict=True))]
    if not inside:
        listed = ", ".join(f"{where[0]} if counted {way}" for way, where in centres.items())
        row = int(rows[is_reversed][0])
        raise InputError(
            f"the reversed readouts of {path} state an impossible centre",
            why=f"readout {row}: sample {table.centre[row]} of {table.samples[row]} puts its echo, after the reversal, "
            f"at {listed}; in no case do all reversed readouts fit a matrix of {samples}",
            fix="convert the raw data again, with center_sample the index of the sample as stored",
        )
    way = (agreeing or inside)[0]
    if way != STORED and (centres[way] != _counted(table, rows[is_reversed], STORED)).any():
        notes.append(f"the centre of reversed readouts is counted {way}, which agrees with the other lines")
    out: np.ndarray = np.array(forward)
    out[is_reversed] = centres[way]
    return out


def echo_from_samples(
    table: Readouts,
    placed: Placement,
    centre: tuple[int, int],
    samples: int,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
) -> Way | None:
    """Choose the way to count from the samples, if the possible ways differ enough; return None otherwise.

    A reversed readout with an asymmetric echo covers the other side of k-space, but the same side if the writer states
    the index after the reversal. Both have the same header, but different strongest samples.

    Args:
        table: the readouts.
        placed: placement of the readouts of the image.
        centre: line and partition through the centre of k-space.
        samples: size of the matrix along the readout.
        fetch: function that returns readouts (coil, sample) by row, after reversed ones are flipped.

    """
    rows = placed.rows
    is_reversed, valid = table.reversed[rows], table.valid[rows]
    lengths = np.intersect1d(valid[is_reversed], valid[~is_reversed])
    if not lengths.size or not table.centre[rows].any():
        return None
    away = np.abs(placed.line - centre[0]) + np.abs(placed.partition - centre[1])
    nearest = np.argsort(away, kind="stable")
    nearest = nearest[valid[nearest] == lengths[-1]]
    backward, forward = (rows[nearest[is_reversed[nearest] == side]][:_LINES] for side in (True, False))
    echo = float(np.median(table.centre[forward] - table.discard_pre[forward]))
    every = rows[is_reversed]
    shifts = {
        way: float(np.median(_counted(table, backward, way))) - echo
        for way in table.ways
        if _fits(_counted(table, every, way), valid[is_reversed], samples)
    }
    if not shifts or max(shifts.values()) - min(shifts.values()) < _APART:
        return None
    profiles = [_profile(fetch(part)) for part in (backward, forward)]
    if any(profile.max() <= _PEAK * np.median(profile) for profile in profiles):
        return None
    backward_peaks, forward_peaks = (np.maximum(profile - np.median(profile), 0) for profile in profiles)
    lag = int(np.correlate(backward_peaks, forward_peaks, mode="full").argmax()) - (len(forward_peaks) - 1)
    return min(shifts, key=lambda way: abs(shifts[way] - lag))


def _profile(lines: list[np.ndarray]) -> np.ndarray:
    """Return the energy of readouts (coil, sample) by sample, 0 instead of NaN."""
    with np.errstate(all="ignore"):  # the scan reports NaN later
        energies = [np.square(np.abs(line), dtype=np.float64).sum(axis=0) for line in lines]
    return np.asarray(np.nan_to_num(np.sum(energies, axis=0), posinf=0))


def _counted(table: Readouts, rows: np.ndarray, way: Way) -> np.ndarray:
    """Return the echoes of reversed readouts for one way to count, after the readouts are flipped."""
    length, centre = table.samples[rows], table.centre[rows]
    ways = {"as stored": length - 1 - centre, "as stored and one late": 2 * (length // 2) - centre}
    return np.asarray(ways.get(way, centre) - table.discard_post[rows])


def _fits(echo: np.ndarray, valid: np.ndarray, samples: int) -> bool:
    start = samples // 2 - echo
    return bool(((start >= 0) & (start + valid <= samples)).all())
