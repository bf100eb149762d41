"""Test faults of files and containers (rows F) on the command line."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon import io
from mrirecon.io.safe import sandbox
from tests.faults.conftest import scan_file
from tests.faults.rows import row
from tests.io import test_io_hostile as hostile
from tests.io.fuzz_io import KINDS, mutation
from tests.io.test_io_hostile import plain, random, snapshot


def hdf5(path: Path, build) -> Path:
    with h5py.File(path, "w") as file:
        build(path.parent, file)
    return path


@pytest.fixture
def bad(tmp_path) -> Path:
    """A folder for the file that is wrong."""
    folder = tmp_path / "bad"
    folder.mkdir()
    return folder


@row("F01")
def test_empty_file(rejects, bad, case):
    rejects(plain(bad, "bad.h5", b""), 3, "empty", "0 bytes")


@row("F02", ["web page", "text", "json", "lfs pointer", "dicom", "matlab", "pickle", "gzip"])
def test_another_kind_of_file(rejects, bad, case):
    content, words = hostile.NOT_DATA[case]
    rejects(plain(bad, "bad.h5", content), 3, words, f"{len(content)} bytes")


@row("F03", ["0.001", "0.3", "0.9", "0.999"])
def test_truncated(rejects, bad, case):
    path = scan_file(bad / "bad.h5", 2, 3, 24, 20)
    whole = path.stat().st_size
    os.truncate(path, int(float(case) * whole))
    # A thousandth of the file does not even contain the superblock.
    words = ("truncated", f"{int(float(case) * whole)} of {whole} bytes") if float(case) > 0.01 else ("damaged",)
    rejects(path, 3, *words)


@row("F04", ["fletcher32", "gzip"])
def test_flipped_bit_under_a_checksum(rejects, bad, case):
    with h5py.File(bad / "bad.h5", "w") as file:
        options = {"fletcher32": True} if case == "fletcher32" else {"compression": "gzip"}
        dataset = file.create_dataset("kspace", data=random(1, 2, 32, 32), chunks=(1, 2, 32, 32), **options)
        chunk = dataset.id.get_chunk_info(0)
    content = bytearray((bad / "bad.h5").read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    (bad / "bad.h5").write_bytes(content)
    rejects(bad / "bad.h5", 3, "checksum or filter failed")


@row("F05", ["SHA256SUMS", "sidecar", "not listed", "no list"])
def test_flipped_bit_without_a_checksum(cli, rejects, bad, case):
    """Nothing in the file can tell; a list of checksums can."""
    path = scan_file(bad / "bad.h5", sidecar={} if case == "sidecar" else None)
    listed = bad / ("bad.h5.json" if case == "sidecar" else "SHA256SUMS")
    if case == "no list":
        listed.write_text("hello\n")
        rejects(path, 3, "not a list of SHA-256", options=("--verify", listed))
        return
    if case != "sidecar":
        name = "other.h5" if case == "not listed" else "../elsewhere/bad.h5"
        listed.write_text(f"{io.sha256(path)}  {name}\n")
    if case == "not listed":
        rejects(path, 3, "not in the list", options=("--verify", listed))
        return
    assert cli("reconstruct", path, "-m", "rss", "-o", "fine.h5", "--verify", listed)[0] == 0
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x10
    path.write_bytes(content)
    assert cli("reconstruct", path, "-m", "rss", "-o", "silent.h5")[0] == 0
    rejects(path, 3, "does not match its checksum", options=("--verify", listed))


@row("F06", ["an item", "a part"])
def test_chunks_that_were_never_written(cli, rejects, bad, case):
    with h5py.File(bad / "bad.h5", "w") as file:
        rows = 16 if case == "an item" else 8
        dataset = file.create_dataset("kspace", (2, 2, 16, 16), np.complex64, chunks=(1, 2, rows, 16))
        dataset[0] = random(2, 16, 16)
        if case == "a part":
            dataset[1, :, :8] = random(2, 8, 16)
    rejects(bad / "bad.h5", 3, "1 chunks", "--strict", options=("--strict",))
    code, _, err = cli("reconstruct", bad / "bad.h5", "-m", "rss", "-o", "x.h5")
    assert code == 0
    assert "1 chunks of kspace were never written" in err
    assert ("no signal in item 1" in err) == (case == "an item")


@row("F07")
def test_file_that_is_being_written(rejects, bad, case):
    path = scan_file(bad / "bad.h5")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rejects(path, 3, "being written", "wait until")


@row("F08", [hostile.external_link, hostile.external_link_beside, hostile.soft_link_through_external])
def test_external_link(rejects, bad, case):
    rejects(hdf5(bad / "bad.h5", case), 6, "links to another file")


@row("F09")
def test_external_link_within_a_path(rejects, bad, case):
    def build(folder: Path, file: h5py.File) -> None:
        file["away"] = h5py.ExternalLink(str(hostile.other_file(folder)), "/group")

    rejects(hdf5(bad / "bad.h5", build), 6, "links to another file", options=("--dataset", "away/kspace"))


@row("F10", [hostile.dangling, hostile.circle])
def test_soft_link_to_nowhere(rejects, bad, case):
    rejects(hdf5(bad / "bad.h5", case), 3, "without a target" if case is hostile.dangling else "circular")


@row("F11")
def test_external_storage(rejects, bad, case):
    """Whatever the storage names (here a file beside it) is not opened, let alone shown."""
    rejects(hdf5(bad / "bad.h5", hostile.external_storage), 6, "stores its data in another file")


@row("F12", [hostile.virtual_dataset, hostile.virtual_through_external_link, hostile.missing_source])
def test_virtual_dataset(rejects, bad, case):
    inside = case is hostile.missing_source
    rejects(hdf5(bad / "bad.h5", case), 3 if inside else 6, "without a target" if inside else "file")


@row("F13", [hostile.shape_bomb, hostile.shape_bomb_contiguous, hostile.item_bomb])
def test_shape_bomb(rejects, bad, case):
    path = hdf5(bad / "bad.h5", case)
    assert path.stat().st_size < 100_000
    rejects(path, 3, "larger than its file can hold", "declared")


@row("F14", ["hdf5", "npz"])
def test_compression_bomb(rejects, bad, case):
    """What deflate makes of zeros, a thousand times smaller, is read in bounded parts or not at all."""
    if case == "npz":
        path = bad / "bad.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("kspace.npy", "w") as member:
            member.write(hostile.npy_header(hostile.C8 % "1, 8, 4800, 1024"))
            for _ in range(300):
                member.write(bytes(1 << 20))
        rejects(path, 3, "larger than its file can hold", options=("--axes", "slice,coil,y,x"))
        return
    with h5py.File(bad / "bad.h5", "w") as file:
        shape = (1, 1, 5800, 5800)
        file.create_dataset("kspace", shape, np.complex64, chunks=shape, compression=9)[...] = 0
    rejects(bad / "bad.h5", 3, "larger than its file can hold")


@row("F15", ["names", "depth", pytest.param("attributes", marks=pytest.mark.slow), "a huge attribute"])
def test_too_much_of_everything(cli, rejects, bad, case):
    path = bad / "bad.h5"
    if case == "names":
        with h5py.File(path, "w", libver="latest") as file:
            for number in range(10_001):
                file.id.links.create_soft(b"n%d" % number, b"/x")
        rejects(path, 3, "10001 names")
        return
    scan_file(path)
    with h5py.File(path, "a", libver="latest") as file:
        if case == "depth":
            node = file
            for _ in range(3000):
                node = node.create_group("a")
            node["kspace"] = random(1, 2, 16, 16)
        elif case == "attributes":
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            for number in range(10_001):
                h5py.h5a.create(file.id, b"a%d" % number, h5py.h5t.NATIVE_INT8, space)
        else:
            file.attrs["source"] = "x" * 60_000
    if case == "attributes":
        rejects(path, 3, "10001 attributes")
        return
    code, _, err = cli("reconstruct", path, "-m", "rss", "-o", "x.h5")
    assert code == 0, err
    if case == "depth":
        assert cli("reconstruct", path, "--dataset", "a/" * 3000 + "kspace", "-m", "rss", "-o", "y.h5")[0] in (0, 3)
    else:
        assert len(cli("info", path)[1]) < 5000


@row("F16")
def test_plugin_filter(rejects, bad, case, monkeypatch):
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(bad))
    rejects(hdf5(bad / "bad.h5", hostile.plugin_filter), 6, "not built in", "32015")


@row("F18", [hostile.objects, hostile.ragged, hostile.strings, hostile.three_fields, hostile.padded_fields])
def test_kspace_of_no_numbers(rejects, bad, case):
    rejects(hdf5(bad / "bad.h5", case), 3, "number type" if case is hostile.padded_fields else "must be complex")


@row("F19", ["real, imag", "re, im", "r, i", "big-endian", "int16"])
def test_compounds_are_complex(cli, bad, case):
    names = ("real", "imag") if case in ("big-endian", "int16") else tuple(case.split(", "))
    kind = {"big-endian": ">f4", "int16": "<i2"}.get(case, "<f4")
    kspace = np.round(random(1, 2, 16, 16) * 100)
    stored = np.zeros(kspace.shape, [(names[0], kind), (names[1], kind)])
    stored[names[0]], stored[names[1]] = kspace.real, kspace.imag
    with h5py.File(bad / "k.h5", "w") as file:
        file["kspace"] = stored
    assert cli("reconstruct", bad / "k.h5", "-m", "rss", "-o", "x.h5")[0] == 0
    io.write_kspace(bad / "same.h5", kspace)
    assert cli("reconstruct", bad / "same.h5", "-m", "rss", "-o", "y.h5")[0] == 0
    np.testing.assert_array_equal(io.read_image("x.h5"), io.read_image("y.h5"))


@row("F20", ["v5", "v7.3"])
def test_matlab(cli, rejects, bad, case):
    """MATLAB stores axes in reverse: it is asked in which order they lie, and any order can be read."""
    if case == "v5":
        content, words = hostile.NOT_DATA["matlab"]
        rejects(plain(bad, "bad.mat", content), 3, words)
        return
    kspace = random(2, 3, 20, 24)
    with h5py.File(bad / "bad.mat", "w", userblock_size=512) as file:
        file["kspace"] = kspace.transpose(3, 2, 1, 0)  # MATLAB's (slice, coil, y, x), as it is stored
        file["kspace"].attrs["MATLAB_class"] = np.bytes_("single")
    rejects(bad / "bad.mat", 3, "reverse", "--axes")
    np.testing.assert_array_equal(io.read(bad / "bad.mat", axes="x,y,coil,slice").kspace(1), kspace[1].swapaxes(1, 2))
    assert cli("reconstruct", bad / "bad.mat", "--axes", "x,y,coil,slice", "-m", "rss", "-o", "x.h5")[0] == 0


@row("F21", ["no header", "no data", *hostile.HEADERS])
def test_bart_pairs(rejects, bad, case):
    random(128).tofile(bad / "bad.cfl")
    (bad / "bad.hdr").write_text("# Dimensions\n8 8 1 2\n")
    if case in ("no header", "no data"):
        (bad / ("bad.hdr" if case == "no header" else "bad.cfl")).unlink()
        words = "is missing"
    else:
        text, words = hostile.HEADERS[case]
        (bad / "bad.hdr").write_text(text)
    rejects(bad / "bad.cfl", 3, words)


@row("F22", ["npy", "npz", "mask", "maps"])
def test_python_objects(cli, rejects, bad, good, case):
    trap, array = bad / "trap", np.empty((1,), object)
    array[0] = hostile.Runs(trap)
    if case == "npy":
        np.save(bad / "bad.npy", array, allow_pickle=True)
        rejects(bad / "bad.npy", 6, "Python objects")
    elif case == "npz":
        np.savez(bad / "bad.npz", kspace=array)
        rejects(bad / "bad.npz", 6, "Python objects")
    else:
        np.save(bad / "bad.npy", array, allow_pickle=True)
        code, _, err = cli("reconstruct", good, "-m", "sense", f"--{case}", bad / "bad.npy", "-o", "x.h5")
        assert code == 6
        assert "Python objects" in err
    assert not trap.exists()


@row("F23", ["truncated gz", "NaN affine", "float16", "bomb"])
def test_nifti(cli, bad, good, case):
    nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel: pip install 'mrirecon[train]'")
    values = np.random.default_rng(0).random((24, 20, 6)).astype(np.float32)
    image = nibabel.Nifti1Image(values, np.eye(4))
    path = bad / "bad.nii.gz"
    nibabel.save(image, path)
    words = "damaged or truncated"
    if case == "truncated gz":
        os.truncate(path, path.stat().st_size // 2)
    else:
        header = bytearray(gzip.decompress(path.read_bytes()))
        if case == "NaN affine":
            header[254:256] = (1).to_bytes(2, "little")  # sform_code: the affine is taken from srow_x, ...
            header[280:284] = np.float32(np.nan).tobytes()
            words = "NaN or infinite"
        elif case == "float16":
            header[70:72], header[72:74] = (16384).to_bytes(2, "little"), (16).to_bytes(2, "little")
            words = "NIfTI|damaged"
        else:
            header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
            words = "too large"
        path.write_bytes(gzip.compress(bytes(header)))
    before = snapshot(bad)
    code, _, err = cli("simulate", path, "-o", "x.h5", "--coils", 2)
    assert code == 3, err
    assert any(word in err for word in words.split("|")), err
    assert snapshot(bad) == before
    assert not Path("x.h5").exists()


@row("F25", ["header"])
def test_document_types(rejects, bad, case):
    """Entities that expand without end, in the header that fastMRI keeps: nobody writes a DTD there."""
    rejects(hdf5(bad / "bad.h5", hostile.doctype), 6, "document type")


@row("F28", ["info", "reconstruct", "calibrate", "evaluate", "masks apply", "trust"])
def test_inputs_are_never_modified(cli, good, case):
    """Bytes, inode and times stay, on a disk that cannot be written; a name that does not exist is not made."""
    scan_file(good.parent / "full.h5")
    np.save(good.parent / "image.npy", np.random.default_rng(0).random((1, 32, 32)))
    np.save(good.parent / "mask.npy", np.arange(32) % 2 == 0)
    half = scan_file(good.parent / "half.h5", mask=np.r_[np.arange(10) % 2, np.ones(12), np.arange(10) % 2])
    good.chmod(0o400)
    before = snapshot(good.parent)
    verbs = {
        "info": ("info", good, "--check"),
        "reconstruct": ("reconstruct", good, "-m", "sense", "--reference", good.parent / "full.h5", "-o", "x.h5"),
        "calibrate": ("calibrate", good, "-o", "maps.h5"),
        "evaluate": ("evaluate", good.parent / "image.npy", good),
        "masks apply": ("masks", "apply", good, "--mask", good.parent / "mask.npy", "-o", "x.h5"),
        "trust": ("trust", half, "-m", "sense", "--replicas", 2),
    }
    arguments = [good.parent / "goof.h5" if a in (good, half) else a for a in verbs[case]]
    assert cli(*arguments)[0] == 3
    assert snapshot(good.parent) == before
    code, _, err = cli(*verbs[case])
    assert code == 0, err
    assert snapshot(good.parent) == before


NAMES = ["a b", "é中文", "scan.h5", "scan.npz", "-o", "n" * 240, "a\nb", "=cmd", "a'b", "symlink"]


@row("F29", NAMES)
def test_odd_names(cli, good, case):
    target = good.with_name(case if case.endswith((".h5", ".npz")) else f"{case}.h5")
    if case == "symlink":
        target.symlink_to(good)
    else:
        good.rename(target)
    code, _, err = cli("reconstruct", "-m", "rss", "-o", "out", "--json", "--", target)
    assert code == 0, err
    written = [p.name for p in Path("out").iterdir()]
    # Control characters are replaced, and long names are truncated.
    assert sorted(name.rpartition("_")[2] for name in written) == ["rss.h5", "rss.h5.json"]
    assert all(name.isprintable() and len(name.encode()) < 255 for name in written)


@row("F30", ["npz member", "manifest", "axes"])
def test_names_inside_files_lead_nowhere(cli, bad, good, tmp_path, case):
    if case == "manifest":
        (bad / "SUMS").write_text(f"{io.sha256(good)}  ../../../{good.name}\n")
        assert cli("reconstruct", good, "-m", "rss", "-o", "out", "--verify", bad / "SUMS")[0] == 0
    elif case == "npz member":
        array = hostile.npy_header(hostile.C8 % "2, 40, 40", data=random(2, 40, 40).tobytes())
        hostile.zipped(bad, {"../../kspace.npy": array})
        assert cli("reconstruct", bad / "k.npz", "-m", "rss", "-o", "out")[0] == 0
    else:
        np.savez(bad / "k.npz", kspace=random(2, 40, 40), axes="../../x,y,x")
        assert cli("reconstruct", bad / "k.npz", "-m", "rss", "-o", "out")[0] == 3
    allowed = {tmp_path / name for name in ("here", "bad", "beside")}
    assert set(tmp_path.iterdir()) == allowed


@row("F31", ["zip-slip", "symlink", "bomb"])
def test_model_archives(cli, bad, good, tmp_path, case):
    """A model is a folder; an archive is not unpacked at all, and a link's target is not told."""
    model = bad / "model.zip"
    if case == "symlink":
        model = bad / "model"
        model.mkdir()
        (model / "config.json").symlink_to("/etc/passwd")
        (model / "weights.safetensors").symlink_to("/etc/passwd")
    else:
        with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../evil" if case == "zip-slip" else "weights.safetensors", bytes(1 << 20))
    code, _, err = cli("reconstruct", good, "--model", model, "-o", "x.h5")
    assert code == 3
    assert "root:" not in err
    assert not (tmp_path / "evil").exists()
    assert not Path("x.h5").exists()


