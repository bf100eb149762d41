"""Test hostile, damaged and meaningless files: a typed error with the cause, and an unchanged input.

Each row of the fault list is one case; the files are made by code.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon import io
from mrirecon.errors import InputError, MriReconError, SignalError, UnsafeContentError

Build = Callable[[Path], Path]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def consume(path: Path, **options: str | Path) -> io.Scan:
    """Read everything there is to a scan."""
    scan = io.read(path, **options)  # type: ignore[arg-type]
    for item in range(len(scan)):
        scan.kspace(item)
        scan.mask(item)
        scan.maps(item)
    _ = scan.reference, scan.calibration
    return scan


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return bytes, inode and modification time of every ordinary file below a folder."""
    return {str(p): (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def refused(path: Path, error: type[MriReconError], words: str, **options: str | Path) -> MriReconError:
    """Check that reading and describing `path` fail with `error` and `words`, and change nothing."""
    before = snapshot(path.parent)
    with pytest.raises(error, match=words) as caught:
        consume(path, **options)
    assert caught.value.what
    assert caught.value.exit_code in (3, 6)
    assert snapshot(path.parent) == before
    return caught.value


# Containers ----------------------------------------------------------------------------------------------------------


def plain(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


NOT_DATA: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty .0 bytes"),
    "web page": (b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", "a web page"),
    "indented web page": (b"\xef\xbb\xbf \n <HTML><head></head></HTML>", "a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "text": (b"Dear user, the file you asked for", "plain text"),
    "json": (b'{"error": 404}', "JSON"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(50), "gzip"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
    "dicom": (bytes(128) + b"DICM" + bytes(50), "DICOM"),
    "nifti": (bytes(344) + b"n+1\0" + bytes(50), "NIfTI"),
    "matlab": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200), "MATLAB v5"),
    "pickle": (b"\x80\x04\x95\x10\x00", "pickle"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "noise": (bytes(range(200, 256)) * 20, "unknown binary"),
}


@pytest.mark.parametrize("name", NOT_DATA)
@pytest.mark.parametrize("suffix", ["h5", "npz", "npy", "dat"])
def test_a_file_of_another_kind(tmp_path: Path, name: str, suffix: str) -> None:
    content, words = NOT_DATA[name]
    path = plain(tmp_path, f"scan.{suffix}", content)
    error = refused(path, InputError, "is not one of|is empty")
    assert words.replace(".", "(") in str(error)
    assert str(len(content)) in str(error)
    with pytest.raises(InputError), io.open_hdf5(path):
        pass


def good(folder: Path, suffix: str) -> Path:
    """Write a good scan with 2 slices, 3 coils and all that may lie beside it."""
    path = folder / f"good.{suffix}"
    k = random(2, 3, 24, 20)
    if suffix == "npy":
        np.save(path, k[0].repeat(2, 1).repeat(2, 2))
    elif suffix == "cfl":
        io.write_kspace(path, k)
    else:
        io.write_kspace(path, k, mask=np.ones(20), reference=np.abs(k[:, 0]), maps=k[:, None])
    consume(path)
    return path


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["h5", "npz", "npy", "cfl"])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = good(tmp_path, suffix)
    size = path.stat().st_size
    os.truncate(path, int(size * part))
    error = refused(path, InputError, "truncated|damaged|is not|npy")
    if part > 0.1 and suffix != "npz":
        assert "truncated" in error.what
        assert str(int(size * part)) in str(error)
        assert str(size) in str(error)


@pytest.mark.parametrize("kind", ["fletcher32", "gzip"])
def test_a_flipped_bit_under_a_checksum(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        options = {"fletcher32": True} if kind == "fletcher32" else {"compression": "gzip"}
        dataset = file.create_dataset("kspace", data=random(1, 2, 32, 32), chunks=(1, 2, 32, 32), **options)
        where = dataset.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 0x10
    path.write_bytes(content)
    refused(path, InputError, "checksum or filter failed")


def test_a_flipped_bit_in_npz_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = good(tmp_path, "npz")
    content = bytearray(path.read_bytes())
    content[2000] ^= 0x10
    path.write_bytes(content)
    refused(path, InputError, "damaged")


def test_chunks_that_were_never_written_are_told_of(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "k.h5", "w") as file:
        dataset = file.create_dataset("kspace", (4, 2, 16, 16), np.complex64, chunks=(1, 2, 16, 16))
        dataset[:3] = random(3, 2, 16, 16)
    scan = io.read(tmp_path / "k.h5")
    assert any("1 chunks" in note for note in scan.notes)
    scan.kspace(0)
    with pytest.raises(SignalError, match="zero everywhere") as error:
        scan.kspace(3)
    assert "slice 3" in str(error.value)


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = good(tmp_path, "h5")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(path, InputError, "being written")
    consume(path)


def test_a_file_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    for suffix in ("h5", "npz", "npy", "cfl"):
        path = good(tmp_path, suffix)
        scan = io.read(path)
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(InputError, match="has changed"):
            scan.kspace(0)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "socket", "device", "loop", "nul", "long"])
def test_what_is_not_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "scan.h5"
    words = "not an ordinary file"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "missing":
            (tmp_path / "scam.h5").write_bytes(b"x")
            words = "does not exist"
        elif kind == "folder":
            path.mkdir()
            words = "is a folder"
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            short = Path(os.path.relpath(path))
            server.bind(str(short if len(str(short)) < len(str(path)) else path))
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "loop":
            path.symlink_to(path)
            words = "cannot be opened"
        elif kind == "nul":
            path, words = tmp_path / "a\0b.h5", "cannot be opened"
        else:
            path, words = tmp_path / ("n" * 400), "cannot be opened"
        with pytest.raises(InputError, match=words) as error:
            io.read(path)
        if kind == "missing":
            assert "did you mean" in str(error.value)
            assert not path.exists()


@pytest.mark.parametrize(
    "name", ["a b.h5", "é中文.h5", "scan.h5.h5", "scan.npz", "scan", ".h5", "-o.h5", "n" * 255, "a\nb.h5"]
)
def test_odd_names_and_links_are_read_by_content(tmp_path: Path, name: str) -> None:
    source = good(tmp_path, "h5")
    target = tmp_path / name
    source.rename(target)
    consume(target)
    link = tmp_path / "link"
    link.symlink_to(target)
    consume(link)


# HDF5 that reaches outside -------------------------------------------------------------------------------------------


def other_file(folder: Path) -> Path:
    """Return a file that must not be opened: opening it would find it locked, and a read would change the outcome."""
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = random(2, 3, 16, 16)
        file["group/kspace"] = random(2, 3, 16, 16)
    return path


def external_link(folder: Path, file: h5py.File) -> None:
    file["kspace"] = h5py.ExternalLink(str(other_file(folder)), "/kspace")


def external_link_beside(folder: Path, file: h5py.File) -> None:
    file["kspace"] = random(2, 3, 16, 16)
    file["mask"] = h5py.ExternalLink(str(other_file(folder)), "/kspace")


def soft_link_through_external(folder: Path, file: h5py.File) -> None:
    file["away"] = h5py.ExternalLink(str(other_file(folder)), "/group")
    file["kspace"] = h5py.SoftLink("/away/kspace")


def external_storage(folder: Path, file: h5py.File) -> None:
    raw = plain(folder, "raw", random(2, 3, 16, 16).tobytes())
    file.create_dataset("kspace", (2, 3, 16, 16), np.complex64, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(folder: Path, file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3, 16, 16), np.complex64)
    layout[:] = h5py.VirtualSource(str(other_file(folder)), "kspace", (2, 3, 16, 16))
    file.create_virtual_dataset("kspace", layout)


def virtual_through_external_link(folder: Path, file: h5py.File) -> None:
    file["away"] = h5py.ExternalLink(str(other_file(folder)), "/kspace")
    layout = h5py.VirtualLayout((2, 3, 16, 16), np.complex64)
    layout[:] = h5py.VirtualSource(".", "away", (2, 3, 16, 16))
    file.create_virtual_dataset("kspace", layout)


def plugin_filter(_: Path, file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 3, 16, 16))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((2, 3, 16, 16))
    dataset = h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype("c8"), logical=True), space, properties)
    h5py.Dataset(dataset)[:] = random(2, 3, 16, 16)


