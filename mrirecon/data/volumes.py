"""Read magnitude volumes for the simulation, and undo the vendor's interpolation.

Scanners interpolate images to a finer grid than measured, filter them, and set the background to zero. The k-space of
such an image is empty at its edges, and a network trained on it would learn to leave them empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mrirecon.data.anatomy import Anatomy
from mrirecon.data.phantom import phantom
from mrirecon.errors import InputError, UsageError
from mrirecon.io.readers.images import open_store
from mrirecon.io.readers.nifti import is_nifti, read_nifti
from mrirecon.io.readers.registry import holds_images, sniff

Real = npt.NDArray[np.floating[Any]]

PHANTOM = "phantom"  # name of volumes without a file: phantom, phantom:7
SMALLEST = 48  # minimum samples along an axis to show anatomy
LOSS = 0.5  # relative to the expected amplitude of the spectrum; lower values indicate a filter
EMPTY = 0.05  # relative to the field of view: a slice with a smaller object is omitted


@dataclass(frozen=True)
class Volume:
    """Hold slices for the simulation.

    Attributes:
        name: name of the file and of the array in it.
        slices: (slice, y, x) float16, from 0 to 1, scaled to a 99.9th percentile of 1.
        spacing: (slice, y, x) voxel spacing in mm, or in units of the spacing along x if the file does not state it.
        support: measured fraction of the stored samples (y, x), which is retained.
        zeros: fraction of the stored voxels that are exactly zero.
        left_out: omitted slices without an object.

    """

    name: str
    slices: npt.NDArray[np.float16]
    spacing: tuple[float, float, float]
    support: tuple[float, float] = (1.0, 1.0)
    zeros: float = 0.0
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.slices)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Return maps of the tissue, each computed on demand."""
        return Anatomy(self.slices, self.spacing)


def read_volumes(path: str | Path) -> list[Volume]:
    """Read the magnitude volumes of a NIfTI, .npz, .npy or HDF5 file, or draw the phantom (``phantom:SEED``).

    In .npz and HDF5, every real array with three or more axes is a volume; its last two axes are y and x. The array
    with the same name and ``_spacing`` appended is its spacing (slice, y, x); without it, the slice distance is assumed
    to be four pixels, as in most clinical scans.

    Raises:
        InputError: the file has no volume or cannot be used.

    """
    text = str(path)
    if text == PHANTOM or text.startswith(PHANTOM + ":"):
        return [_phantom(text)]
    if is_nifti(path):
        image = read_nifti(path)
        return [prepare(Path(path).name, image.values, image.spacing)]
    store = open_store(path)
    volumes = []
    for name, (shape, dtype) in store.arrays.items():
        if "/" in name or len(shape) < 3 or dtype.kind not in "fiu" or min(shape[-2:]) < SMALLEST:
            continue
        values = store.read(name).reshape(-1, *shape[-2:])
        stated = f"{name}_spacing" in store.arrays
        spacing = _spacing(store.read(f"{name}_spacing"), f"{path}:{name}_spacing") if stated else (4.0, 1.0, 1.0)
        volumes.append(prepare(f"{Path(path).name}:{name}", values, spacing))
    if not volumes:
        listed = ", ".join(f"{n} {s} {d}" for n, (s, d) in list(store.arrays.items())[:8]) or "no arrays"
        raise InputError(
            f"{path} has no magnitude volume",
            why=f"content: {listed}",
            fix=f"give real arrays (slice, y, x) of at least {SMALLEST} pixels along y and x",
        )
    return volumes


def _spacing(stated: Real, location: str) -> tuple[float, float, float]:
    """Return the spacing stored in a file.

    Raises:
        InputError: the spacing is not three positive numbers.

    """
    spacing = np.asarray(stated, np.float64).ravel()
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise InputError("the spacing must be three positive numbers", where=location, why=f"it is {spacing.tolist()}")
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


def is_volume(path: str | Path) -> bool:
    """Return whether a file contains magnitude volumes for the simulation instead of k-space."""
    text = str(path)
    if text.split(":")[0] == PHANTOM or is_nifti(path):
        return True
    kind = sniff(path)
    if kind == "cfl" or not holds_images(kind):
        return False
    kinds = [(len(s), d.kind) for n, (s, d) in open_store(path).arrays.items() if "/" not in n]
    return not any(k in "cV" and n >= 2 for n, k in kinds) and any(k in "fiu" and n >= 3 for n, k in kinds)


