"""Test reading and writing: exact round trips in every format, and atomic writing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mrirecon import io
from mrirecon.errors import InputError, ResourceError, SignalError, UsageError
from mrirecon.io.readers.cfl import CflStore
from mrirecon.io.safe.atomic import move

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MRIRECON_DATA", ROOT.parent / "shared" / "data")) / "kspace"
SCANS = sorted(DATA.glob("*.npz")) or [pytest.param(None, marks=pytest.mark.skip(reason=f"no real scans in {DATA}"))]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python on `code` with this package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)


# Round trips ---------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "slices": ("slice,coil,y,x", (2, 3, 9, 8)),
    "one slice": ("slice,coil,y,x", (1, 4, 7, 11)),
    "one coil": ("slice,coil,y,x", (3, 1, 6, 5)),
    "no coil axis": ("slice,y,x", (3, 13, 17)),
    "one item": ("coil,y,x", (4, 16, 15)),
    "plain": ("y,x", (31, 63)),
    "one row": ("coil,y,x", (2, 1, 12)),
    "repetitions": ("repetition,slice,coil,y,x", (2, 3, 2, 5, 4)),
    "echoes last": ("coil,y,x,echo", (2, 5, 7, 3)),
    "coils last": ("slice,y,x,coil", (2, 6, 7, 3)),
    "volume": ("coil,z,y,x", (2, 5, 6, 7)),
    "volumes": ("repetition,coil,z,y,x", (2, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_kspace_round_trip(tmp_path: Path, name: str, suffix: str) -> None:
    axes, shape = LAYOUTS[name]
    names = axes.split(",")
    kspace = random(*shape)
    path = tmp_path / f"scan.{suffix}"
    io.write_kspace(path, kspace, axes=axes)
    scan = io.read(path)
    loops = [a for a in names if a not in ("coil", "z", "y", "x")]
    space = [a for a in names if a in ("z", "y", "x")]
    sizes = dict(zip(names, shape, strict=True))
    expected = {a: sizes.get(a, 1) for a in (*loops, "coil", *space)}
    if suffix == "cfl":
        # A BART pair cannot tell an axis of length 1 from none, and orders its loops.
        assert {a: n for a, n in scan.shape.items() if n > 1} == {a: n for a, n in expected.items() if n > 1}
    else:
        assert list(scan.shape.items()) == list(expected.items())
    assert len(scan) == np.prod([sizes[a] for a in loops], initial=1)
    for number, item in enumerate(scan.items):
        whole = dict.fromkeys(loops, 0) | item
        index = tuple(whole[a] if a in loops else slice(None) for a in names)
        wanted = kspace[index]
        kept = [a for a in names if a not in loops]
        wanted = np.moveaxis(wanted, kept.index("coil"), 0) if "coil" in kept else wanted[None]
        found = scan.kspace(number)
        assert found.dtype == np.complex64
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found.squeeze(), wanted.squeeze())
        assert scan.mask(number).all()
    assert not scan.has_mask


@pytest.mark.parametrize("suffix", ["h5", "npz"])
@pytest.mark.parametrize(("slices", "sets", "coils"), [(2, 2, 3), (1, 1, 1), (3, 1, 2)])
def test_all_that_lies_beside_kspace_comes_back(
    tmp_path: Path, suffix: str, slices: int, sets: int, coils: int
) -> None:
    mask = np.array([1, 0, 1, 1, 0, 1, 1])
    kspace = random(slices, coils, 9, 7) * mask
    maps, reference = random(slices, sets, coils, 9, 7, seed=1), np.abs(random(slices, 9, 7, seed=2))
    path = tmp_path / f"scan.{suffix}"
    io.write_kspace(
        path, kspace, mask=mask, reference=reference, maps=maps, attributes={"acquisition": "AXT2", "seed": 3}
    )
    scan = io.read(path)
    assert scan.has_mask
    for item in range(slices):
        np.testing.assert_array_equal(scan.kspace(item), kspace[item])
        np.testing.assert_array_equal(scan.mask(item), np.broadcast_to(mask == 1, (9, 7)))
        np.testing.assert_array_equal(scan.maps(item), maps[item])
    np.testing.assert_array_equal(scan.reference, reference)
    assert scan.attributes["acquisition"] == "AXT2"
    assert scan.attributes["seed"] == 3
    assert len(scan.sha256()) == 64


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
@pytest.mark.parametrize("sets", [1, 2])
def test_maps_of_another_file(tmp_path: Path, suffix: str, sets: int) -> None:
    kspace, maps = random(3, 4, 8, 9), random(3, sets, 4, 8, 9, seed=1)
    io.write_kspace(tmp_path / f"scan.{suffix}", kspace)
    io.write_maps(tmp_path / f"maps.{suffix}", maps)
    scan = io.read(tmp_path / f"scan.{suffix}", maps=tmp_path / f"maps.{suffix}")
    for item in range(3):
        np.testing.assert_array_equal(scan.maps(item), maps[item])
    io.write_maps(tmp_path / f"wrong.{suffix}", maps[..., :-1])
    with pytest.raises(InputError, match="do not match"):
        io.read(tmp_path / f"scan.{suffix}", maps=tmp_path / f"wrong.{suffix}")


def test_fastmri_layout_is_what_fastmri_reads(tmp_path: Path) -> None:
    kspace = random(2, 3, 10, 8)
    io.write_kspace(tmp_path / "a.h5", kspace, mask=np.ones(8), reference=np.abs(kspace[:, 0]))
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"kspace", "mask", "reconstruction_rss"}
        assert file["kspace"].dtype == np.complex64
        assert file["kspace"].shape == (2, 3, 10, 8)
        assert file["mask"].shape == (8,)
        assert file["reconstruction_rss"].dtype == np.float32


def test_fastmri_single_coil_and_cropped_reference(tmp_path: Path) -> None:
    kspace, image = random(3, 40, 36), np.ones((3, 20, 20))
    with h5py.File(tmp_path / "sc.h5", "w") as file:
        file["kspace"], file["reconstruction_esc"] = kspace, image
        file.attrs["acquisition"] = "CORPD_FBK"
        file.attrs["patient_id"] = "0123456789abcdef"
    scan = io.read(tmp_path / "sc.h5")
    assert scan.shape == {"slice": 3, "coil": 1, "y": 40, "x": 36}
    assert scan.reference is not None
    assert scan.reference.shape == (3, 20, 20)
    assert scan.attributes == {"acquisition": "CORPD_FBK"}


@pytest.mark.parametrize(
    "stored",
    [
        np.complex128,
        ">c8",
        ">c16",
        [("r", "<f4"), ("i", "<f4")],
        [("r", ">f8"), ("i", ">f8")],
        [("real", "<f4"), ("imag", "<f4")],
        [("real", "<f8"), ("imag", "<f8")],
        [("r", "<i2"), ("i", "<i2")],
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["h5", "npz", "npy"])
def test_every_complex_type_is_read(tmp_path: Path, stored: str, suffix: str) -> None:
    values = np.round(random(2, 6, 5) * 100)
    dtype = np.dtype(stored)
    if dtype.fields:
        array = np.empty(values.shape, dtype)
        real, imaginary = dtype.fields
        array[real], array[imaginary] = values.real, values.imag
    else:
        array = values.astype(dtype)
    path = tmp_path / f"k.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            file["kspace"] = array
    elif suffix == "npz":
        np.savez(path, kspace=array)
    else:
        np.save(path, array)
    np.testing.assert_array_equal(io.read(path, axes="coil,y,x").kspace(0), values)


def test_fortran_order_and_slices_of_npy(tmp_path: Path) -> None:
    kspace = random(3, 2, 5, 7)
    np.save(tmp_path / "k.npy", np.asfortranarray(kspace))
    scan = io.read(tmp_path / "k.npy", axes="slice,coil,y,x")
    for item in range(3):
        np.testing.assert_array_equal(scan.kspace(item), kspace[item])


def test_a_scan_survives_pickling_and_forking(tmp_path: Path) -> None:
    kspace = random(4, 2, 16, 16)
    for suffix in ("h5", "npz", "cfl"):
        io.write_kspace(tmp_path / f"k.{suffix}", kspace)
        scan = io.read(tmp_path / f"k.{suffix}")
        scan.kspace(0)
        copy = pickle.loads(pickle.dumps(scan))
        np.testing.assert_array_equal(copy.kspace(3), kspace[3])
    code = """