def doctype(_: Path, file: h5py.File) -> None:
    file["kspace"] = random(2, 3, 16, 16)
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    file["ismrmrd_header"] = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "x">{entities}]><x>&e9;</x>'


REACHING = {
    external_link: "links to another file",
    external_link_beside: "links to another file",
    soft_link_through_external: "links to another file",
    external_storage: "stores its data in another file",
    virtual_dataset: "virtual dataset that refers to other files",
    virtual_through_external_link: "links to another file",
    plugin_filter: "filter that is not built in",
    doctype: "document type",
}


@pytest.mark.parametrize("build", REACHING, ids=lambda b: b.__name__)
def test_a_file_that_reaches_outside_itself(tmp_path: Path, build: Callable[[Path, h5py.File], None]) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        build(tmp_path, file)
    error = refused(path, UnsafeContentError, REACHING[build])
    assert error.exit_code == 6
    assert error.fix


def test_an_external_link_in_the_middle_of_a_path(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        file["away"] = h5py.ExternalLink(str(other_file(tmp_path)), "/group")
    with pytest.raises(UnsafeContentError, match="links to another file"):
        io.read(path, dataset="away/kspace")
    with io.open_hdf5(path) as opened, pytest.raises(UnsafeContentError):
        opened["away/kspace"]
    with io.open_hdf5(path) as opened:
        assert "away" in opened
        assert "away/kspace" not in opened


def test_links_and_virtual_datasets_inside_the_file_are_followed(tmp_path: Path) -> None:
    path, kspace = tmp_path / "k.h5", random(2, 3, 16, 16)
    with h5py.File(path, "w") as file:
        file["a/b/data"] = kspace
        file["a/soft"] = h5py.SoftLink("b/data")
        file["kspace"] = h5py.SoftLink("/a/soft")
        layout = h5py.VirtualLayout((2, 3, 16, 16), np.complex64)
        layout[:] = h5py.VirtualSource(".", "a/b/data", (2, 3, 16, 16))
        file.create_virtual_dataset("virtual", layout)
    np.testing.assert_array_equal(io.read(path).kspace(1), kspace[1])
    np.testing.assert_array_equal(io.read(path, dataset="virtual").kspace(1), kspace[1])
    np.testing.assert_array_equal(io.read(path, dataset="a/b/data").kspace(0), kspace[0])


def dangling(_: Path, file: h5py.File) -> None:
    file["kspace"] = h5py.SoftLink("/nowhere")


def circle(_: Path, file: h5py.File) -> None:
    file["kspace"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/kspace")


def missing_source(_: Path, file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3, 16, 16), np.complex64)
    layout[:] = h5py.VirtualSource(".", "nowhere", (2, 3, 16, 16))
    file.create_virtual_dataset("kspace", layout)


def own_source(_: Path, file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 3, 16, 16), np.complex64)
    layout[:] = h5py.VirtualSource(".", "kspace", (2, 3, 16, 16))
    file.create_virtual_dataset("kspace", layout)


