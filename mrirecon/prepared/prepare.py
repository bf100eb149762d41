"""Apply `Preprocess` to a scan, in its order, and say of each step what it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrirecon.coils.noise import loudness, measure_noise
from mrirecon.errors import MriReconError, UsageError
from mrirecon.io import Scan
from mrirecon.io.scratch import Rows
from mrirecon.prepared.options import Preprocess
from mrirecon.prepared.served import Derived
from mrirecon.prepared.stages import Averaged, Compressed, Cropped, Whitened, pooled
from mrirecon.preprocess.combine import AVERAGED, root_sum_of_squares_over
from mrirecon.preprocess.compress import compression
from mrirecon.preprocess.extent import Extent, partial_axes
from mrirecon.preprocess.noise import SMALLEST, background_noise, full_centre, rim_noise
from mrirecon.preprocess.oversampling import check_readout
from mrirecon.preprocess.partial_fourier import Fill, fill, symmetry_error
from mrirecon.preprocess.whiten import Whitening, noise_covariance, whitening


class Prepared(Derived):
    """A scan with everything applied, and what is to be done with its images."""

    def __init__(self, base: Scan, options: Preprocess, whitening: Whitening | None = None) -> None:
        super().__init__(base)
        self.options, self.whitening = options, whitening
        # Nothing is computed at this last step: where none came before it, the file itself is read, block by block.
        self.store, self.maps_store, self.given_mask, self.dtype = (
            base.store,
            base.maps_store,
            base.given_mask,
            base.dtype,
        )

    def raw(self, item: int) -> np.ndarray:
        """Return k-space of an item as stored, where nothing was done to it."""
        return self.base.raw(item)

    def finish(self, images: np.ndarray, scratch: Sequence[Path] | None = None) -> np.ndarray:
        """Return images (item, *space) as they are to be shown: partial Fourier filled in, echoes combined.

        One item (or the echoes of one) is worked on at a time, so that images may lie in a file.

        Args:
            images: as reconstructed; they are not changed.
            scratch: folders for a temporary file, in which large images are then kept; None keeps them in memory.

        Raises:
            UsageError: magnitude images, which have no symmetry to be filled in by.
            InputError: see `mrirecon.preprocess.partial_fourier.smooth_phase`.

        """
        partial: dict[int, dict[int, Extent]] = {}
        if self.options.partial_fourier in ("pocs", "homodyne"):
            partial = {item: where for item in self.usable() if (where := partial_axes(self.mask(item)))}
        elif len(self.space) == 2 and (where := partial_axes(self.mask(self.example()))):  # a volume: once more read
            self.note(f"{self._partial(where)}; nothing is filled in by symmetry (--partial-fourier zero)")
        if not partial and not self.options.echoes:
            return images
        together = np.arange(len(images))[:, None]
        if self.options.echoes:
            echo = self.layout.loops.index("echo")
            together = np.moveaxis(together.reshape(self.layout.loop_shape), echo, -1)
            together = together.reshape(-1, self.shape["echo"])
        rows = Rows(len(together), images.shape[1:], images.dtype, scratch, f"images of {self.path.name}")
        for row, items in enumerate(together.tolist()):
            found = [self._filled(i, partial[i], images[i]) if i in partial else images[i] for i in items]
            echoes = self.options.echoes
            rows.write(row, root_sum_of_squares_over(np.stack(found), [len(found)], 0)[0] if echoes else found[0])
        return rows.view()

    def _filled(self, item: int, where: dict[int, Extent], image: np.ndarray) -> np.ndarray:
        how: Fill = "pocs" if self.options.partial_fourier == "pocs" else "homodyne"
        told = self._partial(where)
        if not image.any():  # a slice without an object
            return image
        if not image.imag.any():
            raise UsageError(
                "a magnitude image has no symmetry to be filled in by",
                where=self.where(item),
                why=told,
                fix="use a method that shows phase, such as sense, or --partial-fourier zero",
            )
        error = symmetry_error(image, where, self.mask(item))
        harm = ": zero filling would be nearer" if error >= 1 else ""
        self.note(
            f"{told}; filled in by {'POCS' if how == 'pocs' else how}. Symmetry predicts samples that were measured "
            f"with a relative error of {error:.2f} (1 is that of zeros){harm}"
        )
        return fill(image, where, how)

    def refuse(self) -> None:
        """Refuse a scan with an item that is partial Fourier, if the options say so.

        Raises:
            UsageError: there is one.

        """
        for item in self.usable() if self.options.partial_fourier == "refuse" else ():
            where = partial_axes(self.mask(item))
            if where:
                raise UsageError(
                    "k-space is partial Fourier",
                    where=self.where(item),
                    why=self._partial(where),
                    fix="choose --partial-fourier pocs, homodyne or zero",
                )

    def _partial(self, where: dict[int, Extent]) -> str:
        parts = [f"{e.fraction:.0%} of the extent along {self.space[axis]}" for axis, e in where.items()]
        return f"only {' and '.join(parts)} was measured"


def prepare(scan: Scan, options: Preprocess, *, white: Whitening | None = None) -> Prepared:
    """Return a scan whose items are averaged, whitened, cropped and compressed as they are read.

    Args:
        scan: as read; it is not changed, but for the notes that are added to it.
        options: what to do. The steps come in their order: noise is measured on what is averaged, coils are compressed
            when their noise is white.
        white: what whitens, in place of what ``options.whiten`` would find.

    Raises:
        UsageError: options that do not fit the scan.
        InputError: noise that cannot be measured or whitened.

    """
    repeated = [a for a in scan.layout.loops if a in (*AVERAGED, "echo") and scan.shape[a] > 1]
    alone = [a for a in repeated if not (options.echoes if a == "echo" else options.average)]
    found: Scan = scan
    for axis in alone:
        scan.note(f"{scan.shape[axis]} {axis}s: each is an item of its own (--combine puts them together)")
    if options.echoes and "echo" not in repeated:
        raise UsageError(
            "there are no echoes to combine", where=str(scan.path), why=f"its axes are {', '.join(scan.shape)}"
        )
    if options.average:
        found = Averaged(found)
    if white is None and options.whiten == "loud":
        white = _levelling(found)
    elif white is None and options.whiten != "none":
        white = _whitening(found, options)
    if white is not None:
        found = Whitened(found, white)
    if options.oversampling > 1:
        found = _cropped(found, options)
        options = replace(options, readout=found.readout)  # a full reference does not tell it
    if options.compressing:
        found = _compressed(found, options)
    if options.echoes:
        scan.note(f"the root sum of squares over {scan.shape['echo']} echos: magnitudes, without phase")
    prepared = Prepared(found, options, white)
    prepared.refuse()
    return prepared


def prepare_like(scan: Scan, other: Prepared) -> Prepared:
    """Return the reference for another scan's images: averaged and cropped as that was, and whitened as that was.

    Whitening changes how bright the coils are together, and with it the shading of the image.
    """
    return prepare(scan, other.options.geometry, white=other.whitening)


def finish(scan: Scan, images: np.ndarray, scratch: Sequence[Path] | None = None) -> np.ndarray:
    """Return images of a scan as they are to be shown; see `Prepared.finish`. Of another scan they stay as they are."""
    return scan.finish(images, scratch) if isinstance(scan, Prepared) else images


def _levelling(scan: Scan) -> Whitening | None:
    """Return what divides loud coils by how much louder they are than the others; None where none is.

    A volume is not looked at, for it would be read once more: `mrirecon.inference.reconstruct` notes its loud coils.
    """
    middle = len(scan) // 2
    if scan.coils < 3 or len(scan.space) > 2 or scan.blank(middle):
        return None
    try:
        factor = loudness(scan.kspace(middle), scan.mask(middle))
    except MriReconError:  # it is told of when that item's turn comes
        return None
    if factor.max() == 1:
        return None
    scan.note(f"{_told_of_loud(factor)}: divided by that (--whiten none leaves it, --whiten auto whitens all coils)")
    return Whitening(np.diag(1 / factor).astype(np.complex128), 1.0)


def note_loud(scan: Scan, item: int) -> None:
    """Note coils of an item whose noise is many times that of the others: they spoil what all see."""
    if scan.coils <= 2 or scan.blank(item) or not scan.usable([item]):
        return
    factor = loudness(scan.kspace(item), scan.mask(item))
    if factor.max() > 1:
        scan.note(f"{_told_of_loud(factor)}: the image will suffer by it; --whiten auto prevents that")


def _told_of_loud(factor: np.ndarray) -> str:
    """Say which coils are loud, by the factors (C,) of `mrirecon.coils.noise.loudness`."""
    each = ", ".join(f"{c} ({f:.3g} times)" for c, f in enumerate(factor.tolist()) if f > 1)
    return f"coils whose noise is many times that of the others, counted from 0: {each}"


def _whitening(scan: Scan, options: Preprocess) -> Whitening | None:
    if scan.coils == 1 and options.whiten == "auto":
        scan.note("one coil: there is nothing to whiten")
        return None
    if options.whiten == "noise" and scan.noise is None:
        raise UsageError(
            "the file holds no noise scan", where=str(scan.path), fix="use --whiten background or --whiten rim"
        )
    if scan.noise is not None and options.whiten in ("auto", "noise"):
        noise, source, share = scan.noise, "the noise scan", _bandwidth(scan)
    else:
        if options.whiten == "auto" and not _nearly_full(scan) and (how := _by_null_space(scan)) is not None:
            return how
        noise, source = _measured(scan, options.whiten)
        share = 1.0
    how = whitening(noise_covariance(noise, share))
    loaded = f"; ill-conditioned ({how.condition:.1e}): loaded by {how.loading:.1e}" if how.loading else ""
    scan.note(
        f"noise whitened by {source}: covariance of {scan.coils} coils from {noise.shape[1]} samples, good to about "
        f"{math.sqrt(scan.coils / noise.shape[1]):.0%}, condition of the correlations {how.condition:.3g}"
        f"{loaded}; images are in units of the noise, E|n|² = 1, and shaded as the whitened coils are"
    )
    return how


def _by_null_space(scan: Scan) -> Whitening | None:
    """Return what whitens the noise that the calibration region of the middle item shows; None where it shows none."""
    middle = len(scan) // 2
    if scan.blank(middle):
        return None
    level = measure_noise(scan.kspace(middle), scan.mask(middle))
    if level.low == 0 or not level.deviation.all():
        return None
    how = whitening(level.covariance)
    scan.note(
        f"noise whitened by {level.source} of item {middle}: its level is good to about {level.high - 1:.0%}, "
        f"condition of the correlations {how.condition:.3g}; images are in units of the noise, E|n|² = 1, and shaded "
        "as the whitened coils are"
    )
    return how


def _bandwidth(scan: Scan) -> float:
    """Return by what the noise scan's variance becomes that of k-space: bandwidth, and the number averaged."""
    averaged = scan.count if isinstance(scan, Averaged) else 1
    dwell, of_noise = scan.attributes.get("dwell_us"), scan.attributes.get("noise_dwell_us")
    if isinstance(dwell, int | float) and isinstance(of_noise, int | float) and dwell > 0 and of_noise > 0:
        return float(of_noise) / float(dwell) / averaged
    scan.note("the file does not state dwell times: noise scan and k-space are taken to have the same bandwidth")
    return 1.0 / averaged


