"""Run real jobs on a real Slurm: arrays, dependencies, killed tasks, failed nodes, time limits, preemption, DDP."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon import training
from mrirecon.io import write_kspace
from mrirecon.training.config import load_config
from tests.slurm.conftest import NODES
from tests.training.test_training import TINY, last_state, logged, same

pytestmark = pytest.mark.slurm
SHORT = ("--worst=2", "--sample=2")
FAST = ("--method=zero-filled", "--maps=unit", "--no-isolate")


def make_scans(folder, count):
    """Write small scans of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        kspace = rng.normal(size=(2, 1, 2, 32, 32)).astype(np.float32)
        write_kspace(folder / f"scan{number:03d}.h5", (kspace[0] + 1j * kspace[1]).astype(np.complex64))
    return folder


def images(out):
    """Return the names of images with the times of their last change."""
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}


def reconstructed(out):
    """Return the scans that the logs of all tasks report as reconstructed, with repetitions."""
    lines = [line for log in (out / "jobs").glob("*_log.out") for line in log.read_text().splitlines()]
    return [line.partition(":")[0] for line in lines if ": reconstructed" in line]


def rows(path):
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def config(tmp_path):
    """Write the configuration of a tiny training; this process uses as many threads as the jobs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    yield path
    torch.set_num_threads(before)


def steps(folder):
    """Return the last logged step of a run."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if '"loss"' in line), default=0)


def pids(job):
    """Return the processes of a job that run mrirecon, by rank."""
    array, _, number = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={number}"} if number else {f"SLURM_JOB_ID={array}"}
    by_rank = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = set((folder / "environ").read_text().split("\0"))
            if wanted <= environment and b"submitit.core._submit" in (folder / "cmdline").read_bytes().split(b"\0"):
                rank = next(x for x in environment if x.startswith("SLURM_PROCID="))
                by_rank[int(rank.partition("=")[2])] = int(folder.name)
    return [by_rank[rank] for rank in sorted(by_rank)]


def check_two_killed_tasks(cluster, tmp_path, files, tasks):
    """Check that killing two of several tasks loses no file, and repeats none that was finished."""
    scans, out = make_scans(tmp_path / "scans", files), tmp_path / "out"
    cluster.mrirecon("submit", "reconstruct", scans, "-o", out, f"--tasks={tasks}", *FAST, *SHORT)
    submission = json.loads((out / "jobs" / "submission.json").read_text())
    jobs = [task["job"] for task in submission["tasks"]]
    assert len(set(jobs)) == tasks
    assert jobs[0].endswith("_0"), "an array"
    tables = {name: (out / "jobs" / f"{name}.csv") for name in (f"{i}-of-{tasks}" for i in (1, 2))}
    cluster.wait_until(lambda: all(p.exists() and len(rows(p)) > 1 for p in tables.values()), what="first images")
    os.kill(pids(jobs[0])[0], signal.SIGKILL)  # as if it ran out of memory
    cluster.run("scancel", jobs[1])
    cluster.mrirecon("submit", "status", out, "--wait", code=4)
    states = cluster.status(out)
    assert [states[f"{i}-of-{tasks}"]["state"] for i in range(1, tasks + 1)] == ["lost"] * 2 + ["done"] * (tasks - 2)
    missing = files - sum(row["status"] == "done" for row in rows(out / "cohort.csv"))
    assert missing, "the tasks were killed too late for this test"
    before = images(out)
    assert len(before) < files
    cluster.mrirecon("submit", "status", out, "--resubmit-failed", "--wait")
    states = cluster.status(out)
    assert {task["state"] for task in states.values()} == {"done"}
    assert all(task["memory (MB)"] > 50 for task in states.values())
    after = images(out)
    assert len(after) == files, "nothing is lost"
    assert {name: after[name] for name in before} == before, "finished images are not written again"
    repeated = len(reconstructed(out)) - files
    assert repeated <= 2, "at most the file that a killed task was writing is reported twice"
    assert len(set(reconstructed(out))) >= files - 2  # a killed task may not have reported its last file
    table = rows(out / "cohort.csv")
    assert sorted(row["file"] for row in table) == sorted(map(str, scans.iterdir()))
    assert {row["status"] for row in table} == {"done"}
    assert not list(out.glob(".mrirecon-*.lock"))
    assert (out / "report.html").is_file()


def test_a_submission_runs_to_its_end(cluster, tmp_path):
    scans, out = make_scans(tmp_path / "scans", 6), tmp_path / "out"
    cluster.mrirecon("submit", "reconstruct", scans, "-o", out, "--tasks=2", "--wait", *FAST, *SHORT)
    assert {task["state"] for task in cluster.status(out).values()} == {"done"}
    assert len(images(out)) == 6
    assert sorted(row["file"] for row in rows(out / "cohort.csv")) == sorted(map(str, scans.iterdir()))
    assert (out / "report.html").is_file()