def prepare(name: str, values: Real, spacing: tuple[float, float, float]) -> Volume:
    """Return a volume cropped in k-space to its measured part, without empty slices.

    Args:
        name: name for messages and the card.
        values: (slice, y, x), any unit; complex values are replaced by their magnitude.
        spacing: (slice, y, x) voxel spacing.

    Raises:
        InputError: values are negative, NaN or infinite, or no slice has an object.

    """
    values = np.asarray(np.abs(values) if np.iscomplexobj(values) else values, dtype=np.float32)
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(
            f"{name} is not a magnitude volume",
            why="some values are NaN or infinite" if not np.isfinite(values).all() else "some values are negative",
            fix="use magnitude images",
        )
    peak = float(np.percentile(values, 99.9))
    if peak == 0:
        raise InputError(f"{name} is empty", why="99.9 % of its voxels are zero", fix="remove it from the data")
    values = values / peak
    full = np.array([(s > 0.1).mean() for s in values]) >= EMPTY
    if not full.any():
        raise InputError(f"{name} has no slice with an object", fix="remove it from the data")
    zeros = float((values == 0).mean())
    retained = values[full]
    support = measured_support(retained)
    shape = tuple(
        max(SMALLEST, 2 * round(n * s / 2)) if s < 1 else n for n, s in zip(retained.shape[1:], support, strict=True)
    )
    cropped = np.stack([resample(image, (shape[0], shape[1])) for image in retained])
    after = tuple(d * n / m for d, n, m in zip(spacing[1:], retained.shape[1:], shape, strict=True))
    return Volume(
        name,
        np.clip(cropped, 0, 16).astype(np.float16),
        (spacing[0], after[0], after[1]),
        support,
        zeros,
        int((~full).sum()),
    )


def measured_support(slices: Real) -> tuple[float, float]:
    """Return the measured fraction of k-space along (y, x); 1 without signs of interpolation.

    The amplitude of an image's k-space decays as a power of the frequency, which is fitted between 8 and 40 % of the
    band. If the amplitude falls below half of the fit and stays there, the scanner zero-filled or filtered it.

    Args:
        slices: (slice, y, x) magnitudes.

    """
    shares = []
    middle = slices[len(slices) // 4 : max(len(slices) // 4 + 1, 3 * len(slices) // 4)]
    power = (np.abs(np.fft.fft2(middle)) ** 2).sum(0)
    for axis in (0, 1):
        profile = np.sqrt(power.sum(1 - axis))
        half = len(profile) // 2
        # both halves of the band, from the centre outwards
        amplitude = ndimage.uniform_filter1d((profile[1:half] + profile[:-half:-1]) / 2, max(3, half // 24))
        band = (np.arange(1, half)) / half
        inner = (band > 0.08) & (band < 0.4)
        x, y = np.log(band[inner]), np.log(np.maximum(amplitude[inner], 1e-12))
        # Edges decay as 1/f. A flatter fit indicates texture, whose end would be mistaken for a filter.
        slope = min(-1.0, float(np.polyfit(x, y, 1)[0]))
        expected = np.exp((y - slope * x).mean()) * band**slope
        enough = np.flatnonzero(amplitude >= LOSS * expected)
        edge = float(band[enough[-1]]) if len(enough) else 1.0
        shares.append(1.0 if edge > 0.94 else max(0.4, edge))
    return shares[0], shares[1]


def resample(image: Real, shape: tuple[int, int]) -> Real:
    """Resample the magnitude of an image (y, x) to a coarser grid by cropping its k-space."""
    if shape == image.shape:
        return image
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    window = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(image.shape, shape, strict=True))
    small = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k[window])))
    return np.abs(small).astype(np.float32) * np.float32(np.prod(shape) / image.size)


@lru_cache(maxsize=16)  # cached, because drawing a phantom takes as long as simulating its scan
def _phantom(text: str) -> Volume:
    number = text.partition(":")[2] or "0"
    if not number.isdigit():
        raise UsageError(f"{text!r} is not a phantom", fix="write phantom, or phantom:7 with a seed of the anatomy")
    slices = phantom((232, 192), 6, int(number))
    return Volume(f"phantom:{number}", (slices / 1.4).astype(np.float16), (5.0, 1.0, 1.0))
