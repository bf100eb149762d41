"""Mutate valid files and read them: a typed error or success, in bounded time and memory.

Run by test_fuzz.py in a process of its own, for a crash of libhdf5 would end the tests:
    python fuzz_io.py FOLDER KINDS COUNT SEED [SECONDS]
KINDS are names of `KINDS`, separated by commas; of each, COUNT mutations, or as many as SECONDS allow for it. Prints
one JSON line: how many were read and refused by kind, what escaped, the slowest, and the peak memory above that of the
program.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from mrirecon import io
from mrirecon.errors import MriReconError

HEADER = "<ismrmrdHeader><sequenceParameters><TR>30</TR></sequenceParameters></ismrmrdHeader>"
SIZE, COILS = (9, 8), 3


@dataclass(frozen=True)
class Kind:
    """How good files are made (the ones to mutate), and how they are read."""

    make: Callable[[Path], list[Path]]
    read: Callable[[list[Path]], object]


def draw(*shape: int) -> np.ndarray:
    """Return complex noise."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


# k-space -------------------------------------------------------------------------------------------------------------


def read_scan(files: list[Path]) -> None:
    """Read all that a scan offers."""
    scan = io.read(files[0])
    for item in range(min(3, len(scan))):
        scan.kspace(item)
        scan.mask(item)
        scan.maps(item)
    _ = scan.reference, scan.calibration
    json.dumps(io.describe(files[0]), allow_nan=False)


def check_scan(files: list[Path]) -> None:
    """Look at all values, as `info --check` does, and read samples that are no numbers as not measured."""
    json.dumps(io.describe(files[0], check=True), allow_nan=False)
    io.read(files[0], nan="zero").kspace(0)


def kspace_file(name: str, *, plain: bool = False) -> Callable[[Path], list[Path]]:
    """Return what writes a small scan with all that may lie beside it."""

    def make(folder: Path) -> list[Path]:
        k = draw(2, COILS, *SIZE)
        extras = {"mask": np.ones(8), "reference": np.abs(k[:, 0]), "maps": np.ones((2, 1, COILS, *SIZE), np.complex64)}
        if plain:
            return io.write_kspace(folder / name, k)
        io.write_kspace(folder / name, k, **extras, attributes={"anatomy": "brain", "max": 1.0})
        if name.endswith(".h5"):
            with h5py.File(folder / name, "a") as file:
                file["ismrmrd_header"] = HEADER
                file.attrs["acquisition"] = "AXT2"
                file.create_dataset("calibration", data=k[:1, :, :4, :4], chunks=(1, 1, 4, 4), compression="gzip")
        return [folder / name]

    return make


def latest(folder: Path) -> list[Path]:
    """Write HDF5 in its latest version, with every filter."""
    k, path = draw(2, COILS, *SIZE), folder / "latest.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("kspace", data=k, chunks=(1, 3, 9, 8), compression="gzip", fletcher32=True, shuffle=True)
        file["kspace"].attrs["axes"] = np.bytes_("slice,coil,y,x")
        extras = {"mask": np.ones(8), "reference": np.abs(k[:, 0]), "maps": np.ones((2, 1, COILS, *SIZE), np.complex64)}
        for name, value in extras.items():
            file.create_dataset(name, data=value, chunks=True)
        file["soft"] = h5py.SoftLink("/kspace")
    return [path]


def npy(folder: Path) -> list[Path]:
    """Write an array whose axes its shape tells."""
    np.save(folder / "k.npy", draw(COILS, 32, 32))
    return [folder / "k.npy"]


def sidecar(folder: Path) -> list[Path]:
    """Write the JSON that names the axes of an array beside it."""
    np.save(folder / "s.npy", draw(2, COILS, *SIZE))
    (folder / "s.npy.json").write_text(json.dumps({"axes": ["slice", "coil", "y", "x"], "seed": 1}))
    return [folder / "s.npy.json"]


# What lies beside k-space --------------------------------------------------------------------------------------------