@pytest.mark.slow  # on a fast machine, a task may end before it is killed
def test_killed_tasks_are_submitted_again(cluster, tmp_path):
    check_two_killed_tasks(cluster, tmp_path, 50, 2)


@pytest.mark.slow
def test_two_of_four_tasks_are_killed(cluster, tmp_path):
    check_two_killed_tasks(cluster, tmp_path, int(os.environ.get("MRIRECON_SLURM_FILES", "200")), 4)


def check_two_jobs_equal_one(cluster, config, out, length, tmp_path):
    """Check that a training ran in two jobs, with the weights, state and log of one without interruption."""
    cluster.mrirecon("submit", "status", out, "--wait", timeout=600)
    starts = [line for line in (out / "log.jsonl").read_text().splitlines() if '"started"' in line]
    assert len(starts) == 2, "the training ran in two jobs"
    assert "resuming after step" in log_of(out)
    training.train(load_config(config, list(length[1::2])), tmp_path / "straight")
    same(last_state(out), last_state(tmp_path / "straight"))
    assert logged(out) == logged(tmp_path / "straight")


def log_of(out):
    """Return the logs of all tasks."""
    return "".join(path.read_text() for path in (out / "jobs").glob("*_log.out"))


@pytest.mark.slow
def test_a_signal_queues_a_training_again(cluster, tmp_path, config):
    """Check that SIGUSR1, as before the time limit, ends a job with its state saved, and the next job continues."""
    out = tmp_path / "run"
    length = ("--set", "train.steps=16", "--set", "train.validate_every=8")
    cluster.mrirecon("submit", "train", config, "-o", out, *length)
    cluster.wait_until(lambda: steps(out) >= 3, what="first steps")
    (job,) = cluster.jobs("running")
    cluster.run("scancel", "--signal=USR1", job)
    check_two_jobs_equal_one(cluster, config, out, length, tmp_path)


@pytest.mark.slow
def test_a_time_limit_queues_a_training_again(cluster, tmp_path, config):
    """Check the same with a real time limit of a minute."""
    out = tmp_path / "run"
    count = int(os.environ.get("MRIRECON_SLURM_STEPS", "1500"))  # more than fit into a minute
    length = ("--set", f"train.steps={count}", "--set", f"train.validate_every={count // 2}")
    limit = ("--time", "1", "--warning", os.environ.get("MRIRECON_SLURM_WARNING", "25"), "--requeues", "50")
    cluster.mrirecon("submit", "train", config, "-o", out, *length, *limit)
    cluster.mrirecon("submit", "status", out, "--wait", timeout=1200)
    starts = [line for line in (out / "log.jsonl").read_text().splitlines() if '"started"' in line]
    assert len(starts) >= 2, "the training ran in several jobs"
    assert "TIMEOUT" not in str(cluster.jobs()), "no job reached its limit"
    training.train(load_config(config, list(length[1::2])), tmp_path / "straight")
    same(last_state(out), last_state(tmp_path / "straight"))
    assert logged(out) == logged(tmp_path / "straight")


@pytest.mark.slow
def test_a_preempted_training_continues(cluster, tmp_path, config):
    """Check that a job of a partition with a higher priority stops a training, which continues after it."""
    out = tmp_path / "run"
    length = ("--set", "train.steps=60", "--set", "train.validate_every=30")
    cluster.mrirecon("submit", "train", config, "-o", out, *length)
    cluster.wait_until(lambda: steps(out) >= 3, what="first steps")
    cluster.run("srun", "--partition=urgent", "--exclusive", f"--nodes={NODES}", "sleep", "2")
    check_two_jobs_equal_one(cluster, config, out, length, tmp_path)
    assert "is saved; continue with" in log_of(out)


@pytest.mark.slow
def test_a_cancelled_training_is_lost_until_it_is_submitted_again(cluster, tmp_path, config):
    out = tmp_path / "run"
    length = ("--set", "train.steps=60", "--set", "train.validate_every=30")
    cluster.mrirecon("submit", "train", config, "-o", out, *length)
    cluster.wait_until(lambda: steps(out) >= 3, what="first steps")
    cluster.mrirecon("submit", "train", config, "-o", out, *length, code=3)  # refused: it runs
    (job,) = cluster.jobs("running")
    cluster.run("scancel", job)
    cluster.mrirecon("submit", "status", out, "--wait", code=4)
    assert cluster.status(out)["train"]["state"] == "lost"
    assert cluster.status(out)["train"]["reason"] == "cancelled"
    cluster.mrirecon("submit", "status", out, "--resubmit-failed")
    check_two_jobs_equal_one(cluster, config, out, length, tmp_path)


