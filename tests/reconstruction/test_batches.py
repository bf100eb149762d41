"""Test batches: finished files are skipped, failures are listed, and processes share the work without collisions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon.cli import main
from mrirecon.errors import BusyError, InputError, ResourceError, UsageError
from mrirecon.io import read_image, sidecar_path, write_json, write_kspace
from mrirecon.io.safe.lock import output_lock
from mrirecon.reconstruction import batch, file
from mrirecon.reconstruction.batch import Shard, expand
from mrirecon.reconstruction.file import reconstruct_file
from mrirecon.reconstruction.plan import Request

RSS = Request(method="rss")


def make(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    kspace = rng.normal(size=(1, 2, 24, 20)) + 1j * rng.normal(size=(1, 2, 24, 20))
    write_kspace(path, kspace.astype(np.complex64))
    return path


@pytest.fixture
def scans(tmp_path):
    """Five small scans in a folder."""
    return [make(tmp_path / "in" / f"s{number}.h5", number) for number in range(5)]


def run(sources, output, request=RSS, **more):
    return list(batch.run(sources, output, request, **{"waits": (0.05,), **more}))


def finished(outcomes):
    return [o.source.stem for o in outcomes if o.record is not None and o.record.get("finished")]


@pytest.fixture
def call(capfd, monkeypatch, tmp_path):
    """Run the command line; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["reconstruct", *map(str, arguments)])
        return ended.value.code, *capfd.readouterr()

    return call


# What is finished ----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_left(scans, tmp_path):
    out = tmp_path / "out"
    assert finished(run(scans, out)) == []
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    assert len(before) == 10
    again = run(scans, out)
    assert finished(again) == [s.stem for s in scans]
    assert [o.record["outputs"] for o in again] == [[str(out / f"{s.stem}_rss.h5")] for s in scans]
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()} == before
    assert finished(run(scans, out, overwrite=True)) == []
    assert (out / "s0_rss.h5").stat().st_mtime_ns != before["s0_rss.h5"][1]


def touched(path):
    os.utime(path, ns=(1, 1))


def rewritten(path):
    """Other values of the same size, at the same time."""
    at = path.stat().st_mtime_ns
    with h5py.File(path, "r+") as file:
        file["kspace"][0, 0, 0, 0] = 7
    os.utime(path, ns=(at, at + 1))


def copied(path):
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


@pytest.mark.parametrize(("change", "same"), [(touched, True), (copied, True), (rewritten, False)])
def test_the_hash_decides_where_the_time_does_not(scans, tmp_path, change, same):
    run(scans[:1], tmp_path / "out")
    change(scans[0])
    outcome = run(scans[:1], tmp_path / "out")[0]
    if same:
        assert outcome.record["finished"]
    else:
        assert isinstance(outcome.error, UsageError)
        assert "exists" in outcome.error.what
        assert "--overwrite" in outcome.error.fix


def test_an_unchanged_input_is_not_hashed(scans, tmp_path, monkeypatch):
    run(scans, tmp_path / "out")
    monkeypatch.setattr("mrirecon.reconstruction.file.sha256", lambda path: pytest.fail(f"{path} was read"))
    request = Request(method="rss")
    request.__dict__["digest"] = RSS.digest
    assert len(finished(run(scans, tmp_path / "out", request))) == 5


