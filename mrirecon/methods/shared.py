"""The options that all learned methods share: `register` adds them, so that every such method has them all."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from mrirecon.engine import Memory, Phase, Reconstructor, ScaleRule, Schedule, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.methods.cs import compressed_sensing_start
from mrirecon.methods.heldout import Blended
from mrirecon.methods.options import Count, Iterations

Start = Literal["zero-filled", "cs"]
Blend = Literal["none", "cross_validated"]


def complete(
    schedule: Schedule[Any],
    *,
    start: Start = "zero-filled",
    start_iterations: Iterations = 0,
    phase: Phase = "kept",
    blend: Blend = "none",
    scale: ScaleRule = "percentile",
    memory: Memory = "store",
    segment: Count = 1,
) -> Reconstructor:
    """Return the reconstructor of a learned method.

    Args:
        schedule: of the method.
        start: the image that is refined.
        start_iterations: of compressed sensing, after which its image is refined, converged or not; 0: converged.
        phase: see `Reconstructor`.
        blend: how much of the refinement is taken; see `mrirecon.methods.heldout`.
        scale: see `Reconstructor`.
        memory: see `Unrolled`.
        segment: see `Unrolled`.

    Raises:
        UsageError: an option that makes no sense for this method, and why.

    """
    refuse(schedule, start, start_iterations, phase, blend, memory, segment)
    if start == "cs":  # a good image already: the networks begin by adding nothing
        for block in schedule.blocks:
            block.zero_init_output()
    # A short start is for a network to go on from; what is not taken of the network falls back to the converged image.
    short = partial(compressed_sensing_start, iterations=start_iterations) if start_iterations else None
    first = None if start == "zero-filled" else short or compressed_sensing_start
    engine = Unrolled(schedule.blocks, schedule.repeats, tolerance=schedule.tolerance, memory=memory, segment=segment)
    model = Reconstructor(engine, schedule.prepare, scale=scale, start=first, phase=phase)
    return model if blend == "none" else Blended(model, fallback=None if short is None else compressed_sensing_start)


def refuse(
    schedule: Schedule[Any],
    start: Start,
    start_iterations: int,
    phase: Phase,
    blend: Blend,
    memory: Memory,
    segment: int,
) -> None:
    """Refuse options that make no sense for a schedule.

    Raises:
        UsageError: which, and why.

    """
    blocks = schedule.blocks
    if start == "zero-filled" and start_iterations:
        raise UsageError(
            "a zero-filled image takes no iterations",
            where="start_iterations",
            fix="use start=cs, or leave it away",
        )
    refined = all(block.takes_initial_image for block in blocks)
    if start != "zero-filled" and not refined:
        why = "it starts from the magnitude of the coil images"
        raise UsageError("this method refines no first image", where="start", why=why, fix="leave start out")
    if phase == "removed" and not refined:
        raise UsageError("a magnitude has no phase to remove", where="phase", fix="use phase=kept")
    if blend != "none" and blocks[-1].magnitude:
        fix = "use combine=sense, or blend=none"
        raise UsageError("a magnitude predicts no samples to weigh it by", where="blend", fix=fix)
    if blend != "none" and schedule.prepare is not None:
        why = "hidden samples are predicted by the coil maps that are given, and this method makes its own"
        raise UsageError(
            "this method cannot be blended", where="blend", why=why, fix="use sensitivity=false, or blend=none"
        )
    if memory == "invert" and any(type(block).inverse is Step.inverse for block in blocks):
        why = "its steps cannot be undone"
        raise UsageError("this method has no memory=invert", where="memory", why=why, fix="use memory=checkpoint")
    if segment > 1 and schedule.repeats == 1:
        why = "each of its blocks is applied once, and a segment lies within a block"
        raise UsageError(
            "this method has no steps to recompute together", where="segment", why=why, fix="use segment=1"
        )
