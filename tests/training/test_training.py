"""Test that a run can be stopped at any time, resumes bit for bit, and writes its outputs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mrirecon import training
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import InputError, ModelMismatchError, SignalError, Stopped, UsageError
from mrirecon.io import read, read_image, write_kspace
from mrirecon.masks import make_mask
from mrirecon.models.checkpoints import load_model
from mrirecon.training import loop, state
from mrirecon.training import trainer as parts
from mrirecon.training.config import load_config
from mrirecon.training.setup import learning_rate, make_fabric, processes
from mrirecon.training.state import load_state, save_state, states

TINY = """
method: cirim
model: {cascades: 2, steps: 2, features: 8}
data:
  train: [phantom:0, phantom:1]
  val: [phantom:9]
  crop: [64, 72]
  val_items: 2
  simulation: {coils: [3, 4], resolution: [0.4, 0.5]}
  masks: [{family: random, acceleration: [2, 3], calibration: [10, 12]}]
loss: {l1: 1.0, ssim: 0.1}
train: {steps: 8, validate_every: 4, checkpoint_every: 3, log_every: 1, validation_images: 1,
  ema: 0.9, schedule: cosine, warmup: 2, gradient_clip: 1.0}
"""
EXACT = ["train.precision=float32"]  # where sums of other order are compared
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def straight(config, tmp_path):
    """Run a training to its end without interruption."""
    training.train(load_config(config), tmp_path / "straight")
    return tmp_path / "straight"


def last_state(folder):
    state, notes = load_state(folder / "states")
    assert not notes
    return state


def same(a, b, path=""):
    """Compare nested tensors and data bit for bit, except for the wall time."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key != "seconds":
                same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def logged(folder):
    """Return the log without the times, which differ between runs."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in x.items() if k in ("step", "loss", "gradient", "lr", "validation")}
        for x in lines
        if "started" not in x
    ]


def start(config, folder, *more, **environment):
    command = [sys.executable, "-m", "mrirecon", "train", str(config), "-o", str(folder), *more]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | THREADS | environment
    )


def wait_for_step(folder, step, process, seconds=600):
    """Wait until a step is logged or the run ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        path = folder / "log.jsonl"
        now = path.read_text().rpartition('"started"')[2] if path.exists() else ""
        if any(f'"step": {n}, "loss"' in now for n in range(step, 99)):
            return
        if process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError("the run did not get that far")


def test_what_a_run_leaves(straight, config):
    for name in ("best", "last"):
        trained = load_model(straight / name)
        assert trained.method == "cirim"
        assert trained.card["subjects"] == {"train": ["phantom:0", "phantom:1"], "val": ["phantom:9"]}
        assert trained.card["effective batch"] == 1
        assert trained.card["measured or simulated"] == "simulated from magnitude volumes"
        assert trained.card["validation"]["items"] == 2
        assert trained.card["covers"]["acceleration"] == [2, 3]
    saved, asked = (load_config(path).plain() for path in (straight / "config.yaml", config))
    assert asked["train"].pop("precision") == "auto"
    assert saved["train"].pop("precision") == trained.card["precision"] != "auto"
    assert saved == asked
    assert len(states(straight / "states")) == 2
    assert {p.name for p in (straight / "panels").iterdir()} == {"step-00000004.png", "step-00000008.png"}
    lines = logged(straight)
    assert [x["step"] for x in lines if "loss" in x] == list(range(1, 9))
    assert all(x["lr"] <= 1e-3 for x in lines if "lr" in x)
    # exported are the averaged weights, not the last ones
    exported, saved = load_model(straight / "last").model.state_dict(), last_state(straight)
    for name, weight in exported.items():
        assert torch.equal(weight, saved["ema"][name])
    assert any(not torch.equal(saved["model"][n], saved["ema"][n]) for n in exported)


def test_the_model_reconstructs(straight, tmp_path):
    from mrirecon.reconstruction.file import reconstruct_file

    source = Path(__file__).parents[2] / "data_samples" / "brain_4x.h5"
    reconstruct_file(source, tmp_path / "image.h5", model=straight / "best")
    assert read_image(tmp_path / "image.h5").shape == (len(read(source)), *read(source).space_shape)


