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

Start = Annotated[Literal["zero-filled", "cs"], Field(description="Initial image of the networks.")]
StartIterations = Annotated[
    int, Field(ge=0, le=200, description="Iterations of start=cs; 0 iterates until convergence.")
]
PhaseOption = Annotated[Phase, Field(description="Remove or keep the smooth phase of the initial image.")]
Blend = Annotated[
    Literal["none", "cross_validated"],
    Field(description="Blend the image with the initial image by cross-validation on withheld samples."),
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
    """Return the reconstructor of a learned method: its schedule with the shared options.

    Raises:
        UsageError: an option is not possible for the method.

    """
    _check(schedule, start, start_iterations, phase, blend, memory, segment)
    initial_image: StartImage | None = None
    if start == "cs":
        initial_image = compressed_sensing_start
        for block in schedule.blocks:  # the initial image is already good: initialize the networks to add nothing
            block.zero_init_output()
    if start_iterations:
        initial_image = partial(compressed_sensing_start, iterations=start_iterations)
    engine = Unrolled(schedule.blocks, schedule.repeats, tolerance=schedule.tolerance, memory=memory, segment=segment)
    model = Reconstructor(engine, schedule.prepare, scale=scale, start=initial_image, phase=phase)
    if blend == "none":
        return model
    # An initial image before convergence is not good enough for blending.
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
    rules = [  # (condition of the error, option, what, why, fix)
        (
            start == "zero-filled" and start_iterations > 0,
            "start_iterations",
            "start_iterations has no effect on a zero-filled start",
            "a zero-filled image needs no iterations",
            "use start=cs, or omit start_iterations",
        ),
        (
            start != "zero-filled" and not refines,
            "start",
            "this method does not refine an initial image",
            "it starts from the magnitude of the coil images",
            "omit start",
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
            "it has no phase and cannot predict samples",
            "use combine=sense, or blend=none",
        ),
        (
            blend != "none" and schedule.prepare is not None,
            "blend",
            "this method cannot be blended",
            "withheld samples are predicted with the given coil maps, but this method estimates its own maps",
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
            "this method has only segments of one step",
            "each of its blocks is applied once, and a segment cannot span blocks",
            "use segment=1",
        ),
    ]
    for violated, option, what, why, fix in rules:
        if violated:
            raise UsageError(what, where=option, why=why, fix=fix)
