"""Are lesions seen? Pairs of slices with and without them, measured alike, and told apart by a matched filter.

Both of a pair have the same coils, phase, noise and samples: what differs is the lesions, whose true signal is known.
Each lesion makes a pair; see `mrirecon.metrics.lesions.detectability` for what is said of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mrirecon.data.scan import pick_volume, simulate_scan
from mrirecon.errors import InputError, UsageError
from mrirecon.io import Scan, read, read_image, write_kspace
from mrirecon.masks import make_mask
from mrirecon.metrics import least_squares_scale, object_mask
from mrirecon.metrics.lesions import Detectability, detectability
from mrirecon.models.checkpoints import Trained
from mrirecon.reconstruction.reference import sense_reference
from mrirecon.reconstruction.run import reconstruct

FULL = "fully sampled"  # the row that no method can be better than, but by denoising
_MARGIN = 3  # pixels around a lesion, into which reconstruction blurs it
_AT_A_TIME = 16  # slices, so that a volume of any size fits into memory


@dataclass(frozen=True)
class Setting:
    """What pairs are made of.

    Attributes:
        pairs: at least so many.
        lesions: in each slice, kept apart.
        size: lowest and highest diameter in mm.
        contrast: lowest and highest |lesion − tissue| / tissue.
        family: of masks.
        acceleration: of masks.
        calibration: lines or samples in the centre.
        coils: receiver coils.
        snr: mean signal over the noise of an average coil image.
        seed: of every draw.

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
                "lesions cannot be told from nothing so", why=f"{self.pairs} pairs, {self.lesions} a slice"
            )


class _Patch(NamedTuple):
    present: np.ndarray
    absent: np.ndarray
    true_present: np.ndarray
    true_absent: np.ndarray


def detect(
    volume: str | Path,
    methods: Sequence[str] = (),
    *,
    models: Sequence[Trained] = (),
    name: str | None = None,
    setting: Setting | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Detectability]:
    """Return, for each method and for the fully sampled data, how well lesions are told from their absence.

    Args:
        volume: magnitudes: NIfTI, .npz, .npy, .h5, or ``phantom:SEED``.
        methods: registered names; learned ones as they come along.
        models: trained, besides.
        name: of the volume, where the file holds several.
        setting: of pairs, masks and scan.
        progress: called with (pairs done, pairs, what is being done).

    Raises:
        UsageError: no method, or one that is there twice.
        InputError: no place for so many lesions.

    """
    s = setting or Setting()
    known: dict[str, dict[str, Any]] = {m: {"method": m} for m in methods}
    known |= {m.folder.name: {"model": m} for m in models}
    if not known or len(known) < len(methods) + len(models):
        raise UsageError("name each method once, and at least one", why=", ".join(methods) or "there is none")
    slices = len(pick_volume(volume, name))
    found: dict[str, list[_Patch]] = {FULL: [], **{n: [] for n in known}}
    before = -1
    for number, (first, last) in enumerate(_rounds(slices)):
        if len(found[FULL]) >= s.pairs:
            break
        if first == 0 and len(found[FULL]) == before:
            raise InputError(
                "no lesion finds a place",
                where=str(volume),
                why="in the whole volume, none did",
                fix="make them smaller",
            )
        before = len(found[FULL]) if first == 0 else before
        with tempfile.TemporaryDirectory(prefix="mrirecon-") as folder:
            pair = _Pair(Path(folder), volume, name, (first, last), s, s.seed + number)
            for method, options in known.items():
                if progress:
                    progress(len(found[FULL]), s.pairs, method)
                found[method] += pair.patches(*(reconstruct(scan, **options).images for scan in pair.scans))
            found[FULL] += pair.patches(*map(sense_reference, pair.full))
    if progress:
        progress(len(found[FULL]), s.pairs, "")
    return {method: detectability(*zip(*patches, strict=True)) for method, patches in found.items()}


def _rounds(slices: int) -> Iterator[tuple[int, int]]:
    """Yield parts of the volume, again and again."""
    while True:
        for first in range(0, slices, _AT_A_TIME):
            yield first, min(first + _AT_A_TIME, slices)


class _Pair:
    """Scans with and without lesions, full and undersampled, of some slices of a volume."""

    def __init__(
        self, folder: Path, volume: str | Path, name: str | None, part: tuple[int, int], s: Setting, seed: int
    ) -> None:
        self.full: list[Scan] = []
        self.scans: list[Scan] = []
        self.truth: list[np.ndarray] = []
        for file, count in (("present", s.lesions), ("absent", 0)):
            path, twin = folder / f"{file}.h5", folder / f"{file}_undersampled.h5"
            simulate_scan(
                volume, path, volume=name, slices=part, coils=s.coils, snr=s.snr, seed=seed, lesions=count,
                lesion_size=s.size, lesion_contrast=s.contrast,
            )  # fmt: skip
            scan = read(path)
            space = scan.space_shape
            mask = make_mask(s.family, space, s.acceleration, calibration=s.calibration, seed=seed).mask
            write_kspace(twin, np.stack([scan.kspace(i) * mask for i in range(len(scan))]), mask=mask)
            self.full.append(scan)
            self.scans.append(read(twin))
            self.truth.append(read_image(path))
        self.labels = read_image(folder / "present_lesions.npz")

    def patches(self, present: np.ndarray, absent: np.ndarray) -> list[_Patch]:
        """Return what each lesion's surroundings look like, in the scale of the truth."""
        out = []
        for item, labels in enumerate(np.abs(self.labels).astype(int)):
            shown, without = np.abs(present[item]), np.abs(absent[item])
            truth, background = self.truth[0][item], self.truth[1][item]
            scale = float(least_squares_scale(without, background, object_mask(background)))
            for place in ndimage.find_objects(labels):
                if place is None:
                    continue
                box = tuple(
                    slice(max(0, p.start - _MARGIN), min(n, p.stop + _MARGIN))
                    for p, n in zip(place, labels.shape, strict=True)
                )
                out.append(_Patch(scale * shown[box], scale * without[box], truth[box], background[box]))
        return out


def as_rows(found: dict[str, Detectability]) -> list[dict[str, Any]]:
    """Return plain data, one row a method."""
    return [{"method": method, **asdict(d)} for method, d in found.items()]
