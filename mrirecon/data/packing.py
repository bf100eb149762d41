"""Batches as they lie in a buffer or in a file: a third of their size, and the same wherever they lie.

Only the sampled part of k-space is kept; coil maps, which are smooth, are in half precision.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import mrirecon
from mrirecon.data.batch import Batch
from mrirecon.errors import InputError
from mrirecon.io import atomic_path
from mrirecon.physics.problem import Problem

Packed = dict[str, Tensor]
# What decides over the values of a sample.
_SOURCES = (
    *("data", "coils", "masks", "physics", "engine.py"),
    *("methods/steps", "methods/cs.py", "methods/regularization.py"),
)


def pack(batch: Batch) -> Packed:
    """Return a batch as named tensors."""
    p = batch.problem
    sampled = p.mask[:, 0] > 0
    parts: dict[str, Tensor | None] = {
        "mask": sampled,
        "y": p.y.movedim(1, -1)[sampled],
        "maps": torch.view_as_real(p.maps).half(),
        "initial_image": p.initial_image,
        "noise": p.noise,
        "target": batch.target,
        "full": batch.full,
        "held": batch.held,
        "lesions": batch.lesions,
    }
    told = json.dumps({"names": batch.names, "about": batch.about}).encode()
    packed = {k: v.contiguous() for k, v in parts.items() if v is not None}
    return packed | {"told": torch.frombuffer(bytearray(told), dtype=torch.uint8)}


def unpack(packed: Packed) -> Batch:
    """Return the batch, on the device where its parts lie.

    Raises:
        KeyError, RuntimeError, ValueError, InputError: the parts do not belong together.

    """
    told = json.loads(bytes(packed["told"].cpu().numpy().tobytes()))
    sampled = packed["mask"]
    y = packed["y"].new_zeros(*sampled.shape, packed["y"].shape[1])
    y[sampled] = packed["y"]
    maps = torch.view_as_complex(packed["maps"].float())
    mask = sampled[:, None].to(y.real.dtype)
    problem = Problem(y.movedim(-1, 1).contiguous(), mask, maps, packed.get("initial_image"), packed.get("noise"))
    target, full, held, lesions = (packed.get(name) for name in ("target", "full", "held", "lesions"))
    return Batch(problem, target, full, held, lesions, told["names"], told["about"])


def write_packed(path: Path, packed: Packed) -> None:
    """Write a batch, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save({k: v.cpu() for k, v in packed.items()}, temporary)


def read_packed(path: Path) -> Batch | None:
    """Return the batch of a file, or None where there is none, or what is there cannot be read."""
    try:
        return unpack(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError, InputError):
        return None


@cache
def simulator_version() -> str:
    """Return a name for the code that makes samples: what was kept by other code is not taken for its own."""
    package = Path(mrirecon.__file__).parent
    told = hashlib.sha256(f"{mrirecon.__version__} {torch.__version__}".encode())
    for name in _SOURCES:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            told.update(file.relative_to(package).as_posix().encode())
            told.update(file.read_bytes() if file.is_file() else b"")
    return told.hexdigest()[:16]
