"""`mrirecon info --check`: what the values of a scan say about it, a verdict for each question.

Thresholds are set by measured scans (brain, knee, phantom; 1 to 16 coils) and by simulated faults; they raise
suspicion, and prove nothing. ``bad`` is kept for what cannot be reconstructed as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation
from mrirecon.io.look import (
    ItemKspace,
    centre_offset,
    coil_reception,
    empty_fraction,
    orientation,
    peakedness,
    signal_to_noise,
)
from mrirecon.io.scan import LARGEST, SMALLEST, Scan, reconcile, support

Verdict = Literal["ok", "look", "bad"]

NEAR = 0.05  # share of an axis by which its peak may lie off the centre
FLAT = 0.25  # share of an axis's energy in a tenth of it: below, there is no peak (white noise: 0.1)
DEAD, WEAK = 1e-8, 1.6  # energy over the median coil's; power at the k-space centre over that outside
SATURATED = 6  # values that equal the largest one: two by symmetry, some more by chance
QUIET = 5.0  # signal-to-noise ratio below which an image shows little


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        name: of the question.
        verdict: ``ok``, ``look`` (may be meant so) or ``bad`` (cannot be reconstructed as it is).
        message: in words, with numbers.

    """

    name: str
    verdict: Verdict
    message: str


@dataclass
class _Statistics:
    """What one pass over all items gathers."""

    profiles: list[np.ndarray]
    coils: np.ndarray
    strange: int = 0
    first: str = ""
    empty: list[int] = field(default_factory=list)
    largest: float = 0.0
    smallest: float = np.inf
    saturated: int = 0
    missing: float = 0.0
    extra: float = 0.0
    apart: list[int] = field(default_factory=list)


def check(scan: Scan) -> list[Finding]:
    """Look at every value of a scan and answer, for each question, in words.

    Raises:
        InputError: see `Scan.unmasked_kspace`.

    """
    sums = _Statistics([np.zeros(n) for n in scan.space_shape], np.zeros(scan.coils))
    strongest, most = -1, 0.0
    for item in range(len(scan)):
        energy = _gather(scan, item, sums)
        if energy > most:
            strongest, most = item, energy
    found = [_numbers(sums), _signal(scan, sums), _chunks(scan)]
    if strongest >= 0:
        kspace = scan.unmasked_kspace(strongest)
        kspace[~np.isfinite(kspace)] = 0
        used = support(kspace)
        if scan.given_mask is not None:
            used = reconcile(scan.given_mask[strongest if len(scan.given_mask) > 1 else 0], used)[0]
        kspace = kspace / np.abs(kspace).max() * used
        found += [_centre(scan, sums), _axes(scan, sums), _mask(scan, sums), _clipping(sums)]
        if used.any():
            look = ItemKspace(kspace, used, scan.space)
            found += [_convention(scan, look, strongest), _coils(sums, look), _noise(look), _oversampling(look)]
    return [one for one in found if one is not None]


def _gather(scan: Scan, item: int, sums: _Statistics) -> float:
    kspace = scan.unmasked_kspace(item)
    finite = np.isfinite(kspace)
    if not finite.all():
        if not sums.strange:
            index = np.unravel_index(int(np.argmin(finite)), kspace.shape)
            named = zip(("coil", *scan.space), index, strict=True)
            sums.first = f"{scan.where(item)}, {', '.join(f'{axis} {int(i)}' for axis, i in named)}"
        sums.strange += int(np.count_nonzero(~finite))
        kspace[~finite] = 0
    parts = np.abs(kspace.view(np.float32))
    peak = float(parts.max())
    if peak == 0:
        sums.empty.append(item)
        return 0.0
    sums.saturated = max(sums.saturated, int(np.count_nonzero(parts == peak)))
    magnitude = np.abs(kspace).astype(np.float64)  # squares of extreme values would overflow in single precision
    power = magnitude**2
    peak = float(magnitude.max())
    sums.largest, sums.smallest = max(sums.largest, peak), min(sums.smallest, peak)
    sums.coils += power.reshape(scan.coils, -1).sum(1)
    together = power.sum(0)
    for axis, profile in enumerate(sums.profiles):
        profile += together.sum(axis=tuple(a for a in range(together.ndim) if a != axis))
    if scan.given_mask is not None:
        marked = scan.given_mask[item if len(scan.given_mask) > 1 else 0]
        used, missing, extra = reconcile(marked, support(kspace))
        sums.missing, sums.extra = max(sums.missing, missing), max(sums.extra, extra)
        if not used.any():
            sums.apart.append(item)
    return float(together.sum())


def _numbers(sums: _Statistics) -> Finding:
    if sums.strange:
        told = f"{sums.strange} values are NaN or infinite, first {sums.first}; --nan zero takes them as not measured"
        return Finding("numbers", "bad", told)
    return Finding("numbers", "ok", "no NaN, nothing infinite")


def _signal(scan: Scan, sums: _Statistics) -> Finding:
    if len(sums.empty) == len(scan):
        return Finding("signal", "bad", "k-space is zero everywhere")
    if sums.empty:
        few = ", ".join(map(str, sums.empty[:8])) + (", …" if len(sums.empty) > 8 else "")
        told = f"{len(sums.empty)} of {len(scan)} items are zero everywhere ({few}): their images will be zero"
        return Finding("signal", "look", told)
    if not (sums.smallest >= SMALLEST and sums.largest <= LARGEST):
        told = f"largest values from {sums.smallest:.3g} to {sums.largest:.3g}: scale them, to maximum 1 for instance"
        return Finding("signal", "bad", told)
    return Finding("signal", "ok", f"all {len(scan)} items hold some; the largest value is {sums.largest:.4g}")


