"""The one engine: a method is a list of steps that iterate on a state, for one frozen problem.

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
from mrirecon.operators import per_item
from mrirecon.problem import Problem
from mrirecon.reversible import Inverted
from mrirecon.scale import percentile_scale, smooth_phase

Scale = Literal["percentile", "none"]
Phase = Literal["kept", "removed"]
Precision = Literal["float32", "bfloat16"]
DTYPES: dict[Precision, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
Begin = Callable[[Problem, Tensor | None], Tensor]
Weigh = Callable[[Callable[[Problem, Tensor | None], tuple[Tensor, Tensor]], Problem], Tensor]
S = TypeVar("S")  # the state that a method iterates on: a tensor, or a NamedTuple of tensors with the batch first


class Step(nn.Module, Generic[S], ABC):
    """One iteration of a method, what its state starts from, and the image that its state shows."""

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


class Outcome(NamedTuple, Generic[S]):
    """Where an iteration ended, for each item of the batch."""

    state: S
    iterations: Tensor  # (B,) steps taken
    change: Tensor  # (B,) relative change at the last step; NaN where the method has no rule
    converged: Tensor  # (B,) true where the change fell below the tolerance

    def reasons(self, tolerance: float | Tensor) -> list[str]:
        """Say for each item why it stopped."""
        out = []
        limits = torch.as_tensor(tolerance).expand(len(self.iterations))
        facts = (v.tolist() for v in (self.iterations, self.change, self.converged, limits))
        for n, c, ok, limit in zip(*facts, strict=True):
            if ok:
                out.append(f"converged: relative change {c:.1e} < {limit:.1e} after {n} iterations")
            elif c == c:
                out.append(f"stopped at the limit of {n} iterations: relative change {c:.1e}")
            else:
                out.append(f"ran its {n} steps")
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
        memory: Literal["store", "checkpoint", "invert"] = "store",
        segment: int = 1,
    ) -> None:
        super().__init__()
        self.blocks, self.repeats, self.tolerance, self.memory = nn.ModuleList(blocks), repeats, tolerance, memory
        self.segment = segment

    def walk(self, p: Problem) -> Iterator[tuple[Step[S], S, S]]:
        """Yield (step, state before, state after) for every step of the schedule."""
        state: S | None = None
        if self.memory == "invert" and torch.is_grad_enabled():
            yield self._invertible_walk(p)
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

    def _invertible_walk(self, p: Problem) -> tuple[Step[S], S, S]:
        """Take all steps at once and keep the last state alone."""
        steps = [cast("Step[S]", block) for block in self.blocks for _ in range(self.repeats)]
        start = steps[0].init(p)
        if not isinstance(start, Tensor):
            raise UsageError("only steps whose state is one tensor can be undone", fix="use memory=checkpoint")
        if p.networks not in (None, p.mask.dtype) or torch.is_autocast_enabled(p.y.device.type):
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

        While gradients are recorded with ``memory="invert"`` only the last exists, and only it comes.
        """
        for _, _, state in self.walk(p.prepared()):
            yield state

    def outcomes(self, p: Problem) -> Iterator[tuple[Step[S], Outcome[S]]]:
        """Yield (step, where the iteration stands) after every step, until every item meets the tolerance.

        An item that has stopped keeps its state while others go on: what is returned for it does not depend on who
        else is in the batch.
        """
        p = p.prepared()
        batch, device = p.y.shape[0], p.y.device
        watch = bool(torch.as_tensor(self.tolerance).amax() > 0) and not self._differentiated(p)
        done = torch.zeros(batch, dtype=torch.bool, device=device)
        steps = torch.zeros(batch, dtype=torch.long, device=device)
        change = torch.full((batch,), float("nan"), dtype=p.mask.dtype, device=device)
        held: S | None = None
        for step, old, new in self.walk(p):
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

    def _differentiated(self, p: Problem) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (p.y, p.maps, *self.parameters()))

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
class Result:
    """What a reconstruction gives: the image in the data's own scale, and why each item stopped."""

    image: Tensor  # (B, M, *space)
    scale: Tensor  # (B,) by which the data was divided meanwhile
    iterations: Tensor  # (B,)
    reasons: list[str]


