"""Define the parts of a cascade, which map an image to an image, or k-space to k-space, for one problem.

The network, the residual connection, the sign of the network's output and data consistency are separate parts, so that
implicit and explicit data consistency (CIRIM, arXiv 2111.15498) can be compared for every method by configuration only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mrirecon.methods.options import DataConsistency
from mrirecon.networks.complex_channels import apply_network, to_complex, to_real, zero_init_output
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient

Domain = Literal["image", "kspace"]
IN_KSPACE = "its networks or its data consistency act on k-space as a grid"


class Part(nn.Module, ABC):
    """Map a state, an image (B, M, y, x) or k-space (B, C, y, x), to the next one.

    Attributes:
        needs_cartesian: see `mrirecon.engine.Step`.

    """

    needs_cartesian: str = ""

    @abstractmethod
    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the new state."""


class NetworkPart(RunsNetwork, Part):
    """Apply a network with two real channels, U(s), to each image or to each coil."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the network's output, complex, in the shape of s."""
        return to_complex(apply_network(self.network, to_real(s, dtype=self.network_dtype)), s.shape[1])


class ImagePart(Part):
    """Apply a part for images to k-space: F S part(Sᴴ Fᴴ k). The result lies in the range of F S."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return k-space (B, C, y, x)."""
        return p.encode(self.part(p.encode.adjoint(s), p))


class Chain(Part):
    """Apply one part after the other."""

    def __init__(self, *parts: Part) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state after the last part."""
        for part in self.parts:
            s = part(s, p)
        return s


class Refine(Part):
    """Add a refinement to the state, s ± part(s), with data consistency at the same state.

    With soft consistency and sign −1 this is E2EVN's k − η M(k − y) − F S U(Sᴴ Fᴴ k) (Sriram et al., MICCAI 2020).

    Args:
        part: the refinement.
        consistency: data consistency at s; None for none.
        skip: whether s itself is part of the sum.
        sign: sign of the refinement.

    """

    def __init__(self, part: Part, *, consistency: Part | None = None, skip: bool = True, sign: int = -1) -> None:
        super().__init__()
        self.part, self.consistency, self.skip, self.sign = part, consistency, skip, sign

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the refined state."""
        refinement = self.part(s, p)
        consistent = s if self.consistency is None else self.consistency(s, p)
        base = consistent if self.skip else consistent - s
        out: Tensor = base + refinement if self.sign > 0 else base - refinement
        return out

    def zero_init_output(self) -> None:
        """Initialize the networks of the refinement so that s is unchanged; do nothing without the skip."""
        for module in self.part.modules() if self.skip else ():
            if isinstance(module, NetworkPart):
                zero_init_output(module.network)


class GradientConsistency(Part):
    """Take a gradient step, with η learned from 1.

    Images: x − η Aᴴ(A x − y). K-space: k − η F S Sᴴ Fᴴ M(k − y).
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain, self.needs_cartesian = domain, IN_KSPACE if domain == "kspace" else ""
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state after the step."""
        if self.domain == "image":
            return s - self.weight * p.gradient(s)
        return s - self.weight * p.encode(p.encode.adjoint(p.mask * (s - p.y)))


class SampleConsistency(Part):
    """Replace or mix the measured samples in k-space: k − η M(k − y), with η learned from 1, or fixed at 1.

    For images, k = F S x, and the result is Sᴴ Fᴴ k: x becomes Sᴴ S x − η Aᴴ(A x − y).
    """

    needs_cartesian = "soft and hard data consistency replace samples of a grid (dc=gradient and proximal do not)"

    def __init__(self, domain: Domain, learned: bool) -> None:
        super().__init__()
        self.domain = domain
        self.weight = nn.Parameter(torch.ones(1)) if learned else None

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state with the measured samples."""
        weight = 1.0 if self.weight is None else self.weight
        if self.domain == "image":
            return p.encode.normal(s) - weight * p.gradient(s)
        return s - weight * (p.mask * (s - p.y))


class ProximalConsistency(Part):
    """Solve argmin_z ‖A z − y‖² + μ‖z − x‖² by conjugate gradients, with μ > 0 learned.

    MoDL: Aggarwal, Mani, Jacob, IEEE TMI 38:394, 2019. For k-space, x = Sᴴ Fᴴ k, and the result is F S z.
    """

    def __init__(self, domain: Domain, iterations: int = 6, start: float = 0.05) -> None:
        super().__init__()
        self.domain, self.iterations = domain, iterations
        self.log_weight = nn.Parameter(torch.tensor([start]).log())

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the solution."""
        x = s if self.domain == "image" else p.encode.adjoint(s)
        mu = self.log_weight.exp()
        z = conjugate_gradient(lambda v: p.normal(v) + mu * v, p.adjoint + mu * x, x, self.iterations)
        return z if self.domain == "image" else p.encode(z)


def data_consistency(kind: DataConsistency, domain: Domain) -> Part | None:
    """Create a data consistency part with its own parameters; None for ``none``."""
    if kind == "none":
        return None
    if kind == "gradient":
        return GradientConsistency(domain)
    if kind == "proximal":
        return ProximalConsistency(domain)
    return SampleConsistency(domain, learned=kind == "soft")


def then(part: Part, last: Part | None) -> Part:
    """Chain a part with another one, if there is one."""
    return part if last is None else Chain(part, last)


def cascade(part: Part, kind: DataConsistency, domain: Domain, *, skip: bool = True, sign: int = -1) -> Part:
    """Create one cascade: a refinement and data consistency.

    Gradient and soft consistency act at the same state as the refinement, hard and proximal consistency after it.
    """
    consistency = data_consistency(kind, domain)
    if kind in ("hard", "proximal"):
        return Chain(Refine(part, skip=skip, sign=sign), cast("Part", consistency))
    return Refine(part, consistency=consistency, skip=skip, sign=sign)