def test_the_same_run_twice_is_the_same(straight, config, tmp_path):
    training.train(load_config(config, ["train.workers=2"]), tmp_path / "again")
    same(last_state(straight), last_state(tmp_path / "again"))
    assert logged(straight) == logged(tmp_path / "again")


@pytest.mark.parametrize("at", [1, 3, 5])
def test_an_error_at_any_step_is_made_up_for(straight, config, tmp_path, monkeypatch, at):
    """Crash inside a step, which leaves invalid data in memory."""
    folder, advance = tmp_path / "run", parts.Trainer.advance

    def crash(self, batches):
        if self.step == at:
            raise KeyboardInterrupt
        return advance(self, batches)

    monkeypatch.setattr(parts.Trainer, "advance", crash)
    with pytest.raises(KeyboardInterrupt):
        training.train(load_config(config), folder)
    monkeypatch.undo()
    training.train(load_config(config), folder)
    same(last_state(straight), last_state(folder))
    assert logged(straight) == logged(folder)


def finish(config, folder, *more):
    """Run to the end in a separate process."""
    with start(config, folder, *more) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr


def test_killed_at_random_moments(config, tmp_path):
    """Stop by SIGKILL, SIGTERM or SIGUSR1 at any time: the resumed run is identical (R01, R02, R08)."""
    finish(config, tmp_path / "straight")
    folder, rng = tmp_path / "run", random.Random(4)
    for number, step in ((signal.SIGKILL, 1), (signal.SIGTERM, 3), (signal.SIGUSR1, 4), (signal.SIGKILL, 6)):
        with start(config, folder) as process:
            wait_for_step(folder, step, process)
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:  # it was quicker
            break
        # Outside the command's own handlers, while Python starts or ends, a signal ends the process as usual.
        assert process.returncode in (-number, 128 + number), stderr
        assert "Traceback" not in stderr
    finish(config, folder)
    same(last_state(tmp_path / "straight"), last_state(folder))
    assert logged(tmp_path / "straight") == logged(folder)


@pytest.mark.slow
def test_killed_many_times(config, tmp_path):
    """Send twenty signals at random times."""
    finish(config, tmp_path / "straight")
    folder, rng, kills = tmp_path / "run", random.Random(0), 0
    while kills < 20:
        with start(config, folder) as process:
            try:
                process.communicate(timeout=rng.uniform(2.5, 9))
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1]))
                process.communicate(timeout=60)
                kills += 1
                continue
        assert process.returncode == 0
        same(last_state(tmp_path / "straight"), last_state(folder))
        assert logged(tmp_path / "straight") == logged(folder)
        folder = tmp_path / f"run{kills}"


def test_a_signal_saves_the_step(config, tmp_path):
    def interrupt(step, total, what):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="step 2 of 8 is saved") as caught:
        training.train(load_config(config), tmp_path / "run", progress=interrupt)
    assert caught.value.number == signal.SIGTERM
    assert last_state(tmp_path / "run")["step"] == 2


def test_a_finished_run_says_so(straight, config):
    before = (straight / "log.jsonl").read_text()
    done = training.train(load_config(config), straight)
    assert done["steps"] == 8
    assert done["scores"]["ssim"] is not None
    assert (straight / "log.jsonl").read_text().startswith(before)


def test_a_changed_configuration_is_refused(straight, config):
    with pytest.raises(UsageError) as caught:
        training.train(load_config(config, ["model.features=16", "train.lr=0.01"]), straight)
    assert "model.features: 8 -> 16" in caught.value.why
    assert "train.lr: 0.001 -> 0.01" in caught.value.why
    with pytest.raises(UsageError, match="the folder contains a run"):
        training.train(load_config(config), straight, resume="never")
    with pytest.raises(UsageError, match="differs from that of the run"):  # a cosine that ends elsewhere is another run
        training.train(load_config(config, ["train.steps=12"]), straight)


