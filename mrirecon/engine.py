"""The engine: a method is a list of steps that iterate on a state, for one frozen problem.

state = step.init(p);  state = step(state, p) ...;  image = step.image(state, p)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrirecon.errors import UsageError
from mrirecon.physics.operators import per_item
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem
from mrirecon.physics.reversible import Inverted
from mrirecon.physics.scale import percentile_scale, smooth_phase
from mrirecon.physics.transforms import Identity, Prior, Scale, SmoothPhase, Transform

ScaleRule = Literal["percentile", "none"]
Phase = Literal["kept", "removed"]
Memory = Literal["store", "checkpoint", "invert"]
Precision = Literal["float32", "bfloat16"]
DTYPES: dict[Precision, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
# Makes the image that a method starts from. The problem's `initial_image`, if it has one, is near that image.
StartImage = Callable[[Problem, Prior | None], Tensor]
S = TypeVar("S")  # the state that a method iterates on: a tensor, or a NamedTuple of tensors with the batch first


class Step(nn.Module, Generic[S], ABC):
    """Define one iteration of a method, the first state, and the image of a state.

    Attributes:
        needs_cartesian: whether it reads the samples or the mask (``p.y``, ``p.mask``, ``p.A``), which ties it to
            Cartesian k-space. Other steps read ``adjoint``, ``normal``, ``gradient``, ``lipschitz``, ``encode`` and
            ``initial_image`` alone.
        takes_initial_image: whether it starts from the image that the problem gives.
        magnitude: whether its image is a magnitude, without phase.

    """

    needs_cartesian: bool = False
    takes_initial_image: bool = True
    magnitude: bool = False

    @abstractmethod
    def init(self, p: Problem) -> S:
        """Return the first state."""

    def enter(self, previous: S, p: Problem) -> S:
        """Return the state that this block starts from when another block ends in ``previous``."""
        return previous

    @abstractmethod
    def forward(self, s: S, p: Problem) -> S:
        """Return the next state."""

    @abstractmethod
    def image(self, s: S, p: Problem) -> Tensor:
        """Return the image (B, M, *space) that a state stands for."""

    def inverse(self, s: S, p: Problem) -> S:
        """Return the state that ``forward`` maps to ``s``, for steps that can be undone."""
        raise NotImplementedError(f"{type(self).__name__} cannot be undone")

    def change(self, old: S, new: S, p: Problem) -> Tensor | None:
        """Return how far each item still moves (B,), relative; None for a step that has no stopping rule."""
        return None

    def zero_init_output(self) -> None:
        """Make the step leave its state as it is before training, where a network adds to the state."""


class Outcome(NamedTuple, Generic[S]):
    """Hold where an iteration ended, for each item of the batch."""

    state: S
    iterations: Tensor  # (B,) steps taken
    change: Tensor  # (B,) relative change at the last step; NaN where the method has no rule
    converged: Tensor  # (B,) true where the change fell below the tolerance

    def reasons(self, tolerance: float | Tensor) -> list[str]:
        """Return for each item why it stopped, in words."""
        out = []
        limits = torch.as_tensor(tolerance).expand(len(self.iterations))
        facts = (v.tolist() for v in (self.iterations, self.change, self.converged, limits))
        for n, c, ok, limit in zip(*facts, strict=True):
            if ok:
                out.append(f"converged: relative change {c:.1e} < {limit:.1e} after {n} iterations")
            elif c == c:
                out.append(f"stopped at the limit of {n} iterations: relative change {c:.1e}")
            else:
                out.append(f"completed {n} step{'s' if n != 1 else ''}")
        return out


class Unrolled(nn.Module, Generic[S]):
    """Apply each block ``repeats`` times: 1×T is classical or recurrent, K×1 a cascade, C×T a cascade of recurrences.

    Args:
        blocks: the steps; each block after the first is entered from the one before.
        repeats: how often each block is applied.
        tolerance: an item stops when its step's relative change falls below this, unless gradients are being
            recorded, for which every run must have the same length; 0 never stops. One for all, or for each item (B,).
        memory: ``checkpoint`` recomputes steps in the backward pass instead of storing what they need; ``invert``
            computes even their inputs back from their outputs, for steps that can be undone.
        segment: how many steps are recomputed together; only the state before them is kept.

    """

    def __init__(
        self,
        blocks: Sequence[Step[S]],
        repeats: int = 1,
        *,
        tolerance: float | Tensor = 0.0,
        memory: Memory = "store",
        segment: int = 1,
    ) -> None:
        super().__init__()
        self.blocks, self.repeats, self.tolerance, self.memory = nn.ModuleList(blocks), repeats, tolerance, memory
        self.segment = segment

    def transitions(self, p: Problem) -> Iterator[tuple[Step[S], S, S]]:
        """Yield (step, state before, state after) for every step of the schedule."""
        state: S | None = None
        if self.memory == "invert" and torch.is_grad_enabled():
            yield self._invertible_transition(p)
            return
        for block in self.blocks:
            step = cast("Step[S]", block)
            state = step.init(p) if state is None else step.enter(state, p)
            if self.memory == "checkpoint" and torch.is_grad_enabled():
                for start in range(0, self.repeats, self.segment):
                    count = min(self.segment, self.repeats - start)
                    for new in cast("list[S]", checkpoint(_repeat, step, state, p, count, use_reentrant=False)):
                        yield step, state, new
                        state = new
            else:
                for _ in range(self.repeats):
                    old = state
                    state = cast("S", step(old, p))
                    yield step, old, state

    def _invertible_transition(self, p: Problem) -> tuple[Step[S], S, S]:
        """Take all steps at once and keep the last state alone."""
        steps = [cast("Step[S]", block) for block in self.blocks for _ in range(self.repeats)]
        start = steps[0].init(p)
        if not isinstance(start, Tensor):
            raise UsageError("only steps whose state is one tensor can be undone", fix="use memory=checkpoint")
        computed = {m.network_dtype for m in self.modules() if isinstance(m, RunsNetwork)}
        if computed - {None, p.adjoint.real.dtype} or torch.is_autocast_enabled(p.adjoint.device.type):
            raise UsageError(
                "memory=invert needs full precision",
                why="what half precision rounds away cannot be computed back",
                fix="compute in float32, or use memory=checkpoint",
            )
        weights = [w for w in self.parameters() if w.requires_grad]
        end = Inverted.apply(steps, p, start, *weights)  # type: ignore[no-untyped-call]  # torch's
        return steps[-1], cast("S", start), cast("S", end)

    def iterates(self, p: Problem) -> Iterator[S]:
        """Yield every state, so that the caller can stop, log, draw or supervise them all.

        While gradients are recorded with ``memory="invert"``, only the last state exists and is yielded.
        """
        for _, _, state in self.transitions(p.prepared()):
            yield state

    def outcomes(self, p: Problem) -> Iterator[tuple[Step[S], Outcome[S]]]:
        """Yield (step, where the iteration stands) after every step, until every item meets the tolerance.

        An item that has stopped keeps its state while others go on, so that its result does not depend on the batch.
        """
        p = p.prepared()
        batch, device = p.adjoint.shape[0], p.adjoint.device
        watch = bool(torch.as_tensor(self.tolerance).amax() > 0) and not self._records_gradients(p)
        done = torch.zeros(batch, dtype=torch.bool, device=device)
        steps = torch.zeros(batch, dtype=torch.long, device=device)
        change = torch.full((batch,), float("nan"), dtype=p.adjoint.real.dtype, device=device)
        held: S | None = None
        for step, old, new in self.transitions(p):
            steps, finished = steps + ~done, False
            moved = step.change(old, new, p) if watch else None
            if moved is not None:
                change = torch.where(done, change, moved)
                newly = ~done & (moved < self.tolerance)
                if bool(newly.any()):
                    held = new if held is None else _select(newly, new, held)
                    done = done | newly
                    finished = bool(done.all())
            yield step, Outcome(new if held is None else _select(done, held, new), steps, change, done)
            if finished:
                return

    def solve(self, p: Problem) -> Outcome[S]:
        """Return where the iteration ends: every item at the tolerance, or at the end of the schedule."""
        outcome: Outcome[S] | None = None
        for _, latest in self.outcomes(p):
            outcome = latest
        assert outcome is not None, "a schedule has at least one step"
        return outcome

    def _records_gradients(self, p: Problem) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (p.adjoint, p.maps, *self.parameters()))

    def image(self, s: S, p: Problem) -> Tensor:
        """Return the image of a final state."""
        return cast("Step[S]", self.blocks[-1]).image(s, p)

    def forward(self, p: Problem) -> Tensor:
        """Return the reconstructed image (B, M, *space)."""
        p = p.prepared()
        return self.image(self.solve(p).state, p)


def _repeat(step: Step[S], state: S, p: Problem, count: int) -> list[S]:
    """Return the states after each of ``count`` steps."""
    states = []
    for _ in range(count):
        state = step(state, p)
        states.append(state)
    return states


def _select(which: Tensor, a: S, b: S) -> S:
    """Take ``a`` for the items where ``which`` (B,) is true and ``b`` for the others."""
    if isinstance(a, Tensor):
        return cast("S", torch.where(per_item(which, a), a, cast("Tensor", b)))
    if isinstance(a, tuple):
        parts = [_select(which, u, v) for u, v in zip(a, cast("tuple[object, ...]", b), strict=True)]
        return cast("S", a._make(parts) if hasattr(a, "_make") else tuple(parts))
    return b


@dataclass(frozen=True)
class Schedule(Generic[S]):
    """The steps of a method, as the function that `mrirecon.methods.registry.register` enrols returns them.

    Attributes:
        blocks, repeats, tolerance: see `Unrolled`.
        prepare: completes the problem before the iteration, with coil maps from a network for example.

    """

    blocks: Sequence[Step[S]]
    repeats: int = 1
    tolerance: float | Tensor = 0.0
    prepare: nn.Module | None = None


@dataclass(frozen=True)
class Result:
    """A reconstruction: the image in the data's own scale, and why each item stopped."""

    image: Tensor  # (B, M, *space)
    scale: Tensor  # (B,) by which the data was divided during the iteration
    iterations: Tensor  # (B,)
    reasons: list[str]