def _nearly_full(scan: Scan) -> bool:
    box, size = full_centre(scan.mask(scan.example())), scan.space_shape
    return all(s.stop - s.start >= max(SMALLEST, 0.75 * n) for s, n in zip(box, size, strict=True))


def _measured(scan: Scan, how: str) -> tuple[np.ndarray, str]:
    """Return noise samples (C, N) out of the data, and where from, in words."""
    if how == "background" or (how == "auto" and _nearly_full(scan)):
        return pooled(scan, background_noise), "the background of its images"
    return pooled(scan, rim_noise), "the rim of its k-space (signal there counts as noise)"


def _readout(scan: Scan, options: Preprocess) -> str:
    """Return the name of the readout: as asked, as the file states it, or the only axis whose lines are whole."""
    if options.readout is not None:
        if options.readout not in scan.space:
            raise UsageError(f"there is no axis {options.readout!r}", fix=f"choose from {', '.join(scan.space)}")
        return options.readout
    if scan.geometry is not None:
        return scan.geometry.axes[0]
    mask, whole = scan.mask(scan.example()), []
    for number, name in enumerate(scan.space):
        try:
            check_readout(mask, number - mask.ndim, name)
        except UsageError:
            continue
        whole.append(name)
    if len(whole) == 1:
        return whole[0]
    raise UsageError(
        "which axis is the readout is not known",
        where=str(scan.path),
        why=f"{' and '.join(whole) or 'no axis'} {'are' if len(whole) > 1 else 'is'} fully sampled",
        fix=f"name it, such as --readout {scan.space[-1]}",
    )


