"""Steps that several methods share: one file an algorithm, its equation in the docstring."""

from mrirecon.steps.admm import Admm
from mrirecon.steps.cascade import InImage, InKspace
from mrirecon.steps.fista import Fista
from mrirecon.steps.primal_dual import PrimalDual

__all__ = ["Admm", "Fista", "InImage", "InKspace", "PrimalDual"]
