"""Draw a mask of any family: check the arguments, draw, and describe the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrirecon.errors import UsageError
from mrirecon.masks.compat import Drawn, fastmri, fastmri_seed, mridc
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
    """Draw a sampling mask, which depends on the arguments only and is the same on all machines.

    With ``compat="none"``, the number of lines (in a plane, of samples) including the calibration region is n / R,
    rounded to the nearest integer. The region is the box from n // 2 - c // 2 to n // 2 - c // 2 + c - 1 along each
    axis, centred as on scanners. The draw depends on the stable hash of (seed, name, slice).

    ``compat="fastmri"`` reproduces fastMRI's masks bit for bit. With ``name``, the seed consists of the character codes
    of the name, as in fastMRI, and is the same for every slice; ``seed`` and ``slice`` must then be 0.
    ``compat="mridc"`` reproduces the masks of the CIRIM papers, with ``seed`` itself, or with the hash if name or slice
    is given.

    Args:
        family: a registered family, see `mrirecon.masks.FAMILIES`: lines across ``axis``, a plane over two axes, or
            ``file``.
        shape: (*space), two or three axes.
        acceleration: R >= 1, for every family but ``file``.
        calibration: number of calibration lines, or the box of a plane family (one number for both axes, or one per
            axis); 0 for none. None: 32 % of the samples, and in a plane at most 24 per side.
        seed: any integer; for ``compat``, one or (fastmri) several 32-bit integers.
        name: name of the file without folders, to draw a different mask for every file.
        slice: index of the slice, to draw a different mask for every slice; 0 for one mask per file.
        compat: toolkit whose masks are reproduced, if the family supports it; ``none`` for our own masks.
        axis: undersampled axis of a line family or of a file with lines.
        readout: with three axes, the fully sampled axis of a plane family or of a file with a plane.
        center_fraction: for ``compat="fastmri"``, instead of ``calibration``; default 0.32 / R.
        fwhm: for the Gaussian families, full width at half maximum; k-space extends from -1 to 1. Default 1, or 0.7
            with ``compat="mridc"``.
        path: for ``file``; see ``load_mask``.
        options: further options of the family: the keyword-only parameters of its function.

    Raises:
        UsageError: no mask is possible; the message gives the numbers.
        InputError: the mask file cannot be used.

    """
    shape = tuple(int(n) for n in shape)
    check_family(family, compat, fwhm, calibration is not None)
    _check(family, shape, acceleration)
    chosen = FAMILIES[family]
    _refuse_unused(
        center_fraction is not None and compat != "fastmri", "center_fraction", "compat='fastmri'", f"compat={compat!r}"
    )
    if chosen.over == "file":
        if path is None or acceleration is not None or calibration is not None:
            raise UsageError(
                "the family file needs a path and no other setting",
                why=f"path is {path}, acceleration is {acceleration}, calibration is {calibration}",
                fix="set path, and omit acceleration and calibration",
            )
        result: MaskResult = chosen.build(path, shape, axis=axis, readout=readout)
        return result
    _refuse_unused(path is not None, "path", "file", family)
    _refuse_unused(bool(options) and compat != "none", "options", "our own masks", f"compat={compat!r}")
    if isinstance(seed, tuple) and compat != "fastmri":
        raise UsageError(
            "seed must be one integer",
            why=f"it is {seed}",
            fix="give one integer; only compat='fastmri' accepts several",
        )
    settings = chosen.resolve({**(options or {}), **({} if fwhm is None else {"fwhm": fwhm})})
    axes = phase_axes(family, len(shape), axis, readout)
    space = tuple(shape[a] for a in axes)
    rate = float(acceleration or 0)
    if compat == "fastmri":
        seed = fastmri_seed(seed, name, slice)
        drawn, box, note = fastmri(family, space[0], rate, calibration, center_fraction, seed)
    else:
        seed = int(seed)  # type: ignore[arg-type]  # not a tuple, see above
        if compat == "mridc":
            start = seed_from(seed, name, slice) if name or slice else seed
            drawn, box, note = mridc(family, space, rate, fwhm, start)
        else:
            rng = np.random.RandomState(seed_from(seed, name, slice))
            drawn, box, note = _draw(rng, chosen, space, rate, calibration, settings)
    if not drawn.any():
        raise UsageError(
            "these settings give a mask without samples",
            why=f"{math.prod(space)} lines or samples, acceleration {rate:g}, calibration region {box}",
            fix="use a lower acceleration or a larger calibration region",
        )
    mask = spread_over(drawn, shape, axes)
    return MaskResult(
        mask=mask,
        acceleration=achieved_acceleration(mask),
        calibration=tuple(box[axes.index(a)] if a in axes else n for a, n in enumerate(shape)),
        family=family,
        requested=rate,
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
    """Draw a mask with the exact number of samples of the acceleration, including the calibration region.

    Raises:
        UsageError: the settings are incompatible, or the family's mask is invalid.

    """
    total = math.prod(space)
    count = round(total / acceleration)
    unit = "lines" if len(space) == 1 else "samples"
    if count < 1:
        raise UsageError(
            f"an acceleration of {acceleration:g} leaves no samples",
            why=f"there are {total} {unit}",
            fix=f"use at most {total}",
        )
    sides = calibration_sides(space, count, calibration)
    if count == total:
        return np.ones(space, dtype=bool), space, "nothing is left out"
    if math.prod(sides) > count:
        most = math.floor(100 * total / math.prod(sides)) / 100
        raise UsageError(
            "the calibration region has more samples than the acceleration allows",
            why=f"{total} {unit} at acceleration {acceleration:g} leave {count}, and the region "
            f"{'×'.join(str(c) for c in sides)} takes {math.prod(sides)}",
            fix=f"use an acceleration of at most {most:g}, or a smaller region",
        )
    boxes = tuple(centred(n, c) for n, c in zip(space, sides, strict=True))
    drawn, note = family.build(rng, space, count, boxes, **options)
    if drawn.shape != space or drawn.dtype != bool or int(drawn.sum()) != count or not drawn[boxes].all():
        raise UsageError(
            f"the mask family {family.name} returned an invalid mask",
            where=family.build.__module__,
            why=f"requested: {count} of {space} with the region {boxes}; drawn: {drawn.sum()} of {drawn.shape}",
            fix="correct the family: its mask must have exactly this number of samples, including the region",
        )
    return drawn, sides, note


def phase_axes(family: str, dimensions: int, axis: int, readout: int) -> tuple[int, ...]:
    """Return the undersampled axes of a family in ascending order.

    Raises:
        UsageError: the axis does not exist.

    """
    lines = FAMILIES[family].over == "lines"
    chosen, option = (axis, "axis") if lines else (readout, "readout")
    if not -dimensions <= chosen < dimensions:
        raise UsageError(
            f"axis {chosen} does not exist",
            why=f"{option}={chosen}, number of axes: {dimensions}",
            fix=f"choose {option} from {-dimensions} to {dimensions - 1}",
        )
    if lines:
        return (chosen % dimensions,)
    return (0, 1) if dimensions == 2 else tuple(a for a in range(3) if a != chosen % 3)


def check_family(family: str, compat: str = "none", fwhm: float | None = None, calibrated: bool = False) -> None:
    """Check that a family exists with these settings, as `make_mask` does; ``calibrated``: with a calibration region.

    Raises:
        UsageError: a family, compat or combination that does not exist.

    """
    if family not in FAMILIES:
        raise UsageError(f"there is no mask family {family!r}", fix=f"choose one of {', '.join(FAMILIES)}")
    if compat not in compats():
        raise UsageError(f"compat={compat!r} is not known", fix=f"choose one of {', '.join(compats())}")
    chosen = FAMILIES[family]
    if compat != "none" and compat not in chosen.compat:
        having = ", ".join(name for name, one in FAMILIES.items() if compat in one.compat)
        raise UsageError(f"{compat} has no masks of the family {family}", fix=f"choose one of {having}, or omit compat")
    if compat == "none" and not chosen.own:
        raise UsageError(f"{family} needs compat", why=chosen.summary, fix=f"add compat={chosen.compat[0]}")
    if compat == "mridc" and calibrated:
        raise UsageError(
            "mridc's masks have a fixed centre of 2 % of each axis",
            why="a calibration region is given",
            fix="omit calibration or compat",
        )
    having = " and ".join(name for name, one in FAMILIES.items() if "fwhm" in one.options)
    _refuse_unused(fwhm is not None and "fwhm" not in chosen.options, "fwhm", having, family)
    if fwhm is not None and not (math.isfinite(fwhm) and fwhm > 0):
        raise UsageError("fwhm must be a positive number", why=f"it is {fwhm}", fix="omit it, or use 0.7")


def _check(family: str, shape: tuple[int, ...], acceleration: float | None) -> None:
    if len(shape) not in (2, 3) or not all(n > 0 for n in shape):
        raise UsageError(
            "a mask needs two or three axes of at least one sample",
            why=f"shape is {shape}",
            fix="give the lengths of the spatial axes",
        )
    drawn = FAMILIES[family].over != "file"
    if drawn and (acceleration is None or not math.isfinite(acceleration) or acceleration < 1):
        raise UsageError(
            "a mask needs an acceleration of at least 1",
            why=f"acceleration is {acceleration}",
            fix="give a number such as 4",
        )


def _refuse_unused(is_set: bool, option: str, owner: str, source: str) -> None:
    if is_set:
        raise UsageError(f"{option} is only valid with {owner}", why=f"given with {source}", fix=f"omit {option}")
