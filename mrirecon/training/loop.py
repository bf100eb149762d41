"""The loop: one optimizer step after the other, each a function of the state before it and of the settings alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from mrirecon.config import Config, differences, render, saved_config
from mrirecon.errors import Stopped, UsageError
from mrirecon.io import atomic_path
from mrirecon.training.log import Log
from mrirecon.training.setup import learning_rate, make_fabric
from mrirecon.training.state import State, load_state, save_state
from mrirecon.training.trainer import Trainer

Progress = Callable[[int, int, str], None]
CONFIG, STATES = "config.yaml", "states"
# What may differ when a run goes on: it changes none of its numbers.
FREE = ("train.workers", "train.tensorboard", "train.checkpoint", "train.panels", "train.log_every", "data.licence")
LENGTH = ("train.steps", "train.epochs")


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda text: None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train a method as configured; leaves ``best`` and ``last`` (models), log.jsonl, panels and resumable states.

    Args:
        config: from `mrirecon.config.load_config`.
        folder: of the run; made where it does not exist.
        resume: ``auto`` goes on with the run in the folder, ``never`` refuses a folder with a run in it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        progress: called with (step, steps, what happens).
        tell: called with lines for people.
        command: the command line, for the log.

    Returns:
        Plain data: steps, scores of the last validation, the best, folders, seconds.

    Raises:
        UsageError: a run that cannot go on as configured, with the differences.
        SignalError: a loss that is not a number; the item is named.
        Stopped: by SIGINT, SIGTERM or SIGUSR1, after the step was saved.

    """
    loss = config.settings.loss
    # Cascades that are detached, and whose images do not count, learn nothing.
    fabric = make_fabric(config.settings.train, device, unused=loss.cascades == "last")
    folder = Path(folder)
    start = _claim(config, folder, resume)
    fabric.barrier()
    trainer = Trainer(config, folder, fabric)
    if not trainer.main:
        tell, progress = (lambda text: None), None
    for note in trainer.sources.notes:
        tell(note)
    log = Log(folder, config.settings.train, trainer.main)
    if not trainer.learnable:
        found = _validate_untrained(trainer, tell)
        log.write({"step": 0, "validation": found})
        return {"steps": 0, "scores": found, "folder": str(folder), "learned": False, "rank": fabric.global_rank}
    if start is not None:
        state, notes = start
        for note in notes:
            tell(note)
        trainer.restore(state)
        tell(f"goes on after step {trainer.step} of {trainer.total}")
    if trainer.main:
        with atomic_path(folder / CONFIG) as temporary:
            temporary.write_text(render(config), encoding="utf-8")
    log.begin(trainer.step, command, anew=start is None, checked=trainer.checked == trainer.step)
    with _signals(trainer):
        _run(trainer, log, progress, tell)
    log.close()
    told = {"steps": trainer.step, "scores": trainer.scores, "zero_filled": trainer.zero_filled, "best": trainer.best}
    return {**told, "folder": str(folder), "seconds": trainer.seconds, "learned": True, "rank": fabric.global_rank}


def _claim(config: Config, folder: Path, resume: str) -> tuple[State, list[str]] | None:
    """Return the state to go on from, or None for a new run.

    Raises:
        UsageError: the folder holds a run that cannot go on so.

    """
    saved = folder / CONFIG
    if not saved.is_file():
        return None
    if resume == "never":
        raise UsageError(
            "there is a run in this folder", where=str(folder), fix="use --resume auto, or another --output"
        )
    free = FREE if config.settings.train.schedule == "cosine" else (*FREE, *LENGTH)
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
        if t.main:
            save_state(t.folder / STATES, t.step, t.state())
        last_save = time.perf_counter()

    if not t.zero_filled:
        t.zero_filled = t.validate_zero_filled().scores
        log.write({"step": 0, "zero_filled": t.zero_filled})
    batches = t.loader.batches(t.step * train.accumulate)
    while True:
        if t.step and t.checked != t.step and (t.step % t.every == 0 or t.step == t.total):
            save()  # a signal may come while it validates
            _check(t, log, tell)
            save()
        if t.step >= t.total or (train.patience and t.bad >= train.patience):
            break
        loss, norm = t.advance(batches)
        t.window.append(loss)
        spend()
        if t.step % train.log_every == 0 or t.step == t.total:
            line: dict[str, object] = {"step": t.step, "loss": sum(t.window) / len(t.window), "gradient": norm}
            line |= {"lr": learning_rate(train, t.step - 1, t.total), "seconds": t.seconds}
            here = time.perf_counter() - begun
            log.write(line | {"steps/s": (t.step - first) / here} | t.loader.figures())
            t.window = []
        if progress:
            progress(t.step, t.total, f"loss {loss:.4f}")
        late = time.perf_counter() - last_save > train.checkpoint_seconds
        if t.signal or late or t.step % train.checkpoint_every == 0:
            save()
            t.stop()
    for note in t.loader.notes:
        tell(note)


def _check(t: Trainer, log: Log, tell: Callable[[str], None]) -> None:
    """Validate, keep the best and the last model, and say how it goes."""
    heading = f"{t.settings.method}, step {t.step}"
    with t.averaged() as model:
        found = t.validate(model, t.folder / "panels" / f"step-{t.step:08d}.png", heading)
    t.scores, t.checked = found.scores, t.step
    better = t.best is None or found.merit > t.best
    t.best, t.bad = (found.merit, 0) if better else (t.best, t.bad + 1)
    log.write({"step": t.step, "validation": found.scores, "seconds": t.seconds})
    if t.main:
        t.export("last")
        if better:
            t.export("best")
    shown = ", ".join(f"{k} {v:.4g}" for k, v in found.scores.items() if v is not None)
    zero = ", ".join(f"{v:.4g}" for v in t.zero_filled.values() if v is not None)
    tell(f"step {t.step} of {t.total}: {shown} (zero-filled {zero}){', best so far' if better else ''}")


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