import os, sys, numpy as np
from mrirecon import io
scan = io.read(sys.argv[1])
first = scan.kspace(0)
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        same = all(np.array_equal(scan.kspace(0), first) and scan.kspace(i).any() for _ in range(20) for i in range(4))
        os._exit(0 if same else 1)
    children.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
    child = script(code, tmp_path / "k.h5")
    assert child.returncode == 0, child.stderr


# Axes ----------------------------------------------------------------------------------------------------------------


def test_axes_from_the_option_the_sidecar_the_entry_and_the_meta_text(tmp_path: Path) -> None:
    kspace = random(6, 5, 4)
    named = {"coil": 4, "y": 6, "x": 5}
    path = tmp_path / "k.npz"
    np.savez(path, kspace=kspace)
    with pytest.raises(InputError, match=r"\(6, 5, 4\)") as error:
        io.read(path)
    assert "--axes coil,y,x" in str(error.value)
    assert io.read(path, axes="y,x,coil").shape == named
    assert io.read(path, axes=" ky, KX ,coils").shape == named
    for sidecar in ("k.npz.json", "k.json"):
        (tmp_path / sidecar).write_text(json.dumps({"axes": ["y", "x", "coil"]}))
        scan = io.read(path)
        assert scan.shape == named
        assert any(sidecar in note for note in scan.notes)
        (tmp_path / sidecar).unlink()
    np.savez(path, kspace=kspace, axes=np.array(["y", "x", "coil"]))
    assert io.read(path).shape == named
    np.savez(path, kspace=kspace, axes="y,x,coil")
    assert io.read(path).shape == named
    for meta in ('{"axes": ["y", "x", "coil"]}', "scanner raw; axes: (y, x, coil); orthonormal", "axes = y x coil"):
        np.savez(path, kspace=kspace, meta=meta)
        assert io.read(path).shape == named
    # The option wins over what the file says.
    assert io.read(path, axes="slice,y,x").shape == {"slice": 6, "coil": 1, "y": 5, "x": 4}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 64, 64), {"coil": 16, "y": 64, "x": 64}),
        ((7, 256, 216), {"coil": 7, "y": 256, "x": 216}),
        ((332, 640), {"coil": 1, "y": 332, "x": 640}),
        ((64, 64, 64), None),
        ((256, 216, 7), None),
        ((8, 20, 20), None),
        ((2, 8, 64, 64), None),
        ((100,), None),
    ],
)
def test_shapes_are_read_or_asked_about(
    tmp_path: Path, shape: tuple[int, ...], expected: dict[str, int] | None
) -> None:
    np.save(tmp_path / "k.npy", random(*shape))
    if expected is None:
        with pytest.raises(InputError, match="not known") as error:
            io.read(tmp_path / "k.npy")
        assert "--axes" in str(error.value)
    else:
        scan = io.read(tmp_path / "k.npy")
        assert scan.shape == expected
        assert any("--axes" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("coil,y", "x"),
        ("coil,y,y", "once"),
        ("coil,y,q", "q"),
        ("slize,y,x", "did you mean 'slice'"),
        ("y,x", "2 axes"),
        ("slice,coil,y,x", "4 axes"),
        ("", "not the name"),
    ],
)
def test_axes_that_cannot_be_meant(tmp_path: Path, axes: str, words: str) -> None:
    for path, write in ((tmp_path / "k.npy", np.save), (tmp_path / "k.cfl", None), (tmp_path / "k.h5", None)):
        kspace = random(4, 8, 9)
        if write is not None:
            write(path, kspace)
        else:
            io.write_kspace(path, kspace, axes="coil,y,x")
        if path.suffix == ".cfl" and axes == "slice,coil,y,x":
            continue  # Dimensions of length 1 follow any BART array.
        with pytest.raises(UsageError) as error:
            io.read(path, axes=axes)
        assert words in str(error.value) or path.suffix == ".cfl"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4, 20, 16), {"slice": 3, "coil": 4, "y": 20, "x": 16}),
        ((40, 32), {"coil": 1, "y": 40, "x": 32}),
        ((4, 40, 32), None),
        ((3, 64, 64, 8), None),
        ((2, 3, 4, 20, 16), None),
    ],
)
def test_hdf5_without_any_sign_of_its_axes(
    tmp_path: Path, shape: tuple[int, ...], expected: dict[str, int] | None
) -> None:
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = random(*shape)
    if expected is None:
        with pytest.raises(InputError, match="not known"):
            io.read(tmp_path / "k.h5")
    else:
        assert io.read(tmp_path / "k.h5").shape == expected


