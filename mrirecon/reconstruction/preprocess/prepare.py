"""Apply the steps before and after a reconstruction: `Preprocess` holds options, `prepare` and `finish` apply them.

Each step adds a note to the scan that `prepare` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mrirecon.coils.compression import compression
from mrirecon.coils.whitening import Whitening, noise_covariance, whitening
from mrirecon.errors import BusyError, InputError, MriReconError, UsageError
from mrirecon.io.safe.scratch import Rows
from mrirecon.io.scan import Scan
from mrirecon.masks.extent import Extent, partial_axes
from mrirecon.reconstruction.preprocess.noise import SMALLEST, background_noise, full_centre, rim_noise
from mrirecon.reconstruction.preprocess.partial_fourier import homodyne, pocs, symmetry_error
from mrirecon.reconstruction.preprocess.stages import (
    AVERAGED,
    Averaged,
    Compressed,
    Cropped,
    Whitened,
    check_readout,
    pool_noise_samples,
)

Whiten = Literal["loud", "none", "auto", "noise", "background", "rim"]
Combine = Literal["average", "echoes"]
Compress = Literal["svd", "geometric"]
ManyCoils = Literal["compress", "keep"]
PartialFourier = Literal["pocs", "homodyne", "zero", "refuse"]

# The time of coil maps grows with the cube of the number of coils: 100 coils take a hundred times as long as 16.
MANY_COILS = 32


@dataclass(frozen=True)
class Preprocess:
    """Hold options of preprocessing, in the order of the steps; the defaults scale only loud coils.

    Attributes:
        average: take the complex mean of k-space over repetitions and averages; otherwise each is an item.
        whiten: source of the noise covariance for prewhitening: the ``noise`` scan, the ``background`` of the images,
            or the ``rim`` of k-space. ``auto`` takes the noise scan; without one, the background if k-space is
            almost fully sampled, then the null space of the calibration region, then the rim. ``loud`` scales down only
            coils whose noise is many times that of the others; ``none`` changes nothing.
        readout: name of the fully sampled readout, for the steps below; None to find it from the file or the mask.
        oversampling: factor of readout oversampling to remove; 1 for none.
        coils: number of virtual coils; if ``energy`` is also None, None compresses only more than `MANY_COILS` coils.
        energy: share of the energy to keep, such as 0.95, instead of the number of coils.
        many_coils: ``compress`` more than `MANY_COILS` coils to this number, or ``keep`` all.
        compress: one matrix (``svd``), or one for each position along the readout (``geometric``).
        partial_fourier: how to complete partial Fourier k-space: ``pocs``, ``homodyne``, ``zero``
            (nothing is filled in by symmetry), or ``refuse``.
        echoes: combine echoes by the root sum of squares; otherwise each is an item.

    Raises:
        UsageError: an invalid value.

    """

    average: bool = False
    whiten: Whiten = "loud"
    readout: str | None = None
    oversampling: float = 1.0
    coils: int | None = None
    energy: float | None = None
    many_coils: ManyCoils = "compress"
    compress: Compress = "svd"
    partial_fourier: PartialFourier = "zero"
    echoes: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            *(("whiten", Whiten), ("compress", Compress), ("many_coils", ManyCoils)),
            ("partial_fourier", PartialFourier),
        ):
            value, choices = getattr(self, name), get_args(kind)
            if value not in choices:
                raise UsageError(f"{name} cannot be {value!r}", fix=f"choose {', '.join(choices)}")
        if not 1 <= self.oversampling < 100:
            raise UsageError(
                f"oversampling cannot be {self.oversampling:g}", fix="give a factor of at least 1, such as 2"
            )
        if self.coils is not None and self.energy is not None:
            raise UsageError("coils are compressed to a number, or by the energy to keep: give one of them")
        if self.coils is not None and self.coils < 1:
            raise UsageError(f"there cannot be {self.coils} virtual coils", fix="give 1 or more")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(
                f"a share of energy cannot be {self.energy:g}", fix="give a number in (0, 1], such as 0.95"
            )

    @property
    def compressing(self) -> bool:
        """Return whether coils are compressed."""
        return self.coils is not None or self.energy is not None

    @property
    def geometry(self) -> Preprocess:
        """Return the steps that change shape or number of the images, which a reference also needs."""
        return Preprocess(
            whiten="none", many_coils="keep", average=self.average, readout=self.readout, oversampling=self.oversampling
        )

    def as_dict(self) -> dict[str, object]:
        """Return the options that differ from the defaults, for a sidecar."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class Prepared:
    """Record the steps of `prepare`; `finish` applies the other steps to the images.

    Attributes:
        options: options of preprocessing.
        whitening: whitening of the coils, or None.

    """

    options: Preprocess
    whitening: Whitening | None


