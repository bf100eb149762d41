"""Parts of cascades: maps from an image to an image or from k-space to k-space, for one problem.

The residual skip, the sign of the network and data consistency are parts of their own, so that the question "implicit
or explicit?" (CIRIM, arXiv 2111.15498) can be asked of every method by configuration alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mrirecon.networks.crossing import apply_network, to_complex, to_real, zero_init_output
from mrirecon.physics.precision import RunsNetwork
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient

Consistency = Literal["none", "gradient", "soft", "hard", "proximal"]
Domain = Literal["image", "kspace"]
Sign = Literal[-1, 1]


class Part(nn.Module, ABC):
    """Map a state, an image (B, M, y, x) or k-space (B, C, y, x), to the next one.

    Attributes:
        needs_cartesian: see `mrirecon.engine.Step`.

    """

    needs_cartesian: bool = False

    @abstractmethod
    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the new state."""

    def zero_init_output(self) -> None:
        """Make the part leave its state as it is before training, where a network adds to the state."""


class Net(RunsNetwork, Part):
    """Apply a network on real channels to each image or each coil."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the network's output as complex numbers."""
        return to_complex(apply_network(self.network, to_real(s, dtype=self.network_dtype)), s.shape[1])

    def zero_init_output(self) -> None:
        """Let the network return zero."""
        zero_init_output(self.network)


class Lift(Part):
    """Apply an image part to k-space: F S part(Sᴴ Fᴴ k). It does not see what lies outside the range of F S."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return k-space of every coil."""
        return p.encode(self.part(p.encode.adjoint(s), p))

    def zero_init_output(self) -> None:
        """Let the image part begin as it should."""
        self.part.zero_init_output()


class Refine(Part):
    """Add a part to the state: s ± part(s), without the skip ``s`` as an option, and data consistency at s.

    With soft consistency and sign −1 this is E2EVN's equation k − η M(k − y) − F S U(Sᴴ Fᴴ k) (Sriram et al., MICCAI
    2020).
    """

    def __init__(self, part: Part, *, consistency: Part | None = None, skip: bool = True, sign: Sign = -1) -> None:
        super().__init__()
        self.part, self.consistency, self.skip, self.sign = part, consistency, skip, sign

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the refined state."""
        refinement = self.part(s, p)
        kept = s if self.consistency is None else self.consistency(s, p)
        if not self.skip:
            kept = kept - s
        out: Tensor = kept + refinement if self.sign > 0 else kept - refinement
        return out

    def zero_init_output(self) -> None:
        """Let the part add nothing, where it adds to the state."""
        if self.skip:
            self.part.zero_init_output()


class Chain(Part):
    """Apply one part after the other."""

    def __init__(self, *parts: Part) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the last part's state."""
        for part in self.parts:
            s = part(s, p)
        return s

    def zero_init_output(self) -> None:
        """Let each part begin as it should."""
        for part in self.parts:
            cast("Part", part).zero_init_output()


class Gradient(Part):
    """Take a gradient step: x − η Aᴴ(A x − y), with η learned from 1; for k-space, k − η F S Sᴴ Fᴴ M(k − y)."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain, self.needs_cartesian = domain, domain == "kspace"
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state after one gradient step."""
        if self.domain == "image":
            return s - self.weight * p.gradient(s)
        encode = p.encode
        return s - self.weight * encode(encode.adjoint(p.mask * (s - p.y)))


class SampleConsistency(Part):
    """Mix the measured samples into k-space: k − η M(k − y), with η learned, or 1 to replace the samples.

    For an image, k = F S x, and the coils are combined again. With several coils no image holds noisy samples exactly.
    """

    def __init__(self, domain: Domain, learned: bool) -> None:
        super().__init__()
        self.domain, self.needs_cartesian = domain, domain == "kspace"
        self.weight = nn.Parameter(torch.ones(1)) if learned else None

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state with the measured samples."""
        weight = 1.0 if self.weight is None else self.weight
        if self.domain == "image":
            return p.encode.normal(s) - weight * p.gradient(s)
        return s - weight * (p.mask * (s - p.y))


class Proximal(Part):
    """Solve argmin_z ‖A z − y‖² + μ‖z − x‖², with μ > 0 learned, by conjugate gradients.

    Aggarwal, Mani, Jacob, MoDL, IEEE TMI 38:394, 2019. For k-space, x = Sᴴ Fᴴ k and the result is F S z.
    """

    def __init__(self, domain: Domain, iterations: int = 6, start: float = 0.05) -> None:
        super().__init__()
        self.domain, self.iterations = domain, iterations
        self.log_weight = nn.Parameter(torch.tensor([start]).log())

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the proximal point."""
        x = s if self.domain == "image" else p.encode.adjoint(s)
        mu = self.log_weight.exp()
        z = conjugate_gradient(lambda v: p.normal(v) + mu * v, p.adjoint + mu * x, x, self.iterations)
        return z if self.domain == "image" else p.encode(z)


def data_consistency(kind: Consistency, domain: Domain) -> Part | None:
    """Return a new part of that kind, with parameters of its own; None for ``none``."""
    if kind == "none":
        return None
    if kind == "gradient":
        return Gradient(domain)
    if kind == "proximal":
        return Proximal(domain)
    return SampleConsistency(domain, learned=kind == "soft")


def then(part: Part, last: Part | None) -> Part:
    """Return a part followed by another one, if there is one."""
    return part if last is None else Chain(part, last)


def cascade(part: Part, kind: Consistency, domain: Domain, *, skip: bool = True, sign: Sign = -1) -> Part:
    """Return one cascade: refinement and consistency at the same state; hard and proximal consistency after it."""
    consistency = data_consistency(kind, domain)
    if kind in ("hard", "proximal"):
        return Chain(Refine(part, skip=skip, sign=sign), cast("Part", consistency))
    return Refine(part, consistency=consistency, skip=skip, sign=sign)
