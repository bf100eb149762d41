"""Add the options that all learned methods share; `mrirecon.methods.registry.register` calls `complete`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from mrirecon.engine import Memory, Phase, Reconstructor, Schedule, StartImage, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.methods.conventions import (
    FourierOption,
    OwnMapsChannels,
    OwnMapsOption,
    OwnMapsPools,
    PeerStart,
    maps_estimator,
    peer_start,
)
from mrirecon.methods.cross_validation import Blended
from mrirecon.methods.cs import compressed_sensing_start
from mrirecon.methods.options import Count
from mrirecon.methods.steps import Consistent
from mrirecon.physics.conventions import ScaleRule

Start = Annotated[
    Literal["zero-filled", "cs", PeerStart],
    Field(description="Initial image of the networks; rss, max and minmax are those of ATOMMIC."),
]
StartIterations = Annotated[
    int, Field(ge=0, le=200, description="Iterations of start=cs; 0 iterates until convergence.")
]
PhaseOption = Annotated[Phase, Field(description="Remove or keep the smooth phase of the initial image.")]
Blend = Annotated[
    Literal["none", "cross_validated"],
    Field(description="Blend the image with the initial image by cross-validation on withheld samples."),
]
Proximal = Annotated[
    Literal["none", "last", "cascades"],
    Field(description="Solve for data consistency by CG after the last cascade, or after all; see `Consistent`."),
]
ScaleOption = Annotated[
    ScaleRule,
    Field(description="Scale the data by the 99th percentile of the zero-filled image, not at all, or as a toolkit."),
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
    proximal: Proximal = "none",
    scale: ScaleOption = "percentile",
    memory: MemoryOption = "store",
    segment: Segment = 1,
    fourier: FourierOption = "centred",
    own_maps: OwnMapsOption = "none",
    own_maps_channels: OwnMapsChannels = 8,
    own_maps_pools: OwnMapsPools = 4,
) -> Reconstructor:
    """Return the reconstructor of a learned method: its schedule with the shared options.

    Raises:
        UsageError: an option is not possible for the method.

    """
    _check(schedule, start, start_iterations, phase, blend, proximal, memory, segment, scale, fourier, own_maps)
    initial_image: StartImage | None = peer_start(start)
    if start == "cs":
        initial_image = compressed_sensing_start
        for block in schedule.blocks:  # the initial image is already good: initialize the networks to add nothing
            block.zero_init_output()
    if start_iterations:
        initial_image = partial(compressed_sensing_start, iterations=start_iterations)
    blocks = list(schedule.blocks)
    if proximal != "none":
        blocks = _with_consistency(blocks, every=proximal == "cascades")
    engine = Unrolled(blocks, schedule.repeats, tolerance=schedule.tolerance, memory=memory, segment=segment)
    prepare = schedule.prepare or maps_estimator(own_maps, own_maps_channels, own_maps_pools, fourier)
    model = Reconstructor(engine, prepare, scale=scale, start=initial_image, phase=phase, fourier=fourier)
    if blend == "none":
        return model
    # An initial image before convergence is not good enough for blending.
    return Blended(model, fallback=compressed_sensing_start if start_iterations else None)


def _with_consistency(blocks: Sequence[Step[Any]], *, every: bool) -> list[Step[Any]]:
    """Return blocks with data consistency after the last of them, or after every one.

    A block that occurs twice, because cascades share weights or are applied again, gets one data consistency.
    """
    consistent = {id(block): Consistent(block.image) for block in blocks}
    if not every:
        return [*blocks, consistent[id(blocks[-1])]]
    return [step for block in blocks for step in (block, consistent[id(block)])]


def _check(
    schedule: Schedule[Any],
    start: str,
    start_iterations: int,
    phase: str,
    blend: str,
    proximal: str,
    memory: str,
    segment: int,
    scale: str,
    fourier: str,
    own_maps: str,
) -> None:
    blocks = schedule.blocks
    refines = all(block.takes_initial_image for block in blocks)
    rules = [  # (condition of the error, option, what, why, fix)
        (
            start != "cs" and start_iterations > 0,
            "start_iterations",
            f"start_iterations has no effect on a {start} start",
            "only compressed sensing iterates",
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
            proximal != "none" and blocks[-1].magnitude,
            "proximal",
            "a magnitude image cannot be made consistent with the data",
            "it has no phase",
            "use combine=sense, or proximal=none",
        ),
        (
            proximal != "none" and memory == "invert",
            "proximal",
            "data consistency by CG is not invertible",
            "memory=invert recomputes every state from the next",
            "use memory=checkpoint, or proximal=none",
        ),
        (
            proximal == "cascades" and len(blocks) > 1 and not all(block.follows_image for block in blocks),
            "proximal",
            "the cascades of this method do not pass on an image",
            "their state is k-space, or has further parts",
            "use proximal=last",
        ),
        (
            own_maps != "none" and schedule.prepare is not None,
            "own_maps",
            "this method already estimates its own maps",
            "sensitivity=true is a network for coil maps",
            "use sensitivity=false, or own_maps=none",
        ),
        (
            blend != "none" and (scale not in ("percentile", "none") or fourier != "centred"),
            "blend",
            "an image in the conventions of another toolkit cannot be blended",
            f"scale={scale}, fourier={fourier}",
            "use blend=none",
        ),
        (
            blend != "none" and (schedule.prepare is not None or own_maps != "none"),
            "blend",
            "this method cannot be blended",
            "withheld samples are predicted with the given coil maps, but this method estimates its own maps",
            "use sensitivity=false and own_maps=none, or blend=none",
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
