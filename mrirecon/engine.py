"""Run a reconstruction method: a list of steps that iterate on a state, for one frozen problem.

    state = step.init(p);  state = step(state, p) ...;  image = step.image(state, p)

`Step` is one iteration, `Unrolled` repeats steps, and `Reconstructor` adds what all methods share: it scales the data,
makes the first image, iterates, and undoes the scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem
from mrirecon.physics.reversible import run_invertible
from mrirecon.physics.scale import percentile_scale, smooth_phase
from mrirecon.physics.transforms import Prior, Scale, SmoothPhase

ScaleRule = Literal["percentile", "none"]
Phase = Literal["kept", "removed"]
Memory = Literal["store", "checkpoint", "invert"]
Precision = Literal["float32", "bfloat16"]
# Makes the image (B, M, *space) that a method starts from. A problem with an `initial_image` starts near its solution.
StartImage = Callable[[Problem, Prior | None], Tensor]
S = TypeVar("S")  # the state of a step: a tensor, or a named tuple of tensors with the batch first


class Step(nn.Module, Generic[S], ABC):
    """Define one iteration of a method: the first state, the next state, and the image of a state.

    Attributes:
        needs_cartesian: whether the step reads the samples or the mask (``p.y``, ``p.mask``, ``p.A``), which requires
            Cartesian k-space. Other steps read ``adjoint``, ``normal``, ``gradient``, ``lipschitz``, ``encode`` and
            ``initial_image`` only.
        takes_initial_image: whether the step starts from the problem's initial image.
        magnitude: whether the image is a magnitude, without phase.

    """

    needs_cartesian: bool = False
    takes_initial_image: bool = True
    magnitude: bool = False

    @abstractmethod
    def init(self, p: Problem) -> S:
        """Return the first state."""

    def enter(self, previous: S, p: Problem) -> S:
        """Return the first state of this block when the block before it ended in ``previous``."""
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
        """Initialize networks that add to the state such that they add nothing before training."""


@dataclass(frozen=True)
class Schedule(Generic[S]):
    """List the steps of a method; a function registered with `mrirecon.methods.registry.register` returns it.

    Attributes:
        blocks, repeats, tolerance: see `Unrolled`.
        prepare: completes the problem before the iteration, for example with coil maps from a network.

    """

    blocks: Sequence[Step[S]]
    repeats: int = 1
    tolerance: float | Tensor = 0.0
    prepare: nn.Module | None = None


class Outcome(NamedTuple):
    """Hold the state after a step, and how far each item of the batch has come."""

    state: Any  # of the step that ran last
    iterations: Tensor  # (B,) steps taken
    change: Tensor  # (B,) relative change at the last step; NaN without a stopping rule
    converged: Tensor  # (B,) whether the change fell below the tolerance

    def reasons(self, tolerance: float | Tensor) -> list[str]:
        """Return one sentence for each item: why its iteration ended."""
        limits = torch.as_tensor(tolerance).expand(len(self.iterations))
        columns = (v.tolist() for v in (self.iterations, self.change, self.converged, limits))
        return [_reason(*row) for row in zip(*columns, strict=True)]


def _reason(count: int, change: float, converged: bool, tolerance: float) -> str:
    if converged:
        return f"converged: relative change {change:.1e} < {tolerance:.1e} after {count} iterations"
    if change == change:  # not NaN: there is a stopping rule
        return f"stopped at the limit of {count} iterations: relative change {change:.1e}"
    return f"completed {count} step{'s' if count > 1 else ''}"


class Unrolled(nn.Module):
    """Apply each block ``repeats`` times. 1×T is a classical or recurrent method, K×1 a cascade, C×T a CIRIM.

    Args:
        blocks: one step for each block.
        repeats: how often each block is applied.
        tolerance: an item stops when its relative change falls below this; one value, or one for each item (B,).
            With 0, and while gradients are recorded, all steps run.
        memory: how training limits its memory. ``store`` keeps what all steps need for the backward pass;
            ``checkpoint`` keeps one state for each segment and repeats the steps; ``invert`` keeps the last state only
            and computes the others back from it, for invertible steps.
        segment: steps between two checkpoints.

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
        return self._steps[-1].image(state, p)

    def solve(self, p: Problem) -> Outcome:
        """Run to the end: until every item meets the tolerance, or through the whole schedule."""
        for _, latest in self.iterates(p):
            outcome = latest
        return outcome

    def iterates(self, p: Problem) -> Iterator[tuple[Step[Any], Outcome]]:
        """Yield (step, outcome) after every step, until every item meets the tolerance.

        An item that has converged keeps its state while others go on, so that its result does not depend on the batch.
        While gradients are recorded with ``memory="invert"``, only the last step is yielded.
        """
        p = p.prepared()
        batch, device = p.adjoint.shape[0], p.adjoint.device
        has_rule = bool(torch.as_tensor(self.tolerance).amax() > 0) and not self._records_gradients(p)
        converged = torch.zeros(batch, dtype=torch.bool, device=device)
        iterations = torch.zeros(batch, dtype=torch.long, device=device)
        change = torch.full((batch,), float("nan"), dtype=p.adjoint.real.dtype, device=device)
        final: Any = None  # the last states of the items that have converged
        for step, old, new in self._transitions(p):
            iterations = iterations + ~converged
            moved = step.change(old, new, p) if has_rule else None
            if moved is not None:
                change = torch.where(converged, change, moved)
                newly = ~converged & (moved < self.tolerance)
                if bool(newly.any()):
                    final = new if final is None else _select(newly, new, final)
                    converged = converged | newly
            yield step, Outcome(new if final is None else _select(converged, final, new), iterations, change, converged)
            if has_rule and bool(converged.all()):
                return

    def _transitions(self, p: Problem) -> Iterator[tuple[Step[Any], Any, Any]]:
        """Yield (step, state before, state after) for every step of the schedule."""
        memory = self.memory if torch.is_grad_enabled() else "store"
        if memory == "invert":
            steps = [step for step in self._steps for _ in range(self.repeats)]
            yield steps[-1], *run_invertible(steps, p)
            return
        state: Any = None
        length = self.segment if memory == "checkpoint" else 1
        for number, step in enumerate(self._steps):
            state = step.enter(state, p) if number else step.init(p)
            for start in range(0, self.repeats, length):
                count = min(length, self.repeats - start)
                if memory == "checkpoint":
                    states = checkpoint(_repeat, step, state, p, count, use_reentrant=False)
                else:
                    states = _repeat(step, state, p, count)
                for new in states:
                    yield step, state, new
                    state = new

    @property
    def _steps(self) -> list[Step[Any]]:
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


