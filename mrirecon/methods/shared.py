"""Add the options that all learned methods share; `mrirecon.methods.registry.register` calls `complete`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from mrirecon.engine import Memory, Phase, Reconstructor, ScaleRule, Schedule, StartImage, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.methods.cross_validation import Blended
from mrirecon.methods.cs import compressed_sensing_start
from mrirecon.methods.options import Count

Start = Annotated[Literal["zero-filled", "cs"], Field(description="Image that the networks refine.")]
StartIterations = Annotated[
    int, Field(ge=0, le=200, description="Iterations of start=cs; 0 runs it until it converges.")
]
PhaseOption = Annotated[Phase, Field(description="Whether the smooth phase of the first image is removed.")]
Blend = Annotated[
    Literal["none", "cross_validated"],
    Field(description="Blend the image with its start, by how well it predicts hidden samples."),
]
ScaleOption = Annotated[
    ScaleRule, Field(description="Scale the data by the 99th percentile of the zero-filled image, or not at all.")
]
MemoryOption = Annotated[
    Memory, Field(description="Store, recompute (checkpoint) or invert the steps for the backward pass of training.")
]
Segment = Annotated[Count, Field(description="Steps between two checkpoints, for memory=checkpoint.")]


def complete(
    schedule: Schedule[Any],
    *,
    start: Start = "zero-filled",
    start_iterations: StartIterations = 0,
    phase: PhaseOption = "kept",
    blend: Blend = "none",
    scale: ScaleOption = "percentile",
    memory: MemoryOption = "store",
    segment: Segment = 1,
) -> Reconstructor:
    """Return the reconstructor of a learned method: its schedule, with the options that all of them share.

    Raises:
        UsageError: an option that does not fit the method.

    """
    _check(schedule, start, start_iterations, phase, blend, memory, segment)
    first: StartImage | None = None
    if start == "cs":
        first = compressed_sensing_start
        for block in schedule.blocks:  # the start is good already: begin with networks that add nothing
            block.zero_init_output()
    if start_iterations:
        first = partial(compressed_sensing_start, iterations=start_iterations)
    engine = Unrolled(schedule.blocks, schedule.repeats, tolerance=schedule.tolerance, memory=memory, segment=segment)
    model = Reconstructor(engine, schedule.prepare, scale=scale, start=first, phase=phase)
    if blend == "none":
        return model
    # An unfinished start is not good enough to fall back to.
    return Blended(model, fallback=compressed_sensing_start if start_iterations else None)


def _check(
    schedule: Schedule[Any],
    start: str,
    start_iterations: int,
    phase: str,
    blend: str,
    memory: str,
    segment: int,
) -> None:
    blocks = schedule.blocks
    refines = all(block.takes_initial_image for block in blocks)
    rules = [  # (whether it is violated, option, what is wrong, why, what to do)
        (
            start == "zero-filled" and start_iterations > 0,
            "start_iterations",
            "start_iterations has no effect on a zero-filled start",
            "a zero-filled image is not iterated",
            "use start=cs, or leave start_iterations out",
        ),
        (
            start != "zero-filled" and not refines,
            "start",
            "this method does not refine an initial image",
            "it starts from the magnitude of the coil images",
            "leave start out",
        ),
        (
            phase == "removed" and not refines,
            "phase",
            "a magnitude has no phase to remove",
            "this method starts from the magnitude of the coil images",
            "use phase=kept",
        ),
        (
            blend != "none" and blocks[-1].magnitude,
            "blend",
            "a magnitude image cannot be blended",
            "it has no phase, and predicts no samples",
            "use combine=sense, or blend=none",
        ),
        (
            blend != "none" and schedule.prepare is not None,
            "blend",
            "this method cannot be blended",
            "hidden samples are predicted with the given coil maps, and this method estimates its own",
            "use sensitivity=false, or blend=none",
        ),
        (
            memory == "invert" and any(type(block).inverse is Step.inverse for block in blocks),
            "memory",
            "this method has no memory=invert",
            "its steps are not invertible",
            "use memory=checkpoint",
        ),
        (
            segment > 1 and schedule.repeats == 1,
            "segment",
            "this method has no steps to recompute together",
            "each of its blocks is applied once, and a segment lies within a block",
            "use segment=1",
        ),
    ]
    for violated, option, what, why, fix in rules:
        if violated:
            raise UsageError(what, where=option, why=why, fix=fix)
