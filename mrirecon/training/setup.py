"""What a run is made of, from its settings: processes, data, model, optimizer, learning rate."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from mrirecon.data.samples import SampleFactory
from mrirecon.data.sources import SliceRef, SliceSources
from mrirecon.engine import Reconstructor
from mrirecon.errors import UsageError
from mrirecon.methods.registry import build, find_method
from mrirecon.models.checkpoints import load_model
from mrirecon.models.hardware import pick_precision
from mrirecon.networks import channels_last
from mrirecon.training.config import Config, Settings, Train

if TYPE_CHECKING:
    from lightning.fabric import Fabric

INSTALL = "pip install 'mrirecon[train]'"
_WARMUP_SHARE = 0.1  # of a budget of time
RANK_TIMEOUT = timedelta(minutes=30)  # a rank that says nothing for so long is lost; one that dies is noticed at once


def make_fabric(settings: Train, device: str = "auto", *, unused: bool = False) -> Fabric:
    """Return the processes of this run: one, or those that torchrun or srun started.

    Args:
        settings: the batch.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        unused: whether a loss may leave weights without a gradient, which several ranks have to know.

    Raises:
        UsageError: lightning is not installed; a device that is not here; a batch that the ranks cannot share.

    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.fabric.strategies.ddp import DDPStrategy
    except ImportError:
        raise UsageError("training needs Lightning Fabric, which is not installed", fix=INSTALL) from None
    ranks, here = processes()
    if settings.batch % ranks:
        raise UsageError(
            f"{ranks} processes cannot share a batch of {settings.batch}",
            where="train.batch",
            fix=f"set train.batch to a multiple of {ranks}: it counts the items of all processes together",
        )
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device {device!r} cannot be used here", fix="use --device cpu")
    devices: int | list[int] = here if ranks > 1 else [int(number)] if number and kind == "cuda" else 1
    strategy = (
        DDPStrategy(
            find_unused_parameters=unused,
            process_group_backend="nccl" if kind == "cuda" else "gloo",
            timeout=RANK_TIMEOUT,
        )
        if ranks > 1
        else "auto"
    )
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=max(1, ranks // here) if ranks > 1 else 1,
        strategy=strategy,
        # Alone within an allocation of SLURM, this is not one of its tasks.
        plugins=None if ranks > 1 else LightningEnvironment(),
        precision="32-true",  # networks take their inputs and weights in bfloat16 themselves (`Reconstructor`)
    )
    if ranks > 1:
        fabric.launch()
    return fabric


def processes() -> tuple[int, int]:
    """Return how many processes torchrun or srun started, in all and on this node; (1, 1) for neither."""
    environment = os.environ
    ranks = int(environment.get("WORLD_SIZE") or environment.get("SLURM_STEP_NUM_TASKS") or 1)
    # such as "4(x2),3": of the first node, and Fabric wants nodes alike
    slurm = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0].partition(",")[0]
    return ranks, int(environment.get("LOCAL_WORLD_SIZE") or slurm or ranks)


def rank_of_process() -> int:
    """Return the number of this process among those that torchrun or srun started."""
    if processes()[0] == 1:
        return 0
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def make_model(settings: Settings) -> Reconstructor:
    """Build the method; its first weights are a function of the seed, or those of ``train.initial_weights``.

    Raises:
        InputError, ModelMismatchError: see `mrirecon.models.checkpoints.load_model`.
        UsageError: the weights of ``train.initial_weights`` do not fit the model.

    """
    torch.manual_seed(settings.train.seed)
    model = build(settings.method, settings.model)
    channels_last(model)
    if settings.train.initial_weights is not None:
        _load_initial_weights(model, settings.train.initial_weights)
    if settings.train.precision != "auto":
        model.precision = settings.train.precision
    return model


def _load_initial_weights(model: Reconstructor, folder: str) -> None:
    trained = load_model(os.path.expandvars(folder))
    weights, wanted = dict(trained.model.named_parameters()), dict(model.named_parameters())
    wrong = sorted(set(weights) ^ set(wanted)) or [n for n, w in wanted.items() if weights[n].shape != w.shape]
    if wrong:
        raise UsageError(
            "the weights to start from do not fit the model",
            where="train.initial_weights",
            why=f"{folder} holds a {trained.method}, and {len(wrong)} weights differ, such as {wrong[0]}",
            fix="give `model` the sizes that the folder's config.json states, or leave train.initial_weights out",
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(weights[name])


def resolve_precision(config: Config, fabric: Fabric) -> tuple[Config, str]:
    """Return the configuration with ``train.precision: auto`` decided for this device, and that in a sentence.

    What is decided is saved with the run, so that it is kept where the run goes on. The first process decides for all.
    """
    settings = config.settings
    exact = settings.model.get("memory") == "invert"
    precision, told = fabric.broadcast(pick_precision(settings.train.precision, fabric.device, exact=exact))
    train = settings.train.model_copy(update={"precision": precision})
    return replace(config, settings=settings.model_copy(update={"train": train})), told


def make_optimizer(settings: Train, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the weights."""
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    weights = [w for w in model.parameters() if w.requires_grad]
    return kind(weights, settings.lr, (settings.betas[0], settings.betas[1]), weight_decay=settings.weight_decay)


def learning_rate(settings: Train, step: int, total: int, progress: float = 0.0) -> float:
    """Return the learning rate of a step, counted from 0.

    Args:
        settings: the schedule.
        step: whose rate it is.
        total: steps of the run.
        progress: under a budget of time (``train.minutes``), the share of it that has passed.

    """
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.minutes is not None:  # it is warm after a tenth of the budget, however few steps that is
        warm = min(1.0, max(warm, progress / _WARMUP_SHARE))
    if settings.schedule == "cosine":
        done = min(1.0, max(0, step - settings.warmup) / max(1, total - settings.warmup))
        done = done if settings.minutes is None else progress
        factor = settings.final_lr_share + (1 - settings.final_lr_share) * 0.5 * (1 + math.cos(math.pi * done))
    elif settings.schedule == "step":
        factor = settings.lr_decay ** (step // settings.lr_decay_every)
    elif settings.schedule == "inverse-sqrt":
        factor = math.sqrt(max(1, settings.warmup) / max(1, settings.warmup, step + 1))
    else:
        factor = 1.0
    return settings.lr * warm * factor


def make_factories(
    settings: Settings, model: Reconstructor, sources: SliceSources
) -> tuple[SampleFactory, SampleFactory]:
    """Return how training and validation items are made.

    Validation looks at slices spread evenly over its people, each drawn once and for all.
    """
    maps = find_method(settings.method).maps and model.prepare is None
    split = 0.0 if settings.loss.supervised else settings.loss.held_out_share
    full = settings.loss.full
    informed = find_method(settings.method).learned
    start = None if model.start is None or not maps else model.start
    chunk = settings.train.batch * settings.data.buffer.batches_per_chunk
    learn = SampleFactory(sources.train, settings.data, settings.train.seed, chunk, full, split, maps, informed, start)
    count = min(settings.data.val_items, len(sources.val))
    chosen: list[SliceRef] = [sources.val[i * len(sources.val) // count] for i in range(count)]
    # Of scans without a reference, a part of the samples is kept back to be predicted.
    kept = 0.1 if not any(s.simulated for s in chosen) and not settings.loss.supervised else 0.0
    return learn, SampleFactory(
        chosen, settings.data, settings.train.seed + 1_000_003, 1, False, kept, maps, informed, start
    )
