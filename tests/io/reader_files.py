"""Write a small file of every readable format, for tests of all readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from mrirecon import io
from mrirecon.io.readers.registry import Reader
from tests.io import mrd_files, twix_files


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


def calgary(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=np.ones((100, 100, 100, 24), np.float32), chunks=(1, 100, 100, 24))


def skm_tea(path: Path) -> None:
    with h5py.File(path, "w") as file:
        shapes = {"kspace": (3, 20, 16, 2, 4), "maps": (3, 20, 16, 4, 1), "target": (3, 20, 16, 2, 1)}
        for name, shape in shapes.items():
            file[name] = random(*shape)


def cmrxrecon(path: Path) -> None:
    stored = np.empty((2, 3, 4, 20, 24), [("real", "<f8"), ("imag", "<f8")])
    stored["real"], stored["imag"] = random(*stored.shape).real, 1
    with h5py.File(path, "w", userblock_size=512) as file:
        file["kspace_full"] = stored
        file["kspace_full"].attrs["MATLAB_class"] = np.bytes_("double")


def ismrmrd(path: Path) -> None:
    text = mrd_files.header(mrd_files.encoding((32, 24, 1), centre=(12, 0)))
    mrd_files.write(path, mrd_files.lines(random(3, 32, 24)), text)


def twix(path: Path) -> None:
    k = random(3, 24, 20)
    twix_files.write(path, (twix_files.protocol(), [twix_files.readout(k[..., i], Lin=i) for i in range(20)]))


def arrays(path: Path) -> None:
    io.write_kspace(path, random(2, 3, 20, 24))


def npy(path: Path) -> None:
    np.save(path, random(2, 3, 20, 24))
    path.with_suffix(".json").write_text('{"axes": ["slice", "coil", "y", "x"]}')


def images(path: Path) -> None:
    io.write_image(path, np.random.default_rng(0).random((4, 20, 24)))


def nifti(path: Path) -> None:
    images(path)


MAKERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "calgary-campinas": ("k.h5", calgary),
    "skm-tea": ("k.h5", skm_tea),
    "cmrxrecon": ("k.mat", cmrxrecon),
    "ismrmrd": ("k.mrd", ismrmrd),
    "fastmri": ("k.h5", arrays),
    "twix": ("k.dat", twix),
    "npz": ("k.npz", arrays),
    "npy": ("k.npy", npy),
    "cfl": ("k.cfl", arrays),
    "nifti": ("i.nii", nifti),
    "dicom": ("i.dicom", images),
}


def make(reader: Reader, folder: Path) -> Path:
    """Write a file of a reader's format: by its own sample, else by one from above."""
    if reader.sample is not None:
        path = folder / f"k{reader.suffixes[0] if reader.suffixes else ''}"
        reader.sample(path)
        return path
    name, write = MAKERS[reader.name]
    write(folder / name)
    return folder / name