@row("F32", ["same", "symlink", "hardlink", "folder"])
def test_output_that_is_the_input(cli, good, case):
    before = snapshot(good.parent)
    target = good
    if case == "symlink":
        target = Path("link.h5")
        target.symlink_to(good)
    elif case == "hardlink":
        target = Path("hard.h5")
        target.hardlink_to(good)
    elif case == "folder":
        target = Path("x.h5")
        target.mkdir()
    code, _, err = cli("reconstruct", good, "-m", "rss", "-o", target, "--overwrite")
    if case == "folder":
        assert code == 0
        assert (target / "good_rss.h5").exists()
    else:
        assert code == 2
        assert "is an input" in err
    assert snapshot(good.parent) == before


# What a reader of the worker does on files of these names, for real: the corpus of files that crash libhdf5 is not ours
# to keep, and the next one is not known.
CRASHES = """
import ctypes, os, signal, time
import h5py

class File(h5py.File):
    def __init__(self, name, *more, **named):
        word = os.path.basename(str(name)).split(".")[0]
        if word == "crash":
            ctypes.string_at(0)
        if word == "abort":
            os.abort()
        if word == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hangs":
            time.sleep(60)
        if word == "eats":
            bytearray(1 << 40)
        super().__init__(name, *more, **named)

h5py.File = File
"""