def _chunks(scan: Scan) -> Finding | None:
    if not scan.warnings:
        return None
    return Finding("storage", "look", scan.warnings[0])


def _centre(scan: Scan, sums: _Statistics) -> Finding:
    offsets = {axis: int(p.argmax()) - len(p) // 2 for axis, p in zip(scan.space, sums.profiles, strict=True)}
    sizes = dict(zip(scan.space, scan.space_shape, strict=True))
    far = {axis: o for axis, o in offsets.items() if abs(o) > max(1, NEAR * sizes[axis])}
    if not far:
        told = ", ".join(f"{axis} {o:+d}" for axis, o in offsets.items())
        return Finding("centre", "ok", f"strongest at the centre n // 2 ({told} samples)")
    told = ", ".join(f"{axis} {sizes[axis] // 2 + o} of {sizes[axis]} ({o:+d})" for axis, o in far.items())
    ends = [axis for axis, o in far.items() if min(sizes[axis] // 2 + o, sizes[axis] - 1 - sizes[axis] // 2 - o) <= 1]
    if ends:
        why = f"along {' and '.join(ends)} k-space has its centre at the ends: apply numpy.fft.fftshift"
        return Finding("centre", "bad", f"strongest at {told}: {why}")
    return Finding("centre", "look", f"strongest at {told}: a partial echo, or samples cut off at one side?")


def _axes(scan: Scan, sums: _Statistics) -> Finding:
    shares = {axis: peakedness(p) for axis, p in zip(scan.space, sums.profiles, strict=True) if len(p) >= 16}
    flat = [axis for axis, share in shares.items() if share < FLAT]
    told = ", ".join(f"{axis} {share:.0%}" for axis, share in shares.items())
    if flat and len(flat) == len(shares):
        return Finding("axes", "look", f"no axis has a peak ({told} in its strongest tenth): noise alone, or an image?")
    if flat:
        why = "already transformed to an image along it, or not an axis of space"
        return Finding("axes", "look", f"{' and '.join(flat)} has no peak ({told} in its strongest tenth): {why}?")
    return Finding("axes", "ok", f"energy in the strongest tenth of each: {told or 'too short to tell'}")


def _mask(scan: Scan, sums: _Statistics) -> Finding | None:
    if scan.given_mask is None:
        return None
    if sums.apart:
        told = f"it marks none of the samples of {len(sums.apart)} items: inverted, or another scan's?"
        return Finding("mask", "bad", told)
    told = f"{sums.missing:.1%} of its samples hold nothing, {sums.extra:.1%} of the data lie outside"
    if sums.extra and not scan.retrospective:
        return Finding("mask", "look", f"{told} and will be set to zero")
    return Finding("mask", "look" if sums.missing else "ok", told)


def _clipping(sums: _Statistics) -> Finding:
    if sums.saturated >= SATURATED:
        told = f"{sums.saturated} values equal the largest, {sums.largest:.4g}: the receiver was overdriven?"
        return Finding("clipping", "look", told)
    return Finding("clipping", "ok", f"{sums.saturated} values equal the largest")


def _convention(scan: Scan, look: ItemKspace, item: int) -> Finding:
    told, wrong = [], False
    for axis, (offset, strength) in zip(look.space, centre_offset(look), strict=True):
        told.append(f"{axis} {offset:+.0%}")
        wrong |= abs(offset) > 0.35 and strength > 0.2
    if wrong:
        why = "the phase of k-space alternates from sample to sample (a checkerboard), so that the image is shifted by"
        fix = "multiply by (-1)^index along it"
        told_all = f"object's centre at {', '.join(told)} of the field of view: {why} half of it; {fix}"
        return Finding("convention", "look", told_all)
    turned = None if scan.reference is None else orientation(look, scan.reference[item])
    if turned is not None:
        return Finding("convention", "look", f"the image looks like its reference {turned}: another sign of the FFT?")
    return Finding("convention", "ok", f"object's centre at {', '.join(told)} of the field of view")


def _coils(sums: _Statistics, look: ItemKspace) -> Finding:
    count = len(sums.coils)
    dead = [c for c in range(count) if sums.coils[c] <= DEAD * np.median(sums.coils)]
    deaf = [c for c, ratio in enumerate(coil_reception(look)) if c not in dead and ratio < WEAK]
    if len(dead) + len(deaf) == 0:
        return Finding("coils", "ok", f"all {count} receive")
    parts = [f"{', '.join(map(str, c))} {what}" for c, what in ((dead, "dead"), (deaf, "noise alone")) if c]
    return Finding("coils", "look", f"of {count}: {'; '.join(parts)}")


def _noise(look: ItemKspace) -> Finding:
    noise = noise_deviation(look.kspace, look.used)
    if not noise.any():
        return Finding("noise", "ok", "none to be measured: simulated, or denoised data")
    ratio = signal_to_noise(look, noise)
    box = " x ".join(str(s.stop - s.start) for s in find_calibration(look.used))
    told = f"signal-to-noise ratio about {ratio:.3g} in the combined image (calibration region {box})"
    return Finding("noise", "ok" if ratio >= QUIET else "look", told)


def _oversampling(look: ItemKspace) -> Finding | None:
    empty = [axis for axis, share in zip(look.space, empty_fraction(look), strict=True) if share is not None and share]
    if not empty:
        return None
    told = f"the outer half of the field of view is empty along {' and '.join(empty)}"
    return Finding("oversampling", "look", f"{told}: twofold readout oversampling costs time, and shows nothing")
