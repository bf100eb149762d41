"""Train a copy of a model on splits of measured samples, and select the weights with the lowest validation error."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mrirecon.engine import Normalized, Reconstructor
from mrirecon.methods.cross_validation import Blended, blend_weight
from mrirecon.metrics.losses import Comparison, ssdu
from mrirecon.physics.operators import norm, per_item
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior, Scale
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.adaptation.split import SampleParts

GRADIENT_CLIP = 1.0
LARGE = 2**17  # voxels from which on steps are computed twice to save memory; a CIRIM needs gigabytes for smaller ones
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """Hold a slice to train on.

    Attributes:
        problem: problem with all samples, a batch of one.
        prior: prior of a regularized initial image.
        parts: the parts of its samples.
        location: file and slice, for messages.

    """

    problem: Problem
    prior: Prior | None
    parts: SampleParts
    location: str

    def mask(self, values: np.ndarray) -> Tensor:
        """Return a mask (*space) as a tensor (1, 1, *space)."""
        return torch.from_numpy(values).to(self.problem.mask)[None, None]


@dataclass(frozen=True)
class Fit:
    """Hold the outcome of an adaptation.

    Attributes:
        model: a copy of the model with the selected weights.
        step: number of steps after which these weights were reached; 0 if the model keeps its weights.
        taken: number of all steps.
        errors: validation errors by step: the relative error of the predicted validation samples, the geometric mean
            over kinds of samples and slices.
        seconds: wall time of training and validation.
        reason: why the training ended.

    """

    model: Reconstructor
    step: int
    taken: int
    errors: dict[int, float]
    seconds: float
    reason: str

    @property
    def adapted(self) -> bool:
        """Return whether the weights changed."""
        return self.step > 0

    @property
    def before(self) -> float:
        """Return the validation error of the given weights."""
        return self.errors[0]

    @property
    def after(self) -> float:
        """Return the validation error of the selected weights."""
        return self.errors[self.step]


def fit(
    model: Reconstructor,
    cases: Sequence[Case],
    settings: Adaptation,
    *,
    begun: float | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Train a copy of a model on the splits of slices, and select its weights by the validation samples.

    Every step uses one split of one slice: the model reconstructs it from the input samples, and the loss is the error
    of its prediction of the others (`mrirecon.metrics.losses.ssdu`). The initial image of each split is computed once.
    If no weights have a lower validation error than the given ones, these are selected.

    Args:
        model: the model, which is not changed.
        cases: slices with their splits.
        settings: steps, time and learning rate.
        begun: start of the time limit, from `time.monotonic`; by default now.
        progress: function of (steps done, steps, current work).

    """
    start = time.monotonic()
    end = math.inf if settings.minutes is None else (start if begun is None else begun) + 60 * settings.minutes
    report = progress or (lambda done, total, what: None)
    trained = copy.deepcopy(model)
    if trained.engine.memory == "store" and max(case.problem.mask[0, 0].numel() for case in cases) > LARGE:
        trained.engine.memory = "checkpoint"
    plain = trained.unblended if isinstance(trained, Blended) else trained
    report(0, settings.steps, "initial images")
    validation = [_restricted(plain, case, case.parts.visible) for case in cases]
    inputs: dict[tuple[int, int], Problem] = {}

    def error() -> float:
        trained.eval()
        errors = [_validation_error(trained, plain, case, p) for case, p in zip(cases, validation, strict=True)]
        return math.exp(sum(math.log(e) for e in errors) / len(errors))

    optimizer = torch.optim.Adam([w for w in trained.parameters() if w.requires_grad], settings.rate)
    errors = {0: error()}
    best, best_weights = 0, _weights(trained)
    taken, longest, reason = 0, 0.0, "all steps are done"
    with torch.random.fork_rng():
        for step, (number, k) in enumerate(_order(cases, settings), 1):
            clock = time.monotonic()
            case, split = cases[number], cases[number].parts.splits[k]
            if (number, k) not in inputs:
                inputs[number, k] = _restricted(plain, case, split.input)
            torch.manual_seed(settings.seed * 1_000_003 + step)  # for dropout
            loss = _step(plain, optimizer, case, inputs[number, k], split.loss)
            if not math.isfinite(loss):
                reason = f"the loss is not a number at step {step}"
                break
            taken = step
            report(step, settings.steps, f"loss {loss:.4f}")
            late = time.monotonic() + 1.5 * longest > end
            if late or step % settings.validate_every == 0 or step == settings.steps:
                now = error()
                if not math.isfinite(now):
                    reason = f"the prediction is not a number at step {step}"
                    break
                errors[step] = now
                if now < errors[best]:
                    best, best_weights = step, _weights(trained)
                elif sum(s > best for s in errors) >= settings.patience:
                    reason = f"no lower validation error since step {best}"
                    break
            longest = max(longest, time.monotonic() - clock)
            if late:
                reason = "the time is used up"
                break
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            weight.copy_(best_weights[name])
    return Fit(trained.eval(), best, taken, errors, time.monotonic() - start, reason)


