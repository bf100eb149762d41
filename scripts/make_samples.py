"""Create data_samples/: a multi-coil scan simulated from Colin27, fully sampled and undersampled.

    python scripts/make_samples.py [--output data_samples] [--format h5] [--volume ch2.nii.gz]

The volume is in Debian's package `mricron-data` (apt-get install mricron-data); reading it needs nibabel (the extra
`samples`). All random draws have fixed seeds, so that the same volume gives the same arrays on all machines.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrirecon.data.simulate import simulate_kspace
from mrirecon.io import write_kspace
from mrirecon.masks import make_mask

VOLUME = Path("/usr/share/mricron/templates/ch2.nii.gz")
SEED = 27
COILS, SNR = 8, 35.0
SHAPE, PIXEL = (176, 144), 1.3125  # samples (y, x), and their size in mm: a field of view of 231 x 189 mm
HEIGHTS, THICKNESS = (70, 84, 98), 5  # centre planes and thickness of the slices, in planes of 1 mm
ACCELERATION, LINES = 4.0, 20
BITS = 4  # k-space is rounded to a power of two near the noise's standard deviation / 2**BITS
SOURCE = "Colin27 T1 (ch2.nii.gz of Debian's mricron-data, BSD-3-Clause), simulated by mrirecon scripts/make_samples.py"

Real = npt.NDArray[np.floating[Any]]


def anatomy(path: Path) -> Real:
    """Extract axial slices (slice, y, x) with 1 mm pixels, anterior at the top, the patient's right on the left.

    The field of view is that of the measurement; a slice is the mean of the planes within its thickness.
    """
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    if not np.allclose(image.header.get_zooms(), 1.0):
        raise SystemExit(f"{path} has pixels of {image.header.get_zooms()} mm; this script expects 1 mm")
    volume = np.asarray(image.dataobj, dtype=np.float64)
    half = THICKNESS // 2
    # canonical axes point to the patient's right, anterior and superior
    planes = np.stack([volume[::-1, ::-1, z - half : z + half + 1].mean(axis=-1).T for z in HEIGHTS])
    wanted = [round(n * PIXEL) for n in SHAPE]
    margins = [(n - m) // 2 for n, m in zip(wanted, planes.shape[1:], strict=True)]
    pads = [(a, n - m - a) for a, n, m in zip(margins, wanted, planes.shape[1:], strict=True)]
    return np.pad(planes, [(0, 0), *pads])


def scan(path: Path) -> dict[str, Any]:
    """Simulate the scan; return its fully sampled k-space and the mask."""
    image = anatomy(path)
    # fastMRI files also have values of about 1e-4.
    image *= 1e-4 / image.max()
    spacing = (HEIGHTS[1] - HEIGHTS[0]) / (max(SHAPE) * PIXEL / 2)
    simulated = simulate_kspace(image, COILS, SNR, SEED, shape=SHAPE, spacing=spacing)
    sigma = math.sqrt(np.trace(simulated.noise_covariance).real / COILS)
    step = 2.0 ** math.floor(math.log2(sigma / 2**BITS))
    kspace = np.round(simulated.kspace.view(np.float32) / step).astype(np.float32) * np.float32(step)
    mask = make_mask("random", SHAPE, ACCELERATION, calibration=LINES, seed=SEED, name="brain").mask[0]
    return {"kspace": kspace.view(np.complex64), "mask": mask}


def root_sum_of_squares(kspace: npt.NDArray[np.complex64]) -> Real:
    """Combine the coils of centred k-space (slice, coil, y, x) to a magnitude image (slice, y, x)."""
    axes = (-2, -1)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    return np.asarray(np.sqrt((np.abs(coils) ** 2).sum(axis=1)), np.float32)


def write(path: Path, kspace: npt.NDArray[np.complex64], **options: Any) -> None:
    """Write one file of the scan through mrirecon.io, and pack it if it is HDF5."""
    attributes: dict[str, str | float | bool] = {
        "acquisition": "AXT1",
        "simulated": True,
        "source": SOURCE,
    }
    reference = options.get("reference")
    if reference is not None:
        attributes |= {"max": float(reference.max()), "norm": float(np.linalg.norm(reference))}
    write_kspace(path, kspace, attributes=attributes, **options)
    if path.suffix == ".h5":
        pack(path)
    print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


def pack(path: Path) -> None:
    """Compress the datasets of an HDF5 file, one chunk per coil image; rounded k-space shrinks to a third."""
    import h5py

    temporary = path.with_suffix(".packing")
    with h5py.File(path) as plain, h5py.File(temporary, "w") as packed:
        packed.attrs.update(plain.attrs)
        for name, values in plain.items():
            chunks = (1,) * (values.ndim - 2) + values.shape[-2:] if values.ndim > 2 else None
            options = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if chunks else {}
            packed.create_dataset(name, data=values[()], chunks=chunks, track_times=False, **options)
            packed[name].attrs.update(values.attrs)
    temporary.replace(path)


def main() -> None:
    """Write both files of the scan."""
    parser = argparse.ArgumentParser(description="Make data_samples/ from Colin27.")
    parser.add_argument("--output", type=Path, default=Path("data_samples"))
    parser.add_argument("--format", choices=["h5", "npz", "cfl"], default="h5")
    parser.add_argument("--volume", type=Path, default=VOLUME)
    given = parser.parse_args()
    if not given.volume.exists():
        raise SystemExit(f"{given.volume} is not there. On Debian and Ubuntu: apt-get install mricron-data")
    given.output.mkdir(parents=True, exist_ok=True)
    arrays = scan(given.volume)
    kspace, mask = arrays["kspace"], arrays["mask"]
    reference = root_sum_of_squares(kspace)
    write(given.output / f"brain_full.{given.format}", kspace, reference=reference)
    write(given.output / f"brain_{ACCELERATION:g}x.{given.format}", np.where(mask, kspace, 0), mask=mask)


if __name__ == "__main__":
    main()
