"""What a reconstruction is compared with: images, or the combination of fully sampled k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.inference import sense_reference
from mrirecon.io import read, read_image
from mrirecon.io.identify import sniff
from mrirecon.io.images import IMAGE_NAMES, open_store
from mrirecon.io.nifti import SUFFIXES as NIFTI
from mrirecon.io.values import complex_dtype
from mrirecon.prepared import Prepared, prepare_like


def reference_images(
    path: str | Path,
    *,
    dataset: str | None = None,
    axes: str | None = None,
    like: Prepared | None = None,
) -> tuple[np.ndarray, str]:
    """Return reference magnitudes (item, *space), and what they are, in words.

    Images are taken as they are; fully sampled k-space is combined with ESPIRiT maps of the full data; an undersampled
    file must hold a reference of its own. With ``like``, k-space is averaged, whitened and cropped first
    as that scan was, whose images it is compared with.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`; undersampled k-space without a reference.

    """
    if dataset is not None or (axes is None and holds_images(path)):
        return read_image(path, dataset=dataset), "images"
    scan = read(path, axes=axes)
    if scan.reference is not None and scan.mask(0).mean() < 0.9:
        return scan.reference, "the reference beside its k-space"
    return sense_reference(scan if like is None else prepare_like(scan, like)), "SENSE combination of its k-space"


def holds_images(path: str | Path) -> bool:
    """Whether a file holds images and no k-space, as far as names, types and shapes tell.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`.

    """
    if str(path).lower().endswith(NIFTI):
        return True
    store = open_store(path)
    kind = sniff(Path(path))
    if kind == "cfl":
        # Dimension 3 of a BART array is the coils: k-space of one coil looks like an image, and needs `axes`.
        return next(iter(store.arrays.values()))[0][3] == 1
    if kind == "npy":
        shape, dtype = next(iter(store.arrays.values()))
        return len(shape) < 4 and not complex_dtype(dtype)
    names = {name.lower() for name in store.arrays}
    return "kspace" not in names and "ksp" not in names and any(name in names for name in IMAGE_NAMES)
