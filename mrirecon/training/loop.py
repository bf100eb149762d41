"""The loop: one optimizer step after the other, each a function of the state before it and of the settings alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from mrirecon.errors import BusyError, Stopped, UsageError
from mrirecon.io import atomic_path
from mrirecon.io.safe.lock import output_lock
from mrirecon.training.config import Config, differences, render, saved_config
from mrirecon.training.log import Log
from mrirecon.training.setup import learning_rate, make_fabric, rank_of_process
from mrirecon.training.state import State, load_state, save_state, states
from mrirecon.training.trainer import Trainer

Progress = Callable[[int, int, str], None]
CONFIG, STATES = "config.yaml", "states"
# What may differ when a run goes on: it changes none of its numbers, or, as minutes, each call has its own.
CHANGEABLE = (
    *(
        "train.workers",
        "train.tensorboard",
        "train.checkpoint",
        "train.validation_images",
        "train.log_every",
        "train.minutes",
    ),
    "data.licence",
)
RUN_LENGTH = ("train.steps", "train.epochs")


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda text: None,
    command: Sequence[str] | None = None,
    begun: float | None = None,
) -> dict[str, Any]:
    """Train a method as configured; leaves ``best`` and ``last`` (models), log.jsonl, panels and resumable states.

    Args:
        config: from `mrirecon.training.config.load_config`.
        folder: of the run; made where it does not exist.
        resume: ``auto`` goes on with the run in the folder, ``never`` refuses a folder with a run in it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        progress: called with (step, steps, what happens).
        tell: called with lines for people.
        command: the command line, for the log.
        begun: when the time of ``train.minutes`` began to count, of `time.monotonic`; now, if left out.

    Returns:
        Plain data: steps, scores of the last validation, the best, folders, seconds, and whether the run is finished:
        a Slurm job whose time is up ends it whole before, to be gone on with.

    Raises:
        UsageError: a run that cannot go on as configured, with the differences.
        BusyError: another process trains in this folder.
        SignalError: a loss that is not a number; the item is named.
        Stopped: by SIGINT, SIGTERM or SIGUSR1, after the step was saved.

    """
    begun, folder = time.monotonic() if begun is None else begun, Path(folder)
    with _run_lock(folder):
        return _train(config, folder, resume, device, progress, tell, command, begun)


@contextmanager
def _run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this run, which only one process may write to; of several ranks the first does it for all.

    Raises:
        BusyError: another process holds it.

    """
    if rank_of_process():
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(output_lock(folder / CONFIG, wait=False))
        except BusyError:
            fix = "wait for it or stop it (it saves its state), or use another --output"
            raise BusyError("another process trains in this folder", where=str(folder), fix=fix) from None
        yield


def _train(
    config: Config,
    folder: Path,
    resume: str,
    device: str,
    progress: Progress | None,
    tell: Callable[[str], None],
    command: Sequence[str] | None,
    begun: float,
) -> dict[str, Any]:
    asked, config = config, _keep_precision(config, folder)
    start = _open_folder(config, folder, resume)
    # Cascades that are detached, and whose images do not count, learn nothing.
    unused = config.settings.loss.cascades == "last"
    fabric = make_fabric(config.settings.train, device, unused=unused)
    fabric.barrier()
    trainer = Trainer(config, folder, fabric, begun=begun)
    if not trainer.is_main:
        tell, progress = (lambda text: None), None
    kept = f"networks compute in {trainer.settings.train.precision}, as when the run began"
    for note in (*trainer.sources.notes, trainer.precision_note if config is asked else kept):
        tell(note)
    log = Log(folder, config.settings.train, trainer.is_main)
    if not trainer.learnable:
        found = _validate_untrained(trainer, tell)
        log.write({"step": 0, "validation": found})
        return {"steps": 0, "scores": found, "folder": str(folder), "learned": False, "rank": fabric.global_rank}
    if start is not None:
        state, notes = start
        for note in notes:
            tell(note)
        _keep_threads(state, tell)
        trainer.restore(state)
        of = "" if config.settings.train.minutes else f" of {trainer.total}"
        tell(f"goes on after step {trainer.step}{of}")
    if trainer.is_main:
        with atomic_path(folder / CONFIG) as temporary:
            temporary.write_text(render(trainer.config), encoding="utf-8")
    log.begin(trainer.step, command, anew=start is None, checked=trainer.validated_step == trainer.step)
    with _signals(trainer):
        _run(trainer, log, progress, tell)
    log.close()
    told = {"steps": trainer.step, "scores": trainer.scores, "zero_filled": trainer.zero_filled, "best": trainer.best}
    told["finished"] = (
        trainer.settings.train.minutes is not None or not trainer.out_of_time or trainer.step >= trainer.total
    )
    return {**told, "folder": str(folder), "seconds": trainer.seconds, "learned": True, "rank": fabric.global_rank}


def _keep_precision(config: Config, folder: Path) -> Config:
    """Return the configuration with ``train.precision: auto`` replaced by what the run in the folder began with."""
    settings, saved = config.settings, folder / CONFIG
    if settings.train.precision != "auto" or not (saved.is_file() and states(folder / STATES)):
        return config
    train = settings.train.model_copy(update={"precision": saved_config(saved)["train"]["precision"]})
    return replace(config, settings=settings.model_copy(update={"train": train}))


