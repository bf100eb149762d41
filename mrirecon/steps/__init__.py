"""One file an algorithm: the equation in the docstring, the code under it."""

from mrirecon.steps.admm import Admm
from mrirecon.steps.cascade import InImage, InKspace
from mrirecon.steps.conjugate_gradient import ConjugateGradient
from mrirecon.steps.direct import CoilImages, MagnitudeNet, ZeroFilled
from mrirecon.steps.fista import Fista
from mrirecon.steps.invertible_rim import InvertibleRim
from mrirecon.steps.learned_primal_dual import Buffers, LearnedPrimalDual
from mrirecon.steps.primal_dual import PrimalDual
from mrirecon.steps.released_rim import FrozenRim, ReleasedRim
from mrirecon.steps.rim import Rim, RimState

__all__ = [
    "Admm",
    "Buffers",
    "CoilImages",
    "ConjugateGradient",
    "Fista",
    "FrozenRim",
    "InImage",
    "InKspace",
    "InvertibleRim",
    "LearnedPrimalDual",
    "MagnitudeNet",
    "PrimalDual",
    "ReleasedRim",
    "Rim",
    "RimState",
    "ZeroFilled",
]
