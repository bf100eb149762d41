"""What a run has while it goes on: model, optimizer, averages, and how one step and one validation are made."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mrirecon.data.batch import Batch
from mrirecon.data.loading import EpochSampler, SampleLoader, free_shared_memory, workers_for
from mrirecon.data.samples import SampleFactory
from mrirecon.data.sources import open_sources
from mrirecon.engine import Reconstructor
from mrirecon.errors import SignalError, Stopped
from mrirecon.methods.registry import build
from mrirecon.models.checkpoints import save_model
from mrirecon.models.threads import usable_cores
from mrirecon.training.card import make_card
from mrirecon.training.clock import Clock
from mrirecon.training.config import Config
from mrirecon.training.config.loss import LossSettings
from mrirecon.training.objective import Loss, step_weights
from mrirecon.training.setup import (
    learning_rate,
    make_factories,
    make_model,
    make_optimizer,
    processes,
    resolve_precision,
)
from mrirecon.training.state import State
from mrirecon.training.validate import Validation, validate

if TYPE_CHECKING:
    from lightning.fabric import Fabric


VALIDATION_SHARE = 0.1  # of the time that a run has, that its last validation may take


class Objective(nn.Module):
    """The loss of a batch as a module's forward, which is what Fabric wraps for precision and for several ranks."""

    def __init__(self, model: Reconstructor, settings: LossSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.weights = step_weights(settings, len(model.engine.blocks), model.engine.repeats)
        self.batch: Batch | None = None  # set beforehand: Fabric would copy an argument apart

    def forward(self) -> Tensor:
        """Return the loss of each item (B,)."""
        batch = self.batch
        assert batch is not None, "the batch is set before"
        with torch.no_grad():
            problem = batch.problem.prepared()
        loss = Loss(self.settings, problem, batch.target, batch.kspace, batch.loss_mask)
        if self.settings.steps == self.settings.cascades == "last":
            return loss(self.model(problem))
        return loss.weighted_sum(self.model.images(problem), self.weights)


class Trainer:
    """Everything that a run has while it goes on; see `train`."""

    def __init__(self, config: Config, folder: Path, fabric: Fabric, *, begun: float | None = None) -> None:
        self.config, self.precision_note = resolve_precision(config, fabric)
        self.settings, self.folder, self.fabric = self.config.settings, folder, fabric
        self.sources = open_sources(self.settings.data, config.path.parent)
        self.model = make_model(self.settings)
        self.train_samples, self.val_samples = make_factories(self.settings, self.model, self.sources)
        self.sampler = EpochSampler(self.train_samples, self.settings.data.items_per_epoch)
        train = self.settings.train
        self.per_epoch = max(
            1, self.sampler.chunks_per_epoch * self.settings.data.buffer.batches_per_chunk // train.accumulate
        )
        self.clock = Clock(train.minutes, time.monotonic() if begun is None else begun)
        self.total = train.steps or (train.epochs or 1) * self.per_epoch
        if train.minutes is not None:
            self.total = sys.maxsize
        self.validate_every = train.validate_every or self.per_epoch
        self.loader = SampleLoader(self.sampler, self._workers(), fabric.global_rank, fabric.world_size, fabric.device)
        self.step, self.seconds, self.validated_step, self.stale_validations = 0, 0.0, 0, 0
        self.best: float | None = None
        self.window: list[float] = []  # losses since the last line of the log
        self.scores: dict[str, float | None] = {}
        self.zero_filled: dict[str, float | None] = {}
        self.signal = 0
        # How far the schedule is, whether time is up, and whether there is time to validate: the same on all ranks.
        self.progress, self.out_of_time, self.validation_due = 0.0, False, True
        self.best_items = len(self.val_samples.slices)  # that the best model was found by
        self.weights = dict(self.model.named_parameters())
        self.learnable = any(w.requires_grad for w in self.weights.values())
        self.objective = Objective(self.model, self.settings.loss)
        if self.learnable:
            self.optimizer = make_optimizer(train, self.model)
            self.ddp_objective, self.ddp_optimizer = fabric.setup(self.objective, self.optimizer)
        self.device = fabric.device
        self.model.to(self.device)
        self.ema = {k: w.detach().clone() for k, w in self.weights.items()} if train.ema else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return bool(self.fabric.is_global_zero)

    def _workers(self) -> int:
        wanted = self.settings.train.workers
        if wanted is not None:
            return wanted
        beside = max(1, processes()[1])  # on this machine, with as many of their own
        chunk = self.sampler.factory.batch // self.fabric.world_size
        cores = math.floor(usable_cores()) // beside
        return workers_for(self.fabric.device, chunk, cores, free_shared_memory() // beside)

    def state(self) -> State:
        """Return what the rest of the run depends on."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "checked": self.validated_step,
            "bad": self.stale_validations,
            "best": self.best,
            "window": self.window,
            "scores": self.scores,
            "zero_filled": self.zero_filled,
            "model": {k: w.detach() for k, w in self.weights.items()},
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "items": self.best_items,
            "threads": torch.get_num_threads(),
            "precision": self.settings.train.precision,
        }

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.validated_step, self.stale_validations = state["checked"], state["bad"]
        self.best, self.scores, self.zero_filled = state["best"], state["scores"], state["zero_filled"]
        self.window = list(state["window"])
        self.best_items = state.get("items", self.best_items)
        self.clock.spent = self.seconds
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["model"][name])
        if self.ema is not None:
            self.ema = {k: state["ema"][k].to(self.device) for k in self.ema}
        self.optimizer.load_state_dict(state["optimizer"])

    def advance(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Take one optimizer step and return the mean loss and the norm of the gradient."""
        train = self.settings.train
        begun, waited, made = time.monotonic(), self.loader.seconds_waited, self.loader.chunks_made
        rate = learning_rate(train, self.step, self.total, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Nothing random is carried from step to step: dropout, too, is a function of the step.
        torch.manual_seed((train.seed * 1_000_003 + self.step) * 64 + self.fabric.global_rank)
        self.model.train()
        total = 0.0
        for number in range(train.accumulate):
            batch = next(batches).to(self.device)
            self.objective.batch = batch
            with self.fabric.no_backward_sync(self.ddp_objective, enabled=number < train.accumulate - 1):
                losses = self.ddp_objective()
                if not bool(torch.isfinite(losses).all()):
                    raise self._not_a_number(batch, losses)
                self.fabric.backward(losses.mean() / train.accumulate)
            total += float(losses.detach().mean()) / train.accumulate
        parameters = [w for w in self.weights.values() if w.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, train.gradient_clip or math.inf))
        if not math.isfinite(norm):
            raise self._not_a_number(batch, None)
        self.ddp_optimizer.step()
        self.ddp_optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            decay = min(train.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, weight in self.weights.items():
                    self.ema[name].lerp_(weight, 1 - decay)
        waited, made = self.loader.seconds_waited - waited, self.loader.chunks_made - made
        self.clock.record_step(time.monotonic() - begun, waited, made, self.loader.chunks_before(train.accumulate))
        # What one rank decides, all of them do after the same step: a signal that it was sent, its clock.
        mean, stop = self._all_reduce(total, float(self.signal))
        self.signal = self.signal or (signal.SIGTERM if stop else 0)
        return mean, norm

    def _all_reduce(self, *values: float) -> list[float]:
        """Return the means over all ranks, and bring their clocks together."""
        clock = self.clock
        mine = [clock.progress, float(clock.out_of_time), float(clock.validation_due), *values]
        told = self.fabric.all_reduce(torch.tensor(mine, dtype=torch.float64, device=self.device))
        self.progress, due, rests, *means = told.tolist()  # type: ignore[union-attr]  # of a tensor it gives one
        self.out_of_time, self.validation_due = due > 0, rests == 1
        return means

    @property
    def expected_steps(self) -> int:
        """How many steps the run will have taken in the end; an estimate under a budget of time."""
        if self.settings.train.minutes is None:
            return self.total
        return max(self.step, round(self.step / self.progress)) if self.progress > 0 else self.step

    def fit_to_clock(self) -> list[str]:
        """Choose as many validation items as the time allows, begin to count, and say what was left out.

        Nothing is changed where there is no end. A best model found by other items is no measure any more.
        """
        notes: list[str] = []
        one = 0.0
        if self.clock.end is not None:
            for _ in range(2 if self.device.type == "cuda" else 1):  # on a GPU, the first call is no measure
                begun = time.monotonic()
                with self.averaged() as model, torch.no_grad():
                    model.run(self.val_samples.sample(0, 0, 0, self.device).problem).image.cpu()
                one = time.monotonic() - begun
            one, left = self._all_reduce(one, self.clock.remaining)
            ranks, count = self.fabric.world_size, len(self.val_samples.slices)
            # the zero-filled image is validated too
            most = max(1, int(VALIDATION_SHARE * left / max(one, 1e-6))) * ranks
            if most < count:
                self.val_samples = replace(
                    self.val_samples, slices=[self.val_samples.slices[i * count // most] for i in range(most)]
                )
                notes.append(f"it validates with {most} of {count} items: all would take too much of the time")
            one *= -(-len(self.val_samples.slices) // ranks)
        if self.best_items != len(self.val_samples.slices):
            self.best_items, self.best, self.zero_filled = len(self.val_samples.slices), None, {}
        self.clock.start(1.5 * one + 1)
        return notes

    def _not_a_number(self, batch: Batch, losses: Tensor | None) -> SignalError:
        bad = (
            batch.names if losses is None else [n for n, v in zip(batch.names, losses, strict=True) if not v.isfinite()]
        )
        what = "the gradient is not a number" if losses is None else "the loss is not a number"
        return SignalError(
            f"{what} at step {self.step}",
            where="; ".join(bad),
            why=f"mask, coils and SNR: {json.dumps(batch.info)}",
            fix="lower train.lr or set train.gradient_clip; the last state is kept, and --resume auto goes on from it",
        )

    @contextmanager
    def averaged(self) -> Iterator[Reconstructor]:
        """Give the model in evaluation mode with the averaged weights, where there are such."""
        self.model.eval()
        kept = None if self.ema is None else {k: w.detach().clone() for k, w in self.weights.items()}
        try:
            self._load_weights(self.ema)
            yield self.model
        finally:
            self._load_weights(kept)

    def _load_weights(self, values: dict[str, Tensor] | None) -> None:
        if values is not None:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(values[name])

    def validate_zero_filled(self) -> Validation:
        """Score the zero-filled images, combined as `reconstruct --method zero-filled` does it."""
        # without maps there is no combination but the root sum of squares
        model = build("zero-filled" if self.val_samples.maps else "rss").to(self.device)
        return self.validate(model, recipe=replace(self.val_samples, uncropped_maps=False, start=None))

    def validate(
        self, model: Reconstructor, picture: Path | None = None, heading: str = "", recipe: SampleFactory | None = None
    ) -> Validation:
        """Score a model on the validation items, all ranks together."""
        return validate(
            model,
            recipe or self.val_samples,
            self.device,
            ranks=(self.fabric.global_rank, self.fabric.world_size),
            total=lambda x: self.fabric.all_reduce(x, reduce_op="sum"),  # type: ignore[arg-type, return-value]
            stop=self.stop,
            panels=self.settings.train.validation_images,
            picture=picture if self.is_main else None,
            heading=heading,
        )

    def stop(self) -> None:
        """Leave where a signal asked to.

        Raises:
            Stopped: with what to do next.

        """
        if self.signal:
            raise Stopped(self.signal, f"step {self.step} of {self.expected_steps} is saved; go on with --resume auto")

    def export(self, name: str) -> Path:
        """Write the model's folder."""
        card = make_card(
            self.settings,
            self.sources,
            step=self.step,
            epoch=self.step / self.per_epoch,
            seconds=self.seconds,
            scores=self.scores,
            zero_filled=self.zero_filled,
            items=len(self.val_samples.slices),
            ranks=self.fabric.world_size,
            device=str(self.device),
        )
        with self.averaged() as model:
            return save_model(self.folder / name, self.settings.method, self.settings.model, model, card)