class Normalized(NamedTuple):
    """The problem that the engine solves, and the transforms x = s φ u that its image u is undone by."""

    problem: Problem
    scale: Scale
    phase: SmoothPhase | None

    def undo(self, u: Tensor) -> Tensor:
        """Return the image x (B, M, *space) in the data's scale and with its phase."""
        transform: Transform = self.scale @ (Identity() if self.phase is None else self.phase)
        return transform.undo(u)


class Reconstructor(nn.Module):
    """Run an engine as all methods share it: scale once by one number, prepare the maps, iterate, undo the scale.

    The scale is the 99th percentile of |Aᴴy| of each item, so that a regularization weight or a network means the same
    on every scanner. The magnitudes of two sets of maps are combined first, because the sets share one image. Weights
    from elsewhere may have been trained in the data's own units: ``scale="none"``.

    Args:
        engine: iterates.
        prepare: completes the problem, with maps from a network for example.
        scale: as above.
        start: makes the image that a learned method refines in place of the zero-filled one; without gradients. A
            problem that has an ``initial_image`` is refined from that.
        phase: ``removed`` moves the smooth phase of the first image into the maps, so that a network sees a nearly
            real image, on every scanner and at every echo time; see `mrirecon.physics.transforms.SmoothPhase`.

    """

    def __init__(
        self,
        engine: Unrolled[S],
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
        """What networks compute in; a setting of the run, not an option of the method.

        ``bfloat16`` casts the inputs and weights of networks, and nothing else: physics stays in complex64, weights
        and their gradients in float32.
        """
        return self._precision

    @precision.setter
    def precision(self, value: Precision) -> None:
        """Set it on every module that calls a network."""
        self._precision = value
        for module in self.modules():
            if isinstance(module, RunsNetwork):
                module.network_dtype = DTYPES[value]

    @property
    def needs_cartesian(self) -> bool:
        """Whether a part of it reads the samples or the mask; what makes a first image does."""
        parts = (m for m in self.modules() if m is not self)
        return self.start is not None or any(getattr(m, "needs_cartesian", False) for m in parts)

    def normalize(
        self, p: Problem, *, prior: Prior | None = None, consume: bool = False, warm: bool = False
    ) -> Normalized:
        """Return the problem that the engine solves: at unit scale, with its first image, prepared.

        Args:
            p: the problem.
            prior: how likely there is signal, for the first image where its solver is regularized.
            consume: divide k-space in place; see `mrirecon.physics.transforms.Scale`.
            warm: the problem's ``initial_image`` is only near the first image, whose solver starts from it.

        Raises:
            SignalError: the zero-filled image of an item is zero or not a number.

        """
        p = p.prepared()
        factor = percentile_scale(p.adjoint)
        scale = Scale(torch.ones_like(factor) if self.scale == "none" else factor, consume)
        q = scale.apply(p)
        q = (q if self.prepare is None else self.prepare(q)).prepared()
        if self.start is not None and (q.initial_image is None or warm):
            with torch.no_grad():
                # Maps of a network are not those that the prior belongs to.
                first = self.start(q, None if self.prepare is not None else prior)
            q = replace(q, initial_image=first)
        phase = None
        if self.phase == "removed":
            with torch.no_grad():
                phase = SmoothPhase(smooth_phase(q.starting_image, q.axes))
            q = phase.apply(q)  # maps that a network made keep their gradient
        return Normalized(q, scale, phase)

    def run(self, p: Problem, *, prior: Prior | None = None, consume: bool = False) -> Result:
        """Reconstruct, and say why each item stopped; see `normalize` for ``prior`` and ``consume``."""
        n = self.normalize(p, prior=prior, consume=consume)
        outcome = self.engine.solve(n.problem)
        image = n.undo(self.engine.image(outcome.state, n.problem))
        return Result(image, n.scale.factor, outcome.iterations, outcome.reasons(self.engine.tolerance))

    def images(self, p: Problem, *, prior: Prior | None = None) -> Iterator[Tensor]:
        """Yield the image after every step, in the data's own scale; the last is that of `run`."""
        n = self.normalize(p, prior=prior)
        for step, outcome in self.engine.outcomes(n.problem):
            yield n.undo(step.image(outcome.state, n.problem))

    def forward(self, p: Problem, *, prior: Prior | None = None) -> Tensor:
        """Return the image (B, M, *space) in the data's own scale."""
        return self.run(p, prior=prior).image
