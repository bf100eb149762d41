"""Define the learned primal-dual network (LPD)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Cascades, Channels, Count, Pools, ShareWeights, copies
from mrirecon.methods.registry import register
from mrirecon.methods.updates import IN_KSPACE
from mrirecon.networks import Unet, apply_network, to_complex, to_real, zero_init_output
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem

BufferCount = Annotated[Count, Field(description="Number of images and of k-spaces in the state.")]
DualStart = Annotated[
    Literal["data", "zero"], Field(description="Start the dual variables with copies of the data, or with zero.")
]
Residual = Annotated[bool, Field(description="Add the networks' output to the buffers, instead of replacing them.")]


class Buffers(NamedTuple):
    """Hold N images f and N k-spaces h."""

    primal: Tensor  # (B, N, M, y, x)
    dual: Tensor  # (B, N, C, y, x)


class LearnedPrimalDual(RunsNetwork, Step[Buffers]):
    """Update both buffers: h⁺ = h + D(h, A f₂, y),  f⁺ = f + P(f, Aᴴ h₁⁺). The image is f₁.

    Adler and Öktem, IEEE TMI 37:1322, 2018. Released MRI code has no "h +" and "f +": ``residual=False``.

    Args:
        primal: P, from 2(N + 1) channels to 2N.
        dual: D, from 2(N + 2) channels to 2N, applied to each coil.
        count: N.
        dual_start: h starts at copies of the ``data``, or at ``zero``.
        residual: see above.

    """

    needs_cartesian = IN_KSPACE

    def __init__(self, primal: nn.Module, dual: nn.Module, count: int, dual_start: DualStart, residual: bool) -> None:
        super().__init__()
        self.primal, self.dual, self.count = primal, dual, count
        self.dual_start, self.residual = dual_start, residual

    def init(self, p: Problem) -> Buffers:
        """Start at copies of the initial image, and of the data or of zero."""
        y = p.y if self.dual_start == "data" else torch.zeros_like(p.y)
        return Buffers(*(s.unsqueeze(1).expand(-1, self.count, *[-1] * (s.ndim - 1)) for s in (p.starting_image, y)))

    def forward(self, s: Buffers, p: Problem) -> Buffers:
        """Update the dual buffers, then the primal ones."""
        second = s.primal[:, min(1, self.count - 1)]
        dual = self._update(self.dual, s.dual, p.A(second), p.y)
        return Buffers(self._update(self.primal, s.primal, p.A.adjoint(dual[:, 0])), dual)

    def _update(self, network: nn.Module, buffers: Tensor, *more: Tensor) -> Tensor:
        out = apply_network(network, to_real(*buffers.unbind(1), *more, dtype=self.network_dtype))
        update = torch.stack([to_complex(pair, buffers.shape[2]) for pair in out.split(2, 1)], 1)
        return buffers + update if self.residual else update

    def image(self, s: Buffers, p: Problem) -> Tensor:
        """Return f₁."""
        return s.primal[:, 0]

    def zero_init_output(self) -> None:
        """Initialize the primal network such that it adds nothing."""
        if self.residual:
            zero_init_output(self.primal)


@register(learned=True)
def lpdnet(
    *,
    cascades: Cascades = 5,
    buffers: BufferCount = 5,
    channels: Channels = 16,
    pools: Pools = 2,
    dual_start: DualStart = "data",
    residual: Residual = True,
    share_weights: ShareWeights = False,
) -> Schedule[Buffers]:
    """Learned primal-dual (Adler and Öktem, IEEE TMI 37:1322, 2018).

    h⁺ = h + D(h, A f₂, y), f⁺ = f + P(f, Aᴴ h₁⁺), for images f and k-spaces h, ``buffers`` of each.
    """

    def block() -> LearnedPrimalDual:
        primal = Unet(2 * (buffers + 1), 2 * buffers, channels, pools)
        dual = Unet(2 * (buffers + 2), 2 * buffers, channels, pools)
        return LearnedPrimalDual(primal, dual, buffers, dual_start, residual)

    return Schedule(copies(cascades, share_weights, block))