def test_which_array_is_kspace(tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(path, KSP=random(4, 40, 40), other=random(2, 40, 40))
    scan = io.read(path)
    assert scan.coils == 4
    assert any("other" in note for note in scan.notes)
    assert io.read(path, dataset="other").coils == 2
    np.savez(path, data=random(4, 40, 40), trajectory=np.zeros((3, 5)))
    assert io.read(path).coils == 4
    np.savez(path, first=random(4, 40, 40), second=random(2, 40, 40))
    with pytest.raises(InputError, match="several arrays") as error:
        io.read(path)
    assert "first" in str(error.value)
    assert "--dataset first" in str(error.value)
    with pytest.raises(InputError, match="no array 'third'"):
        io.read(path, dataset="third")


# BART ----------------------------------------------------------------------------------------------------------------

needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def bart(folder: Path, *arguments: str) -> None:
    subprocess.run(["bart", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@needs_bart
def test_bart_reads_what_we_write(tmp_path: Path) -> None:
    kspace = random(3, 2, 9, 8)
    io.write_kspace(tmp_path / "k.cfl", kspace)
    assert CflStore(tmp_path / "k").dims == (9, 8, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3)
    bart(tmp_path, "scale", "2", "k", "double")
    # Slice 1, coil 1, row 4, column 5, in BART's order of dimensions.
    bart(tmp_path, *["slice", "13", "1", "3", "1", "0", "4", "1", "5", "k", "sample"])
    doubled = io.read(tmp_path / "double.hdr")
    for item in range(3):
        np.testing.assert_array_equal(doubled.kspace(item), 2 * kspace[item])
    np.testing.assert_array_equal(CflStore(tmp_path / "sample").read().ravel(), [kspace[1, 1, 4, 5]])


@needs_bart
def test_we_read_what_bart_writes(tmp_path: Path) -> None:
    bart(tmp_path, "phantom", "-k", "-s", "4", "-x", "33", "k")
    bart(tmp_path, "fft", "-i", "-u", "3", "k", "coils")
    bart(tmp_path, "rss", "8", "coils", "image")
    scan = io.read(tmp_path / "k")
    assert scan.shape == {"coil": 4, "y": 33, "x": 33}
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan.kspace(0), axes=(1, 2)), norm="ortho"), axes=(1, 2))
    found = io.read_image(tmp_path / "image")
    np.testing.assert_allclose(np.linalg.norm(image, axis=0), found[0], atol=1e-4 * found.max())
    with pytest.raises(InputError, match="has 4 coils"):
        io.read_image(tmp_path / "coils")
    bart(tmp_path, "ecalib", "-m", "2", "-r", "20", "k", "maps")
    maps = io.read(tmp_path / "k", maps=tmp_path / "maps").maps(0)
    assert maps is not None
    assert maps.shape == (2, 4, 33, 33)
    with pytest.raises(InputError, match="sets of maps"):
        io.read(tmp_path / "maps.cfl")