def a_group(_: Path, file: h5py.File) -> None:
    file.create_group("kspace")


def nothing(_: Path, file: h5py.File) -> None:
    file.attrs["empty"] = 1


def images_only(_: Path, file: h5py.File) -> None:
    file["reconstruction"], file["other"] = np.ones((2, 8, 8)), np.ones(3)


def raw_data(_: Path, file: h5py.File) -> None:
    file["dataset/data"], file["dataset/xml"] = np.ones(3), "<x/>"


def shape_bomb(_: Path, file: h5py.File) -> None:
    file.create_dataset("kspace", (1_000_000, 8, 1000, 1000), np.complex64, chunks=(1, 1, 100, 100), compression=9)


def shape_bomb_contiguous(_: Path, file: h5py.File) -> None:
    file.create_dataset("kspace", (100, 8, 100_000, 1000), np.complex64)


def item_bomb(_: Path, file: h5py.File) -> None:
    file.create_dataset("kspace", (1, 8, 7000, 7000), np.complex64, chunks=(1, 1, 100, 100), compression=9)


def chunk_bomb(_: Path, file: h5py.File) -> None:
    chunks = (1, 8, 8000, 8000)
    options = {"maxshape": (None,) * 4, "chunks": chunks, "compression": 1}
    file.create_dataset("kspace", (1, 8, 16, 16), np.complex64, **options)


def objects(_: Path, file: h5py.File) -> None:
    file.create_dataset("kspace", (2, 3), h5py.ref_dtype)


def ragged(_: Path, file: h5py.File) -> None:
    file.create_dataset("kspace", (2, 3), h5py.vlen_dtype(np.float32))


def strings(_: Path, file: h5py.File) -> None:
    file["kspace"] = np.array([["1+2j"] * 3] * 2, dtype="S8")


