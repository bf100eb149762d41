"""Test the submission of commands to this machine, and how tasks and their files are divided and gathered."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrirecon.errors import InputError, UsageError
from mrirecon.io import write_image, write_kspace
from mrirecon.reconstruction import batch, cohort
from mrirecon.reconstruction.plan import Request
from mrirecon.tools.submission import Resources, Submission, TaskEntry, minutes_of, states, submit
from tests.tools.stop_once import stop_once

FAST = ("--method=zero-filled", "--maps=unit", "--no-isolate")


def make_scans(folder, count, size=16):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        kspace = rng.normal(size=(2, 1, 2, size, size)).astype(np.float32)
        write_kspace(folder / f"scan{number:02d}.h5", (kspace[0] + 1j * kspace[1]).astype(np.complex64))
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("text", "minutes"), [("90", 90), ("4:00:00", 240), ("1-00:00:01", 1441)])
def test_time_limits(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "1:30", "4 h", "-1"])
def test_wrong_time_limits(text):
    with pytest.raises(UsageError, match="--time"):
        minutes_of(text)


@pytest.mark.parametrize(("files", "folders"), [(1, 1), (4000, 1), (4001, 16), (1_000_000, 256), (10**8, 4096)])
def test_number_of_subfolders(files, folders):
    assert cohort.subfolders_for(files) == folders


@pytest.mark.parametrize("count", [1, 16, 256])
def test_files_are_divided_once_and_evenly(count):
    sources = [Path(f"in/scan{i}.h5") for i in range(103)]
    parts = cohort.divide(sources, Path("out"), count, 4)
    assert sorted(p for part in parts for p in part) == sorted(sources)
    assert {len(part) for part in parts} <= {25, 26}
    folders = [{cohort.subfolder(Path("out"), p, count) for p in part} for part in parts]
    if count > 1:  # few folders have two writers
        assert sum(map(len, folders)) - len(set().union(*folders)) <= 3


def test_lists(tmp_path):
    names = [tmp_path / "a b.h5", tmp_path / "ü.h5", tmp_path / os.fsdecode(b"\xff.h5")]
    cohort.write_list(tmp_path / "list.txt", names)
    assert cohort.read_list(tmp_path / "list.txt") == names
    with pytest.raises(UsageError, match="line break"):
        cohort.write_list(tmp_path / "list.txt", [Path("a\nb.h5")])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        cohort.read_list(tmp_path / "empty.txt")


def test_a_list_with_subfolders_references_and_a_table(tmp_path):
    """Check that a second run keeps the images, and that tables, scores and subfolders are as documented."""
    scans, out, references = make_scans(tmp_path / "in", 5), tmp_path / "out", tmp_path / "full"
    request = Request(method="zero-filled", maps="unit", isolate=False)
    for path in sorted(scans.iterdir())[:3]:
        write_image(references / path.name, np.random.default_rng(1).random((1, 16, 16), dtype=np.float32))
    (scans / "broken.h5").write_bytes(bytes(100))
    os.utime(scans / "broken.h5", (1, 1))  # old: not a file that is still being written
    listed = tmp_path / "jobs" / "1.txt"
    cohort.write_list(listed, sorted(scans.iterdir()))
    options = {"listed": listed, "subfolders": 16, "references": references}
    for again in (False, True):
        work, outcomes = batch.reconstruct_files([], out, request, **options)
        done = list(outcomes)
        assert [bool(o.record and o.record.get("finished")) for o in done if o.record] == [again] * 5
    assert work.table == tmp_path / "jobs" / "1.csv"
    table = {Path(row["file"]).name: row for row in rows(work.table)}
    assert len(table) == 6
    assert table["broken.h5"]["status"] == "failed"
    assert table["broken.h5"]["error"] == "MRI-E-INPUT"
    assert [bool(table[f"scan{i:02d}.h5"]["ssim"]) for i in range(5)] == [True] * 3 + [False] * 2
    for path in sorted(scans.glob("scan*")):
        image = Path(table[path.name]["image"])
        assert image.parent == cohort.subfolder(out, path, 16)
        assert image.is_file()
    worst, by = cohort.worst_rows([work.table], 2)
    assert by == "SSIM"
    scores = sorted(float(row["ssim"]) for row in table.values() if row["ssim"])
    assert [float(row["ssim"]) for row in worst] == scores[:2]
    assert len(cohort.random_rows(cohort.read_rows([work.table]), 3)) == 3
    from mrirecon.evaluation.pairing import by_name

    assert len(by_name(out)) == 5
    with pytest.raises(UsageError, match="--list names all files"):
        batch.reconstruct_files([scans], out, request, listed=listed)


def test_a_table_has_one_writer(tmp_path):
    """Check that a process stops writing to a table that another process started anew."""
    outcome = batch.Outcome(tmp_path / "a.h5", error=InputError("damaged", why="two\nlines"))
    first = cohort.Table(tmp_path / "table.csv")
    first.add(outcome)
    second = cohort.Table(tmp_path / "table.csv")
    first.add(outcome)
    second.add(outcome)
    assert [row["reason"] for row in cohort.read_rows([tmp_path / "table.csv"])] == ["damaged: two lines"]
    with (tmp_path / "table.csv").open("a") as file:
        file.write("cut,off")
    assert len(list(cohort.read_rows([tmp_path / "table.csv", tmp_path / "missing.csv"]))) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the jobs outlive the command
def test_jobs_on_this_machine(run, tmp_path):
    """Check a killed task, its state, its second submission, and the gathered table, with the cluster `local`."""
    pytest.importorskip("submitit")
    make_scans(tmp_path / "in", 3)
    code, out, err = run("submit", "status", "out")
    assert code == 3
    assert "nothing was submitted" in err
    common = ("submit", "reconstruct", "in", "-o", "out", "--tasks=2", "--cluster=local", "--worst=1", "--sample=1")
    assert run(*common, *FAST, "--shard=1/2")[0] == 2
    code, out, err = run(*common, *FAST, "--json")
    tasks = {task["task"]: task for task in json.loads(out)}
    assert list(tasks) == ["1-of-2", "2-of-2", "gather"]
    assert run(*common, *FAST)[0] == 3  # refused: its tasks run
    controller = int(tasks["1-of-2"]["job"])
    for child in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    os.kill(controller, signal.SIGKILL)
    code, out, err = run("submit", "status", "out", "--wait", "--json")
    by_name = {task["task"]: task["state"] for task in json.loads(out)}
    assert code == 4
    assert by_name == {"1-of-2": "lost", "2-of-2": "done", "gather": "failed"}
    assert "2 missing" in Path(tasks["gather"]["log"]).read_text()
    code, out, err = run("submit", "status", "out", "--resubmit-failed", "--wait", "--json")
    assert code == 0, err
    assert "submitted again: 1-of-2" in err
    again = {task["task"]: task for task in json.loads(out)}
    assert {task["state"] for task in again.values()} == {"done"}
    assert again["2-of-2"]["job"] == tasks["2-of-2"]["job"], "the finished task was not submitted again"
    assert [row["status"] for row in rows(Path("out/cohort.csv"))] == ["done"] * 3
    assert Path("out/report.html").is_file()
    assert not Path("out/failed.jsonl").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the jobs outlive the command
def test_a_stopped_task_is_queued_again(tmp_path, monkeypatch):
    """Check that submitit runs a task again after the signal before the time limit stopped its command."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    entry = TaskEntry("only", [str(tmp_path / "marker")])
    submission = Submission(tmp_path / "out", Resources(cluster="local", warning=10, minutes=1), [entry])
    submission = submit(submission, stop_once)
    deadline = time.monotonic() + 120
    while states(submission)[0].state in ("pending", "running") and time.monotonic() < deadline:
        time.sleep(0.2)
    (state,) = states(submission)
    assert state.state == "done", submission.log(submission.tasks[0]).read_text()
    assert (tmp_path / "marker").exists()
    assert "Requeued" in submission.log(submission.tasks[0]).read_text()


def test_without_slurm_or_submitit_there_is_advice(run, tmp_path, monkeypatch):
    make_scans(tmp_path / "in", 1)
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run("submit", "reconstruct", "in", "-o", "out")
    assert code == 2
    assert "--cluster local" in err
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = run("submit", "reconstruct", "in", "-o", "out")
    assert code == 2
    assert "mrirecon[slurm]" in err


def test_options_of_the_command_are_checked(run, tmp_path):
    make_scans(tmp_path / "in", 1)
    code, _, err = run("submit", "reconstruct", "in", "-o", "out", "--methd", "cs")
    assert code == 2
    assert "--methd" in err
    assert run("submit", "reconstruct", "in", "-o", "out", "--dry-run")[0] == 2
