"""The learned methods of the two papers, and those that they compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from mrirecon.coils.sensitivity import SensitivityNet
from mrirecon.engine import Phase, Reconstructor, Scale, Step, Unrolled
from mrirecon.errors import UsageError
from mrirecon.heldout import held_out_weight
from mrirecon.methods.classical import compressed_sensing_start
from mrirecon.networks import ConvStack, InvertibleNet, NormUnet, RecurrentNet, Unet
from mrirecon.networks.recurrent import CellName
from mrirecon.problem import Problem
from mrirecon.registry import register
from mrirecon.steps import (
    FrozenRim,
    InImage,
    InKspace,
    InvertibleRim,
    LearnedPrimalDual,
    MagnitudeNet,
    ReleasedRim,
    Rim,
)
from mrirecon.steps.cascade import Combine
from mrirecon.updates import Chain, Consistency, Lift, Net, Part, Refine, cascade, data_consistency

_STARTS: dict[str, Callable[[Problem, Tensor | None], Tensor] | None] = {
    "zero-filled": None,
    "cs": compressed_sensing_start,
}
_WEIGHS = {"none": None, "held-out": held_out_weight}
Count = Annotated[int, Field(ge=1)]
Pools = Annotated[int, Field(ge=1, le=8)]
Kernel = Literal[1, 3, 5]
Memory = Literal["store", "checkpoint"]
Start = Literal["zero-filled", "cs"]  # the image that is refined
Weigh = Literal["none", "held-out"]  # how much of the refinement is taken; see `mrirecon.heldout`


@register(learned=True)
def rim(
    *,
    cell: CellName = "gru",
    steps: Count = 8,
    features: Count = 64,
    recurrent_kernel: Kernel = 1,
    dc: Consistency = "none",
    start: Start = "zero-filled",
    phase: Phase = "kept",
    weigh: Weigh = "none",
    scale: Scale = "percentile",
    memory: Memory = "store",
    segment: Count = 1,
) -> Reconstructor:
    """Recurrent inference machine with GRU, MGU or IndRNN cells (arXiv 2012.07819)."""
    step = _rim(cell, features, recurrent_kernel, dc, quiet=start == "cs")
    return Reconstructor(
        Unrolled([step], steps, memory=memory, segment=segment),
        scale=scale,
        start=_STARTS[start],
        phase=phase,
        weigh=_WEIGHS[weigh],
    )


@register(learned=True)
def irim(
    *,
    steps: Count = 8,
    features: Count = 64,
    recurrent_kernel: Kernel = 1,
    dc: Consistency = "none",
    start: Start = "zero-filled",
    phase: Phase = "kept",
    weigh: Weigh = "none",
    scale: Scale = "percentile",
    memory: Memory = "store",
    segment: Count = 1,
) -> Reconstructor:
    """Independently recurrent inference machine: one cascade of a CIRIM (arXiv 2111.15498). Not the invertible RIM."""
    step = _rim("indrnn", features, recurrent_kernel, dc, quiet=start == "cs")
    return Reconstructor(
        Unrolled([step], steps, memory=memory, segment=segment),
        scale=scale,
        start=_STARTS[start],
        phase=phase,
        weigh=_WEIGHS[weigh],
    )


@register(learned=True)
def cirim(
    *,
    cascades: Count = 5,
    steps: Count = 8,
    features: Count = 64,
    cell: CellName = "indrnn",
    recurrent_kernel: Kernel = 1,
    dc: Consistency = "none",
    detach: bool = False,
    carry: bool = False,
    share: bool = False,
    compat: Literal["none", "mridc-0.0.1", "mridc-0.2", "atommic-1.0", "direct-2.1"] = "none",
    start: Start = "zero-filled",
    phase: Phase = "kept",
    weigh: Weigh = "none",
    scale: Scale = "percentile",
    memory: Memory = "store",
    segment: Count = 1,
) -> Reconstructor:
    """Cascades of independently recurrent inference machines (arXiv 2111.15498).

    ``compat`` is the released code's form, and overrides detach and carry: mridc detaches between cascades, ATOMMIC
    carries the hidden states; both but the first round the steps up to a multiple of 8. dc="soft" is then theirs too.
    DIRECT never updates the image within a cascade (see `FrozenRim`), and detaches.
    """
    released = compat != "none"
    if released:
        detach, carry = compat.startswith("mridc"), compat.startswith("atommic")
        steps = steps if compat in ("mridc-0.0.1", "direct-2.1") else 8 * -(-steps // 8)
    soft = compat.startswith("mridc") or (compat == "atommic-1.0" and cascades == 1)
    if released and dc != "none" and not (dc == "soft" and soft):
        raise UsageError(
            f"{compat} has no dc={dc!r} for {cascades} cascades",
            why="explicitly, it is soft; ATOMMIC's hands k-space to the next cascade as an image, DIRECT's is not here",
            fix="use dc=none, or compat=none, or mridc-0.2 with dc=soft",
        )

    def block() -> Rim:
        if compat == "direct-2.1":
            return FrozenRim(RecurrentNet(4, 2, features, cell, recurrent_kernel, positive=True))
        if released and dc == "soft":
            network = RecurrentNet(4, 2, features, cell, recurrent_kernel)
            return ReleasedRim(network, detach=detach, carry=carry)
        return _rim(cell, features, recurrent_kernel, dc, detach=detach, carry=carry, quiet=start == "cs")

    blocks = _copies(cascades, share, block)
    return Reconstructor(
        Unrolled(blocks, steps, memory=memory, segment=segment),
        scale=scale,
        start=_STARTS[start],
        phase=phase,
        weigh=_WEIGHS[weigh],
    )


@register(learned=True)
def e2evn(
    *,
    cascades: Count = 12,
    channels: Count = 18,
    pools: Pools = 4,
    dc: Consistency = "soft",
    skip: bool = True,
    plus: bool = False,
    combine: Combine = "rss",
    sensitivity: bool = True,
    sensitivity_channels: Count = 8,
    sensitivity_pools: Pools = 4,
    share: bool = False,
    start: Start = "zero-filled",
    phase: Phase = "kept",
    weigh: Weigh = "none",
    scale: Scale = "percentile",
    memory: Memory = "store",
) -> Reconstructor:
    """End-to-end variational network on k-space, with its own or with given coil maps (Sriram et al., MICCAI 2020)."""
    if weigh != "none" and combine == "rss":
        raise UsageError("a magnitude predicts no samples to weigh it by", fix="use combine=sense, or weigh=none")

    def block() -> Step:  # type: ignore[type-arg]
        net = NormUnet(channels, pools)
        if start == "cs":
            _silence(net.unet.final)
        return InKspace(cascade(Lift(Net(net)), dc, "kspace", skip=skip, plus=plus), combine)

    prepare = SensitivityNet(sensitivity_channels, sensitivity_pools) if sensitivity else None
    engine = Unrolled(_copies(cascades, share, block), memory=memory)
    return Reconstructor(engine, prepare, scale=scale, start=_STARTS[start], phase=phase, weigh=_WEIGHS[weigh])


@register(learned=True)
def cascadenet(
    *,
    cascades: Count = 10,
    channels: Count = 64,
    layers: Annotated[int, Field(ge=2)] = 5,
    dc: Consistency = "soft",
    skip: bool = True,
    order: Literal["network first", "together"] = "network first",
    shared_prelu: bool = False,
    share: bool = False,
    scale: Scale = "percentile",
    memory: Memory = "store",
) -> Reconstructor:
    """Deep cascade of convolutions and data consistency (Schlemper et al., IEEE TMI 37:491, 2018).

    order="together" is the released multi-coil form, on k-space, with both terms at the same state; there, one PReLU
    serves all layers of all cascades (shared_prelu).
    """
    activation = nn.PReLU() if shared_prelu else None

    def block() -> Step:  # type: ignore[type-arg]
        net = Net(ConvStack(2, channels, layers, activation))
        if order == "together":
            return InKspace(cascade(Lift(net), dc, "kspace", skip=skip))
        return InImage(_then(Refine(net, skip=skip, plus=True), data_consistency(dc, "image")))

    return Reconstructor(Unrolled(_copies(cascades, share, block), memory=memory), scale=scale)


@register(learned=True)
def kikinet(
    *,
    cascades: Count = 2,
    channels: Count = 16,
    pools: Pools = 2,
    dc: Consistency = "soft",
    skip: bool = True,
    share: bool = False,
    scale: Scale = "percentile",
    memory: Memory = "store",
) -> Reconstructor:
    """KIKI-net: networks on k-space and on the image in turn (Eo et al., MRM 80:2188, 2018)."""

    def block() -> Step:  # type: ignore[type-arg]
        on_kspace = _then(Refine(Net(NormUnet(channels, pools)), skip=skip), data_consistency(dc, "kspace"))
        on_image = Refine(Lift(Net(NormUnet(channels, pools))), skip=skip)
        return InKspace(_then(Chain(on_kspace, on_image), data_consistency(dc, "kspace")))

    return Reconstructor(Unrolled(_copies(cascades, share, block), memory=memory), scale=scale)


@register(learned=True)
def lpdnet(
    *,
    cascades: Count = 5,
    buffers: Count = 5,
    channels: Count = 16,
    pools: Pools = 2,
    start: Literal["data", "zero"] = "data",
    residual: bool = True,
    share: bool = False,
    scale: Scale = "percentile",
    memory: Memory = "store",
) -> Reconstructor:
    """Learned primal-dual (Adler and Öktem, IEEE TMI 37:1322, 2018)."""

    def block() -> Step:  # type: ignore[type-arg]
        primal = Unet(2 * (buffers + 1), 2 * buffers, channels, pools)
        dual = Unet(2 * (buffers + 2), 2 * buffers, channels, pools)
        return LearnedPrimalDual(primal, dual, buffers, start, residual)

    return Reconstructor(Unrolled(_copies(cascades, share, block), memory=memory), scale=scale)


@register(learned=True)
def invertible_rim(
    *,
    steps: Count = 8,
    features: Annotated[int, Field(ge=4, multiple_of=2)] = 64,
    width: Count = 64,
    share: bool = False,
    scale: Scale = "percentile",
    memory: Literal["store", "checkpoint", "invert"] = "invert",
) -> Reconstructor:
    """Invertible recurrent inference machine, trained without storing its steps (arXiv 1911.10914). Not the IRIM."""
    dilations = (1, 1, 2, 2, 4, 8, 8, 4, 2, 2, 1, 1)
    widths = [width * factor for factor in (1, 1, 2, 2, 4, 16, 16, 4, 2, 2, 1, 1)]
    blocks = _copies(steps, share, lambda: InvertibleRim(InvertibleNet(features, widths, dilations), features))
    return Reconstructor(Unrolled(blocks, memory=memory), scale=scale)


@register(learned=True)
def unet(
    *,
    channels: Count = 64,
    pools: Pools = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    domain: Literal["complex", "magnitude"] = "complex",
    dc: Consistency = "none",
    skip: bool = False,
    start: Start = "zero-filled",
    phase: Phase = "kept",
    weigh: Weigh = "none",
    scale: Scale = "percentile",
) -> Reconstructor:
    """U-Net on the zero-filled image: complex, combined by maps, or the magnitude as in fastMRI's baseline."""
    if domain == "magnitude":
        return Reconstructor(Unrolled([MagnitudeNet(Unet(1, 1, channels, pools, dropout))]), scale=scale)
    net = NormUnet(channels, pools, dropout=dropout)
    if start == "cs" and skip:
        _silence(net.unet.final)
    part = _then(Refine(Net(net), skip=skip, plus=True), data_consistency(dc, "image"))
    return Reconstructor(
        Unrolled([InImage(part)]), scale=scale, start=_STARTS[start], phase=phase, weigh=_WEIGHS[weigh]
    )


def _rim(
    cell: CellName,
    features: int,
    kernel: int,
    dc: Consistency,
    *,
    detach: bool = False,
    carry: bool = False,
    quiet: bool = False,
) -> Rim:
    network = RecurrentNet(4, 2, features, cell, kernel)
    if quiet:
        _silence(network.final_layer)
    return Rim(network, data_consistency(dc, "image"), detach=detach, carry=carry)


def _silence(layer: nn.Module) -> None:
    """Let a network begin by adding nothing: what it refines is good already."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)


def _then(part: Part, last: Part | None) -> Part:
    return part if last is None else Chain(part, last)


def _copies(count: int, share: bool, make: Callable[[], Step]) -> list[Step]:  # type: ignore[type-arg]
    """Return ``count`` steps, each made anew, or, where sharing is asked for, one step that many times."""
    return [make()] * count if share else [make() for _ in range(count)]
