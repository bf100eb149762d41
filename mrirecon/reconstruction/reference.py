"""Get reference images for a reconstruction: stored images, or the coil combination of fully sampled k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.geometry import Grid, grid_of
from mrirecon.io.readers.images import holds_images, open_store, read_placed_image
from mrirecon.io.readers.reader import read
from mrirecon.io.readers.registry import sniff
from mrirecon.io.scan import Scan
from mrirecon.io.select import select_images
from mrirecon.metrics.presets import SIGNED, Preset
from mrirecon.metrics.shapes import BESIDE, FASTMRI
from mrirecon.reconstruction.calibrate import build_problem, item_maps, join_map_sets
from mrirecon.reconstruction.preprocess import prepare_like

# Single-coil files hold both; the challenge uses the first for its scores.
FASTMRI_TARGETS = ("reconstruction_esc", "reconstruction_rss")

# Scanners leave the outermost lines empty (fastMRI's padding), which is not undersampling.
_FULL = 1 / 0.9


def reference_images(
    path: str | Path, *, dataset: str | None = None, axes: str | None = None, preset: Preset = "mrirecon"
) -> tuple[np.ndarray, str]:
    """Return reference images (item, *space), and a description; see `placed_reference`.

    Raises:
        InputError, UnsafeContentError: see `placed_reference`.

    """
    return placed_reference(path, dataset=dataset, axes=axes, preset=preset)[:2]


def placed_reference(
    path: str | Path,
    *,
    dataset: str | None = None,
    axes: str | None = None,
    like: Scan | None = None,
    preset: Preset = "mrirecon",
    items: str | None = None,
) -> tuple[np.ndarray, str, Grid]:
    """Return reference images (item, *space), a description, and their position in the scanner.

    Stored images are used unchanged. Fully sampled k-space is combined with ESPIRiT maps of the full data. An
    undersampled file must hold a reference. With ``like``, k-space is first averaged, whitened and cropped in the same
    way as that scan. The preset ``fastmri`` uses the target in a fastMRI file, as `fastmri/evaluate.py` does. Images
    are magnitudes, except for presets that use signed values (`mrirecon.metrics.presets.SIGNED`). ``items`` selects
    items, such as "3-17".

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`; undersampled k-space without a reference.

    """
    if dataset is None and preset == "fastmri":
        dataset = _fastmri_target(path)
    if dataset is not None or (axes is None and holds_images(path)):
        placed = read_placed_image(path, dataset=dataset, signed=preset in SIGNED)
        images, grid = select_images(*placed, items, path)
        return images, FASTMRI if dataset in FASTMRI_TARGETS else "images", grid
    scan = read(path, axes=axes, items=items)
    if scan.reference is not None and any(_is_undersampled(scan, item) for item in scan.items_with_signal()):
        images, kind = scan.reference, BESIDE
    else:
        scan = scan if like is None else prepare_like(scan, like)
        images, kind = sense_reference(scan), "SENSE combination of its k-space"
        kind += ", as it holds no reconstruction_rss" if preset == "fastmri" else ""
    several = set(scan.layout.loops) - {"slice"} and len(scan) > 1 and images.ndim == 3
    return images, kind, Grid() if several else grid_of(scan, images.shape[1:])[0]


def _fastmri_target(path: str | Path) -> str | None:
    """Return the name of the target in a file in fastMRI's layout; None for any other file."""
    if not Path(path).is_file() or sniff(path) != "hdf5":
        return None
    arrays = open_store(path).arrays
    return next((name for name in FASTMRI_TARGETS if name in arrays), None)


def sense_reference(scan: Scan) -> np.ndarray:
    """Return the magnitude (item, *space) of the SENSE combination with ESPIRiT maps, the reference for scores.

    Raises:
        InputError: the scan is undersampled.

    """
    out = []
    for item in range(len(scan)):
        if scan.is_empty(item):
            out.append(np.zeros(scan.space_shape, np.float32))
            continue
        kspace, sampling = scan.measured(item)
        if sampling.acceleration > _FULL:
            raise InputError(
                "an undersampled scan cannot be the reference",
                where=scan.where(item),
                why=f"{1 / sampling.acceleration:.0%} of its k-space is sampled",
                fix="give the fully sampled scan, or an image file",
            )
        problem = build_problem(kspace, sampling, item_maps(scan, item, kspace, sampling), "cropped").problem
        out.append(np.abs(join_map_sets(problem.zero_filled[0])))
    return np.stack(out)


def _is_undersampled(scan: Scan, item: int) -> bool:
    return scan.sampling(item, scan.mask(item)).acceleration > _FULL
