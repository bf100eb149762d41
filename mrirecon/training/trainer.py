"""Hold the model, optimizer and averages of a run; take steps, validate, and export models."""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mrirecon import __version__
from mrirecon.coils.sampling import TrajectorySampling
from mrirecon.data.batch import Batch
from mrirecon.data.loading import EpochSampler, SampleLoader, free_shared_memory, workers_for
from mrirecon.data.samples import SampleFactory
from mrirecon.data.sources import open_sources
from mrirecon.engine import Reconstructor
from mrirecon.errors import SignalError, Stopped
from mrirecon.methods.registry import build
from mrirecon.models.checkpoints import save_model
from mrirecon.models.hardware import usable_cores
from mrirecon.training.clock import Clock
from mrirecon.training.config import Config
from mrirecon.training.config.settings import LossSettings
from mrirecon.training.objective import Loss, step_weights
from mrirecon.training.setup import (
    copy_weights,
    learning_rate,
    make_factories,
    make_model,
    make_optimizer,
    processes,
    resolve_precision,
)
from mrirecon.training.state import State
from mrirecon.training.validate import Scores, validate

if TYPE_CHECKING:
    from lightning.fabric import Fabric


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # signals that stop a run; the first one counts
VALIDATION_SHARE = 0.1  # maximum fraction of the run's time for its last validation