def three_fields(_: Path, file: h5py.File) -> None:
    file["kspace"] = np.zeros((2, 3, 8, 8), [("real", "f4"), ("imag", "f4"), ("weight", "f4")])


def padded_fields(_: Path, file: h5py.File) -> None:
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    kind.insert(b"r", 0, h5py.h5t.IEEE_F32LE)
    kind.insert(b"i", 8, h5py.h5t.IEEE_F32LE)
    h5py.h5d.create(file.id, b"kspace", kind, h5py.h5s.create_simple((2, 3, 8, 8)))


def real_values(_: Path, file: h5py.File) -> None:
    file["kspace"] = np.ones((2, 3, 8, 8), np.float32)


def real_pairs(_: Path, file: h5py.File) -> None:
    file["kspace"] = np.ones((2, 3, 8, 8, 2), np.int16)


def no_slices(_: Path, file: h5py.File) -> None:
    file["kspace"] = np.zeros((0, 3, 8, 8), np.complex64)


def an_empty_dataset(_: Path, file: h5py.File) -> None:
    file["kspace"] = h5py.Empty("c8")


def coils_last(_: Path, file: h5py.File) -> None:
    file["kspace"] = random(3, 64, 64, 8)


def matlab(_: Path, file: h5py.File) -> None:
    file["kspace"] = random(3, 8, 20, 24)
    file["kspace"].attrs["MATLAB_class"] = np.bytes_("double")


def wrong_axes_attribute(_: Path, file: h5py.File) -> None:
    file["kspace"] = random(3, 8, 20, 24)
    file["kspace"].attrs["axes"] = "coil,y,x"


def two_candidates(_: Path, file: h5py.File) -> None:
    file["a"], file["b"] = random(3, 8, 20, 24), random(3, 8, 20, 24)


def bad_maps(_: Path, file: h5py.File) -> None:
    file["kspace"], file["maps"] = random(3, 8, 20, 24), random(3, 1, 7, 20, 24)


def maps_in_two_ways(_: Path, file: h5py.File) -> None:
    file["kspace"], file["maps"] = random(2, 8, 20, 24), random(2, 8, 20, 24)


def nan_reference(_: Path, file: h5py.File) -> None:
    file["kspace"], file["reference"] = random(2, 8, 20, 24), np.full((2, 20, 24), np.nan)