def prepare(scan: Scan, options: Preprocess, *, white: Whitening | None = None) -> Scan:
    """Return a scan whose items are averaged, whitened, cropped and compressed when they are read.

    Args:
        scan: scan as read; it is not changed.
        options: the steps, applied in their order: noise is measured after averaging, and coils are compressed after
            whitening.
        white: whitening to use instead of ``options.whiten``.

    Raises:
        UsageError: options that the scan does not support.
        InputError: noise that cannot be measured or whitened.

    """
    repeated = [a for a in scan.layout.loops if a in (*AVERAGED, "echo") and scan.shape[a] > 1]
    alone = [a for a in repeated if not (options.echoes if a == "echo" else options.average)]
    notes = [f"{scan.shape[a]} {a}s: each is a separate item (--combine combines them)" for a in alone]
    if options.echoes and "echo" not in repeated:
        raise UsageError(
            "the scan has no echoes to combine", where=str(scan.path), why=f"its axes are {', '.join(scan.shape)}"
        )
    if not scan.on_grid:
        _refuse_steps_on_grid(scan, options)
    prepared: Scan = scan
    if options.average:
        prepared = averaged = Averaged(scan)
        notes.append(f"the complex mean of k-space over {averaged.count} {' and '.join(averaged.axes)}s")
    if white is None and options.whiten != "none":
        white, more = _equalize_loud_coils(prepared) if options.whiten == "loud" else _whitening(prepared, options)
        notes += more
    if white is not None:
        prepared = Whitened(prepared, white)
    if options.oversampling > 1:
        prepared = cropped = _cropped(prepared, options)
        notes.append(
            f"readout oversampling removed: {cropped.cropped_size} of {cropped.size} positions along "
            f"{cropped.readout} are kept"
        )
        options = replace(options, readout=cropped.readout)  # a fully sampled reference does not show partial Fourier
    if not options.compressing and options.many_coils == "compress" and prepared.coils > MANY_COILS:
        options = replace(options, coils=MANY_COILS)
        notes.append(f"more than {MANY_COILS} coils: they are compressed, to save time (--compress none keeps all)")
    if options.compressing:
        prepared, more = _compressed(prepared, options)
        notes += more
    if options.echoes:
        notes.append(f"the root sum of squares over {scan.shape['echo']} echos: magnitudes, without phase")
    prepared = prepared.with_notes(notes)
    prepared.prepared = Prepared(options, white)
    if options.partial_fourier == "refuse" and scan.on_grid:
        _refuse_partial_fourier(prepared)
    return prepared


def _refuse_steps_on_grid(scan: Scan, options: Preprocess) -> None:
    """Refuse steps that need Cartesian k-space.

    Raises:
        UsageError: such a step is requested.

    """
    steps = {
        "--remove-oversampling": options.oversampling > 1,
        "--compress-by geometric": options.compressing and options.compress == "geometric",
        f"--partial-fourier {options.partial_fourier}": options.partial_fourier in ("pocs", "homodyne"),
        f"--whiten {options.whiten}": options.whiten in ("background", "rim"),
    }
    for step, requested in steps.items():
        if requested:
            raise UsageError(
                f"{step} needs Cartesian k-space",
                where=str(scan.path),
                why="the samples lie on a trajectory",
                fix="omit it; --matrix sets the field of view, and --whiten auto measures the noise of the readouts",
            )


def prepare_like(scan: Scan, other: Scan) -> Scan:
    """Average, crop and whiten a reference scan in the same way as the scan that is compared with it.

    Whitening changes the scale of the coils, and so the shading of the image.
    """
    if other.prepared is None:
        return scan
    return prepare(scan, other.prepared.options.geometry, white=other.prepared.whitening)