class Objective(nn.Module):
    """Wrap the loss of a batch as a module's forward method, which Fabric needs for several ranks."""

    def __init__(self, model: Reconstructor, settings: LossSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.weights = step_weights(settings, [model.engine.repeats_of(block) for block in model.engine.steps])
        self.batch: Batch | None = None  # set before the call, because Fabric would copy an argument field by field

    def forward(self) -> Tensor:
        """Return the loss of each sample (B,)."""
        batch = self.batch
        assert batch is not None, "the batch must be set first"
        with torch.no_grad():
            problem = batch.problem.prepared()
        loss = Loss(self.settings, problem, batch.target, batch.kspace, batch.loss_mask)
        if self.settings.steps == self.settings.cascades == "last":
            return loss(self.model(problem))
        return loss.weighted_sum(self.model.images(problem), self.weights)


class Trainer:
    """Hold the state of a run and the operations on it; see `mrirecon.training.train`."""

    def __init__(self, config: Config, folder: Path, fabric: Fabric, *, begun: float | None = None) -> None:
        self.config, self.precision_note = resolve_precision(config, fabric)
        self.settings, self.folder, self.fabric = self.config.settings, folder, fabric
        self.device = fabric.device
        self.sources = open_sources(self.settings.data, config.path.parent)
        self.model = make_model(self.settings)
        self.train_samples, self.val_samples = make_factories(self.settings, self.model, self.sources)
        self.sampler = EpochSampler(self.train_samples, self.settings.data.items_per_epoch)
        train = self.settings.train
        batches_per_epoch = self.sampler.chunks_per_epoch * self.settings.data.buffer.batches_per_chunk
        self.per_epoch = max(1, batches_per_epoch // train.accumulate)  # steps
        self.clock = Clock(train.minutes, time.monotonic() if begun is None else begun)
        self.total = train.steps or (train.epochs or 1) * self.per_epoch
        if train.minutes is not None:
            self.total = sys.maxsize
        self.validate_every = train.validate_every or self.per_epoch
        self.loader = SampleLoader(self.sampler, self._workers(), fabric.global_rank, fabric.world_size, self.device)
        self.step, self.seconds, self.validated_step, self.stale_validations = 0, 0.0, 0, 0
        self.best: float | None = None
        self.best_items = len(self.val_samples.slices)  # step of the best validation
        self.window: list[float] = []  # losses since the last log line
        self.scores: Scores = {}
        self.zero_filled: Scores = {}
        self.signal = self._received = 0  # signals that this rank, and that any rank received
        # Progress of the schedule, end of the time, and need of a validation, equal on all ranks.
        self.progress, self.out_of_time, self.validation_due = 0.0, False, True
        self.weights = dict(self.model.named_parameters())
        self.learnable = any(w.requires_grad for w in self.weights.values())
        self.objective = Objective(self.model, self.settings.loss)
        if self.learnable:
            self.optimizer = make_optimizer(train, self.model)
            self.ddp_objective, self.ddp_optimizer = fabric.setup(self.objective, self.optimizer)
        self.model.to(self.device)
        self.ema = {k: w.detach().clone() for k, w in self.weights.items()} if train.ema else None

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files."""
        return bool(self.fabric.is_global_zero)

    def _workers(self) -> int:
        wanted = self.settings.train.workers
        if wanted is not None:
            return wanted
        ranks = max(1, processes()[1])  # ranks on this machine, each with its own workers
        chunk = self.sampler.factory.batch // self.fabric.world_size
        return workers_for(self.device, chunk, math.floor(usable_cores()) // ranks, free_shared_memory() // ranks)

    def state(self) -> State:
        """Return the complete state of the run."""
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
            "ranks": self.fabric.world_size,
            "precision": self.settings.train.precision,
        }

    def restore(self, state: State) -> None:
        """Set the run to a state."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.validated_step, self.stale_validations = state["checked"], state["bad"]
        self.best, self.scores, self.zero_filled = state["best"], state["scores"], state["zero_filled"]
        self.window = list(state["window"])
        self.best_items = state.get("items", self.best_items)
        self.clock.spent = self.seconds
        copy_weights(self.weights, state["model"])
        if self.ema is not None:
            self.ema = {k: state["ema"][k].to(self.device) for k in self.ema}
        self.optimizer.load_state_dict(state["optimizer"])

    def advance(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Take one optimizer step and return the mean loss and the norm of the gradient."""
        train = self.settings.train
        begun, waited, chunks_made = time.monotonic(), self.loader.seconds_waited, self.loader.chunks_made
        rate = learning_rate(train, self.step, self.total, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # No random state is carried over between steps: dropout also depends on the step only.
        torch.manual_seed((train.seed * 1_000_003 + self.step) * 64 + self.fabric.global_rank)
        self.model.train()
        total = 0.0
        for number in range(train.accumulate):
            batch = next(batches).to(self.device)
            self.objective.batch = batch
            with self.fabric.no_backward_sync(self.ddp_objective, enabled=number < train.accumulate - 1):
                losses = self.ddp_objective()
                if not bool(torch.isfinite(losses).all()):
                    raise self._not_finite_error(batch, losses)
                self.fabric.backward(losses.mean() / train.accumulate)
            total += float(losses.detach().mean()) / train.accumulate
        parameters = [w for w in self.weights.values() if w.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, train.gradient_clip or math.inf))
        if not math.isfinite(norm):
            raise self._not_finite_error(batch, None)
        self.ddp_optimizer.step()
        self.ddp_optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            decay = min(train.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, weight in self.weights.items():
                    self.ema[name].lerp_(weight, 1 - decay)
        waited, chunks_made = self.loader.seconds_waited - waited, self.loader.chunks_made - chunks_made
        self.clock.record_step(
            time.monotonic() - begun, waited, chunks_made, self.loader.chunks_before(train.accumulate)
        )
        # All ranks stop after the same step: a signal to one rank, or its time limit, applies to all.
        mean, *received = self._all_reduce(total, *(float(self.signal == number) for number in STOPPING))
        self._received = next((number for number, share in zip(STOPPING, received, strict=True) if share), 0)
        return mean, norm

    @property
    def stopping(self) -> int:
        """Return the signal after which all ranks stop now, or 0.

        With several ranks, a signal that arrived after the last step's synchronization counts from the next step on.
        """
        return self.signal if self.fabric.world_size == 1 else self._received

    def _all_reduce(self, *values: float) -> list[float]:
        """Return the means over all ranks, and synchronize their clocks."""
        clock = self.clock
        mine = [clock.progress, float(clock.out_of_time), float(clock.validation_due), *values]
        reduced = self.fabric.all_reduce(torch.tensor(mine, dtype=torch.float64, device=self.device))
        self.progress, out_of_time, validation_due, *means = reduced.tolist()  # type: ignore[union-attr]  # a tensor
        self.out_of_time, self.validation_due = out_of_time > 0, validation_due == 1
        return means

    @property
    def expected_steps(self) -> int:
        """Return the total number of steps of the run; with a time budget, an estimate."""
        if self.settings.train.minutes is None:
            return self.total
        return max(self.step, round(self.step / self.progress)) if self.progress > 0 else self.step

    def fit_to_clock(self) -> list[str]:
        """Start the clock, reduce the validation to fit into the time, and return notes.

        The best score is reset if it was computed with other validation samples.
        """
        notes: list[str] = []
        seconds = 0.0
        if self.clock.end is not None:
            for _ in range(2 if self.device.type == "cuda" else 1):  # the first call takes longer on a GPU
                begun = time.monotonic()
                self.validate_one()
                seconds = time.monotonic() - begun
            seconds, remaining = self._all_reduce(seconds, self.clock.remaining)
            slices, ranks = self.val_samples.slices, self.fabric.world_size
            count = len(slices)
            # The fraction leaves time to validate the zero-filled images.
            most = max(1, int(VALIDATION_SHARE * remaining / max(seconds, 1e-6))) * ranks
            if most < count:
                chosen = [slices[i * count // most] for i in range(most)]
                self.val_samples = replace(self.val_samples, slices=chosen)
                notes.append(f"validating with {most} of {count} items, because all would take too long")
            seconds *= -(-min(most, count) // ranks)
        if self.best_items != len(self.val_samples.slices):
            self.best_items, self.best, self.zero_filled = len(self.val_samples.slices), None, {}
        self.clock.start(1.5 * seconds + 1)
        return notes

    def validate_one(self) -> None:
        """Compute and reconstruct one validation sample, to measure the time."""
        with self.averaged() as model, torch.no_grad():
            model.run(self.val_samples.sample(0, 0, 0, self.device).problem).image.cpu()

    def _not_finite_error(self, batch: Batch, losses: Tensor | None) -> SignalError:
        names = batch.names
        if losses is not None:
            names = [n for n, v in zip(names, losses, strict=True) if not v.isfinite()]
        return SignalError(
            f"the {'gradient' if losses is None else 'loss'} is NaN or infinite at step {self.step}",
            where="; ".join(names),
            why=f"mask, coils and SNR: {json.dumps(batch.info)}",
            fix="lower train.lr or set train.gradient_clip; --resume auto resumes from the last state",
        )

    @contextmanager
    def averaged(self) -> Iterator[Reconstructor]:
        """Provide the model in evaluation mode, with averaged weights if there are any."""
        self.model.eval()
        if self.ema is None:
            yield self.model
            return
        own = {k: w.detach().clone() for k, w in self.weights.items()}
        try:
            copy_weights(self.weights, self.ema)
            yield self.model
        finally:
            copy_weights(self.weights, own)

    def validate_zero_filled(self) -> Scores:
        """Score the zero-filled images, with coils combined as in `reconstruct --method zero-filled`."""
        # without maps, coil images can only be combined by their root sum of squares
        model = build("zero-filled" if self.val_samples.maps else "rss").to(self.device)
        return self.validate(model, factory=replace(self.val_samples, uncropped_maps=False, start=None))

    def validate(
        self, model: Reconstructor, picture: Path | None = None, heading: str = "", factory: SampleFactory | None = None
    ) -> Scores:
        """Score a model on the validation samples, shared by all ranks."""
        return validate(
            model,
            factory or self.val_samples,
            self.fabric,
            stop=self.stop,
            panels=self.settings.train.validation_images,
            picture=picture if self.is_main else None,
            heading=heading,
        )

    def stop(self) -> None:
        """Stop if a signal was received.

        Raises:
            Stopped: a signal was received; the message gives the next step.

        """
        number = self._received or self.signal
        if number:
            raise Stopped(number, f"step {self.step} of {self.expected_steps} is saved; continue with --resume auto")

    def export(self, name: str) -> Path:
        """Write the model's folder."""
        with self.averaged() as model:
            return save_model(self.folder / name, self.settings.method, self.settings.model, model, self.card())

    def card(self) -> dict[str, object]:
        """Return the model card as plain data: settings of the training, and intended use."""
        data, train, sources = self.settings.data, self.settings.train, self.sources
        simulated = any("simulated" in str(f["kind"]) for f in sources.files)
        rates = [r for m in data.masks for r in m.acceleration]
        calibration = [c for m in data.masks for c in m.calibration]
        sides = sorted({s for f in sources.files for s in f["size"]})  # type: ignore[attr-defined]  # plain data
        readouts = [n for t in data.trajectories for n in t.readouts]
        sampling: dict[str, object] = {
            "acceleration": [min(rates), max(rates)],
            "masks": sorted({m.family for m in data.masks}),
            "calibration": [min(calibration), max(calibration)] if calibration else "32 % of the samples",
        }
        if readouts:
            sampling = {
                "sampling": [TrajectorySampling.kind],
                "trajectories": sorted({t.kind for t in data.trajectories}),
                "readouts": [min(readouts), max(readouts)],
            }
        covers: dict[str, object] = {
            **sampling,
            # a window is a part of a slice with the same resolution
            "size": [min(*data.crop, *sides), max(sides)] if data.crop else sides,
            **({"contrasts": list(data.contrasts)} if data.contrasts else {}),
            **({"coils": data.simulation.coils, "snr": data.simulation.snr} if simulated else {}),
        }
        return {
            "data": data.source or ", ".join(data.train),
            "licence": data.licence,
            "measured or simulated": "simulated from magnitude volumes" if simulated else "measured k-space",
            "subjects": sources.subjects,
            "slices": {"train": len(sources.train), "val": len(sources.val)},
            "files": sources.files,
            "notes": sources.notes,
            "covers": covers,
            "maps": data.maps,
            "target": data.target if simulated else "coils combined",
            "loss": {k: v for k, v in self.settings.loss.model_dump().items() if v},
            "seed": train.seed,
            "steps": self.step,
            "epochs": round(self.step / self.per_epoch, 2),
            **({"budget (min)": train.minutes} if train.minutes is not None else {}),
            **({"started from": train.initial_weights} if train.initial_weights is not None else {}),
            **({"frozen": train.freeze} if train.freeze else {}),
            "effective batch": train.batch * train.accumulate,
            "processes": self.fabric.world_size,
            "optimizer": f"{train.optimizer}, lr {train.lr:g}, {train.schedule}, warm-up {train.warmup}",
            "moving average": train.ema,
            "precision": train.precision,
            "device": str(self.device),
            "wall time (s)": round(self.seconds, 1),
            "validation": {"items": len(self.val_samples.slices), **_rounded(self.scores)},
            "zero-filled on the same": _rounded(self.zero_filled),
            "versions": {
                "mrirecon": __version__,
                "torch": torch.__version__,
                "lightning": metadata.version("lightning"),
                "python": platform.python_version(),
            },
        }


def _rounded(scores: Scores) -> Scores:
    return {k: None if v is None else float(f"{v:.5g}") for k, v in scores.items()}