def nan_maps(_: Path, file: h5py.File) -> None:
    file["kspace"], file["maps"] = random(1, 8, 20, 24), np.full((1, 8, 20, 24), np.nan + 0j)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (dangling, "link without a target"),
        (circle, "circular links"),
        (missing_source, "link without a target"),
        (own_source, "virtual dataset inside another"),
        (a_group, "no k-space"),
        (nothing, "no k-space"),
        (images_only, "no k-space"),
        (raw_data, "does not hold ISMRMRD acquisitions"),
        (shape_bomb, "larger than its file can hold"),
        (shape_bomb_contiguous, "larger than its file can hold"),
        (item_bomb, "larger than its file can hold"),
        (chunk_bomb, "larger than its file can hold"),
        (objects, "must be complex"),
        (ragged, "must be complex"),
        (strings, "must be complex"),
        (three_fields, "must be complex"),
        (padded_fields, "number type"),
        (real_values, "must be complex"),
        (real_pairs, "must be complex"),
        (no_slices, "no slice"),
        (an_empty_dataset, "is empty"),
        (coils_last, "axes of an array of shape"),
        (matlab, "axes of an array of shape"),
        (wrong_axes_attribute, "3 axes are named for an array of 4"),
        (two_candidates, "several arrays"),
        (bad_maps, "maps do not match k-space"),
        (maps_in_two_ways, "maps do not match k-space"),
        (nan_reference, "NaN or infinite"),
        (nan_maps, "NaN or infinite"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_hdf5_that_makes_no_sense(tmp_path: Path, build: Callable[[Path, h5py.File], None], words: str) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        build(tmp_path, file)
    error = refused(path, InputError, words)
    if build is matlab:
        assert "reverse" in str(error)
    if build is real_pairs:
        assert "1j" in str(error)


def test_many_names_and_attributes_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(10_001):
            file.id.links.create_soft(b"n%d" % number, b"/x")
    refused(path, InputError, "lists 10001 names")
    with h5py.File(path, "w") as file:
        file["kspace"] = random(1, 2, 8, 8)
        file.attrs["source"] = "x" * 60_000
        file.attrs["seed"] = np.arange(1000)
    scan = consume(path)
    assert len(str(scan.attributes["source"])) == 300
    assert "seed" not in scan.attributes


# npz and npy ---------------------------------------------------------------------------------------------------------


def npy_header(text: str, version: bytes = b"\x01\x00", data: bytes = b"") -> bytes:
    header = text.encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def zipped(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "k.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


C8 = "{'descr': '<c8', 'fortran_order': False, 'shape': (%s), }\n"


class Runs:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy_header(C8 % "1, -1, 8"), "impossible lengths"),
        (npy_header(C8 % "1000000, 1000000, 1000000, 10"), "truncated"),
        (npy_header(C8 % "8, 8", data=bytes(100)), "truncated"),
        (npy_header(C8 % "8, 8", version=b"\x09\x00", data=bytes(512)), "version"),
        (npy_header(C8 % "8, 8", version=b"\x03\x00", data=bytes(512)), "version"),
        (npy_header("__import__('os').system('false')\n"), "damaged"),
        (npy_header("(" * 5000), "damaged"),
        (npy_header(C8 % "True, True", data=bytes(512)), "impossible lengths|damaged"),
        (npy_header(C8 % "0, 8, 8"), "no coil"),
        (npy_header((C8 % "8, 8").replace("<c8", "<f4"), data=bytes(256)), "must be complex"),
        (npy_header((C8 % "8, 8").replace("<c8", "<U4"), data=bytes(1024)), "must be complex"),
        (npy_header((C8 % "8, 8").replace("<c8", "<V0"), data=bytes(1024)), "must be complex|damaged"),
        (b"\x93NUMPY", "damaged"),
    ],
    ids=lambda v: repr(v)[-40:] if isinstance(v, bytes) else "",
)
def test_npy_that_makes_no_sense(tmp_path: Path, content: bytes, words: str) -> None:
    path = plain(tmp_path, "k.npy", content)
    axes = {"axes": "coil,y,x"} if "no coil" in words else {}
    refused(path, InputError, words, **axes)
    refused(zipped(tmp_path, {"kspace.npy": content}), InputError, f"{words}|damaged", **axes)


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    array = np.empty((1,), object)
    array[0] = Runs(trap)
    np.save(tmp_path / "k.npy", array, allow_pickle=True)
    refused(tmp_path / "k.npy", UnsafeContentError, "Python objects")
    for name in ("kspace", "mask", "reference"):
        np.savez(tmp_path / "k.npz", **{"kspace": random(4, 40, 40), name: array})
        if name == "reference":
            assert any("Python objects" in note for note in consume(tmp_path / "k.npz").notes)
        else:
            refused(tmp_path / "k.npz", UnsafeContentError, "Python objects")
    assert not trap.exists()


def test_zip_bombs_and_strange_zips(tmp_path: Path) -> None:
    size = 300 << 20
    path = tmp_path / "k.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("kspace.npy", "w") as member:
        member.write(npy_header(C8 % f"8, {size // 8 // 8 // 1024}, 1024"))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    refused(path, InputError, "larger than its file can hold", axes="coil,y,x")
    refused(zipped(tmp_path, {"notes.txt": b"hello"}), InputError, "zip archive without arrays")
    refused(zipped(tmp_path, {"archive/data.pkl": b"x", "archive/data/0": b"y"}), InputError, "without arrays")
    good_array = npy_header(C8 % "2, 40, 40", data=random(2, 40, 40).tobytes())
    refused(zipped(tmp_path, {"kspace.npy": good_array}, zipfile.ZIP_LZMA), InputError, "numpy does not use")
    refused(zipped(tmp_path, {"kspace.npy": good_array + b"more"}), InputError, "truncated or damaged")
    refused(zipped(tmp_path, {f"a{i}.npy": b"" for i in range(10_001)}), InputError, "10001 members")
    np.testing.assert_array_equal(consume(zipped(tmp_path, {"kspace.npy": good_array})).kspace(0), random(2, 40, 40))
    consume(zipped(tmp_path, {"../../kspace.npy": good_array}))
    assert not (tmp_path.parent.parent / "kspace.npy").exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"axes": 3}', "null", "\xff"])
def test_sidecars_that_are_none(tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "k.npy", random(4, 40, 40))
    (tmp_path / "k.json").write_text(text, encoding="latin-1")
    np.testing.assert_array_equal(io.read(tmp_path / "k.npy").kspace(0), random(4, 40, 40))
    (tmp_path / "k.json").write_text(json.dumps({"axes": "coil,y,q"}))
    refused(tmp_path / "k.npy", InputError, "not the name of an axis")