@pytest.mark.parametrize(
    ("dims", "axes", "expected"),
    [
        ("1 9 8 3", None, {"coil": 3, "y": 9, "x": 8}),
        ("9 1 8 3", None, {"coil": 3, "y": 9, "x": 8}),
        ("27 8 1 1", None, {"coil": 1, "y": 27, "x": 8}),
        ("6 4 3 3", None, {"coil": 3, "z": 6, "y": 4, "x": 3}),
        ("216", None, {"coil": 1, "y": 216, "x": 1}),
        ("9 8 1 1 1 3", None, {"echo": 3, "coil": 1, "y": 9, "x": 8}),
        ("9 2 1 1 1 1 1 1 1 1 3 1 1 4 1 1", None, {"repetition": 3, "slice": 4, "coil": 1, "y": 9, "x": 2}),
        ("9 8 3", "y,x,slice", {"slice": 3, "coil": 1, "y": 9, "x": 8}),
    ],
)
def test_bart_dimensions(tmp_path: Path, dims: str, axes: str | None, expected: dict[str, int]) -> None:
    lengths = [int(word) for word in dims.split()]
    values = random(216)
    (tmp_path / "k.hdr").write_text(f"# Dimensions\n{dims} \n# Command\nphantom k \n")
    values.tofile(tmp_path / "k.cfl")
    scan = io.read(tmp_path / "k.cfl", axes=axes)
    assert scan.shape == expected
    fastest = values.reshape(lengths, order="F")
    total = sum(float(np.sum(scan.kspace(i) ** 2).real) for i in range(len(scan)))
    assert total == pytest.approx(float(np.sum(fastest**2).real), rel=1e-5)
    first = scan.kspace(0)
    assert first[(0,) * first.ndim] == values[0]
    assert first.reshape(len(first), -1).size * len(scan) == 216


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 7, 5), (2, 4, 5, 6)])
def test_image_round_trip(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    images = random(*shape)
    path = tmp_path / f"out.{suffix}"
    written = io.write_image(path, images, sidecar={"method": "cs", "lambda": np.float32(0.25)})
    np.testing.assert_allclose(io.read_image(path), np.abs(images), rtol=1e-6)
    sidecar = json.loads(io.sidecar_path(path).read_text())
    assert sidecar["method"] == "cs"
    assert sidecar["lambda"] == 0.25
    assert [o["file"] for o in sidecar["outputs"]] == [w.name for w in written]
    assert [o["sha256"] for o in sidecar["outputs"]] == [io.sha256(w) for w in written]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(w.name for w in written), f"out.{suffix}.json"])