class Reconstructor(nn.Module):
    """What all methods share around their engine: scale once by one number, prepare the maps, iterate, scale back.

    The scale is the 99th percentile of |Aᴴy| of each item, so that a regularization weight or a network means the same
    on every scanner. Because the maps of two sets share one image, their magnitudes are combined first. Weights from
    elsewhere may have been trained in the data's own units: ``scale="none"``.

    Args:
        engine: iterates.
        prepare: completes the problem, say with maps from a network.
        scale: as above.
        start: makes the image that a learned method refines, in place of the zero-filled one, from the problem and an
            image near it or None; no gradient flows through it.
        phase: "removed" moves the smooth phase of that image into the maps meanwhile: what a network sees is then
            nearly real, on every scanner and at every echo time, as it is for homodyne detection (Noll, Nishimura,
            Macovski, IEEE TMI 10:154, 1991). The result has its phase again.
        weigh: gives each item's weight (B,) of what was made of the start, from `refined` and the measured problem; the
            rest of the image is the start, or what ``fallback`` makes. For use, not in training.
        fallback: makes the rest of the image, where the start is a rough one.

    Attributes:
        precision: what networks compute in. ``bfloat16`` casts what they are given and their weights, and nothing else:
            the physics stays complex64, weights and their gradients float32. Not an option of the method, but of how
            it is run.

    """

    precision: Precision = "float32"

    def __init__(
        self,
        engine: Unrolled[S],
        prepare: Callable[[Problem], Problem] | None = None,
        *,
        scale: Scale = "percentile",
        start: Begin | None = None,
        phase: Phase = "kept",
        weigh: Weigh | None = None,
        fallback: Begin | None = None,
    ) -> None:
        super().__init__()
        self.engine, self.prepare = engine, prepare
        self.scale, self.start, self.phase, self.weigh, self.fallback = scale, start, phase, weigh, fallback

    def scaled(self, p: Problem, *, consume: bool = False, near: Tensor | None = None) -> tuple[Problem, Tensor]:
        """Return the problem at unit scale, prepared, and its scale (B,); see `Problem.scaled` for ``consume``.

        ``near`` is an image near the start, in the data's scale.

        Raises:
            SignalError: the zero-filled image of an item is zero or not a number.

        """
        p = p.prepared()
        scale = percentile_scale(p.adjoint)
        if self.scale == "none":
            scale = torch.ones_like(scale)
        q = replace(p.scaled(scale, consume=consume), networks=DTYPES[self.precision])
        q = (q if self.prepare is None else self.prepare(q)).prepared()
        if self.start is not None and q.start is None:
            with torch.no_grad():
                near = None if near is None else near / per_item(scale, near)
                q = replace(q, start=self.start(q, near))
        if self.phase == "removed":
            with torch.no_grad():
                phase = smooth_phase(q.first, q.axes)
            q = q.without_phase(phase)  # maps that a network made keep their gradient
        return q, scale

    def run(self, p: Problem, *, consume: bool = False) -> Result:
        """Reconstruct, and tell how it went; with ``consume``, p's k-space may be overwritten meanwhile."""
        p, weight = self._weighed(p)
        q, scale = self.scaled(p, consume=consume)
        outcome = self.engine.solve(q)
        image = self._finished(self.engine.image(outcome.state, q), q, scale, weight, self._rest(q, weight))
        reasons = outcome.reasons(self.engine.tolerance)
        if weight is not None:
            reasons = [f"{r}, taken at {w:.0%}" for r, w in zip(reasons, weight.tolist(), strict=True)]
        return Result(image, scale, outcome.iterations, reasons)

    def images(self, p: Problem) -> Iterator[Tensor]:
        """Yield the image after every step, in the data's own scale; the last is that of `run`."""
        p, weight = self._weighed(p)
        q, scale = self.scaled(p)
        rest = self._rest(q, weight)
        for step, outcome in self.engine.outcomes(q):
            yield self._finished(step.image(outcome.state, q), q, scale, weight, rest)

    def refined(self, p: Problem, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the image without the network, and what it makes of its start: (B, M, *space) in the data's scale.

        From an image ``near`` the start, a short start has come as far as the image without the network.
        """
        q, scale = self.scaled(p, near=near)
        image = self.engine.image(self.engine.solve(q).state, q)
        rest = q.first if near is not None else self._rest(q, torch.zeros_like(scale))
        return self._finished(rest, q, scale), self._finished(image, q, scale)

    @torch.no_grad()
    def _rest(self, q: Problem, weight: Tensor | None) -> Tensor:
        """Return what the image is made of where the network's part is not taken whole."""
        if self.fallback is None or weight is None or bool((weight >= 1).all()):
            return q.first
        if q.phase is None:
            return self.fallback(replace(q, start=None), None)
        whole = replace(q.without_phase(q.phase.conj()), start=None, phase=None)
        return self.fallback(whole, None) * q.phase.conj()

    @torch.no_grad()
    def _weighed(self, p: Problem) -> tuple[Problem, Tensor | None]:
        """Return the problem, with the image to refine if that has been made, and the weight of what is made of it."""
        if self.weigh is None or self.training:
            return p, None
        if self.start is not None and p.start is None:
            q, scale = self.scaled(p)
            p = replace(p, start=self._finished(q.first, q, scale, None))
        return p, self.weigh(self.refined, p)

    @staticmethod
    def _finished(
        image: Tensor, q: Problem, scale: Tensor, weight: Tensor | None = None, rest: Tensor | None = None
    ) -> Tensor:
        """Return the image in the data's scale, with the phase that was taken out of it (a magnitude has none)."""
        if weight is not None and rest is not None:
            image = rest + per_item(weight, image) * (image - rest)
        if q.phase is not None and image.is_complex():
            image = image * q.phase
        return image * per_item(scale, image)

    def forward(self, p: Problem) -> Tensor:
        """Return the image (B, M, *space) in the data's own scale."""
        return self.run(p).image