# BART ----------------------------------------------------------------------------------------------------------------

HEADERS = {
    "negative": ("# Dimensions\n-1 8 1 2\n", "impossible dimensions"),
    "two negatives": ("# Dimensions\n-8 -8 1 2\n", "impossible dimensions"),
    "zero": ("# Dimensions\n0 8 1 2\n", "impossible dimensions"),
    "huge": ("# Dimensions\n1000000000 1000000000 1000000000 8\n", "impossible dimensions"),
    "overflowing": ("# Dimensions\n4294967296 4294967296\n", "impossible dimensions"),
    "endless digits": ("# Dimensions\n" + "9" * 100_000 + "\n", "not a BART header"),
    "seventeen": ("# Dimensions\n" + "1 " * 16 + "128\n", "impossible dimensions"),
    "too large": ("# Dimensions\n8 9 1 2\n", "truncated"),
    "too small": ("# Dimensions\n8 7 1 2\n", "larger than its header"),
    "words": ("# Dimensions\neight eight\n", "not a BART header"),
    "decimals": ("# Dimensions\n8.0 8.0 1 2\n", "not a BART header"),
    "no line": ("# Dimensions\n", "not a BART header"),
    "other": ("hello\n", "not a BART header"),
    "empty": ("", "is empty"),
    "binary": ("\x00\xff\x00# Dimensions", "not a BART header"),
    "megabytes": ("# Command\n" + "x" * (2 << 20), "too large"),
    "superscripts": ("# Dimensions\n8² 8\n", "not a BART header"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_bart_headers_that_make_no_sense(tmp_path: Path, name: str) -> None:
    text, words = HEADERS[name]
    (tmp_path / "k.hdr").write_text(text)
    random(128).tofile(tmp_path / "k.cfl")
    for named in ("k", "k.cfl", "k.hdr"):
        refused(tmp_path / named, InputError, words)


@pytest.mark.parametrize("suffix", ["hdr", "cfl"])
def test_half_a_bart_pair(tmp_path: Path, suffix: str) -> None:
    path = good(tmp_path, "cfl")
    path.with_suffix(f".{suffix}").unlink()
    refused(path, InputError, f"good.{suffix} is missing")


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf * 1j, complex(0, np.nan)])
def test_values_that_are_not_numbers_are_named_by_index(tmp_path: Path, value: complex) -> None:
    kspace = random(3, 2, 8, 9)
    kspace[2, 1, 3, 4] = value
    for suffix in ("h5", "npz", "cfl"):
        io.write_kspace(tmp_path / f"k.{suffix}", kspace)
        error = refused(tmp_path / f"k.{suffix}", SignalError, "NaN or infinite")
        assert "slice 2, coil 1, y 3, x 4" in str(error)
        io.read(tmp_path / f"k.{suffix}").kspace(0)


def test_kspace_of_zeros(tmp_path: Path) -> None:
    io.write_kspace(tmp_path / "k.h5", np.zeros((2, 3, 8, 8)))
    refused(tmp_path / "k.h5", SignalError, "zero everywhere")
    assert io.describe(tmp_path / "k.h5")["sampling"] is None


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_scale_is_kept(tmp_path: Path, scale: float, dtype: type) -> None:
    kspace = random(2, 3, 16, 16).astype(dtype) * scale
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = kspace
    np.testing.assert_allclose(io.read(tmp_path / "k.h5").kspace(1), kspace[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "words"), [(1e-60, "too small"), (1e-35, "scale"), (1e33, "scale"), (1e200, "single")]
)
def test_scales_that_single_precision_cannot_hold(tmp_path: Path, scale: float, words: str) -> None:
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = random(1, 2, 8, 8).astype(np.complex128) * scale
    refused(tmp_path / "k.h5", SignalError, words)


# Masks ---------------------------------------------------------------------------------------------------------------