def beside(role: str, name: str) -> Kind:
    """Return a mask or coil maps in a file of their own, read with a good scan."""

    def make(folder: Path) -> list[Path]:
        io.write_kspace(folder / f"whole_{role}.h5", draw(2, COILS, *SIZE))
        if role == "maps":
            return io.write_maps(folder / name, np.ones((2, 1, COILS, *SIZE), np.complex64))
        from mrirecon.masks.files import mask_bytes
        from mrirecon.masks.make import make_mask

        mask = make_mask("random", (32, 32), 2, seed=1, calibration=4)
        (folder / name).write_bytes(mask_bytes(mask, Path(name).suffix))
        return [folder / name]

    def read(files: list[Path]) -> None:
        scan = io.read(files[0].parent / "whole_maps.h5", maps=files[0])
        scan.maps(0)
        scan.maps(1)

    def load(files: list[Path]) -> None:
        from mrirecon.masks.files import load_mask

        load_mask(files[0], (32, 32))

    return Kind(make, read if role == "maps" else load)


def images(name: str) -> Kind:
    """Return images to score, by any reader of images."""

    def make(folder: Path) -> list[Path]:
        values = np.abs(draw(12, 10, 4))
        if ".nii" not in name:
            return io.write_image(folder / name, values)
        import nibabel

        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.2, 3.0, 1.0])), folder / name)
        return [folder / name]

    return Kind(make, lambda files: io.read_image(files[0]))


def manifest(folder: Path) -> list[Path]:
    """Write a list of checksums."""
    (folder / "listed").write_bytes(b"x")
    (folder / "SHA256SUMS").write_text(f"{io.sha256(folder / 'listed')}  listed\n{'0' * 64} *other\n")
    return [folder / "SHA256SUMS"]


def read_listed(files: list[Path]) -> None:
    """Check a file against the list."""
    from mrirecon.io.safe.manifest import verify

    verify(files[0].parent / "listed", files[0])


# Models and configurations -------------------------------------------------------------------------------------------


def model(folder: Path) -> list[Path]:
    """Write a small model that nobody has trained; its weights' checksum is made to fit each time."""
    from mrirecon.methods.registry import build
    from mrirecon.models.checkpoints import CONFIG, WEIGHTS, save_model

    options = {"cascades": 1, "steps": 1, "features": 4}
    where = save_model(folder / "model", "cirim", options, build("cirim", options), {"data": "none"})
    return [where / WEIGHTS, where / CONFIG]


def read_model(files: list[Path]) -> None:
    """Load it; a checksum that is a checksum is mended, so that what lies behind it is reached."""
    from mrirecon.models.checkpoints import load_model

    try:
        about = json.loads(files[1].read_text())
        files[1].write_text(json.dumps({**about, "sha256": io.sha256(files[0])}))
    except (ValueError, TypeError):
        pass
    load_model(files[0].parent)


def configuration(folder: Path) -> list[Path]:
    """Write a configuration that stands on another."""
    (folder / "base.yaml").write_text("train: {steps: 5, lr: 1e-3}\ndata:\n  crop: [64, 64]\n")
    masks = "    - {family: random, acceleration: [2.0, 4], calibration: 12}\n"
    text = f"base: base.yaml\nmethod: cirim\nmodel: {{cascades: 2}}\ndata:\n  train: [phantom:0]\n  masks:\n{masks}"
    (folder / "run.yaml").write_text(text)
    return [folder / "run.yaml", folder / "base.yaml"]


def read_configuration(files: list[Path]) -> None:
    """Load it, checked as a training would."""
    from mrirecon.training.config import load_config

    load_config(files[0])


