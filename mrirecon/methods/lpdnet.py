"""The primal-dual method with learned proximal maps."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mrirecon.engine import Schedule, Step
from mrirecon.methods.options import Count, Pools, copies
from mrirecon.methods.registry import register
from mrirecon.networks import Unet
from mrirecon.networks.crossing import apply_network, to_complex, to_real, zero_init_output
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem


class Buffers(NamedTuple):
    """The state: several images and several k-spaces."""

    primal: Tensor  # (B, N, M, y, x)
    dual: Tensor  # (B, N, C, y, x)


class LearnedPrimalDual(RunsNetwork, Step[Buffers]):
    """h⁺ = h + D(h, A f₂, y),  f⁺ = f + P(f, Aᴴ h₁⁺), on N buffers each; the image is f₁.

    Adler and Öktem, IEEE TMI 37:1322, 2018. Released MRI code leaves "h +" and "f +" away: ``residual=False``.

    Args:
        primal: network from 2(N + 1) channels to 2N.
        dual: network from 2(N + 2) channels to 2N, applied to each coil.
        count: N.
        dual_start: the dual starts at copies of the data, or at zero.
        residual: whether the networks' output is added to the buffers or replaces them.

    """

    needs_cartesian = True

    def __init__(
        self, primal: nn.Module, dual: nn.Module, count: int, dual_start: Literal["data", "zero"], residual: bool
    ) -> None:
        super().__init__()
        self.primal, self.dual, self.count = primal, dual, count
        self.dual_start, self.residual = dual_start, residual

    def init(self, p: Problem) -> Buffers:
        """Start at copies of the initial image and of the data."""
        y = p.y if self.dual_start == "data" else torch.zeros_like(p.y)
        return Buffers(*(s.unsqueeze(1).expand(-1, self.count, *[-1] * (s.ndim - 1)) for s in (p.starting_image, y)))

    def forward(self, s: Buffers, p: Problem) -> Buffers:
        """Update the dual, then the primal buffers."""
        second = s.primal[:, min(1, self.count - 1)]
        dual = self._apply_to(self.dual, p, s.dual, p.A(second), p.y)
        return Buffers(self._apply_to(self.primal, p, s.primal, p.A.adjoint(dual[:, 0])), dual)

    def _apply_to(self, network: nn.Module, p: Problem, buffers: Tensor, *more: Tensor) -> Tensor:
        out = apply_network(network, to_real(*buffers.unbind(1), *more, dtype=self.network_dtype))
        update = torch.stack([to_complex(pair, buffers.shape[2]) for pair in out.split(2, 1)], 1)
        return buffers + update if self.residual else update

    def image(self, s: Buffers, p: Problem) -> Tensor:
        """Return the first primal buffer."""
        return s.primal[:, 0]

    def zero_init_output(self) -> None:
        """Let the primal network add nothing."""
        if self.residual:
            zero_init_output(self.primal)


@register(learned=True)
def lpdnet(
    *,
    cascades: Count = 5,
    buffers: Count = 5,
    channels: Count = 16,
    pools: Pools = 2,
    dual_start: Literal["data", "zero"] = "data",
    residual: bool = True,
    share: bool = False,
) -> Schedule[Buffers]:
    """Learned primal-dual (Adler and Öktem, IEEE TMI 37:1322, 2018)."""

    def block() -> LearnedPrimalDual:
        primal = Unet(2 * (buffers + 1), 2 * buffers, channels, pools)
        dual = Unet(2 * (buffers + 2), 2 * buffers, channels, pools)
        return LearnedPrimalDual(primal, dual, buffers, dual_start, residual)

    return Schedule(copies(cascades, share, block))