def finish(scan: Scan, images: np.ndarray, scratch: Sequence[Path] | None = None) -> tuple[np.ndarray, list[str]]:
    """Fill in partial Fourier and combine echoes of reconstructed images; return images (item, *space) and notes.

    Images of a scan that was not prepared are not changed.

    One item (or the echoes of one item) is processed at a time, so that images may be in a file.

    Args:
        scan: result of `prepare`.
        images: reconstructed images; they are not changed.
        scratch: folders for a temporary file for large images; None keeps them in memory.

    Raises:
        UsageError: magnitude images, for which symmetry cannot be used.
        InputError: see `mrirecon.reconstruction.preprocess.partial_fourier.smooth_phase`.

    """
    if scan.prepared is None:
        return images, []
    options = scan.prepared.options
    partial: dict[int, dict[int, Extent]] = {}
    notes: list[str] = []
    if options.partial_fourier in ("pocs", "homodyne"):
        partial = {item: extents for item in scan.items_with_signal() if (extents := partial_axes(scan.mask(item)))}
    elif len(scan.space) == 2 and scan.on_grid:  # this would read a volume once more
        extents = partial_axes(scan.mask(scan.representative_item()))
        if extents:
            notes.append(f"{_partial(scan, extents)}; not filled in by symmetry (--partial-fourier zero)")
    if not partial and not options.echoes:
        return images, notes
    together = np.arange(len(images))[:, None]
    if options.echoes:
        echo = scan.layout.loops.index("echo")
        together = np.moveaxis(together.reshape(scan.layout.loop_shape), echo, -1)
        together = together.reshape(-1, scan.shape["echo"])
    rows = Rows(len(together), images.shape[1:], images.dtype, scratch, f"images of {scan.path.name}")
    for row, items in enumerate(together.tolist()):
        filled = []
        for item in items:
            image = images[item]
            if item in partial and image.any():  # a slice without an object needs no filling
                image, note = _filled(scan, item, partial[item], image, options.partial_fourier)
                notes += [note] if note not in notes else []
            filled.append(image)
        # Echoes differ in contrast and phase, so only their magnitudes can be combined.
        combined = np.sqrt(np.square(np.abs(filled), dtype=np.float64).sum(0)) if options.echoes else filled[0]
        rows.write(row, np.asarray(combined, images.dtype))
    return rows.view(), notes


def _filled(
    scan: Scan, item: int, extents: dict[int, Extent], image: np.ndarray, method: PartialFourier
) -> tuple[np.ndarray, str]:
    """Fill in an image by symmetry; return it with a note on the prediction error."""
    measured = _partial(scan, extents)
    if not image.imag.any():
        raise UsageError(
            "symmetry cannot fill in a magnitude image",
            where=scan.where(item),
            why=measured,
            fix="use a method with phase, such as sense, or --partial-fourier zero",
        )
    error = symmetry_error(image, extents, scan.mask(item))
    harm = ": zero filling would be more accurate" if error >= 1 else ""
    note = (
        f"{measured}; filled in by {'POCS' if method == 'pocs' else method}. Symmetry predicts samples that were "
        f"measured with a relative error of {error:.2f} (1 for zeros){harm}"
    )
    return (pocs if method == "pocs" else homodyne)(image, extents), note


def _refuse_partial_fourier(scan: Scan) -> None:
    """Refuse a scan with partial Fourier items.

    Raises:
        UsageError: an item is partial Fourier.

    """
    for item in scan.items_with_signal():
        extents = partial_axes(scan.mask(item))
        if extents:
            raise UsageError(
                "k-space is partial Fourier",
                where=scan.where(item),
                why=_partial(scan, extents),
                fix="choose --partial-fourier pocs, homodyne or zero",
            )


def _partial(scan: Scan, extents: dict[int, Extent]) -> str:
    parts = [f"{e.fraction:.0%} of the extent along {scan.space[axis]}" for axis, e in extents.items()]
    return f"only {' and '.join(parts)} was measured"