def test_a_run_can_be_prolonged(config, tmp_path):
    constant = ["train.schedule=constant"]
    training.train(load_config(config, [*constant, "train.steps=4"]), tmp_path / "run")
    training.train(load_config(config, constant), tmp_path / "run")
    training.train(load_config(config, constant), tmp_path / "straight")
    same(last_state(tmp_path / "straight"), last_state(tmp_path / "run"))


def test_a_damaged_state_falls_back(straight, config):
    path = states(straight / "states")[0]
    good = last_state(straight)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    messages = []
    training.train(load_config(config), straight, on_message=messages.append)
    assert any("damaged" in t for t in messages)
    same(good, last_state(straight))
    for path in states(straight / "states"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="every state of this run is damaged"):
        training.train(load_config(config), straight)


def test_a_state_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "FORMAT", 99)
    save_state(tmp_path, 1, {"step": 1})
    monkeypatch.undo()
    with pytest.raises(ModelMismatchError, match="another version") as caught:
        load_state(tmp_path)
    assert "99" in caught.value.why


def test_states_are_written_whole(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"step": 1, "x": torch.zeros(3)})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(Exception, match="could not be written"):
        save_state(tmp_path, 2, {"step": 2, "x": torch.zeros(3)})
    monkeypatch.undo()
    assert [p.name[:13] for p in states(tmp_path)] == ["step-00000001"]
    assert load_state(tmp_path)[0]["step"] == 1


def test_a_loss_that_is_not_a_number_stops(config, tmp_path, monkeypatch):
    """Check that the error names the item and the last state is intact (R09)."""
    loss = parts.Loss.weighted_sum

    def spoilt(self, images, weights):
        return loss(self, images, weights) * (float("nan") if spoilt.count >= 5 else 1.0)

    spoilt.count = 0
    advance = parts.Trainer.advance

    def counted(self, batches):
        spoilt.count = self.step
        return advance(self, batches)

    monkeypatch.setattr(parts.Loss, "weighted_sum", spoilt)
    monkeypatch.setattr(parts.Trainer, "advance", counted)
    with pytest.raises(SignalError, match="NaN or infinite at step 5") as caught:
        training.train(load_config(config), tmp_path / "run")
    assert "phantom:" in caught.value.where
    assert "item 5" in caught.value.where
    assert last_state(tmp_path / "run")["step"] == 4


def test_accumulated_batches_are_one_large_batch(config, tmp_path):
    """Check that losses do not depend on the grouping of items, up to rounding."""
    results = []
    for more in (["train.batch=4"], ["train.batch=2", "train.accumulate=2"]):
        c = load_config(
            config,
            [
                *more,
                "train.steps=1",
                "train.gradient_clip=null",
                "data.crop=[64,64]",
                "data.simulation.coils=[4,4]",
                *EXACT,
            ],
        )
        trainer = parts.Trainer(c, tmp_path, make_fabric(c.settings.train, "cpu"))
        trainer.advance(trainer.loader.batches(0))
        results.append(trainer.state())
    # the size is drawn per batch; with one size, nothing else differs
    for name, weight in results[0]["model"].items():
        assert torch.allclose(weight, results[1]["model"][name], rtol=1e-4, atol=2e-6), name


def test_early_stop(config, tmp_path, monkeypatch):
    merits = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(loop, "selection_score", lambda scores: next(merits))
    result = training.train(load_config(config, ["train.patience=2", "train.validate_every=1"]), tmp_path / "run")
    assert (result["steps"], result["best"]) == (3, 0.5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "inverse-sqrt"])
