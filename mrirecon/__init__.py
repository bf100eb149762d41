"""mrirecon: accelerated MRI reconstruction, y = M F S x + n.

The public names (`__all__`) are imported when they are first used, so that `import mrirecon` alone is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrirecon.coils.espirit import espirit
    from mrirecon.evaluation.one import evaluate
    from mrirecon.io.readers.reader import read
    from mrirecon.masks.make import make_mask
    from mrirecon.methods.registry import build
    from mrirecon.methods.registry import methods as list_methods
    from mrirecon.models.checkpoints import load_model
    from mrirecon.physics.problem import Problem
    from mrirecon.reconstruction.run import reconstruct
    from mrirecon.training.loop import train

__version__ = "0.1.0"
__all__ = [
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
_HOMES = {  # module and name there
    "Problem": ("physics.problem", "Problem"),
    "build": ("methods.registry", "build"),
    "espirit": ("coils.espirit", "espirit"),
    "evaluate": ("evaluation.one", "evaluate"),
    "list_methods": ("methods.registry", "methods"),
    "load_model": ("models.checkpoints", "load_model"),
    "make_mask": ("masks.make", "make_mask"),
    "read": ("io.readers.reader", "read"),
    "reconstruct": ("reconstruction.run", "reconstruct"),
    "train": ("training.loop", "train"),
}

if not TYPE_CHECKING:  # or a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a name of `__all__` from its module."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _HOMES[name]
        value = getattr(import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
