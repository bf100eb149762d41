"""Check the values of a scan (`mrirecon info --check`): a verdict on each question.

The thresholds were set with measured scans (brain, knee, phantom; 1 to 16 coils) and simulated faults. A verdict of
``look`` is a suspicion, not a proof. ``bad`` means that the data cannot be reconstructed as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation
from mrirecon.io.scan import LARGEST, SMALLEST, Scan, reconcile, support

Verdict = Literal["ok", "look", "bad"]

NEAR = 0.05  # largest distance of the peak from the centre, as a share of the axis
FLAT = 0.25  # smallest share of the energy in a tenth of the axis that counts as a peak (white noise: 0.1)
DEAD = 1e-8  # energy relative to the median coil
WEAK = 1.6  # power at the centre of k-space relative to the power outside
SATURATED = 6  # number of values equal to the largest: two are equal by symmetry, some more by chance
QUIET = 5.0  # signal-to-noise ratio below which an image shows little
# Power relative to the noise: an inner half above the first is clear; averages of pure noise stay below the second.
_CLEAR, _NOISE = 25.0, 1.25


@dataclass(frozen=True)
class Finding:
    """Hold the result of one check.

    Attributes:
        name: name of the check.
        verdict: ``ok``, ``look`` (may be intended) or ``bad`` (cannot be reconstructed as it is).
        message: the reason, with numbers.

    """

    name: str
    verdict: Verdict
    message: str


@dataclass
class Statistics:
    """Hold statistics of the k-space of several items.

    Attributes:
        profiles: energy along each spatial axis.
        coils: energy of each coil.
        energy: of each item, by number.
        not_finite: number of values that are NaN or infinite.
        first_not_finite: description of the index of the first of these.
        empty: items that are zero everywhere.
        largest: largest magnitude of all items.
        smallest: smallest of the items' largest magnitudes.
        saturated: largest number of real and imaginary parts in an item that equal its largest.
        missing: largest share of the samples that the mask marks without data.
        extra: largest share of the data outside the mask.
        unmarked: items for which the mask marks no data.

    """

    profiles: list[np.ndarray]
    coils: np.ndarray
    energy: dict[int, float] = field(default_factory=dict)
    not_finite: int = 0
    first_not_finite: str = ""
    empty: list[int] = field(default_factory=list)
    largest: float = 0.0
    smallest: float = np.inf
    saturated: int = 0
    missing: float = 0.0
    extra: float = 0.0
    unmarked: list[int] = field(default_factory=list)


def measure(scan: Scan, items: Iterable[int]) -> Statistics:
    """Compute statistics of the values of some items of a scan.

    Raises:
        InputError: see `Scan.unmasked_kspace`.

    """
    total = Statistics([np.zeros(n) for n in scan.space_shape], np.zeros(scan.coils))
    for item in items:
        kspace = scan.unmasked_kspace(item)
        finite = np.isfinite(kspace)
        if not finite.all():
            if not total.not_finite:
                index = np.unravel_index(int(np.argmin(finite)), kspace.shape)
                named = zip(("coil", *scan.space), index, strict=True)
                total.first_not_finite = f"{scan.where(item)}, {', '.join(f'{axis} {int(i)}' for axis, i in named)}"
            total.not_finite += int(np.count_nonzero(~finite))
            kspace[~finite] = 0
        parts = np.abs(kspace.view(np.float32))
        if not parts.any():
            total.empty.append(item)
            continue
        total.saturated = max(total.saturated, int(np.count_nonzero(parts == parts.max())))
        magnitude = np.abs(kspace).astype(np.float64)  # squares of extreme values would overflow in single precision
        power, peak = magnitude**2, float(magnitude.max())
        total.largest, total.smallest = max(total.largest, peak), min(total.smallest, peak)
        total.coils += power.reshape(scan.coils, -1).sum(1)
        combined = power.sum(0)
        for axis, profile in enumerate(total.profiles):
            profile += combined.sum(axis=_others(combined.ndim, axis))
        total.energy[item] = float(combined.sum())
        marked = scan.marked(item)
        if marked is not None:
            used, missing, extra = reconcile(marked, support(kspace))
            total.missing, total.extra = max(total.missing, missing), max(total.extra, extra)
            if not used.any():
                total.unmarked.append(item)
    return total


def check(scan: Scan, total: Statistics | None = None) -> list[Finding]:
    """Check the values of a scan; return one finding for each check.

    Args:
        scan: the scan.
        total: statistics of all its items, if they were computed before.

    Raises:
        InputError: see `Scan.unmasked_kspace`.

    """
    total = total or measure(scan, range(len(scan)))
    findings: list[Finding | None] = [_numbers(total), _signal(scan, total)]
    if scan.warnings:
        findings.append(Finding("storage", "look", scan.warnings[0]))
    if total.energy:
        strongest = max(total.energy, key=total.energy.__getitem__)
        kspace = scan.unmasked_kspace(strongest)
        kspace[~np.isfinite(kspace)] = 0
        used, marked = support(kspace), scan.marked(strongest)
        if marked is not None:
            used = reconcile(marked, used)[0]
        kspace = kspace / np.abs(kspace).max() * used
        findings += [_centre(scan, total), _axes(scan, total), _mask(scan, total), _clipping(total)]
        if used.any():
            axes = tuple(range(1, kspace.ndim))
            image = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)
            power = (np.abs(image) ** 2).sum(0)
            noise = noise_deviation(kspace, used)
            findings += [_convention(scan, strongest, kspace, power), _coils(total, kspace, used)]
            findings += [_noise(power, noise, used), _oversampling(scan, power, noise, used)]
    return [finding for finding in findings if finding is not None]


def _numbers(total: Statistics) -> Finding:
    if total.not_finite:
        fix = "--nan zero treats them as not measured"
        words = f"{total.not_finite} values are NaN or infinite, first {total.first_not_finite}; {fix}"
        return Finding("numbers", "bad", words)
    return Finding("numbers", "ok", "no NaN, nothing infinite")


def _signal(scan: Scan, total: Statistics) -> Finding:
    if len(total.empty) == len(scan):
        return Finding("signal", "bad", "k-space is zero everywhere")
    if total.empty:
        few = ", ".join(map(str, total.empty[:8])) + (", …" if len(total.empty) > 8 else "")
        words = f"{len(total.empty)} of {len(scan)} items are zero everywhere ({few}): their images will be zero"
        return Finding("signal", "look", words)
    if not (total.smallest >= SMALLEST and total.largest <= LARGEST):
        words = f"largest values from {total.smallest:.3g} to {total.largest:.3g}: scale them, for example to maximum 1"
        return Finding("signal", "bad", words)
    return Finding("signal", "ok", f"no item of {len(scan)} is empty; the largest value is {total.largest:.4g}")


def _centre(scan: Scan, total: Statistics) -> Finding:
    offsets = {axis: int(p.argmax()) - len(p) // 2 for axis, p in zip(scan.space, total.profiles, strict=True)}
    far = {axis: o for axis, o in offsets.items() if abs(o) > max(1, NEAR * scan.shape[axis])}
    if not far:
        words = ", ".join(f"{axis} {o:+d}" for axis, o in offsets.items())
        return Finding("centre", "ok", f"strongest at the centre n // 2 ({words} samples)")
    peaks = {axis: (scan.shape[axis] // 2 + o, scan.shape[axis]) for axis, o in far.items()}
    words = ", ".join(f"{axis} {peak} of {n} ({far[axis]:+d})" for axis, (peak, n) in peaks.items())
    ends = [axis for axis, (peak, n) in peaks.items() if min(peak, n - 1 - peak) <= 1]
    if ends:
        why = f"along {' and '.join(ends)} k-space has its centre at the ends: apply numpy.fft.fftshift"
        return Finding("centre", "bad", f"strongest at {words}: {why}")
    return Finding("centre", "look", f"strongest at {words}: check for a partial echo, or samples cut off at one side")


def _axes(scan: Scan, total: Statistics) -> Finding:
    shares = {}
    for axis, profile in zip(scan.space, total.profiles, strict=True):
        if len(profile) >= 16:  # energy in the strongest tenth, which may wrap around the end
            width = max(1, round(len(profile) / 10))
            sums = np.convolve(np.r_[profile, profile[: width - 1]], np.ones(width), "valid")
            shares[axis] = float(sums.max() / profile.sum())
    flat = [axis for axis, share in shares.items() if share < FLAT]
    words = ", ".join(f"{axis} {share:.0%}" for axis, share in shares.items())
    if flat and len(flat) == len(shares):
        return Finding("axes", "look", f"no axis has a peak ({words} in its strongest tenth): noise only, or an image?")
    if flat:
        why = "already transformed to an image along this axis, or not a spatial axis"
        return Finding("axes", "look", f"{' and '.join(flat)} has no peak ({words} in its strongest tenth): {why}?")
    return Finding("axes", "ok", f"energy in the strongest tenth of each: {words or 'too short to tell'}")


def _mask(scan: Scan, total: Statistics) -> Finding | None:
    if scan.given_mask is None:
        return None
    if total.unmarked:
        words = f"it marks no measured sample of {len(total.unmarked)} items: inverted, or from another scan?"
        return Finding("mask", "bad", words)
    words = f"{total.missing:.1%} of its samples are empty, {total.extra:.1%} of the data are outside"
    if total.extra and not scan.retrospective:
        return Finding("mask", "look", f"{words} and will be set to zero")
    return Finding("mask", "look" if total.missing else "ok", words)


def _clipping(total: Statistics) -> Finding:
    if total.saturated >= SATURATED:
        words = f"{total.saturated} values equal the largest, {total.largest:.4g}: was the receiver overdriven?"
        return Finding("clipping", "look", words)
    return Finding("clipping", "ok", f"{total.saturated} values equal the largest")


def _convention(scan: Scan, item: int, kspace: np.ndarray, power: np.ndarray) -> Finding:
    """Look for a shifted or mirrored image.

    The phase difference of neighbouring samples of k-space depends on the position of the object: the sum of
    conj(k_j) k_(j+1) equals the sum of |x_r|² exp(-2 pi i r / n), and its angle gives the circular mean of r. Only
    pairs of neighbouring samples are needed.
    """
    parts, alternates = [], False
    for axis, name in enumerate(scan.space, start=1):
        ends = [slice(None)] * axis
        first, second = kspace[(*ends, slice(None, -1))], kspace[(*ends, slice(1, None))]
        total, whole = complex((first.conj() * second).sum()), float((np.abs(first) * np.abs(second)).sum())
        offset = float(-np.angle(total) / (2 * np.pi))
        parts.append(f"{name} {offset:+.0%}")
        alternates |= abs(offset) > 0.35 and abs(total) > 0.2 * whole
    words = f"object's centre at {', '.join(parts)} of the field of view"
    if alternates:
        why = "the phase of k-space alternates from sample to sample (a checkerboard), which shifts the image by"
        return Finding("convention", "look", f"{words}: {why} half of it; multiply by (-1)^index along it")
    orientation = None if scan.reference is None else _orientation(np.sqrt(power), scan.reference[item], scan.space)
    if orientation is not None:
        return Finding(
            "convention", "look", f"the image looks like its reference {orientation}: another sign of the FFT?"
        )
    return Finding("convention", "ok", words)


def _orientation(image: np.ndarray, reference: np.ndarray, space: tuple[str, ...]) -> str | None:
    """Return the flip or shift after which the image looks like its (cropped) reference; None if neither is needed."""
    if image.ndim != reference.ndim or any(r > n for r, n in zip(reference.shape, image.shape, strict=True)):
        return None
    cut = tuple(slice((n - r) // 2, (n - r) // 2 + r) for r, n in zip(reference.shape, image.shape, strict=True))
    variants: dict[str, np.ndarray] = {}
    for axis, name in enumerate(space):
        variants[f"mirrored along {name}"] = np.flip(image, axis)
        variants[f"shifted by half the field of view along {name}"] = np.roll(image, image.shape[axis] // 2, axis)
    variants["mirrored along every axis"] = np.flip(image)
    variants["shifted by half the field of view"] = np.fft.fftshift(image)

    def correlation(other: np.ndarray) -> float:
        return float(np.nan_to_num(np.corrcoef(other[cut].ravel(), reference.ravel())[0, 1]))

    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {name: correlation(other) for name, other in variants.items()}
        best = max(scores, key=scores.__getitem__)
        return best if scores[best] > max(correlation(image) + 0.1, 0.5) else None


def _coils(total: Statistics, kspace: np.ndarray, used: np.ndarray) -> Finding:
    count = len(total.coils)
    dead = [c for c in range(count) if total.coils[c] <= DEAD * np.median(total.coils)]
    deaf = [c for c, ratio in enumerate(_reception(kspace, used)) if c not in dead and ratio < WEAK]
    if not dead and not deaf:
        return Finding("coils", "ok", f"all {count} coils receive signal")
    parts = [f"{', '.join(map(str, c))} {what}" for c, what in ((dead, "dead"), (deaf, "noise only")) if c]
    return Finding("coils", "look", f"of {count}: {'; '.join(parts)}")


def _reception(kspace: np.ndarray, used: np.ndarray) -> list[float]:
    """Return, for each coil, the ratio of mean power near the peak of k-space to mean power elsewhere.

    The ratio is 1 for white noise, and larger if the coil receives signal.
    """
    near = np.ones(used.shape, dtype=bool)
    power = np.abs(kspace) ** 2
    combined = power.sum(0)
    peak = np.unravel_index(int(combined.argmax()), combined.shape)
    for axis, n in enumerate(used.shape):
        distance = np.abs(np.arange(n) - peak[axis])
        inside = np.minimum(distance, n - distance) <= max(
            1, n // 16
        )  # distances wrap around: the peak may be at a corner
        near &= np.expand_dims(inside, _others(near.ndim, axis))
    inner, outer = near & used, ~near & used
    if not inner.any() or not outer.any():
        return [np.inf] * len(kspace)
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = power[:, outer].mean(1)
        ratio: list[float] = np.where(outside > 0, power[:, inner].mean(1) / outside, np.inf).tolist()
        return ratio


def _noise(power: np.ndarray, noise: np.ndarray, used: np.ndarray) -> Finding:
    """Compare the root sum of squares inside the object with the noise of an average coil."""
    if not noise.any():
        return Finding("noise", "ok", "no noise found: simulated or denoised data")
    magnitude = np.sqrt(power)
    inside = magnitude > 0.15 * np.quantile(magnitude, 0.99)
    ratio = float(magnitude[inside].mean() / np.sqrt((noise**2).mean())) if inside.any() else 0.0
    box = " x ".join(str(s.stop - s.start) for s in find_calibration(used))
    words = f"signal-to-noise ratio about {ratio:.3g} in the combined image (calibration region {box})"
    return Finding("noise", "ok" if ratio >= QUIET else "look", words)


def _oversampling(scan: Scan, power: np.ndarray, noise: np.ndarray, used: np.ndarray) -> Finding | None:
    """Look for axes along which the outer half of the field of view holds only noise.

    Only axes without gaps in the sampling are examined, because aliasing would fill the outer half. The inner half
    must exceed the noise so far that noise cannot hide an object in the outer half: a hidden object has at most a
    hundredth of the power of the inner half (one part in 500 if there is hardly any noise).
    """
    box, level, empty = find_calibration(used), float((noise**2).sum()) * used.mean(), []
    for axis, n in enumerate(used.shape):
        if n >= 64 and box[axis].stop - box[axis].start >= 0.9 * n:
            profile = power.mean(axis=_others(used.ndim, axis))
            # Leave out the samples next to the edge, where the receiver's filter still passes signal.
            outer = np.r_[profile[: n * 7 // 32], profile[n - n * 7 // 32 :]].max()
            inner = profile[n // 4 : n - n // 4].mean()
            if inner > _CLEAR * level and outer < max(_NOISE * level, 2e-3 * inner):
                empty.append(scan.space[axis])
    if not empty:
        return None
    words = f"the outer half of the field of view is empty along {' and '.join(empty)}"
    return Finding("oversampling", "look", f"{words}: twofold readout oversampling, which only costs time")


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    """Return all axes but one."""
    return tuple(a for a in range(ndim) if a != axis)
