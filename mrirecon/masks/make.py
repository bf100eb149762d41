"""Make a mask of any family: check what is asked for, draw, and state what was achieved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.masks.compat import Drawn, fastmri, fastmri_seed, mridc, mridc_seed
from mrirecon.masks.registry import FAMILIES, Family, compats
from mrirecon.masks.result import (
    MaskResult,
    achieved_acceleration,
    calibration_sides,
    centred,
    readout_note,
    seed_from,
    spread_over,
)


def make_mask(
    family: str,
    shape: tuple[int, ...],
    acceleration: float | None = None,
    *,
    calibration: int | tuple[int, ...] | None = None,
    seed: int | tuple[int, ...] = 0,
    name: str = "",
    slice: int = 0,
    compat: str = "none",
    axis: int = -1,
    readout: int = -1,
    center_fraction: float | None = None,
    fwhm: float | None = None,
    path: str | Path | None = None,
    options: Mapping[str, object] | None = None,
) -> MaskResult:
    """Return a sampling mask: a function of the arguments alone, the same on every machine.

    With ``compat="none"`` the number of lines (or, in a plane, of samples) is n / R rounded to the nearest, calibration
    region included. The region is the box from n // 2 - c // 2 to n // 2 - c // 2 + c - 1 along each axis, as scanners
    centre it. The draw depends on the stable hash of (seed, name, slice).

    ``compat="fastmri"`` gives fastMRI's own masks for a seed, bit for bit. With ``name`` the seed is fastMRI's for that
    file, the character codes of its name, and the same for every slice; ``seed`` and ``slice`` must then stay 0.
    ``compat="mridc"`` draws as the CIRIM papers did: from ``seed`` itself, or the hash where name or slice is given.

    Args:
        family: a registered family, see `mrirecon.masks.FAMILIES`: lines across ``axis``, a plane over two axes, or
            ``file``.
        shape: (*space), two or three axes.
        acceleration: R >= 1, for every family but ``file``.
        calibration: number of calibration lines, or the box of a plane family (one number for both axes, or one each);
            0 for none. None: 32 % of the samples that R leaves, and in a plane at most 24 a side.
        seed: any integer; for ``compat``, one or (fastmri) several integers of 32 bits.
        name: name of the file, without folders, so that every file has its own mask.
        slice: index of the slice, so that every slice has its own mask; leave at 0 for one mask per file.
        compat: whose rules to follow: ``none`` (our own), or one that the family names.
        axis: the undersampled axis of a line family or of a file that holds lines.
        readout: with three axes, the fully sampled one of a plane family or of a file that holds a plane.
        center_fraction: for ``compat="fastmri"``, in place of ``calibration``; default 0.32 / R.
        fwhm: for the Gaussian families, full width at half maximum, where k-space reaches from -1 to 1. Default 1, and
            0.7 with ``compat="mridc"``.
        path: for ``file``: see ``load_mask``.
        options: options of the family by name: the keyword-only parameters of its function.

    Raises:
        UsageError: no such mask exists; the message gives the numbers.
        InputError: a mask file that cannot be used.

    """
    shape = tuple(int(n) for n in shape)
    _check(family, shape, acceleration, compat)
    chosen = FAMILIES[family]
    having = " and ".join(name for name, one in FAMILIES.items() if "fwhm" in one.options)
    _refuse_unused(fwhm is not None and "fwhm" not in chosen.options, "fwhm", having, family)
    _refuse_unused(center_fraction is not None and compat != "fastmri", "center_fraction", "compat='fastmri'", compat)
    if chosen.over == "file":
        if path is None or acceleration is not None or calibration is not None:
            raise UsageError(
                "the family file takes its mask from a file, and nothing but its path",
                why=f"path is {path}, acceleration is {acceleration}, calibration is {calibration}",
                fix="give path, and leave acceleration and calibration out",
            )
        result: MaskResult = chosen.build(path, shape, axis=axis, readout=readout)
        return result
    _refuse_unused(path is not None, "path", "file", family)
    _refuse_unused(bool(options) and compat != "none", "options", "our own masks", f"compat={compat!r}")
    if fwhm is not None and not (math.isfinite(fwhm) and fwhm > 0):
        raise UsageError("fwhm must be a positive number", why=f"it is {fwhm}", fix="leave it out, or try 0.7")
    if isinstance(seed, tuple) and compat != "fastmri":
        raise UsageError("seed must be one integer", why=f"it is {seed}", fix="several belong to compat='fastmri'")
    settings = chosen.resolve({**(options or {}), **({} if fwhm is None else {"fwhm": fwhm})})
    axes = phase_axes(family, len(shape), axis, readout)
    space = tuple(shape[a] for a in axes)
    rate = float(acceleration or 0)
    if compat == "fastmri":
        seed = fastmri_seed(seed, name, slice)
        drawn, box, note = fastmri(family, space[0], rate, calibration, center_fraction, seed)
    else:
        seed = int(seed)  # type: ignore[arg-type]  # no tuple, see above
        if compat == "mridc":
            drawn, box, note = mridc(family, space, rate, calibration, fwhm, mridc_seed(seed, name, slice))
        else:
            rng = np.random.RandomState(seed_from(seed, name, slice))
            drawn, box, note = _draw(rng, chosen, space, rate, calibration, settings)
    if not drawn.any():
        raise UsageError(
            "these numbers give a mask that samples nothing",
            why=f"{math.prod(space)} lines or samples, acceleration {rate:g}, calibration region {box}",
            fix="ask for a lower acceleration or a larger calibration region",
        )
    mask = spread_over(drawn, shape, axes)
    return MaskResult(
        mask=mask,
        acceleration=achieved_acceleration(mask),
        calibration=tuple(box[axes.index(a)] if a in axes else n for a, n in enumerate(shape)),
        family=family,
        asked=rate,
        seed=seed,
        name=name,
        slice=slice,
        compat=compat,
        axes=axes,
        notes=tuple(n for n in (note, readout_note(shape, axes)) if n),
    )


def _draw(
    rng: np.random.RandomState,
    family: Family,
    space: tuple[int, ...],
    acceleration: float,
    calibration: int | tuple[int, ...] | None,
    options: Mapping[str, object],
) -> Drawn:
    """Draw a mask by our own rule: exactly as many samples as the acceleration leaves, calibration region included.

    Raises:
        UsageError: the numbers do not fit together, or the family broke its contract.

    """
    total = math.prod(space)
    count = round(total / acceleration)
    unit = "lines" if len(space) == 1 else "samples"
    if count < 1:
        raise UsageError(
            f"an acceleration of {acceleration:g} leaves nothing to sample",
            why=f"there are {total} {unit}",
            fix=f"ask for at most {total}",
        )
    sides = calibration_sides(space, count, calibration)
    if count == total:
        return np.ones(space, dtype=bool), space, "nothing is left out"
    if math.prod(sides) > count:
        most = math.floor(100 * total / math.prod(sides)) / 100
        raise UsageError(
            "the calibration region alone has more samples than the acceleration leaves",
            why=f"{total} {unit} at acceleration {acceleration:g} leave {count}, and the region "
            f"{'×'.join(str(c) for c in sides)} takes {math.prod(sides)}",
            fix=f"ask for an acceleration of at most {most:g}, or for a smaller region",
        )
    boxes = tuple(centred(n, c) for n, c in zip(space, sides, strict=True))
    drawn, note = family.build(rng, space, count, boxes, **options)
    if drawn.shape != space or drawn.dtype != bool or int(drawn.sum()) != count or not drawn[boxes].all():
        raise UsageError(
            f"the mask family {family.name} did not draw what it was asked for",
            where=family.build.__module__,
            why=f"asked for {count} of {space} with the region {boxes}, it drew {drawn.sum()} of {drawn.shape}",
            fix="correct the family: its mask has exactly as many samples, those of the region among them",
        )
    return drawn, sides, note


def phase_axes(family: str, dimensions: int, axis: int, readout: int) -> tuple[int, ...]:
    """Return the axes that a family undersamples, ascending.

    Raises:
        UsageError: no such axis.

    """
    lines = FAMILIES[family].over == "lines"
    given, option = (axis, "axis") if lines else (readout, "readout")
    if not -dimensions <= given < dimensions:
        raise UsageError(
            f"there is no axis {given}",
            why=f"{option}={given}, and there are {dimensions} axes",
            fix=f"choose {option} from {-dimensions} to {dimensions - 1}",
        )
    if lines:
        return (given % dimensions,)
    return (0, 1) if dimensions == 2 else tuple(a for a in range(3) if a != given % 3)


def _check(family: str, shape: tuple[int, ...], acceleration: float | None, compat: str) -> None:
    if family not in FAMILIES:
        raise UsageError(f"there is no mask family {family!r}", fix=f"choose one of {', '.join(FAMILIES)}")
    if compat not in compats():
        raise UsageError(f"compat={compat!r} is not known", fix=f"choose one of {', '.join(compats())}")
    if compat != "none" and compat not in FAMILIES[family].compat:
        having = ", ".join(name for name, one in FAMILIES.items() if compat in one.compat)
        raise UsageError(
            f"{compat} has no masks of the family {family}", fix=f"choose one of {having}, or leave compat out"
        )
    if len(shape) not in (2, 3) or not all(n > 0 for n in shape):
        raise UsageError(
            "a mask has two or three axes of at least one sample", why=f"shape is {shape}", fix="give the axes of space"
        )
    drawn = FAMILIES[family].over != "file"
    if drawn and (acceleration is None or not math.isfinite(acceleration) or acceleration < 1):
        raise UsageError(
            "a mask needs an acceleration of at least 1",
            why=f"acceleration is {acceleration}",
            fix="give a number such as 4",
        )


def _refuse_unused(given: bool, option: str, owner: str, found: str) -> None:
    if given:
        raise UsageError(f"{option} belongs to {owner} only", why=f"asked with {found}", fix=f"leave {option} out")