def test_hdf5_images_as_promised(tmp_path: Path) -> None:
    images = random(2, 5, 6)
    io.write_image(tmp_path / "out.h5", images, keep_complex=True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_allclose(file["reconstruction"][:], np.abs(images), rtol=1e-6)
        np.testing.assert_array_equal(file["reconstruction_complex"][:], images)


def test_png_values(tmp_path: Path) -> None:
    images = np.linspace(0, 2, 2 * 6 * 5).reshape(2, 6, 5)
    written = io.write_image(tmp_path / "out.png", images, sidecar={})
    assert [p.name for p in written] == ["out_000.png", "out_001.png"]
    for page, path in zip(images, written, strict=True):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), np.rint(page / 2 * 255))
    assert [p.name for p in io.write_image(tmp_path / "one.png", images[:1])] == ["one.png"]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    kspace = random(2, 2, 8, 8)
    for suffix in ("h5", "npz", "cfl"):
        hashes = set()
        for name in ("a", "b"):
            path = tmp_path / f"{name}.{suffix}"
            io.write_kspace(path, kspace, attributes={"acquisition": "T2"} if suffix != "cfl" else None)
            hashes.add(io.sha256(path))
            time.sleep(0.01)
        assert len(hashes) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl", "png"])
def test_a_result_that_is_not_numbers_is_not_written(tmp_path: Path, value: float, suffix: str) -> None:
    images = np.ones((1, 4, 4))
    images[0, 1, 2] = value
    with pytest.raises(SignalError, match="NaN or infinite"):
        io.write_image(tmp_path / f"out.{suffix}", images)
    assert list(tmp_path.iterdir()) == []


