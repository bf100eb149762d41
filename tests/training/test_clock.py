"""Test a time budget, the end of a Slurm job, one process per folder, and sleeping threads."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mrirecon import training
from mrirecon.data import loading
from mrirecon.errors import BusyError, InputError, UsageError
from mrirecon.io.safe.lock import output_lock
from mrirecon.models.checkpoints import load_model
from mrirecon.training import clock, loop
from mrirecon.training import trainer as parts
from mrirecon.training.clock import Clock
from mrirecon.training.config import load_config
from mrirecon.training.setup import learning_rate
from tests.training.test_training import TINY, last_state, logged


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        TINY.replace("train: {", "train: {workers: 0, ").replace("validation_images: 1", "validation_images: 0")
    )
    return path


@pytest.fixture
def now(monkeypatch):
    """Provide a clock on which a batch or a validation item takes 20 s and everything else no time."""
    time = SimpleNamespace(seconds=1000.0)
    fake = SimpleNamespace(monotonic=lambda: time.seconds, time=lambda: time.seconds, perf_counter=lambda: time.seconds)
    for module in (clock, parts, loop):
        monkeypatch.setattr(module, "time", fake)
    item, batches = parts.SampleFactory.sample, parts.SampleLoader.batches

    def slow_item(self, *address):
        time.seconds += 20.0
        return item(self, *address)

    def slow_batches(self, first):
        for batch in batches(self, first):
            time.seconds += 20.0
            yield batch

    monkeypatch.setattr(parts.SampleFactory, "sample", slow_item)
    monkeypatch.setattr(parts.SampleLoader, "batches", slow_batches)
    return time


def test_the_schedule_spans_the_budget_and_the_run_ends_whole(config, tmp_path, now):
    messages = []
    folder, minutes = tmp_path / "run", ["train.minutes=5", "train.validate_every=1"]
    done = training.train(load_config(config, minutes), folder, on_message=messages.append)
    assert 1000 + 0.75 * 300 < now.seconds < 1000 + 300, "the budget is used and not exceeded"
    assert done["finished"]
    assert any("budget is used up" in t for t in messages)
    rates = [x["lr"] for x in logged(folder) if "lr" in x]
    assert len(rates) == done["steps"]
    assert rates == sorted(rates, reverse=True) or rates.index(max(rates)) <= 2, "it decreases after the warm-up"
    assert rates[-1] < 0.1 * max(rates), "the schedule is at its end"
    checked = [x["step"] for x in logged(folder) if "validation" in x]
    assert checked[-1] == done["steps"], "the last step is validated"
    assert len(checked) <= 3, "there are few others, because each takes as long as two steps"
    for name in ("best", "last"):
        assert load_model(folder / name).card["steps"] in checked
    assert load_model(folder / "last").card["steps"] == last_state(folder)["step"] == done["steps"]

    before, now.seconds = done["steps"], 5000.0
    done = training.train(load_config(config, ["train.minutes=10", *minutes[1:]]), folder)
    assert now.seconds < 5000 + 600
    assert done["steps"] > before + 10, "a further budget resumes from the state"
    rates = [x["lr"] for x in logged(folder) if "lr" in x]
    assert rates[-1] < 0.05 * max(rates[before:])
    assert max(rates[before:]) < max(rates), "from the progress of both budgets together"


def test_a_budget_too_short_still_leaves_a_model(config, tmp_path, now):
    done = training.train(load_config(config, ["train.minutes=0.1"]), tmp_path / "run")
    assert done["steps"] == 1
    assert load_model(tmp_path / "run" / "last").card["steps"] == 1


def test_validation_is_cut_to_the_time(config, tmp_path, now):
    messages = []
    folder = tmp_path / "run"
    training.train(load_config(config, ["train.minutes=2.5"]), folder, on_message=messages.append)
    assert any("validating with 1 of 2 items" in t for t in messages)
    assert load_model(folder / "last").card["validation"]["items"] == 1
    assert last_state(folder)["items"] == 1


def test_a_slurm_job_ends_whole_and_is_gone_on_with(config, tmp_path, now, monkeypatch):
    """Check that the schedule spans the steps, and that the end of a job stops them early."""
    folder, messages = tmp_path / "run", []
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1250")
    done = training.train(load_config(config), folder, on_message=messages.append)
    assert not done["finished"]
    assert 1 < done["steps"] < 8
    assert now.seconds < 1250
    assert any("job's time is almost up" in t for t in messages)
    assert load_model(folder / "last").card["steps"] == done["steps"]
    monkeypatch.setenv("SLURM_JOB_END_TIME", "9999")
    done = training.train(load_config(config), folder)
    assert (done["steps"], done["finished"]) == (8, True)
    rates = [x["lr"] for x in logged(folder) if "lr" in x]
    train = load_config(config).settings.train
    assert rates == [learning_rate(train, step, 8) for step in range(8)]


def test_minutes_are_a_length_of_their_own(config, tmp_path):
    text = TINY.replace("steps: 8", "minutes: 2.5")
    config.write_text(text)
    train = load_config(config).settings.train
    assert (train.minutes, train.steps) == (2.5, None)
    assert learning_rate(train, 0, sys.maxsize, 0.0) == pytest.approx(train.lr / train.warmup)
    assert learning_rate(train, 0, sys.maxsize, 0.1) == pytest.approx(train.lr, rel=0.03), "end of the warm-up"
    assert learning_rate(train, 500, sys.maxsize, 1.0) == pytest.approx(train.lr * train.final_lr_share)
    config.write_text(TINY.replace("steps: 8", "validation_images: 1").replace("validation_images: 1,\n", "\n"))
    with pytest.raises((UsageError, InputError), match="minutes"):
        load_config(config)


def test_the_clock(monkeypatch):
    at = SimpleNamespace(now=100.0)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: at.now, time=lambda: at.now))
    none = Clock(None, 0.0)
    assert (none.out_of_time, none.validation_due, none.progress) == (False, True, 0.0)
    c = Clock(10.0, 100.0, spent=300.0)
    at.now = 120.0
    c.start(20.0)
    whole = 600 - 30 - 20 - 20  # the margin, the start, the last validation
    assert c.progress == pytest.approx(300 / (300 + whole))
    at.now += whole / 2
    assert c.progress == pytest.approx((300 + whole / 2) / (300 + whole))
    c.record_step(500.0)  # the first step includes one-time work and does not predict the others
    c.record_step(6.0)
    at.now = 700 - 30 - 20 - 9.1
    assert not c.out_of_time
    at.now += 0.2
    assert c.out_of_time
    c.record_step(30.0, waited=24.0, chunks_made=1, ahead=0)
    at.now -= 0.2
    assert not c.out_of_time, "a chunk of samples is computed for this step only"
    c.record_step(6.0, ahead=1)
    assert c.out_of_time, "the next one as well"
    at.now -= 24.0
    assert not c.out_of_time
    at.now += 0.2
    assert c.out_of_time


def test_a_chunk_of_samples_made_at_times_does_not_end_a_run_early(config, tmp_path, now):
    """Let every fourth step take 100 s, because it computes a chunk, and the others 20 s."""
    slow = [
        "data.buffer.batches_per_chunk=4",
        "data.buffer.draws_per_sample=1",
        "train.minutes=15",
        "train.accumulate=1",
    ]
    make_chunk = loading._make_chunk

    def slowly(*given):
        now.seconds += 80.0
        return make_chunk(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_make_chunk", slowly)
        done = training.train(load_config(config, slow), tmp_path / "run")
    assert now.seconds < 1000 + 900
    assert done["steps"] >= 14


def test_two_runs_in_one_folder(config, tmp_path):
    folder = tmp_path / "run"
    with (
        output_lock(folder / loop.CONFIG, wait=False),
        pytest.raises(BusyError, match="another process trains") as caught,
    ):
        training.train(load_config(config), folder)
    assert caught.value.fix
    assert not (folder / "log.jsonl").exists()
    training.train(load_config(config, ["train.steps=1"]), folder)
    assert not list(folder.glob(".mrirecon-*")), "the lock is released"


def test_a_run_that_failed_before_its_first_state_blocks_nothing(config, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def fail(self, batches):
        raise InputError("the data are not there")

    with monkeypatch.context() as patch:
        patch.setattr(parts.Trainer, "advance", fail)
        with pytest.raises(InputError, match="not there"):
            training.train(load_config(config), folder)
    assert (folder / "config.yaml").is_file()
    done = training.train(load_config(config, ["train.lr=0.002", "train.steps=2"]), folder, resume="never")
    assert done["steps"] == 2
    assert load_config(folder / "config.yaml").settings.train.lr == 0.002
    for path in (folder / "states").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="no state to resume from"):
        training.train(load_config(config, ["train.lr=0.002", "train.steps=2"]), folder)


def test_a_state_keeps_threads_and_precision(config, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads, folder = torch.get_num_threads(), tmp_path / "run"
    constant = ["train.schedule=constant", "train.precision=bfloat16"]
    training.train(load_config(config, [*constant, "train.steps=2"]), folder)
    state = last_state(folder)
    assert (state["threads"], state["precision"]) == (threads, "bfloat16")
    messages = []
    try:
        torch.set_num_threads(threads + 1)
        training.train(load_config(config, [*constant, "train.steps=3"]), folder, on_message=messages.append)
        assert torch.get_num_threads() == threads
        assert any(f"using {threads} threads" in t for t in messages)
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads + 1))
        torch.set_num_threads(threads + 1)
        training.train(load_config(config, [*constant, "train.steps=4"]), folder, on_message=messages.append)
        assert torch.get_num_threads() == threads + 1
        assert any("not bit-identical" in t for t in messages)
    finally:
        torch.set_num_threads(threads)
    assert last_state(folder)["precision"] == "bfloat16"


@pytest.mark.parametrize("asked", [{}, {"GOMP_SPINCOUNT": "77"}])
def test_threads_sleep_by_default_and_it_is_said_before_torch_comes(asked):
    program = (
        "import os, sys\n"
        "from mrirecon.cli import main\n"
        "before = 'torch' in sys.modules or 'numpy' in sys.modules\n"
        "try:\n    main(['--version'])\n"
        "except SystemExit:\n    pass\n"
        "print(before, os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | asked, capture_output=True, text=True, check=True
    )
    wanted = "False None 77" if asked else "False PASSIVE 0"
    assert done.stdout.splitlines()[-1] == wanted