def lines(*columns: int, width: int = 10) -> np.ndarray:
    mask = np.zeros(width, np.uint8)
    mask[list(columns)] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones(9), "does not match"),
        (np.ones(12), "fits the other axis"),
        (np.ones((10, 12)), "transpose"),
        (np.ones((3, 12, 10)), "does not match"),
        (np.ones((2, 2, 12, 10)), "does not match"),
        (np.zeros(10), "has no samples"),
        (lines(1, 2) * 2, "0 and 1"),
        (np.full(10, 0.5), "0 and 1"),
        (np.where(lines(3) > 0, np.nan, 1), "0 and 1"),
        (np.array(["1"] * 10), "holds no mask|0 and 1|does not hold"),
        (np.ones(0), "0 and 1"),
        (np.stack([np.ones((12, 10)), np.zeros((12, 10))]), "has no samples"),
    ],
    ids=str,
)
def test_masks_that_make_no_sense(tmp_path: Path, mask: np.ndarray, words: str) -> None:
    kspace = random(2, 3, 12, 10)
    io.write_kspace(tmp_path / "k.h5", kspace)
    np.save(tmp_path / "mask.npy", mask)
    error = refused(tmp_path / "k.h5", InputError, "mask|does not hold", mask=tmp_path / "mask.npy")
    assert any(word in str(error) for word in words.split("|"))
    if "fit" in words:
        assert str(mask.shape) in str(error)
        assert "y 12, x 10" in str(error)
    np.savez(tmp_path / "k.npz", kspace=kspace, axes="slice,coil,y,x", mask=mask)
    error = refused(tmp_path / "k.npz", InputError, "mask|does not hold")
    assert any(word in str(error) for word in words.split("|"))


MASK_SHAPES = [(10,), (12, 10), (1, 10), (12, 1), (2, 12, 10), (1, 1, 10, 1), (2, 1, 10)]