# Whole or not at all -------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    path.chmod(0o640)

    def fail() -> None:
        with io.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "before"
    with io.atomic_path(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import sys, numpy as np
from mrirecon.io import write_kspace
path = sys.argv[1]
number = 0
while True:
    number = number % 4 + 1
    write_kspace(path, np.full((1, 2, 100 * number, 50), number, np.complex64), sidecar={"number": number})
    print("ready", flush=True)
"""


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
def test_a_kill_while_writing_leaves_the_file_before_or_after(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"k.{suffix}"
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.03 + 0.05 * rng.random())
            child.send_signal(signal.SIGKILL)
        if suffix == "cfl" and not path.with_suffix(".hdr").exists():
            # Between its two renames, a pair may lack its header, but it is never wrong.
            continue
        kspace = io.read(path).kspace(0)
        number = kspace[0, 0, 0].real
        assert (kspace == number).all()
        assert kspace.shape == (2, 100 * number, 50)
        seen += 1
    assert seen


def test_a_pair_whose_second_half_cannot_be_moved_is_put_back(tmp_path: Path) -> None:
    io.write_kspace(tmp_path / "k.cfl", random(1, 2, 4, 4))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "new").write_bytes(b"new")
    targets, new = [tmp_path / "k.cfl", tmp_path / "k.hdr"], [tmp_path / "new", tmp_path / "gone"]
    with pytest.raises(FileNotFoundError):
        move(targets, new, [], never_mixed=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io.write_json(tmp_path / "a.json", {})
    with io.atomic_path(tmp_path / "b") as temporary:
        host = temporary.name.split("-")[1]
        temporary.write_text("")
    dead = int(script("import os; print(os.getpid())").stdout)
    old, new, living = (tmp_path / f".mrirecon-{host}-{pid}-{n}.tmp" for n, pid in enumerate((dead, dead, 1)))
    for path in (old, new, living):
        path.write_text("half")
    for path in (old, living):
        os.utime(path, (time.time() - 3600,) * 2)
    io.write_json(tmp_path / "c.json", {})
    assert old.exists(), "a process looks once in ten minutes, for a folder may hold thousands"
    monkeypatch.setattr("mrirecon.io.safe.atomic._CLEANED", {})
    io.write_json(tmp_path / "c.json", {})
    assert not old.exists()
    assert new.exists()
    assert living.exists()


FULL = """
import resource, sys, numpy as np
from mrirecon import io
from mrirecon.errors import MriReconError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    io.write_kspace(sys.argv[1], np.ones((1, 2, 400, 400), np.complex64), sidecar={})
except MriReconError as error:
    print(type(error).__name__, error.exit_code, error.why)
"""


@pytest.mark.parametrize("suffix", ["h5", "npz", "cfl"])
def test_a_file_that_cannot_be_finished_is_not_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"k.{suffix}"
    io.write_kspace(path, random(1, 1, 4, 4))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    child = script(FULL, path)
    assert child.stdout.startswith("ResourceError 5 File too large"), child.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as error:
        io.write_image(tmp_path / "file" / "out.h5", np.ones((1, 4, 4)))
    assert error.value.exit_code == 5
    with pytest.raises(UsageError, match="is a folder"):
        io.write_image(tmp_path, np.ones((1, 4, 4)), format="h5")
    with pytest.raises(UsageError, match="cannot be written"):
        io.write_image(tmp_path / ("n" * 300 + ".h5"), np.ones((1, 4, 4)))
    with pytest.raises(UsageError, match="format"):
        io.write_image(tmp_path / "out.jpg", np.ones((1, 4, 4)))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="could not be written"):
        io.write_json(folder / "a.json", {})


@pytest.mark.parametrize("how", ["same", "relative", "symlink", "hardlink", "cfl by another name", "sidecar"])
def test_an_input_is_never_overwritten(tmp_path: Path, how: str) -> None:
    kspace = random(1, 2, 8, 8)
    source = tmp_path / ("in.cfl" if how == "cfl by another name" else "in.h5")
    io.write_kspace(source, kspace)
    target, sidecar = source, None
    if how == "relative":
        target = tmp_path / "sub" / ".." / "in.h5"
        (tmp_path / "sub").mkdir()
    elif how == "symlink":
        target = tmp_path / "link.h5"
        target.symlink_to(source)
    elif how == "hardlink":
        target = tmp_path / "link.h5"
        os.link(source, target)
    elif how == "cfl by another name":
        target = tmp_path / "in"
    elif how == "sidecar":
        source.rename(tmp_path / "out.h5.json")
        source, target, sidecar = tmp_path / "out.h5.json", tmp_path / "out.h5", {}
    before = source.read_bytes()
    with pytest.raises(UsageError, match="is an input"):
        io.write_image(
            target, np.ones((1, 4, 4)), format="cfl" if "cfl" in how else "h5", sidecar=sidecar, inputs=[source]
        )
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\\b\\..\\c.h5", "c.h5"),
        ("/", "item"),
        ("..", "item"),
        ("", "item"),
        (".hidden", "hidden"),
        ("brain\n\x1b[31m<T2>", "brain__[31m_T2_"),
        ("é" * 300, "é" * 100),
        ("ok name-1.h5", "ok name-1.h5"),
    ],
)
def test_names_from_inside_files_stay_names(text: str, name: str) -> None:
    assert io.safe_name(text) == name


def test_json_is_plain(tmp_path: Path) -> None:
    content = {"a": np.float64(0.5), "b": np.arange(3), "c": Path("x"), "d": (1, 2), "e": "é"}
    io.write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 0.5, "b": [0, 1, 2], "c": "x", "d": [1, 2], "e": "é"}
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises(UsageError, match="JSON"):
            io.write_json(tmp_path / "a.json", bad)
    assert json.loads((tmp_path / "a.json").read_text())["a"] == 0.5


# Info and real data --------------------------------------------------------------------------------------------------


def test_describe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    decay = np.exp(-np.abs(np.arange(32) - 16) / 4)
    mask = rng.random(32) < 0.3
    mask[12:20] = True
    kspace = random(4, 3, 32, 32) * decay * decay[:, None] * mask
    kspace[2] = 0
    io.write_kspace(tmp_path / "k.h5", kspace, mask=mask, reference=np.ones((4, 32, 32)))
    info = io.describe(tmp_path / "k.h5", check=True)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    assert info["layout"] == "slice,coil,y,x"
    assert info["shape"] == {"slice": 4, "coil": 3, "y": 32, "x": 32}
    assert info["values"] == {
        "items_checked": 4,
        "not_finite": 0,
        "zero_items": 1,
        "largest": pytest.approx(float(np.abs(kspace).max())),
    }
    info = io.describe(tmp_path / "k.h5", dataset="kspace")
    kspace[2] = kspace[0]
    io.write_kspace(tmp_path / "k.h5", kspace, mask=mask, reference=np.ones((4, 32, 32)))
    info = io.describe(tmp_path / "k.h5")
    sampling, calibration, peak = info["sampling"], info["calibration"], info["peak"]
    assert isinstance(sampling, dict)
    assert isinstance(calibration, dict)
    assert isinstance(peak, dict)
    assert sampling["pattern"] == "lines, undersampled along x"
    assert sampling["source"] == "file"
    assert sampling["acceleration"] == pytest.approx(32 / mask.sum())
    assert calibration["y"] == {"start": 0, "size": 32}
    assert calibration["x"]["size"] >= 8
    assert peak["centred"]
    assert info["reference"] == {"name": "reconstruction_rss", "shape": [4, 32, 32]}
    # Corner-centred data, NaN and infinity are reported and do not stop it.
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    shifted[1, 0, 3, 4] = np.nan
    io.write_kspace(tmp_path / "s.h5", shifted)
    info = io.describe(tmp_path / "s.h5")
    assert any("fftshift" in note for note in info["notes"])  # type: ignore[attr-defined]
    assert any("1 values are NaN" in note for note in info["notes"])  # type: ignore[attr-defined]


def test_info_needs_no_torch(tmp_path: Path) -> None:
    io.write_kspace(tmp_path / "k.h5", random(6, 8, 128, 128))
    code = """
import sys
from mrirecon import io
io.describe(sys.argv[1])
print(sorted({"torch", "scipy", "PIL", "matplotlib"} & set(sys.modules)))
"""
    child = script(code, tmp_path / "k.h5")
    assert child.stdout == "[]\n", child.stderr


@pytest.mark.parametrize("path", SCANS, ids=lambda p: p.stem if p else "none")
def test_real_scans(path: Path) -> None:
    scan = io.read(path)
    with np.load(path) as archive:
        stored, others = archive["kspace"], set(archive.files)
    np.testing.assert_array_equal(scan.kspace(0).squeeze(), stored)
    assert scan.coils == (stored.shape[0] if stored.ndim == 3 else 1)
    assert any("--axes" in note for note in scan.notes)
    assert (scan.calibration is not None) == ("ref" in others)
    if "mask" not in others:
        np.testing.assert_array_equal(scan.mask(0), (scan.kspace(0) != 0).any(0))
    info = io.describe(path)
    peak = info["peak"]
    assert isinstance(peak, dict)
    assert peak["centred"]
    explicit = io.read(path, axes="coil,y,x" if stored.ndim == 3 else "y,x")
    assert explicit.shape == scan.shape
    assert not any("--axes" in note for note in explicit.notes)
