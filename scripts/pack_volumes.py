"""Pack magnitude volumes into one training file: k-space cropped to its measured part, 16 bits per pixel.

    python scripts/pack_volumes.py VOLUMES... -o packed.npz [--every 2] [--exclude "*_BRAIN*"] [--limit 50]

VOLUMES are files, folders and patterns of NIfTI, .npz or .npy. Every array of the result is one volume (slice, y, x),
named after its file, or after its array if the file has several, to distinguish subjects. Its pixels are square, with
the smallest size measured along both axes. Its spacing (slice, y, x) is the array NAME_spacing.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np

from mrirecon.data.sources import expand
from mrirecon.data.volumes import read_volumes, resample
from mrirecon.io import atomic_path


def main() -> None:
    """Pack the volumes, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="keep every n-th slice")
    parser.add_argument("--exclude", action="append", default=[], help="pattern of file names to leave out")
    parser.add_argument("--limit", type=float, default=50, help="largest size of the file in MB")
    options = parser.parse_args()
    names: set[str] = set()
    with atomic_path(options.output) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in expand(options.volumes, options.exclude, Path(), "VOLUMES"):
                volumes = read_volumes(path)
                for volume in volumes:
                    name = _name(volume.name, len(volumes) > 1, names)
                    kept = volume.slices[:: options.every].astype(np.float32)
                    pixel = max(volume.spacing[1:])
                    shape = [
                        2 * round(n * d / pixel / 2) for n, d in zip(kept.shape[1:], volume.spacing[1:], strict=True)
                    ]
                    small = np.stack([resample(s, (shape[0], shape[1])) for s in kept])
                    # 1024 levels up to the volume's 99.9th percentile, finer than the noise
                    values = np.clip(np.rint(small * 1024), 0, 65535).astype(np.uint16)
                    # The field of the tissue and the size of lesions depend on the spacing.
                    sides = [n * d / m for n, d, m in zip(kept.shape[1:], volume.spacing[1:], shape, strict=True)]
                    spacing = np.array([volume.spacing[0] * options.every, *sides])
                    for part, array in ((name, values), (f"{name}_spacing", spacing)):
                        buffer = io.BytesIO()
                        np.save(buffer, array)
                        archive.writestr(f"{part}.npy", buffer.getvalue())
                    shares = " and ".join(f"{s:.0%}" for s in volume.support)
                    print(f"{name}: {values.shape}, {shares} of its k-space (y, x) were measured")
        size = temporary.stat().st_size / 1e6
        if size > options.limit:
            raise SystemExit(f"{size:.0f} MB is more than {options.limit:g}: pass a larger --every")
    print(f"{options.output}: {size:.1f} MB")


def _name(volume: str, several: bool, taken: set[str]) -> str:
    """Return the name of an array, after FILE.npz:ARRAY or FILE.nii.gz, and add it to ``taken``."""
    file, _, array = volume.partition(":")
    file = file.split(".")[0]
    choices = [array, f"{file}_{array}"] if several else [file, f"{file}_{array}"] if array else [file]
    for name in choices:
        if name not in taken:
            taken.add(name)
            return name
    raise SystemExit(f"two volumes are named {choices[-1]}: rename one of the files")


if __name__ == "__main__":
    main()
