"""Measure lesion detectability: reconstruct simulated slices with and without lesions, and compare them.

The two images of a pair share coils, phase, noise and samples; they differ only in lesions whose true signal is known.
Each lesion is one pair; see `mrirecon.metrics.lesions.detectability` for the matched filter that detects them.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mrirecon.data.scan import pick_volume, simulate_scan
from mrirecon.errors import InputError, UsageError
from mrirecon.io.readers.images import read_image
from mrirecon.io.readers.reader import read
from mrirecon.io.scan import Scan
from mrirecon.io.writers.write import write_kspace
from mrirecon.masks import make_mask
from mrirecon.metrics import least_squares_scale, object_mask
from mrirecon.metrics.lesions import Detectability, detectability
from mrirecon.models.checkpoints import TrainedModel
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

FULL = "fully sampled"  # denoising alone can exceed this row
_MARGIN = 3  # pixels around a lesion, to include its blur
_AT_A_TIME = 16  # slices per batch; limits the memory used


@dataclass(frozen=True)
class Setting:
    """Define how the pairs are simulated.

    Attributes:
        pairs: number of pairs.
        lesions: number of lesions in each slice; they do not overlap.
        size: smallest and largest diameter in mm.
        contrast: lowest and highest |lesion − tissue| / tissue.
        family: family of the masks.
        acceleration: acceleration factor of the masks.
        calibration: size of the calibration region in lines or samples.
        coils: number of receiver coils.
        snr: mean signal over the noise of an average coil image.
        seed: seed of all random draws.

    """

    pairs: int = 200
    lesions: int = 4
    size: tuple[float, float] = (3.0, 10.0)
    contrast: tuple[float, float] = (0.15, 0.6)
    family: str = "gaussian1d"
    acceleration: float = 4.0
    calibration: int = 20
    coils: int = 8
    snr: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 2 or self.lesions < 1:
            raise UsageError(
                "detection needs at least two pairs and one lesion per slice",
                why=f"{self.pairs} pairs, {self.lesions} lesions per slice",
                fix="increase --pairs or --lesions",
            )


# Patches around a lesion: images with and without it, then references with and without it.
_Patches = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def detect(
    volume: str | Path,
    methods: Sequence[str] = (),
    *,
    models: Sequence[TrainedModel] = (),
    name: str | None = None,
    setting: Setting | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Detectability]:
    """Return the lesion detectability for each method and for the fully sampled data.

    Args:
        volume: magnitude images: NIfTI, .npz, .npy, .h5, or ``phantom:SEED``.
        methods: registered names; learned methods use the shipped weights.
        models: additional trained models.
        name: name of the volume, if the file holds several.
        setting: settings of the pairs, masks and scan.
        progress: called with (pairs done, pairs, method).

    Raises:
        UsageError: no method is given, or one is given twice.
        InputError: the object has no room for this number of lesions.

    """
    s = setting or Setting()
    known: dict[str, dict[str, Any]] = {m: {"method": m} for m in methods}
    known |= {m.folder.name: {"model": m} for m in models}
    if not known or len(known) < len(methods) + len(models):
        raise UsageError(
            "each method must be named once, and at least one",
            why=f"methods: {', '.join([*methods, *(str(m.folder) for m in models)]) or 'none'}",
            fix="remove repetitions, or name a method",
        )
    slices = len(pick_volume(volume, name))
    patches: dict[str, list[_Patches]] = {FULL: [], **{n: [] for n in known}}
    first = before = 0  # first slice of the next batch; number of pairs after the last pass through the volume
    for number in itertools.count():
        done = len(patches[FULL])
        if done >= s.pairs:
            break
        last = min(slices, first + min(_AT_A_TIME, math.ceil((s.pairs - done) / s.lesions)))
        with tempfile.TemporaryDirectory(prefix="mrirecon-") as folder:
            pair = _simulate_pair(Path(folder), volume, name, (first, last), s, s.seed + number)
            for method, options in known.items():
                if progress:
                    progress(done, s.pairs, method)
                patches[method] += _cut_patches(pair, [reconstruct(scan, **options).images for scan in pair.scans])
            patches[FULL] += _cut_patches(pair, [sense_reference(scan) for scan in pair.full])
        first = last % slices
        if first == 0:
            if len(patches[FULL]) == before:
                raise InputError(
                    "no lesion can be placed",
                    where=str(volume),
                    why="no slice has homogeneous tissue of this size",
                    fix="use smaller lesions",
                )
            before = len(patches[FULL])
    if progress:
        progress(s.pairs, s.pairs, "")
    return {method: detectability(*zip(*pairs[: s.pairs], strict=True)) for method, pairs in patches.items()}


class _Pair(NamedTuple):
    """Hold a batch of slices, first with and then without lesions."""

    full: list[Scan]
    scans: list[Scan]  # undersampled
    truth: list[np.ndarray]
    labels: np.ndarray  # of the lesions


def _simulate_pair(
    folder: Path, volume: str | Path, name: str | None, part: tuple[int, int], s: Setting, seed: int
) -> _Pair:
    pair = _Pair([], [], [], np.empty(0))
    for file, count in (("present", s.lesions), ("absent", 0)):
        path, undersampled = folder / f"{file}.h5", folder / f"{file}_undersampled.h5"
        simulate_scan(
            volume, path, volume=name, slices=part, coils=s.coils, snr=s.snr, seed=seed, lesions=count,
            lesion_size=s.size, lesion_contrast=s.contrast,
        )  # fmt: skip
        scan = read(path)
        mask = make_mask(s.family, scan.space_shape, s.acceleration, calibration=s.calibration, seed=seed).mask
        write_kspace(undersampled, np.stack([scan.kspace(i) * mask for i in range(len(scan))]), mask=mask)
        pair.full.append(scan)
        pair.scans.append(read(undersampled))
        pair.truth.append(read_image(path))
    return pair._replace(labels=np.abs(read_image(folder / "present_lesions.npz")).astype(int))


def _cut_patches(pair: _Pair, images: Sequence[np.ndarray]) -> list[_Patches]:
    """Return a patch around each lesion from the images with and without lesions, in the scale of the truth."""
    patches = []
    for labels, *slices in zip(pair.labels, *images, *pair.truth, strict=True):
        present, absent, truth, background = slices
        scale = float(least_squares_scale(np.abs(absent), background, object_mask(background)))
        for bounds in filter(None, ndimage.find_objects(labels)):
            box = tuple(
                slice(max(0, side.start - _MARGIN), min(n, side.stop + _MARGIN))
                for side, n in zip(bounds, labels.shape, strict=True)
            )
            patches.append((scale * np.abs(present)[box], scale * np.abs(absent)[box], truth[box], background[box]))
    return patches