def _equalize_loud_coils(scan: Scan) -> tuple[Whitening | None, list[str]]:
    """Return a whitening that divides loud coils by their noise factor, with a note; None without loud coils.

    Volumes are left out, because they would be read once more. `note_loud_coils` notes their loud coils.
    """
    middle = len(scan) // 2
    if scan.coils < 3 or len(scan.space) > 2 or scan.is_blank(middle):
        return None, []
    try:
        kspace, sampling = scan.measured(middle)
        factor = sampling.relative_noise(kspace)
    except MriReconError:  # the error is raised again when the item is reconstructed
        return None, []
    if factor.max() == 1:
        return None, []
    note = (
        f"{_loud_coils(factor)}: divided by this factor (--whiten none turns this off, --whiten auto whitens all coils)"
    )
    return Whitening(np.diag(1 / factor).astype(np.complex128), 1.0), [note]


def note_loud_coils(scan: Scan, item: int) -> list[str]:
    """Return a note on coils of an item whose noise is many times that of the others.

    A scan for which `prepare` whitened the coils, or searched for loud coils, needs no such note.
    """
    whitened = scan.prepared is not None and scan.prepared.whitening is not None
    searched = scan.prepared is not None and scan.prepared.options.whiten == "loud" and len(scan.space) == 2
    if whitened or searched or scan.coils <= 2 or scan.is_blank(item):
        return []
    try:
        kspace, sampling = scan.measured(item)
    except BusyError:
        raise
    except InputError:  # the error is raised again when the item is reconstructed
        return []
    factor = sampling.relative_noise(kspace)
    if factor.max() == 1:
        return []
    return [f"{_loud_coils(factor)}: this increases the noise of the image; --whiten auto prevents it"]


def _loud_coils(factor: np.ndarray) -> str:
    """Describe the loud coils by the factors (C,) of `mrirecon.coils.noise.relative_noise`."""
    each = ", ".join(f"{c} ({f:.3g} times)" for c, f in enumerate(factor.tolist()) if f > 1)
    return f"coils whose noise is many times that of the others, counted from 0: {each}"


def _whitening(scan: Scan, options: Preprocess) -> tuple[Whitening | None, list[str]]:
    """Return the requested whitening with notes; None for no whitening."""
    if scan.coils == 1 and options.whiten == "auto":
        return None, ["one coil: whitening has no effect"]
    if options.whiten == "noise" and scan.noise is None:
        raise UsageError(
            "the file holds no noise scan", where=str(scan.path), fix="use --whiten background or --whiten rim"
        )
    notes: list[str] = []
    if scan.noise is not None and options.whiten in ("auto", "noise"):
        noise, source = scan.noise, "the noise scan"
        share, notes = _bandwidth(scan)
    else:
        if options.whiten == "auto" and not (scan.on_grid and _nearly_full(scan)):
            by_null_space, notes = _by_null_space(scan)
            if by_null_space is not None:
                return by_null_space, notes
        noise, source = _measured(scan, options.whiten)
        share = 1.0
    result = whitening(noise_covariance(noise, share))
    loaded = f"; ill-conditioned ({result.condition:.1e}): loaded by {result.loading:.1e}" if result.loading else ""
    notes.append(
        f"noise whitened by {source}: covariance of {scan.coils} coils from {noise.shape[1]} samples, good to about "
        f"{math.sqrt(scan.coils / noise.shape[1]):.0%}, condition of the correlations {result.condition:.3g}"
        f"{loaded}; images are in units of the noise, E|n|² = 1, and shaded as the whitened coils are"
    )
    return result, notes


def _by_null_space(scan: Scan) -> tuple[Whitening | None, list[str]]:
    """Return the whitening by the noise of the calibration region of the middle item, with a note; or None."""
    middle = len(scan) // 2
    if scan.is_blank(middle):
        return None, []
    kspace, sampling = scan.measured(middle)
    level = sampling.noise(kspace)
    if (level.low == 0 and scan.on_grid) or not level.deviation.all():
        return None, []
    result = whitening(level.covariance)
    note = (
        f"noise whitened by {level.source} of item {middle}: its level is accurate to about {level.high - 1:.0%}, "
        f"condition of the correlations {result.condition:.3g}; images are in units of the noise, E|n|² = 1, and "
        "shaded as the whitened coils are"
    )
    return result, [note]