def _select(where: Tensor, a: Any, b: Any) -> Any:
    """Return state ``a`` for the items where ``where`` (B,) is true, and state ``b`` for the others."""
    if isinstance(a, Tensor):
        return torch.where(per_item(where, a), a, b)
    if isinstance(a, tuple):
        parts = [_select(where, u, v) for u, v in zip(a, b, strict=True)]
        return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
    return b


class Result(NamedTuple):
    """Hold a reconstruction."""

    image: Tensor  # (B, M, *space) in the scale of the data
    iterations: Tensor  # (B,)
    reasons: list[str]  # why the iteration of each item ended


@dataclass(frozen=True)
class Normalized:
    """Hold the problem that the engine solves for u, and the transforms of the image x = s φ u."""

    problem: Problem
    scale: Scale
    phase: SmoothPhase | None

    def undo(self, u: Tensor) -> Tensor:
        """Return the image x (B, M, *space) in the scale of the data, with its phase."""
        return self.scale.undo(u if self.phase is None else self.phase.undo(u))

    def explain(self, reasons: list[str]) -> list[str]:
        """Return why the iteration of each item ended, with what else there is to say of its image."""
        return reasons


class Reconstructor(nn.Module):
    """Reconstruct images: divide the data by one number, prepare the maps, iterate, undo the scale.

    Args:
        engine: the iteration.
        prepare: completes the scaled problem, for example with coil maps from a network.
        scale: ``percentile`` divides by the 99th percentile of |Aᴴy|, so that a regularization weight or a network
            means the same on every scanner. The magnitudes of several sets of maps are combined first. ``none`` is for
            weights that were trained in the unit of the data.
        start: makes the image that a learned method refines in place of the zero-filled one, without gradients. A
            problem that has an ``initial_image`` is refined from that image.
        phase: ``removed`` moves the smooth phase of the first image into the maps, so that a network sees a nearly
            real image on every scanner and at every echo time (`mrirecon.physics.transforms.SmoothPhase`).

    """

    def __init__(
        self,
        engine: Unrolled,
        prepare: Callable[[Problem], Problem] | None = None,
        *,
        scale: ScaleRule = "percentile",
        start: StartImage | None = None,
        phase: Phase = "kept",
    ) -> None:
        super().__init__()
        self.engine, self.prepare = engine, prepare
        self.scale, self.start, self.phase = scale, start, phase
        self._precision: Precision = "float32"

    @property
    def precision(self) -> Precision:
        """Return the type that networks compute in; a setting of the run, not an option of the method.

        ``bfloat16`` casts the inputs and weights of networks only: physics stays in complex64, and the stored weights
        and their gradients in float32.
        """
        return self._precision

    @precision.setter
    def precision(self, value: Precision) -> None:
        """Set the type in every module that calls a network."""
        self._precision = value
        for module in self.modules():
            if isinstance(module, RunsNetwork):
                module.network_dtype = torch.bfloat16 if value == "bfloat16" else None

    @property
    def needs_cartesian(self) -> bool:
        """Return whether a part reads the samples or the mask, as what makes a first image does."""
        parts = (module for module in self.modules() if module is not self)
        return self.start is not None or any(getattr(module, "needs_cartesian", False) for module in parts)

    def forward(self, p: Problem, *, prior: Prior | None = None) -> Tensor:
        """Return the image (B, M, *space) in the scale of the data."""
        return self.run(p, prior=prior).image

    def run(self, p: Problem, *, prior: Prior | None = None, consume: bool = False) -> Result:
        """Reconstruct, and say why each item stopped; see `normalize` for ``prior`` and ``consume``."""
        n = self.begin(p, prior, consume)
        outcome = self.engine.solve(n.problem)
        image = n.undo(self.engine.image(outcome.state, n.problem))
        return Result(image, outcome.iterations, n.explain(outcome.reasons(self.engine.tolerance)))

    def images(self, p: Problem, *, prior: Prior | None = None) -> Iterator[Tensor]:
        """Yield the image (B, M, *space) after every step, in the scale of the data; the last is that of `run`."""
        n = self.begin(p, prior)
        for step, outcome in self.engine.iterates(n.problem):
            yield n.undo(step.image(outcome.state, n.problem))

    def begin(self, p: Problem, prior: Prior | None = None, consume: bool = False) -> Normalized:
        """Return the problem that the engine solves, and how its image becomes the result."""
        return self.normalize(p, prior=prior, consume=consume)

    def normalize(
        self, p: Problem, *, prior: Prior | None = None, consume: bool = False, warm: bool = False
    ) -> Normalized:
        """Return the problem that the engine solves: at unit scale, prepared, with its first image.

        Args:
            p: the problem.
            prior: where signal is expected, for a first image whose solver is regularized.
            consume: divide k-space in place; see `mrirecon.physics.transforms.Scale`.
            warm: solve for the first image from the problem's ``initial_image``, which is only near it.

        Raises:
            SignalError: the zero-filled image of an item is zero or not a number.

        """
        p = p.prepared()
        factor = percentile_scale(p.adjoint)
        scale = Scale(torch.ones_like(factor) if self.scale == "none" else factor, consume)
        q = scale.apply(p)
        q = (q if self.prepare is None else self.prepare(q)).prepared()
        with torch.no_grad():
            if self.start is not None and (q.initial_image is None or warm):
                # The prior belongs to the given maps, not to those of a network.
                q = replace(q, initial_image=self.start(q, None if self.prepare is not None else prior))
            phase = SmoothPhase(smooth_phase(q.starting_image, q.axes)) if self.phase == "removed" else None
        # With gradients: the maps may come from a network.
        return Normalized(q if phase is None else phase.apply(q), scale, phase)
