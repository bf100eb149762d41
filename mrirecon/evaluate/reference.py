"""What a reconstruction is compared with: images, or the combination of fully sampled k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.inference import sense_reference
from mrirecon.io import read, read_image
from mrirecon.io.images import holds_images


def reference_images(
    path: str | Path, *, dataset: str | None = None, axes: str | None = None
) -> tuple[np.ndarray, str]:
    """Return reference magnitudes (item, *space), and what they are, in words.

    Images are taken as they are; fully sampled k-space is combined with ESPIRiT maps of the full data; an undersampled
    file must hold a reference of its own.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`; undersampled k-space without a reference.

    """
    if dataset is not None or (axes is None and holds_images(path)):
        return read_image(path, dataset=dataset), "images"
    scan = read(path, axes=axes)
    if scan.reference is not None and scan.mask(0).mean() < 0.9:
        return scan.reference, "the reference beside its k-space"
    return sense_reference(scan), "SENSE combination of its k-space"
