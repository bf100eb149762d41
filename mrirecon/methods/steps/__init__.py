"""Define the steps that several methods share, one algorithm per file, with its equation in the docstring."""

from mrirecon.methods.steps.admm import Admm
from mrirecon.methods.steps.cascade import InImage, InKspace
from mrirecon.methods.steps.consistent import Consistent
from mrirecon.methods.steps.fista import Fista
from mrirecon.methods.steps.primal_dual import PrimalDual

__all__ = ["Admm", "Consistent", "Fista", "InImage", "InKspace", "PrimalDual"]