def _cropped(scan: Scan, options: Preprocess) -> Cropped:
    readout = _readout(scan, options)
    size = scan.shape[readout]
    kept = size / options.oversampling
    if not math.isclose(kept, round(kept), abs_tol=1e-9) or round(kept) < 1:
        raise UsageError(
            f"{size} samples along {readout} cannot be oversampled {options.oversampling:g}-fold",
            why=f"{kept:.3f} would be left",
            fix="give a factor that divides them",
        )
    check_readout(scan.mask(scan.example()), scan.space.index(readout) - len(scan.space), readout)
    scan.note(f"readout oversampling removed: the middle {round(kept)} of {size} places along {readout}")
    return Cropped(scan, readout, round(kept))


def _compressed(scan: Scan, options: Preprocess) -> Scan:
    if scan.coils == 1:
        raise UsageError("one coil cannot be compressed", where=str(scan.path), fix="leave --compress out")
    axis, place = None, ""
    if options.compress == "geometric":
        readout = _readout(scan, options)
        axis, place = scan.space.index(readout) - len(scan.space), f" at every place along {readout}"
        check_readout(scan.mask(scan.example()), axis, readout)
    if options.whiten in ("none", "loud"):
        scan.note("coils are compressed without whitening their noise: a loud coil counts for more than it knows")
    if options.energy is not None:
        # Every item is looked at: none is to keep less than was asked for, and all have as many coils.
        each = [compression(scan.kspace(i), energy=options.energy, readout=axis) for i in scan.usable()]
        coils = max(one.matrices.shape[1] for one in each)
        kept = min(one.energy for one in each)
        told = f"at least {kept:.2%} of the energy of every item, {options.energy:.4g} asked for"
    else:
        assert options.coils is not None
        able = scan.usable() or [scan.example()]
        coils, middle = options.coils, able[len(able) // 2]
        try:
            kept = compression(scan.kspace(middle), coils=coils, readout=axis).energy
        except MriReconError as error:
            error.where = error.where or str(scan.path)
            raise
        told = f"{kept:.2%} of the energy (of item {middle})"
    scan.note(f"{scan.coils} coils compressed to {coils} virtual ones{place}: they keep {told}")
    return Compressed(scan, coils, axis)