@pytest.mark.parametrize(
    "other",
    [
        {"method": "rss", "seed": 1},
        {"method": "rss", "axes": "slice,coil,y,x"},
        {"method": "rss", "save_iterates": True},
        {"method": "rss", "mask": "mask.npy"},
    ],
)
def test_another_request_is_not_finished(scans, tmp_path, other, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", np.ones(20, np.uint8))
    run(scans[:1], tmp_path / "out")
    assert run(scans[:1], tmp_path / "out", Request(**other))[0].error is not None
    assert Request(**other).digest != RSS.digest
    assert Request(method="rss", device="cpu", batch=3).digest == RSS.digest


def test_a_mask_of_other_content_is_another_request(tmp_path):
    digests = set()
    for value in (1, 0):
        mask = np.ones(20, np.uint8)
        mask[3] = value
        np.save(tmp_path / "mask.npy", mask)
        digests.add(Request(mask=tmp_path / "mask.npy").digest)
    assert len(digests) == 2


@pytest.mark.parametrize("what", ["image", "sidecar", "both halves", "other image"])
def test_half_an_output_is_not_finished(scans, tmp_path, what):
    out = tmp_path / "out"
    run(scans[:1], out)
    image = out / "s0_rss.h5"
    whole = image.read_bytes()
    if what == "image":
        image.unlink()
    elif what == "sidecar":
        sidecar_path(image).unlink()
    elif what == "both halves":
        image.write_bytes(whole[:-1])
    else:
        image.write_bytes(bytes([whole[-1] ^ 1]).join([whole[:-1], b""]))
    outcome = run(scans[:1], out)[0]
    if what == "image":
        assert not outcome.record.get("finished")
        assert image.read_bytes() == whole
    else:
        assert isinstance(outcome.error, UsageError), "it may be somebody's: it is not replaced"
        assert not run(scans[:1], out, overwrite=True)[0].error


def test_the_method_that_was_chosen_is_found_again(scans, tmp_path):
    request = Request()
    first = run(scans, tmp_path / "out", request)
    assert {o.record["method"] for o in first} == {"zero-filled"}
    assert len(finished(run(scans, tmp_path / "out", Request()))) == 5


def test_one_file_again_is_left_too(call, scans):
    assert call(scans[0], "-m", "rss")[0] == 0
    code, out, err = call(scans[0], "-m", "rss")
    assert (code, out) == (0, "s0_rss.h5\n")
    assert "done already" in err
    told = json.loads(call(scans[0], "-m", "rss", "--json")[1])["results"][0]
    assert told["finished"]
    assert told["outputs"] == ["s0_rss.h5"]


def test_many_finished_files_are_found_finished(scans, tmp_path):
    """The promise is 2,000 a second; a busy machine gets a quarter of that, and three tries."""
    out = tmp_path / "out"
    many = []
    run(scans[:1], out)
    told = json.loads((out / "s0_rss.h5.json").read_text())
    for number in range(300):
        source = tmp_path / "in" / f"n{number}.h5"
        os.link(scans[0], source)
        image = out / f"n{number}_rss.h5"
        os.link(out / "s0_rss.h5", image)
        write = {**told, "outputs": [{**told["outputs"][0], "file": image.name}]}
        sidecar_path(image).write_text(json.dumps(write))
        many.append(source)
    assert len(finished(run(many, out))) == len(many)


# What fails ----------------------------------------------------------------------------------------------------------


def test_failures_are_listed(call, scans, tmp_path):
    (tmp_path / "in" / "bad.h5").write_bytes(b"not hdf5")
    os.utime(tmp_path / "in" / "bad.h5", (1, 1))
    code, out, err = call("in", "-m", "rss", "-o", "out")
    assert code == 4
    assert len(out.split()) == 5
    assert "1 of 6" in err
    assert "failed.jsonl" in err
    (line,) = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert {"file", "code", "what", "where", "why", "fix"} <= set(told)
    assert told["file"] == "in/bad.h5"
    assert told["code"] == "MRI-E-INPUT"
    (tmp_path / "in" / "bad.h5").unlink()
    code, out, err = call("in", "-m", "rss", "-o", "out")
    assert code == 0
    assert err.count("done already") == 5
    assert not (tmp_path / "out" / "failed.jsonl").exists(), "the list is of the last run"


def test_a_fault_of_ours_in_one_file_does_not_stop_the_others(scans, tmp_path, monkeypatch):
    real = file.reconstruct

    def broken(scan, *given, **options):
        if scan.path.stem == "s2":
            raise KeyError("s2")
        return real(scan, *given, **options)

    monkeypatch.setattr(file, "reconstruct", broken)
    outcomes = run(scans, tmp_path / "out", failures=tmp_path / "out" / "failed.jsonl")
    assert [o.source.stem for o in outcomes if o.error] == ["s2"]
    told = json.loads((tmp_path / "out" / "failed.jsonl").read_text())
    assert told["code"] == "MRI-E-INTERNAL"
    assert "KeyError" in told["why"]


def test_what_no_file_can_change_is_refused_at_once(call, scans):
    for arguments, code in (
        (["-m", "css"], 2),
        (["-m", "cs", "--set", "iteratons=3"], 2),
        (["-m", "cs", "--lambda", "-1"], 2),
        (["--mask", "nothing.npy"], 3),
        (["--device", "cuda:77"], 2),
        (["--model", "nothing"], 3),
    ):
        found, out, err = call("in", *arguments, "-o", "out")
        assert (found, out) == (code, ""), err
        assert err.count("error MRI-E-") == 1


def test_a_full_disk_ends_the_batch(scans, tmp_path):
    """In a process that may write no larger file than the limit, as on a disk that is full."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from mrirecon.reconstruction import batch; from mrirecon.reconstruction.plan import Request\n"
        "from mrirecon.errors import MriReconError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "done = []\n"
        "try:\n"
        "    for o in batch.run([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), Request(method='rss')):\n"
        "        done.append(o.error.code)\n"
        "except MriReconError as error: print(len(done), error.exit_code, error.fix)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out", *scans], capture_output=True, text=True)
    assert done.stdout.startswith("1 5"), done.stderr
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert len([o for o in run(scans, tmp_path / "out") if o.record]) == 5


def test_a_place_that_cannot_be_written_is_found_before_the_work(call, scans, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(file, "reconstruct", lambda *_, **__: pytest.fail("it was worked on"))
    code, out, err = call("in", "-m", "rss", "-o", "file/out")
    assert (code, out) == (5, "")
    assert err.count("error MRI-E-RESOURCE") == 1
    with pytest.raises(ResourceError) as error:
        run(scans, tmp_path / "file" / "out")
    assert "run the same command again" in error.value.fix


def test_one_failure_of_the_disk_does_not_end_the_batch(scans, tmp_path, monkeypatch):
    real = file.reconstruct

    def broken(scan, *given, **options):
        if scan.path.stem == "s2":
            raise ResourceError("out of memory")
        return real(scan, *given, **options)

    monkeypatch.setattr(file, "reconstruct", broken)
    assert len([o for o in run(scans, tmp_path / "out") if o.record]) == 4


# What is being written ------------------------------------------------------------------------------------------------


def test_a_scan_that_is_still_being_copied_comes_later(scans, tmp_path):
    whole = scans[1].read_bytes()
    scans[1].write_bytes(whole[: len(whole) // 2])
    order = []

    def finish():
        while len(order) < 4:
            time.sleep(0.01)
        scans[1].write_bytes(whole)

    thread = threading.Thread(target=finish)
    thread.start()
    for outcome in batch.run(scans, tmp_path / "out", RSS, waits=(0.5, 2)):
        assert outcome.error is None
        order.append(outcome.source.stem)
    thread.join()
    assert order == ["s0", "s2", "s3", "s4", "s1"]


def test_a_scan_that_is_open_for_writing_comes_later(scans, tmp_path):
    code = (
        "import h5py, sys\n"
        "with h5py.File(sys.argv[1], 'r+') as file:\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, scans[0]], stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(BusyError, match="being written"):
            reconstruct_file(scans[0], tmp_path / "one.h5", method="rss")
        seen = []
        for outcome in batch.run(scans[:2], tmp_path / "out", RSS, waits=(0.1, 5)):
            seen.append(outcome.source.stem)
            assert outcome.error is None
            if len(seen) == 1:
                writer.communicate("\n")
    assert seen == ["s1", "s0"]


def test_a_damaged_file_is_not_waited_for_long(scans, tmp_path):
    scans[0].write_bytes(scans[0].read_bytes()[:100])
    start = time.perf_counter()
    outcomes = run(scans[:1], tmp_path / "out", waits=(0.2, 60))
    assert isinstance(outcomes[0].error, InputError)
    assert time.perf_counter() - start < 30


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, (1, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "20",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            (3, 3),
        ),
        ({"RANK": "0", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "x"}, (1, 1)),
    ],
)
def test_shards_from_the_environment(environment, wanted):
    found = Shard.parse(None, environment)
    assert (found.number, found.count) == wanted


def test_shards_share_everything_once():
    sources = [Path(f"{n}.h5") for n in range(11)]
    for count in (1, 2, 3, 20):
        parts = [Shard.parse(f"{i}/{count}").select(sources) for i in range(1, count + 1)]
        assert sorted(s for part in parts for s in part) == sorted(sources)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/3", "1/0", ""):
        with pytest.raises(UsageError, match="shard"):
            Shard.parse(wrong)
    with pytest.raises(UsageError, match="environment"):
        Shard.parse(None, {"RANK": "3", "WORLD_SIZE": "2"})


def test_shards_on_the_command_line(call, scans, monkeypatch):
    code, out, err = call("in", "-m", "rss", "-o", "out", "--shard", "2/2")
    assert (code, out.split()) == (0, ["out/s1_rss.h5", "out/s3_rss.h5"])
    assert "part 2 of 2" in err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = call("in", "-m", "rss", "-o", "out")
    assert len(out.split()) == 3
    assert "by RANK" in err
    code, out, _ = call("in/s1.h5", "-m", "rss", "-o", "alone.h5")
    assert (code, out) == (0, "alone.h5\n"), "one file is never shared out"
    assert len(list(Path("out").iterdir())) == 10


def test_a_claim_is_held_by_one(tmp_path):
    target = tmp_path / "a" / "b" / "x.h5"
    with output_lock(target, wait=False):
        with pytest.raises(BusyError), output_lock(target, wait=False):
            pass
        with output_lock(tmp_path / "a" / "b" / "y.h5", wait=False):
            pass
    assert not (tmp_path / "a").exists(), "an empty folder goes again"
    with output_lock(target, wait=False):
        pass


def test_a_claim_of_a_killed_process_is_nothing(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from mrirecon.io.safe.lock import output_lock\n"
        "held = [output_lock(Path(name), wait=False) for name in sys.argv[1:]]\n"
        "for one in held: one.__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.h5", tmp_path / "y.h5"], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with output_lock(tmp_path / "x.h5", wait=False):
        assert len(list(tmp_path.iterdir())) == 1, "the other is swept away"
    assert list(tmp_path.iterdir()) == []


def child(scans, out, **more):
    code = (
        "import sys; from pathlib import Path\n"
        "from mrirecon.reconstruction import batch; from mrirecon.reconstruction.plan import Request\n"
        "sources = [Path(p) for p in sys.argv[2:]]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for o in batch.run(sources, Path(sys.argv[1]), Request(method='rss'), waits=(0.1, 0.2, 1)):\n"
        "    print(o.source.stem, 'left' if o.record and o.record.get('finished') else o.error or 'made', flush=True)\n"
    )
    command = [sys.executable, "-c", code, out, *scans]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


def consistent(out, count):
    images = sorted(out.glob("*_rss.h5"))
    assert len(images) == count
    for image in images:
        told = json.loads(sidecar_path(image).read_text())
        assert told["outputs"][0]["bytes"] == image.stat().st_size
        assert told["outputs"][0]["mtime_ns"] == image.stat().st_mtime_ns, "image and sidecar are of one process"
        assert np.isfinite(read_image(image)).all()
    assert len(list(out.iterdir())) == 2 * count, "nothing else is left"


def test_two_processes_told_to_do_the_same_share_it(tmp_path):
    scans = [make(tmp_path / "in" / f"s{number}.h5", number) for number in range(12)]
    out = tmp_path / "out"
    children = [child(scans, out) for _ in range(2)]
    for process in children:
        assert process.stdout.readline() == "ready\n"
    made = []
    for process in children:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in children:
        lines = process.communicate(timeout=120)[0].splitlines()
        assert len(lines) == len(scans), lines
        made += [line.split()[0] for line in lines if line.endswith("made")]
        assert not [line for line in lines if not line.endswith(("made", "left"))]
    assert sorted(made) == sorted(s.stem for s in scans), "each was made once"
    consistent(out, len(scans))


def test_what_a_killed_process_began_is_finished_by_running_again(tmp_path):
    scans = [make(tmp_path / "in" / f"s{number}.h5", number) for number in range(12)]
    out = tmp_path / "out"
    process = child(scans, out)
    process.stdout.readline()
    process.stdin.write("\n")
    process.stdin.flush()
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.004)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*_rss.h5")}
    assert len(before) >= 3
    outcomes = run(scans, out)
    assert all(o.record for o in outcomes)
    assert len(finished(outcomes)) >= 3
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("*_rss.h5")}.items()
    for path in out.glob(".mrirecon-*.tmp"):  # of the killed process: it goes after ten minutes
        path.unlink()
    consistent(out, len(scans))


# Files, folders, patterns ---------------------------------------------------------------------------------------------


def test_patterns_and_folders(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    assert [p.name for p in expand([Path("in/s[12].h5")], out)] == ["s1.h5", "s2.h5"]
    assert len(expand([Path("**/*.h5")], out)) == 5
    assert len(expand([Path("in")], out)) == 5
    for wrong in (Path("in/x*.h5"), Path("in/s*.npz")):
        with pytest.raises(UsageError, match="no k-space"):
            expand([wrong], out)
    with pytest.raises(UsageError, match="cannot go into one"):
        expand([Path("in")], Path("one.h5"))
    shutil.copytree("in", "other")
    with pytest.raises(UsageError, match="two files have") as error:
        expand([Path("in"), Path("other")], out)
    assert "other/s0.h5" in error.value.why


def test_a_folder_may_hold_its_own_images(call, scans, tmp_path):
    make(tmp_path / "in" / "simulated.h5")
    write_json(tmp_path / "in" / "simulated.h5.json", {"outputs": [{"file": "simulated.h5"}]})
    assert len(call("in", "-m", "rss", "-o", "in")[1].split()) == 6
    code, _, err = call("in", "-m", "rss", "-o", "in")
    assert code == 0
    assert err.count("done already") == 6


def test_a_working_folder_that_is_gone(tmp_path, scans):
    """Before the start it is refused, for what libraries do then; later, full names still lead somewhere."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mrirecon.reconstruction import batch; from mrirecon.cli import main\n"
        "from mrirecon.reconstruction.plan import Request\n"
        "gone, out, *scans = map(Path, sys.argv[1:])\n"
        "gone.mkdir(); os.chdir(gone)\n"
        "for n, o in enumerate(batch.run(scans, out, Request(method='rss'))):\n"
        "    print(o.error or 'done')\n"
        "    if n == 0: gone.rmdir()\n"
        "main(['reconstruct', str(scans[0])])"
    )
    command = [sys.executable, "-c", code, tmp_path / "gone", tmp_path / "out", *scans[:3]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["done"] * 3, done.stderr
    assert done.returncode == 5
    assert "working folder was deleted" in done.stderr
    assert "Traceback" not in done.stderr
