"""mrirecon: accelerated MRI reconstruction, y = M F S x + n.

The public names (`__all__`) are imported when they are first used, so that `import mrirecon` alone is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrirecon.evaluation.arrays import evaluate
    from mrirecon.io.readers.reader import read
    from mrirecon.masks.make import make_mask
    from mrirecon.methods.registry import build
    from mrirecon.methods.registry import methods as list_methods
    from mrirecon.models.checkpoints import load_model
    from mrirecon.physics.problem import Problem
    from mrirecon.reconstruction.arrays import espirit, reconstruct
    from mrirecon.reconstruction.preprocess.prepare import Preprocess
    from mrirecon.training.loop import train

__version__ = "0.1.0"
__all__ = [
    "Preprocess",
    "Problem",
    "__version__",
    "build",
    "espirit",
    "evaluate",
    "list_methods",
    "load_model",
    "make_mask",
    "read",
    "reconstruct",
    "train",
]
_HOMES = {  # paths below the package
    "Preprocess": "reconstruction.preprocess.prepare.Preprocess",
    "Problem": "physics.problem.Problem",
    "build": "methods.registry.build",
    "espirit": "reconstruction.arrays.espirit",
    "evaluate": "evaluation.arrays.evaluate",
    "list_methods": "methods.registry.methods",
    "load_model": "models.checkpoints.load_model",
    "make_mask": "masks.make.make_mask",
    "read": "io.readers.reader.read",
    "reconstruct": "reconstruction.arrays.reconstruct",
    "train": "training.loop.train",
}


def import_on_use(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for a package (PEP 562) that imports each of its public names when it is first used.

    Args:
        package: its name.
        homes: by public name, module and name below the package, such as ``"physics.problem.Problem"``.

    """

    def import_name(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].rpartition(".")
        value = getattr(import_module(f"{package}.{module}"), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return import_name


if not TYPE_CHECKING:  # otherwise a type checker would accept every name
    __getattr__ = import_on_use(__name__, _HOMES)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