def _bandwidth(scan: Scan) -> tuple[float, list[str]]:
    """Return the ratio of the noise variance of k-space to that of the noise scan, with notes."""
    averaged = scan.count if isinstance(scan, Averaged) else 1
    dwell, of_noise = scan.attributes.get("dwell_us"), scan.attributes.get("noise_dwell_us")
    if isinstance(dwell, int | float) and isinstance(of_noise, int | float) and dwell > 0 and of_noise > 0:
        return float(of_noise) / float(dwell) / averaged, []
    note = "the file does not state dwell times: noise scan and k-space are assumed to have the same bandwidth"
    return 1.0 / averaged, [note]


def _nearly_full(scan: Scan) -> bool:
    box, size = full_centre(scan.mask(scan.representative_item())), scan.space_shape
    return all(s.stop - s.start >= max(SMALLEST, 0.75 * n) for s, n in zip(box, size, strict=True))


def _measured(scan: Scan, source: Whiten) -> tuple[np.ndarray, str]:
    """Return noise samples (C, N) from the data, and a description of their source."""
    if source == "background" or (source == "auto" and _nearly_full(scan)):
        return pool_noise_samples(scan, background_noise), "the background of its images"
    return pool_noise_samples(scan, rim_noise), "the rim of its k-space (signal there counts as noise)"


def _readout(scan: Scan, options: Preprocess) -> str:
    """Return the name of the readout: as requested, as the file states it, or the only fully sampled axis."""
    if options.readout is not None:
        if options.readout not in scan.space:
            raise UsageError(f"there is no axis {options.readout!r}", fix=f"choose from {', '.join(scan.space)}")
        return options.readout
    if scan.geometry is not None:
        return scan.geometry.axes[0]
    mask, whole = scan.mask(scan.representative_item()), []
    for number, name in enumerate(scan.space):
        try:
            check_readout(mask, number - mask.ndim, name)
        except UsageError:
            continue
        whole.append(name)
    if len(whole) == 1:
        return whole[0]
    raise UsageError(
        "the readout axis is not known",
        where=str(scan.path),
        why=f"{' and '.join(whole) or 'no axis'} {'are' if len(whole) > 1 else 'is'} fully sampled",
        fix=f"give it, for example --readout {scan.space[-1]}",
    )


def _cropped(scan: Scan, options: Preprocess) -> Cropped:
    readout = _readout(scan, options)
    size = scan.shape[readout]
    size_kept = size / options.oversampling
    if not math.isclose(size_kept, round(size_kept), abs_tol=1e-9) or round(size_kept) < 1:
        raise UsageError(
            f"{size} samples along {readout} cannot be oversampled {options.oversampling:g}-fold",
            why=f"{size_kept:.3f} would be left",
            fix="give a factor that divides them",
        )
    check_readout(scan.mask(scan.representative_item()), scan.space.index(readout) - len(scan.space), readout)
    return Cropped(scan, readout, round(size_kept))


def _compressed(scan: Scan, options: Preprocess) -> tuple[Scan, list[str]]:
    if scan.coils == 1:
        raise UsageError("one coil cannot be compressed", where=str(scan.path), fix="omit --compress")
    axis, place = None, ""
    if options.compress == "geometric":
        readout = _readout(scan, options)
        axis, place = scan.space.index(readout) - len(scan.space), f" at every position along {readout}"
        check_readout(scan.mask(scan.representative_item()), axis, readout)
    notes = []
    if options.whiten in ("none", "loud"):
        notes.append("coils are compressed without whitening: a loud coil gets too much weight")
    if options.energy is not None:
        # All items get the same number of coils, and each must keep the requested energy.
        each = [compression(scan.kspace(i), energy=options.energy, readout=axis) for i in scan.items_with_signal()]
        coils = max(compression_of_item.matrices.shape[1] for compression_of_item in each)
        energy_kept = min(compression_of_item.energy for compression_of_item in each)
        energy = f"at least {energy_kept:.2%} of the energy of every item, {options.energy:.4g} requested"
    else:
        assert options.coils is not None
        readable = scan.items_with_signal() or [scan.representative_item()]
        coils, middle = options.coils, readable[len(readable) // 2]
        try:
            energy_kept = compression(scan.kspace(middle), coils=coils, readout=axis).energy
        except MriReconError as error:
            error.where = error.where or str(scan.path)
            raise
        energy = f"{energy_kept:.2%} of the energy (of item {middle})"
    notes.append(f"{scan.coils} coils compressed to {coils} virtual ones{place}: they keep {energy}")
    return Compressed(scan, coils, axis), notes