KINDS: dict[str, Kind] = {
    "h5": Kind(kspace_file("k.h5"), read_scan),
    "h5latest": Kind(latest, read_scan),
    "npz": Kind(kspace_file("k.npz"), read_scan),
    "npy": Kind(npy, read_scan),
    "cfl": Kind(kspace_file("k.cfl", plain=True), read_scan),
    "check": Kind(kspace_file("k.cfl", plain=True), check_scan),
    "sidecar": Kind(sidecar, lambda files: read_scan([files[0].with_suffix("")])),
    "maps.h5": beside("maps", "m.h5"),
    "maps.npz": beside("maps", "m.npz"),
    "maps.cfl": beside("maps", "m.cfl"),
    **{f"mask{suffix}": beside("mask", f"mask{suffix}") for suffix in (".npy", ".npz", ".png", ".txt")},
    "image.h5": images("i.h5"),
    "image.cfl": images("i.cfl"),
    "nii": images("i.nii"),
    "nii.gz": images("i.nii.gz"),
    "manifest": Kind(manifest, read_listed),
    "model": Kind(model, read_model),
    "config": Kind(configuration, read_configuration),
}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes, mostly near the start, where headers are; or cut, repeat or blank a piece."""
    buffer = bytearray(data)
    reach = len(buffer) if rng.random() < 0.4 else min(len(buffer), 2500)
    kind = rng.integers(6)
    at = int(rng.integers(max(1, reach)))
    size = int(rng.integers(1, 64))
    if kind <= 2:
        for _ in range(int(rng.integers(1, 5))):
            buffer[int(rng.integers(reach))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    elif kind == 3:
        del buffer[at : at + size]
    elif kind == 4:
        buffer[at:at] = buffer[at : at + size]
    else:
        buffer[at : at + size] = bytes([int(rng.choice([0, 0xFF]))]) * len(buffer[at : at + size])
    return bytes(buffer)


def mutation(good: bytes, number: int, seed: int) -> bytes:
    """Return the mutation of that number, counted from 0."""
    rng = np.random.default_rng(seed)
    for _ in range(number + 1):
        rng.integers(1)  # which of the files: `run` draws it too
        data = mutate(good, rng)
    return data


def peak() -> int:
    """Return the peak memory of this program alone in MiB: getrusage would count what the parent took before."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


def run(name: str, folder: Path, count: int, seed: int, seconds: float, told: dict) -> None:
    """Mutate and read one kind."""
    kind = KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    files = kind.make(folder)
    good = [file.read_bytes() for file in files]
    kind.read(files)
    told["start"] = max(told["start"], peak())
    rng, until = np.random.default_rng(seed), time.perf_counter() + seconds
    done = told["kinds"][name] = {"read": 0, "refused": 0}
    for number in range(count):
        if time.perf_counter() > until:
            break
        victim = int(rng.integers(len(files)))
        for file, data in zip(files, good, strict=True):
            file.write_bytes(data)
        files[victim].write_bytes(mutate(good[victim], rng))
        # If the process dies, the last line gives the mutation, and the file still exists.
        print(f"{name} {number}", file=sys.stderr, flush=True)
        start = time.process_time()  # CPU time, because other programs may run; the caller's limit ends a hang
        try:
            kind.read(files)
            done["read"] += 1
        except MriReconError as error:
            done["refused"] += 1
            if not (error.what and str(error)):
                told["escaped"].append(f"{name} {number}: an error without words")
        except Exception as error:
            told["escaped"].append(f"{name} {number}: {type(error).__name__}: {error}")
        seconds = time.process_time() - start
        if seconds > told["slowest"]:
            told["slowest"], told["slowest of"] = seconds, f"{name} {number}"


def main() -> None:
    """Mutate and read, as the arguments say."""
    folder, names, count, seed = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4])
    seconds = float(sys.argv[5]) if len(sys.argv) > 5 else 1e9
    warnings.simplefilter("error")
    told: dict = {"kinds": {}, "escaped": [], "slowest": 0.0, "slowest of": "", "start": 0}
    for name in names:
        run(name, folder / name.replace(".", "_"), count, seed, seconds, told)
    print(json.dumps({**told, "megabytes": peak() - told["start"], "escaped": told["escaped"][:10]}))


if __name__ == "__main__":
    main()