def _restricted(plain: Reconstructor, case: Case, mask: np.ndarray) -> Problem:
    """Return the problem with some of the samples only, with the initial image that the model computes for it."""
    visible = case.mask(mask)
    p = Problem(case.problem.y * visible, visible, case.problem.maps, noise=case.problem.noise)
    if plain.start is None:
        return p
    with torch.no_grad():
        n = plain.normalize(p, prior=case.prior)
        return Problem(p.y, p.mask, p.maps, n.undo(n.problem.starting_image), p.noise)


def _run(plain: Reconstructor, p: Problem, prior: Prior | None) -> tuple[Normalized, Tensor, Tensor]:
    """Return the problem at unit scale, its scale (1,), and the network's image for it."""
    n = plain.normalize(p, prior=prior)
    assert isinstance(n.scale, Scale), "checked before the first step"
    return n, n.scale.factor, plain.engine.image(plain.engine.solve(n.problem).state, n.problem)


def _step(plain: Reconstructor, optimizer: torch.optim.Optimizer, case: Case, p: Problem, hidden: np.ndarray) -> float:
    """Take one optimizer step and return the loss; without a step if it is not a number."""
    plain.train()
    n, scale, image = _run(plain, p, case.prior)
    # At unit scale, the problem has the maps of the network, if it estimates them.
    full = case.problem.y / per_item(scale, case.problem.y)
    loss = ssdu(image, Comparison(n.problem, scale, full=full, held=case.mask(hidden))).mean()
    if bool(torch.isfinite(loss)):
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        norm_of_gradient = nn.utils.clip_grad_norm_(plain.parameters(), GRADIENT_CLIP)
        if bool(torch.isfinite(norm_of_gradient)):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


@torch.no_grad()
def _validation_error(model: Reconstructor, plain: Reconstructor, case: Case, p: Problem) -> float:
    """Return the relative error of predicted validation samples, the geometric mean over the kinds of samples.

    The prediction is that of the image which the model would return, blended with its initial image if it blends.
    """
    n, scale, image = _run(plain, p, case.prior)
    full = case.problem.y / per_item(scale, case.problem.y)
    hidden = [case.mask(kind) for kind in case.parts.validation]
    change = n.problem.encode(image - n.problem.starting_image)
    wrong = full - n.problem.encode(n.problem.starting_image)
    if isinstance(model, Blended):
        importance = [case.mask(kind) for kind in case.parts.importance]
        change = change * per_item(blend_weight(change, wrong, importance), change)
    errors = [float(norm(h * (wrong - change))[0] / norm(h * full)[0]) for h in hidden]
    return float(np.exp(np.mean(np.log(np.maximum(errors, 1e-12)))))


def _order(cases: Sequence[Case], settings: Adaptation) -> list[tuple[int, int]]:
    """Return (slice, split) of every step: all slices in turn, with their splits in random order."""
    rng = np.random.default_rng(settings.seed)
    queues: list[list[int]] = [[] for _ in cases]
    order = []
    for step in range(settings.steps):
        number = step % len(cases)
        if not queues[number]:
            queues[number] = rng.permutation(len(cases[number].parts.splits)).tolist()
        order.append((number, queues[number].pop()))
    return order


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in model.named_parameters()}
