"""One file an algorithm: the equation in the docstring, the code under it."""

from mrirecon.steps.admm import Admm
from mrirecon.steps.conjugate_gradient import ConjugateGradient, conjugate_gradient
from mrirecon.steps.direct import CoilImages, ZeroFilled
from mrirecon.steps.fista import Fista
from mrirecon.steps.primal_dual import PrimalDual

__all__ = ["Admm", "CoilImages", "ConjugateGradient", "Fista", "PrimalDual", "ZeroFilled", "conjugate_gradient"]