# Three of 4000 mutations of one file, on which h5py 3.16 (HDF5 2.0) dies when it reads everything: double frees and a
# write outside its memory. The guarded reader asks for less, and refuses or reads them.
DEADLY = {"mutation 1169": 1169, "mutation 1522": 1522, "mutation 1795": 1795}


@row("F17", ["crash", "abort", "killed", "hangs", "eats", *DEADLY])
def test_crash_of_the_library(cli, bad, good, tmp_path, monkeypatch, case):
    """The worker dies by a real signal; the file is told as failed, and the batch goes on with a new worker."""
    if case in DEADLY:
        (path,) = KINDS["h5"].make(bad)
        path.write_bytes(mutation(path.read_bytes(), DEADLY[case], 3))
        code, out, _ = cli("reconstruct", path, good, "-m", "rss", "-o", tmp_path / "out", "--json")
        assert code in (0, 4)
        assert "good_rss.h5" in out
        return
    (bad / "sitecustomize.py").write_text(CRASHES)
    monkeypatch.setenv("PYTHONPATH", f"{bad}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(sandbox, "WALL_TIME_FACTOR", 0.1 if case == "hangs" else 20)
    sandbox.close()
    first, last = scan_file(bad / f"{case}.h5"), scan_file(bad / "last.h5")
    words = {"crash": "SIGSEGV", "abort": "SIGABRT", "killed": "SIGKILL", "hangs": "too long", "eats": "memory"}[case]
    code, out, err = cli("reconstruct", first, good, last, "-m", "rss", "-o", tmp_path / "out", "--json")
    sandbox.close()
    assert code == 4, err
    told = json.loads(out)
    assert [Path(r["outputs"][0]).name for r in told["results"]] == ["good_rss.h5", "last_rss.h5"]
    assert len(told["failed"]) == 1
    assert told["failed"][0]["exit_code"] == (5 if case in ("eats", "killed") else 3)
    assert words in json.dumps(told["failed"])
    assert f"{case}.h5" in json.dumps(told["failed"])