def _open_folder(config: Config, folder: Path, resume: str) -> tuple[State, list[str]] | None:
    """Return the state to go on from, or None for a new run.

    Raises:
        UsageError: the folder holds a run that cannot go on so.

    """
    saved = folder / CONFIG
    if not saved.is_file():
        return None
    if not states(folder / STATES):
        # A run that failed before its first state has made nothing that could be gone on with, or lost.
        models = [name for name in ("best", "last") if (folder / name).exists()]
        if not models:
            return None
        raise UsageError(
            "there is a model in this folder, and no state to go on from",
            where=str(folder / STATES),
            why=f"it holds {' and '.join(models)}",
            fix="put the states back, or use another --output",
        )
    if resume == "never":
        raise UsageError(
            "there is a run in this folder", where=str(folder), fix="use --resume auto, or another --output"
        )
    train = config.settings.train
    free = CHANGEABLE if train.schedule == "cosine" and train.minutes is None else (*CHANGEABLE, *RUN_LENGTH)
    changed = [d for d in differences(saved_config(saved), config.plain()) if not d.startswith(free)]
    if changed:
        raise UsageError(
            "the configuration is not that of the run in this folder",
            where=str(folder),
            why="\n       ".join(changed),
            fix="change it back, or use another --output",
        )
    state, notes = load_state(folder / STATES)
    return None if state is None else (state, notes)


def _keep_threads(state: State, tell: Callable[[str], None]) -> None:
    """Compute with as many threads as the run began with: sums are taken in their order, and round as it was."""
    before, now = state.get("threads"), torch.get_num_threads()
    if before is None or before == now:
        return
    if os.environ.get("OMP_NUM_THREADS"):
        tell(f"it began with {before} threads and goes on with {now}, as OMP_NUM_THREADS says: not bit for bit")
        return
    torch.set_num_threads(before)
    tell(f"computes with {before} threads, as it began; OMP_NUM_THREADS overrides it")


def _run(t: Trainer, log: Log, progress: Progress | None, tell: Callable[[str], None]) -> None:
    train = t.settings.train
    begun = clock = last_save = time.perf_counter()
    first = t.step

    def spend() -> None:
        nonlocal clock
        now = time.perf_counter()
        t.seconds, clock = t.seconds + now - clock, now

    def save() -> None:
        nonlocal last_save
        spend()
        if t.is_main:
            save_state(t.folder / STATES, t.step, t.state())
        last_save = time.perf_counter()

    if train.minutes is not None and (train.steps or train.epochs):
        tell(f"trains for {train.minutes:g} minutes, whatever train.steps and train.epochs say")
    for note in t.fit_to_clock():
        tell(note)
    if not t.zero_filled:
        t.zero_filled = t.validate_zero_filled().scores
        log.write({"step": 0, "zero_filled": t.zero_filled})
    batches = t.loader.batches(t.step * train.accumulate)
    while True:
        last = t.step >= t.total or (t.out_of_time and t.step > first)  # one step at least
        if t.step and t.validated_step != t.step and (last or (t.step % t.validate_every == 0 and t.validation_due)):
            save()  # a signal may come while it validates
            _validate(t, log, tell)
            save()
        if last or (train.patience and t.stale_validations >= train.patience):
            break
        rate = learning_rate(train, t.step, t.total, t.progress)
        loss, norm = t.advance(batches)
        t.window.append(loss)
        spend()
        if t.step % train.log_every == 0 or t.step == t.total:
            line: dict[str, object] = {"step": t.step, "loss": sum(t.window) / len(t.window), "gradient": norm}
            line |= {"lr": rate, "seconds": t.seconds}
            here = time.perf_counter() - begun
            log.write(line | {"steps/s": (t.step - first) / here} | t.loader.statistics())
            t.window = []
        if progress:
            progress(t.step, t.expected_steps, f"loss {loss:.4f}")
        late = time.perf_counter() - last_save > train.checkpoint_seconds
        if t.signal or late or t.step % train.checkpoint_every == 0:
            save()
            t.stop()
    if t.out_of_time:
        what = "the budget is used up" if train.minutes is not None else "the job's time is almost up"
        tell(f"{what} after step {t.step}; run it again to go on")
    for note in t.loader.notes:
        tell(note)


def _validate(t: Trainer, log: Log, tell: Callable[[str], None]) -> None:
    """Validate, keep the best and the last model, and say how it goes."""
    heading = f"{t.settings.method}, step {t.step}"
    begun = time.monotonic()
    with t.averaged() as model:
        found = t.validate(model, t.folder / "panels" / f"step-{t.step:08d}.png", heading)
    t.scores, t.validated_step = found.scores, t.step
    better = t.best is None or found.selection_score > t.best
    t.best, t.stale_validations = (found.selection_score, 0) if better else (t.best, t.stale_validations + 1)
    log.write({"step": t.step, "validation": found.scores, "seconds": t.seconds})
    if t.is_main:
        t.export("last")
        if better:
            t.export("best")
    shown = ", ".join(f"{k} {v:.4g}" for k, v in found.scores.items() if v is not None)
    zero = ", ".join(f"{v:.4g}" for v in t.zero_filled.values() if v is not None)
    t.clock.record_validation(time.monotonic() - begun)
    of = "" if t.settings.train.minutes is not None else f" of {t.total}"
    tell(f"step {t.step}{of}: {shown} (zero-filled {zero}){', best so far' if better else ''}")


def _validate_untrained(t: Trainer, tell: Callable[[str], None]) -> dict[str, float | None]:
    found = t.validate(t.model.eval(), t.folder / "panels" / "untrained.png", t.settings.method)
    tell(f"{t.settings.method} has no weights to learn: it was validated as it is")
    return found.scores


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """Note signals, so that the step in progress is finished and saved; a second one ends at once."""

    def note(number: int, frame: FrameType | None) -> None:
        if trainer.signal:
            raise Stopped(number, "at once; the last saved state is whole")
        trainer.signal = number

    if threading.current_thread() is not threading.main_thread():  # signals come to the main one alone
        yield
        return
    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
