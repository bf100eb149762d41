"""Parts that cascades are made of: maps of an image or of k-space to the same, for one problem.

The residual skip, the sign of the network and data consistency are parts of their own, so that the question "implicit
or explicit?" (CIRIM, arXiv 2111.15498) can be asked of every method by configuration alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mrirecon.networks.crossing import apply_network, to_complex, to_real
from mrirecon.problem import Problem
from mrirecon.solvers import conjugate_gradient

Consistency = Literal["none", "gradient", "soft", "hard", "proximal"]
Domain = Literal["image", "kspace"]


class Part(nn.Module, ABC):
    """A map of a state, an image (B, M, y, x) or k-space (B, C, y, x), to the same."""

    @abstractmethod
    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the new state."""


class Net(Part):
    """A network on real channels, applied to each image or each coil."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the network's output as complex numbers."""
        return to_complex(apply_network(self.network, to_real(s, dtype=p.networks)), s.shape[1])


class Lift(Part):
    """F S part(Sᴴ Fᴴ k): an image part acting on k-space. What lies outside the range of F S is not seen by it."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return k-space of every coil."""
        return p.encode(self.part(p.encode.adjoint(s), p))


class Refine(Part):
    """s − part(s), with options: without the skip ``s``, with a plus, and data consistency at s in the same step.

    With soft consistency this is E2EVN's equation k − η M(k − y) − F S U(Sᴴ Fᴴ k) (Sriram et al., MICCAI 2020).
    """

    def __init__(self, part: Part, *, consistency: Part | None = None, skip: bool = True, plus: bool = False) -> None:
        super().__init__()
        self.part, self.consistency, self.skip, self.plus = part, consistency, skip, plus

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the refined state."""
        refinement = self.part(s, p)
        kept = s if self.consistency is None else self.consistency(s, p)
        if not self.skip:
            kept = kept - s
        out: Tensor = kept + refinement if self.plus else kept - refinement
        return out


class Chain(Part):
    """One part after the other."""

    def __init__(self, *parts: Part) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the last part's state."""
        for part in self.parts:
            s = part(s, p)
        return s


class Gradient(Part):
    """x − η Aᴴ(A x − y), with η learned from 1; of k-space, k − η F S Sᴴ Fᴴ M(k − y)."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain = domain
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, s: Tensor, p: Problem) -> Tensor:
        """Return the state after one gradient step."""
        if self.domain == "image":
            return s - self.weight * p.gradient(s)
        encode = p.encode
        return s - self.weight * encode(encode.adjoint(p.mask * (s - p.y)))


class Replace(Part):
    """k − η M(k − y): mix measured samples into k-space, or put them there (η = 1, not learned).

    Of an image, k = F S x, and the result is combined again. With several coils no image holds noisy samples exactly.
    """

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


class Proximal(Part):
    """argmin_z ‖A z − y‖² + μ‖z − x‖², with μ > 0 learned, by conjugate gradients.

    Aggarwal, Mani, Jacob, MoDL, IEEE TMI 38:394, 2019. Of k-space, x = Sᴴ Fᴴ k and the result is F S z.
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
    return Replace(domain, learned=kind == "soft")


def cascade(part: Part, kind: Consistency, domain: Domain, *, skip: bool = True, plus: bool = False) -> Part:
    """Return one cascade: refinement and consistency at the same state, or, where it has the last word, after it."""
    consistency = data_consistency(kind, domain)
    if kind in ("hard", "proximal"):
        return Chain(Refine(part, skip=skip, plus=plus), cast("Part", consistency))
    return Refine(part, consistency=consistency, skip=skip, plus=plus)
