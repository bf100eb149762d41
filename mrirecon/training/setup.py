"""Set up a run from its settings: processes, samples, model, optimizer, learning rate."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch

from mrirecon.data.samples import SampleFactory
from mrirecon.data.sources import SliceSources
from mrirecon.engine import Reconstructor
from mrirecon.errors import UsageError
from mrirecon.methods.registry import build, find_method
from mrirecon.models.checkpoints import load_model
from mrirecon.models.hardware import pick_precision
from mrirecon.networks import channels_last
from mrirecon.registries import nearest
from mrirecon.training.config import Config, Settings, Train

if TYPE_CHECKING:
    from lightning.fabric import Fabric

INSTALL = "pip install 'mrirecon[train]'"
_WARMUP_SHARE = 0.1  # fraction of a time budget
RANK_TIMEOUT = timedelta(minutes=30)  # timeout for a rank that does not respond; a dead rank is detected at once


def make_fabric(settings: Train, device: str = "auto", *, unused: bool = False) -> Fabric:
    """Create the Fabric of this run: one process, or the processes of torchrun or srun.

    Args:
        settings: training settings with the batch size.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        unused: whether some weights may get no gradient, which several ranks must handle.

    Raises:
        UsageError: lightning is not installed, the device does not exist, or the batch is not divisible by the ranks.

    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from lightning.fabric.strategies.ddp import DDPStrategy
    except ImportError:
        raise UsageError("training needs Lightning Fabric, which is not installed", fix=INSTALL) from None
    ranks, ranks_here = processes()
    if settings.batch % ranks:
        raise UsageError(
            f"{ranks} processes cannot share a batch of {settings.batch}",
            where="train.batch",
            fix=f"set train.batch to a multiple of {ranks}: it counts the samples of all processes together",
        )
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device {device!r} cannot be used here", fix="use --device cpu")
    # Networks convert inputs and weights to bfloat16 themselves; see `Reconstructor`.
    precision: Literal["32-true"] = "32-true"
    if ranks == 1:
        # Without srun, a process in a Slurm allocation is not a Slurm task, but Fabric would treat it as one.
        devices: int | list[int] = [int(number)] if number and kind == "cuda" else 1
        return Fabric(accelerator=kind, devices=devices, plugins=LightningEnvironment(), precision=precision)
    backend = "nccl" if kind == "cuda" else "gloo"
    strategy = DDPStrategy(find_unused_parameters=unused, process_group_backend=backend, timeout=RANK_TIMEOUT)
    nodes = max(1, ranks // ranks_here)
    fabric = Fabric(accelerator=kind, devices=ranks_here, num_nodes=nodes, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def processes() -> tuple[int, int]:
    """Return the number of processes of torchrun or srun, in total and on this node; (1, 1) without them."""
    environment = os.environ
    ranks = int(environment.get("WORLD_SIZE") or environment.get("SLURM_STEP_NUM_TASKS") or 1)
    # Such as "4(x2),3"; the first number is used, because Fabric needs equal nodes.
    slurm = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0].partition(",")[0]
    return ranks, int(environment.get("LOCAL_WORLD_SIZE") or slurm or ranks)


def rank_of_process() -> int:
    """Return the rank of this process among the processes of torchrun or srun."""
    if processes()[0] == 1:
        return 0
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def make_model(settings: Settings) -> Reconstructor:
    """Build the method with weights initialized from the seed or from ``train.initial_weights``.

    Raises:
        InputError, ModelMismatchError: see `mrirecon.models.checkpoints.load_model`.
        UsageError: the weights of ``train.initial_weights`` do not match the model; no weight has a name of
            ``train.freeze``.

    """
    train = settings.train
    torch.manual_seed(train.seed)
    model = build(settings.method, settings.model)
    channels_last(model)
    if train.initial_weights is not None:
        _load_initial_weights(model, train.initial_weights)
    _freeze(model, train.freeze)
    if train.precision != "auto":
        model.precision = train.precision
    return model


def _load_initial_weights(model: Reconstructor, folder: str) -> None:
    trained = load_model(os.path.expandvars(folder))
    weights, wanted = dict(trained.model.named_parameters()), dict(model.named_parameters())
    wrong = sorted(set(weights) ^ set(wanted)) or [n for n, w in wanted.items() if weights[n].shape != w.shape]
    if wrong:
        raise UsageError(
            "the initial weights do not match the model",
            where="train.initial_weights",
            why=f"{folder} contains {trained.method}; {len(wrong)} weights differ, such as {wrong[0]}",
            fix="set `model` to the sizes in the folder's config.json, or omit train.initial_weights",
        )
    copy_weights(wanted, weights)


def _freeze(model: Reconstructor, names: Sequence[str]) -> None:
    weights = dict(model.named_parameters())
    for name in names:
        matching = [w for key, w in weights.items() if f"{key}.".startswith(f"{name}.")]
        if not matching:
            parts = sorted({key.rsplit(".", depth)[0] for key in weights for depth in (0, 1, 2)})
            why, fix = f"{name!r} is no name of a weight, and no beginning of one", nearest(name, parts[:50])
            raise UsageError("there is nothing to freeze", where="train.freeze", why=why, fix=fix)
        for weight in matching:
            weight.requires_grad_(False)


@torch.no_grad()
def copy_weights(to: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values to the weights with the same names."""
    for name, weight in to.items():
        weight.copy_(values[name])


def with_precision(config: Config, precision: str) -> Config:
    """Return a copy of the configuration with another ``train.precision``."""
    train = config.settings.train.model_copy(update={"precision": precision})
    return replace(config, settings=config.settings.model_copy(update={"train": train}))


def resolve_precision(config: Config, fabric: Fabric) -> tuple[Config, str]:
    """Resolve ``train.precision: auto`` for this device, and return a note on it.

    The precision is saved with the run and does not change when it resumes. Rank 0 decides for all ranks.
    """
    settings = config.settings
    exact = settings.model.get("memory") == "invert"
    precision, note = fabric.broadcast(pick_precision(settings.train.precision, fabric.device, exact=exact))
    return with_precision(config, precision), note


def make_optimizer(settings: Train, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the weights."""
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    weights = [w for w in model.parameters() if w.requires_grad]
    return kind(weights, settings.lr, (settings.betas[0], settings.betas[1]), weight_decay=settings.weight_decay)


def learning_rate(settings: Train, step: int, total: int, progress: float = 0.0) -> float:
    """Return the learning rate of a step, counted from 0.

    Args:
        settings: training settings with the schedule.
        step: index of the step.
        total: number of steps of the run.
        progress: with a time budget (``train.minutes``), the elapsed fraction of it.

    """
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.minutes is not None:  # warm-up takes at most a tenth of the budget
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
    """Return the factories of training and of validation samples.

    Validation uses slices spread evenly over its subjects, with the same random draws every time.
    """
    method, loss, seed = find_method(settings.method), settings.loss, settings.train.seed
    maps = method.maps and model.prepare is None
    share = 0.0 if loss.supervised else loss.held_out_share
    start = model.start if maps else None
    chunk = settings.train.batch * settings.data.buffer.batches_per_chunk
    count = min(settings.data.val_items, len(sources.val))
    chosen = [sources.val[i * len(sources.val) // count] for i in range(count)]
    # Without references, some acquired samples are held out and predicted.
    val_share = 0.1 if not loss.supervised and not any(s.simulated for s in chosen) else 0.0
    common = (maps, method.learned, start)
    return (
        SampleFactory(sources.train, settings.data, seed, chunk, loss.full, share, *common),
        SampleFactory(chosen, settings.data, seed + 1_000_003, 1, False, val_share, *common),
    )