@pytest.mark.parametrize(
    ("suffix", "shape"), [("cfl", (12, 10)), *((s, n) for s in ("npy", "npz", "h5") for n in MASK_SHAPES)], ids=str
)
def test_a_mask_of_another_file_undersamples(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    kspace = random(2, 3, 12, 10)
    mask = np.random.default_rng(3).random(shape) < 0.5
    path = tmp_path / f"mask.{suffix}"
    if suffix == "npy":
        np.save(path, mask)
    elif suffix == "npz":
        np.savez(path, mask=mask, other=np.ones(3))
    elif suffix == "h5":
        with h5py.File(path, "w") as file:
            file["mask"] = mask
    else:
        io.write_kspace(path, mask.astype(np.complex64), axes="y,x")
    io.write_kspace(tmp_path / "k.h5", kspace, mask=np.ones(10))
    scan = io.read(tmp_path / "k.h5", mask=path)
    full = np.broadcast_to(mask.reshape(10) if shape == (1, 1, 10, 1) else mask, (2, 12, 10))
    for item in range(2):
        np.testing.assert_array_equal(scan.mask(item), full[item])
        np.testing.assert_array_equal(scan.kspace(item), kspace[item] * full[item])
    assert any("replace" in note for note in scan.notes)


def test_padded_columns_that_the_mask_calls_sampled(tmp_path: Path) -> None:
    mask = lines(0, 1, 4, 5, 6, 9)
    kspace = random(1, 3, 12, 10) * lines(4, 5, 6)
    kspace[0, :, 3, 5] = 0  # A measured zero, because its line was acquired.
    io.write_kspace(tmp_path / "k.h5", kspace, mask=mask)
    scan = io.read(tmp_path / "k.h5")
    np.testing.assert_array_equal(scan.mask(0), np.broadcast_to(lines(4, 5, 6) == 1, (12, 10)))
    assert any("50.0%" in note for note in scan.notes)
    info = io.describe(tmp_path / "k.h5")
    assert any("50.0%" in note for note in info["notes"])  # type: ignore[attr-defined]
    assert info["sampling"]["acceleration"] == pytest.approx(10 / 3)  # type: ignore[index]


def test_data_outside_the_mask_are_set_to_zero_and_told_of(tmp_path: Path) -> None:
    kspace = random(1, 3, 12, 10)
    io.write_kspace(tmp_path / "k.h5", kspace, mask=lines(1, 3, 5, 7, 9))
    scan = io.read(tmp_path / "k.h5")
    np.testing.assert_array_equal(scan.kspace(0), kspace[0] * lines(1, 3, 5, 7, 9))
    assert any("50.0%" in note and "outside" in note for note in scan.notes)


def test_an_inverted_mask_and_one_along_the_wrong_axis(tmp_path: Path) -> None:
    sampled = lines(1, 4, 5, 6)
    io.write_kspace(tmp_path / "k.h5", random(1, 3, 10, 10) * sampled, mask=1 - sampled)
    error = refused(tmp_path / "k.h5", InputError, "none of the samples")
    assert "inverted" in str(error)
    io.write_kspace(tmp_path / "k.h5", random(1, 3, 10, 10) * sampled[:, None], mask=sampled)
    error = refused(tmp_path / "k.h5", InputError, "wrong axis")
    assert "transpose" in str(error)


def test_the_data_show_what_was_sampled(tmp_path: Path) -> None:
    sampled = lines(1, 4, 5, 6)
    kspace = np.round(random(1, 1, 60, 10) * 100) * sampled
    kspace[0, 0, 7, 4] = 0
    io.write_kspace(tmp_path / "k.h5", kspace)
    np.testing.assert_array_equal(io.read(tmp_path / "k.h5").mask(0), np.broadcast_to(sampled == 1, (60, 10)))
    pattern = np.random.default_rng(0).random((60, 10)) < 0.4
    io.write_kspace(tmp_path / "k.h5", random(1, 3, 60, 10) * pattern)
    scan = io.read(tmp_path / "k.h5")
    np.testing.assert_array_equal(scan.mask(0), pattern)
    scan.mask(0)[:] = False
    np.testing.assert_array_equal(scan.mask(0), pattern)
    assert not scan.has_mask


# People --------------------------------------------------------------------------------------------------------------

HEADER = """<?xml version="1.0" encoding="utf-16"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <subjectInformation><patientName>DOE^JANE</patientName><patientID>SECRET-1</patientID></subjectInformation>
  <studyInformation><studyDate>1999-12-31</studyDate><referringPhysicianName>SECRET-2</referringPhysicianName>
  </studyInformation><measurementInformation><patientPosition>HFS</patientPosition>
  <protocolName>SECRET-3</protocolName></measurementInformation>
  <acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor><stationName>SECRET-4</stationName>
  <institutionName>SECRET-5</institutionName><systemFieldStrength_T>2.89</systemFieldStrength_T>
  </acquisitionSystemInformation>
  <encoding><trajectory>cartesian</trajectory>
    <encodedSpace><matrixSize><x>24</x><y>20</y><z>1</z></matrixSize></encodedSpace>
    <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>15</maximum><center>8</center>
    </kspace_encoding_step_1></encodingLimits></encoding>
  <sequenceParameters><TR>30</TR><TE>4.5</TE><sequence_type>SECRET-6</sequence_type></sequenceParameters>
  <userParameters><userParameterString><name>note</name><value>SECRET-7</value></userParameterString></userParameters>
</ismrmrdHeader>"""


def test_who_was_scanned_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = random(2, 3, 24, 20)
        file["ismrmrd_header"] = HEADER
        file.attrs["patient_id"] = "SECRET-8"
        file.attrs["patient_name"] = "DOE^JANE"
        file.attrs["acquisition"] = "AXT2"
    np.savez(tmp_path / "k.npz", kspace=random(3, 40, 40), meta=json.dumps({"PatientName": "DOE^JANE", "lic": "MIT"}))
    for name in ("k.h5", "k.npz"):
        scan = consume(tmp_path / name)
        shown = repr(scan) + repr(scan.attributes) + repr(scan.header) + json.dumps(io.describe(tmp_path / name))
        assert "SECRET" not in shown
        assert "DOE" not in shown
        assert "1999" not in shown
        assert any("could identify" in note for note in scan.notes)
    scan = io.read(path)
    wanted = {"acquisition": "AXT2", "vendor": "SIEMENS", "field_strength_t": "2.89", "tr": "30", "te": "4.5"}
    assert wanted.items() <= scan.attributes.items()
    # fastMRI: padding_left = encoded // 2 - center, padding_right = padding_left + maximum + 1.
    assert (scan.attributes["padding_left"], scan.attributes["padding_right"]) == (2, 18)
    assert scan.header is not None
    assert "<TR>30</TR>" in scan.header


@pytest.mark.parametrize("text", ["", "<a>", "no xml", "<a><b></a></b>", "<a>" * 5000 + "</a>" * 5000, "\ufffd\x00"])
def test_headers_that_are_not_xml_are_left_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = random(2, 3, 24, 20)
        file["ismrmrd_header"] = np.bytes_(text.encode() or b" ") if "\0" in text else text
    scan = consume(path)
    assert scan.header is None
    assert any("ismrmrd_header" in note for note in scan.notes)
