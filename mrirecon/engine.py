"""Run a reconstruction method: a list of steps that iterate on a state, for one frozen problem.

    state = step.init(p);  state = step(state, p) ...;  image = step.image(state, p)

`Step` is one iteration, `Schedule` lists the steps of a method, and `Unrolled` runs them. `Reconstructor` scales the
data, computes the initial image, iterates, and undoes the scale, for every method alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrirecon.physics.conventions import FourierRule, ScaleRule, Unshifted, reads_samples, scale_by_rule
from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem
from mrirecon.physics.reversible import run_invertible
from mrirecon.physics.scale import smooth_phase
from mrirecon.physics.transforms import Prior, SmoothPhase, Transform

Phase = Literal["kept", "removed"]
Memory = Literal["store", "checkpoint", "invert"]
Precision = Literal["float32", "bfloat16"]
# Computes the initial image (B, M, *space) of a method. A problem with an `initial_image` starts near its solution.
StartImage = Callable[[Problem, Prior | None], Tensor]
S = TypeVar("S")  # the state of a step: a tensor, or a named tuple of tensors with the batch first


class Step(nn.Module, Generic[S], ABC):
    """Define one iteration of a method: the first state, the next state, and the image of a state.

    Attributes:
        needs_cartesian: the reason why the step requires Cartesian k-space, such as its use of the samples or the mask
            (``p.y``, ``p.mask``, ``p.A``); empty if it does not. Other steps use ``adjoint``, ``normal``,
            ``gradient``, ``lipschitz``, ``zero_filled``, ``coil_images`` and ``initial_image`` only.
        takes_initial_image: whether the step starts from the problem's initial image.
        magnitude: whether the image is a magnitude, without phase.
        once: whether the step is applied once, not repeated.
        follows_image: whether ``enter`` also accepts an image, of a block of another kind.

    """

    needs_cartesian: str = ""
    takes_initial_image: bool = True
    magnitude: bool = False
    once: bool = False
    follows_image: bool = False

    @abstractmethod
    def init(self, p: Problem) -> S:
        """Return the first state."""

    def enter(self, previous: S, p: Problem) -> S:
        """Return the first state of this block, given the last state ``previous`` of the block before."""
        return previous

    @abstractmethod
    def forward(self, s: S, p: Problem) -> S:
        """Return the next state."""

    def image(self, s: S, p: Problem) -> Tensor:
        """Return the image (B, M, *space) of a state; by default the state itself, or its field ``x``."""
        return s if isinstance(s, Tensor) else cast("Any", s).x

    def inverse(self, s: S, p: Problem) -> S:
        """Return the state that ``forward`` maps to ``s``; only invertible steps define it."""
        raise NotImplementedError(f"{type(self).__name__} is not invertible")

    def change(self, old: S, new: S, p: Problem) -> Tensor | None:
        """Return the relative change (B,) of each item, for the stopping rule; None for a step without a rule."""
        return None

    def zero_init_output(self) -> None:
        """Initialize networks that add to the state so that they add nothing before training."""


@dataclass(frozen=True)
class Schedule(Generic[S]):
    """List the steps of a method, as returned by functions registered with `mrirecon.methods.registry.register`.

    Attributes:
        blocks, repeats, tolerance: see `Unrolled`.
        prepare: function that completes the problem before the iteration, for example with coil maps from a network.

    """

    blocks: Sequence[Step[S]]
    repeats: int = 1
    tolerance: float | Tensor = 0.0
    prepare: nn.Module | None = None


class Outcome(NamedTuple):
    """Hold the state after a step, and the progress of each item of the batch."""

    state: Any
    iterations: Tensor  # (B,) number of steps
    change: Tensor  # (B,) relative change at the last step; NaN without a stopping rule
    converged: Tensor  # (B,) whether the change fell below the tolerance

    def after(self, new: Any, distance: Tensor | None, tolerance: float | Tensor) -> Outcome:
        """Return the outcome after a step with relative change ``distance`` (B,); converged items keep their state."""
        iterations = self.iterations + ~self.converged
        if distance is None:
            return Outcome(new, iterations, self.change, self.converged)
        state = _select(self.converged, self.state, new) if bool(self.converged.any()) else new
        change = torch.where(self.converged, self.change, distance)
        return Outcome(state, iterations, change, self.converged | (distance < tolerance))

    def reasons(self, tolerance: float | Tensor) -> list[str]:
        """Return one sentence per item with the reason why its iteration ended."""
        sentences = []
        limits = torch.as_tensor(tolerance).expand(len(self.iterations))
        columns = (v.tolist() for v in (self.iterations, self.change, self.converged, limits))
        for count, change, converged, limit in zip(*columns, strict=True):
            if converged:
                sentences.append(f"converged: relative change {change:.1e} < {limit:.1e} after {count} iterations")
            elif math.isnan(change):  # no stopping rule
                sentences.append(f"completed {count} step{'s' if count > 1 else ''}")
            else:
                sentences.append(f"stopped at the limit of {count} iterations: relative change {change:.1e}")
        return sentences


class Unrolled(nn.Module):
    """Apply each block ``repeats`` times: 1×T for classical and recurrent methods, K×1 for cascades, C×T for CIRIM.

    Args:
        blocks: one step per block.
        repeats: number of applications of each block.
        tolerance: an item stops when its relative change falls below this; one value, or one per item (B,). With 0, or
            while gradients are recorded, all steps run.
        memory: in training, ``store`` stores the values of all steps for the backward pass; ``checkpoint`` stores
            one state per segment and repeats the steps; ``invert`` stores the last state only and recomputes the
            others from it, for invertible steps.
        segment: number of steps between two checkpoints.

    """

    def __init__(
        self,
        blocks: Sequence[Step[Any]],
        repeats: int = 1,
        *,
        tolerance: float | Tensor = 0.0,
        memory: Memory = "store",
        segment: int = 1,
    ) -> None:
        super().__init__()
        self.blocks, self.repeats, self.tolerance = nn.ModuleList(blocks), repeats, tolerance
        self.memory, self.segment = memory, segment

    def forward(self, p: Problem) -> Tensor:
        """Return the reconstructed image (B, M, *space)."""
        p = p.prepared()
        return self.image(self.solve(p).state, p)

    def image(self, state: Any, p: Problem) -> Tensor:
        """Return the image (B, M, *space) of a final state."""
        return self.steps[-1].image(state, p)

    def solve(self, p: Problem) -> Outcome:
        """Run all steps, or stop when every item meets the tolerance; return the outcome."""
        for _, latest in self.iterates(p):
            outcome = latest
        return outcome

    def iterates(self, p: Problem) -> Iterator[tuple[Step[Any], Outcome]]:
        """Yield (step, outcome) after every step, until every item meets the tolerance.

        A converged item keeps its state while others continue, so that its result does not depend on the batch. While
        gradients are recorded with ``memory="invert"``, only the last step is yielded.
        """
        p = p.prepared()
        none = torch.zeros(len(p.maps), dtype=torch.long, device=p.maps.device)
        outcome = Outcome(None, none, torch.full_like(none, float("nan"), dtype=p.maps.real.dtype), none.bool())
        memory = self.memory if torch.is_grad_enabled() else "store"
        if memory == "invert":
            steps = [step for step in self.steps for _ in range(self.repeats_of(step))]
            yield steps[-1], outcome._replace(state=run_invertible(steps, p), iterations=none + len(steps))
            return
        advance, length = _repeat, 1
        if memory == "checkpoint":
            advance, length = partial(checkpoint, _repeat, use_reentrant=False), self.segment
        has_rule = bool(torch.as_tensor(self.tolerance).amax() > 0) and not self._records_gradients(p)
        for number, step in enumerate(self.steps):
            outcome = outcome._replace(state=step.enter(outcome.state, p) if number else step.init(p))
            repeats = self.repeats_of(step)
            for start in range(0, repeats, length):
                for new in advance(step, outcome.state, p, min(length, repeats - start)):
                    distance = step.change(outcome.state, new, p) if has_rule else None
                    outcome = outcome.after(new, distance, self.tolerance)
                    yield step, outcome
                    if has_rule and bool(outcome.converged.all()):
                        return

    def repeats_of(self, step: Step[Any]) -> int:
        """Return how often a block is applied."""
        return 1 if step.once else self.repeats

    @property
    def steps(self) -> list[Step[Any]]:
        """Return the blocks."""
        return cast("list[Step[Any]]", list(self.blocks))

    def _records_gradients(self, p: Problem) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (p.adjoint, p.maps, *self.parameters()))


def _repeat(step: Step[S], state: S, p: Problem, count: int) -> list[S]:
    """Return the states after each of ``count`` steps."""
    states = []
    for _ in range(count):
        state = step(state, p)
        states.append(state)
    return states


def _select(condition: Tensor, a: Any, b: Any) -> Any:
    """Return state ``a`` for the items where ``condition`` (B,) is true, and state ``b`` for the others."""
    if isinstance(a, Tensor):
        return torch.where(per_item(condition, a), a, b)
    if not isinstance(a, tuple):
        return b
    parts = [_select(condition, u, v) for u, v in zip(a, b, strict=True)]
    return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)


class Result(NamedTuple):
    """Hold a reconstruction."""

    image: Tensor  # (B, M, *space) in the scale of the data
    iterations: Tensor  # (B,)
    reasons: list[str]  # one per item: the reason for the end of its iteration


@dataclass(frozen=True)
class Normalized:
    """Hold the problem for u that the engine solves, and the transforms of the image x = s φ u."""

    problem: Problem
    scale: Transform
    phase: SmoothPhase | None

    def undo(self, u: Tensor) -> Tensor:
        """Return the image x (B, M, *space) in the scale of the data, with its phase."""
        return self.scale.undo(u if self.phase is None else self.phase.undo(u))

    def explain(self, reasons: list[str]) -> list[str]:
        """Return the reason why the iteration of each item ended, with further information on its image."""
        return reasons


class Reconstructor(nn.Module):
    """Reconstruct images: scale the data, prepare the maps, iterate, undo the scale.

    Args:
        engine: iteration.
        prepare: function that completes the scaled problem, for example with coil maps from a network.
        scale: ``percentile`` divides by the 99th percentile of |Aᴴy|, which makes regularization weights and networks
            independent of the scanner; ``none`` is for weights trained in the unit of the data.
            The others are rules of other toolkits, see `scale_by_rule`.
        start: function that computes the initial image, without gradients; by default, it is the zero-filled image. An
            ``initial_image`` of the problem takes precedence.
        phase: ``removed`` moves the smooth phase of the initial image into the maps (`SmoothPhase`), which makes the
            input of a network nearly real for every scanner and echo time.
        fourier: ``unshifted`` for weights trained on images of a transform without shifts
            (`mrirecon.physics.conventions.Unshifted`).

    """

    def __init__(
        self,
        engine: Unrolled,
        prepare: Callable[[Problem], Problem] | None = None,
        *,
        scale: ScaleRule = "percentile",
        start: StartImage | None = None,
        phase: Phase = "kept",
        fourier: FourierRule = "centred",
    ) -> None:
        super().__init__()
        self.engine, self.prepare = engine, prepare
        self.scale, self.start, self.phase, self.fourier = scale, start, phase, fourier
        self._precision: Precision = "float32"

    @property
    def precision(self) -> Precision:
        """Return the data type of the networks: a setting of the run, not an option of the method.

        Physics stays in complex64, and stored weights and their gradients in float32.
        """
        return self._precision

    @precision.setter
    def precision(self, value: Precision) -> None:
        """Set the data type of the networks."""
        self._precision = value
        for module in self.modules():
            if isinstance(module, RunsNetwork):
                module.network_dtype = torch.bfloat16 if value == "bfloat16" else None

    @property
    def needs_cartesian(self) -> str:
        """Return the reason why a part requires Cartesian k-space; empty if none does."""
        if reads_samples(self.scale, self.fourier):
            return f"the unit of its weights (scale={self.scale}, fourier={self.fourier}) is that of a Cartesian grid"
        reasons = (getattr(module, "needs_cartesian", "") for module in self.modules() if module is not self)
        return next((reason for reason in reasons if reason), "")

    def forward(self, p: Problem, *, prior: Prior | None = None) -> Tensor:
        """Return the image (B, M, *space) in the scale of the data."""
        return self.run(p, prior=prior).image

    def run(self, p: Problem, *, prior: Prior | None = None, consume: bool = False) -> Result:
        """Reconstruct, and return why each item stopped; see `normalize` for ``prior`` and ``consume``."""
        n = self.normalize(p, prior=prior, consume=consume)
        outcome = self.engine.solve(n.problem)
        image = n.undo(self.engine.image(outcome.state, n.problem))
        return Result(image, outcome.iterations, n.explain(outcome.reasons(self.engine.tolerance)))

    def images(self, p: Problem, *, prior: Prior | None = None) -> Iterator[Tensor]:
        """Yield the image (B, M, *space) after every step, in the scale of the data; the last is the image of `run`."""
        n = self.normalize(p, prior=prior)
        for step, outcome in self.engine.iterates(n.problem):
            yield n.undo(step.image(outcome.state, n.problem))

    def normalize(
        self, p: Problem, *, prior: Prior | None = None, consume: bool = False, warm: bool = False
    ) -> Normalized:
        """Return the problem for the engine: at unit scale, prepared, with the initial image.

        Args:
            p: problem.
            prior: expected signal, for the regularized solver of an initial image.
            consume: divide k-space in place; see `mrirecon.physics.transforms.Scale`.
            warm: compute the initial image iteratively from the problem's ``initial_image``, which is only near it.

        Raises:
            SignalError: the zero-filled image of an item is zero or not a number.
            UsageError: the method needs Cartesian k-space, and the samples lie on a trajectory.

        """
        if self.needs_cartesian:
            p.require_cartesian(self.needs_cartesian)
        p = p.prepared()
        signs = Unshifted(tuple(p.y.shape[2:])) if self.fourier == "unshifted" else None
        p = p if signs is None else signs.apply(p).prepared()
        scale = scale_by_rule(self.scale, p, scale_maps=self.prepare is None, consume=consume)
        q = scale.apply(p)
        scale = scale if signs is None else signs @ scale
        q = (q if self.prepare is None else self.prepare(q)).prepared()
        with torch.no_grad():
            if self.start is not None and (q.initial_image is None or warm):
                # The prior belongs to the given maps, not to maps from a network.
                q = replace(q, initial_image=self.start(q, None if self.prepare is not None else prior))
            phase = SmoothPhase(smooth_phase(q.starting_image, q.axes)) if self.phase == "removed" else None
        # With gradients: the maps may come from a network.
        return Normalized(q if phase is None else phase.apply(q), scale, phase)
