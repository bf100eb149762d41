"""Run the training loop; each optimizer step depends only on the state before it and on the settings."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from mrirecon.errors import BusyError, Stopped, UsageError
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.lock import output_lock
from mrirecon.models.costs import peak_allocation
from mrirecon.training.config import Config, differences, load_config, render
from mrirecon.training.curve import draw_run, warn_if_useless
from mrirecon.training.log import Log
from mrirecon.training.setup import learning_rate, make_fabric, rank_of_process, with_precision
from mrirecon.training.state import State, load_state, save_state, states
from mrirecon.training.trainer import STOPPING, Trainer
from mrirecon.training.validate import selection_score

Progress = Callable[[int, int, str], None]
CONFIG, STATES = "config.yaml", "states"
# Settings that may change when a run resumes: they do not affect its results, or apply to one call, such as minutes.
CHANGEABLE = (
    *("train.workers", "train.tensorboard", "train.checkpoint", "train.validation_images", "train.log_every"),
    *("train.minutes", "data.licence"),
)
RUN_LENGTH = ("train.steps", "train.epochs")
TIMED_STEPS = 2  # number of steps of a dry run after the first


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    on_message: Callable[[str], None] = lambda text: None,
    command: Sequence[str] | None = None,
    begun: float | None = None,
) -> dict[str, Any]:
    """Train a method; write the models ``best`` and ``last``, log.jsonl, panels and resumable states.

    Args:
        config: from `mrirecon.training.config.load_config`.
        folder: folder of the run; created if missing.
        resume: ``auto`` resumes the run in the folder, ``never`` rejects a folder that contains a run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        progress: called with (step, steps, message).
        on_message: called with messages for the user.
        command: command line for the log.
        begun: start of the budget ``train.minutes``, from `time.monotonic`; by default now.

    Returns:
        Plain data: steps, last and best validation scores, folders, seconds, and whether the run is finished; it is not
        if the time limit of a Slurm job stopped it.

    Raises:
        UsageError: the run cannot resume with this configuration; the message lists the differences.
        BusyError: another process trains in this folder.
        SignalError: the loss is NaN or infinite; the message gives the sample.
        Stopped: SIGINT, SIGTERM or SIGUSR1 stopped the run; its state was saved.

    """
    begun, folder = time.monotonic() if begun is None else begun, Path(folder)
    with _run_lock(folder):
        given, config = config, _saved_precision(config, folder)
        start = _open_folder(config, folder, resume)
        # Detached cascades whose images are not in the loss get no gradient.
        fabric = make_fabric(config.settings.train, device, unused=config.settings.loss.cascades == "last")
        fabric.barrier()
        t = Trainer(config, folder, fabric, begun=begun)
        if not t.is_main:
            on_message, progress = (lambda text: None), None
        settings = t.settings.train
        saved = f"networks compute in {settings.precision}, as at the start of the run"
        for note in (*t.sources.notes, t.precision_note if config is given else saved):
            on_message(note)
        log = Log(folder, settings.tensorboard, t.is_main)
        if not t.learnable:
            scores = t.validate(t.model.eval(), folder / "panels" / "untrained.png", t.settings.method)
            on_message(f"{t.settings.method} has no trainable weights: it was only validated")
            log.write({"step": 0, "validation": scores})
            return {"steps": 0, "scores": scores, "folder": str(folder), "learned": False, "rank": fabric.global_rank}
        if start is not None:
            state, notes = start
            for note in notes:
                on_message(note)
            _restore_threads(state, on_message)
            t.restore(state)
            for note in _changed_ranks(t, state):
                on_message(note)
            on_message(f"resuming after step {t.step}{_of_total(t)}")
        if t.is_main:
            with atomic_path(folder / CONFIG) as temporary:
                temporary.write_text(render(t.config), encoding="utf-8")
        log.begin(t.step, command, new=start is None, validated=t.validated_step == t.step)
        with _signals(t):
            _run(t, log, progress, on_message)
        log.close()
        warning = warn_if_useless(t.best, t.zero_filled, folder)
        if warning is not None:
            on_message(warning)
        return {
            "steps": t.step,
            "scores": t.scores,
            "zero_filled": t.zero_filled,
            "best": t.best,
            "finished": settings.minutes is not None or not t.out_of_time or t.step >= t.total,
            "folder": str(folder),
            "seconds": t.seconds,
            "learned": True,
            "rank": fabric.global_rank,
        }


def dry_run(
    config: Config, folder: str | Path, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Run a few steps without writing files, and estimate the resources of the whole run.

    Args:
        config: from `mrirecon.training.config.load_config`.
        folder: folder that a run would write to.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        progress: called with (parts done, parts, current part).

    Returns:
        Plain data: subjects, slices, steps, parameters, seconds per step and in total, fraction of the time spent
        waiting for samples, peak memory of a step in MiB without the weights, and notes.

    Raises:
        MriReconError: the run would fail at its start.

    """
    report = progress or (lambda done, total, what: None)
    parts = TIMED_STEPS + 3  # the data, the first step and a validation sample
    report(0, parts, "data and model")
    t = Trainer(config, Path(folder), make_fabric(config.settings.train, device))
    plan: dict[str, Any] = {
        "method": config.settings.method,
        "subjects": t.sources.subjects,
        "slices": {"train": len(t.sources.train), "val": len(t.sources.val)},
        "steps": t.total,
        "device": str(t.device),
        "parameters": sum(w.numel() for w in t.weights.values()),
        "notes": [*t.sources.notes, t.precision_note],
        "folder": str(folder),
    }
    if not t.learnable:
        return plan | {"steps": 0}
    batches = t.loader.batches(0)
    report(1, parts, "first step")
    if t.device.type == "cuda":
        t.advance(batches)
        peak = torch.cuda.max_memory_allocated(t.device)
    else:
        peak = peak_allocation(lambda: t.advance(batches))
    start, waited = time.perf_counter(), t.loader.seconds_waited
    for number in range(TIMED_STEPS):
        report(2 + number, parts, f"timed step {number + 1}")
        t.advance(batches)
    spent = time.perf_counter() - start
    waited = t.loader.seconds_waited - waited
    report(parts - 1, parts, "a validation sample")
    start = time.perf_counter()
    t.validate_one()
    validation = (time.perf_counter() - start) * len(t.val_samples.slices)
    minutes, step = config.settings.train.minutes, spent / TIMED_STEPS
    if minutes is None:
        whole = step * t.total + validation * (t.total // t.validate_every + 1)
    else:
        whole = 60 * minutes
        plan["steps"] = max(1, round((whole - 2 * validation) / step))  # at least two validations
    return plan | {
        "seconds a step": step,
        "waited": waited / spent,
        "seconds in all": whole,
        "memory (MiB)": peak / 2**20,
    }


@contextmanager
def _run_lock(folder: Path) -> Iterator[None]:
    """Lock the folder, because only one process may write to it; rank 0 locks it for all ranks.

    Raises:
        BusyError: another process holds the lock.

    """
    with ExitStack() as stack:
        try:
            if not rank_of_process():
                stack.enter_context(output_lock(folder / CONFIG, wait=False))
        except BusyError:
            fix = "wait for it or stop it (it saves its state), or use another --output"
            raise BusyError("another process trains in this folder", where=str(folder), fix=fix) from None
        yield


def _saved_precision(config: Config, folder: Path) -> Config:
    """Replace ``train.precision: auto`` by the precision of the run in the folder."""
    saved = folder / CONFIG
    if config.settings.train.precision != "auto" or not (saved.is_file() and states(folder / STATES)):
        return config
    return with_precision(config, load_config(saved).settings.train.precision)


def _open_folder(config: Config, folder: Path, resume: str) -> tuple[State, list[str]] | None:
    """Return the state to resume from, or None for a new run, and notes on damaged states.

    Raises:
        UsageError: the run in the folder cannot resume with this configuration.

    """
    saved = folder / CONFIG
    if not saved.is_file():
        return None
    if not states(folder / STATES):
        # A run that failed before its first state has nothing to resume or to lose.
        models = [name for name in ("best", "last") if (folder / name).exists()]
        if not models:
            return None
        raise UsageError(
            "the folder contains a model but no state to resume from",
            where=str(folder / STATES),
            why=f"models: {' and '.join(models)}",
            fix="restore the states, or use another --output",
        )
    if resume == "never":
        raise UsageError("the folder contains a run", where=str(folder), fix="use --resume auto, or another --output")
    train = config.settings.train
    free = CHANGEABLE if train.schedule == "cosine" and train.minutes is None else (*CHANGEABLE, *RUN_LENGTH)
    changed = [d for d in differences(load_config(saved).plain(), config.plain()) if not d.startswith(free)]
    if changed:
        raise UsageError(
            "the configuration differs from that of the run in this folder",
            where=str(folder),
            why="\n       ".join(changed),
            fix="restore these values, or use another --output",
        )
    state, notes = load_state(folder / STATES)
    return None if state is None else (state, notes)


def _restore_threads(state: State, on_message: Callable[[str], None]) -> None:
    """Use the same number of threads as at the start of the run, because it affects the rounding of sums."""
    before, now = state.get("threads"), torch.get_num_threads()
    if before is None or before == now:
        return
    if os.environ.get("OMP_NUM_THREADS"):
        on_message(f"the run started with {before} threads and resumes with {now} (OMP_NUM_THREADS): not bit-identical")
        return
    torch.set_num_threads(before)
    on_message(f"using {before} threads, as at the start of the run; OMP_NUM_THREADS overrides this")


def _changed_ranks(t: Trainer, state: State) -> list[str]:
    """Return notes on what another number of processes changes."""
    before, now, data = state.get("ranks"), t.fabric.world_size, t.settings.data
    if before is None or before == now:
        return []
    share, buffer = t.settings.train.batch // now, data.buffer
    notes = [
        f"the run started with {before} processes and resumes with {now}: each takes {share} of the "
        f"{t.settings.train.batch} samples of a batch; gradients are summed in another order, so not bit-identical"
    ]
    if buffer.draws_per_sample > 1:
        notes.append(
            f"the sample buffer holds {buffer.capacity} samples in each process, {buffer.capacity * now} instead of "
            f"{buffer.capacity * before} in all: samples are drawn again in another order"
        )
    return notes


def _run(t: Trainer, log: Log, progress: Progress | None, on_message: Callable[[str], None]) -> None:
    train = t.settings.train
    begun = clock = last_save = time.perf_counter()
    first = t.step

    def count_seconds() -> None:
        nonlocal clock
        now = time.perf_counter()
        t.seconds, clock = t.seconds + now - clock, now

    def save() -> None:
        nonlocal last_save
        count_seconds()
        if t.is_main:
            save_state(t.folder / STATES, t.step, t.state())
        last_save = time.perf_counter()

    if train.minutes is not None and (train.steps or train.epochs):
        on_message(f"training for {train.minutes:g} minutes; train.steps and train.epochs are ignored")
    for note in t.fit_to_clock():
        on_message(note)
    if not t.zero_filled:
        t.zero_filled = t.validate_zero_filled()
        log.write({"step": 0, "zero_filled": t.zero_filled})
    batches = t.loader.batches(t.step * train.accumulate)
    while True:
        last = t.step >= t.total or (t.out_of_time and t.step > first)  # at least one step
        if t.step and t.validated_step != t.step and (last or (t.step % t.validate_every == 0 and t.validation_due)):
            save()  # a signal may arrive during validation
            _validate(t, log, on_message)
            save()
        if last or (train.patience and t.stale_validations >= train.patience):
            break
        rate = learning_rate(train, t.step, t.total, t.progress)
        loss, norm = t.advance(batches)
        t.window.append(loss)
        count_seconds()
        if t.step % train.log_every == 0 or t.step == t.total:
            mean, seconds = sum(t.window) / len(t.window), time.perf_counter() - begun
            line = {"step": t.step, "loss": mean, "gradient": norm, "lr": rate, "seconds": t.seconds}
            log.write(line | {"steps/s": (t.step - first) / seconds} | t.loader.statistics())
            t.window = []
        if progress:
            progress(t.step, t.expected_steps, f"loss {loss:.4f}")
        late = time.perf_counter() - last_save > train.checkpoint_seconds
        if t.stopping or late or t.step % train.checkpoint_every == 0:
            save()
            if t.stopping:
                t.stop()
    if t.out_of_time:
        what = "the time budget is used up" if train.minutes is not None else "the job's time is almost up"
        on_message(f"{what} after step {t.step}; run the command again to continue")
    for note in t.loader.notes:
        on_message(note)


def _validate(t: Trainer, log: Log, on_message: Callable[[str], None]) -> None:
    """Validate, export the last and the best model, and report the scores."""
    begun = time.monotonic()
    with t.averaged() as model:
        heading = f"{t.settings.method}, step {t.step}"
        t.scores = t.validate(model, t.folder / "panels" / f"step-{t.step:08d}.png", heading)
    t.validated_step, score = t.step, selection_score(t.scores)
    better = t.best is None or score > t.best
    t.best, t.stale_validations = (score, 0) if better else (t.best, t.stale_validations + 1)
    log.write({"step": t.step, "validation": t.scores, "seconds": t.seconds})
    if t.is_main:
        t.export("last")
        if better:
            t.export("best")
        draw_run(t.folder, t.zero_filled, heading)
    shown = ", ".join(f"{k} {v:.4g}" for k, v in t.scores.items() if v is not None)
    zero = ", ".join(f"{v:.4g}" for v in t.zero_filled.values() if v is not None)
    t.clock.record_validation(time.monotonic() - begun)
    on_message(f"step {t.step}{_of_total(t)}: {shown} (zero-filled {zero}){', best so far' if better else ''}")


def _of_total(t: Trainer) -> str:
    return "" if t.settings.train.minutes is not None else f" of {t.total}"


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Handle signals: finish and save the current step; a second signal stops at once."""

    def record(number: int, frame: FrameType | None) -> None:
        if trainer.signal:
            raise Stopped(number, "at once; the last saved state is intact")
        trainer.signal = number

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    before = {n: signal.signal(n, record) for n in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