@pytest.mark.slow
def test_a_failed_node_loses_and_repeats_nothing(cluster, tmp_path):
    """Kill the daemon of a node with a task: Slurm runs the task on another node, while its first process goes on."""
    files = 120
    scans, out = make_scans(tmp_path / "scans", files), tmp_path / "out"
    cluster.mrirecon("submit", "reconstruct", scans, "-o", out, "--tasks=2", *FAST, "--sbatch", "exclusive=user")
    table = out / "jobs" / "1-of-2.csv"
    cluster.wait_until(lambda: table.exists() and len(rows(table)) > 2, what="first images")
    job = json.loads((out / "jobs" / "submission.json").read_text())["tasks"][0]["job"]
    node = cluster.jobs()[job][1]
    os.kill(int((cluster.folder / "run" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    try:
        cluster.wait_until(lambda: "down" in cluster.run("sinfo", "--noheader", f"--nodes={node}"), what="node down")
        cluster.mrirecon("submit", "status", out, "--wait", timeout=600)
    finally:
        cluster.run("slurmd", "-N", node, "-f", cluster.environment["SLURM_CONF"])
    assert len(images(out)) == files
    assert len(reconstructed(out)) == len(set(reconstructed(out))) == files, "nothing is done twice"
    assert sorted(row["file"] for row in rows(out / "cohort.csv")) == sorted(map(str, scans.iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 2)])
def test_ranks_on_several_nodes_train_as_one_process(cluster, tmp_path, config, nodes, processes):
    """Check that ranks started by srun get the weights of one process, also with a sample buffer in each rank."""
    out, more = tmp_path / "run", (f"--nodes={nodes}", f"--processes-per-node={processes}")
    length = ("--set", "train.steps=6", "--set", "train.batch=4", "--set", "train.precision=float32")
    cluster.mrirecon("submit", "train", config, "-o", out, *length, *more, "--wait")
    training.train(load_config(config, list(length[1::2])), tmp_path / "one")
    one, several = last_state(tmp_path / "one"), last_state(out)
    assert several["ranks"] == nodes * processes
    for name, weight in one["model"].items():
        assert float((weight - several["model"][name]).norm() / weight.norm()) < 1e-5, name
    buffer = ("--set", "data.buffer.draws_per_sample=2", "--set", "data.buffer.capacity=8")
    again = tmp_path / "buffer"
    cluster.mrirecon("submit", "train", config, "-o", again, *length, *buffer, *more, "--wait")
    lines = [json.loads(line) for line in (again / "log.jsonl").read_text().splitlines()]
    assert max(line["uses"] for line in lines if "uses" in line) > 1


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(cluster, tmp_path, config):
    """Check that the job of four ranks ends within 60 s after one was killed, and that its state is lost."""
    out = tmp_path / "run"
    more = ("--set", "train.batch=4", "--set", "train.steps=400", "--set", "train.validate_every=200")
    cluster.mrirecon("submit", "train", config, "-o", out, *more, "--nodes=2", "--processes-per-node=2")
    cluster.wait_until(lambda: steps(out) >= 4, what="first steps")
    (job,) = cluster.jobs("running")
    ranks = pids(job)
    assert len(ranks) == 4
    begun = time.monotonic()
    os.kill(ranks[3], signal.SIGKILL)
    cluster.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 60, "the end of all ranks")
    assert time.monotonic() - begun < 60
    cluster.wait_until(lambda: job not in cluster.jobs("running"), 60, "the end of the job")
    assert cluster.status(out)["train"]["state"] == "lost"


@pytest.mark.slow
def test_the_log_says_what_another_number_of_ranks_changes(cluster, tmp_path, config):
    out = tmp_path / "run"
    same_run = ("--set", "train.batch=4", "--set", "train.schedule=constant", "--set", "data.buffer.draws_per_sample=2")
    first, then = ("--set", "train.steps=4"), ("--set", "train.steps=8")
    cluster.mrirecon("submit", "train", config, "-o", out, *same_run, *first, "--processes-per-node=2", "--wait")
    cluster.mrirecon("submit", "train", config, "-o", out, *same_run, *then, "--processes-per-node=4", "--wait")
    assert last_state(out)["step"] == 8
    assert "started with 2 processes and resumes with 4: each takes 1 of the 4 samples" in log_of(out)
    assert "1024 instead of 512 in all" in log_of(out)