def test_schedules(config, schedule):
    train = load_config(
        config, [f"train.schedule={schedule}", "train.warmup=10", "train.lr_decay_every=50"]
    ).settings.train
    rates = [learning_rate(train, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-3, rel=0.06)
    end = {"constant": 1e-3, "cosine": 1e-5, "step": 1e-4, "inverse-sqrt": 1e-3 * np.sqrt(10 / 100)}[schedule]
    assert rates[-1] == pytest.approx(end, rel=0.05)


@pytest.mark.parametrize(
    "more",
    [["train.precision=bfloat16"], ["model.memory=checkpoint"], ["train.optimizer=adamw", "train.weight_decay=0.1"]],
)
def test_other_ways_to_learn(config, tmp_path, more):
    done = training.train(load_config(config, [*more, "train.steps=2"]), tmp_path / "run")
    assert done["steps"] == 2
    assert np.isfinite(done["scores"]["ssim"])


def test_tensorboard_on_request(config, tmp_path):
    pytest.importorskip("tensorboard")
    training.train(load_config(config, ["train.tensorboard=true", "train.steps=2"]), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_dry_run_writes_nothing(config, tmp_path):
    plan = training.dry_run(load_config(config), tmp_path / "run", "cpu")
    assert plan["parameters"] == 2 * 1032 or plan["parameters"] > 0
    assert plan["seconds in all"] > 0
    assert plan["memory (MiB)"] > 1
    assert not (tmp_path / "run").exists()


def test_without_lightning_there_is_an_install_line(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(UsageError) as caught:
        training.train(load_config(config), tmp_path / "run")
    assert "pip install" in caught.value.fix


def test_workers_that_die_are_started_again(config, tmp_path):
    """Check that killed workers lose no items, which are functions of their number (R05)."""
    c = load_config(config, ["train.workers=1"])
    trainer = parts.Trainer(c, tmp_path, make_fabric(c.settings.train, "cpu"))
    batches = trainer.loader.batches(0)
    names = [next(batches).names for _ in range(2)]
    import multiprocessing

    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    names += [next(batches).names for _ in range(4)]
    assert names == [
        [f"{trainer.train_samples.slices[s].name}, epoch {e}, item {n}"]
        for b in trainer.sampler.epoch(0)[:6]
        for e, n, s in b
    ]
    assert trainer.loader.notes


def ranks(config, folder, *more):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mrirecon"]
    command += ["train", str(config), "-o", str(folder), *more]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | THREADS, **pipes)


def test_two_ranks_are_one_process(config, tmp_path):
    """Check that processes share a batch and get the weights of one process."""
    more = ["--set", "train.batch=2", "--set", "train.steps=4", "--set", *EXACT]
    with ranks(config, tmp_path / "two", *more) as process:
        out, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert out.count("model: ") == 1
    finish(config, tmp_path / "one", *more)
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    for name, weight in one["model"].items():
        assert float((weight - two["model"][name]).norm() / weight.norm()) < 1e-5, name
    assert one["scores"] == pytest.approx(two["scores"], rel=1e-4)
    assert load_model(tmp_path / "two" / "last").card["processes"] == 2


def test_slurm(config, tmp_path, monkeypatch):
    """Check the number of processes in a Slurm allocation, with and without srun."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert processes() == (1, 1)
    assert training.dry_run(load_config(config), tmp_path, "cpu")["steps"] == 8
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert processes() == (8, 4)


def test_ranks_must_share_a_batch(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes cannot share a batch of 3"):
        training.train(load_config(config, ["train.batch=3"]), tmp_path / "three")


def test_a_rank_that_dies_ends_all(config, tmp_path):
    """Check that a dead rank ends the run within a minute, with an error (R10)."""
    with ranks(config, tmp_path / "run", "--set", "train.batch=2", "--set", "train.steps=2000") as process:
        wait_for_step(tmp_path / "run", 2, process)
        children = [int(x) for x in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        begun = time.monotonic()
        os.kill(children[-1], signal.SIGKILL)
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 60
    assert process.returncode != 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


CONFIGS = Path(__file__).parents[2] / "configs"
BRIEF = ["train.steps=2", "train.validate_every=2", "train.accumulate=1", "data.val_items=1", "data.train=[phantom:0]"]
BRIEF += [
    "data.val=[phantom:9]",
    "data.crop=[96,96]",
    "data.simulation.coils=[3,3]",
    "train.batch=1",
    "train.validation_images=1",
]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_runs(path, tmp_path):
    done = training.train(load_config(path, BRIEF), tmp_path / "run")
    assert np.isfinite(done["scores"]["ssim"])
    assert (tmp_path / "run" / "best").is_dir() == done["learned"]
    assert list((tmp_path / "run" / "panels").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((CONFIGS / "papers").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_configuration_runs(path, tmp_path):
    done = training.train(load_config(path, BRIEF), tmp_path / "run")
    assert np.isfinite(done["scores"]["ssim"])


@pytest.mark.parametrize("loss", ["loss.kspace_l1=1.0", "loss.l2=0.1"])
def test_other_losses_run(config, tmp_path, loss):
    done = training.train(load_config(config, [loss, "loss.region=object", "train.steps=2"]), tmp_path / "run")
    assert np.isfinite(done["scores"]["ssim"])


def test_self_supervision_needs_no_reference(config, tmp_path):
    """Train by SSDU on undersampled scans; the best model predicts held-out samples best."""
    image = phantom((64, 72), 3, 1)
    for name, seed in (("case1", 1), ("case2", 2)):
        full = simulate_kspace(image, 4, 40.0, seed).kspace
        mask = make_mask("random", (64, 72), 2, calibration=14, seed=seed).mask
        write_kspace(tmp_path / f"{name}.h5", (full * mask).astype(np.complex64))
    data = [f"data.train=[{tmp_path}/case1.h5]", f"data.val=[{tmp_path}/case2.h5]", "data.crop=null"]
    loss = ["loss.l1=0", "loss.ssim=0", "loss.ssdu=1.0"]
    done = training.train(load_config(config, [*data, *loss, "train.steps=4"]), tmp_path / "run")
    assert done["scores"]["ssim"] is None
    assert 0 < done["scores"]["held_error"] < 2
    assert load_model(tmp_path / "run" / "best").card["measured or simulated"] == "measured k-space"
    with pytest.raises(UsageError, match="no reference for the loss"):
        training.train(load_config(config, data), tmp_path / "other")


@pytest.mark.slow
def test_it_learns(config, tmp_path):
    """Check that the shipped configuration, trained for a few minutes, clearly exceeds zero filling."""
    done = training.train(load_config(CONFIGS / "cirim.yaml", ["train.steps=600"]), tmp_path / "run")
    assert done["scores"]["ssim"] > done["zero_filled"]["ssim"] + 0.03
    assert done["scores"]["nmse"] < 0.7 * done["zero_filled"]["nmse"]


def test_a_run_starts_from_the_weights_of_another(straight, config, tmp_path):
    begun = tmp_path / "begun.yaml"
    begun.write_text(
        TINY.replace("train: {steps: 8,", f"train: {{steps: 1, lr: 1e-12, initial_weights: {straight / 'best'},")
    )
    training.train(load_config(begun), tmp_path / "begun")
    ours, theirs = load_model(tmp_path / "begun" / "last"), load_model(straight / "best")
    for name, weight in theirs.model.named_parameters():
        torch.testing.assert_close(dict(ours.model.named_parameters())[name], weight, rtol=0, atol=1e-9)
    assert ours.card["started from"] == str(straight / "best")
    other = tmp_path / "other.yaml"
    other.write_text(begun.read_text().replace("lr: 1e-12,", "lr: 1e-3, freeze: [engine.blocks.0.network.layers],"))
    training.train(load_config(other), tmp_path / "frozen")
    frozen = load_model(tmp_path / "frozen" / "last")
    for name, weight in theirs.model.named_parameters():
        moved = not torch.equal(dict(frozen.model.named_parameters())[name], weight)
        assert moved != name.startswith("engine.blocks.0.network.layers."), name
    assert frozen.card["frozen"] == ["engine.blocks.0.network.layers"]
    other.write_text(begun.read_text().replace("lr: 1e-12,", "freeze: [engine.block],"))
    with pytest.raises(UsageError, match="nothing to freeze") as caught:
        training.train(load_config(other), tmp_path / "nothing")
    assert "engine.blocks" in caught.value.fix
    other.write_text(begun.read_text().replace("features: 8", "features: 12"))
    with pytest.raises(UsageError, match="do not match"):
        training.train(load_config(other), tmp_path / "other")
